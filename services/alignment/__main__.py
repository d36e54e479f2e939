"""Wires the alignment service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from omnialign.v1 import alignment_service_pb2, alignment_service_pb2_grpc
from services.alignment.answers import Evaluation
from services.alignment.asking import Asker
from services.alignment.chunks import ChunkWorker
from services.alignment.config import AlignmentConfig
from services.alignment.durable import Engine
from services.alignment.grouping import Grouped
from services.alignment.jobs import Jobs
from services.alignment.loop import Loop
from services.alignment.metrics import Metrics
from services.alignment.patience import Patience
from services.alignment.peers import Directory
from services.alignment.pipeline import Pipeline
from services.alignment.progress import Progress
from services.alignment.servicer import AlignmentServicer
from services.alignment.stages import Change, Stages
from services.alignment.storage import Storage
from services.alignment.store import StepDone, open_store
from services.alignment.supervisor import Supervisor
from services.alignment.writing import GroupWriter
from services.runtime.server import Server, run

FULL_NAME = alignment_service_pb2.DESCRIPTOR.services_by_name["AlignmentService"].full_name
MAX_GROUP_STEPS = 256


@contextlib.asynccontextmanager
async def wire(server: Server, config: AlignmentConfig) -> AsyncIterator[None]:
    """Adds the service to a server, and works on the jobs until the block is left."""
    config.root.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config.jobs_url))
        patient = store.patient(budget_seconds=config.retry_budget_seconds)
        directory = Directory(config, server.peers)
        stack.push_async_callback(directory.close)
        metrics, engine = Metrics(server.registry), Engine(config)
        progress = Progress(patient, metrics)

        async def announce(uid: str, service: str, problem: str) -> None:
            await pipeline.announce(uid, service, problem)

        async def report(uid: str, stage: str, change: Change) -> None:
            await pipeline.report(uid, stage, change)

        patience = Patience(
            cap_seconds=config.retry_cap_seconds, budget_seconds=config.retry_budget_seconds, announce=announce
        )
        storage = Storage(patience)
        writer = GroupWriter(storage.append)
        stack.push_async_callback(writer.close)
        stages = Stages(patient, storage=storage, patience=patience, report=report)
        asker = Asker(patience, deadline_seconds=config.step_deadline_seconds)
        loop = Loop(asker)
        ledger = Grouped(patient.end_steps, limit=MAX_GROUP_STEPS)
        stack.push_async_callback(ledger.close)

        async def note(done: StepDone) -> None:
            await ledger.add([done])

        worker = ChunkWorker(
            note,
            writer=writer,
            progress=progress,
            metrics=metrics,
            patience=patience,
            active_steps=config.active_steps,
        )
        pipeline = Pipeline(
            patient,
            engine=engine,
            stages=stages,
            worker=worker,
            loop=loop,
            evaluation=Evaluation(asker, loop, patience),
            progress=progress,
            directory=directory,
        )
        supervisor = Supervisor(
            config, store=store, engine=engine, pipeline=pipeline, stages=stages, patience=patience, metrics=metrics
        )
        jobs = Jobs(
            store,
            directory=directory,
            start=engine.submit_job,
            cancel=supervisor.cancel,
            quotas=server.quotas,
        )
        server.add(
            alignment_service_pb2_grpc.add_AlignmentServiceServicer_to_server, AlignmentServicer(jobs), FULL_NAME
        )
        background: list[asyncio.Task[None]] = []

        async def begin() -> None:
            background.extend((asyncio.create_task(progress.run()), asyncio.create_task(supervisor.run())))

        stack.push_async_callback(supervisor.leave)
        stack.push_async_callback(engine.stop)
        stack.push_async_callback(supervisor.close)
        stack.push_async_callback(_end, background)
        server.prepare(FULL_NAME, store.prepare)
        server.prepare(FULL_NAME, supervisor.arrive)
        server.prepare(FULL_NAME, lambda: engine.start(pipeline))
        server.prepare(FULL_NAME, supervisor.prepare)
        server.prepare(FULL_NAME, begin)
        yield


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Runs the service until it is told to stop."""
    run("alignment", AlignmentConfig, wire)


if __name__ == "__main__":
    main()
