"""What a job printed, read part by part from wherever its attempts run."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from omnialign import names
from omnialign.v1.training_service_pb2 import StreamTrainingLogRequest, StreamTrainingLogResponse
from services.training.launcher import Handle, Launcher, LogPart
from services.training.store import ENDED, Store

POLL_SECONDS = 1.0
LINES_PER_MESSAGE = 500


class Logs:
    """The logs of jobs. After a job has ended, what its launcher no longer has is the tail kept with the job."""

    def __init__(self, store: Store, launcher: Launcher) -> None:
        self._store, self._launcher = store, launcher

    async def read(self, request: StreamTrainingLogRequest) -> AsyncIterator[StreamTrainingLogResponse]:
        """The lines after a position; with `follow`, those that come until the job ends. Raises `NotFound`."""
        names.parse(request.name, names.TRAINING_JOB)
        position, kept = request.resume_after, deque[str](maxlen=request.tail_lines or None)
        is_tail = request.tail_lines > 0
        while True:
            # The job is read before its log: of one that has ended, all lines are there.
            has_ended, part = await self._part(request.name, position=position)
            drained, position = not part.lines, part.position
            if is_tail and not drained:
                kept.extend(part.lines)
                continue
            lines, is_tail = (list(kept), False) if is_tail else (list(part.lines), False)
            for start in range(0, len(lines), LINES_PER_MESSAGE):
                yield StreamTrainingLogResponse(lines=lines[start : start + LINES_PER_MESSAGE], position=position)
            if drained and (has_ended or not request.follow):
                return
            if drained:
                await asyncio.sleep(POLL_SECONDS)

    async def _part(self, name: str, *, position: int) -> tuple[bool, LogPart]:
        entry = await self._store.get(name)
        has_ended = entry.job.state in ENDED
        handle = Handle(entry.pid, entry.pid_start_time) if entry.pid else None
        part = await self._launcher.read_log(entry.job, handle, position=position)
        if has_ended and position == 0 and not part.lines:
            return True, LogPart(entry.job.log_tail, 1)
        return has_ended, part
