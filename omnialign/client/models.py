"""Calls of the DataService about the model registry: model versions, and the lineage of models and datasets."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import cast

from omnialign.client.transport import ServiceCalls, Transport
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc, model_pb2

REGISTER_DEADLINE_SECONDS = 300.0
"""The service hashes every file of the model first."""
LINEAGE_BATCH = 1000
"""Edges per request; the service rejects more."""


class ModelCalls(ServiceCalls):
    """Model versions and lineage."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._models = data_service_pb2_grpc.DataServiceStub(transport.channel)

    async def register_model(
        self,
        model_id: str,
        uri: str,
        *,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        sources: Sequence[str] = (),
        deadline_seconds: float = REGISTER_DEADLINE_SECONDS,
    ) -> model_pb2.ModelVersion:
        """Registers a model folder as the next version. A folder equal to the newest version returns that one."""
        version = model_pb2.ModelVersion(uri=uri, display_name=display_name, labels=labels)
        request = data_service_pb2.RegisterModelRequest(
            parent=self.parent, model_id=model_id, model_version=version, sources=sources
        )
        return await self._transport.unary(self._models.RegisterModel, request, deadline_seconds=deadline_seconds)

    async def get_model_version(self, name: str) -> model_pb2.ModelVersion:
        """Returns one model version; the version `-` is the newest. Raises NotFound."""
        request = data_service_pb2.GetModelVersionRequest(name=name)
        return await self._transport.unary(self._models.GetModelVersion, request)

    def list_model_versions(self) -> AsyncIterator[model_pb2.ModelVersion]:
        """All model versions of the project, newest first."""
        request = data_service_pb2.ListModelVersionsRequest(parent=self.parent)
        return self._pages(self._models.ListModelVersions, request, items="model_versions")

    async def delete_model_version(self, name: str, *, force: bool = False) -> None:
        """Deletes one model version, named by its number.

        Raises NotFound, and FailedPrecondition MODEL_IN_USE and HAS_DEPENDENTS. With `force`, a version goes even if a
        job or a campaign uses it, or it is the base of a LoRA.
        """
        request = data_service_pb2.DeleteModelVersionRequest(name=name, force=force)
        # A second attempt, after a first that succeeded unseen, would raise NotFound.
        await self._transport.unary(self._models.DeleteModelVersion, request, idempotent=False)

    async def add_lineage(self, edges: Sequence[data_service_pb2.LineageEdge]) -> None:
        """Records where artefacts came from. Repeating an edge changes nothing."""
        for start in range(0, len(edges), LINEAGE_BATCH):
            request = data_service_pb2.AddLineageRequest(parent=self.parent, edges=edges[start : start + LINEAGE_BATCH])
            await self._transport.unary(self._models.AddLineage, request)

    async def begin_use(
        self, user: str, names: Iterable[str], *, ttl_seconds: float, allow_missing: bool = False
    ) -> None:
        """Says that a job or a campaign uses datasets, versions and models, which then are not deleted for so long.

        Raises NotFound for what does not exist, unless `allow_missing`.
        """
        request = data_service_pb2.BeginUseRequest(user=user, names=names, allow_missing=allow_missing)
        request.ttl.FromMicroseconds(int(ttl_seconds * 1e6))
        await self._transport.unary(self._models.BeginUse, request)

    async def end_use(self, user: str) -> None:
        """Ends all that a job or a campaign uses."""
        await self._transport.unary(self._models.EndUse, data_service_pb2.EndUseRequest(user=user))

    async def get_lineage(
        self, name: str, *, direction: int = 0, max_depth: int = 0
    ) -> data_service_pb2.GetLineageResponse:
        """Walks the lineage of an artefact; `direction` is a `GetLineageRequest.Direction`, 0 means both ways."""
        request = data_service_pb2.GetLineageRequest(
            name=name,
            direction=cast("data_service_pb2.GetLineageRequest.Direction.ValueType", direction),
            max_depth=max_depth,
        )
        return await self._transport.unary(self._models.GetLineage, request)
