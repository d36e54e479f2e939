"""One running batch: it reads its prompts (prefill), then writes one token per row and step (decode).

Rows are padded on the left, so that every row writes into the same column of the cache. A row that ends leaves at once:
its result is handed out and its place in the cache is filled. Nothing here depends on time or on other batches, so a
batch of the same requests in the same order always takes the same course.

Shapes: rows are the requests that still run, columns are positions in the cache, vocabulary is the number of logits.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from omnialign.modeling.position_ids import sequence_positions
from omnialign.v1 import generation_pb2
from services.inference import stop_strings
from services.inference.constrained_decoding import SpanConstraints, SpanState
from services.inference.transformers.admission import Completion, SequenceRequest
from services.inference.transformers.kv_cache import is_joinable, join_rows, keep_rows, new_cache, rows_without
from services.inference.transformers.position_ids import next_positions, step_positions
from services.inference.transformers.sampling import Sampler

NO_FEATURES: Mapping[str, torch.Tensor] = {}


@dataclass(eq=False)
class Row:
    """One request in a batch and what it has written so far."""

    request: SequenceRequest
    written: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    """Of the tokens written, if the request wants them."""
    span_state: SpanState = field(default_factory=SpanState)

    def write(self, token: int) -> None:
        """Advances by one token."""
        self.written.append(token)
        self.span_state.write(token, self.request.loaded.adapter.media_spans)

    def finish_reason(self) -> int:
        """Why the row ends with its last token; 0 if it goes on."""
        request, adapter = self.request, self.request.loaded.adapter
        if self.written[-1] in adapter.end_ids:
            return generation_pb2.FINISH_REASON_END
        if request.stops and stop_strings.is_met(adapter, self.written, request.stops):
            return generation_pb2.FINISH_REASON_STOP
        if len(self.written) >= request.max_new_tokens:
            return generation_pb2.FINISH_REASON_LENGTH
        return generation_pb2.FINISH_REASON_UNSPECIFIED

    def completion(self, reason: int, seconds: float) -> Completion:
        """What the row has written, once it has ended."""
        return Completion(self.written, reason, seconds, self.log_probs)


@dataclass(frozen=True)
class Prefill:
    """Prompts that were read together."""

    cache: Any
    logits: torch.Tensor
    """Of the first token of each answer, (rows, vocabulary)."""
    next_positions: torch.Tensor
    """Position of that token, (rows, 1 or axes)."""


class Batch:
    """Requests for one model that run together. Call `advance` until `done`."""

    def __init__(self, requests: Sequence[SequenceRequest], *, prefill_tokens: int, deterministic: bool) -> None:
        self.loaded = requests[0].loaded
        self.deterministic = deterministic
        self.started_at = time.monotonic()
        if not deterministic:  # neighbours of similar length need the least padding
            requests = sorted(requests, key=lambda request: len(request.ids))
        self.rows = [Row(request) for request in requests]
        self._pending_prefills = list(self._split_for_prefill(requests, prefill_tokens))
        self._prefills: list[Prefill] = []
        self._num_steps = 0

    @property
    def done(self) -> bool:
        """Whether every row has ended or was cancelled."""
        return not self.rows

    @torch.inference_mode()
    def advance(self) -> list[tuple[SequenceRequest, Completion]]:
        """Reads one portion of the prompts, or writes one token per row; returns the requests that ended."""
        if all(row.request.cancelled for row in self.rows):
            self.rows = []
            return []
        with determinism(self.deterministic):
            # 1. Prefill, a portion per call, so that other batches get their turn between two of them.
            if self._pending_prefills:
                self._prefills.append(self._prefill(self._pending_prefills.pop(0)))
                # 2. Join all portions into one cache once the last one is read.
                if not self._pending_prefills:
                    self._join()
                return []
            # 3. Decode one token per row.
            return self._step()

    def _split_for_prefill(
        self, requests: Sequence[SequenceRequest], prefill_tokens: int
    ) -> Iterator[Sequence[SequenceRequest]]:
        """Neighbours whose padded prompts have `prefill_tokens` together; all in one where caches cannot be joined."""
        if not is_joinable(self.loaded.module.config):
            yield requests
            return
        start, longest = 0, 0
        for end, request in enumerate(requests):
            longest = max(longest, len(request.ids))
            if end > start and (end + 1 - start) * longest > prefill_tokens:
                yield requests[start:end]
                start, longest = end, len(request.ids)
        yield requests[start:]

    def _prefill(self, requests: Sequence[SequenceRequest]) -> Prefill:
        """Reads some prompts with their media."""
        longest = max(len(request.ids) for request in requests)
        pad = self.loaded.adapter.pad_id
        ids = torch.tensor([[pad] * (longest - len(r.ids)) + r.ids for r in requests])  # (rows, columns)
        features = self._features(requests, ids)
        ids, mask = ids.to(self.loaded.device), self._mask([len(r.ids) for r in requests], longest)  # (rows, columns)
        cache = new_cache(self.loaded.module.config)
        positions = sequence_positions(self.loaded.module, ids, mask, features)  # ([axes,] rows, columns)
        logits = self._forward(cache, ids, mask, positions, features)
        return Prefill(cache, logits, next_positions(positions))

    def _features(self, requests: Sequence[SequenceRequest], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The features of all media of some prompts, in the model's own type."""
        loaded = self.loaded
        found = loaded.adapter.tensors([request.inputs for request in requests], ids)
        return {name: to_model(tensor, loaded.key.dtype, loaded.device) for name, tensor in found.items()}

    def _join(self) -> None:
        """Joins the prefills into one batch, and prepares to decode."""
        lengths = [len(row.request.ids) for row in self.rows]
        longest_answer = max(row.request.max_new_tokens for row in self.rows)
        self._cache = join_rows([prefill.cache for prefill in self._prefills], columns=max(lengths))
        self._logits = torch.cat([prefill.logits for prefill in self._prefills])  # (rows, vocabulary)
        self._next_positions = torch.cat([prefill.next_positions for prefill in self._prefills])  # (rows, 1 or axes)
        self._tokens = torch.zeros(len(self.rows), dtype=torch.int64, device=self.loaded.device)  # (rows,), last step's
        self._prefills = []
        for row in self.rows:
            row.request.free_features()
        # The attention mask of all steps is made once, (rows, prompt columns + answer columns): a row attends to its
        # prompt without the padding, and to all that it writes. Each step takes a slice that is one column wider.
        prompt_mask = self._mask(lengths, max(lengths))
        answer_mask = torch.ones_like(prompt_mask[:, :1]).expand(-1, longest_answer)
        self._attention = torch.cat((prompt_mask, answer_mask), dim=1)
        self._columns = max(lengths)
        self._sampler = Sampler.of(
            [(row.request.seed, row.request.temperature, row.request.top_p) for row in self.rows],
            device=self.loaded.device,
        )
        adapter = self.loaded.adapter
        self._constraints = SpanConstraints(
            adapter.media_spans,
            vocabulary_size=self._logits.shape[1],
            device=self.loaded.device,
            unwritable=adapter.unwritable_ids,
        )

    def _step(self) -> list[tuple[SequenceRequest, Completion]]:
        """Writes one token per row and drops the rows that end with it.

        The forward pass of a step comes first and not last: rows that end are handed out before anything is computed
        for the others, which might fail.
        """
        self._drop([i for i, row in enumerate(self.rows) if row.request.cancelled])
        if self._num_steps:  # the logits of the first token came from the prefill
            self._compute_logits()
        logits = self._constraints.apply(self._logits, [row.span_state for row in self.rows])
        steps = torch.full_like(self._next_positions[:, 0], self._num_steps, dtype=torch.int64)  # (rows,)
        tokens = self._forced(self._sampler.sample(logits, steps))  # (rows,)
        self._num_steps += 1
        self._note_log_probs(tokens)
        for row, token in zip(self.rows, tokens.tolist(), strict=True):  # the one synchronisation with a GPU per step
            row.write(token)
        ended = [(i, reason) for i, row in enumerate(self.rows) if (reason := row.finish_reason())]
        seconds = time.monotonic() - self.started_at
        results = [(self.rows[i].request, self.rows[i].completion(reason, seconds)) for i, reason in ended]
        self._tokens = tokens
        self._drop([i for i, _ in ended])
        for row in self.rows:
            if row.request.on_ids is not None:
                row.request.on_ids(list(row.written))
        return results

    def _forced(self, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens, (rows,), with those of rows whose tokens are given in their places."""
        given = {i: row.request.forced[self._num_steps] for i, row in enumerate(self.rows) if row.request.forced}
        if given:
            tokens = tokens.clone()
            tokens[self._tensor(list(given))] = self._tensor(list(given.values()))
        return tokens

    def _note_log_probs(self, tokens: torch.Tensor) -> None:
        """Notes the log-probability of each new token, (rows,), for the rows that want it."""
        wanted = [i for i, row in enumerate(self.rows) if row.request.wants_log_probs]
        if wanted:
            rows = self._tensor(wanted)
            found = self._sampler.keep(rows).log_probs(self._logits[rows], tokens[rows])
            for i, log_prob in zip(wanted, found.tolist(), strict=True):
                self.rows[i].log_probs.append(log_prob)

    def _compute_logits(self) -> None:
        """The logits of what follows the tokens just written."""
        self._columns += 1
        mask = self._attention[:, : self._columns]
        positions = step_positions(self._next_positions, self._num_steps - 1)
        self._logits = self._forward(self._cache, self._tokens[:, None], mask, positions)

    def _drop(self, ended: Sequence[int]) -> None:
        """Drops rows, in the cache and in everything else that has a row per request."""
        if not ended:
            return
        order = rows_without(len(self.rows), ended)
        kept = self._tensor(order)
        keep_rows(self._cache, order)
        self._logits, self._attention, self._next_positions, self._tokens = (
            tensor[kept] for tensor in (self._logits, self._attention, self._next_positions, self._tokens)
        )
        self._sampler = self._sampler.keep(kept)
        self.rows = [self.rows[i] for i in order]

    def _forward(
        self,
        cache: Any,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        features: Mapping[str, torch.Tensor] = NO_FEATURES,
    ) -> torch.Tensor:
        """Logits of the next token of each row, (rows, vocabulary), for `ids` of shape (rows, new columns)."""
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
        """Shape (rows, columns), 1 where a row of this length, padded on the left, has a token."""
        places = torch.arange(columns, device=self.loaded.device)[None]
        return (places >= columns - self._tensor(lengths)[:, None]).long()

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.loaded.device)


def to_model(tensor: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor on the model's device; features in its dtype, times and other single numbers as they are."""
    if tensor.is_floating_point() and tensor.ndim > 1:
        return tensor.to(device, dtype)
    return tensor.to(device)


_num_deterministic = 0
_deterministic_lock = threading.Lock()


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Selects deterministic kernels, where there are any, for the duration of the block.

    The switch belongs to the process and workers share it, so its users are counted: it stays on until the last leaves.
    """
    if not wanted:
        yield
        return
    _count_deterministic(1)
    try:
        yield
    finally:
        _count_deterministic(-1)


def _count_deterministic(change: int) -> None:
    global _num_deterministic
    with _deterministic_lock:
        _num_deterministic += change
        torch.use_deterministic_algorithms(_num_deterministic > 0, warn_only=True)
