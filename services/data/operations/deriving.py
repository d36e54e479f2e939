"""Making a dataset of others: which records, written where, known by which request."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from google.protobuf import json_format

from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from omnialign.names import DATASET_VERSION, NEWEST, matches, short_name
from omnialign.v1.data_service_pb2 import DeriveDatasetRequest as Request
from omnialign.v1.data_service_pb2 import DeriveDatasetResponse as Progress
from omnialign.v1.dataset_pb2 import Dataset, DatasetVersion
from omnialign.v1.record_pb2 import Record
from services.data.datasets import Datasets
from services.data.lineage import Lineage
from services.data.operations.choosing import divided, filtered, sampled, split_ends
from services.data.operations.deduplicating import Deduplicator
from services.data.operations.merging import merged
from services.data.operations.reading import Reader
from services.data.operations.target import Target
from services.data.usage import Usage
from services.data.uses import unless_used
from services.runtime.locks import NamedLocks

MADE_BY, MADE_FROM, PARAMETERS = "made_by", "made_from", "parameters"
"""The labels of a dataset that say which operation made it, of what, and how."""


@dataclass(frozen=True)
class Operation:
    """What is known of an operation before it begins."""

    relation: str
    """Of a source to what is made of it, in the lineage."""
    passes: int = 1
    """How often the sources are read."""
    max_sources: int = 1


OPERATIONS = {
    "filter": Operation("filtered_from"),
    "split": Operation("split_from", passes=2),
    "sample": Operation("sampled_from", passes=2),
    "merge": Operation("merged_from", max_sources=16),
    "deduplication": Operation("deduplicated_from"),
}
LASTING = (AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted)
"""Errors that the same call would meet again."""


class Deriving:
    """Runs operations. One dataset is made by one call at a time."""

    def __init__(self, *, datasets: Datasets, lineage: Lineage, usage: Usage, deduplicator: Deduplicator) -> None:
        self._datasets, self._lineage, self._usage, self._deduplicator = datasets, lineage, usage, deduplicator
        self._locks = NamedLocks()

    async def run(self, request: Request, *, digest: str) -> AsyncIterator[Progress]:
        """Makes the dataset; yields progress after each batch, and finally the version.

        `digest` identifies the request. Raises DATASET_EXISTS, DATASET_VERSION_NOT_FOUND, SOURCES_INVALID,
        SHARES_INVALID, REQUEST_ID_REUSED, QUOTA_EXCEEDED, NO_RECORDS_LEFT, DATASET_CHANGED, and what the
        operation raises.
        """
        name = f"{request.parent}/datasets/{request.dataset_id}"
        async with self._locks[name]:
            sources = await self._sources(request)
            dataset = await self._begin(request, sources, digest)
            names = dataset.labels[MADE_FROM].split()
            if dataset.latest_version:
                yield await self._made(name, names)
                return
            sources = [await self._datasets.get_version(source) for source in names]
            target = Target(name, datasets=self._datasets, lineage=self._lineage, usage=self._usage)
            try:
                async for progress in self._make(request, sources, target):
                    yield progress
            except LASTING:
                await self._datasets.delete(name, before=unless_used(name, force=True))
                raise

    async def _make(
        self, request: Request, sources: Sequence[DatasetVersion], target: Target
    ) -> AsyncIterator[Progress]:
        kind = request.WhichOneof("operation") or ""
        names, operation = [source.name for source in sources], OPERATIONS[kind]
        progress = Progress(records_to_read=sum(source.record_count for source in sources) * operation.passes)
        yield progress
        async for batch in self._records(request, names, progress):
            if kind == "split":
                for record in batch:
                    progress.split_counts[record.split] += 1
            await target.add(batch)
            progress.records_written = target.record_count
            yield progress
            del progress.duplicates[:]
        if not target.record_count:
            message = f"No record of {', '.join(names)} is left, and a dataset without records is of no use."
            raise FailedPrecondition(message, reason="NO_RECORDS_LEFT")
        progress.dataset_version.CopyFrom(await target.finish(names, operation.relation))
        progress.sources.extend(names)
        yield progress

    def _records(self, request: Request, names: Sequence[str], progress: Progress) -> AsyncIterator[list[Record]]:
        reader = Reader(self._datasets, progress)
        match request.WhichOneof("operation"):
            case "filter":
                return filtered(reader, names[0], request.filter)
            case "split":
                return divided(reader, names[0], request.split)
            case "sample":
                return sampled(reader, names[0], request.sample)
            case "deduplication":
                return self._deduplicator.deduplicated(reader, names[0], request.deduplication, progress)
            case _:
                return merged(reader, names, request.merge, progress)

    async def _sources(self, request: Request) -> list[DatasetVersion]:
        """The versions to read. Raises SOURCES_INVALID, SHARES_INVALID, DATASET_VERSION_NOT_FOUND."""
        kind = request.WhichOneof("operation") or ""
        if kind == "split":
            split_ends(request.split)
        wanted = [one if matches(one, DATASET_VERSION) else f"{one}/versions/{NEWEST}" for one in request.sources]
        sources = [await self._datasets.get_version(one) for one in wanted]
        problem = ""
        if len(sources) > OPERATIONS[kind].max_sources:
            problem = f"has {len(sources)} names, and a {kind} takes one: merge them first"
        elif kind == "merge" and len(sources) < 2:
            problem = "has one name, and a merge takes two or more"
        elif len({source.name for source in sources}) < len(sources):
            problem = "names the same version twice"
        if problem:
            raise InvalidArgument(f"sources {problem}", reason="SOURCES_INVALID", violations=[("sources", problem)])
        return sources

    async def _begin(self, request: Request, sources: Sequence[DatasetVersion], digest: str) -> Dataset:
        """The dataset to fill: a new one, or that which an earlier call with the same request id began."""
        kind = request.WhichOneof("operation") or ""
        names = [source.name for source in sources]
        parameters = json_format.MessageToJson(getattr(request, kind), preserving_proto_field_name=True, indent=None)
        labels = {MADE_BY: kind, MADE_FROM: " ".join(names), PARAMETERS: parameters}
        relation = OPERATIONS[kind].relation.replace("_", " ").capitalize()
        title = f"{relation} {', '.join(map(short_name, names))}"
        wanted = Dataset(display_name=title[:200], labels=labels)
        key = f"DeriveDataset:{request.parent}:{request.request_id}" if request.request_id else ""
        try:
            return await self._datasets.create(request.parent, request.dataset_id, wanted, key=key, digest=digest)
        except AlreadyExists as error:
            name = f"{request.parent}/datasets/{request.dataset_id}"
            message = f"{name} exists already: choose another id, or delete it first."
            raise AlreadyExists(message, reason=error.reason, metadata={"name": name}) from error

    async def _made(self, name: str, sources: Sequence[str]) -> Progress:
        """The answer of an earlier call."""
        version = await self._datasets.get_version(f"{name}/versions/1")
        return Progress(records_written=version.record_count, dataset_version=version, sources=sources)
