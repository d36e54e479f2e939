"""The synchronous client: it runs an asynchronous one on an event loop in a thread of its own."""

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from omnialign.client.asking import Answer, Assessment, Prompt
from omnialign.client.clients import DEFAULT_DEADLINE_SECONDS, AsyncClient
from omnialign.client.credentials import Token
from omnialign.client.loop_thread import LoopThread
from omnialign.v1.critique_service_pb2 import CritiqueRequest, CritiqueResponse
from omnialign.v1.refinement_service_pb2 import GenerateRequest, GenerateResponse

P = ParamSpec("P")
T = TypeVar("T")

_END = object()


def _call(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[Client, P], T]":
    """A method of `Client` that waits for one of `AsyncClient`, with its signature and docstring."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method(self._client, *args, **kwargs))

    return call


def _iterate(
    method: Callable[Concatenate[AsyncClient, P], AsyncIterator[T]],
) -> "Callable[Concatenate[Client, P], Iterator[T]]":
    """A method of `Client` that iterates over one of `AsyncClient`. Leaving the loop early ends the call."""

    @functools.wraps(method)
    def iterate(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items: Any = method(self._client, *args, **kwargs)

        # `anext` itself is not a coroutine, and a StopAsyncIteration cannot pass through a future.
        async def next_item() -> Any:
            return await anext(items, _END)

        try:
            while (item := self._thread.run(next_item())) is not _END:
                yield item
        finally:
            # Closing the generator cancels its call on the server. A closed client has cancelled it already.
            if not self._thread.closed:
                self._thread.run(items.aclose())

    return iterate


def _flatten(
    method: Callable[Concatenate[AsyncClient, P], AsyncIterator[T]],
    batches: Callable[..., AsyncGenerator[Iterable[T], None]],
) -> "Callable[Concatenate[Client, P], Iterator[T]]":
    """`_iterate` for many small items: `batches` gives them together, so that not each waits for another thread."""
    lists: Callable[..., Iterator[Iterable[T]]] = _iterate(batches)

    @functools.wraps(method)
    def iterate(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        for items in lists(self, *args, **kwargs):
            yield from items

    return iterate


class Client:
    """Calls all services at one address and waits for the answers. Threads may share it.

    Takes the same arguments as `AsyncClient`, and has the same methods.
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
        async def connect() -> AsyncClient:  # on the loop, because a channel belongs to the one it is created in
            return AsyncClient(
                address,
                project=project,
                token=token,
                tls=tls,
                ca_file=ca_file,
                certificate_file=certificate_file,
                key_file=key_file,
                deadline_seconds=deadline_seconds,
                waits_for_restarts=waits_for_restarts,
            )

        self.project = project
        self._thread = LoopThread()
        self._client = self._thread.run(connect())

    @property
    def parent(self) -> str:
        """`projects/{project}`, the parent of everything this client creates."""
        return self._client.parent

    def close(self) -> None:
        """Closes the connection and ends the thread."""
        if not self._thread.closed:
            self._thread.run(self._client.close())
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    create_dataset = _call(AsyncClient.create_dataset)
    get_dataset = _call(AsyncClient.get_dataset)
    list_datasets = _iterate(AsyncClient.list_datasets)
    update_dataset = _call(AsyncClient.update_dataset)
    delete_dataset = _call(AsyncClient.delete_dataset)
    append_records = _call(AsyncClient.append_records)
    commit_version = _call(AsyncClient.commit_version)
    get_dataset_version = _call(AsyncClient.get_dataset_version)
    delete_dataset_version = _call(AsyncClient.delete_dataset_version)
    list_dataset_versions = _iterate(AsyncClient.list_dataset_versions)
    stream_records = _iterate(AsyncClient.stream_records)
    stream_records_and_media = _flatten(AsyncClient.stream_records_and_media, AsyncClient._record_batches)
    list_records = _call(AsyncClient.list_records)
    stream_quarantine = _iterate(AsyncClient.stream_quarantine)
    upload_media = _call(AsyncClient.upload_media)
    upload_media_files = _iterate(AsyncClient.upload_media_files)
    get_media = _call(AsyncClient.get_media)
    stream_media = _iterate(AsyncClient.stream_media)
    fetch_media = _call(AsyncClient.fetch_media)
    read_media = _flatten(AsyncClient.read_media, AsyncClient._media_batches)
    find_media = _call(AsyncClient.find_media)
    create_media_upload = _call(AsyncClient.create_media_upload)
    complete_media_upload = _call(AsyncClient.complete_media_upload)
    create_media_download = _call(AsyncClient.create_media_download)
    upload_files = _call(AsyncClient.upload_files)
    upload_pieces = _call(AsyncClient.upload_pieces)
    download_model = _call(AsyncClient.download_model)
    download_model_settings = _call(AsyncClient.download_model_settings)
    import_dataset = _iterate(AsyncClient.import_dataset)
    derive_dataset = _iterate(AsyncClient.derive_dataset)
    compare_datasets = _iterate(AsyncClient.compare_datasets)
    get_dataset_statistics = _iterate(AsyncClient.get_dataset_statistics)
    export_dataset = _iterate(AsyncClient.export_dataset)
    download_export = _call(AsyncClient.download_export)
    collect_garbage = _iterate(AsyncClient.collect_garbage)
    register_model = _call(AsyncClient.register_model)
    get_model_version = _call(AsyncClient.get_model_version)
    list_model_versions = _iterate(AsyncClient.list_model_versions)
    delete_model_version = _call(AsyncClient.delete_model_version)
    add_lineage = _call(AsyncClient.add_lineage)
    get_lineage = _call(AsyncClient.get_lineage)
    begin_use = _call(AsyncClient.begin_use)
    end_use = _call(AsyncClient.end_use)

    @overload
    def generate(
        self, model: GenerateRequest, *, deadline_seconds: float | None = None
    ) -> Iterator[GenerateResponse]: ...

    @overload
    def generate(
        self,
        model: str,
        prompt: Prompt,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 0,
        seed: int = 0,
        return_tokens: bool = False,
        deadline_seconds: float | None = None,
    ) -> Answer: ...

    @overload
    def generate(
        self,
        model: str,
        prompt: Prompt,
        *,
        num_samples: int,
        temperature: float = 0.0,
        max_new_tokens: int = 0,
        seed: int = 0,
        return_tokens: bool = False,
        deadline_seconds: float | None = None,
    ) -> list[Answer]: ...

    @functools.wraps(AsyncClient.generate)
    def generate(self, model: str | GenerateRequest, *args: Any, **options: Any) -> Any:
        """As `AsyncClient.generate`."""
        if not isinstance(model, str):
            return self.generate_items(model, *args, **options)
        ask: Callable[..., Any] = self.generate_answers if "num_samples" in options else self.generate_answer
        return ask(model, *args, **options)

    @overload
    def critique(
        self, model: CritiqueRequest, *, deadline_seconds: float | None = None
    ) -> Iterator[CritiqueResponse]: ...

    @overload
    def critique(
        self,
        model: str,
        prompt: Prompt,
        response: Prompt,
        *,
        rubric: Sequence[str] = (),
        subtask: str = "",
        deadline_seconds: float | None = None,
    ) -> Assessment: ...

    @functools.wraps(AsyncClient.critique)
    def critique(self, model: str | CritiqueRequest, *args: Any, **options: Any) -> Any:
        """As `AsyncClient.critique`."""
        ask: Callable[..., Any] = self.critique_response if isinstance(model, str) else self.critique_items
        return ask(model, *args, **options)

    generate_answer = _call(AsyncClient.generate_answer)
    generate_answers = _call(AsyncClient.generate_answers)
    critique_response = _call(AsyncClient.critique_response)
    score = _call(AsyncClient.score)
    compare = _call(AsyncClient.compare)
    reward = _call(AsyncClient.reward)
    find_model = _call(AsyncClient.find_model)
    to_content = _call(AsyncClient.to_content)

    generate_items = _iterate(AsyncClient.generate_items)
    refine = _iterate(AsyncClient.refine)
    critique_items = _iterate(AsyncClient.critique_items)
    score_responses = _iterate(AsyncClient.score_responses)
    compare_responses = _iterate(AsyncClient.compare_responses)
    compute_rewards = _iterate(AsyncClient.compute_rewards)
    score_understanding = _iterate(AsyncClient.score_understanding)
    score_generation = _iterate(AsyncClient.score_generation)
    answer_questions = _iterate(AsyncClient.answer_questions)

    open_policy = _call(AsyncClient.open_policy)
    update_policy = _call(AsyncClient.update_policy)
    get_policy = _call(AsyncClient.get_policy)
    close_policy = _call(AsyncClient.close_policy)
    send_weights = _call(AsyncClient.send_weights)

    create_training_job = _call(AsyncClient.create_training_job)
    get_training_job = _call(AsyncClient.get_training_job)
    list_training_jobs = _iterate(AsyncClient.list_training_jobs)
    cancel_training_job = _call(AsyncClient.cancel_training_job)
    watch_training_job = _iterate(AsyncClient.watch_training_job)
    training_log = _iterate(AsyncClient.training_log)
    report_progress = _call(AsyncClient.report_progress)
    deliver_model = _call(AsyncClient.deliver_model)

    create_alignment_job = _call(AsyncClient.create_alignment_job)
    get_alignment_job = _call(AsyncClient.get_alignment_job)
    list_alignment_jobs = _iterate(AsyncClient.list_alignment_jobs)
    pause_alignment_job = _call(AsyncClient.pause_alignment_job)
    resume_alignment_job = _call(AsyncClient.resume_alignment_job)
    cancel_alignment_job = _call(AsyncClient.cancel_alignment_job)
    delete_alignment_job = _call(AsyncClient.delete_alignment_job)
    watch_alignment_job = _iterate(AsyncClient.watch_alignment_job)
    get_alignment_report = _call(AsyncClient.get_alignment_report)
    list_pair_reviews = _iterate(AsyncClient.list_pair_reviews)
    review_pair = _call(AsyncClient.review_pair)

    create_evaluation = _call(AsyncClient.create_evaluation)
    get_evaluation = _call(AsyncClient.get_evaluation)
    list_evaluations = _iterate(AsyncClient.list_evaluations)
    pause_evaluation = _call(AsyncClient.pause_evaluation)
    resume_evaluation = _call(AsyncClient.resume_evaluation)
    cancel_evaluation = _call(AsyncClient.cancel_evaluation)
    delete_evaluation = _call(AsyncClient.delete_evaluation)
    watch_evaluation = _iterate(AsyncClient.watch_evaluation)
    get_evaluation_report = _call(AsyncClient.get_evaluation_report)
    compare_evaluations = _call(AsyncClient.compare_evaluations)
    get_comparison_report = _call(AsyncClient.get_comparison_report)

    create_campaign = _call(AsyncClient.create_campaign)
    get_campaign = _call(AsyncClient.get_campaign)
    list_campaigns = _iterate(AsyncClient.list_campaigns)
    update_campaign = _call(AsyncClient.update_campaign)
    close_campaign = _call(AsyncClient.close_campaign)
    reopen_campaign = _call(AsyncClient.reopen_campaign)
    delete_campaign = _call(AsyncClient.delete_campaign)
    lease_task = _call(AsyncClient.lease_task)
    save_draft = _call(AsyncClient.save_draft)
    submit_task = _call(AsyncClient.submit_task)
    import_annotations = _call(AsyncClient.import_annotations)
    skip_task = _call(AsyncClient.skip_task)
    flag_task = _call(AsyncClient.flag_task)
    list_items = _iterate(AsyncClient.list_items)
    get_item = _call(AsyncClient.get_item)
    adjudicate_item = _call(AsyncClient.adjudicate_item)
    get_agreement = _call(AsyncClient.get_agreement)
    get_model_agreement = _call(AsyncClient.get_model_agreement)
    commit_campaign = _call(AsyncClient.commit_campaign)

    create_draft_job = _call(AsyncClient.create_draft_job)
    get_draft_job = _call(AsyncClient.get_draft_job)
    list_draft_jobs = _iterate(AsyncClient.list_draft_jobs)
    pause_draft_job = _call(AsyncClient.pause_draft_job)
    resume_draft_job = _call(AsyncClient.resume_draft_job)
    cancel_draft_job = _call(AsyncClient.cancel_draft_job)
    delete_draft_job = _call(AsyncClient.delete_draft_job)
    watch_draft_job = _iterate(AsyncClient.watch_draft_job)
