"""The asynchronous client: all services at one address, or each at its own."""

from pathlib import Path
from types import TracebackType
from typing import Self

from omnialign.client.alignment import AlignmentCalls
from omnialign.client.base import DEFAULT_DEADLINE_SECONDS
from omnialign.client.channel import Tls
from omnialign.client.data import DataCalls
from omnialign.client.files import FileCalls
from omnialign.client.generation import GenerationCalls
from omnialign.client.training import TrainingCalls
from omnialign.client.transport import Token, Transport


class AsyncClient(DataCalls, FileCalls, GenerationCalls, TrainingCalls, AlignmentCalls):
    """Calls the services at one address. Connects lazily; one client serves a process for its life.

    Every call raises `OmnialignError`. Unary calls have a deadline, 30 s unless `deadline_seconds` says otherwise, and
    those that may run twice are tried again while the service is unavailable. Make it inside a running event loop.

    `tls`, any of the files, or an address such as `grpcs://host:port` asks for TLS: `ca_file` holds the certificates to
    trust (without it, the public authorities), the other two the client's own certificate, for servers that want one.
    `token` may be a function, which is asked before each call; `omnialign.client.TokenFile` is one.
    """

    def __init__(
        self,
        address: str,
        *,
        project: str = "default",
        token: Token | None = None,
        tls: bool = False,
        ca_file: Path | None = None,
        certificate_file: Path | None = None,
        key_file: Path | None = None,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
    ) -> None:
        how = Tls(ca_file, certificate_file, key_file)
        transport = Transport(
            address, token=token, deadline_seconds=deadline_seconds, tls=how if tls or how.files else None
        )
        super().__init__(transport, project=project)

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
