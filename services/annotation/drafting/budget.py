"""The token budget of a draft job: once it is used the job pauses, and goes on when a person gives it more.

It is kept in the job, and what is used in the counts of its committed chunks, so that both survive whatever happens to
the process. Chunks that were in flight when it was used up end; those are as many as a replica takes up at once.
"""

import functools
from collections.abc import Mapping

from omnialign.errors import FailedPrecondition
from services.annotation.drafting.job import DRAFT, Job
from services.pipeline.chunk_store import ChunkStore
from services.pipeline.counts import Counts
from services.pipeline.job_store import JobStore
from services.pipeline.kind import JobContext, stage_of

TOKENS_READ, PARTS_ABSTAINED = "tokens_read", "parts_abstained"
"""What is counted of each pair beside the tokens that were written."""


class Budget:
    """The budgets of all draft jobs of a process."""

    def __init__(self, jobs: JobStore, chunks: ChunkStore) -> None:
        self._jobs, self._chunks = jobs, chunks

    async def allows(self, context: JobContext) -> bool:
        """Whether another chunk may begin; if not, the job is paused."""
        counts = (await self._chunks.totals(context.uid)).get(DRAFT, Counts())
        job, _ = await self._jobs.load(context.uid)
        if used(counts) < job.token_budget:
            return True
        await self._jobs.change(context.uid, functools.partial(_pause, tokens=used(counts)))
        return False


def used(counts: Counts) -> int:
    """Tokens read and written."""
    return counts.tokens + counts.measure(TOKENS_READ)


def summarize(job: Job, totals: Mapping[str, Counts]) -> None:
    """Sets what a job has used, and on how much the model abstained."""
    counts = totals.get(DRAFT, Counts())
    job.tokens_used, job.abstained_part_count = used(counts), counts.measure(PARTS_ABSTAINED)


def raised(job: Job, *, token_budget: int) -> str | None:
    """Gives a job another budget; a job that has ended, and one that has used more, refuse it.

    Raises FailedPrecondition (`JOB_STATE`, `TOKEN_BUDGET_USED`).
    """
    if job.state in (job.STATE_SUCCEEDED, job.STATE_FAILED, job.STATE_CANCELLED, job.STATE_CANCELLING):
        state = job.State.Name(job.state)
        message = f"the draft job '{job.name}' cannot be given a budget: it is {state}"
        raise FailedPrecondition(message, reason="JOB_STATE", metadata={"name": job.name, "state": state})
    check_budget(job, token_budget=token_budget or job.token_budget)
    if token_budget in (0, job.token_budget):
        return None
    job.token_budget = token_budget
    return f"The budget is {token_budget:,} tokens now."


def check_budget(job: Job, *, token_budget: int) -> None:
    """Raises FailedPrecondition (`TOKEN_BUDGET_USED`) if a job has used as much already."""
    if job.tokens_used >= token_budget:
        message = (
            f"the draft job '{job.name}' has used {job.tokens_used} tokens, and the budget is {token_budget}; resume "
            "it with a larger token_budget (--tokens)"
        )
        metadata = {"tokens_used": str(job.tokens_used), "token_budget": str(token_budget)}
        raise FailedPrecondition(message, reason="TOKEN_BUDGET_USED", metadata=metadata)


def _pause(job: Job, *, tokens: int) -> str | None:
    if job.state != job.STATE_RUNNING or tokens < job.token_budget:
        return None
    job.state, job.tokens_used = job.STATE_PAUSED, tokens
    status = stage_of(job, DRAFT)
    done = status.completed + status.abstained + status.quarantined
    return (
        f"Paused: {tokens:,} tokens are used, and the budget is {job.token_budget:,}; {done} of {status.total} pairs "
        "are done. Resume it with a larger budget to go on."
    )
