"""`amu`: all-modality understanding. Judges rate answers from 1 to 10 against the answers that people gave.

The score of a model is the mean of its four categories, each weighed alike (`composites.amu`). An empty answer is rated
1 without the judge being asked. Source: arXiv 2412.15838, section 4.1.
"""

from collections.abc import Sequence

from omnialign.modeling.benchmark_items import CATEGORIES
from omnialign.v1 import judge_service_pb2
from services.evaluation.benchmarks.benchmark import Benchmark, assess
from services.evaluation.benchmarks.pairwise import judge_of
from services.evaluation.benchmarks.ratings import EMPTY, HIGHEST, LOWEST, rating_call
from services.evaluation.job import SCORE, Part
from services.evaluation.works import seeds_of_items
from services.pipeline.kind import JobContext, Outcome, Record, Records
from services.pipeline.model_calls import is_empty

UNDERSTANDING = "understanding"


class Understanding(Benchmark):
    """Questions about media, whose answers people gave."""

    name = "amu"
    main = UNDERSTANDING
    has_parts = True
    needs = frozenset({"judges"})
    takes = frozenset({"ablation"})
    top = HIGHEST

    @classmethod
    def problem(cls, item: Record) -> str:
        """An item needs references, and one of the four categories."""
        if not item.benchmark_item.references:
            return "REFERENCES_MISSING"
        return "" if item.benchmark_item.category in CATEGORIES else "CATEGORY_UNKNOWN"

    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """How well each answer agrees with those of people."""
        judge, seed = judge_of(part, records[0]), seeds_of_items(SCORE)

        def build(context: JobContext, record: Record) -> judge_service_pb2.UnderstandingItem:
            return judge_service_pb2.UnderstandingItem(
                id=record.id,
                history=record.history,
                prompt=record.prompt,
                response=record.responses[-1].content,
                references=record.benchmark_item.references,
                category=record.benchmark_item.category,
                seed=seed(context, record),
            )

        def request(
            context: JobContext, items: Sequence[judge_service_pb2.UnderstandingItem]
        ) -> judge_service_pb2.ScoreUnderstandingRequest:
            return judge_service_pb2.ScoreUnderstandingRequest(
                model=judge.model,
                sampling=judge.sampling,
                media_policy=context.plan.media_policy,
                answer_form=judge.form,
                items=items,
            )

        call = rating_call(
            judge=judge,
            aspect=UNDERSTANDING,
            rpc="score_understanding",
            answer=judge_service_pb2.ScoreUnderstandingResponse,
            build=build,
            request=request,
            settle=_settle_empty,
        )
        return await self._caller.run(context, records, call)


def _settle_empty(record: Record) -> bool:
    if not is_empty(record.responses[-1].content):
        return False
    assess(record, UNDERSTANDING, LOWEST, rationale=EMPTY)
    return True
