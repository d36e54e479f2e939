"""How a training job is shown: what it does now, how far it is, and what it measured."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TYPE_CHECKING

from omnialign import names
from omnialign.cli.follow import follow
from omnialign.cli.output import Output, clock
from omnialign.v1 import training_service_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

TrainingJob = training_service_pb2.TrainingJob
TrainingProgress = training_service_pb2.TrainingProgress
Event = training_service_pb2.WatchTrainingJobResponse

BAR_WIDTH = 40
MAIN_MEASURES = ("loss", "eval/loss", "rewards/accuracies", "rewards/margins")
"""What a line of progress has room for; `show` and `--json` have all."""


async def show_events(events: AsyncIterable[Event], *, out: Output) -> TrainingJob:
    """Shows the events of a job until they end, and returns the job as of the last event."""
    last = await follow(events, out=out, sentence=lambda event: sentence(event.training_job), picture=_picture)
    return (last or Event()).training_job


def state(job: TrainingJob) -> str:
    """The state of a job in one word."""
    return TrainingJob.State.Name(job.state).removeprefix("STATE_").lower()


def sentence(job: TrainingJob) -> str:
    """Where a job stands: what holds it up or what it does, its steps, its main measures and the time left."""
    progress = job.progress
    parts = [state(job)]
    if job.condition.message:
        parts.append(f"{job.condition.message} [{job.condition.reason}]")
    if progress.total_steps:
        parts.append(f"step {progress.completed_steps:,} of {progress.total_steps:,}")
    parts += [f"{name} {progress.metrics[name]:.4g}" for name in MAIN_MEASURES if name in progress.metrics]
    if job.state == TrainingJob.STATE_RUNNING and progress.HasField("eta"):
        parts.append(f"about {clock(progress.eta.ToMilliseconds() / 1000)} left")
    if progress.stopped_early:
        parts.append("ended early")
    return ", ".join(parts)


def measures(job: TrainingJob) -> list[str]:
    """What the newest step measured, such as `loss 0.41`, by name."""
    return [f"{name} {value:.4g}" for name, value in sorted(job.progress.metrics.items())]


def rows(job: TrainingJob) -> list[tuple[str, str]]:
    """The fields of a job for people; what is empty or zero is left out."""
    spec, progress = job.spec, job.progress
    method = f"{spec.method}, {spec.target}" if spec.target else spec.method
    steps = f"{progress.completed_steps:,} of {progress.total_steps:,}" if progress.total_steps else ""
    elapsed_seconds = (job.end_time.ToMilliseconds() - job.start_time.ToMilliseconds()) / 1000
    fields = [
        ("name", job.name),
        ("state", state(job)),
        ("now", f"{job.condition.message} [{job.condition.reason}]" if job.condition.message else ""),
        ("method", method),
        ("base model", spec.base_model),
        ("dataset", spec.dataset),
        ("steps", steps),
        ("measured", ", ".join(measures(job))),
        ("memory", f"{gigabytes(job.memory.total_bytes)} at most" if job.memory.total_bytes else ""),
        ("tokens", f"{progress.tokens:,}" if progress.tokens else ""),
        ("examples", examples(progress)),
        ("best step", best(progress)),
        *((f"dropped: {reason}", f"{number:,}") for reason, number in sorted(progress.dropped.items())),
        ("starts", str(job.attempt_count) if job.attempt_count > 1 else ""),
        ("took", clock(elapsed_seconds) if job.HasField("end_time") and job.HasField("start_time") else ""),
        ("model", job.model),
        ("failed", job.error.message),
    ]
    return [(name, value) for name, value in fields if value]


def examples(progress: TrainingProgress) -> str:
    """How many examples a job learns from, and how many it holds out; empty while that is not known."""
    held_out = f", and {progress.held_out_examples:,} held out" if progress.held_out_examples else ""
    return f"{progress.examples:,}{held_out}" if progress.examples else ""


def best(progress: TrainingProgress) -> str:
    """The step whose model did best on the examples held out; empty if there is none."""
    why = "; ended early, because the loss did not become lower" if progress.stopped_early else ""
    return f"{progress.best_step:,}{why}" if progress.best_step else ""


def memory_rows(memory: training_service_pb2.MemoryEstimate) -> list[tuple[str, str]]:
    """An estimate of memory for people, the sums last; empty if there is none."""
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "update", "libraries", "offloaded")
    found = [(name, getattr(memory, f"{name}_bytes")) for name in parts]
    sums = [("at least", memory.least_bytes), ("at most", memory.total_bytes), ("the device has", memory.device_bytes)]
    return [(name, gigabytes(value)) for name, value in [*found, *sums] if value]


def gigabytes(number: int) -> str:
    """A number of bytes."""
    return f"{number / 1e9:,.2f} GB"


def _picture(event: Event) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    job, progress = event.training_job, event.training_job.progress
    grid = Table.grid()
    grid.add_row(Text(names.id_of(job.name), style="bold"))
    grid.add_row(ProgressBar(total=progress.total_steps or 1, completed=progress.completed_steps, width=BAR_WIDTH))
    grid.add_row(Text(sentence(job), style="dim"))
    return grid
