"""Well-formed media under vLLM: the span rules as a logits processor, which runs in vLLM's worker process.

vLLM imports this module there by its name and hands over its configuration, in which the engine has put the model's
spans as plain lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor

from services.inference.constrained_decoding import Place, SpanRules, read_spans


@dataclass
class Row:
    """A request in vLLM's batch: the ids it has written, which vLLM extends in place, and where they lead."""

    written: Sequence[int]
    place: Place = field(default_factory=Place)


class SpanProcessor(LogitsProcessor):
    """Lets every row write only what its place in a media span permits."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        spans = read_spans(vllm_config.additional_config)
        self._rules = SpanRules(spans, vocabulary=vllm_config.model_config.get_vocab_size(), device=device)
        self._rows: dict[int, Row] = {}

    def is_argmax_invariant(self) -> bool:
        """Greedy choices are bound by the rules as well."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows requests into, out of and about the batch."""
        process_dict_updates(self._rows, batch_update, lambda params, prompt, written: Row(written))

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of shape (rows, tokens), with what a row may not write at minus infinity."""
        rows: list[Any] = [self._rows[index] for index in range(len(logits))]
        for row in rows:
            row.place.follow(row.written, self._rules.spans)
        return self._rules.constrain(logits, [row.place for row in rows])
