"""What an alignment job does: which stage follows which, and what its progress shows.

    preflight -> feedback_modeling -> sample -> critique -> refine -> verify -> pair -> optimize -> evaluate -> report

If people are to review pairs, the job pauses after `pair` (`review_stage`). With several rounds, the stages from sample
to optimize come once for each. Stages with a body of their own are in `stages`; the four of self improving, and the
evaluation, work on chunks of records, and their steps are in `self_improvement` and `evaluation_steps`.
"""

import functools
from collections.abc import Mapping

from services.alignment import training_jobs
from services.alignment.calibrate_stage import CalibrateStage
from services.alignment.evaluation_steps import EvaluationSteps
from services.alignment.job import (
    CALIBRATE,
    EVALUATE,
    FEEDBACK_MODELING,
    LOOP,
    OPTIMIZE,
    PAIR,
    PREFLIGHT,
    REPORT,
    REVIEW,
    REWARD_MODELING,
    ROUNDS,
    Job,
    StageStatus,
    calibrates,
    is_binary,
    of_round,
    trains_reward_model,
)
from services.alignment.review_stage import ReviewStage
from services.alignment.self_improvement import self_improvement_steps
from services.alignment.stages import Stages
from services.alignment.summary import AlignmentMetrics, summarize
from services.alignment.training_jobs import TrainingJobRunner
from services.pipeline.counts import Counts
from services.pipeline.kind import JobContext, JobRun, Phase, Step
from services.pipeline.service import Toolbox


class AlignmentProgram:
    """The program of alignment jobs (`kind.JobProgram`)."""

    def __init__(self, tools: Toolbox) -> None:
        self._training = TrainingJobRunner(tools.retrier, update=tools.updater.update)
        self._stages = Stages(tools, self._training)
        self._metrics = AlignmentMetrics(tools.registry)
        self._loops = {
            number: Phase(
                name=of_round(LOOP, number),
                steps=self_improvement_steps(tools.items, number),
                plan=functools.partial(self._stages.plan_loop, number=number),
            )
            for number in ROUNDS
        }
        self._review = ReviewStage(tools)
        self._calibrate = CalibrateStage(tools)
        self._calibration = Phase(name=CALIBRATE, steps=self._calibrate.steps(tools.items), plan=self._calibrate.plan)
        steps = EvaluationSteps(tools.items, tools.retrier).steps
        self._evaluation = Phase(name=EVALUATE, steps=steps, plan=self._stages.plan_evaluation)
        self.phases = (self._calibration, *self._loops.values(), self._evaluation)

    async def run(self, run: JobRun) -> None:
        """Works through the stages. A running job is replayed by the order of these calls: add, never reorder."""
        stages, plan = self._stages, (await run.context()).plan
        await run.stage(PREFLIGHT, stages.preflight)
        await run.stage(FEEDBACK_MODELING, stages.feedback_modeling)
        if calibrates(plan):
            await run.chunks(self._calibration)
            await run.step("close_calibration", self._calibrate.close)
        for number in range(1, max(plan.rounds, 1) + 1):
            if not await self._round(run, number, is_binary=is_binary(plan)):
                break
        await run.chunks(self._evaluation)
        await run.step("close_evaluation", stages.close_evaluation)
        await run.stage(REPORT, stages.report)

    async def _round(self, run: JobRun, number: int, *, is_binary: bool) -> bool:
        """Works through one round; False when its gate kept too little to train on, which ends the rounds."""
        stages, verified = self._stages, ""
        if not is_binary:
            await run.chunks(self._loops[number])
            close = functools.partial(stages.close_loop, number=number)
            verified = await run.step(of_round("close_loop", number), close)
        pair = functools.partial(stages.pair, verified=verified, number=number)
        pairs_version = await run.stage(of_round(PAIR, number), pair)
        if not pairs_version:
            return False
        if (await run.context()).plan.HasField("review"):
            pairs_version = await self._reviewed(run, number, pairs_version=pairs_version)
        if trains_reward_model((await run.context()).plan):
            reward = functools.partial(stages.reward_modeling, pairs_version=pairs_version, number=number)
            await run.stage(of_round(REWARD_MODELING, number), reward)
        optimize = functools.partial(stages.optimize, pairs_version=pairs_version, verified=verified, number=number)
        await run.stage(of_round(OPTIMIZE, number), optimize)
        return True

    async def _reviewed(self, run: JobRun, number: int, *, pairs_version: str) -> str:
        """Waits for people to review pairs of a round; returns the version of those that are left."""
        draw = functools.partial(self._review.open, pairs_version=pairs_version, number=number)
        await run.step(of_round("open_review", number), draw)
        apply = functools.partial(self._review.close, pairs_version=pairs_version, number=number)
        return await run.stage(of_round(REVIEW, number), apply)

    def has_external_work(self, job: Job) -> bool:
        """Whether training jobs may be running."""
        return any(s.training_jobs and s.state == StageStatus.STATE_RUNNING for s in job.stages)

    async def cancel_external_work(self, context: JobContext) -> None:
        """Cancels the training jobs."""
        each_round = (training_jobs.REWARD, training_jobs.OPTIMIZE)
        numbers = range(1, context.plan.rounds + 1)
        of_rounds = [of_round(purpose, number) for number in numbers for purpose in each_round]
        await self._training.cancel(context, [training_jobs.FEEDBACK, training_jobs.JUDGE, *of_rounds])

    def summarize(self, job: Job, totals: Mapping[str, Counts]) -> None:
        """Sets what only alignment jobs show."""
        summarize(job, totals)

    def observe_step(self, step: Step, counts: Counts) -> None:
        """Counts the verdicts of a chunk."""
        self._metrics.count_verdicts(step.label or step.name, counts)

    def observe_job(self, job: Job) -> None:
        """Shows the yield of the gate."""
        self._metrics.show_pairs(job.pairs)
