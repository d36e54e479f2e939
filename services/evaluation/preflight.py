"""The pre-flight: what the evaluation will find, drop and ask, before any accelerator is taken."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from omnialign.combinations import combination
from omnialign.content import asked_of, contents_of, media_of
from omnialign.errors import FailedPrecondition
from omnialign.modeling.inputs import MediaPolicy
from omnialign.v1 import evaluation_service_pb2
from services.evaluation.agents import modes_of
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.items import items_of
from services.evaluation.job import Part, Spec, parts_of
from services.evaluation.works import ids_of_works
from services.pipeline.media_check import MediaCheck
from services.pipeline.planning import pages
from services.pipeline.service_calls import ServiceClients

Preflight = evaluation_service_pb2.EvaluationPreflight
SMALL = 20
LOOKED_AT_ONCE = 1024
"""Items whose media are looked at together."""
NAMED = 3
"""Items that a warning names for each reason."""


@dataclass
class Dropped:
    """Items that cannot be used, by reason code."""

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)
    """The ids of the first few of each reason."""

    def add(self, reason: str, record_id: str) -> None:
        """Counts an item."""
        self.counts[reason] += 1
        named = self.named.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(record_id)

    def add_all(self, other: "Dropped") -> None:
        """Counts those of another benchmark, too."""
        self.counts.update(other.counts)
        for reason, ids in other.named.items():
            self.named[reason] = [*self.named.get(reason, []), *ids][:NAMED]

    def __str__(self) -> str:
        """How many items each reason drops, and a few of them."""
        return ", ".join(
            f"{reason} {count} ({', '.join(self.named[reason])}{', ...' if count > NAMED else ''})"
            for reason, count in sorted(self.counts.items())
        )


@dataclass
class Looked:
    """What one pass over the items of a benchmark found."""

    items: int = 0
    broken: int = 0
    """Those with a medium that cannot be used."""
    answers: int = 0
    """To ask the models under test for."""
    letters: set[str] = field(default_factory=set)
    """The media that these are to have or may have."""
    sha256: str = ""
    """SHA-256 of the ids of the items."""
    dropped: Dropped = field(default_factory=Dropped)


async def inspect(
    plan: Spec, manifest: evaluation_service_pb2.EvaluationManifest, clients: ServiceClients
) -> tuple[Preflight, evaluation_service_pb2.EvaluationManifest]:
    """Reads the items of all benchmarks; returns what was found, and the manifest with their number and digest, and how
    media get into the answers.

    An item with a medium that is missing, or that cannot be decoded, counts as dropped: it will be quarantined. Raises
    FailedPrecondition (`NO_ITEMS`) for a benchmark without items that can be used, and as `modes_of`.
    """
    found, complete = Preflight(), evaluation_service_pb2.EvaluationManifest()
    complete.CopyFrom(manifest)
    dropped, letters = Dropped(), set[str]()
    media = MediaCheck(clients.data, MediaPolicy.of(plan.media_policy))
    for part, identity in zip(parts_of(plan), complete.benchmarks, strict=True):
        kind, looked = BENCHMARKS[part.spec.name], await _look(plan, part, clients, media)
        usable = looked.items - looked.broken
        if not usable:
            raise _no_items(part, looked.dropped)
        identity.items, identity.items_sha256 = looked.items, looked.sha256
        found.answers += looked.answers
        letters |= looked.letters
        if "judges" in kind.needs:
            found.judgements += looked.items * len(kind.subjects(plan, part.spec))
        if usable < SMALL:
            found.warnings.append(f"{part.id} has only {usable} items; intervals will be wide.")
        dropped.add_all(looked.dropped)
    del complete.modes[:]
    complete.modes.extend(modes_of(complete, combination(letters)))
    for reason, count in dropped.counts.items():
        found.dropped[reason] = count
    if dropped.counts:
        found.warnings.append(f"{dropped.counts.total()} records cannot be used: {dropped}.")
    found.warnings.extend(media.in_part())
    return found, complete


async def _look(plan: Spec, part: Part, clients: ServiceClients, media: MediaCheck) -> Looked:
    """Looks at the items of a benchmark, and at their media: those of the prompt, and of the answers if these are
    judged."""
    kind, looked, digest = BENCHMARKS[part.spec.name], Looked(), hashlib.sha256()
    seen = asked_of if kind.tests_models else contents_of
    items = items_of(plan, part, clients, drop=lambda record, reason: looked.dropped.add(reason, record.id))
    async for page in pages(items, size=LOOKED_AT_ONCE):
        problems = await media.problems(media_of(seen(item)) for item in page)
        for item, reason in zip(page, problems, strict=True):
            digest.update(f"\n{item.id}".encode() if looked.items else item.id.encode())
            looked.items += 1
            if kind.tests_models:
                looked.answers += sum(1 for _ in ids_of_works(plan, part, item))
                looked.letters.update(kind.media(item))
            if reason:
                looked.broken += 1
                looked.dropped.add(reason, item.id)
    looked.sha256 = digest.hexdigest()
    return looked


def _no_items(part: Part, dropped: Dropped) -> FailedPrecondition:
    spec = part.spec
    message = f"{part.id} has no item that it can use in the split '{spec.split}' of '{spec.dataset}'"
    if dropped.counts:
        message += f": {dropped}"
    metadata = {"benchmark": part.id, "dataset": spec.dataset, "split": spec.split}
    return FailedPrecondition(
        f"{message}; name another split, or another dataset",
        reason="NO_ITEMS",
        metadata={**metadata, **{reason: str(count) for reason, count in dropped.counts.items()}},
    )
