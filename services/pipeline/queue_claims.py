"""Takes up what is queued with the workflow engine at once, instead of when its threads poll the queue next.

The engine's own threads poll a few times a second, because each look costs processor time whether there is work or not.
That is how work gets to other replicas, and how nothing is ever left behind. But who queues something, or has a place
free, knows it: it looks then. Of two that claim at once, only one gets a workflow; but each counts what runs before it
claims, so both together may claim more than there is room for, which then waits (`WorkflowEngine.run`).
"""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

from services.runtime.threads import in_own_thread

STOP_SECONDS = 2.0

logger = logging.getLogger(__name__)


class QueueClaims:
    """The claims of one job kind in this process.

    `engine` gives the DBOS that is running, and `start` starts a workflow in it that was claimed, given its status and
    the claim's token.
    """

    def __init__(
        self,
        engine: Callable[[], Any],
        start: Callable[[Any, Any, str], object],
        *,
        executor_id: str,
        version: Callable[[], str],
    ) -> None:
        self._engine, self._start = engine, start
        self._executor_id, self._version = executor_id, version
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def soon(self, queue: str, *, partition: str | None = None, seconds: float = 0.0) -> None:
        """Looks in the background after so many seconds; once, however often it is called until then."""
        key = partition or queue
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._claim(queue, partition, seconds), name=f"claim {key}")
            self._tasks[key].add_done_callback(lambda _: self._tasks.pop(key))

    async def settle(self) -> None:
        """Returns when no claim is under way, or after 2 seconds."""
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=STOP_SECONDS)

    async def _claim(self, queue: str, partition: str | None, seconds: float) -> None:
        await asyncio.sleep(seconds)
        try:
            await in_own_thread(lambda: self._start_queued(queue, partition))  # the loop's own pool may be the engine's
        except Exception as error:
            logger.info("what is queued in %s is left to the next poll: %s", queue, error)

    def _start_queued(self, name: str, partition: str | None) -> None:
        """Claims and starts what has a place in this process, as the queue's own thread does."""
        dbos, owner = self._engine(), str(uuid.uuid4())
        store, active, queue = dbos._sys_db, dbos._active_workflows_set, dbos._sys_db.get_queue(name)
        if queue is None:
            return
        running = active.count_for_partition(name, partition) if partition else active.count_for_queue(name)
        claimed, _ = store.start_queued_workflows(
            queue, self._executor_id, self._version(), partition, running, running, owner_xid=owner
        )
        for status in store.get_workflow_statuses(claimed):
            self._start(dbos, status, owner)
