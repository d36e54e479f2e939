"""Calls to the other services on behalf of jobs: their clients, and waiting for those that are away.

A job waits for a service that is away, and says so, instead of failing. `ServiceRetrier` is the one layer of retries
around the calls of a job; it repeats only what may succeed later. A request that can never succeed raises at once.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar

from omnialign import errors
from omnialign.client import AsyncClient
from omnialign.errors import OmnialignError
from omnialign.retry import RetryPolicy
from services.runtime.connections import ClientFactory

T = TypeVar("T")

TRANSIENT = (
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.ResourceExhausted,
    errors.Aborted,
    errors.Cancelled,
    # Our own token is being replaced, and the other service has not read the new token file yet.
    errors.Unauthenticated,
)
RETRYABLE = (OmnialignError, TimeoutError, ConnectionError)
"""What a caller catches and hands to `ServiceWait.after`, which decides."""

MAX_INTERNAL_ERRORS = 5
"""How often a service's internal error (INTERNAL, UNKNOWN) is retried: it may be a dying process, or a bug."""
MAX_UNSEEN_RACES = 3
"""How many races (ABORTED) a call may lose in a row before people are told. A service that loses one is not away."""

Announce = Callable[[str, str, str], Awaitable[None]]
"""Told (uid, service, problem) when a job begins to wait for a service; `problem` is empty when it answers again."""


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, (*TRANSIENT, TimeoutError, ConnectionError))


def _is_internal(error: BaseException) -> bool:
    """Whether the service failed through a fault of its own; now and then that is its death."""
    return isinstance(error, errors.Internal) or type(error) is OmnialignError


class ServiceRetrier:
    """Waits for services on behalf of all jobs of a process.

    Each job is told once that a service is away, and once that it is back.
    """

    def __init__(self, policy: RetryPolicy, *, announce: Announce) -> None:
        self.policy = policy
        self._announce = announce
        self._away: set[tuple[str, str]] = set()

    def wait(self, uid: str, service: str) -> "ServiceWait":
        """A wait of a job for a service, before its first attempt."""
        return ServiceWait(self, uid=uid, service=service)

    async def call(self, action: Callable[[], Awaitable[T]], *, uid: str, service: str) -> T:
        """The result of an idempotent action, repeated until it succeeds, fails for good, or the budget is spent."""
        wait = self.wait(uid, service)
        while True:
            try:
                result = await action()
            except RETRYABLE as error:
                await wait.after(error)
            else:
                await wait.progressed()
                return result

    def waiting_jobs(self, uids: Collection[str]) -> Counter[str]:
        """How many of these jobs wait for each service; all other jobs have ended and are forgotten."""
        self._away = {(uid, service) for uid, service in self._away if uid in uids}
        return Counter(service for _, service in self._away)

    async def began_waiting(self, uid: str, service: str, problem: str) -> None:
        """Announces, once, that a job waits."""
        if (uid, service) not in self._away:
            self._away.add((uid, service))
            await self._announce(uid, service, problem)

    async def stopped_waiting(self, uid: str, service: str) -> None:
        """Announces, once, that the wait is over."""
        if (uid, service) in self._away:
            self._away.discard((uid, service))
            await self._announce(uid, service, "")


class ServiceWait:
    """One wait for one service: pauses between attempts, and ends when the budget is spent."""

    def __init__(self, retrier: ServiceRetrier, *, uid: str, service: str) -> None:
        self._retrier, self._uid, self._service = retrier, uid, service
        self._retries = retrier.policy.start()
        self._num_internal_errors = self._num_races = 0

    async def after(self, error: Exception) -> None:
        """Pauses before the next attempt; raises if there must not be one."""
        # A bug fails fast, within a few attempts; a service that is away is waited for as long as the budget lasts.
        self._num_internal_errors += _is_internal(error)
        if not is_transient(error) and not (_is_internal(error) and self._num_internal_errors <= MAX_INTERNAL_ERRORS):
            raise error
        pause_seconds = self._retries.next_pause_seconds()
        if pause_seconds is None:
            raise self._given_up(error) from error
        self._num_races = self._num_races + 1 if isinstance(error, errors.Aborted) else 0
        if not 0 < self._num_races <= MAX_UNSEEN_RACES:
            await self._retrier.began_waiting(self._uid, self._service, str(error) or type(error).__name__)
        await asyncio.sleep(pause_seconds)

    async def progressed(self) -> None:
        """The service answered: the next failure begins a new wait, with the whole budget."""
        self._retries.reset()
        self._num_internal_errors = self._num_races = 0
        await self._retrier.stopped_waiting(self._uid, self._service)

    def _given_up(self, error: Exception) -> OmnialignError:
        seconds = self._retrier.policy.budget_seconds
        return errors.Unavailable(
            f"the {self._service} service did not answer for {seconds:.0f} seconds: {error}",
            reason="SERVICE_UNAVAILABLE",
            metadata={"service": self._service, "seconds": f"{seconds:.0f}"},
        )


class ServiceClients:
    """The services as one project sees them, an attribute each: `clients.data`, `clients.judge`, ...

    Which ones there are is up to the job kind's configuration (`PipelineConfig.service_addresses`).
    """

    def __init__(self, **clients: AsyncClient) -> None:
        self._clients = clients

    def __getattr__(self, service: str) -> AsyncClient:
        try:
            return self.__dict__["_clients"][service]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"no address is configured for the {service} service") from None


class ClientPool:
    """Opens and keeps the clients; closing the pool closes them. `addresses` are by service name."""

    def __init__(self, addresses: Mapping[str, str], factory: ClientFactory | None = None) -> None:
        self._addresses = addresses
        self._factory = factory or ClientFactory()
        self._clients: dict[tuple[str, str], AsyncClient] = {}
        self._stack = contextlib.AsyncExitStack()
        self._lock = asyncio.Lock()

    async def of(self, project: str) -> ServiceClients:
        """The services for a project id."""
        async with self._lock:  # else two that come at once would open a channel each
            found = {service: await self._client(address, project) for service, address in self._addresses.items()}
        return ServiceClients(**found)

    async def close(self) -> None:
        """Closes all channels."""
        await self._stack.aclose()
        self._clients.clear()

    async def _client(self, address: str, project: str) -> AsyncClient:
        key = (address, project)
        if key not in self._clients:
            client = self._factory.client(address, project=project)
            self._clients[key] = await self._stack.enter_async_context(client)
        return self._clients[key]
