"""The durable workflow engine (DBOS) behind alignment jobs: a thin wrap, the only file that knows it.

A job is one workflow (id = uid of the job); each chunk of records is a child (`<uid>/<phase>-0007`). What a workflow
did is kept step by step in a database, and a process that starts anew goes on where the last one was killed.

DBOS lives once per process, and runs its workflows on the event loop that launched it. Three traps are met here: the
queues are polled every few dozen milliseconds instead of once a second; the executor's id is stable, and survivors
recover the work of executors that fell silent (`recover`); and the application version is the workflow's own, so that
an upgrade does not strand running jobs. Values are stored as JSON, never as pickles.
"""

import asyncio
import base64
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID
from dbos._error import DBOSInitializationError
from dbos._serialization import DBOSPortableJSON
from google.rpc import status_pb2
from sqlalchemy.exc import SQLAlchemyError

from omnialign.errors import FailedPrecondition, Internal, OmnialignError, from_status, to_status
from services.alignment.config import AlignmentConfig
from services.runtime.database import parse_url, postgresql_arguments
from services.runtime.database_faults import translate
from services.runtime.migrations import COMMAND

WORKFLOW_VERSION = "1"
"""Raise it only when running jobs cannot be continued by the new code: their steps are replayed by position."""

JOBS_QUEUE, CHUNKS_QUEUE = "alignment-jobs", "alignment-chunks"
DEAD = ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
JOBS_POLLING_SECONDS = 0.2
MAX_THREADS = 64
POOL_SIZE = 8

logger = logging.getLogger(__name__)

Body = Callable[[], Awaitable[Any]]


class Workflows(Protocol):
    """What the engine runs. Both may be called again for work that was begun before: each must go on with it."""

    async def run_job(self, uid: str) -> None:
        """Works on a job until it has ended."""

    async def run_chunk(self, uid: str, phase: str, number: int) -> None:
        """Works on one chunk of a job."""


