"""Whether the console serves, and whether it is ending."""

import asyncio
from dataclasses import dataclass, field


@dataclass
class Lifetime:
    """The life of a console."""

    is_ready: bool = False
    """Whether load balancers may send requests."""
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when streams that would never end by themselves must."""
