"""The durable workflow engine (DBOS): a thin wrapper, which alone knows it, with `workflow_process`.

A job is one workflow (its id is the uid of the job); each group of neighbouring chunks of records is a child
(`<uid>/<phase>-0007`), because a workflow costs as much as all else that is done for a chunk. The engine keeps what a
workflow did, step by step, in a database, and a process that starts anew goes on where the last one was killed. Values
are stored as JSON, never as pickles.

DBOS lives once per process, runs its workflows on the event loop that launched it, and is shared by all job kinds of
the process. Four of its traps are avoided here:

- its queues poll once a second unless told otherwise: ours poll a few times a second, and what this process queues, or
  has a free place for, it claims at once;
- a dead executor's workflows are taken up only by an executor of the same id, or by an explicit recovery: so ids are
  stable, and `services.pipeline.replicas` calls `recover` for replicas that fell silent;
- recovery looks only at workflows of the same application version, a hash of the code by default, so that an upgrade
  would strand all running jobs: here the version is the workflows' own;
- a workflow that is dequeued while the event loop stands still starts on another one, where nothing of ours works.
"""

import asyncio
import base64
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

import sqlalchemy as sa
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID
from dbos._core import execute_dequeued_workflow
from dbos._error import DBOSInitializationError
from dbos._recovery import _recover_workflow
from dbos._serialization import DBOSPortableJSON
from google.rpc import status_pb2

from omnialign.errors import FailedPrecondition, Internal, OmnialignError, Unavailable, from_status, to_status
from services.pipeline.config import PipelineConfig
from services.pipeline.queue_claims import QueueClaims
from services.pipeline.workflow_database import WorkflowDatabase
from services.pipeline.workflow_process import SHARED, Workflows, application, registered, version
from services.runtime.database_errors import COMMAND, SCHEMA_MISSING
from services.runtime.threads import in_own_thread

DEAD = ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
JOBS_POLLING_SECONDS = 1.0
"""How often jobs are looked for that no process has claimed when they were queued."""
LAUNCH_SECONDS = 5.0
"""How long a stop waits for a launch that has begun, which takes for ever while the database is away."""
LISTENER_POLLING_SECONDS = 0.05
"""How long its listener for messages sleeps on SQLite, which a stop waits for; nothing of ours sends any."""
SETTLE_SECONDS = 0.02
"""How long after its end a chunk's place is free, by the engine's own account."""
MAX_THREADS = 64
MIN_GROUPS = 8
"""In how many workflows at least the chunks of a job are, if there are as many."""

logger = logging.getLogger(__name__)

Body = Callable[[], Awaitable[Any]]


