"""The turns of a job's life that more than one part of the service brings about."""

from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.store import Entry, now


def note_running(entry: Entry) -> None:
    """Makes a launched job one that runs."""
    if entry.job.state == TrainingJob.STATE_QUEUED:
        entry.job.state = TrainingJob.STATE_RUNNING
    if not entry.job.HasField("start_time"):
        entry.job.start_time.CopyFrom(now())


def settle(entry: Entry, state: "TrainingJob.State.ValueType", *, model: str = "") -> None:
    """Makes a job one that has ended."""
    entry.job.state, entry.job.model = state, model
    entry.job.ClearField("condition")
    entry.job.end_time.CopyFrom(now())
