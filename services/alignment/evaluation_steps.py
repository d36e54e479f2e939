"""The steps of the evaluation: both models answer the held-out prompts, the judge compares, checkers check.

An answer that a model failed to give in readable form counts as a wrong answer: the response is empty, and the record
stays. The judge is not asked about it; it loses against any answer.
"""

import asyncio
from collections.abc import Mapping, Sequence

from omnialign import checkers
from omnialign.content import media_of
from omnialign.errors import OmnialignError, from_status
from omnialign.v1 import record_pb2, refinement_service_pb2
from services.alignment.job import ANSWERS_ALIGNED, ANSWERS_BASE, EVALUATE, EVALUATION
from services.alignment.self_improvement import (
    add_response,
    comparison_call,
    comparison_tokens,
    generate,
    is_empty,
    is_unchanged,
    seed_of,
    verdict_measures,
)
from services.pipeline.item_calls import ItemCall, ItemCaller, extended, prompt_only
from services.pipeline.kind import JobContext, Outcome, Record, Records, Step
from services.pipeline.quarantine import quarantined
from services.pipeline.service_calls import ServiceRetrier

MALFORMED = "ANSWER_"
"""Error reasons that begin with this are the model's fault, not the prompt's."""
CONCURRENT_FETCHES = 8
CORRECT_LABELS = ("correct_base", "correct_aligned")
"""Labels of a checked record: whether each model's answer is fully correct."""

Answer = refinement_service_pb2.GenerateResponse
AnswerCall = ItemCall[refinement_service_pb2.GenerateItem, Answer]


class EvaluationSteps:
    """The steps, in order in `steps`. A record collects both answers, the verdict on them, and the checkers' scores."""

    def __init__(self, caller: ItemCaller, retrier: ServiceRetrier) -> None:
        self._caller, self._retrier = caller, retrier
        self._base_call = _answer_call(ANSWERS_BASE, is_aligned=False)
        self._aligned_call = _answer_call(ANSWERS_ALIGNED, is_aligned=True)
        # The seeds of a whole evaluation are those of its stage, so that both models draw with the same ones.
        self._judge_call = comparison_call(stage=EVALUATION, seed_stage=EVALUATE, settle=_settle_by_rule)
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
        await self._check(context, outcome)
        return outcome

    async def _check(self, context: JobContext, outcome: Outcome) -> None:
        """Adds the checkers' scores to the records; records that a checker cannot take leave the evaluation."""
        programs = checkers.load(context.plan.checkers)
        if not programs:
            return
        media = await self._media(context, outcome.records)
        checked: Records = []
        for record in outcome.records:
            try:
                await _mark(record, programs, media=media)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                reason = error.reason if isinstance(error, OmnialignError) else "CHECKER_FAILED"
                outcome.rejected.append(quarantined(record, stage=EVALUATION, reason=reason, message=problem))
            else:
                checked.append(record)
        outcome.records = checked

    async def _media(self, context: JobContext, records: Records) -> dict[str, bytes]:
        """The bytes of all media of the records, by digest."""
        messages = [m for r in records for m in (r.prompt, *(response.content for response in r.responses))]
        digests = sorted({media.sha256 for media in media_of(messages)})
        slots = asyncio.Semaphore(CONCURRENT_FETCHES)

        async def fetch(digest: str) -> bytes:
            async with slots:
                return await self._retrier.call(
                    lambda: context.clients.data.get_media(digest), uid=context.uid, service="data"
                )

        return dict(zip(digests, await asyncio.gather(*map(fetch, digests)), strict=True))


def _answer_call(stage: str, *, is_aligned: bool) -> AnswerCall:
    """A model's answers to the prompts of an evaluation."""

    def model(context: JobContext) -> str:
        return str(context.job.models.aligned if is_aligned else context.job.models.base)

    def build(context: JobContext, record: Record) -> refinement_service_pb2.GenerateItem:
        seed = seed_of(context, record, stage=EVALUATE)
        return refinement_service_pb2.GenerateItem(id=record.id, prompt=record.prompt, seed=seed)

    return ItemCall(
        service="refinement",
        stage=stage,
        prepare=extended if is_aligned else prompt_only,
        build=build,
        call=lambda context, items: generate(context, items, model=model(context)),
        # The response is empty where the answer was malformed.
        apply=lambda context, record, answer: add_response(record, answer.response, model=model(context)),
        accepts=lambda answer: from_status(answer.error).reason.startswith(MALFORMED),
    )


async def _mark(record: Record, programs: Sequence[checkers.Checker], *, media: Mapping[str, bytes]) -> None:
    """Adds the checkers' feedback to both responses of a record, and the labels that say which are correct."""
    for response, label in zip(record.responses, CORRECT_LABELS, strict=True):
        if is_empty(response.content):
            record.labels[label] = "false"
            continue
        feedback = await checkers.check(
            programs, prompt=record.prompt, response=response.content, subtask=record.subtask, media=media
        )
        response.feedback.CopyFrom(feedback)
        record.labels[label] = "true" if checkers.is_correct(feedback) else "false"


def _settle_by_rule(record: Record) -> bool:
    """Sets the comparison where the judge need not be asked: an answer is missing, or both are the same."""
    base, aligned = (response.content for response in record.responses)
    if is_empty(base) and not is_empty(aligned):
        verdict, reason = record_pb2.VERDICT_WIN, "The first answer is malformed."
    elif is_empty(aligned) and not is_empty(base):
        verdict, reason = record_pb2.VERDICT_LOSS, "The second answer is malformed."
    elif is_unchanged(base, aligned):
        verdict, reason = record_pb2.VERDICT_TIE, "Both answers are the same."
    else:
        return False
    record.comparison.CopyFrom(record_pb2.Comparison(verdict=verdict, forward_reason=reason))
    return True


def _evaluation_measures(record: Record) -> Mapping[str, int]:
    """The verdict; and for a record that was checked, which of the answers are correct."""
    measures = dict(verdict_measures(record))
    if CORRECT_LABELS[0] in record.labels:
        measures["checked"] = 1
        measures |= {label: int(record.labels[label] == "true") for label in CORRECT_LABELS}
    return measures


def _answer_tokens(record: Record) -> int:
    return record.responses[-1].generation.completion_tokens
