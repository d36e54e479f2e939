"""Wakes those who wait for a job, and remembers the states of jobs at work, without asking the database.

It knows what happens in this process. What other replicas change is found by looking, so every wait has a bound.
"""

import asyncio

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


class Notifier:
    """Used on the event loop alone, so it needs no lock."""

    def __init__(self) -> None:
        self.job_changed = Signal()
        self.step_committed = Signal()
        """Also notified when a chunk failed."""
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
