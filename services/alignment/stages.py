"""What each stage of a job does, the chunks of records excepted. Every method may be called again after a crash."""

from collections.abc import Awaitable, Callable
from typing import Any

from omnialign.errors import FailedPrecondition
from omnialign.v1 import alignment_service_pb2, record_pb2, training_service_pb2
from services.alignment import pairs, preflight, seeds, tables, training
from services.alignment.chunks import plan_chunks
from services.alignment.job import Work, is_binary, stage_of
from services.alignment.patience import Patience
from services.alignment.progress import EVALUATE, LOOP
from services.alignment.report import make_report
from services.alignment.storage import Storage
from services.alignment.store import Job, Spec, Store
from services.alignment.training import Request, Trainer, TrainingSpec

Change = Callable[[Job], str | None]
Report = Callable[[str, str, Change], Awaitable[None]]
"""Changes a job: told its uid, the stage, and the change."""


class Stages:
    """The stages of all jobs of a process."""

    def __init__(self, store: Store, *, storage: Storage, patience: Patience, report: Report) -> None:
        self._store, self._storage = store, storage
        self._patience, self._report = patience, report

    async def preflight(self, work: Work) -> None:
        """Looks at everything that the job will read, before it takes any accelerator."""
        found = await self._patience.call(
            lambda: preflight.inspect(work.plan, work.peers), uid=work.uid, service="data"
        )

        def change(job: Job) -> str:
            job.preflight.CopyFrom(found)
            stage_of(job, "preflight").completed = stage_of(job, "preflight").total = _looked_at(found)
            return f"Pre-flight: {found.prompts} prompts, {found.evaluation_prompts} to evaluate."

        await self._report(work.uid, "preflight", change)

    async def feedback_modeling(self, work: Work) -> None:
        """Trains the feedback model on a share of the annotated critiques, and the judge on the preferences."""
        requests = []
        if not work.models.feedback and not is_binary(work.plan):
            requests.append(await self._feedback_request(work))
        if not work.models.judge:
            requests.append(await self._judge_request(work))
        trained = await self._trainer(work).run(work, requests, stage="feedback_modeling")

        def change(job: Job) -> str:
            job.models.feedback = trained.get(training.FEEDBACK, job.models.feedback)
            job.models.judge = trained.get(training.JUDGE, job.models.judge)
            return "The feedback models are trained."

        await self._report(work.uid, "feedback_modeling", change)
        await self._storage.link(work, *((work.name, model, "produced") for model in trained.values()))

    async def plan_loop(self, work: Work) -> int:
        """Decides which prompt is in which chunk, and makes the tables; returns the number of chunks."""
        await self._create(work, (*tables.LOOP_STAGES, tables.QUARANTINE))
        prompts = await self._prompts(work, split=work.plan.prompt_split, limit=work.plan.max_prompts)
        chunks = plan_chunks(prompts, size=work.plan.chunk_size)
        await self._store.put_chunks(work.uid, phase=LOOP, chunks=chunks)

        def change(job: Job) -> str:
            for stage in tables.LOOP_STAGES:
                stage_of(job, stage).total = len(prompts)
                stage_of(job, stage).dataset = work.table(stage)
            return f"{len(prompts)} prompts in {len(chunks)} chunks."

        await self._report(work.uid, "sample", change)
        return len(chunks)

    async def close_loop(self, work: Work) -> str:
        """Freezes the tables of the loop and links them; returns the version of the last."""
        versions = {stage: await self._storage.commit(work, stage) for stage in tables.LOOP_STAGES}
        await self._storage.commit(work, tables.QUARANTINE)
        steps = zip((work.plan.dataset, *versions.values()), versions.items(), strict=False)
        await self._storage.link(
            work,
            *((source, version, f"{stage}_of") for source, (stage, version) in steps),
            *((work.name, version, "produced") for version in versions.values()),
        )
        return versions[tables.VERIFY]

    async def pair(self, work: Work, *, verified: str) -> str:
        """Keeps the pairs that passed the gate, or takes the annotated ones; returns the version of their table."""
        await self._create(work, (tables.PAIRS,))
        found = await self._patience.call(lambda: self._find_pairs(work, verified), uid=work.uid, service="data")
        kept = pairs.cap(found, seed=work.plan.seed, count=work.plan.max_pairs)
        if not kept:
            raise _no_pairs(work)
        await self._storage.append(work, work.table(tables.PAIRS), kept)
        version = await self._storage.commit(work, tables.PAIRS)
        source = verified or work.plan.dataset
        await self._storage.link(work, (source, version, "kept_of"), (work.name, version, "produced"))

        def change(job: Job) -> str:
            status = stage_of(job, "pair")
            status.completed, status.total, status.dataset = len(kept), len(found), work.table(tables.PAIRS)
            return f"{len(kept)} pairs of {len(found)} are taken."

        await self._report(work.uid, "pair", change)
        return version

    async def optimize(self, work: Work, *, pairs_version: str) -> None:
        """Optimises the initial model on the pairs."""
        spec = TrainingSpec(
            method="dpo",
            base_model=work.models.base,
            dataset=pairs_version,
            output_model_id=f"{_id(work)}-aligned",
            hyperparameters=training.hyperparameters(work, work.plan.optimization, purpose=training.OPTIMIZE),
            distribution=work.plan.distribution,
            max_restarts=training.MAX_RESTARTS,
            media_policy=work.plan.media_policy,
        )
        request = Request(training.OPTIMIZE, spec)
        trained = await self._trainer(work).run(work, [request], stage="optimize")
        aligned = trained[training.OPTIMIZE]

        def change(job: Job) -> str:
            job.models.aligned = aligned
            return f"The aligned model is {aligned}."

        await self._report(work.uid, "optimize", change)
        await self._storage.link(
            work,
            (pairs_version, aligned, "trained_on"),
            (work.models.base, aligned, "initialized_from"),
            (work.name, aligned, "produced"),
        )

    async def plan_evaluation(self, work: Work) -> int:
        """Decides which held-out prompt is in which chunk, and makes the tables; returns the number of chunks."""
        await self._create(work, (*tables.EVALUATION_STEPS, tables.QUARANTINE))
        limit = work.plan.max_evaluation_prompts
        prompts = await self._prompts(work, split=work.plan.evaluation_split, limit=limit)
        chunks = plan_chunks(prompts, size=work.plan.chunk_size)
        await self._store.put_chunks(work.uid, phase=EVALUATE, chunks=chunks)

        def change(job: Job) -> str:
            status = stage_of(job, EVALUATE)
            status.total, status.dataset = len(prompts), work.table(tables.EVALUATION)
            return f"{len(prompts)} prompts to evaluate in {len(chunks)} chunks."

        await self._report(work.uid, EVALUATE, change)
        return len(chunks)

    async def close_evaluation(self, work: Work) -> None:
        """Freezes the tables of the evaluation and links them."""
        versions = [await self._storage.commit(work, step) for step in tables.EVALUATION_STEPS]
        await self._storage.commit(work, tables.QUARANTINE)
        await self._storage.link(
            work,
            (work.plan.dataset, versions[0], "answers_of"),
            (versions[0], versions[1], "answers_of"),
            (versions[1], versions[2], "evaluation_of"),
            (work.models.aligned, versions[2], "evaluated_in"),
            *((work.name, version, "produced") for version in versions),
        )

    async def report(self, work: Work) -> None:
        """Writes the report."""
        job, _ = await self._store.load(work.uid)

        async def make() -> dict[str, bytes]:
            return await make_report(job, work.peers.data)

        await self._store.put_report(work.uid, await self._patience.call(make, uid=work.uid, service="data"))

        def change(job: Job) -> str:
            status = stage_of(job, "report")
            status.completed = status.total = 1
            return "The report is written."

        await self._report(work.uid, "report", change)

    # ---- parts ----

    def _trainer(self, work: Work) -> Trainer:
        async def report(stage: str, change: Change) -> None:
            await self._report(work.uid, stage, change)

        return Trainer(self._patience, report)

    async def cancel_training(self, work: Work) -> None:
        """Cancels the training jobs of a job."""
        await self._trainer(work).cancel(work)

    async def _create(self, work: Work, purposes: tuple[str, ...]) -> None:
        for purpose in purposes:
            await self._storage.create(work, purpose)

    async def _prompts(self, work: Work, *, split: str, limit: int) -> list[tuple[str, str]]:
        async def read() -> list[tuple[str, str]]:
            return [(r.id, r.subtask) async for r in preflight.records_of(work.plan, work.peers, split=split)]

        prompts = await self._patience.call(read, uid=work.uid, service="data")
        return preflight.selected(prompts, seed=work.plan.seed, limit=limit)

    async def _find_pairs(self, work: Work, verified: str) -> list[record_pb2.Record]:
        if is_binary(work.plan):
            split = work.plan.feedback_split
            return await pairs.annotated(preflight.records_of(work.plan, work.peers, split=split))
        return await pairs.gated(work.peers.data.stream_records(verified))

    async def _feedback_request(self, work: Work) -> Request:
        """The job that trains the feedback model, on a table with the share of the records that it may learn from."""
        records = await self._annotated(work, pairs.has_feedback)
        count = seeds.share(len(records), fraction=work.plan.feedback_fraction)
        chosen = set(seeds.subset([r.id for r in records], seed=work.plan.seed, count=count))
        dataset = await self._copy(work, tables.FEEDBACK, [r for r in records if r.id in chosen])
        given = work.plan.feedback_training
        return _sft(work, given, purpose=training.FEEDBACK, target="feedback", dataset=dataset)

    async def _judge_request(self, work: Work) -> Request:
        """The job that trains the judge, on all annotated preferences: it is the gate."""
        given = work.plan.judge_training
        if not work.plan.subtasks:
            split = (work.plan.feedback_split,)
            dataset = work.plan.dataset
            return _sft(work, given, purpose=training.JUDGE, target="judgement", dataset=dataset, splits=split)
        dataset = await self._copy(work, tables.JUDGEMENT, await self._annotated(work, pairs.has_preference))
        return _sft(work, given, purpose=training.JUDGE, target="judgement", dataset=dataset)

    async def _annotated(self, work: Work, wanted: Callable[[record_pb2.Record], bool]) -> list[record_pb2.Record]:
        async def read() -> list[record_pb2.Record]:
            stream = preflight.records_of(work.plan, work.peers, split=work.plan.feedback_split)
            return [record async for record in stream if wanted(record)]

        return await self._patience.call(read, uid=work.uid, service="data")

    async def _copy(self, work: Work, purpose: str, records: list[record_pb2.Record]) -> str:
        await self._storage.create(work, purpose)
        await self._storage.append(work, work.table(purpose), records)
        version = await self._storage.commit(work, purpose)
        await self._storage.link(work, (work.plan.dataset, version, "subset_of"), (work.name, version, "produced"))
        return version


