"""Puts the pipeline of one job kind together, and adds its start and its end to a server's.

The object graph is built from the bottom up: stores, then what changes jobs through them, then what calls other
services for jobs, then the kind's program on top of these (`Toolbox`), then what runs the program. Nothing refers to an
object that does not exist yet.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from services.pipeline.chunk_store import ChunkStore, StepCommit
from services.pipeline.chunk_worker import ChunkWorker
from services.pipeline.config import PipelineConfig
from services.pipeline.group_commit import GroupCommitter, Makers, TableWriter
from services.pipeline.item_calls import ItemCaller
from services.pipeline.job_store import JobStore
from services.pipeline.job_tables import JobTables
from services.pipeline.jobs import Jobs
from services.pipeline.kept_answers import Keeping, KeptAnswers
from services.pipeline.kind import JobKind, JobProgram
from services.pipeline.metrics import PipelineMetrics
from services.pipeline.notifier import Notifier
from services.pipeline.progress import Progress, StageUpdater
from services.pipeline.replicas import ReplicaMonitor, ReplicaStore
from services.pipeline.runner import JobGate, JobRunner
from services.pipeline.service_calls import ClientPool, ServiceRetrier
from services.pipeline.supervisor import Supervisor
from services.pipeline.workflow_engine import WorkflowEngine
from services.runtime.database import Database
from services.runtime.server import Server
from services.runtime.uses import Uses

MAX_GROUP_STEPS = 256
COMMIT_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Toolbox:
    """What a kind's program is built from."""

    jobs: JobStore
    chunks: ChunkStore
    tables: JobTables
    updater: StageUpdater
    retrier: ServiceRetrier
    items: ItemCaller
    registry: CollectorRegistry
    """Where the kind registers its own metrics."""


@dataclass(frozen=True)
class Pipeline:
    """What a kind's servicer works with."""

    jobs: Jobs
    clients: ClientPool
    store: JobStore
    """What the jobs are kept in, for what only one kind keeps beside them."""


@contextlib.asynccontextmanager
async def open_pipeline(
    server: Server,
    config: PipelineConfig,
    *,
    kind: JobKind,
    program: Callable[[Toolbox], JobProgram],
    full_name: str,
    keeping: Keeping | None = None,
) -> AsyncIterator[Pipeline]:
    """Works on the jobs of a kind from when the server starts until the block is left.

    `full_name` is the gRPC service that is not ready before the pipeline is. With `keeping`, answers of models are kept
    for later jobs; the kind's revisions make the table (`kept_answers`).
    """
    config.root.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        database, notifier = Database(config.jobs_url, migrate=config.migrate_at_start), Notifier()
        stack.push_async_callback(database.close)
        # Calls fail at once while the database is away; work in the background waits for it.
        patient = database.patient(budget_seconds=config.retry_budget_seconds)
        jobs, chunks = JobStore(patient, kind, notifier), ChunkStore(patient, kind, notifier)
        impatient_jobs = JobStore(database, kind, notifier)
        updater = StageUpdater(jobs, kind)

        clients = ClientPool(config.service_addresses, server.clients)
        stack.push_async_callback(clients.close)
        retrier = ServiceRetrier(config.retry_policy, announce=updater.announce)
        data = await stack.enter_async_context(server.clients.client(config.service_addresses["data"]))
        uses = Uses(lambda call: call(data))
        tables = JobTables(retrier, label=f"{kind.name}_job", ttl=config.table_ttl)
        kept = KeptAnswers(patient, kind.name, keeping) if keeping else None
        items = ItemCaller(retrier, deadline_seconds=config.step_deadline_seconds, kept=kept)
        makers = Makers()
        writer = TableWriter(tables.append, makers)
        stack.push_async_callback(writer.close)
        committer = GroupCommitter[StepCommit](
            chunks.commit_steps, limit=MAX_GROUP_STEPS, makers=makers, pause_seconds=COMMIT_PAUSE_SECONDS
        )
        stack.push_async_callback(committer.close)

        running = program(Toolbox(jobs, chunks, tables, updater, retrier, items, server.registry))
        metrics = PipelineMetrics(server.registry, kind)
        metrics.declare_steps([step for phase in running.phases for step in phase.steps])
        progress = Progress(running, kind=kind, jobs=jobs, chunks=chunks, updater=updater, metrics=metrics)
        worker = ChunkWorker(
            running,
            committer=committer,
            writer=writer,
            makers=makers,
            updater=updater,
            progress=progress,
            metrics=metrics,
            retrier=retrier,
            active_steps=config.active_steps,
        )
        engine = WorkflowEngine(kind.name, config)
        gate = JobGate(kind, jobs=jobs, clients=clients, notifier=notifier)
        runner = JobRunner(
            running,
            kind=kind,
            engine=engine,
            gate=gate,
            jobs=jobs,
            chunks=chunks,
            worker=worker,
            updater=updater,
            progress=progress,
            notifier=notifier,
            uses=uses,
        )
        replicas = ReplicaMonitor(config, store=ReplicaStore(database, kind.name), engine=engine)
        supervisor = Supervisor(
            config,
            running,
            kind=kind,
            impatient=impatient_jobs,
            patient=jobs,
            engine=engine,
            replicas=replicas,
            runner=runner,
            retrier=retrier,
            notifier=notifier,
            metrics=metrics,
            uses=uses,
            kept=KeptAnswers(database, kind.name, keeping) if keeping else None,
        )
        background: list[asyncio.Task[None]] = []

        async def begin() -> None:
            background.extend((asyncio.create_task(progress.run()), asyncio.create_task(supervisor.run())))

        # Left in the reverse order: background work ends first, then the workflows, and the heartbeat last, so that
        # no other replica takes up a workflow that still runs here.
        stack.push_async_callback(replicas.sign_off)
        stack.push_async_callback(engine.stop)
        stack.push_async_callback(supervisor.close)
        stack.push_async_callback(_end, background)
        stack.push_async_callback(uses.close)
        server.prepare(full_name, impatient_jobs.prepare, check=impatient_jobs.look)
        server.prepare(full_name, replicas.beat)
        server.prepare(full_name, lambda: engine.start(runner), check=engine.look)
        server.prepare(full_name, supervisor.prepare)
        server.prepare(full_name, begin)
        server.prepare(full_name, lambda: uses.start(impatient_jobs.unfinished_plans))
        yield Pipeline(
            Jobs(
                impatient_jobs,
                kind=kind,
                start=engine.submit_job,
                cancel=supervisor.cancel,
                tables=tables,
                clients=clients,
                notifier=notifier,
                quotas=server.quotas,
                uses=uses,
            ),
            clients,
            impatient_jobs,
        )


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
