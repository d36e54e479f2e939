"""The steps of self improving: sample y, criticise it, refine it to y*, and verify that y* is better."""

from collections.abc import AsyncIterator, Callable, Sequence

from omnialign.v1 import (
    content_pb2,
    critique_service_pb2,
    judge_service_pb2,
    record_pb2,
    refinement_service_pb2,
)
from services.alignment import tables
from services.alignment.asking import Asker, Record, abstained, extended, prompt_only, refused
from services.alignment.chunks import Outcome, Records, Step
from services.alignment.job import Work
from services.alignment.seeds import record_seed

UNCHANGED = "The refinement equals the response."


class Loop:
    """The steps, in order in `steps`."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.steps = (
            Step(tables.SAMPLE, tables.SAMPLE, "", tables.SAMPLE, self.sample, _response_tokens(0)),
            Step(tables.CRITIQUE, tables.CRITIQUE, tables.SAMPLE, tables.CRITIQUE, self.critique, _feedback_tokens),
            Step(tables.REFINE, tables.REFINE, tables.CRITIQUE, tables.REFINE, self.refine, _response_tokens(1)),
            Step(tables.VERIFY, tables.VERIFY, tables.REFINE, tables.VERIFY, self.verify, comparison_tokens),
        )

    async def sample(self, work: Work, records: Records) -> Outcome:
        """y ~ pi(x), by the initial model."""
        bare = [prompt_only(record) for record in records]
        items = [
            refinement_service_pb2.GenerateItem(id=r.id, prompt=r.prompt, seed=seed_of(work, r, stage=tables.SAMPLE))
            for r in bare
        ]

        def call(
            some: Sequence[refinement_service_pb2.GenerateItem],
        ) -> AsyncIterator[refinement_service_pb2.GenerateResponse]:
            return work.peers.refinement.generate(
                refinement_service_pb2.GenerateRequest(
                    model=work.models.base,
                    sampling=work.plan.sampling,
                    media_policy=work.plan.media_policy,
                    items=some,
                )
            )

        answers = await self._asker.ask(call, items, uid=work.uid, service="refinement", whole=work.deterministic)
        outcome = Outcome()
        for record in bare:
            answer = answers[record.id]
            if answer.WhichOneof("result") == "response":
                add_response(record, answer.response, model=work.models.base)
                outcome.records.append(record)
            else:
                outcome.rejected.append(refused(record, answer, stage=tables.SAMPLE))
        return outcome

    async def critique(self, work: Work, records: Records) -> Outcome:
        """c ~ p(c | x, y), by the feedback model."""
        items = [
            critique_service_pb2.CritiqueItem(
                id=r.id,
                prompt=r.prompt,
                response=r.responses[0].content,
                subtask=r.subtask,
                seed=seed_of(work, r, stage=tables.CRITIQUE),
            )
            for r in records
        ]

        def call(
            some: Sequence[critique_service_pb2.CritiqueItem],
        ) -> AsyncIterator[critique_service_pb2.CritiqueResponse]:
            return work.peers.critique.critique(
                critique_service_pb2.CritiqueRequest(
                    model=work.models.feedback,
                    sampling=work.plan.feedback_sampling,
                    media_policy=work.plan.media_policy,
                    answer_form=work.plan.feedback_answer_form,
                    items=some,
                )
            )

        answers = await self._asker.ask(call, items, uid=work.uid, service="critique", whole=work.deterministic)
        outcome = Outcome()
        for record in records:
            answer = answers[record.id]
            result = answer.WhichOneof("result")
            if result == "feedback":
                longer = extended(record)
                longer.responses[0].feedback.CopyFrom(answer.feedback)
                outcome.records.append(longer)
            elif result == "abstention":
                reason, text = answer.abstention.reason, answer.abstention.text
                outcome.rejected.append(abstained(record, stage=tables.CRITIQUE, reason=reason, text=text))
            else:
                outcome.rejected.append(refused(record, answer, stage=tables.CRITIQUE))
        return outcome

    async def refine(self, work: Work, records: Records) -> Outcome:
        """y* ~ pi(x, y, c), by the initial model."""
        items = [
            refinement_service_pb2.RefineItem(
                id=r.id,
                prompt=r.prompt,
                response=r.responses[0].content,
                feedback=r.responses[0].feedback,
                seed=seed_of(work, r, stage=tables.REFINE),
            )
            for r in records
        ]

        def call(
            some: Sequence[refinement_service_pb2.RefineItem],
        ) -> AsyncIterator[refinement_service_pb2.RefineResponse]:
            return work.peers.refinement.refine(
                refinement_service_pb2.RefineRequest(
                    model=work.models.base,
                    sampling=work.plan.sampling,
                    media_policy=work.plan.media_policy,
                    items=some,
                )
            )

        answers = await self._asker.ask(call, items, uid=work.uid, service="refinement", whole=work.deterministic)
        outcome = Outcome()
        for record in records:
            answer = answers[record.id]
            if answer.WhichOneof("result") == "response":
                longer = extended(record)
                add_response(longer, answer.response, model=work.models.base)
                outcome.records.append(longer)
            else:
                outcome.rejected.append(refused(record, answer, stage=tables.REFINE))
        return outcome

    async def verify(self, work: Work, records: Records) -> Outcome:
        """The gate: is y* preferred to y in both orders? What did not change is a tie and is not asked about."""
        changed = [r for r in records if not is_unchanged(r.responses[0].content, r.responses[1].content)]
        verdicts = await self.compare(work, changed, stage=tables.VERIFY)
        outcome = Outcome()
        for record in records:
            answer = verdicts.get(record.id)
            if answer is not None and answer.WhichOneof("result") == "error":
                outcome.rejected.append(refused(record, answer, stage=tables.VERIFY))
                continue
            longer = extended(record)
            tie = record_pb2.Comparison(verdict=record_pb2.VERDICT_TIE, forward_reason=UNCHANGED)
            longer.comparison.CopyFrom(tie if answer is None else answer.comparison)
            outcome.records.append(longer)
        return outcome

    async def compare(
        self, work: Work, records: Records, *, stage: str
    ) -> dict[str, judge_service_pb2.CompareResponsesResponse]:
        """The judge's answers on the second response of each record (candidate) against the first (baseline)."""
        if not records:
            return {}
        items = [
            judge_service_pb2.CompareItem(
                id=r.id,
                prompt=r.prompt,
                baseline=r.responses[0].content,
                candidate=r.responses[1].content,
                subtask=r.subtask,
                seed=seed_of(work, r, stage=stage),
            )
            for r in records
        ]

        def call(
            some: Sequence[judge_service_pb2.CompareItem],
        ) -> AsyncIterator[judge_service_pb2.CompareResponsesResponse]:
            return work.peers.judge.compare_responses(
                judge_service_pb2.CompareResponsesRequest(
                    model=work.models.judge,
                    sampling=work.plan.feedback_sampling,
                    media_policy=work.plan.media_policy,
                    answer_form=work.plan.judge_answer_form,
                    items=some,
                )
            )

        return await self._asker.ask(call, items, uid=work.uid, service="judge", whole=work.deterministic)


