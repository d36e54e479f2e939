"""The gRPC server that every service runs: bind, health, reflection, interceptor, metrics, drain.

The life of a server: configuration, logging, wiring (`server.add`, `server.prepare`), bind, health NOT_SERVING, start,
preparation, SERVING; then on SIGTERM: NOT_SERVING, `drain_seconds` of grace for load balancers, watches ended, calls in
flight finished within `grace_seconds`, wiring closed. grpc.aio handles no signal by itself.
"""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from omnialign.client.channel import MAX_MESSAGE_BYTES
from omnialign.retry import wait_for_event
from services.runtime import logs
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.guard import BearerCheck, Guard
from services.runtime.config import ConfigError, ServerConfig, load_all
from services.runtime.connections import ClientConfig, ClientFactory, server_credentials
from services.runtime.health import Check, Health, Readiness, StartupStep
from services.runtime.interceptor import CallInterceptor
from services.runtime.limits import Places, Quotas
from services.runtime.metrics import RpcMetrics, make_registry
from services.runtime.requests import Validator
from services.runtime.tracing import TracingConfig, exported

_log = logging.getLogger(__name__)

C = TypeVar("C")

EXIT_CONFIG = 2

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second server on the port is a mistake and must fail, not share its calls
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients ping once a minute; the default of five would end their connections with too_many_pings.
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.max_connection_age_ms", 600_000),  # so that clients find new replicas
    ("grpc.max_connection_age_grace_ms", 2**31 - 1),  # streams of hours end by themselves
)


