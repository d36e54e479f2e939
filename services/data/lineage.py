"""Lineage: which artefact was made from which, and how a record moved through the tables of a job.

The tables of a record are those that its dataset was made from, those made from it, and those of the jobs in between.
A dataset and its versions count as one table. Another job that started from the same data is not related.

Edges hold names that records and callers gave. They are shown as they are, but looked up and followed only within the
rights of whoever asks.
"""

from collections.abc import Iterable, Sequence

from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.names import DATASET, DATASET_VERSION, RECORD, format_name, matches, parse, project_name_of, unversioned
from omnialign.v1 import dataset_pb2, record_pb2
from omnialign.v1.data_service_pb2 import GetLineageRequest as Request
from omnialign.v1.data_service_pb2 import GetLineageResponse as Answer
from omnialign.v1.data_service_pb2 import LineageEdge, RecordLineage
from services.data.datasets import Datasets
from services.data.errors import not_found
from services.data.selection import Selection
from services.data.store import Store
from services.runtime.auth.stored_names import followable

MAX_EDGES = 10_000
MAX_CACHED_EDGES = 10_000
SHOWN = 10
Step = tuple[str, str]


class Lineage:
    """The provenance graph of all projects."""

    def __init__(self, *, store: Store, datasets: Datasets) -> None:
        self._store, self._datasets = store, datasets
        self._written: set[tuple[str, str, str]] = set()

    async def add(self, parent: str, edges: Iterable[LineageEdge]) -> None:
        """Adds edges; repeating one changes nothing."""
        edges = list(edges)
        for edge in edges:
            if edge.source == edge.target:
                message = f"{edge.source} cannot be made from itself."
                raise InvalidArgument(message, reason="LINEAGE_LOOP", metadata={"name": edge.source})
        await self._store.add_edges(parent, edges)

    async def add_records(self, dataset: str, records: Iterable[record_pb2.Record]) -> None:
        """Adds an edge to the dataset from each model that generated something in the records.

        Edges are never removed, so those that this process has added are cached and not added again with each batch.
        """
        written = {(model, dataset, how) for model, how in _models_of(records)}
        if new := written - self._written:
            edges = [LineageEdge(source=model, target=target, relation=how) for model, target, how in new]
            await self._store.add_edges(project_name_of(dataset), edges)
            self._cache_written(new)

    async def require_unused(self, name: str) -> None:
        """Raises HAS_DEPENDENTS for an artefact that something was made from, and names some of it."""
        parse(name, DATASET_VERSION)
        edges = await self._store.edges(project_name_of(name), [name], upwards=False)
        if made := [edge.target for edge in edges]:
            message = f"{', '.join(made[:SHOWN])} were made from {name}: delete it all the same with `force`."
            metadata = {"name": name, "dependents": ",".join(made[:SHOWN])}
            raise FailedPrecondition(message, reason="HAS_DEPENDENTS", metadata=metadata)

    def _cache_written(self, edges: set[tuple[str, str, str]]) -> None:
        if len(self._written) + len(edges) > MAX_CACHED_EDGES:
            self._written.clear()
        self._written |= edges

    async def walk(self, request: Request) -> Answer:
        """The edges reachable from an artefact, nearest first, and the rows of a record in each of its tables."""
        record, start = "", request.name
        if matches(request.name, RECORD):
            ids = parse(request.name, RECORD)
            record, start = ids["record"], format_name(DATASET, project=ids["project"], dataset=ids["dataset"])
        parent = project_name_of(start)
        answer = Answer()
        up = request.direction in (Request.DIRECTION_UNSPECIFIED, Request.DIRECTION_SOURCES)
        down = request.direction in (Request.DIRECTION_UNSPECIFIED, Request.DIRECTION_PRODUCTS)
        for upwards in [True] * up + [False] * down:
            answer.edges.extend(await self._traverse(parent, start, upwards=upwards, max_depth=request.max_depth))
        if record:
            answer.records.extend(await self._appearances(parent, start, record))
        return answer

    async def _traverse(self, parent: str, start: str, *, upwards: bool, max_depth: int) -> list[LineageEdge]:
        """Breadth-first search in one direction. `seen` ends cycles."""
        seen, level, depth = {start}, [start], 0
        found = list[LineageEdge]()
        while level and len(found) < MAX_EDGES and not (max_depth and depth >= max_depth):
            edges = await self._store.edges(parent, level, upwards=upwards)
            found += edges
            level = list(dict.fromkeys(edge.source if upwards else edge.target for edge in edges))
            level = [name for name in level if name not in seen]
            seen.update(level)
            depth += 1
        return found[:MAX_EDGES]

    async def _appearances(self, parent: str, dataset: str, record: str) -> list[RecordLineage]:
        found = []
        for name in await self._tables(parent, dataset):
            async for batch in self._datasets.stream(name, Selection(ids=(record,))):
                found += [RecordLineage(dataset=name, record=row) for row in batch]
        if not found:
            raise not_found("RECORD", f"{dataset}/records/{record}")
        return found

    async def _tables(self, parent: str, dataset: str) -> list[str]:
        """The related datasets that still exist, oldest stage first."""
        await self._datasets.get(dataset)
        steps = await self._related(parent, [dataset], upwards=True)
        jobs = {name for step in steps for name in step if "/alignmentJobs/" in name}
        steps |= await self._related(parent, [dataset, *sorted(jobs)], upwards=False)
        names = {dataset, *followable((name for step in steps for name in step), holder=dataset)}
        ages = {name: row.create_time.ToNanoseconds() for name, row in (await self._existing(names)).items()}
        ordered = topological_order(sorted(names, key=lambda name: (ages.get(name, 0), name)), steps)
        return [name for name in ordered if name in ages]

    async def _existing(self, names: Iterable[str]) -> dict[str, dataset_pb2.Dataset]:
        found = {name: await self._store.dataset(name) for name in names if matches(name, DATASET)}
        return {name: row for name, row in found.items() if row is not None}

    async def _related(self, parent: str, starts: list[str], *, upwards: bool) -> set[Step]:
        """The steps between tables and jobs in one direction. Models are not followed: they lead to other jobs."""
        seen, level, steps = set(starts), list(starts), set[Step]()
        while level and len(steps) < MAX_EDGES:
            followed = followable(level, holder=starts[0])
            names = [name for start in followed for name in await self._name_and_versions(start)]
            edges = await self._store.edges(parent, names, upwards=upwards)
            found = {(_table_of(edge.source), _table_of(edge.target)) for edge in edges}
            steps |= {step for step in found if step[0] != step[1] and not any("/models/" in name for name in step)}
            level = sorted({step[0 if upwards else 1] for step in steps} - seen)
            seen.update(level)
        return steps

    async def _name_and_versions(self, name: str) -> list[str]:
        """All names that edges may use for a table: its own and those of its versions."""
        if not matches(name, DATASET):
            return [name]
        versions = await self._store.versions(name, before=None, limit=1000)
        return [name, *(version.name for _, version in versions)]


def topological_order(artefacts: Sequence[str], steps: Iterable[Step]) -> list[str]:
    """Sorts `artefacts` so that every source precedes what was made from it, otherwise stably; cycles come last."""
    waiting, left = set(steps), list(artefacts)
    ordered = []
    while left:
        blocked = {target for _, target in waiting}
        name = next((name for name in left if name not in blocked), left[0])
        left.remove(name)
        ordered.append(name)
        waiting = {step for step in waiting if name not in step}
    return ordered


def _table_of(name: str) -> str:
    return unversioned(name) if matches(name, DATASET_VERSION) else name


def _models_of(records: Iterable[record_pb2.Record]) -> set[tuple[str, str]]:
    """The models that generated something in the records, and how."""
    found = set[tuple[str, str]]()
    for record in records:  # written out: this is done for each record of each stage
        for response in record.responses:
            found.add((response.generation.model, "responded_by"))
            if response.HasField("feedback"):
                found.add((response.feedback.generation.model, "criticised_by"))
        if record.HasField("comparison"):
            found.add((record.comparison.forward_generation.model, "judged_by"))
            found.add((record.comparison.backward_generation.model, "judged_by"))
    return {(model, how) for model, how in found if model}