def _sft(
    work: Work,
    given: training_service_pb2.Hyperparameters,
    *,
    purpose: str,
    target: str,
    dataset: str,
    splits: tuple[str, ...] = (),
) -> Request:
    spec = TrainingSpec(
        method="sft",
        target=target,
        base_model=work.plan.base_model,
        dataset=dataset,
        splits=splits,
        output_model_id=f"{_id(work)}-{purpose}",
        hyperparameters=training.hyperparameters(work, given, purpose=purpose),
        distribution=work.plan.distribution,
        max_restarts=training.MAX_RESTARTS,
        media_policy=work.plan.media_policy,
    )
    return Request(purpose, spec)


def _id(work: Work) -> str:
    return work.name.rpartition("/")[2]


def _no_pairs(work: Work) -> FailedPrecondition:
    what = "annotated preference" if is_binary(work.plan) else "refinement passed the judge, so that no pair"
    return FailedPrecondition(
        f"no {what} was left to optimise on; look at the verdicts in '{work.table(tables.VERIFY)}'",
        reason="NO_PAIRS_KEPT",
        metadata={"stage": "pair"},
    )


def _looked_at(report: alignment_service_pb2.PreflightReport) -> int:
    return report.feedback_records + report.prompts + report.evaluation_prompts


def skipped(plan: Spec, models: alignment_service_pb2.JobModels) -> dict[str, Any]:
    """Stages that a plan does not need, with the reason as a sentence."""
    if is_binary(plan):
        left_out: dict[str, Any] = dict.fromkeys(tables.LOOP_STAGES, "the pairs are the annotated preferences")
        if models.judge:
            left_out["feedback_modeling"] = "the judge is given"
        return left_out
    return {"feedback_modeling": "both models are given"} if models.feedback and models.judge else {}
