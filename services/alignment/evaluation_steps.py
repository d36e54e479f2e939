"""The steps of the evaluation: both models answer the held-out prompts, the judge compares, checkers check.

An answer that a model failed to give in readable form counts as a wrong answer: the response is empty, and the record
stays. The judge is not asked about it; it loses against any answer.
"""

from collections.abc import Mapping

from omnialign import checkers
from services.alignment.job import ANSWERS_ALIGNED, ANSWERS_BASE, EVALUATE, EVALUATION
from services.alignment.self_improvement import judge_of
from services.pipeline.checking import AnswerChecker
from services.pipeline.item_calls import ItemCaller, extended, prompt_only
from services.pipeline.kind import JobContext, Outcome, Record, Records, Step
from services.pipeline.model_calls import (
    AnswerCall,
    answering_call,
    comparison_call,
    comparison_tokens,
    seeds_of,
    settle_by_rule,
    verdict_measures,
)
from services.pipeline.service_calls import ServiceRetrier

CORRECT_LABELS = ("correct_base", "correct_aligned")
"""Labels of a checked record: whether each model's answer is fully correct."""


class EvaluationSteps:
    """The steps, in order in `steps`. A record collects both answers, the verdict on them, and the checkers' scores."""

    def __init__(self, caller: ItemCaller, retrier: ServiceRetrier) -> None:
        self._caller, self._checker = caller, AnswerChecker(retrier)
        self._base_call = _answer_call(ANSWERS_BASE, is_aligned=False)
        self._aligned_call = _answer_call(ANSWERS_ALIGNED, is_aligned=True)
        # The seeds of a whole evaluation are those of its stage, so that both models draw with the same ones.
        self._judge_call = comparison_call(
            stage=EVALUATION, judge=judge_of, seed=seeds_of(EVALUATE), settle=settle_by_rule
        )
        self.steps = (
            Step(
                name=ANSWERS_BASE,
                stage=EVALUATE,
                reads="",
                writes=ANSWERS_BASE,
                run=self.answer_base,
                tokens=_answer_tokens,
            ),
            Step(
                name=ANSWERS_ALIGNED,
                stage=EVALUATE,
                reads=ANSWERS_BASE,
                writes=ANSWERS_ALIGNED,
                run=self.answer_aligned,
                tokens=_answer_tokens,
            ),
            Step(
                name=EVALUATION,
                stage=EVALUATE,
                reads=ANSWERS_ALIGNED,
                writes=EVALUATION,
                run=self.judge,
                tokens=comparison_tokens,
                measures=_evaluation_measures,
            ),
        )

    async def answer_base(self, context: JobContext, records: Records) -> Outcome:
        """The initial model's answers."""
        return await self._caller.run(context, records, self._base_call)

    async def answer_aligned(self, context: JobContext, records: Records) -> Outcome:
        """The aligned model's answers, drawn with the same seeds."""
        return await self._caller.run(context, records, self._aligned_call)

    async def judge(self, context: JobContext, records: Records) -> Outcome:
        """The judge's comparison of the aligned model's answers with the initial model's, and the checkers' scores."""
        outcome = await self._caller.run(context, records, self._judge_call)
        if programs := checkers.load(context.plan.checkers):
            checked = await self._checker.check(context, outcome.records, programs, stage=EVALUATION)
            for record in checked.records:
                for response, label in zip(record.responses, CORRECT_LABELS, strict=True):
                    record.labels[label] = "true" if checkers.is_correct(response.feedback) else "false"
            outcome = Outcome(checked.records, [*outcome.rejected, *checked.rejected])
        return outcome


def _answer_call(stage: str, *, is_aligned: bool) -> AnswerCall:
    """A model's answers to the prompts of an evaluation."""
    return answering_call(
        stage=stage,
        model=lambda context: str(context.job.models.aligned if is_aligned else context.job.models.base),
        seed=seeds_of(EVALUATE),
        prepare=extended if is_aligned else prompt_only,
    )


def _evaluation_measures(record: Record) -> Mapping[str, int]:
    """The verdict; and for a record that was checked, which of the answers are correct."""
    measures = dict(verdict_measures(record))
    if CORRECT_LABELS[0] in record.labels:
        measures["checked"] = 1
        measures |= {label: int(record.labels[label] == "true") for label in CORRECT_LABELS}
    return measures


def _answer_tokens(record: Record) -> int:
    return record.responses[-1].generation.completion_tokens
