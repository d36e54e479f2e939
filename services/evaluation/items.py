"""The items of a benchmark: the records of a split that it can use. A version never changes, so neither do they."""

from collections.abc import AsyncIterator, Callable

from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.job import Part, Spec
from services.pipeline.drawing import draw
from services.pipeline.kind import Record
from services.pipeline.service_calls import ServiceClients

Drop = Callable[[Record, str], None]
"""Hears of a record that the benchmark cannot use, and why, as a reason code."""


async def items_of(
    plan: Spec, part: Part, clients: ServiceClients, *, drop: Drop = lambda record, reason: None
) -> AsyncIterator[Record]:
    """The items of a benchmark in order of id; at most as many as the plan allows, drawn by its seed."""

    async def ids() -> AsyncIterator[str]:
        async for record in _usable(part, clients):
            yield record.id

    drawn = await draw(ids, seed=plan.seed, count=lambda _: int(plan.max_items)) if plan.max_items else None
    async for record in _usable(part, clients, drop=drop):
        if drawn is None or drawn.takes(record.id):
            yield record


async def _usable(
    part: Part, clients: ServiceClients, *, drop: Drop = lambda record, reason: None
) -> AsyncIterator[Record]:
    spec, kind = part.spec, BENCHMARKS[part.spec.name]
    async for record in clients.data.stream_records(spec.dataset, splits=[spec.split], subtasks=list(spec.subtasks)):
        if reason := kind.problem(record):
            drop(record, reason)
        else:
            yield record
