"""The web server of the console: uvicorn, bound, started and drained as the gRPC servers of its siblings are.

On SIGTERM it says that it is not ready, goes on for `drain_seconds` so that load balancers notice, ends the streams of
events, whose browsers connect elsewhere, and finishes the rest within `grace_seconds`.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from prometheus_client import CollectorRegistry, start_http_server
from starlette.types import ASGIApp

from omnialign.errors import FailedPrecondition
from omnialign.retry import wait_for_event
from services.console.lifetime import Lifetime
from services.runtime.config import ServerConfig
from services.runtime.connections import ServerTls
from services.runtime.watched_file import file_version

_log = logging.getLogger(__name__)

BACKLOG = 1024
CERTIFICATE_CHECK_SECONDS = 10.0
MAX_HEADER_BYTES = 32 * 1024
KEEP_ALIVE_SECONDS = 30


class WebServer:
    """One port with an application. Made inside a running event loop."""

    def __init__(self, app: ASGIApp, config: ServerConfig, *, lifetime: Lifetime, or_any: bool = False) -> None:
        """Takes the port, or with `or_any` a free one if it is taken. Raises FailedPrecondition PORT_TAKEN."""
        self.config, self._lifetime = config, lifetime
        self._socket = _bound(config.host.strip("[]"), config.port, or_any=or_any)
        self._tls = _ReloadedTls(config.tls) if config.tls else None
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                http="h11",
                loop="none",
                proxy_headers=False,
                server_header=False,
                limit_concurrency=config.max_connections,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                ssl_context_factory=self._tls.made if self._tls else None,
                # Only its presence is read: it tells uvicorn that there is TLS.
                ssl_certfile=config.tls_certificate_file,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.config.host.strip("[]"), self.config.host)  # noqa: S104
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{'https' if self._tls else 'http'}://{shown}:{self._socket.getsockname()[1]}"

    async def start(self) -> None:
        """Answers from now on."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="console")
        begun = asyncio.create_task(self._server.begun.wait())
        await asyncio.wait({begun, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            begun.cancel()
            await self._serving
        self._lifetime.begin()

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Takes no new requests, gives those in flight `grace_seconds` (the configured ones for None), and ends."""
        self._lifetime.end()
        if self._serving is None:
            self._socket.close()
            return
        grace = self.config.grace_seconds if grace_seconds is None else grace_seconds
        self._server.config.timeout_graceful_shutdown = max(1, round(grace))
        self._server.should_exit = True
        await self._serving
        if self._tls:
            self._tls.close()

    async def serve_until_signal(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains and stops. A second signal ends the grace at once."""
        loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        asked, hurried = asyncio.Event(), asyncio.Event()
        for number in signals:
            loop.add_signal_handler(number, lambda: (hurried if asked.is_set() else asked).set())
        try:
            await asked.wait()
            _log.info("the console drains")
            self._lifetime.drain()
            is_hurried = await wait_for_event(hurried, timeout_seconds=self.config.drain_seconds)
            await self.stop(0 if is_hurried else None)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


class _Uvicorn(uvicorn.Server):
    """Uvicorn that leaves signals to whoever runs the process, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens."""
        await super().startup(sockets)
        self.begun.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]  # uvicorn types it as a generator
        """Captures none: signals are for the program around it."""
        yield


class _ReloadedTls:
    """A server's TLS, whose files are read again when they have changed."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls, self._context = tls, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._versions = self._look()
        self._load()
        self._watch = asyncio.create_task(self._follow(), name="certificates of the console")

    def made(self, *_: object) -> ssl.SSLContext:
        """The context; new certificates come into it."""
        return self._context

    def close(self) -> None:
        """Stops following the files."""
        self._watch.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_CHECK_SECONDS)
            try:
                if (found := self._look()) != self._versions and not self._tls.problem():
                    self._load()
                    self._versions = found
                    _log.info("the certificates were reloaded")
            except OSError as error:
                _log.error("the certificates cannot be read, so the previous ones stay in use: %s", error)

    def _load(self) -> None:
        self._context.load_cert_chain(self._tls.certificate_file, self._tls.key_file)

    def _look(self) -> list[tuple[int, int, int]]:
        return [file_version(file) for file in (self._tls.certificate_file, self._tls.key_file)]


@contextlib.contextmanager
def metrics_served(config: ServerConfig, registry: CollectorRegistry) -> Iterator[str]:
    """Serves the metrics on the port for them, while the block runs; gives its `host:port`, empty without one."""
    if config.metrics_port is None:
        yield ""
        return
    host = config.host.strip("[]")
    server, thread = start_http_server(config.metrics_port, addr=host, registry=registry)
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bound(host: str, port: int, *, or_any: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(BACKLOG)  # until then another process could bind it too
    except OSError as error:
        found.close()
        if or_any and port:
            return _bound(host, 0, or_any=False)
        raise FailedPrecondition(
            f"Port {port} is taken; choose another for the console, or 0 for a free one.",
            reason="PORT_TAKEN",
            metadata={"port": str(port)},
        ) from error
    return found
