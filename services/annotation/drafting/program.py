"""What a draft job does: a model is asked about each pair in both orders, and what it says twice is kept.

plan -> draft, chunk by chunk -> close
"""

import asyncio
from collections.abc import Mapping, Sequence

from omnialign.errors import from_status
from omnialign.modeling.answers_json import annotation_schema
from omnialign.v1.annotation_pb2 import ModelDraft, Rubric
from omnialign.v1.record_pb2 import VERDICT_ABSTAIN, VERDICT_LOSS, VERDICT_WIN, Comparison, Preference
from omnialign.v1.refinement_service_pb2 import GenerateItem, GenerateRequest, GenerateResponse
from services.annotation.campaigns import rubric_of
from services.annotation.drafting.both_orders import WHOLE, draft_of, is_readable_error
from services.annotation.drafting.budget import PARTS_ABSTAINED, TOKENS_READ, Budget, summarize
from services.annotation.drafting.drafts import Drafts
from services.annotation.drafting.job import DRAFT, DRAFTS, Job
from services.annotation.drafting.question import QUESTION, question
from services.annotation.store import Store
from services.pipeline import planning
from services.pipeline.counts import Counts
from services.pipeline.item_calls import ItemCall, extended
from services.pipeline.kind import JobContext, JobRun, Outcome, Phase, Record, Records, Step, stage_of
from services.pipeline.quarantine import QUARANTINE, rejected
from services.pipeline.service import Toolbox

ORDERS = (False, True)
"""Whether the second response is shown first."""
UNSUPPORTED = "JSON_SCHEMA_UNSUPPORTED"
UNDECIDED = (WHOLE, "preferred")
"""Abstentions on these leave the better response open."""
ABSTENTIONS_LABEL = "draft_abstentions"
"""Label of a pair in the job's table: how many parts of the form the model abstained on."""
VERDICTS = {0: VERDICT_ABSTAIN, 1: VERDICT_LOSS, 2: VERDICT_WIN}
"""The comparison of the second response with the first, by the better one."""

Answers = Mapping[str, GenerateResponse]


class DraftingProgram:
    """The program of draft jobs (`kind.JobProgram`)."""

    def __init__(self, tools: Toolbox) -> None:
        self._items, self._tables, self._chunks = tools.items, tools.tables, tools.chunks
        self._update = tools.updater.update
        self._store, self._drafts = Store(tools.jobs.database), Drafts(tools.jobs.database)
        self._budget = Budget(tools.jobs, tools.chunks)
        self._unconstrained: set[str] = set()
        """Models that nothing holds to a schema; they are told it in words, as all are."""
        step = Step(
            name=DRAFT,
            stage=DRAFT,
            reads="",
            writes=DRAFTS,
            run=self.draft,
            tokens=_tokens_written,
            measures=_measures,
            may_begin=self._budget.allows,
        )
        self._phase = Phase(name=DRAFT, steps=(step,), plan=self._plan)
        self.phases = (self._phase,)

    async def run(self, run: JobRun) -> None:
        """Works through the chunks. A running job is replayed by the order of these calls: add, never reorder."""
        await run.chunks(self._phase)
        await run.step("close", self._close)

    async def draft(self, context: JobContext, records: Records) -> Outcome:
        """What the model says of each pair; kept with the campaign, and in the job's table."""
        campaign = await self._store.campaign(context.plan.campaign)
        rubrics = [rubric_of(campaign, record.subtask) for record in records]
        answers = await self._ask(context, records, rubrics)
        outcome, drafts = Outcome(), dict[str, ModelDraft]()
        for place, (record, rubric) in enumerate(zip(records, rubrics, strict=True)):
            forward, backward = (answers[_id(place, swapped=swapped)] for swapped in ORDERS)
            failed = [
                one for one in (forward, backward) if one.WhichOneof("result") == "error" and not is_readable_error(one)
            ]
            if failed:
                outcome.rejected.append(rejected(record, failed[0], stage=DRAFT))
                continue
            draft = draft_of(forward, backward, [dimension.name for dimension in rubric.dimensions])
            draft.model, draft.job, draft.question = context.plan.model, context.name, QUESTION
            draft.draft_time.GetCurrentTime()
            drafts[record.id] = draft
            outcome.records.append(_drafted(record, draft))
        await self._drafts.put(campaign.name, drafts)
        return outcome

    async def _ask(self, context: JobContext, records: Records, rubrics: Sequence[Rubric]) -> Answers:
        """The answers about each pair in each order. All pairs of a chunk have the same rubric."""
        items = [
            GenerateItem(
                id=_id(place, swapped=swapped),
                prompt=question(record, rubric, swapped=swapped),
                seed=planning.record_seed(context.plan.seed, stage=f"{DRAFT}-{swapped:d}", record_id=record.id),
            )
            for place, (record, rubric) in enumerate(zip(records, rubrics, strict=True))
            for swapped in ORDERS
        ]
        model = context.plan.model
        schema = annotation_schema([dimension.name for dimension in rubrics[0].dimensions])
        if model not in self._unconstrained:
            answers = await self._items.ask(context, items, call=_call(schema))
            if not all(map(_is_unsupported, answers.values())):
                return answers
            self._unconstrained.add(model)
        return await self._items.ask(context, items, call=_call(""))

    async def _plan(self, context: JobContext) -> int:
        """Decides which pair is in which chunk, and makes the tables; returns the number of chunks."""
        await asyncio.gather(*(self._tables.create(context, purpose) for purpose in (DRAFTS, QUARANTINE)))
        pairs = await self._drafts.missing(context.plan.campaign, model=context.plan.model)
        chunks = planning.plan_chunks(planning.streamed(sorted(pairs)), size=context.plan.chunk_size)
        planned = await self._chunks.put_chunks(context.uid, phase=DRAFT, chunks=chunks)

        def change(job: Job) -> str:
            status = stage_of(job, DRAFT)
            status.total, status.dataset = len(pairs), context.table(DRAFTS)
            return f"{len(pairs)} pairs to draft in {planned.chunks} chunks."

        await self._update(context.uid, DRAFT, change)
        return planned.chunks

    async def _close(self, context: JobContext) -> None:
        """Freezes the tables and links them."""
        drafts, _ = await asyncio.gather(*(self._tables.commit(context, one) for one in (DRAFTS, QUARANTINE)))
        plan = context.plan
        await self._tables.link(
            context,
            (plan.dataset, drafts, "drafts_of"),
            (plan.campaign, drafts, "drafted_for"),
            (plan.model, drafts, "drafted_in"),
            (context.name, drafts, "produced"),
        )

        def change(job: Job) -> str:
            stage_of(job, DRAFT).dataset = drafts
            return "All pairs are asked about."

        await self._update(context.uid, DRAFT, change)

    def has_external_work(self, job: Job) -> bool:
        """No other service works for a draft job longer than a call takes."""
        return False

    async def cancel_external_work(self, context: JobContext) -> None:
        """Nothing is left to cancel."""

    def summarize(self, job: Job, totals: Mapping[str, Counts]) -> None:
        """Shows what is used of the budget, and on how much the model abstained."""
        summarize(job, totals)

    def observe_step(self, step: Step, counts: Counts) -> None:
        """The pipeline counts all that there is."""

    def observe_job(self, job: Job) -> None:
        """The pipeline shows all that there is."""


