"""Constrained decoding of media under vLLM, as a logits processor in vLLM's worker process.

vLLM imports this module there by its name (`services.inference.vllm.process.LOGITS_PROCESSOR`) and passes its
configuration, in which the engine has put the model's media spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor

from services.inference.constrained_decoding import SpanConstraints, SpanState, spans_from_config


@dataclass
class Row:
    """A request in vLLM's batch: the ids that it has written, a list that vLLM extends in place, and its span state."""

    written: Sequence[int]
    state: SpanState = field(default_factory=SpanState)


class SpanProcessor(LogitsProcessor):
    """Lets every row write only what its state in a media span permits."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        spans = spans_from_config(vllm_config.additional_config)
        vocabulary_size = vllm_config.model_config.get_vocab_size()
        self._constraints = SpanConstraints(spans, vocabulary_size=vocabulary_size, device=device)
        self._rows: dict[int, Row] = {}

    def is_argmax_invariant(self) -> bool:
        """False: the constraints bind greedy decoding as well."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows requests that enter, leave and move within the batch."""
        process_dict_updates(self._rows, batch_update, lambda params, prompt, written: Row(written))

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of shape (rows, vocabulary), minus infinity where a row may not write a token."""
        rows: list[Any] = [self._rows[index] for index in range(len(logits))]
        for row in rows:
            row.state.catch_up(row.written, self._constraints.spans)
        return self._constraints.apply(logits, [row.state for row in rows])
