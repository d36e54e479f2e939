"""What each stage of an evaluation does, except for the steps of its chunks.

Every method may be called again after a crash: what it writes replaces the same by the same.
"""

import asyncio
from collections.abc import Iterable

from services.evaluation import preflight
from services.evaluation.agents import instructed
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.items import read_items
from services.evaluation.job import (
    ANSWER,
    ANSWERS,
    PREFLIGHT,
    REPORT,
    SCORE,
    SCORES,
    TASKS,
    WORKS,
    Job,
    Part,
    parts_of,
)
from services.evaluation.report import make_report
from services.evaluation.scores import BenchmarkScore, samples_of, scores_of
from services.evaluation.summaries import summaries_of
from services.evaluation.works import BENCHMARK, MODEL, chunk_key, item_of, number_of, works_of
from services.pipeline import planning
from services.pipeline.kind import JobContext, Record, Records, stage_of
from services.pipeline.quarantine import QUARANTINE
from services.pipeline.service import Toolbox


class Stages:
    """The stages of all evaluations of a process."""

    def __init__(self, tools: Toolbox) -> None:
        self._jobs, self._chunks, self._tables = tools.jobs, tools.chunks, tools.tables
        self._retrier, self._update = tools.retrier, tools.updater.update

    async def preflight(self, context: JobContext) -> None:
        """Looks at everything that will be read, before any model is asked."""
        manifest = context.job.manifest
        found, complete = await self._retrier.call(
            lambda: preflight.inspect(context.plan, manifest, context.clients), uid=context.uid, service="data"
        )

        def change(job: Job) -> str:
            job.preflight.CopyFrom(found)
            job.manifest.CopyFrom(complete)
            status = stage_of(job, PREFLIGHT)
            status.completed = status.total = sum(identity.items for identity in complete.benchmarks)
            return f"Pre-flight: {found.answers} answers and {found.judgements} judgements to ask for."

        await self._update(context.uid, PREFLIGHT, change)

    async def plan_answers(self, context: JobContext) -> int:
        """Decides which item is in which chunk for which model, and makes the tables; returns the number of chunks."""
        purposes = (WORKS, ANSWERS, TASKS, SCORES, QUARANTINE)
        await asyncio.gather(*(self._tables.create(context, purpose) for purpose in purposes))
        works: Records = []
        for part in parts_of(context.plan):
            if BENCHMARKS[part.spec.name].is_answered:
                found = works_of(context.plan, part, await self._items(context, part.id))
                works += (self._instructed(context, part, work) for work in found)
        return await self._plan(context, works, stage=ANSWER, reads=WORKS, writes=ANSWERS)

    async def plan_scores(self, context: JobContext) -> int:
        """Decides what is scored by whom, in which chunk; returns the number of chunks."""
        answers: dict[str, Records] = {}
        for record in await self._read(context, ANSWERS):
            answers.setdefault(record.labels[BENCHMARK], []).append(record)
        tasks: Records = []
        for part in parts_of(context.plan):
            kind = BENCHMARKS[part.spec.name]
            found = answers.get(part.id, []) if kind.is_answered else await self._items(context, part.id)
            if kind.is_answered and part.spec.ablation:
                _restore_prompts(found, await self._items(context, part.id))
            tasks += kind.tasks(context.plan, part, found)
        return await self._plan(context, tasks, stage=SCORE, reads=TASKS, writes=SCORES)

    async def close(self, context: JobContext) -> str:
        """Freezes the tables and links them; returns the version of the scores."""
        purposes = (ANSWERS, SCORES, QUARANTINE)
        answers, scores, _ = await asyncio.gather(*(self._tables.commit(context, purpose) for purpose in purposes))
        datasets = dict.fromkeys(part.spec.dataset for part in parts_of(context.plan))
        judges = dict.fromkeys(j.model for part in parts_of(context.plan) for j in part.spec.judges)
        generators = dict.fromkeys(mode.generator for mode in context.job.manifest.modes if mode.generator)
        await self._tables.link(
            context,
            *((dataset, answers, "answers_of") for dataset in datasets),
            (answers, scores, "evaluation_of"),
            *((model, scores, "evaluated_in") for model in context.plan.models),
            *((judge, scores, "judged_in") for judge in judges),
            *((generator, answers, "generated_in") for generator in generators),
            *((context.name, version, "produced") for version in (answers, scores)),
        )

        def change(job: Job) -> str:
            stage_of(job, ANSWER).dataset, stage_of(job, SCORE).dataset = answers, scores
            return "All items are scored."

        await self._update(context.uid, SCORE, change)
        return scores

    async def report(self, context: JobContext, *, scores: str) -> None:
        """Computes the scores, and writes the report. Raises FailedPrecondition (`NOTHING_JUDGED`)."""
        plan = context.plan
        parts = [part.id for part in parts_of(plan)]
        records, *read = await asyncio.gather(
            self._read(context, SCORES, version=scores), *(self._items(context, part_id) for part_id in parts)
        )

        def compute() -> list[BenchmarkScore]:
            samples = samples_of(plan, records, dict(zip(parts, read, strict=True)))
            return [*scores_of(plan, samples), *summaries_of(plan, samples)]

        found = await asyncio.to_thread(compute)
        templates = _templates(records)

        def change(job: Job) -> str:
            del job.scores[:]
            job.scores.extend(found)
            job.manifest.templates[:] = templates
            status = stage_of(job, REPORT)
            status.completed = status.total = 1
            return f"{len(found)} scores."

        await self._update(context.uid, REPORT, change)
        job, _ = await self._jobs.load(context.uid)

        async def make() -> dict[str, bytes]:
            return await make_report(job, plan, records=records, data=context.clients.data)

        await self._jobs.put_report(context.uid, await self._retrier.call(make, uid=context.uid, service="data"))

    # ---- parts ----

    def _instructed(self, context: JobContext, part: Part, work: Record) -> Record:
        model = context.plan.models[number_of(work, MODEL) - 1]
        return instructed(work, BENCHMARKS[part.spec.name].media(work), context.job.manifest.modes, model=model)

    async def _plan(self, context: JobContext, records: Records, *, stage: str, reads: str, writes: str) -> int:
        await self._tables.append(context, context.table(reads), records)
        keyed = planning.streamed(sorted((r.id, chunk_key(r)) for r in records))
        chunks = planning.plan_chunks(keyed, size=context.plan.chunk_size)
        planned = await self._chunks.put_chunks(context.uid, phase=stage, chunks=chunks)

        def change(job: Job) -> str:
            status = stage_of(job, stage)
            status.total, status.dataset = len(records), context.table(writes)
            return f"{planned.records} records to {stage} in {planned.chunks} chunks."

        await self._update(context.uid, stage, change)
        return planned.chunks

    async def _items(self, context: JobContext, part_id: str) -> Records:
        part = next(part for part in parts_of(context.plan) if part.id == part_id)
        items = await self._retrier.call(
            lambda: read_items(context.plan, part, context.clients), uid=context.uid, service="data"
        )
        return items.records

    async def _read(self, context: JobContext, purpose: str, *, version: str = "") -> Records:
        async def read() -> Records:
            source = version or context.table(purpose)
            return [record async for record in context.clients.data.stream_records(source)]

        return await self._retrier.call(read, uid=context.uid, service="data")


def _restore_prompts(answers: Records, items: Records) -> None:
    """Gives answers to shortened prompts the whole ones again: that is what they are judged by."""
    asked = {item.id: item for item in items}
    for answer in answers:
        item = asked[item_of(answer)]
        answer.prompt.CopyFrom(item.prompt)
        del answer.history[:]
        answer.history.extend(item.history)


def _templates(records: Iterable[Record]) -> list[str]:
    """The prompt templates behind answers and scores."""
    found = set()
    for record in records:
        comparison = record.comparison
        generations = [comparison.forward_generation, comparison.backward_generation]
        for response in record.responses:
            generations += [response.generation, *(a.generation for a in response.assessments)]
            generations += [made.generation for made in response.made_of]
        found |= {generation.template for generation in generations}
    return sorted(found - {""})
