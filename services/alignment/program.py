"""What an alignment job does: which stage follows which, and what its progress shows.

    preflight -> feedback_modeling -> sample -> critique -> refine -> verify -> pair -> optimize -> evaluate -> report

Stages with a body of their own are in `stages`; the four of self improving, and the evaluation, work on chunks of
records, and their steps are in `self_improvement` and `evaluation_steps`.
"""

import functools
from collections.abc import Mapping

from services.alignment.evaluation_steps import EvaluationSteps
from services.alignment.job import (
    EVALUATE,
    FEEDBACK_MODELING,
    LOOP,
    OPTIMIZE,
    PAIR,
    PREFLIGHT,
    REPORT,
    Job,
    StageStatus,
    is_binary,
)
from services.alignment.self_improvement import self_improvement_steps
from services.alignment.stages import Stages
from services.alignment.summary import AlignmentMetrics, summarize
from services.alignment.training_jobs import TrainingJobRunner
from services.pipeline.counts import Counts
from services.pipeline.kind import JobContext, JobRun, Phase
from services.pipeline.service import Toolbox


class AlignmentProgram:
    """The program of alignment jobs (`kind.JobProgram`)."""

    def __init__(self, tools: Toolbox) -> None:
        self._training = TrainingJobRunner(tools.retrier, update=tools.updater.update)
        self._stages = Stages(tools, self._training)
        self._metrics = AlignmentMetrics(tools.registry)
        self._loop = Phase(name=LOOP, steps=self_improvement_steps(tools.items), plan=self._stages.plan_loop)
        steps = EvaluationSteps(tools.items, tools.retrier).steps
        self._evaluation = Phase(name=EVALUATE, steps=steps, plan=self._stages.plan_evaluation)
        self.phases = (self._loop, self._evaluation)

    async def run(self, run: JobRun) -> None:
        """Works through the stages. A running job is replayed by the order of these calls: add, never reorder."""
        stages, binary = self._stages, is_binary((await run.context()).plan)
        await run.stage(PREFLIGHT, stages.preflight)
        await run.stage(FEEDBACK_MODELING, stages.feedback_modeling)
        verified = ""
        if not binary:
            await run.chunks(self._loop)
            verified = await run.step("close_loop", stages.close_loop)
        pairs_version = await run.stage(PAIR, functools.partial(stages.pair, verified=verified))
        await run.stage(OPTIMIZE, functools.partial(stages.optimize, pairs_version=pairs_version))
        await run.chunks(self._evaluation)
        await run.step("close_evaluation", stages.close_evaluation)
        await run.stage(REPORT, stages.report)

    def has_external_work(self, job: Job) -> bool:
        """Whether training jobs may be running."""
        return any(s.training_jobs and s.state == StageStatus.STATE_RUNNING for s in job.stages)

    async def cancel_external_work(self, context: JobContext) -> None:
        """Cancels the training jobs."""
        await self._training.cancel(context)

    def summarize(self, job: Job, totals: Mapping[str, Counts]) -> None:
        """Sets what only alignment jobs show."""
        summarize(job, totals)

    def observe_step(self, step: str, counts: Counts) -> None:
        """Counts the verdicts of a chunk."""
        self._metrics.count_verdicts(step, counts)

    def observe_job(self, job: Job) -> None:
        """Shows the yield of the gate."""
        self._metrics.show_pairs(job.pairs)
