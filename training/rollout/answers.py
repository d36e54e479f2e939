"""The prompts of a step and the answers that the policy drew, with what they are worth."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from omnialign.v1 import content_pb2, record_pb2
from training.examples import Example


@dataclass(frozen=True)
class Prompt:
    """A prompt of the step: `row` is the number of its example."""

    row: int
    record: record_pb2.Record

    @classmethod
    def of(cls, row: int, example: Example) -> "Prompt":
        """The prompt of an example."""
        return cls(row, record_pb2.Record.FromString(example.record))


@dataclass(frozen=True)
class Answer:
    """An answer that the policy drew."""

    prompt: Prompt
    ids: Sequence[int]
    """Its tokens, the end token included if it wrote one."""
    log_probs: Sequence[float]
    """Of each token under the engine's weights, at the temperature of the draw."""
    content: content_pb2.Content | None
    """None for an answer that cannot be read, such as a picture that breaks off."""
    is_finished: bool
    """Whether it ended by itself and not at the limit of tokens."""
    step: int
    """Optimiser steps that the policy had learnt from when it wrote it."""


@dataclass(frozen=True)
class Rewarded:
    """What remains of an answer to learn from. Small, because it goes to every rank."""

    row: int
    ids: Sequence[int]
    log_probs: Sequence[float]
    reward: float
    step: int


@dataclass
class Rollout:
    """The answers of a step, those to one prompt side by side, and what was lost on the way."""

    groups: list[list[Rewarded]]
    """The answers by prompt."""
    num_prompts: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Answers without a number, by reason."""
    dropped_groups: int = 0
    """Prompts with too few answers left."""
    redrawn_groups: int = 0
    """Prompts that were drawn again because their rewards were all equal."""
    terms: dict[str, float] = field(default_factory=dict)
    """Mean of each term of the reward, before its weight."""

    @property
    def answers(self) -> list[Rewarded]:
        """All answers, in order."""
        return [answer for group in self.groups for answer in group]
