"""What an alignment job does: which stage follows which, and what its progress shows.

    preflight -> feedback_modeling -> sample -> critique -> refine -> verify -> pair -> optimize -> evaluate -> report

Stages with a body of their own are in `stages`; the four of self improving, and the evaluation, work on chunks of
records, and their steps are in `self_improvement` and `evaluation_steps`.
"""

import functools
from collections.abc import Mapping

from services.alignment.evaluation_steps import CORRECT_LABELS, EvaluationSteps
from services.alignment.job import (
    CRITIQUE,
    EVALUATE,
    EVALUATION,
    FEEDBACK_MODELING,
    LOOP,
    LOOP_STAGES,
    OPTIMIZE,
    PAIR,
    PREFLIGHT,
    REPORT,
    SAMPLE,
    VERIFY,
    Job,
    StageStatus,
    is_binary,
)
from services.alignment.metrics import AlignmentMetrics
from services.alignment.self_improvement import self_improvement_steps
from services.alignment.stages import Stages
from services.alignment.training_jobs import TrainingJobRunner
from services.pipeline.counts import Counts
from services.pipeline.kind import JobContext, JobRun, Phase, stage_of
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
        """Sets how many records each stage expects, the fate of the pairs, and the rates of the evaluation."""
        _set_expected(job)
        _set_pairs(job, totals)
        _set_evaluation(stage_of(job, EVALUATE), totals.get(EVALUATION, Counts()))

    def observe_step(self, step: str, counts: Counts) -> None:
        """Counts the verdicts of a chunk."""
        self._metrics.count_verdicts(step, counts)

    def observe_job(self, job: Job) -> None:
        """Shows the yield of the gate."""
        self._metrics.show_pairs(job.pairs)


def _set_expected(job: Job) -> None:
    """A stage of the loop expects what the stage before it let through."""
    expected = stage_of(job, SAMPLE).total
    for stage in LOOP_STAGES:
        if not expected:  # not planned yet, or nothing is left
            return
        status = stage_of(job, stage)
        status.total = expected
        # Only a critic's abstention takes the record out; a judge's is a verdict.
        expected -= status.quarantined + (status.abstained if stage == CRITIQUE else 0)


def _set_pairs(job: Job, totals: Mapping[str, Counts]) -> None:
    verify, critique = totals.get(VERIFY), totals.get(CRITIQUE, Counts())
    if verify is None:
        return
    pairs = job.pairs
    pairs.kept, pairs.tied, pairs.lost = (verify.measure(name) for name in ("kept", "tied", "lost"))
    pairs.abstained = verify.abstained + critique.abstained
    pairs.tried = pairs.kept + pairs.tied + pairs.lost + pairs.abstained


def _set_evaluation(status: StageStatus, counts: Counts) -> None:
    if status.state == StageStatus.STATE_DONE:
        status.total = status.completed + status.quarantined + status.abstained
    kept, tied, lost = (counts.measure(name) for name in ("kept", "tied", "lost"))
    compared = kept + tied + lost + counts.abstained
    if compared:
        status.metrics["win_rate"] = kept / compared
        status.metrics["tie_rate"] = tied / compared
        status.metrics["loss_rate"] = lost / compared
        status.metrics["abstain_rate"] = counts.abstained / compared
    if checked := counts.measure("checked"):
        for label in CORRECT_LABELS:
            status.metrics[label] = counts.measure(label) / checked
