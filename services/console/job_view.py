"""What the page of a job shows, of whatever kind, and what the page is told while the job goes on."""

import json
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict

from omnialign.cli import job_view, training_view
from omnialign.client import AsyncClient
from services.console.curves import Curve, curves, history
from services.console.job_kinds import ALIGNMENT, DRAFTING, TRAINING, JobKind
from services.runtime.auth.stored_names import followable

HIDDEN_IN_SPEC_BYTES = 40_000
OUTCOMES = ("kept", "tied", "lost", "abstained")


@dataclass(frozen=True)
class JobView:
    """A job for its page."""

    kind: JobKind
    job: Any
    message: str = ""

    @property
    def state(self) -> str:
        """In one word."""
        return self.kind.state(self.job)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens."""
        return self.job.state in self.kind.ended

    @property
    def actions(self) -> list[str]:
        """What can be done with it now."""
        return self.kind.possible(self.job)

    @property
    def has_report(self) -> bool:
        """Whether there is a report to open."""
        return self.kind.report is not None and self.state == "succeeded"

    @property
    def stages(self) -> list[Any]:
        """Stages in order; none for a job without."""
        return list(getattr(self.job, "stages", ()))

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """What became of the pairs at the gate; empty before the first."""
        if self.kind is not ALIGNMENT or not self.job.pairs.tried:
            return []
        return [(outcome, getattr(self.job.pairs, outcome)) for outcome in OUTCOMES]

    @property
    def notes(self) -> list[str]:
        """Sentences about it: what it waits for, how the gate decides."""
        if self.kind is TRAINING:
            return [training_view.sentence(self.job)]
        found = [self.message]
        if self.kind is DRAFTING:
            used, budget = self.job.tokens_used, self.job.token_budget
            found.append(f"{used:,} of {budget:,} tokens used; the model abstained on {self.abstained_parts}.")
        if self.kind is ALIGNMENT:
            found += [self.job.gate.message, *job_view.held(self.job)]
        return list(dict.fromkeys(note for note in found if note))

    @property
    def abstained_parts(self) -> str:
        """On how much of its forms the model of a draft job abstained."""
        count = self.job.abstained_part_count
        return f"{count:,} part{'s' if count != 1 else ''} of its forms"

    @property
    def has_reviews(self) -> bool:
        """Whether people review pairs of it, or did."""
        return any(stage.stage.startswith("review") and stage.total for stage in self.stages)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Fields of a training job for people."""
        return training_view.rows(self.job)[2:] if self.kind is TRAINING else []

    @property
    def models(self) -> list[tuple[str, str]]:
        """The models that it made or used, by what they are to it."""
        if self.kind is not ALIGNMENT:
            return []
        roles = ("base", "feedback", "judge", "reward", "aligned")
        return [(role, getattr(self.job.models, role)) for role in roles if getattr(self.job.models, role)]

    @property
    def preflight(self) -> list[tuple[str, str]]:
        """What the pre-flight counted, for an alignment job."""
        return preflight_rows(self.job) if self.kind is ALIGNMENT and self.job.HasField("preflight") else []

    @property
    def spec(self) -> str:
        """The spec as JSON, which a job of the same kind could be submitted with."""
        found = MessageToDict(self.job.spec, preserving_proto_field_name=True)
        return json.dumps(found, indent=2, ensure_ascii=False)[:HIDDEN_IN_SPEC_BYTES]


def preflight_rows(job: Any) -> list[tuple[str, str]]:
    """What the pre-flight of an alignment job found, by name."""
    found = job.preflight
    rows = [
        ("Records to learn feedback from", f"{found.feedback_records:,}"),
        ("Prompts to sample", f"{found.prompts:,}"),
        ("Prompts to evaluate", f"{found.evaluation_prompts:,}"),
        ("Tokens to generate, estimated", f"{found.estimated_tokens:,}"),
        ("Training memory, estimated", f"{found.estimated_training_bytes / 2**20:,.0f} MiB"),
        ("Time, estimated", f"{found.estimated_time.ToSeconds():,} s"),
    ]
    return rows + [(f"To be dropped: {reason}", f"{number:,}") for reason, number in sorted(found.dropped.items())]


def stage_rate(status: Any) -> str:
    """Tokens per second of a stage; empty if it writes none."""
    return job_view.rate(status)


def stage_state(status: Any) -> str:
    """The state of a stage in one word."""
    return str(status.State.Name(status.state)).removeprefix("STATE_").lower()


async def curves_of(client: AsyncClient, view: JobView) -> list[tuple[str, list[Curve]]]:
    """The curves of a training job, or of those of an alignment job that run or ran last, by the job's name."""
    if view.kind is TRAINING:
        found = [view.job.name]
    else:
        stages = [status for status in view.stages if status.training_jobs]
        found = [name for status in stages[-1:] for name in followable(status.training_jobs, holder=view.job.name)]
    drawn = [(name, curves(await history(client, name))) for name in found[:4]]
    return [(name, some) for name, some in drawn if some]
