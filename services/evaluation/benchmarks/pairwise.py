"""`pairwise`: judges compare the answers of two models, in both orders.

With a baseline, every other model is compared with it; without one, each two models are. An empty answer loses against
any other without the judge being asked; ties and abstentions are counted apart.
"""

from collections.abc import Iterator, Sequence

from omnialign.v1 import record_pb2
from services.evaluation.benchmarks.benchmark import Benchmark, Subject, assess
from services.evaluation.job import SCORE, BenchmarkSpec, Part, Spec
from services.evaluation.pairwise import POINTS
from services.evaluation.works import JUDGE, MODEL, item_of, judged_by, number_of, pair_of, seeds_of_items
from services.pipeline.kind import JobContext, Outcome, Record, Records
from services.pipeline.model_calls import Judge, comparison_call, settle_by_rule

WIN_RATE, WIN, TIE, LOSS = "win_rate", "win", "tie", "loss"
VERDICTS = {WIN: record_pb2.VERDICT_WIN, TIE: record_pb2.VERDICT_TIE, LOSS: record_pb2.VERDICT_LOSS}


class Pairwise(Benchmark):
    """Which of two models answers better."""

    name = "pairwise"
    main = WIN_RATE
    needs = frozenset({"judges"})
    takes = frozenset({"baseline"})
    min_models = 2

    @classmethod
    def subjects(cls, plan: Spec, part: BenchmarkSpec) -> Sequence[Subject]:
        """Each pair of models, for each judge."""
        return [
            Subject(model, judge, baseline)
            for judge in range(1, len(part.judges) + 1)
            for baseline, model in _pairs(plan, part)
        ]

    @classmethod
    def tasks(cls, plan: Spec, part: Part, records: Sequence[Record]) -> Iterator[Record]:
        """The answers of two models to one item, the baseline's first."""
        answers = {(item_of(record), number_of(record, MODEL)): record for record in records}
        for item in dict.fromkeys(map(item_of, records)):
            for baseline, model in _pairs(plan, part.spec):
                first, second = answers.get((item, baseline)), answers.get((item, model))
                if first is not None and second is not None:
                    pair = pair_of(first, second, part, baseline=baseline)
                    yield from (judged_by(pair, number) for number in range(1, len(part.spec.judges) + 1))

    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """The `win_rate`, with half a win for a tie, and whether it is a `win`, a `tie` or a `loss`."""
        judge = judge_of(part, records[0])
        call = comparison_call(
            stage=SCORE, judge=lambda context: judge, seed=seeds_of_items(SCORE), settle=settle_by_rule
        )
        outcome = await self._caller.run(context, records, call)
        for record in outcome.records:
            _assess(record, judge.model)
        return outcome


def judge_of(part: Part, record: Record) -> Judge:
    """The judge of a unit of work, and how it is asked."""
    spec = part.spec.judges[number_of(record, JUDGE) - 1]
    return Judge(spec.model, spec.sampling, spec.answer_form)


def _assess(record: Record, judge: str) -> None:
    comparison = record.comparison
    reason = (comparison.abstain_reason or "ABSTAINED") if comparison.verdict == record_pb2.VERDICT_ABSTAIN else ""
    words = "\n".join(filter(None, (comparison.forward_reason, comparison.backward_reason)))
    points = POINTS.get(comparison.verdict, 0.0)
    assess(record, WIN_RATE, points, abstain_reason=reason, rationale=words, judge=judge)
    for aspect, verdict in VERDICTS.items():
        assess(record, aspect, float(comparison.verdict == verdict), abstain_reason=reason, judge=judge)


def _pairs(plan: Spec, part: BenchmarkSpec) -> list[tuple[int, int]]:
    """(baseline, model), by number."""
    models = range(1, len(plan.models) + 1)
    if part.baseline:
        baseline = list(plan.models).index(part.baseline) + 1
        return [(baseline, model) for model in models if model != baseline]
    return [(baseline, model) for baseline in models for model in models if baseline < model]
