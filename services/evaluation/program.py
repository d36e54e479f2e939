"""What an evaluation does: which stage follows which, and the two steps that work on chunks of records.

    preflight -> answer -> score -> report

In `answer`, every model under test answers every item, by itself or by instructing generators (`agents`); in `score`,
judges and rules assess what came of it. How is up to the benchmarks.
"""

import functools
from collections.abc import Mapping

from services.evaluation.agents import Agents
from services.evaluation.benchmarks import BENCHMARKS
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
    parts_of,
)
from services.evaluation.metrics import EvaluationMetrics, assessment_measures
from services.evaluation.stages import Stages
from services.evaluation.works import BENCHMARK, INSTRUCTED, MODEL, number_of, seeds_of_items
from services.pipeline.checking import AnswerChecker
from services.pipeline.counts import Counts
from services.pipeline.item_calls import extended
from services.pipeline.kind import JobContext, JobRun, Outcome, Phase, Record, Records, Step
from services.pipeline.model_calls import answering_call, comparison_tokens
from services.pipeline.service import Toolbox


class EvaluationProgram:
    """The program of evaluations (`kind.JobProgram`)."""

    def __init__(self, tools: Toolbox) -> None:
        self._items = tools.items
        self._agents = Agents(tools.items)
        self._stages = Stages(tools)
        self._metrics = EvaluationMetrics(tools.registry)
        checker = AnswerChecker(tools.retrier)
        self._benchmarks = {name: kind(tools.items, checker) for name, kind in BENCHMARKS.items()}
        answer = Step(name=ANSWER, stage=ANSWER, reads=WORKS, writes=ANSWERS, run=self.answer, tokens=_answer_tokens)
        score = Step(
            name=SCORE,
            stage=SCORE,
            reads=TASKS,
            writes=SCORES,
            run=self.score,
            tokens=_judge_tokens,
            measures=assessment_measures,
        )
        self._answer = Phase(name=ANSWER, steps=(answer,), plan=self._stages.plan_answers)
        self._score = Phase(name=SCORE, steps=(score,), plan=self._stages.plan_scores)
        self.phases = (self._answer, self._score)

    async def run(self, run: JobRun) -> None:
        """Works through the stages. A running job is replayed by the order of these calls: add, never reorder."""
        await run.stage(PREFLIGHT, self._stages.preflight)
        await run.chunks(self._answer)
        await run.chunks(self._score)
        scores = await run.step("close", self._stages.close)
        await run.stage(REPORT, functools.partial(self._stages.report, scores=scores))

    async def answer(self, context: JobContext, records: Records) -> Outcome:
        """The answers of one model."""
        number = number_of(records[0], MODEL)
        call = answering_call(
            stage=ANSWER,
            model=lambda context: str(context.plan.models[number - 1]),
            seed=seeds_of_items(ANSWER),
            prepare=extended,
        )
        if INSTRUCTED in records[0].labels:
            return await self._agents.answer(context, records, call)
        return await self._items.run(context, records, call)

    async def score(self, context: JobContext, records: Records) -> Outcome:
        """The scores of what one model answered, or one judge chose."""
        part = next(part for part in parts_of(context.plan) if part.id == records[0].labels[BENCHMARK])
        return await self._benchmarks[part.spec.name].score(context, part, records)

    def has_external_work(self, job: Job) -> bool:
        """No other service works for an evaluation longer than a call takes."""
        return False

    async def cancel_external_work(self, context: JobContext) -> None:
        """Nothing is left to cancel."""

    def summarize(self, job: Job, totals: Mapping[str, Counts]) -> None:
        """Scores are shown once all are there."""

    def observe_step(self, step: Step, counts: Counts) -> None:
        """Counts the assessments of a chunk, and what it reused."""
        self._metrics.count(step.stage, counts)

    def observe_job(self, job: Job) -> None:
        """The pipeline shows all that there is."""


def _answer_tokens(record: Record) -> int:
    answer = record.responses[-1]
    generations = [answer.generation, *(made.generation for made in answer.made_of)]
    return sum(generation.completion_tokens for generation in generations)


def _judge_tokens(record: Record) -> int:
    assessed = sum(a.generation.completion_tokens for a in record.responses[-1].assessments)
    return assessed + comparison_tokens(record)
