"""From assessed records to scores: who reached what on which part of a benchmark, with intervals and counts.

Pure: no files, no network. An item without a record among the scores has failed: it was quarantined on the way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from omnialign.errors import FailedPrecondition
from omnialign.v1 import evaluation_service_pb2
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.benchmarks.benchmark import Subject
from services.evaluation.estimates import Estimate, estimate, only
from services.evaluation.job import Part, Spec, parts_of
from services.evaluation.samples import Counts, Outcome, Sample
from services.evaluation.works import ABLATED, BASELINE, BENCHMARK, JUDGE, MODEL, has_modality, item_of, number_of
from services.pipeline.kind import Record, Records

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


def samples_of(plan: Spec, records: Iterable[Record], items: Mapping[str, Records]) -> dict[Key, Sample]:
    """The outcomes behind each score: by benchmark, subject, measure, and group of items.

    `items` are those of each benchmark, by its id.
    """
    scored: dict[tuple[str, Subject], list[Record]] = {}
    for record in records:
        scored.setdefault((record.labels[BENCHMARK], subject_of(record)), []).append(record)
    found: dict[Key, Sample] = {}
    for part in parts_of(plan):
        measures = _measures(part, scored)
        for subject in BENCHMARKS[part.spec.name].subjects(plan, part.spec):
            by_item = {item_of(record): record for record in scored.get((part.id, subject), [])}
            asked = [i for i in items[part.id] if not subject.is_ablated or has_modality(i, part.spec.ablation)]
            for measure in measures:
                groups = _groups(part, asked, by_item, measure=measure)
                found |= {Key(part.id, subject, measure, name): Sample(group) for name, group in groups.items()}
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


def _measures(part: Part, scored: Mapping[tuple[str, Subject], Sequence[Record]]) -> list[str]:
    """What the benchmark measured, in the order in which records have it."""
    kind = BENCHMARKS[part.spec.name]
    records = (record for (benchmark, _), group in scored.items() if benchmark == part.id for record in group)
    return list(dict.fromkeys(kind.measure(a.aspect) for record in records for a in record.responses[-1].assessments))


def _groups(part: Part, items: Records, scored: Mapping[str, Record], *, measure: str) -> dict[str, list[Outcome]]:
    """The outcomes of all items, and of those of each group."""
    kind = BENCHMARKS[part.spec.name]
    groups: dict[str, list[Outcome]] = {ALL: []}
    for item in items:
        if (record := scored.get(item.id)) is None:
            outcomes = [Outcome(item.id, failed=True)]
        else:
            assessments = [a for a in record.responses[-1].assessments if kind.measure(a.aspect) == measure]
            outcomes = [Outcome(item.id, None if a.abstain_reason else a.score) for a in assessments]
        groups[ALL] += outcomes
        if group := kind.group(item):
            groups.setdefault(group, []).extend(outcomes)
    return groups


def _nothing_judged(score: BenchmarkScore) -> FailedPrecondition:
    who = f"the judge '{score.judge}'" if score.judge else "the benchmark"
    message = (
        f"{who} scored no item of {score.benchmark} for '{score.model or score.judge}': {score.abstained} abstained, "
        f"{score.failed} failed; look at its answers in the table of scores, or choose another judge"
    )
    metadata = {"benchmark": score.benchmark, "judge": score.judge, "model": score.model}
    return FailedPrecondition(message, reason="NOTHING_JUDGED", metadata=metadata)
