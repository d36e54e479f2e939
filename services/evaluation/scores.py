"""From assessed records to scores: who reached what on which part of a benchmark, with intervals and counts.

Pure: no files, no network. An item without a record among the scores has failed: it was quarantined on the way.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from omnialign.errors import FailedPrecondition
from omnialign.v1 import evaluation_service_pb2, record_pb2
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.benchmarks.benchmark import Subject
from services.evaluation.estimates import Estimate, estimate, only
from services.evaluation.job import Part, Spec, parts_of
from services.evaluation.samples import Counts, Sample
from services.evaluation.works import ABLATED, BASELINE, BENCHMARK, JUDGE, MODEL, is_ablated, item_of, number_of
from services.pipeline.kind import Record

Assessment = record_pb2.Assessment
BenchmarkScore = evaluation_service_pb2.BenchmarkScore
ALL = ""
"""The group of all items."""


@dataclass(frozen=True)
class Key:
    """What a score is of."""

    benchmark: str
    subject: Subject
    measure: str
    group: str


class Scoring:
    """The outcomes behind each score, taken in one by one, in any order.

    An item that was asked and of which no record is scored has failed, so items are counted, and not looked up.
    """

    def __init__(self, plan: Spec) -> None:
        self._plan, self._parts = plan, {part.id: part for part in parts_of(plan)}
        self._asked = {(part, ablated): Counter[str]() for part in self._parts for ablated in (False, True)}
        self._scored: dict[tuple[str, Subject], Counter[str]] = {}
        self._samples: dict[Key, Sample] = {}
        self._measures: dict[str, dict[str, None]] = {part: {} for part in self._parts}
        """What each benchmark measured, in the order in which records have it."""

    def add_item(self, part: Part, item: Record) -> None:
        """Counts an item of a benchmark."""
        group = BENCHMARKS[part.spec.name].group(item)
        self._asked[part.id, False][group] += 1
        if is_ablated(item, part):
            self._asked[part.id, True][group] += 1

    def add(self, record: Record) -> None:
        """Takes in a scored record."""
        part, subject = self._parts[record.labels[BENCHMARK]], subject_of(record)
        kind = BENCHMARKS[part.spec.name]
        group = kind.group(record)
        self._scored.setdefault((part.id, subject), Counter())[group] += 1
        found: dict[str, list[Assessment]] = {}
        for assessment in record.responses[-1].assessments:
            found.setdefault(kind.measure(assessment.aspect), []).append(assessment)
        for measure, assessments in found.items():
            self._measures[part.id].setdefault(measure)
            scores = [a.score for a in assessments if not a.abstain_reason]
            for name in {ALL, group}:
                sample = self._samples.setdefault(Key(part.id, subject, measure, name), Sample())
                sample.add(item_of(record), scores, abstained=len(assessments) - len(scores))

    def close(self) -> dict[Key, Sample]:
        """The outcomes by benchmark, subject, measure, and group of items."""
        found: dict[Key, Sample] = {}
        for part in self._parts.values():
            for subject in BENCHMARKS[part.spec.name].subjects(self._plan, part.spec):
                asked = self._asked[part.id, subject.is_ablated]
                failed = asked - self._scored.get((part.id, subject), Counter())
                for measure in self._measures[part.id]:
                    for group in dict.fromkeys((ALL, *asked)):
                        key = Key(part.id, subject, measure, group)
                        sample = found[key] = self._samples.get(key, Sample())
                        sample.failed = failed.total() if group == ALL else failed[group]
        return found


def scores_of(plan: Spec, samples: Mapping[Key, Sample]) -> Iterator[BenchmarkScore]:
    """The scores, in the order of the samples. Raises FailedPrecondition (`NOTHING_JUDGED`)."""
    for key, sample in samples.items():
        counts, score = sample.counts, score_named(plan, key)
        score.judged, score.abstained, score.failed = counts.judged, counts.abstained, counts.failed
        if counts == Counts():  # no item has what is measured, such as a modality to remove
            continue
        if key.group == ALL and not counts.judged:
            raise _nothing_judged(score)
        found = estimate({key.group: sample}, only, seed=plan.seed)
        set_estimate(score, found)
        yield score


def set_estimate(score: BenchmarkScore, found: Estimate) -> None:
    """Sets the value of a score and its interval, as far as they are known."""
    if found.value is not None:
        score.value = found.value
    if found.interval is not None:
        score.low, score.high = found.interval


def score_named(plan: Spec, key: Key) -> BenchmarkScore:
    """A score without a value."""
    subject, specs = key.subject, {part.id: part.spec for part in parts_of(plan)}
    spec = specs.get(key.benchmark)
    return BenchmarkScore(
        benchmark=key.benchmark,
        measure=key.measure,
        group=key.group,
        judge=spec.judges[subject.judge - 1].model if spec and subject.judge else "",
        model=plan.models[subject.model - 1] if subject.model else "",
        baseline=plan.models[subject.baseline - 1] if subject.baseline else "",
        ablation=spec.ablation if spec and subject.is_ablated else "",
    )


def subject_of(record: Record) -> Subject:
    """Whom the assessments of a record are about."""
    return Subject(
        model=number_of(record, MODEL),
        judge=number_of(record, JUDGE),
        baseline=number_of(record, BASELINE),
        is_ablated=ABLATED in record.labels,
    )


def _nothing_judged(score: BenchmarkScore) -> FailedPrecondition:
    who = f"the judge '{score.judge}'" if score.judge else "the benchmark"
    message = (
        f"{who} scored no item of {score.benchmark} for '{score.model or score.judge}': {score.abstained} abstained, "
        f"{score.failed} failed; look at its answers in the table of scores, or choose another judge"
    )
    metadata = {"benchmark": score.benchmark, "judge": score.judge, "model": score.model}
    return FailedPrecondition(message, reason="NOTHING_JUDGED", metadata=metadata)
