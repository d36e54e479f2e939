"""What each stage of a job does, except for the steps of its chunks.

Every method may be called again after a crash: what it creates has ids that depend on the job alone, and what it writes
replaces the same by the same.
"""

import functools
from collections.abc import AsyncIterator

from omnialign import names
from omnialign.errors import FailedPrecondition
from omnialign.v1 import alignment_service_pb2, training_service_pb2
from omnialign.wording import counted
from services.alignment import optimization, pairs, preflight, reading, training_jobs
from services.alignment.job import (
    EVALUATE,
    EVALUATION,
    EVALUATION_STEPS,
    FEEDBACK,
    FEEDBACK_MODELING,
    JUDGEMENT,
    LOOP,
    LOOP_STAGES,
    ONLINE_METHODS,
    OPTIMIZE,
    PAIR,
    PAIRS,
    PREFLIGHT,
    PROMPTS,
    REPORT,
    REWARD_MODELING,
    SAMPLE,
    VERIFY,
    Job,
    StageStatus,
    is_binary,
    of_round,
    policy_of,
    round_stages,
)
from services.alignment.reading import Reader, Stream
from services.alignment.report import make_report
from services.alignment.training_jobs import TrainingJobRunner, TrainingRequest, TrainingSpec
from services.pipeline import planning
from services.pipeline.chunk_store import Planned
from services.pipeline.item_calls import prompt_only
from services.pipeline.kind import JobContext, Record, stage_of
from services.pipeline.quarantine import QUARANTINE
from services.pipeline.service import Toolbox


