"""What each stage of an evaluation does, except for the steps of its chunks.

Every method may be called again after a crash: what it writes replaces the same by the same.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from omnialign.wording import counted
from services.evaluation import preflight
from services.evaluation.agents import instructed
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.items import items_of
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
from services.evaluation.report.choice import Choice
from services.evaluation.scores import BenchmarkScore, Scoring, scores_of
from services.evaluation.summaries import summaries_of
from services.evaluation.works import MODEL, chunk_key, ids_of_works, item_of, number_of, works_of
from services.pipeline import planning
from services.pipeline.chunk_store import Planned
from services.pipeline.kind import JobContext, Record, Records, stage_of
from services.pipeline.quarantine import QUARANTINE
from services.pipeline.service import Toolbox

PAGE_ITEMS = 256
"""Items whose answers, by all models, are in memory at once."""


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
            wanted = f"{counted(found.answers, 'answer')} and {counted(found.judgements, 'judgement')}"
            return f"Pre-flight: {wanted} to ask for."

        await self._update(context.uid, PREFLIGHT, change)

    async def plan_answers(self, context: JobContext) -> int:
        """Decides which item is in which chunk for which model, and makes the tables; returns the number of chunks."""
        purposes = (WORKS, ANSWERS, TASKS, SCORES, QUARANTINE)
        await asyncio.gather(*(self._tables.create(context, purpose) for purpose in purposes))
        return await self._plan(context, lambda: _works(context), stage=ANSWER, reads=WORKS, writes=ANSWERS)

    async def plan_scores(self, context: JobContext) -> int:
        """Decides what is scored by whom, in which chunk; returns the number of chunks."""
        return await self._plan(context, lambda: _tasks(context), stage=SCORE, reads=TASKS, writes=SCORES)

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
        plan, data = context.plan, context.clients.data

        async def read() -> tuple[Scoring, Choice, set[str]]:
            scoring, choice, templates = Scoring(plan), Choice(plan), set[str]()
            for part in parts_of(plan):
                async for item in items_of(plan, part, context.clients):
                    scoring.add_item(part, item)
            async for record in data.stream_records(scores):
                scoring.add(record)
                choice.add(record)
                templates.update(_templates(record))
            return scoring, choice, templates - {""}

        scoring, choice, templates = await self._retrier.call(read, uid=context.uid, service="data")

        def compute() -> list[BenchmarkScore]:
            samples = scoring.close()
            return [*scores_of(plan, samples), *summaries_of(plan, samples)]

        found = await asyncio.to_thread(compute)

        def change(job: Job) -> str:
            del job.scores[:]
            job.scores.extend(found)
            job.manifest.templates[:] = sorted(templates)
            status = stage_of(job, REPORT)
            status.completed = status.total = 1
            return f"{len(found)} scores."

        await self._update(context.uid, REPORT, change)
        job, _ = await self._jobs.load(context.uid)

        async def make() -> dict[str, bytes]:
            shown = [record async for record in data.stream_records(scores) if choice.shows(record)]
            return await make_report(job, plan, items=choice.told(), records=shown, data=data)

        await self._jobs.put_report(context.uid, await self._retrier.call(make, uid=context.uid, service="data"))

    async def _plan(
        self, context: JobContext, records: Callable[[], AsyncIterator[Record]], *, stage: str, reads: str, writes: str
    ) -> int:
        """Writes what a stage works on, and stores which of it is in which chunk; returns the number of chunks."""

        async def keyed() -> AsyncIterator[tuple[str, str]]:
            async for record in self._tables.written(context, reads, records()):
                yield record.id, chunk_key(record)

        async def put() -> Planned:
            chunks = planning.plan_chunks(keyed(), size=context.plan.chunk_size)
            return await self._chunks.put_chunks(context.uid, phase=stage, chunks=chunks)

        planned = await self._retrier.call(put, uid=context.uid, service="data")

        def change(job: Job) -> str:
            status = stage_of(job, stage)
            status.total, status.dataset = planned.records, context.table(writes)
            return f"{planned.records} records to {stage} in {planned.chunks} chunks."

        await self._update(context.uid, stage, change)
        return planned.chunks


async def _works(context: JobContext) -> AsyncIterator[Record]:
    """What the models are to answer."""
    models, modes = context.plan.models, context.job.manifest.modes
    for part in parts_of(context.plan):
        kind = BENCHMARKS[part.spec.name]
        if not kind.is_answered:
            continue
        async for item in items_of(context.plan, part, context.clients):
            for work in works_of(context.plan, part, item):
                yield instructed(work, kind.media(work), modes, model=models[number_of(work, MODEL) - 1])


async def _tasks(context: JobContext) -> AsyncIterator[Record]:
    """What is to be scored."""
    for part in parts_of(context.plan):
        kind = BENCHMARKS[part.spec.name]
        async for items in planning.pages(items_of(context.plan, part, context.clients), size=PAGE_ITEMS):
            found = await _answers(context, part, items) if kind.is_answered else items
            for task in kind.tasks(context.plan, part, found):
                yield task


async def _answers(context: JobContext, part: Part, items: Records) -> Records:
    """What the models answered to some items, in order of id; an answer that is in the quarantine is left out."""
    ids = [work_id for item in items for work_id in ids_of_works(context.plan, part, item)]
    answers = [record async for record in context.clients.data.stream_records(context.table(ANSWERS), ids=ids)]
    if part.spec.ablation:
        _restore_prompts(answers, items)
    return answers


def _restore_prompts(answers: Records, items: Records) -> None:
    """Gives answers to shortened prompts the whole ones again: that is what they are judged by."""
    asked = {item.id: item for item in items}
    for answer in answers:
        item = asked[item_of(answer)]
        answer.prompt.CopyFrom(item.prompt)
        del answer.history[:]
        answer.history.extend(item.history)


def _templates(record: Record) -> Iterator[str]:
    """The prompt templates behind the answers and scores of a record; empty ones among them."""
    generations = [record.comparison.forward_generation, record.comparison.backward_generation]
    for response in record.responses:
        generations += [response.generation, *(a.generation for a in response.assessments)]
        generations += [made.generation for made in response.made_of]
    return (generation.template for generation in generations)