def seed_of(work: Work, record: Record, *, stage: str) -> int:
    """Seed of a record in a stage."""
    return record_seed(work.plan.seed, stage=stage, record_id=record.id)


def add_response(record: Record, response: record_pb2.Response, *, model: str) -> None:
    """Adds a model's response to the record."""
    added = record.responses.add()
    added.CopyFrom(response)
    added.source = response.source or model


def is_empty(content: content_pb2.Content) -> bool:
    """Whether a message says nothing."""
    return not any(part.WhichOneof("part") == "media" or part.text.strip() for part in content.parts)


def is_unchanged(before: content_pb2.Content, after: content_pb2.Content) -> bool:
    """Whether the second message is empty or says the same as the first."""
    return is_empty(after) or _essence(before) == _essence(after)


def _essence(content: content_pb2.Content) -> list[str]:
    parts = (part.media.sha256 if part.WhichOneof("part") == "media" else part.text.strip() for part in content.parts)
    return [part for part in parts if part]


def comparison_tokens(record: Record) -> int:
    """Tokens that the judge wrote on a record."""
    comparison = record.comparison
    return comparison.forward_generation.completion_tokens + comparison.backward_generation.completion_tokens


def _feedback_tokens(record: Record) -> int:
    return record.responses[0].feedback.generation.completion_tokens


def _response_tokens(index: int) -> Callable[[Record], int]:
    return lambda record: record.responses[index].generation.completion_tokens