class WorkflowEngine:
    """The workflows of one job kind in this process."""

    def __init__(self, kind: str, config: PipelineConfig) -> None:
        self._kind, self._config = kind, config
        self._jobs_queue, self._chunks_queue = f"{kind}-jobs", f"{kind}-chunks"
        # Registered before anything is launched, so that recovery at launch finds the functions of every kind.
        self._job_workflow, self._chunk_workflow, self._group_workflow = registered(kind)
        SHARED.kinds.add(kind)
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._bounds: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._claims = QueueClaims(
            lambda: SHARED.instance,
            execute_dequeued_workflow,
            executor_id=config.executor_id,
            version=version,
        )
        self._workflows: Workflows | None = None
        self._database = WorkflowDatabase(config.workflows_url, migrate=config.migrate_at_start)

    async def start(self, workflows: Workflows) -> None:
        """Launches DBOS on the running loop, unless another kind has; workflows that a former process left begin again.

        May be called again after it failed, as it does while the database is away. Raises Internal (`ENGINE_RUNNING`)
        if the kind is running in this process already, or another kind on another workflow database.
        """
        if self._kind in SHARED.engines:
            message = f"another {self._kind} service is running in this process"
            raise Internal(message, reason="ENGINE_RUNNING")
        if SHARED.engines and SHARED.url != self._config.workflows_url:
            message = "another job kind of this process keeps its workflows in another database"
            raise Internal(message, reason="ENGINE_RUNNING")
        is_first = not SHARED.engines
        self._workflows = workflows
        SHARED.engines[self._kind] = self
        SHARED.url = self._config.workflows_url
        try:
            if is_first:
                SHARED.launch = asyncio.ensure_future(self._launch())  # which recovers the workflows of all kinds
            if SHARED.launch is not None:
                await asyncio.shield(SHARED.launch)  # kinds may start at the same time
            await self._register_queues()
        except BaseException:
            await self.stop()
            raise
        if self._kind in SHARED.left:
            SHARED.left.discard(self._kind)
            await in_own_thread(self._recover_own)
        SHARED.changed.notify_all()

    async def look(self) -> None:
        """Raises what keeps the workflow database from being used; makes its tables again where that is up to us."""
        try:
            await self._database.check()
        except Unavailable as error:
            if error.reason != SCHEMA_MISSING or not self._database.is_migrated_by_service:
                raise
            await in_own_thread(self._make_tables_again)
            await self._register_queues()

    async def stop(self) -> None:
        """Interrupts what runs, leaving it to be recovered; the last kind to stop ends DBOS."""
        await self._database.close()
        if SHARED.engines.get(self._kind) is not self:
            return  # not started
        self._workflows = None
        await self._claims.settle()
        await self._interrupt(list(self._tasks))
        if list(SHARED.engines) == [self._kind]:
            if SHARED.launch is not None:  # in its thread a launch goes on, and would find DBOS gone
                await asyncio.wait({SHARED.launch}, timeout=LAUNCH_SECONDS)
            await in_own_thread(DBOS.destroy)  # the loop's own pool may be DBOS's
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))  # DBOS shut its own down
            SHARED.left.clear()
        else:
            SHARED.left.add(self._kind)
        del SHARED.engines[self._kind]
        SHARED.changed.notify_all()

    # ---- queueing and steps ----

    async def submit_job(self, uid: str) -> None:
        """Queues the workflow of a job. Repeated calls change nothing."""
        with SetWorkflowID(uid), self._database.typed_errors():
            await DBOS.enqueue_workflow_async(self._jobs_queue, self._job_workflow, uid)
        self._claims.soon(self._jobs_queue)

    def group_size(self, count: int) -> int:
        """How many of so many chunks go into one workflow: fewer of a small job, which replicas are to share too."""
        return min(max(count // MIN_GROUPS, 1), self._config.chunks_per_group)

    async def submit_chunks(self, uid: str, phase: str, count: int, *, size: int) -> None:
        """Queues the workflows of chunks, `size` in each; called by the workflow of their job.

        Repeated calls change nothing.
        """
        # The partition is the job, so that `chunks_per_job` bounds each job, and a large one does not starve others.
        options = SetEnqueueOptions(queue_partition_key=uid)
        for number in range(group_count(count, size=size)):
            with SetWorkflowID(chunk_id(uid, phase, number)), options, self._database.typed_errors():
                if size == 1:
                    await DBOS.enqueue_workflow_async(self._chunks_queue, self._chunk_workflow, uid, phase, number)
                else:
                    await DBOS.enqueue_workflow_async(
                        self._chunks_queue, self._group_workflow, uid, phase, number, size
                    )
            self._claims.soon(self._chunks_queue, partition=uid)  # the first begin while others are queued

    async def step(self, name: str, body: Body) -> Any:
        """The result of `body`, JSON; read from the database if this workflow got that far before.

        An OmnialignError is a result too, and is raised again; other exceptions are bugs and raise Internal.
        """

        async def run() -> dict[str, Any]:
            try:
                return {"value": await body()}
            except OmnialignError as error:
                return {"error": _encoded(error)}
            except Exception as error:
                logger.exception("step %s failed", name)
                message = f"the step '{name}' failed: {type(error).__name__}: {error}"
                return {"error": _encoded(Internal(message, reason="STEP_FAILED"))}

        result = await DBOS.run_step_async({"name": name}, run)
        if "error" in result:
            raise from_status(status_pb2.Status.FromString(base64.b64decode(result["error"])))
        return result["value"]

    # ---- control ----

    async def cancel(self, uid: str) -> None:
        """Ends the workflows of a job and of its chunks, and interrupts those that run here."""
        with self._database.typed_errors():
            await DBOS.cancel_workflow_async(uid, cancel_children=True)
        await self.interrupt(uid)

    async def cancel_chunks(self, uid: str, phase: str, count: int, *, size: int) -> None:
        """Ends the workflows of chunks; called in a step of their job's workflow."""
        ids = [chunk_id(uid, phase, number) for number in range(group_count(count, size=size))]
        if ids:
            await DBOS.cancel_workflows_async(ids)
        await self._interrupt([i for i in ids if i in self._tasks])

    async def interrupt(self, uid: str) -> None:
        """Interrupts the workflows of a job that run in this process."""
        await self._interrupt([i for i in self._tasks if i == uid or i.startswith(f"{uid}/")])

    async def recover(self, executor_id: str) -> None:
        """Takes over the workflows of an executor that is gone."""
        with self._database.typed_errors():
            await asyncio.to_thread(DBOS._recover_pending_workflows, [executor_id])

    # ---- looking ----

    def running(self) -> set[str]:
        """Uids of the jobs that this process is working on."""
        return {workflow_id.partition("/")[0] for workflow_id in self._tasks}

    async def dead_chunks(self, uid: str, phase: str) -> list[str]:
        """Workflow ids of chunks that the engine gave up on, at most one."""
        found = await DBOS.list_workflows_async(workflow_id_prefix=f"{uid}/{phase}-", status=list(DEAD), limit=1)
        return [workflow.workflow_id for workflow in found]

    async def is_dead(self, uid: str) -> bool:
        """Whether the engine gave up on the workflow of a job."""
        with self._database.typed_errors():
            found = await DBOS.list_workflows_async(workflow_ids=[uid], status=list(DEAD), limit=1)
        return bool(found)

    async def queued(self) -> tuple[int, int]:
        """How many groups of chunks wait in the queue, and when the oldest was queued (ms since 1970; 0 for none)."""
        with self._database.typed_errors():
            return await asyncio.to_thread(self._queued)

    # ---- parts ----

    async def run(self, work: Callable[[Workflows], Awaitable[None]]) -> None:
        """Runs the body of a workflow in its task, so that it can be interrupted."""
        workflow_id, task, workflows = DBOS.workflow_id, asyncio.current_task(), self._workflows
        assert workflow_id is not None and task is not None
        if workflows is None:
            raise asyncio.CancelledError  # stopping: it stays pending, and begins again at the next start
        self._tasks[workflow_id] = task
        uid, _, chunk = workflow_id.partition("/")
        try:
            async with self._places(uid) if chunk else contextlib.nullcontext():
                await work(workflows)
        finally:
            self._tasks.pop(workflow_id, None)
            if chunk and self._workflows is not None:
                self._claims.soon(self._chunks_queue, partition=uid, seconds=SETTLE_SECONDS)

    def _places(self, uid: str) -> asyncio.Semaphore:
        """Bounds the workflows of a job that run here: of two that claim at once, either fills what was free before."""
        if (places := self._bounds.get(uid)) is None:
            places = self._bounds[uid] = asyncio.Semaphore(self._config.groups_per_job)
        return places

    def _queued(self) -> tuple[int, int]:
        # Counted by the database: the library would make an object of each workflow that waits.
        store = SHARED.instance._sys_db
        table = store.tables.workflow_status.c
        where = (table.queue_name == self._chunks_queue, table.status == "ENQUEUED")
        with store.engine.connect() as connection:
            query = sa.select(sa.func.count(), sa.func.min(table.created_at)).where(*where)
            count, oldest = connection.execute(query).one()
        return int(count), int(oldest or 0)

    async def _interrupt(self, workflow_ids: Sequence[str]) -> None:
        tasks = [self._tasks[i] for i in workflow_ids if self._tasks[i] is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _launch(self) -> None:
        with self._database.typed_errors():
            self._database.write_ahead()
        SHARED.instance = DBOS(config=self._dbos_config())  # type: ignore[arg-type] # a TypedDict of theirs
        # Workflows run on this loop alone: DBOS would take another whenever it finds this one between two runs.
        loop = asyncio.get_running_loop()
        SHARED.instance._background_event_loop.target_loop = lambda: loop
        with self._database.typed_errors():
            await in_own_thread(_launch)  # in a thread, because it waits for the database

    def _make_tables_again(self) -> None:
        migrate(self._config.workflows_url)
        SHARED.instance._sys_db.create_application_version(version())  # noted at the launch, and lost since

    async def _register_queues(self) -> None:
        await DBOS.register_queue_async(self._jobs_queue, polling_interval_sec=JOBS_POLLING_SECONDS)
        await DBOS.register_queue_async(
            self._chunks_queue,
            partition_worker_concurrency=self._config.groups_per_job,
            polling_interval_sec=self._config.queue_polling_seconds,
        )

    def _recover_own(self) -> None:
        """Queues again what the kind left pending when it stopped while another one kept DBOS running."""
        executor_id, names = self._config.executor_id, [f"{self._kind}_{what}" for what in ("job", "chunk", "chunks")]
        ours = {workflow.workflow_id for workflow in DBOS.list_workflows(name=names, status="PENDING")}
        for workflow in SHARED.instance._sys_db.get_pending_workflows(executor_id, version()):
            if workflow.workflow_id in ours - SHARED.waiting:
                _recover_workflow(SHARED.instance, workflow, [executor_id])

    def _dbos_config(self) -> dict[str, Any]:
        return {
            "name": f"omnialign-{application()}",
            "system_database_url": self._database.url,
            "run_migrations": self._database.is_migrated_by_service,
            **self._database.connection_settings(),
            "application_version": version(),
            "executor_id": self._config.executor_id,
            "serializer": DBOSPortableJSON,
            "max_executor_threads": MAX_THREADS,
            "notification_listener_polling_interval_sec": LISTENER_POLLING_SECONDS,
            "log_level": "ERROR",
            "enable_otlp": False,
        }


def chunk_id(uid: str, phase: str, number: int) -> str:
    """Id of the workflow of a group of chunks, or of a chunk that has one of its own."""
    return f"{uid}/{phase}-{number:04d}"


def group_count(count: int, *, size: int) -> int:
    """In how many workflows so many chunks are, with `size` in each."""
    return -(-count // size)


def migrate(url: str) -> None:
    """Brings the tables of the engine up to date, in the schema `dbos` of a PostgreSQL database."""
    DBOS.migrate(WorkflowDatabase(url, migrate=True).url)


def _launch() -> None:
    """Raises FailedPrecondition (`SCHEMA_OUTDATED`)."""
    try:
        DBOS.launch()
    except DBOSInitializationError as error:
        message = f"The tables of the workflow engine are not up to date: run '{COMMAND}'."
        raise FailedPrecondition(message, reason="SCHEMA_OUTDATED", metadata={"service": "workflows"}) from error


def _encoded(error: OmnialignError) -> str:
    return base64.b64encode(to_status(error).SerializeToString()).decode()
