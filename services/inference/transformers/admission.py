"""Admission: the requests that wait for a model, and which of them start together as the next batch.

The oldest request leads. Requests of similar length join it, whichever RPC they came with, as far as rows and cache
memory allow. Sampling settings never keep requests apart, because each row of a batch samples in its own way. The
requests of a deterministic RPC form exactly one batch, in their order, with nobody else.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters.features import Shape, joint_shape
from omnialign.modeling.inputs import ModelInputs
from services.inference.transformers.loading import LoadedModel


@dataclass(frozen=True)
class Completion:
    """The ids that a model wrote. `finish_reason` is a value of `omnialign.v1.FinishReason`."""

    ids: list[int]
    finish_reason: int
    seconds: float
    log_probs: Sequence[float] = ()
    """Of the ids, if the request wants them."""


Outcome = Completion | OmnialignError


@dataclass(eq=False)
class SequenceRequest:
    """One sequence to generate, on its way through the scheduler, which calls `deliver` once, on a worker thread."""

    loaded: LoadedModel
    inputs: ModelInputs
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stops: Sequence[str]
    deliver: Callable[["SequenceRequest", Outcome], None]
    on_ids: Callable[[list[int]], None] | None = None
    """Called on a worker thread after each step with the ids so far, while the answer goes on."""
    wants_log_probs: bool = False
    forced: Sequence[int] = ()
    """Ids to write instead of sampled ones, for their log-probabilities; `max_new_tokens` is their number."""
    group: object | None = None
    """Identifies the RPC of a deterministic request; None for all others."""
    cancelled: bool = False
    """Set by whoever has lost interest."""
    features_freed: bool = False
    """Whether the features of its media are gone, which leave `inputs` once the model has read them. From then on the
    request cannot start over."""
    queued_at: float = field(default_factory=time.monotonic)

    @property
    def ids(self) -> list[int]:
        """The prompt, with every placeholder expanded."""
        return self.inputs.ids

    def free_features(self) -> None:
        """Frees the features of media, which the model has read."""
        if self.inputs.features:
            self.inputs, self.features_freed = replace(self.inputs, features=()), True


def cache_bytes(requests: Sequence[SequenceRequest]) -> int:
    """Upper bound of the bytes of keys and values of these requests as one batch.

    All rows are padded to the longest prompt, and all may write the longest answer: rows x columns x bytes per token.
    """
    columns = max(len(request.ids) for request in requests) + max(request.max_new_tokens for request in requests)
    return len(requests) * columns * requests[0].loaded.cache_bytes_per_token


def choose_batch(waiting: Sequence[SequenceRequest], *, max_rows: int, max_bytes: int) -> list[SequenceRequest]:
    """The next batch for the model of the oldest request; empty if that one does not fit now.

    `waiting` are requests for one model, oldest first. `max_rows` does not bind the requests of a deterministic RPC.
    """
    # The oldest request is in every batch that is chosen, so that none starves, however unusual its length is.
    oldest = waiting[0]
    if oldest.group is not None:
        batch = [request for request in waiting if request.group is oldest.group]
        return batch if cache_bytes(batch) <= max_bytes else []
    similar = [r for r in waiting if r.group is None and have_similar_lengths(len(r.ids), len(oldest.ids))]
    similar.sort(key=lambda request: abs(len(request.ids) - len(oldest.ids)))  # stable: older first
    similar = with_compatible_videos([oldest, *(request for request in similar if request is not oldest)])
    rows = min(len(similar), max_rows)
    while rows and cache_bytes(similar[:rows]) > max_bytes:
        rows -= 1
    return similar[:rows]


def have_similar_lengths(length: int, other: int) -> bool:
    """Whether two prompt lengths may share a batch without wasting most of it on padding."""
    return max(length, other) <= 2 * min(length, other) + 64


def with_compatible_videos(requests: Sequence[SequenceRequest]) -> list[SequenceRequest]:
    """The requests whose videos the model can take in one batch with the first one's, in their order."""
    first: Shape | None = None
    kept = []
    for request in requests:
        shape = joint_shape(request.inputs)
        if shape is None or first is None or shape == first:
            kept.append(request)
        first = first or shape
    return kept
