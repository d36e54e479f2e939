"""Wakes those who wait for a job, and remembers the states of jobs at work, without asking the database.

It knows what happens in this process. What other replicas change is found by looking, so every wait has a bound.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

from omnialign.retry import wait_for_event


class Signal:
    """Wakes everyone who waits, each time `notify_all` is called."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.count = 0
        """Number of calls of `notify_all`. Who looks before waiting notes it first: no call in between is missed."""

    def notify_all(self) -> None:
        """Wakes everyone who waits now; who waits later waits for the next call."""
        self.count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, *, timeout_seconds: float, since: int | None = None) -> None:
        """Returns at the next `notify_all`, or after `timeout_seconds`; at once if `count` is no longer `since`."""
        if since is None or since == self.count:
            await wait_for_event(self._event, timeout_seconds=timeout_seconds)


StepOf = tuple[str, str, str]
"""The uid of a job, a phase and a step."""


class News:
    """What this process does to the chunks of a job from the moment on at which it is made.

    Made before the database is asked, so that nothing in between is missed.
    """

    def __init__(self, notifier: "Notifier", step: StepOf) -> None:
        self._notifier, self._step = notifier, step
        self._committed, self._failures = notifier.committed[step], notifier.failures[step[0]]
        self._begun = time.monotonic()
        self._seen = notifier.chunks_changed.count

    async def wait(self, left: int, *, soon_seconds: float, timeout_seconds: float) -> None:
        """Returns when so many chunks have committed the step, or one has failed; after `soon_seconds` if anything was
        committed, and else after `timeout_seconds`."""
        notifier, until = self._notifier, self._begun + timeout_seconds
        while (seconds := until - time.monotonic()) > 0:
            done = notifier.committed[self._step] - self._committed
            if done >= left or notifier.failures[self._step[0]] > self._failures:
                return
            await notifier.chunks_changed.wait(timeout_seconds=seconds, since=self._seen)
            if notifier.chunks_changed.count > self._seen:
                self._seen, until = notifier.chunks_changed.count, self._begun + soon_seconds


class Notifier:
    """Used on the event loop alone, so it needs no lock."""

    def __init__(self) -> None:
        self.job_changed = Signal()
        self.chunks_changed = Signal()
        """Notified when chunks commit a step, or fail."""
        self.committed: Counter[StepOf] = Counter()
        """How many chunks of each step this process has committed, of jobs that it works on."""
        self.failures: Counter[str] = Counter()
        """How many chunks this process has seen fail, by the uid of the job."""
        self.states: dict[str, int] = {}
        """Newest known state of each job that this process works on, by uid."""
        self.num_changes = 0
        """Number of changes so far. Who reads states from the database compares it before and after: if it moved,
        what was read may be older than what is in `states`."""

    def job_state(self, uid: str, state: int) -> None:
        """Takes in that a job was changed and now has this state."""
        self.num_changes += 1
        if uid in self.states:
            self.states[uid] = state
        self.job_changed.notify_all()

    def steps_committed(self, chunks: Mapping[StepOf, int]) -> None:
        """Takes in that so many chunks committed each of these steps."""
        self.committed.update(chunks)
        self.chunks_changed.notify_all()

    def chunk_failed(self, uid: str) -> None:
        """Takes in that a chunk of a job failed."""
        self.failures[uid] += 1
        self.chunks_changed.notify_all()

    def news(self, step: StepOf) -> News:
        """What happens to the chunks of a job from now on, of which each commits this step last."""
        return News(self, step)

    def forget(self, uid: str) -> None:
        """Drops what is known of a job."""
        self.states.pop(uid, None)
        self.failures.pop(uid, None)
        for key in [key for key in self.committed if key[0] == uid]:
            del self.committed[key]