def _call(json_schema: str) -> ItemCall[GenerateItem, GenerateResponse]:
    def request(context: JobContext, items: Sequence[GenerateItem]) -> GenerateRequest:
        plan = context.plan
        return GenerateRequest(
            model=plan.model,
            sampling=plan.sampling,
            media_policy=plan.media_policy,
            json_schema=json_schema,
            items=items,
        )

    return ItemCall(
        service="refinement",
        rpc="generate",
        answer=GenerateResponse,
        stage=DRAFT,
        build=lambda context, record: GenerateItem(),
        request=request,
        apply=lambda context, record, answer: record,
    )


def _id(place: int, *, swapped: bool) -> str:
    return f"{place}/{'backward' if swapped else 'forward'}"


def _is_unsupported(answer: GenerateResponse) -> bool:
    return answer.WhichOneof("result") == "error" and from_status(answer.error).reason == UNSUPPORTED


def _drafted(record: Record, draft: ModelDraft) -> Record:
    """The pair as the job's table has it: with what the model says in place of what anybody said before."""
    made = extended(record)
    del made.responses[2:]
    for response in made.responses:
        response.ClearField("feedback")
    for response, feedback in zip(made.responses, draft.annotation.feedback, strict=False):
        response.feedback.CopyFrom(feedback)
    annotation = draft.annotation
    made.ClearField("preference")
    if annotation.preferred:
        winners = {name: side for name, side in annotation.winners.items() if side}
        preference = Preference(preferred=annotation.preferred, reason=annotation.reason, dimensions=winners)
        made.preference.CopyFrom(preference)
    comparison = Comparison(
        verdict=VERDICTS[annotation.preferred],
        abstain_reason=next((one.reason for one in draft.abstentions if one.part in UNDECIDED), ""),
        forward_generation=draft.forward_generation,
        backward_generation=draft.backward_generation,
    )
    made.comparison.CopyFrom(comparison)
    made.labels[ABSTENTIONS_LABEL] = str(len(draft.abstentions))
    return made


def _tokens_written(record: Record) -> int:
    comparison = record.comparison
    return comparison.forward_generation.completion_tokens + comparison.backward_generation.completion_tokens


def _measures(record: Record) -> Mapping[str, int]:
    comparison = record.comparison
    return {
        TOKENS_READ: comparison.forward_generation.prompt_tokens + comparison.backward_generation.prompt_tokens,
        PARTS_ABSTAINED: int(record.labels[ABSTENTIONS_LABEL]),
    }
