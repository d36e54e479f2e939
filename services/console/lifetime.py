"""Whether the console serves, and whether it is ending."""

import asyncio

from services.runtime.health import Health

FULL_NAME = "omnialign.Console"
"""Its name to health checks."""


class Lifetime:
    """The life of a console. Made inside a running event loop."""

    def __init__(self) -> None:
        self.health = Health()
        """What probes are told."""
        self.health.add(FULL_NAME)
        self.is_ready = False
        """Whether load balancers may send requests."""
        self.ending = asyncio.Event()
        """Set when streams that would never end by themselves must."""

    def begin(self) -> None:
        """It answers."""
        self.is_ready = True
        self.health.set(FULL_NAME, serving=True)

    def drain(self) -> None:
        """It goes on, but nobody should come any more."""
        self.is_ready = False
        self.health.drain()

    def end(self) -> None:
        """It finishes what is under way."""
        self.drain()
        self.ending.set()
