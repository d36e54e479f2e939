"""The steps of the evaluation: both models answer the held-out prompts, the judge compares, checkers check.

An answer that a model failed to give in readable form counts as a wrong answer: the response is empty, the record
stays. The judge is not asked about it; it loses against any answer.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from omnialign.content import media_of
from omnialign.errors import OmnialignError
from omnialign.v1 import record_pb2, refinement_service_pb2
from services.alignment import checkers, tables
from services.alignment.asking import Asker, Record, extended, prompt_only, refused, set_aside
from services.alignment.chunks import Outcome, Records, Step
from services.alignment.job import Work
from services.alignment.loop import Loop, add_response, comparison_tokens, is_empty, is_unchanged, seed_of
from services.alignment.patience import Patience

STAGE = "evaluate"
MALFORMED = "ANSWER_"
"""Reasons that begin so are the model's fault, not the prompt's."""
FETCHES = 8
NOT_JUDGED = record_pb2.Comparison()


class Evaluation:
    """The steps, in order in `steps`."""

    def __init__(self, asker: Asker, loop: Loop, patience: Patience) -> None:
        self._asker, self._loop, self._patience = asker, loop, patience
        base, aligned = tables.ANSWERS_BASE, tables.ANSWERS_ALIGNED
        self.steps = (
            Step(base, STAGE, "", base, self.answer_base, _answer_tokens),
            Step(aligned, STAGE, base, aligned, self.answer_aligned, _answer_tokens),
            Step(tables.EVALUATION, STAGE, aligned, tables.EVALUATION, self.judge, comparison_tokens),
        )

    async def answer_base(self, work: Work, records: Records) -> Outcome:
        """The initial model's answers."""
        bare = [prompt_only(record) for record in records]
        return await self._answer(work, bare, model=work.models.base, stage=tables.ANSWERS_BASE)

    async def answer_aligned(self, work: Work, records: Records) -> Outcome:
        """The aligned model's answers, drawn with the same seeds."""
        longer = [extended(record) for record in records]
        return await self._answer(work, longer, model=work.models.aligned, stage=tables.ANSWERS_ALIGNED)

    async def judge(self, work: Work, records: Records) -> Outcome:
        """The judge's comparison of the aligned model's answers with the initial model's, and the checkers' scores."""
        asked = [r for r in records if _by_rule(r) is None]
        verdicts = await self._loop.compare(work, asked, stage=STAGE)
        outcome = Outcome()
        for record in records:
            answer = verdicts.get(record.id)
            if answer is not None and answer.WhichOneof("result") == "error":
                outcome.rejected.append(refused(record, answer, stage=tables.EVALUATION))
                continue
            longer = extended(record)
            longer.comparison.CopyFrom(answer.comparison if answer is not None else _by_rule(record) or NOT_JUDGED)
            outcome.records.append(longer)
        await self._check(work, outcome)
        return outcome

    async def _answer(self, work: Work, records: Records, *, model: str, stage: str) -> Outcome:
        items = [
            refinement_service_pb2.GenerateItem(id=r.id, prompt=r.prompt, seed=seed_of(work, r, stage=STAGE))
            for r in records
        ]

        def call(
            some: Sequence[refinement_service_pb2.GenerateItem],
        ) -> AsyncIterator[refinement_service_pb2.GenerateResponse]:
            return work.peers.refinement.generate(
                refinement_service_pb2.GenerateRequest(
                    model=model, sampling=work.plan.sampling, media_policy=work.plan.media_policy, items=some
                )
            )

        answers = await self._asker.ask(call, items, uid=work.uid, service="refinement", whole=work.deterministic)
        outcome = Outcome()
        for record in records:
            answer = answers[record.id]
            aside = None if answer.WhichOneof("result") == "response" else refused(record, answer, stage=stage)
            if aside is not None and not aside.quarantine.reason.startswith(MALFORMED):
                outcome.rejected.append(aside)
                continue
            add_response(record, answer.response, model=model)  # an empty one where the answer was malformed
            outcome.records.append(record)
        return outcome

    async def _check(self, work: Work, outcome: Outcome) -> None:
        """Adds the checkers' scores to the records; those that a checker cannot take leave the evaluation."""
        programs = checkers.load(work.plan.checkers)
        if not programs:
            return
        media = await self._media(work, outcome.records)
        checked: Records = []
        for record in outcome.records:
            try:
                await _mark(record, programs, media=media)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                reason = error.reason if isinstance(error, OmnialignError) else "CHECKER_FAILED"
                outcome.rejected.append(set_aside(record, stage=tables.EVALUATION, reason=reason, message=problem))
            else:
                checked.append(record)
        outcome.records = checked

    async def _media(self, work: Work, records: Records) -> dict[str, bytes]:
        messages = [m for r in records for m in (r.prompt, *(response.content for response in r.responses))]
        digests = sorted({media.sha256 for media in media_of(messages)})
        slots = asyncio.Semaphore(FETCHES)

        async def fetch(digest: str) -> bytes:
            async with slots:
                return await self._patience.call(
                    lambda: work.peers.data.get_media(digest), uid=work.uid, service="data"
                )

        return dict(zip(digests, await asyncio.gather(*map(fetch, digests)), strict=True))


async def _mark(record: Record, programs: Sequence[checkers.Checker], *, media: Mapping[str, bytes]) -> None:
    for response, label in zip(record.responses, ("correct_base", "correct_aligned"), strict=True):
        if is_empty(response.content):
            record.labels[label] = "false"
            continue
        feedback = await checkers.check(
            programs, prompt=record.prompt, response=response.content, subtask=record.subtask, media=media
        )
        response.feedback.CopyFrom(feedback)
        record.labels[label] = "true" if checkers.is_correct(feedback) else "false"


def _by_rule(record: Record) -> record_pb2.Comparison | None:
    """The comparison where the judge need not be asked: an answer is missing, or both are the same."""
    base, aligned = (response.content for response in record.responses)
    if is_empty(base) and not is_empty(aligned):
        return record_pb2.Comparison(verdict=record_pb2.VERDICT_WIN, forward_reason="The first answer is malformed.")
    if is_empty(aligned) and not is_empty(base):
        return record_pb2.Comparison(verdict=record_pb2.VERDICT_LOSS, forward_reason="The second answer is malformed.")
    if is_unchanged(base, aligned):
        return record_pb2.Comparison(verdict=record_pb2.VERDICT_TIE, forward_reason="Both answers are the same.")
    return None


def _answer_tokens(record: Record) -> int:
    return record.responses[-1].generation.completion_tokens
