"""The items of a benchmark: the records of a split that it can use. A version never changes, so neither do they."""

import hashlib
from dataclasses import dataclass

from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.job import Part, Spec
from services.pipeline.kind import Record, Records
from services.pipeline.planning import limited
from services.pipeline.service_calls import ServiceClients


@dataclass(frozen=True)
class Items:
    """The items of one benchmark, in order of id."""

    records: Records
    dropped: dict[str, list[str]]
    """Ids of those that it cannot use, by reason code."""

    @property
    def sha256(self) -> str:
        """SHA-256 of their ids."""
        return hashlib.sha256("\n".join(record.id for record in self.records).encode()).hexdigest()


async def read_items(plan: Spec, part: Part, clients: ServiceClients) -> Items:
    """Reads the items of a benchmark; at most as many as the plan allows, drawn by its seed."""
    spec, kind = part.spec, BENCHMARKS[part.spec.name]
    found, dropped = dict[str, Record](), dict[str, list[str]]()
    stream = clients.data.stream_records(spec.dataset, splits=[spec.split], subtasks=list(spec.subtasks))
    async for record in stream:
        if reason := kind.problem(record):
            dropped.setdefault(reason, []).append(record.id)
        else:
            found[record.id] = record
    chosen = limited([(i, "") for i in sorted(found)], seed=plan.seed, limit=plan.max_items)
    return Items([found[record_id] for record_id, _ in chosen], dropped)
