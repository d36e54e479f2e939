"""`instruction_following`: whether an answer in one modality is what was asked for, from 0 to 10.

Judges rate text and pictures from 1 to 10. A sound or a video is shown to a judge that hears or sees, who answers the
item's multiple-choice questions about it: 10 for a right answer, 0 for a wrong one, and the mean is over questions. An
answer without the modality that was asked for is the model's fault: it has the lowest score. The groups are the
modalities. Source: arXiv 2412.15838, section 4.2.
"""

from collections.abc import Sequence
from typing import cast

from omnialign.combinations import combination_of, media_among
from omnialign.content import LETTERS
from omnialign.v1 import content_pb2, judge_service_pb2
from services.evaluation.benchmarks.benchmark import Benchmark, assess
from services.evaluation.benchmarks.pairwise import judge_of
from services.evaluation.benchmarks.ratings import (
    HIGHEST,
    LOWEST,
    WRONG,
    ask_questions,
    assess_choice,
    rating_call,
)
from services.evaluation.job import SCORE, Part
from services.evaluation.works import seeds_of_items
from services.pipeline.item_calls import extended
from services.pipeline.kind import JobContext, Outcome, Record, Records

FOLLOWING = "following"
MISSING = "The answer has nothing in the modality that was asked for."


class InstructionFollowing(Benchmark):
    """Instructions to write a text, a picture, a sound or a video."""

    name = "instruction_following"
    main = FOLLOWING
    has_parts = True
    needs = frozenset({"judges"})
    top = HIGHEST

    @classmethod
    def problem(cls, item: Record) -> str:
        """An item asks for one modality; for a sound or a video it needs questions."""
        wanted = cls.group(item)
        if wanted not in LETTERS:
            return "MODALITY_UNCLEAR"
        return "QUESTIONS_MISSING" if wanted in "av" and not item.benchmark_item.questions else ""

    @classmethod
    def group(cls, item: Record) -> str:
        """The letter of the modality that is asked for: the end of the subtask."""
        return item.subtask.rpartition("2")[2]

    @classmethod
    def media(cls, item: Record) -> str:
        """The one that is asked for, if it is no text."""
        return media_among((cls.group(item),))

    @classmethod
    def measure(cls, aspect: str) -> str:
        """Ratings and answered questions are on one scale."""
        return FOLLOWING

    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """How well each answer follows its instruction. All records of a chunk are of one subtask."""
        if records[0].benchmark_item.questions:
            return await self._by_questions(context, part, records)
        judge, seed = judge_of(part, records[0]), seeds_of_items(SCORE)

        def build(context: JobContext, record: Record) -> judge_service_pb2.GenerationItem:
            return judge_service_pb2.GenerationItem(
                id=record.id,
                history=record.history,
                prompt=record.prompt,
                response=record.responses[-1].content,
                modality=cast("content_pb2.Modality.ValueType", LETTERS[self.group(record)]),
                seed=seed(context, record),
            )

        def request(
            context: JobContext, items: Sequence[judge_service_pb2.GenerationItem]
        ) -> judge_service_pb2.ScoreGenerationRequest:
            return judge_service_pb2.ScoreGenerationRequest(
                model=judge.model,
                sampling=judge.sampling,
                media_policy=context.plan.media_policy,
                answer_form=judge.form,
                items=items,
            )

        call = rating_call(
            judge=judge,
            aspect=FOLLOWING,
            rpc="score_generation",
            answer=judge_service_pb2.ScoreGenerationResponse,
            build=build,
            request=request,
            settle=_settle_missing,
        )
        return await self._caller.run(context, records, call)

    async def _by_questions(self, context: JobContext, part: Part, records: Records) -> Outcome:
        judge = judge_of(part, records[0])
        asked = [record for record in records if not _is_missing(record)]
        answered, failed = await ask_questions(
            self._caller, context, asked, model=judge, shown=lambda record: record.responses[-1].content
        )
        outcome = Outcome(rejected=failed)
        for record, answers in answered:
            for question in record.benchmark_item.questions:
                assess_choice(record, question, answers[question.id], judge=judge.model)
            outcome.records.append(record)
        for record in map(extended, filter(_is_missing, records)):
            for question in record.benchmark_item.questions:
                assess(record, question.id, WRONG, rationale=MISSING)
            outcome.records.append(record)
        return outcome


def _is_missing(record: Record) -> bool:
    return InstructionFollowing.group(record) not in combination_of(record.responses[-1].content)


def _settle_missing(record: Record) -> bool:
    if not _is_missing(record):
        return False
    assess(record, FOLLOWING, LOWEST, rationale=MISSING)
    return True
