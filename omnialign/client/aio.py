"""The asynchronous client: all services at one address, or each at its own."""

from types import TracebackType
from typing import Self

from omnialign.client.alignment import AlignmentCalls
from omnialign.client.base import DEFAULT_DEADLINE_SECONDS
from omnialign.client.data import DataCalls
from omnialign.client.generation import GenerationCalls
from omnialign.client.training import TrainingCalls
from omnialign.client.transport import Transport


class AsyncClient(DataCalls, GenerationCalls, TrainingCalls, AlignmentCalls):
    """Calls the services at one address. Connects lazily; one client serves a process for its life.

    Every call raises `OmnialignError`. Unary calls have a deadline, 30 s unless `deadline_seconds` says otherwise, and
    those that may run twice are tried again while the service is unavailable. Make it inside a running event loop.
    """

    def __init__(
        self,
        address: str,
        *,
        project: str = "default",
        token: str | None = None,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
    ) -> None:
        super().__init__(Transport(address, token=token, deadline_seconds=deadline_seconds), project=project)

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
