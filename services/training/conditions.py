"""Why a job does no steps now: its turn, the start of its attempt, or what it does before and after its steps.

Blocks of a cluster are not read here (`kubernetes.observe` does that), only shown in the same form.
"""

from dataclasses import dataclass

from omnialign.v1.training_service_pb2 import TrainingJob, TrainingProgress
from services.training.store import ENDED, Entry, now


@dataclass(frozen=True)
class Condition:
    """A reason in UPPER_SNAKE and a sentence; both are empty when nothing holds the job."""

    reason: str = ""
    message: str = ""


NONE = Condition()
STARTING = Condition("STARTING", "its program starts")
PHASES = {
    TrainingProgress.PHASE_FETCHING_MODEL: "fetches the base model",
    TrainingProgress.PHASE_LOADING_MODEL: "loads the model",
    TrainingProgress.PHASE_SAVING_MODEL: "writes the finished model",
    TrainingProgress.PHASE_DELIVERING_MODEL: "hands the finished model over",
}


def waiting_for_slot(*, ahead: int, max_running: int) -> Condition:
    """The condition of a job that is not yet due, with `ahead` unfinished jobs before it."""
    running = "1 job runs" if max_running == 1 else f"{max_running} jobs run"
    before = "1 is" if ahead == 1 else f"{ahead} are"
    return Condition("WAITING_FOR_SLOT", f"waits for its turn: {running} at a time, and {before} ahead of it")


def of_running(progress: TrainingProgress) -> Condition:
    """The condition of an attempt that runs, by what it last said of itself."""
    phase = progress.phase
    if phase == TrainingProgress.PHASE_UNSPECIFIED:
        return STARTING
    if phase == TrainingProgress.PHASE_TRAINING:
        return NONE
    reason = TrainingProgress.Phase.Name(phase).removeprefix("PHASE_")
    if phase == TrainingProgress.PHASE_READING_RECORDS:
        return Condition(reason, _reading(progress))
    return Condition(reason, PHASES[phase])


def _reading(progress: TrainingProgress) -> str:
    if progress.records_total:
        return f"reads its records: {progress.records_read:,} of {progress.records_total:,}"
    return f"reads its records: {progress.records_read:,} so far" if progress.records_read else "reads its records"


def note_condition(entry: Entry, condition: Condition) -> None:
    """Shows a condition on a job that has not ended. Its time is that of the first message with its reason."""
    job = entry.job
    if not condition.reason:
        job.ClearField("condition")
    elif job.state not in ENDED:
        if job.condition.reason != condition.reason:
            job.condition.update_time.CopyFrom(now())
        job.condition.reason, job.condition.message = condition.reason, condition.message


def shows(job: TrainingJob, condition: Condition) -> bool:
    """Whether a job shows a condition already."""
    return (job.condition.reason, job.condition.message) == (condition.reason, condition.message)


def note_report(progress: TrainingProgress, report: TrainingProgress) -> None:
    """Adds a job's report to its progress. A report that leaves something out changes nothing of it.

    So the steps of an earlier attempt stay until this one says where it goes on, and a pod's bare heartbeat takes
    nothing back that the run said.
    """
    if report.completed_steps or report.total_steps:
        phase = report.phase or TrainingProgress.PHASE_TRAINING
        progress.CopyFrom(report)
        progress.phase = phase
    elif report.phase:
        progress.phase = report.phase
        progress.records_read, progress.records_total = report.records_read, report.records_total
        if report.examples:
            progress.examples, progress.held_out_examples = report.examples, report.held_out_examples
            progress.ClearField("dropped")
            progress.dropped.update(report.dropped)
    progress.heartbeat_time.CopyFrom(now())


def note_new_attempt(progress: TrainingProgress) -> None:
    """Forgets what an earlier attempt did when it ended; the steps that it made stay."""
    progress.ClearField("phase")
    progress.ClearField("records_read")
    progress.ClearField("records_total")
