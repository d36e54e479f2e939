"""One running batch: it reads its prompts, then writes one token per row and step.

Rows are padded on the left, so that every row writes in the same column of the cache. A row that ends leaves at once:
its result is handed out and its place in the cache is filled. Nothing here depends on time or on other batches, so a
batch of the same requests in the same order takes the same course.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from omnialign.v1 import generation_pb2
from services.inference.constrained_decoding import Place, SpanRules
from services.inference.stop_strings import stop_met
from services.inference.transformers.admission import Ticket, Written
from services.inference.transformers.kv_cache import is_joinable, join_rows, keep_rows, new_cache, rows_without
from services.inference.transformers.position_ids import next_positions, prompt_positions, step_positions
from services.inference.transformers.sampling import Draws

NO_FEATURES: Mapping[str, torch.Tensor] = {}


@dataclass(eq=False)
class Row:
    """One request in a batch and what it has written so far."""

    ticket: Ticket
    written: list[int] = field(default_factory=list)
    place: Place = field(default_factory=Place)

    def write(self, token: int) -> None:
        """Goes on by one token."""
        self.written.append(token)
        self.place.write(token, self.ticket.loaded.adapter.media_spans)

    def finish_reason(self) -> int:
        """Why the row ends after its last token; 0 if it goes on."""
        ticket, adapter = self.ticket, self.ticket.loaded.adapter
        if self.written[-1] in adapter.end_ids:
            return generation_pb2.FINISH_REASON_END
        if ticket.stops and stop_met(adapter, self.written, ticket.stops):
            return generation_pb2.FINISH_REASON_STOP
        if len(self.written) >= ticket.max_new_tokens:
            return generation_pb2.FINISH_REASON_LENGTH
        return generation_pb2.FINISH_REASON_UNSPECIFIED


@dataclass(frozen=True)
class Portion:
    """Prompts that were read together: their cache, the logits of what follows each, and where that stands."""

    cache: Any
    logits: torch.Tensor
    following: torch.Tensor


class Batch:
    """Requests of one model that run together. `advance` until `done`."""

    def __init__(self, tickets: Sequence[Ticket], *, prefill_tokens: int, deterministic: bool) -> None:
        self.loaded = tickets[0].loaded
        self.deterministic = deterministic
        self.started_at = time.monotonic()
        if not deterministic:
            tickets = sorted(tickets, key=lambda ticket: len(ticket.ids))
        self.rows = [Row(ticket) for ticket in tickets]
        self._unread = list(self._portions(tickets, prefill_tokens))
        self._read: list[Portion] = []
        self._steps = 0

    @property
    def done(self) -> bool:
        """Whether every row has ended or was cancelled."""
        return not self.rows

    @torch.inference_mode()
    def advance(self) -> list[tuple[Ticket, Written]]:
        """Reads one portion of the prompts, or writes one token per row; gives the rows that ended."""
        if all(row.ticket.cancelled for row in self.rows):
            self.rows = []
            return []
        with determinism(self.deterministic):
            if not self._unread:
                return self._step()
            self._read.append(self._prefill(self._unread.pop(0)))
            if not self._unread:
                self._join()
            return []

    def _portions(self, tickets: Sequence[Ticket], prefill_tokens: int) -> Iterator[Sequence[Ticket]]:
        """Neighbours whose padded prompts hold `prefill_tokens` together; everybody where caches cannot be joined."""
        if not is_joinable(self.loaded.module.config):
            yield tickets
            return
        start, longest = 0, 0
        for end, ticket in enumerate(tickets):
            longest = max(longest, len(ticket.ids))
            if end > start and (end + 1 - start) * longest > prefill_tokens:
                yield tickets[start:end]
                start, longest = end, len(ticket.ids)
        yield tickets[start:]

    def _prefill(self, tickets: Sequence[Ticket]) -> Portion:
        """Reads some prompts with their media."""
        longest = max(len(ticket.ids) for ticket in tickets)
        pad = self.loaded.adapter.pad_id
        ids = torch.tensor([[pad] * (longest - len(t.ids)) + t.ids for t in tickets])
        features = self._features(tickets, ids)
        ids, mask = ids.to(self.loaded.device), self._mask([len(t.ids) for t in tickets], longest)
        cache = new_cache(self.loaded.module.config)
        positions = prompt_positions(self.loaded.module, ids, mask, features)
        logits = self._forward(cache, ids, mask, positions, features)
        return Portion(cache, logits, next_positions(positions))

    def _features(self, tickets: Sequence[Ticket], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The features of all media of some prompts, numbers in the model's own type."""
        loaded = self.loaded
        found = loaded.adapter.tensors([ticket.inputs for ticket in tickets], ids)
        return {name: _moved(tensor, loaded.key.dtype, loaded.device) for name, tensor in found.items()}

    def _join(self) -> None:
        """Makes one batch of the portions read."""
        lengths = [len(row.ticket.ids) for row in self.rows]
        ahead = max(row.ticket.max_new_tokens for row in self.rows)
        self._cache = join_rows([portion.cache for portion in self._read], columns=max(lengths))
        self._logits = torch.cat([portion.logits for portion in self._read])
        self._following = torch.cat([portion.following for portion in self._read])
        self._tokens = torch.zeros(len(self.rows), dtype=torch.int64, device=self.loaded.device)  # of the last step
        self._read = []
        for row in self.rows:
            row.ticket.forget_features()
        prompt_mask = self._mask(lengths, max(lengths))
        self._attention = torch.cat((prompt_mask, torch.ones_like(prompt_mask[:, :1]).expand(-1, ahead)), dim=1)
        draws = [(row.ticket.seed, row.ticket.temperature, row.ticket.top_p) for row in self.rows]
        self._draws = Draws.of(draws, device=self.loaded.device)
        self._columns = max(lengths)
        spans, vocabulary = self.loaded.adapter.media_spans, self._logits.shape[1]
        self._rules = SpanRules(spans, vocabulary=vocabulary, device=self.loaded.device)

    def _step(self) -> list[tuple[Ticket, Written]]:
        """Reads the last tokens, writes one more per row and drops the rows that end with it.

        Rows that end are handed out before anything is computed for the others, which might fail.
        """
        self._drop([i for i, row in enumerate(self.rows) if row.ticket.cancelled])
        if self._steps:
            self._look_ahead()
        logits = self._rules.constrain(self._logits, [row.place for row in self.rows])
        tokens = self._draws.choose(logits, torch.full_like(self._following[:, 0], self._steps, dtype=torch.int64))
        self._steps += 1
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.write(token)
        ended = [(i, reason) for i, row in enumerate(self.rows) if (reason := row.finish_reason())]
        seconds = time.monotonic() - self.started_at
        results = [(self.rows[i].ticket, Written(self.rows[i].written, reason, seconds)) for i, reason in ended]
        self._tokens = tokens
        self._drop([i for i, _ in ended])
        return results

    def _look_ahead(self) -> None:
        """The logits of what follows the tokens just written."""
        self._columns += 1
        mask = self._attention[:, : self._columns]
        positions = step_positions(self._following, self._steps - 1)
        self._logits = self._forward(self._cache, self._tokens[:, None], mask, positions)

    def _drop(self, ended: Sequence[int]) -> None:
        """Drops rows."""
        if not ended:
            return
        order = rows_without(len(self.rows), ended)
        kept = self._tensor(order)
        keep_rows(self._cache, order)
        self._logits, self._attention, self._following, self._tokens = (
            tensor[kept] for tensor in (self._logits, self._attention, self._following, self._tokens)
        )
        self._draws = self._draws.keep(kept)
        self.rows = [self.rows[i] for i in order]

    def _forward(
        self,
        cache: Any,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        features: Mapping[str, torch.Tensor] = NO_FEATURES,
    ) -> torch.Tensor:
        """Logits of the next token of each row, shape (rows, tokens)."""
        output = self.loaded.module(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self.loaded.last_logits,
            **features,
        )
        return torch.as_tensor(output.logits[:, -1])

    def _mask(self, lengths: Sequence[int], columns: int) -> torch.Tensor:
        """1 where a row of this length, padded on the left, has a token."""
        places = torch.arange(columns, device=self.loaded.device)[None]
        return (places >= columns - self._tensor(lengths)[:, None]).long()

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.loaded.device)


def _moved(tensor: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor on the model's device; features in its dtype, times and other single numbers as they are."""
    if tensor.is_floating_point() and tensor.ndim > 1:
        return tensor.to(device, dtype)
    return tensor.to(device)


_deterministic = 0
_deterministic_lock = threading.Lock()


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Deterministic kernels where there are such, while this lasts. The switch is the process's: users are counted."""
    if not wanted:
        yield
        return
    _count_deterministic(1)
    try:
        yield
    finally:
        _count_deterministic(-1)


def _count_deterministic(change: int) -> None:
    global _deterministic
    with _deterministic_lock:
        _deterministic += change
        torch.use_deterministic_algorithms(_deterministic > 0, warn_only=True)
