"""The pre-flight: what the evaluation will find, drop and ask, before any accelerator is taken."""

from omnialign.combinations import combination
from omnialign.content import asked_of, contents_of, media_of
from omnialign.errors import FailedPrecondition
from omnialign.modeling.inputs import MediaPolicy
from omnialign.v1 import evaluation_service_pb2
from services.evaluation.agents import modes_of
from services.evaluation.benchmarks import BENCHMARKS, Benchmark
from services.evaluation.items import read_items
from services.evaluation.job import Part, Spec, parts_of
from services.evaluation.works import works_of
from services.pipeline.kind import Records
from services.pipeline.media_check import MediaCheck
from services.pipeline.service_calls import ServiceClients

Preflight = evaluation_service_pb2.EvaluationPreflight
SMALL = 20
NAMED = 3
"""Items that a warning names for each reason."""

Dropped = dict[str, list[str]]
"""Ids of items that cannot be used, by reason code."""


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
    dropped: Dropped = {}
    letters = set[str]()
    media = MediaCheck(clients.data, MediaPolicy.of(plan.media_policy))
    for part, identity in zip(parts_of(plan), complete.benchmarks, strict=True):
        items, kind = await read_items(plan, part, clients), BENCHMARKS[part.spec.name]
        broken = await _broken(items.records, kind, media)
        lost = {reason: [*items.dropped.get(reason, []), *broken.get(reason, [])] for reason in items.dropped | broken}
        usable = len(items.records) - sum(map(len, broken.values()))
        if not usable:
            raise _no_items(part, lost)
        identity.items, identity.items_sha256 = len(items.records), items.sha256
        if kind.tests_models:
            found.answers += sum(1 for _ in works_of(plan, part, items.records))
            letters.update(*map(kind.media, items.records))
        if "judges" in kind.needs:
            found.judgements += len(items.records) * len(kind.subjects(plan, part.spec))
        if usable < SMALL:
            found.warnings.append(f"{part.id} has only {usable} items; intervals will be wide.")
        for reason, ids in lost.items():
            dropped.setdefault(reason, []).extend(ids)
    del complete.modes[:]
    complete.modes.extend(modes_of(complete, combination(letters)))
    for reason, ids in dropped.items():
        found.dropped[reason] = len(ids)
    if dropped:
        found.warnings.append(f"{sum(found.dropped.values())} records cannot be used: {_named(dropped)}.")
    found.warnings.extend(media.in_part())
    return found, complete


async def _broken(records: Records, kind: type[Benchmark], media: MediaCheck) -> Dropped:
    """The items with a medium that cannot be used: of the prompt, and of the answers if those are judged."""
    broken: Dropped = {}
    seen = asked_of if kind.tests_models else contents_of
    problems = await media.problems(media_of(seen(record)) for record in records)
    for record, reason in zip(records, problems, strict=True):
        if reason:
            broken.setdefault(reason, []).append(record.id)
    return broken


def _named(dropped: Dropped) -> str:
    """How many items each reason drops, and a few of them."""
    return ", ".join(
        f"{reason} {len(ids)} ({', '.join(ids[:NAMED])}{', ...' if len(ids) > NAMED else ''})"
        for reason, ids in sorted(dropped.items())
    )


def _no_items(part: Part, dropped: Dropped) -> FailedPrecondition:
    spec = part.spec
    message = f"{part.id} has no item that it can use in the split '{spec.split}' of '{spec.dataset}'"
    if dropped:
        message += f": {_named(dropped)}"
    metadata = {"benchmark": part.id, "dataset": spec.dataset, "split": spec.split}
    return FailedPrecondition(
        f"{message}; name another split, or another dataset",
        reason="NO_ITEMS",
        metadata={**metadata, **{reason: str(len(ids)) for reason, ids in dropped.items()}},
    )