class Engine:
    """Runs workflows. One per process at a time."""

    def __init__(self, config: AlignmentConfig) -> None:
        self._config = config
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._workflows: Workflows | None = None

    async def start(self, workflows: Workflows) -> None:
        """Launches DBOS on the running loop; workflows that a former process left begin again.

        May be called again after it failed, as it does when the database is away.
        """
        global _current
        if _current is not None:
            raise Internal("another alignment service runs in this process", reason="ENGINE_RUNNING")
        self._workflows, _current = workflows, self
        try:
            _write_ahead(self._config.workflows_url)
            instance = DBOS(config=self._dbos_config())  # type: ignore[arg-type]
            instance._background_event_loop.set_main_loop()  # workflows run on this loop
            await _in_thread(_launch)  # in a thread, because it waits for the database
            await DBOS.register_queue_async(JOBS_QUEUE, polling_interval_sec=JOBS_POLLING_SECONDS)
            await DBOS.register_queue_async(
                CHUNKS_QUEUE,
                partition_worker_concurrency=self._config.chunks_per_job,
                polling_interval_sec=self._config.queue_polling_seconds,
            )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Interrupts what runs, leaving it to be recovered, and ends DBOS."""
        global _current
        if _current is not self:
            return  # not started
        self._workflows = None
        await self._interrupt(list(self._tasks))
        await _in_thread(DBOS.destroy)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))  # DBOS's own is shut down
        _current = None

    async def submit_job(self, uid: str) -> None:
        """Queues the workflow of a job. Repeated calls change nothing."""
        with SetWorkflowID(uid):
            await DBOS.enqueue_workflow_async(JOBS_QUEUE, _job_workflow, uid)

    async def submit_chunk(self, uid: str, phase: str, number: int) -> None:
        """Queues the workflow of a chunk; called by the workflow of its job. Repeated calls change nothing."""
        with SetWorkflowID(chunk_id(uid, phase, number)), SetEnqueueOptions(queue_partition_key=uid):
            await DBOS.enqueue_workflow_async(CHUNKS_QUEUE, _chunk_workflow, uid, phase, number)

    async def step(self, name: str, body: Body) -> Any:
        """The result of `body`, JSON, from the database if this workflow got that far before.

        An OmnialignError is a result too, and raised again; other exceptions are our own faults and raise Internal.
        """

        async def run() -> dict[str, Any]:
            try:
                return {"value": await body()}
            except OmnialignError as error:
                return {"error": base64.b64encode(to_status(error).SerializeToString()).decode()}
            except Exception as error:
                logger.exception("step %s failed", name)
                fault = Internal(f"the step '{name}' failed: {type(error).__name__}: {error}", reason="STEP_FAILED")
                return {"error": base64.b64encode(to_status(fault).SerializeToString()).decode()}

        result = await DBOS.run_step_async({"name": name}, run)
        if "error" in result:
            raise from_status(status_pb2.Status.FromString(base64.b64decode(result["error"])))
        return result["value"]

    async def cancel(self, uid: str) -> None:
        """Ends the workflows of a job and of its chunks, and interrupts those that run here."""
        await DBOS.cancel_workflow_async(uid, cancel_children=True)
        await self.interrupt(uid)

    async def cancel_chunks(self, uid: str, phase: str, numbers: Sequence[int]) -> None:
        """Ends the workflows of chunks; called in a step of their job's workflow."""
        ids = [chunk_id(uid, phase, number) for number in numbers]
        if ids:
            await DBOS.cancel_workflows_async(ids)
        await self._interrupt([i for i in self._tasks if i in set(ids)])

    async def interrupt(self, uid: str) -> None:
        """Interrupts the workflows of a job that run in this process."""
        await self._interrupt([i for i in self._tasks if i == uid or i.startswith(f"{uid}/")])

    def running(self) -> set[str]:
        """Uids of the jobs of which something runs in this process."""
        return {workflow_id.partition("/")[0] for workflow_id in self._tasks}

    async def dead_chunks(self, uid: str, phase: str) -> list[str]:
        """Ids of the chunks' workflows that ended by a fault of the engine."""
        found = await DBOS.list_workflows_async(workflow_id_prefix=f"{uid}/{phase}-", status=list(DEAD), limit=1)
        return [workflow.workflow_id for workflow in found]

    async def is_dead(self, uid: str) -> bool:
        """Whether the workflow of a job ended by a fault of the engine."""
        found = await DBOS.list_workflows_async(workflow_ids=[uid], status=list(DEAD), limit=1)
        return bool(found)

    async def queued(self) -> list[int]:
        """Times (ms since the epoch) at which the chunks that wait in the queue were queued."""
        waiting = await DBOS.list_queued_workflows_async(queue_name=CHUNKS_QUEUE, status="ENQUEUED", load_input=False)
        return [workflow.created_at for workflow in waiting if workflow.created_at is not None]

    async def recover(self, executor_id: str) -> None:
        """Takes over the workflows of an executor that is gone."""
        await asyncio.to_thread(DBOS._recover_pending_workflows, [executor_id])

    async def run(self, work: Callable[[Workflows], Awaitable[None]]) -> None:
        """Runs the body of a workflow in its task, so that it can be interrupted."""
        workflow_id, task = DBOS.workflow_id, asyncio.current_task()
        assert workflow_id is not None and task is not None
        if self._workflows is None:
            raise asyncio.CancelledError  # stopping: stays pending, and begins again at the next start
        self._tasks[workflow_id] = task
        try:
            await work(self._workflows)
        finally:
            self._tasks.pop(workflow_id, None)

    async def _interrupt(self, workflow_ids: Sequence[str]) -> None:
        tasks = [self._tasks[i] for i in workflow_ids if self._tasks[i] is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _dbos_config(self) -> dict[str, Any]:
        return {
            "name": "omnialign-alignment",
            "system_database_url": _dbos_url(self._config.workflows_url),
            "run_migrations": is_sqlite(self._config.workflows_url),
            **_connections(self._config.workflows_url),
            "application_version": WORKFLOW_VERSION,
            "executor_id": self._config.executor_id,
            "serializer": DBOSPortableJSON,
            "max_executor_threads": MAX_THREADS,
            "log_level": "ERROR",
            "enable_otlp": False,
        }


_current: Engine | None = None


def chunk_id(uid: str, phase: str, number: int) -> str:
    """Id of the workflow of a chunk."""
    return f"{uid}/{phase}-{number:04d}"


def _engine() -> Engine:
    if _current is None:
        raise asyncio.CancelledError
    return _current


@DBOS.workflow(name="alignment_job", max_recovery_attempts=None)
async def _job_workflow(uid: str) -> None:
    await _engine().run(lambda workflows: workflows.run_job(uid))


@DBOS.workflow(name="alignment_chunk", max_recovery_attempts=None)
async def _chunk_workflow(uid: str, phase: str, number: int) -> None:
    await _engine().run(lambda workflows: workflows.run_chunk(uid, phase, number))


def migrate(url: str) -> None:
    """Brings the tables of the engine up to date, in the schema `dbos` of a PostgreSQL database."""
    DBOS.migrate(_dbos_url(url))


def is_sqlite(url: str) -> bool:
    """Whether the engine keeps its tables in a file, and makes them itself."""
    return parse_url(url).get_backend_name() == "sqlite"


def _launch() -> None:
    """Raises Unavailable (`DATABASE_UNAVAILABLE`) and FailedPrecondition (`SCHEMA_OUTDATED`)."""
    try:
        DBOS.launch()
    except SQLAlchemyError as error:
        if (typed := translate(error, place="of the workflows")) is not None:
            raise typed from error
        raise
    except DBOSInitializationError as error:
        message = f"The tables of the workflow engine are not up to date: run '{COMMAND}'."
        raise FailedPrecondition(message, reason="SCHEMA_OUTDATED", metadata={"service": "workflows"}) from error


async def _in_thread(work: Callable[[], object]) -> None:
    """Waits for blocking work in a thread of its own: the pool of the loop may be DBOS's."""
    executor = ThreadPoolExecutor(1)
    try:
        await asyncio.get_running_loop().run_in_executor(executor, work)
    finally:
        executor.shutdown(wait=False)  # who is cancelled does not hold the loop up


def _dbos_url(url: str) -> str:
    return parse_url(url).render_as_string(hide_password=False)


def _connections(url: str) -> dict[str, Any]:
    """How many connections to PostgreSQL there are, and how long each waits."""
    if is_sqlite(url):
        return {}
    arguments = postgresql_arguments("omnialign-workflows")
    return {"sys_db_pool_size": POOL_SIZE, "db_engine_kwargs": {"connect_args": arguments}}


def _write_ahead(url: str) -> None:
    """Puts a SQLite database in write-ahead mode, which its file remembers: commits are several times as fast."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(parsed.database)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
