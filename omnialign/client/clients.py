"""The asynchronous client: the calls of all services on one connection."""

import copy
from pathlib import Path
from types import TracebackType
from typing import Self

from omnialign.client.annotations import AnnotationCalls
from omnialign.client.asking import AskCalls
from omnialign.client.bulk_media import BulkMediaCalls
from omnialign.client.credentials import Tls, Token
from omnialign.client.datasets import DatasetCalls
from omnialign.client.downloads import DownloadCalls
from omnialign.client.drafts import DraftCalls
from omnialign.client.evaluations import EvaluationCalls
from omnialign.client.jobs import AlignmentCalls, TrainingCalls
from omnialign.client.media_uploads import MediaUploadCalls
from omnialign.client.operations import OperationCalls
from omnialign.client.policies import PolicyCalls
from omnialign.client.transport import Transport
from omnialign.client.uploads import UploadCalls

DEFAULT_DEADLINE_SECONDS = 30.0


class AsyncClient(
    DatasetCalls,
    BulkMediaCalls,
    OperationCalls,
    UploadCalls,
    DownloadCalls,
    MediaUploadCalls,
    AskCalls,
    PolicyCalls,
    TrainingCalls,
    AlignmentCalls,
    EvaluationCalls,
    AnnotationCalls,
    DraftCalls,
):
    """Calls all services at one address. Connects lazily, and is meant to live as long as the process.

    Every call raises `OmnialignError`. Unary calls have a deadline, 30 s unless `deadline_seconds` says otherwise.
    Calls that may safely run twice are retried while the service is unavailable. Create it inside a running event loop.

    `tls`, any of the files, or an address such as `grpcs://host:port` turns TLS on. `ca_file` holds the certificates to
    trust, by default the public authorities; `certificate_file` and `key_file` are the client's own certificate, for
    servers that require one. `token` may be a function that is called before each RPC, such as a `TokenFile`.

    Uploads, downloads, lists and imports wait up to a minute for a service that was there before and restarts, unless
    `waits_for_restarts` is false: for callers that have a patience of their own.
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
        waits_for_restarts: bool = True,
    ) -> None:
        config = Tls(ca_file, certificate_file, key_file)
        transport = Transport(
            address,
            token=token,
            deadline_seconds=deadline_seconds,
            tls=config if tls or config.files else None,
            waits_for_restarts=waits_for_restarts,
        )
        super().__init__(transport, project=project)

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._transport.close()
        self._close_media()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def with_token(client: AsyncClient, token: Token | None, *, project: str) -> AsyncClient:
    """A client with another token and project that shares the connection of `client`: it ends with that one.

    For servers that call on behalf of many people.
    """
    other = copy.copy(client)  # with its stubs, which belong to the connection and take long to make
    other._transport, other.project = client._transport.with_token(token), project
    return other