class Server:
    """One port with any number of services. Made inside a running event loop."""

    def __init__(
        self, config: ServerConfig, *, name: str, auth: AuthConfig | None = None, clients: ClientConfig | None = None
    ) -> None:
        """Without `auth` anyone may call anything; without `clients` connections to other services are plain."""
        self.config = config
        self.name = name
        self.auth = auth or AuthConfig()
        """Who may call; services make tokens of jobs with it."""
        self.clients = ClientFactory(clients)
        """Connections to other services."""
        self.quotas = Quotas(self.auth.quotas_file)
        """How much a project may have; the services that own things count them."""
        self.registry = make_registry(name)
        """Where services register their own metrics."""
        self.health = Health()
        self.readiness = Readiness(self.registry, ready=self._prepared, lost=self._lost)
        """What keeps services from serving."""
        self._guard = Guard(self.auth, registry=self.registry) if self.auth.enabled else None
        self._interceptor = CallInterceptor(
            metrics=RpcMetrics(self.registry),
            places=Places(config.max_concurrent_rpcs),
            first_message_seconds=config.first_message_seconds,
            validator=Validator(),
            readiness=self.readiness,
            guard=self._guard,
        )
        connections = ("grpc.max_allowed_incoming_connections", config.max_connections)
        self._server = grpc.aio.server(interceptors=(self._interceptor,), options=(*OPTIONS, connections))
        self._health_server = grpc.aio.server(options=OPTIONS) if config.health_port is not None else None
        self._metrics_server: Any = None
        self._names: list[str] = []
        self._port = 0
        self._health_port = 0
        self._stopped = False
        self._wanted: set[str] = set()

    @property
    def address(self) -> str:
        """`host:port` to reach the services at; known after `bind` or `start`."""
        return self._reachable(self._port)

    @property
    def health_address(self) -> str:
        """`host:port` of the server with health alone, or of the only one."""
        return self._reachable(self._health_port) if self._health_server else self.address

    @property
    def metrics_address(self) -> str:
        """`host:port` of the Prometheus endpoint; empty when there is none."""
        return self._reachable(self._metrics_server.server_port) if self._metrics_server else ""

    def add(self, register: Callable[[Any, grpc.aio.Server], None], servicer: object, full_name: str) -> None:
        """Adds a service before the start: the generated `add_..._to_server`, the servicer, the service's full name."""
        register(servicer, self._server)
        self._names.append(full_name)
        self.health.add(full_name)
        self.readiness.show(full_name)

    def add_generic(self, handler: grpc.GenericRpcHandler, name: str) -> None:
        """Adds a handler of calls that are not in the contract of this server, under a name for health checks."""
        self._server.add_generic_rpc_handlers((handler,))
        self._names.append(name)
        self.health.add(name)
        self.readiness.show(name)

    def require_bearer(self) -> None:
        """Refuses calls without a token, before the start; whether it is a valid one is left to the handlers."""
        self._interceptor.guard = self._interceptor.guard or BearerCheck()

    def prepare(self, full_name: str, step: StartupStep, *, check: Check | None = None) -> None:
        """Adds a startup step of a service, such as connecting; it is retried until it succeeds.

        `check` is called every few seconds from then on, and raises while what the step provided is missing.
        """
        self.readiness.add(full_name, step, check=check)

    def bind(self) -> str:
        """Takes the port, serves nothing yet, and returns the address. Raises RuntimeError when the port is taken."""
        if not self._port:
            address, files = f"{self.config.host}:{self.config.port}", self.config.tls
            if files is None:
                self._port = self._server.add_insecure_port(address)
            else:
                self._port = self._server.add_secure_port(address, server_credentials(files))
        return self.address

    async def start(self) -> None:
        """Binds, answers, and prepares; every service is NOT_SERVING until it is prepared and `set_serving` was called.

        Returns when each startup step was tried once; those that failed are retried in the background.
        """
        self.bind()
        # Every name is NOT_SERVING from here on. The stock servicer would say SERVING from its construction.
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        if self.config.reflection:
            health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
            reflection.enable_server_reflection((*self._names, health_name, reflection.SERVICE_NAME), self._server)
        if self.config.metrics_port is not None:
            self._metrics_server, _ = start_http_server(
                self.config.metrics_port, addr=self.config.host.strip("[]"), registry=self.registry
            )
        if self._health_server is not None:
            self._health_port = self._health_server.add_insecure_port(f"{self.config.host}:{self.config.health_port}")
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self._health_server)
            await self._health_server.start()
        await self._server.start()
        _log.info("%s listens on %s:%s", self.name, self.config.host, self._port)
        if self.auth.enabled and self.config.tls is None:
            _log.warning(
                "%s accepts tokens on a plain port, where anyone on the network can read them; configure TLS", self.name
            )
        await self.readiness.start()

    def set_serving(self, full_name: str | None = None) -> None:
        """Declares one service, or all, ready; one with startup steps left becomes ready after them."""
        names = self._names if full_name is None else [full_name]
        self._wanted.update(names)
        for name in names:
            if self.readiness.is_ready(name):
                self.health.set(name, serving=True)

    def set_not_serving(self, full_name: str | None = None) -> None:
        """Declares one service, or all, not ready."""
        self._wanted.difference_update(self._names if full_name is None else [full_name])
        self.health.set(full_name, serving=False)

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Takes no new calls, gives those in flight `grace_seconds` (the configured ones for None), and ends."""
        if self._stopped:
            return
        self._stopped = True
        # Health first, so that load balancers and clients look elsewhere while calls in flight finish.
        self.health.drain()
        await self.readiness.close()
        self._interceptor.end_watches()  # each of them alone would hold `stop` for the whole grace
        await self._server.stop(self.config.grace_seconds if grace_seconds is None else grace_seconds)
        if self._guard is not None:
            await self._guard.close()
        if self._health_server is not None:
            await self._health_server.stop(0)  # last: the kubelet must see NOT_SERVING, not a closed port
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.shutdown)
            self._metrics_server.server_close()

    async def serve_until_signal(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains and stops. A second signal ends the grace at once."""
        keep_start_up()
        loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        asked, hurried = asyncio.Event(), asyncio.Event()
        for number in signals:
            loop.add_signal_handler(number, lambda: (hurried if asked.is_set() else asked).set())
        try:
            await asked.wait()
            _log.info("%s drains", self.name)
            await self._drain(hurried)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def _drain(self, hurried: asyncio.Event) -> None:
        # Endpoints take a moment to propagate: new calls that still come in that time are answered, not refused.
        self.health.drain()
        if await wait_for_event(hurried, timeout_seconds=self.config.drain_seconds):
            await self.stop(0)
            return
        stopping = asyncio.create_task(self.stop())
        hurry = asyncio.create_task(hurried.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await self._server.stop(0)  # the smaller grace wins
        hurry.cancel()
        await stopping

    def _prepared(self, full_name: str) -> None:
        if full_name in self._wanted:
            self.health.set(full_name, serving=True)

    def _lost(self, full_name: str) -> None:
        self.health.set(full_name, serving=False)

    def _reachable(self, port: int) -> str:
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}.get(self.config.host, self.config.host)  # noqa: S104
        return f"{host}:{port}"


def keep_start_up() -> None:
    """Has the garbage collector leave alone what a process has made until now: modules, classes and wiring stay.

    To look through them again and again takes a tenth of a second each time, in which the process answers nobody.
    """
    gc.collect()
    gc.freeze()


def run(
    name: str,
    config_cls: type[C],
    wire: Callable[[Server, C], AbstractAsyncContextManager[None]],
    environ: Mapping[str, str] | None = None,
) -> None:
    """The main function of a service: reads the configuration and serves until SIGTERM or SIGINT.

    Exits with status 2 and the list of problems when the configuration is wrong.
    """
    try:
        server_config, auth, clients, traced, config = load_all(
            ServerConfig, AuthConfig, ClientConfig, TracingConfig, config_cls, environ=environ
        )
        logs.configure(server_config.log_level)
        with exported(name, traced):
            asyncio.run(_serve(lambda: Server(server_config, name=name, auth=auth, clients=clients), config, wire))
    except ConfigError as error:
        sys.stderr.write(f"{name}: {error}\n")
        raise SystemExit(EXIT_CONFIG) from None


async def _serve(
    make: Callable[[], Server], config: C, wire: Callable[[Server, C], AbstractAsyncContextManager[None]]
) -> None:
    server = make()
    async with wire(server, config):
        try:
            await server.start()
            server.set_serving()
            await server.serve_until_signal()
        finally:
            await server.stop(0)
