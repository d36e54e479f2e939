"""What this process knows of jobs without asking the database: who waits is woken, and states are at hand."""

import asyncio
import contextlib


class Signal:
    """Wakes all who wait, each time it is given."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Wakes all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, *, timeout_seconds: float) -> None:
        """Returns at the next signal, or after the time."""
        event = self._event
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await event.wait()


class News:
    """Used on the event loop alone.

    `changed` and `stepped` are given when a job or a chunk changed in this process; other replicas' changes are found
    by looking. `states` holds the newest known state of the jobs that this process works on.
    """

    def __init__(self) -> None:
        self.changed, self.stepped = Signal(), Signal()
        self.states: dict[str, int] = {}
        self.num_changes = 0

    def note(self, uid: str, *, state: int) -> None:
        """Takes in that a job was changed."""
        self.num_changes += 1
        if uid in self.states:
            self.states[uid] = state
        self.changed.give()
