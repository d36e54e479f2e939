"""`checkers`: programs check the answers. An answer is correct if it has the highest score on each dimension."""

from omnialign import checkers
from services.evaluation.benchmarks.benchmark import Benchmark, assess
from services.evaluation.job import SCORE, Part
from services.pipeline.item_calls import extended
from services.pipeline.kind import JobContext, Outcome, Record, Records

CORRECT, SHARE = "correct", "share"


class Checkers(Benchmark):
    """Answers that programs can check, as in the evaluation of an alignment job."""

    name = "checkers"
    main = CORRECT
    needs = frozenset({"checkers"})
    takes = frozenset({"ablation"})

    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """Whether each answer is `correct`, and its `share` of the best score. An empty answer has none of it."""
        programs = checkers.load(part.spec.checkers)
        outcome = await self._checker.check(context, [extended(r) for r in records], programs, stage=SCORE)
        for record in outcome.records:
            _assess(record)
        return outcome


def _assess(record: Record) -> None:
    feedback = record.responses[-1].feedback
    assess(record, CORRECT, float(checkers.is_correct(feedback)), rationale=feedback.critique)
    assess(record, SHARE, checkers.share(feedback) or 0.0)
