"""What waits for the model, and which of it runs together.

The oldest request leads; those nearest to it in length join, of whichever RPC they came with, as far as rows and cache
memory allow. Sampling settings never keep requests apart: each row of a batch draws its own way. The requests of a
deterministic RPC form exactly one batch, in their order, with nobody else.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters.features import Shape, joint_shape
from omnialign.modeling.inputs import ModelInputs
from services.inference.transformers.loading import LoadedModel


@dataclass(frozen=True)
class Written:
    """The ids that a model wrote. `finish_reason` is a value of `omnialign.v1.FinishReason`."""

    ids: list[int]
    finish_reason: int
    seconds: float


Outcome = Written | OmnialignError


@dataclass(eq=False)
class Ticket:
    """A request on its way through the scheduler, which calls `deliver` once, on its own thread.

    `group` is the RPC of a deterministic request, None for others. `cancelled` is set by whoever lost interest. The
    features of its media leave `inputs` once the model has read them: then `read` is set, and it cannot begin again.
    """

    loaded: LoadedModel
    inputs: ModelInputs
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stops: Sequence[str]
    deliver: Callable[["Ticket", Outcome], None]
    group: object | None = None
    cancelled: bool = False
    read: bool = False
    queued_at: float = field(default_factory=time.monotonic)

    @property
    def ids(self) -> list[int]:
        """The prompt, every placeholder expanded."""
        return self.inputs.ids

    def forget_features(self) -> None:
        """Frees the features of media, which the model has read."""
        if self.inputs.features:
            self.inputs, self.read = replace(self.inputs, features=()), True

    @property
    def columns(self) -> int:
        """Columns of the cache that the request needs by itself."""
        return len(self.ids) + self.max_new_tokens


def cache_bytes(tickets: Sequence[Ticket]) -> int:
    """Most bytes of keys and values that these take as one batch: padded to the longest prompt, all at full length."""
    columns = max(len(ticket.ids) for ticket in tickets) + max(ticket.max_new_tokens for ticket in tickets)
    return len(tickets) * columns * tickets[0].loaded.cache_bytes_per_token


def choose(waiting: Sequence[Ticket], *, max_rows: int, max_bytes: int) -> list[Ticket]:
    """The next batch for the model of the oldest of `waiting`; empty if that one does not fit now.

    `waiting` is of one model, oldest first. `max_rows` does not bind the requests of a deterministic RPC.
    """
    oldest = waiting[0]
    if oldest.group is not None:
        batch = [ticket for ticket in waiting if ticket.group is oldest.group]
        return batch if cache_bytes(batch) <= max_bytes else []
    alike = [ticket for ticket in waiting if ticket.group is None and similar(len(ticket.ids), len(oldest.ids))]
    alike.sort(key=lambda ticket: abs(len(ticket.ids) - len(oldest.ids)))  # stable: older first
    alike = of_one_shape([oldest, *(ticket for ticket in alike if ticket is not oldest)])
    rows = min(len(alike), max_rows)
    while rows and cache_bytes(alike[:rows]) > max_bytes:
        rows -= 1
    return alike[:rows]


def similar(length: int, other: int) -> bool:
    """Whether two prompt lengths may share a batch without wasting most of it on padding."""
    return max(length, other) <= 2 * min(length, other) + 64


def of_one_shape(tickets: Sequence[Ticket]) -> list[Ticket]:
    """Those whose videos the model can take together with the first one's, in their order."""
    found: Shape | None = None
    kept = []
    for ticket in tickets:
        shape = joint_shape(ticket.inputs)
        if shape is None or found is None or shape == found:
            kept.append(ticket)
        found = found or shape
    return kept
