"""The synchronous client: `AsyncClient` on an event loop in a thread of its own.

Each method is the asynchronous one, bound by `_call` or `_iterate`, which keep its signature and its words.
"""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from omnialign.client.aio import AsyncClient
from omnialign.client.base import DEFAULT_DEADLINE_SECONDS
from omnialign.client.transport import Token

P = ParamSpec("P")
T = TypeVar("T")


class _Runner:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="omnialign-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; interrupting the wait (Ctrl-C) cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._loop.is_closed()

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


_END = object()


def _call(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[Client, P], T]":
    """A method of `Client` that runs one of `AsyncClient` to its end."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._runner.run(method(self._client, *args, **kwargs))

    return call


def _iterate(
    method: Callable[Concatenate[AsyncClient, P], AsyncIterator[T]],
) -> "Callable[Concatenate[Client, P], Iterator[T]]":
    """A method of `Client` that iterates over one of `AsyncClient`; leaving the loop early ends the call."""

    @functools.wraps(method)
    def iterate(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items: Any = method(self._client, *args, **kwargs)

        async def following() -> Any:
            return await anext(items, _END)

        try:
            while (item := self._runner.run(following())) is not _END:
                yield item
        finally:
            if not self._runner.closed:
                self._runner.run(items.aclose())

    return iterate


class Client:
    """Calls the services at one address and waits for the answers. Safe to share among threads.

    Made with the same arguments as `AsyncClient`.
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
        async def connect() -> AsyncClient:  # a channel belongs to the loop it is made in
            return AsyncClient(
                address,
                project=project,
                token=token,
                tls=tls,
                ca_file=ca_file,
                certificate_file=certificate_file,
                key_file=key_file,
                deadline_seconds=deadline_seconds,
            )

        self.project = project
        self._runner = _Runner()
        self._client = self._runner.run(connect())

    @property
    def parent(self) -> str:
        """`projects/{project}`: the parent of everything made here."""
        return self._client.parent

    def close(self) -> None:
        """Closes the connection and ends the thread."""
        if not self._runner.closed:
            self._runner.run(self._client.close())
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    create_dataset = _call(AsyncClient.create_dataset)
    get_dataset = _call(AsyncClient.get_dataset)
    list_datasets = _iterate(AsyncClient.list_datasets)
    delete_dataset = _call(AsyncClient.delete_dataset)
    append_records = _call(AsyncClient.append_records)
    commit_version = _call(AsyncClient.commit_version)
    get_dataset_version = _call(AsyncClient.get_dataset_version)
    list_dataset_versions = _iterate(AsyncClient.list_dataset_versions)
    stream_records = _iterate(AsyncClient.stream_records)
    stream_quarantine = _iterate(AsyncClient.stream_quarantine)
    upload_media = _call(AsyncClient.upload_media)
    get_media = _call(AsyncClient.get_media)
    create_media_upload = _call(AsyncClient.create_media_upload)
    complete_media_upload = _call(AsyncClient.complete_media_upload)
    create_media_download = _call(AsyncClient.create_media_download)
    upload_files = _call(AsyncClient.upload_files)
    upload_pieces = _call(AsyncClient.upload_pieces)
    download_model = _call(AsyncClient.download_model)
    download_model_settings = _call(AsyncClient.download_model_settings)
    import_dataset = _iterate(AsyncClient.import_dataset)
    register_model = _call(AsyncClient.register_model)
    get_model_version = _call(AsyncClient.get_model_version)
    list_model_versions = _iterate(AsyncClient.list_model_versions)
    add_lineage = _call(AsyncClient.add_lineage)
    get_lineage = _call(AsyncClient.get_lineage)

    generate = _iterate(AsyncClient.generate)
    refine = _iterate(AsyncClient.refine)
    critique = _iterate(AsyncClient.critique)
    score_responses = _iterate(AsyncClient.score_responses)
    compare_responses = _iterate(AsyncClient.compare_responses)

    create_training_job = _call(AsyncClient.create_training_job)
    get_training_job = _call(AsyncClient.get_training_job)
    list_training_jobs = _iterate(AsyncClient.list_training_jobs)
    cancel_training_job = _call(AsyncClient.cancel_training_job)
    watch_training_job = _iterate(AsyncClient.watch_training_job)
    report_progress = _call(AsyncClient.report_progress)
    deliver_model = _call(AsyncClient.deliver_model)

    create_alignment_job = _call(AsyncClient.create_alignment_job)
    get_alignment_job = _call(AsyncClient.get_alignment_job)
    list_alignment_jobs = _iterate(AsyncClient.list_alignment_jobs)
    pause_alignment_job = _call(AsyncClient.pause_alignment_job)
    resume_alignment_job = _call(AsyncClient.resume_alignment_job)
    cancel_alignment_job = _call(AsyncClient.cancel_alignment_job)
    watch_alignment_job = _iterate(AsyncClient.watch_alignment_job)
    get_alignment_report = _call(AsyncClient.get_alignment_report)
