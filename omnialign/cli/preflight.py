"""Prints what a job's pre-flight found."""

from omnialign.cli.output import Output
from omnialign.cli.progress import clock
from omnialign.v1 import alignment_service_pb2


def show(job: alignment_service_pb2.AlignmentJob, *, out: Output) -> None:
    """The pre-flight's counts, estimates, losses and warnings; nothing when the job has none yet."""
    if not job.HasField("preflight") or out.as_json:
        return
    found = job.preflight
    by_subtask = ", ".join(f"{name} {number}" for name, number in sorted(found.prompts_by_subtask.items()))
    rows = [
        ("records to learn feedback from", found.feedback_records),
        ("prompts to sample", f"{found.prompts} ({by_subtask})" if by_subtask else found.prompts),
        ("prompts to evaluate", found.evaluation_prompts),
        ("longest prompt, tokens", found.longest_prompt_tokens),
        ("tokens to write, estimated", f"{found.estimated_tokens:,}"),
        ("memory of training, estimated", f"{found.estimated_training_bytes / 2**20:,.0f} MiB"),
        ("time, estimated", clock(found.estimated_time.ToNanoseconds() / 1e9)),
        *((f"will be dropped: {reason}", number) for reason, number in sorted(found.dropped.items())),
    ]
    out.table(("PRE-FLIGHT", ""), rows, empty="")
    for warning in found.warnings:
        out.say(f"note: {warning}")