class Stages:
    """The stages of all jobs of a process."""

    def __init__(self, tools: Toolbox, training: TrainingJobRunner) -> None:
        self._jobs, self._chunks, self._tables = tools.jobs, tools.chunks, tools.tables
        self._retrier, self._update = tools.retrier, tools.updater.update
        self._training, self._reader = training, Reader(tools.retrier)

    async def preflight(self, context: JobContext) -> None:
        """Looks at everything that the job will read, before it takes any accelerator."""
        found = await self._retrier.call(
            lambda: preflight.inspect(context.plan, context.clients), uid=context.uid, service="data"
        )

        def change(job: Job) -> str:
            job.preflight.CopyFrom(found)
            stage_of(job, PREFLIGHT).completed = stage_of(job, PREFLIGHT).total = _looked_at(found)
            return f"Pre-flight: {counted(found.prompts, 'prompt')}, {found.evaluation_prompts:,} to evaluate."

        await self._update(context.uid, PREFLIGHT, change)

    async def feedback_modeling(self, context: JobContext) -> None:
        """Trains the feedback model on a share of the annotated critiques, and the judge on the preferences."""
        requests = []
        if not context.job.models.feedback and not is_binary(context.plan):
            requests.append(await self._feedback_request(context))
        if not context.job.models.judge:
            requests.append(await self._judge_request(context))
        trained = await self._training.run(context, requests, stage=FEEDBACK_MODELING)

        def change(job: Job) -> str:
            job.models.feedback = trained.get(training_jobs.FEEDBACK, job.models.feedback)
            job.models.judge = trained.get(training_jobs.JUDGE, job.models.judge)
            return "The feedback models are trained."

        await self._update(context.uid, FEEDBACK_MODELING, change)
        await self._tables.link(context, *((context.name, model, "produced") for model in trained.values()))

    async def plan_loop(self, context: JobContext, *, number: int) -> int:
        """Decides which prompt is in which chunk of a round, and makes the tables; returns the number of chunks."""
        stages = [of_round(stage, number) for stage in LOOP_STAGES]
        await self._create(context, (*stages, QUARANTINE))
        split, limit = context.plan.prompt_split, context.plan.max_prompts
        planned = await self._plan(context, of_round(LOOP, number), split=split, limit=limit)

        def change(job: Job) -> str:
            for stage in stages:
                stage_of(job, stage).total = planned.records
                stage_of(job, stage).dataset = context.table(stage)
            return f"{planned.records} prompts in {planned.chunks} chunks."

        await self._update(context.uid, stages[0], change)
        return planned.chunks

    async def close_loop(self, context: JobContext, *, number: int) -> str:
        """Freezes the tables of a round and links them; returns the version of the last."""
        versions = {stage: await self._tables.commit(context, of_round(stage, number)) for stage in LOOP_STAGES}
        await self._tables.commit(context, QUARANTINE)
        steps = zip((context.plan.dataset, *versions.values()), versions.items(), strict=False)
        await self._tables.link(
            context,
            *((source, version, f"{stage}_of") for source, (stage, version) in steps),
            *((context.name, version, "produced") for version in versions.values()),
        )
        return versions[VERIFY]

    async def pair(self, context: JobContext, *, verified: str, number: int) -> str:
        """Keeps the pairs that passed the gate, or takes the annotated ones; returns the version of their table.

        Returns nothing if a later round kept too few: the policy of the round before is the result then.
        """
        stage = of_round(PAIR, number)

        def stream() -> AsyncIterator[Record]:
            return pairs.find_pairs(context.plan, context.clients, verified=verified)

        limit = context.plan.max_pairs
        drawn = await self._reader.draw(context, stream, lambda total: limit or total)
        tried = stage_of(context.job, of_round(SAMPLE, number)).total
        if number > 1 and drawn.of < context.plan.min_yield * tried:
            await self._end_rounds(context, number=number, kept=drawn.of, tried=tried)
            return ""
        if not drawn.total:
            raise _no_pairs(context, stage=stage, table=context.table(of_round(VERIFY, number)))
        table = of_round(PAIRS, number)
        await self._create(context, (table,))
        await self._tables.fill(context, table, lambda: reading.chosen(stream(), drawn.takes))
        version = await self._tables.commit(context, table)
        source = verified or context.plan.dataset
        await self._tables.link(context, (source, version, "kept_of"), (context.name, version, "produced"))

        def change(job: Job) -> str:
            status = stage_of(job, stage)
            status.completed, status.total, status.dataset = drawn.total, drawn.of, context.table(table)
            return f"{drawn.total} pairs of {drawn.of} are taken."

        await self._update(context.uid, stage, change)
        return version

    async def _end_rounds(self, context: JobContext, *, number: int, kept: int, tried: int) -> None:
        """Shows that a round, and those after it, train no more."""

        stages = round_stages(context.plan)
        after_pair = stages[stages.index(PAIR) + 1 :]

        def change(job: Job) -> str:
            status = stage_of(job, of_round(PAIR, number))
            status.total = kept
            for later in range(number, context.plan.rounds + 1):
                for stage in after_pair if later == number else stages:
                    stage_of(job, of_round(stage, later)).state = StageStatus.STATE_SKIPPED
            least = f"the least share is {context.plan.min_yield:g}"
            return f"Round {number} keeps {kept} of {tried} refinements, and {least}: round {number - 1} is the last."

        await self._update(context.uid, of_round(PAIR, number), change)

    async def reward_modeling(self, context: JobContext, *, pairs_version: str, number: int) -> None:
        """Trains a reward model on the pairs of the round."""
        stage = of_round(REWARD_MODELING, number)
        request = optimization.reward_request(context, pairs=pairs_version, number=number)
        trained = await self._training.run(context, [request], stage=stage)
        reward = trained[request.purpose]

        def change(job: Job) -> str:
            job.models.reward = reward
            return f"The reward model is {reward}."

        await self._update(context.uid, stage, change)
        await self._tables.link(context, (pairs_version, reward, "trained_on"), (context.name, reward, "produced"))

    async def optimize(self, context: JobContext, *, pairs_version: str, verified: str, number: int) -> None:
        """Optimises the policy of the round with the method of the plan."""
        stage, policy, method = (
            of_round(OPTIMIZE, number),
            policy_of(context.job, number),
            context.plan.optimization.method,
        )
        dataset, splits = pairs_version, tuple[str, ...]()
        if method == "sdpo":
            dataset = verified
        elif method in ONLINE_METHODS:
            dataset, splits = await self._training_prompts(context)
        request = optimization.request(context, dataset=dataset, splits=splits, number=number)
        trained = await self._training.run(context, [request], stage=stage)
        aligned = trained[request.purpose]

        def change(job: Job) -> str:
            job.models.aligned = aligned
            del job.models.policies[number - 1 :]
            job.models.policies.append(aligned)
            return f"The aligned model is {aligned}."

        await self._update(context.uid, stage, change)
        terms = optimization.rewards(context.plan, context.job.models)
        rewards = {term.reward_model or term.judge or term.critic for term in terms} - {""}
        await self._tables.link(
            context,
            (dataset, aligned, "trained_on"),
            (policy, aligned, "initialized_from"),
            (context.name, aligned, "produced"),
            *((reward, aligned, "rewarded_by") for reward in sorted(rewards)),
        )

    async def plan_evaluation(self, context: JobContext) -> int:
        """Decides which held-out prompt is in which chunk, and makes the tables; returns the number of chunks."""
        await self._create(context, (*EVALUATION_STEPS, QUARANTINE))
        split, limit = context.plan.evaluation_split, context.plan.max_evaluation_prompts
        planned = await self._plan(context, EVALUATE, split=split, limit=limit)

        def change(job: Job) -> str:
            status = stage_of(job, EVALUATE)
            status.total, status.dataset = planned.records, context.table(EVALUATION)
            return f"{planned.records} prompts to evaluate in {planned.chunks} chunks."

        await self._update(context.uid, EVALUATE, change)
        return planned.chunks

    async def close_evaluation(self, context: JobContext) -> None:
        """Freezes the tables of the evaluation and links them."""
        versions = [await self._tables.commit(context, step) for step in EVALUATION_STEPS]
        await self._tables.commit(context, QUARANTINE)
        await self._tables.link(
            context,
            (context.plan.dataset, versions[0], "answers_of"),
            (versions[0], versions[1], "answers_of"),
            (versions[1], versions[2], "evaluation_of"),
            (context.job.models.aligned, versions[2], "evaluated_in"),
            *((context.name, version, "produced") for version in versions),
        )

    async def report(self, context: JobContext) -> None:
        """Writes the report."""
        job, _ = await self._jobs.load(context.uid)

        async def make() -> dict[str, bytes]:
            return await make_report(job, data=context.clients.data, training=context.clients.training)

        await self._jobs.put_report(context.uid, await self._retrier.call(make, uid=context.uid, service="data"))

        def change(job: Job) -> str:
            status = stage_of(job, REPORT)
            status.completed = status.total = 1
            return "The report is written."

        await self._update(context.uid, REPORT, change)

    # ---- parts ----

    async def _create(self, context: JobContext, purposes: tuple[str, ...]) -> None:
        for purpose in purposes:
            await self._tables.create(context, purpose)

    async def _plan(self, context: JobContext, phase: str, *, split: str, limit: int) -> Planned:
        """Stores which prompt of a split is in which chunk of a phase."""
        prompts = await self._reader.limited(context, reading.split(context, split), limit=limit)

        async def keyed() -> AsyncIterator[tuple[str, str]]:
            async for record in prompts():
                yield record.id, record.subtask

        async def put() -> Planned:
            chunks = planning.plan_chunks(keyed(), size=context.plan.chunk_size)
            return await self._chunks.put_chunks(context.uid, phase=phase, chunks=chunks)

        return await self._retrier.call(put, uid=context.uid, service="data")

    async def _training_prompts(self, context: JobContext) -> tuple[str, tuple[str, ...]]:
        """The dataset version and splits that hold the prompts of the job and no others."""
        plan = context.plan
        if not plan.subtasks and not plan.max_prompts:
            return plan.dataset, (plan.prompt_split,)
        stream = reading.split(context, plan.prompt_split)
        prompts = await self._reader.limited(context, stream, limit=plan.max_prompts)

        async def bare() -> AsyncIterator[Record]:
            async for record in prompts():
                yield prompt_only(record)

        return await self._copy(context, PROMPTS, bare), ()

    async def _feedback_request(self, context: JobContext) -> TrainingRequest:
        """The job that trains the feedback model, on a table with the share of the records that it may learn from."""
        fraction, annotated = context.plan.feedback_fraction, reading.split(context, context.plan.feedback_split)

        def stream() -> AsyncIterator[Record]:
            return reading.wanted(annotated(), pairs.has_feedback)

        drawn = await self._reader.draw(context, stream, lambda total: planning.share(total, fraction=fraction))
        dataset = await self._copy(context, FEEDBACK, lambda: reading.chosen(stream(), drawn.takes))
        given = context.plan.feedback_training
        return _sft(context, given, purpose=training_jobs.FEEDBACK, target="feedback", dataset=dataset)

    async def _judge_request(self, context: JobContext) -> TrainingRequest:
        """The job that trains the judge, on all annotated records but those that calibrate the gate."""
        plan, annotated = context.plan, reading.split(context, context.plan.feedback_split)
        held_out, _ = await self._reader.hold_out(context)
        judge = functools.partial(_sft, context, plan.judge_training, purpose=training_jobs.JUDGE, target="judgement")
        if not held_out and not plan.subtasks:
            return judge(dataset=plan.dataset, splits=(plan.feedback_split,))

        def learnt(record: Record) -> bool:
            return record.id not in held_out and (pairs.has_preference(record) or pairs.has_feedback(record))

        return judge(dataset=await self._copy(context, JUDGEMENT, lambda: reading.wanted(annotated(), learnt)))

    async def _copy(self, context: JobContext, purpose: str, records: Stream) -> str:
        await self._tables.create(context, purpose)
        await self._tables.fill(context, purpose, records)
        version = await self._tables.commit(context, purpose)
        await self._tables.link(
            context, (context.plan.dataset, version, "subset_of"), (context.name, version, "produced")
        )
        return version


def _sft(
    context: JobContext,
    given: training_service_pb2.Hyperparameters,
    *,
    purpose: str,
    target: str,
    dataset: str,
    splits: tuple[str, ...] = (),
) -> TrainingRequest:
    spec = TrainingSpec(
        method="sft",
        target=target,
        base_model=context.plan.base_model,
        dataset=dataset,
        splits=splits,
        output_model_id=f"{names.id_of(context.name)}-{purpose}",
    )
    training_jobs.fill(spec, context.plan, given)
    if context.plan.HasField("feedback_modeling_lora"):
        spec.lora.CopyFrom(context.plan.feedback_modeling_lora)
    return training_jobs.request(context, spec, purpose=purpose)


def _no_pairs(context: JobContext, *, stage: str, table: str) -> FailedPrecondition:
    what = "annotated preference" if is_binary(context.plan) else "refinement passed the judge, so that no pair"
    return FailedPrecondition(
        f"no {what} was left to optimise on; look at the verdicts in '{table}'",
        reason="NO_PAIRS_KEPT",
        metadata={"stage": stage},
    )


def _looked_at(report: alignment_service_pb2.PreflightReport) -> int:
    return report.feedback_records + report.prompts + report.evaluation_prompts
