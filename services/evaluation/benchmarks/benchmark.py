"""What a benchmark is: items, what is made of the answers to them, and how that is scored.

A score is an `Assessment` of the last response of a record. Everything after that is the same for all benchmarks: means
by category or subtask, intervals, comparisons, pages.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from omnialign.v1 import record_pb2
from services.evaluation.job import BenchmarkSpec, Part, Spec
from services.evaluation.works import group_of, judged_by
from services.pipeline.checking import AnswerChecker
from services.pipeline.item_calls import ItemCaller
from services.pipeline.kind import JobContext, Outcome, Record, Records

MAX_EXPONENT = 700.0


@dataclass(frozen=True)
class Subject:
    """What a score is of. Model, baseline and judge are numbers from 1 in the order of the spec; 0 for none."""

    model: int = 0
    judge: int = 0
    baseline: int = 0
    is_ablated: bool = False
    """Whether the prompts lacked a modality."""


class Benchmark(ABC):
    """A benchmark of any evaluation. Says what it needs with class attributes, and works with the pipeline's tools."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of its spec, among those that only some benchmarks have, that must be given."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Those that may be given."""
    is_answered: ClassVar[bool] = True
    """Whether the models under test answer its prompts."""
    tests_models: ClassVar[bool] = True
    """Whether it has models under test; else its judges are."""
    top: ClassVar[float] = 1.0
    """The best score."""
    main: ClassVar[str] = ""
    """The measure that sums it up; empty if all of them do."""
    has_parts: ClassVar[bool] = False
    """Whether its groups are abilities of their own, rather than kinds of items."""
    min_models: ClassVar[int] = 1
    judges_may_reward: ClassVar[bool] = False
    """Whether a judge may be a reward model."""
    judges_must_reward: ClassVar[bool] = False

    def __init__(self, caller: ItemCaller, checker: AnswerChecker) -> None:
        self._caller, self._checker = caller, checker

    @classmethod
    def problem(cls, item: Record) -> str:
        """Why an item cannot be used, as an UPPER_SNAKE code; empty if it can."""
        return ""

    @classmethod
    def media(cls, item: Record) -> str:
        """The media, by letter, that answers to an item are to have or may have; those in `iav` order."""
        return ""

    @classmethod
    def subjects(cls, plan: Spec, part: BenchmarkSpec) -> Sequence[Subject]:
        """What there will be scores of: each model, for each judge, with and without the modality that is removed."""
        judges = range(1, len(part.judges) + 1) if "judges" in cls.needs else (0,)
        return [
            Subject(model, judge, is_ablated=is_ablated)
            for is_ablated in ((False, True) if part.ablation else (False,))
            for model in range(1, len(plan.models) + 1)
            for judge in judges
        ]

    @classmethod
    def tasks(cls, plan: Spec, part: Part, records: Sequence[Record]) -> Iterator[Record]:
        """What is to be scored, from the answers; from the items, if no model answers them."""
        for record in records:
            if "judges" in cls.needs:
                yield from (judged_by(record, number) for number in range(1, len(part.spec.judges) + 1))
            else:
                yield record

    @classmethod
    def group(cls, item: Record) -> str:
        """What scores are averaged by, beside all items: the category of an item, or else its subtask."""
        return group_of(item)

    @classmethod
    def measure(cls, aspect: str) -> str:
        """The measure that an assessment of an aspect counts for."""
        return aspect

    @abstractmethod
    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """Adds assessments to the last response of each record. The records are of one subject."""


def assess(
    record: Record,
    aspect: str,
    score: float,
    *,
    abstain_reason: str = "",
    rationale: str = "",
    judge: str = "",
) -> record_pb2.Assessment:
    """Adds an assessment to the last response of a record, and returns it."""
    found: record_pb2.Assessment = record.responses[-1].assessments.add(
        aspect=aspect, score=score, abstain_reason=abstain_reason, rationale=rationale, judge=judge
    )
    return found


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), for any value."""
    return 1 / (1 + math.exp(min(-value, MAX_EXPONENT)))
