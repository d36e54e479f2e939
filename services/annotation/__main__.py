"""Wires the annotation service."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.v1 import annotation_service_pb2, annotation_service_pb2_grpc
from services.annotation.campaigns import Campaigns, Clock
from services.annotation.changes import Changes
from services.annotation.config import AnnotationConfig
from services.annotation.drafting.drafts import Drafts
from services.annotation.drafting.job import DRAFTING
from services.annotation.drafting.program import DraftingProgram
from services.annotation.imports import Imports
from services.annotation.metrics import AnnotationMetrics
from services.annotation.pairs import BlindPairs, Pairs
from services.annotation.servicer import AnnotationServicer
from services.annotation.store import Store
from services.annotation.tasks import Tasks
from services.pipeline.given_names import find_model
from services.pipeline.service import open_pipeline
from services.runtime.server import Server, run
from services.runtime.uses import Uses

FULL_NAME = annotation_service_pb2.DESCRIPTOR.services_by_name["AnnotationService"].full_name


def now_us() -> int:
    """The time."""
    return time.time_ns() // 1000


@asynccontextmanager
async def wire(server: Server, config: AnnotationConfig, *, clock: Clock = now_us) -> AsyncIterator[None]:
    """Adds the service to a server; leases run out by `clock`."""
    opening = open_pipeline(server, config, kind=DRAFTING, program=DraftingProgram, full_name=FULL_NAME)
    async with server.clients.client(config.data_address) as client, opening as pipeline:
        store, drafts = Store(pipeline.store.database), Drafts(pipeline.store.database)

        def connect(project: str) -> AsyncClient:
            return server.clients.client(config.data_address, project=project)

        async def version_of(model: str, parent: str) -> str:
            services = await pipeline.clients.of(names.project_of(parent))
            return (await find_model(model, services, field="campaign.start_from", parent=parent)).name

        uses = Uses(lambda call: call(client))
        campaigns = Campaigns(
            store,
            client,
            drafts=drafts,
            connect=connect,
            version_of=version_of,
            uses=uses,
            now_us=clock,
            max_items=config.max_items,
        )
        metrics = AnnotationMetrics(server.registry)
        pairs = Pairs(client)
        changes = Changes(store, pairs, version_of=version_of, uses=uses, now_us=clock)
        tasks = Tasks(store, BlindPairs(pairs, now_us=clock), drafts, now_us=clock, metrics=metrics)
        imports = Imports(store, changes, connect=connect, now_us=clock, metrics=metrics)
        servicer = AnnotationServicer(
            campaigns, changes, tasks, imports, pipeline, token_budget=config.draft_token_budget
        )
        server.add(annotation_service_pb2_grpc.add_AnnotationServiceServicer_to_server, servicer, FULL_NAME)
        server.prepare(FULL_NAME, lambda: uses.start(store.all))
        try:
            yield
        finally:
            await uses.close()


def main() -> None:
    """Runs the service until SIGTERM."""
    run("annotation", AnnotationConfig, wire)


if __name__ == "__main__":
    main()
