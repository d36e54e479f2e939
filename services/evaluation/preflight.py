"""The pre-flight: what the evaluation will find, drop and ask, before any accelerator is taken."""

from collections import Counter

from omnialign.combinations import combination
from omnialign.errors import FailedPrecondition
from omnialign.v1 import evaluation_service_pb2
from services.evaluation.agents import modes_of
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.items import Items, read_items
from services.evaluation.job import Part, Spec, parts_of
from services.evaluation.works import works_of
from services.pipeline.service_calls import ServiceClients

Preflight = evaluation_service_pb2.EvaluationPreflight
SMALL = 20


async def inspect(
    plan: Spec, manifest: evaluation_service_pb2.EvaluationManifest, clients: ServiceClients
) -> tuple[Preflight, evaluation_service_pb2.EvaluationManifest]:
    """Reads the items of all benchmarks; returns what was found, and the manifest with their number and digest, and how
    media get into the answers.

    Raises FailedPrecondition (`NO_ITEMS`) for a benchmark without items, and as `modes_of`.
    """
    found, complete = Preflight(), evaluation_service_pb2.EvaluationManifest()
    complete.CopyFrom(manifest)
    dropped, letters = Counter[str](), set[str]()
    for part, identity in zip(parts_of(plan), complete.benchmarks, strict=True):
        items = await read_items(plan, part, clients)
        _require(part, items)
        identity.items, identity.items_sha256 = len(items.records), items.sha256
        kind = BENCHMARKS[part.spec.name]
        if kind.tests_models:
            found.answers += sum(1 for _ in works_of(plan, part, items.records))
            letters.update(*map(kind.media, items.records))
        if "judges" in kind.needs:
            found.judgements += len(items.records) * len(kind.subjects(plan, part.spec))
        if len(items.records) < SMALL:
            found.warnings.append(f"{part.id} has only {len(items.records)} items; intervals will be wide.")
        dropped += items.dropped
    del complete.modes[:]
    complete.modes.extend(modes_of(complete, combination(letters)))
    for reason, number in dropped.items():
        found.dropped[reason] = number
    if dropped:
        named = ", ".join(f"{reason} {number}" for reason, number in sorted(dropped.items()))
        found.warnings.append(f"{sum(dropped.values())} records cannot be used: {named}.")
    return found, complete


def _require(part: Part, items: Items) -> None:
    if items.records:
        return
    spec = part.spec
    message = f"{part.id} has no item that it can use in the split '{spec.split}' of '{spec.dataset}'"
    if items.dropped:
        message += ": " + ", ".join(f"{reason} {number}" for reason, number in sorted(items.dropped.items()))
    metadata = {"benchmark": part.id, "dataset": spec.dataset, "split": spec.split}
    raise FailedPrecondition(
        f"{message}; name another split, or another dataset",
        reason="NO_ITEMS",
        metadata={**metadata, **{reason: str(number) for reason, number in items.dropped.items()}},
    )
