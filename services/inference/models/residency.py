"""Which models are in memory: several within a budget, the least recently used leave first.

One load at a time. A model in use never leaves; who needs its room waits for it. So that jobs with different models do
not swap them at every call, a model keeps its room for a tenure while it has work, and whoever wants it comes in; when
the tenure is over everybody queues in order, so that a busy model cannot keep its memory for ever. A model that has had
no work for a moment leaves before. Nobody waits for one model while holding another, so this cannot lock up.
"""

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from omnialign.errors import FailedPrecondition, ResourceExhausted
from services.inference.errors import OutOfMemory
from services.inference.models.key import ModelKey

LoadedT = TypeVar("LoadedT", bound=Any)
"""What an engine has in memory for a model."""

LINGER_SECONDS = 0.5
"""How long a model without work counts as busy within its tenure: a caller's next request is on its way."""


@dataclass
class Resident(Generic[LoadedT]):
    """A model in memory, with its size as reckoned, its users, when it came and when it was last let go of."""

    loaded: LoadedT
    size_bytes: int
    users: int = 0
    since: float = field(default_factory=time.monotonic)
    released: float = field(default_factory=time.monotonic)


class Residency(Generic[LoadedT]):
    """Keeps models in memory. For use on one event loop.

    `measure` gives the bytes that a model will take, `load` reads it; both may raise, which harms that model alone.
    `tenure_seconds` is how long a model with work keeps its room while others wait for it.
    `dropped` is told what has left, to free what garbage collection does not; `changed` the number of models and bytes
    in memory whenever they change.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        measure: Callable[[ModelKey], Awaitable[int]],
        load: Callable[[ModelKey], Awaitable[LoadedT]],
        changed: Callable[[int, int], None] = lambda models, size_bytes: None,
        dropped: Callable[[LoadedT], None] = lambda loaded: None,
        tenure_seconds: float = 0.0,
    ) -> None:
        self._budget_bytes, self._tenure_seconds = budget_bytes, tenure_seconds
        self._measure, self._load, self._changed, self._dropped = measure, load, changed, dropped
        self._residents: OrderedDict[ModelKey, Resident[LoadedT]] = OrderedDict()
        self._turn = asyncio.Lock()  # first come, first served
        self._loads: dict[ModelKey, asyncio.Task[None]] = {}
        self._pending: Counter[ModelKey] = Counter()
        self._waits_for_room = False
        self._released = asyncio.Event()

    @property
    def keys(self) -> list[ModelKey]:
        """Models in memory, the least recently used first."""
        return list(self._residents)

    @property
    def size_bytes(self) -> int:
        """Bytes of all models in memory."""
        return sum(resident.size_bytes for resident in self._residents.values())

    @asynccontextmanager
    async def use(self, key: ModelKey) -> AsyncIterator[LoadedT]:
        """A model, loaded if need be, that stays in memory meanwhile. Raises ResourceExhausted MODEL_TOO_LARGE."""
        resident = await self._acquire(key)
        try:
            yield resident.loaded
        finally:
            resident.users -= 1
            resident.released = time.monotonic()
            self._released.set()

    async def unload(self, model: str) -> None:
        """Drops a model of this name from memory. Raises FailedPrecondition MODEL_IN_USE."""
        keys = [key for key in self._residents if key.model == model]
        if any(self._in_use(key) for key in keys):
            raise FailedPrecondition(
                f"The model {model} is in use; try again when its requests are done.",
                reason="MODEL_IN_USE",
                metadata={"model": model},
            )
        for key in keys:
            self._drop(key)

    def forget(self, key: ModelKey, loaded: LoadedT) -> None:
        """Drops a model that has broken, though it be in use; the next use loads it again."""
        if key in self._residents and self._residents[key].loaded is loaded:
            self._drop(key)
            self._released.set()

    async def retire(self, key: ModelKey, loaded: LoadedT) -> None:
        """Drops a model as soon as nobody uses it; the next use loads it again."""
        while key in self._residents and self._residents[key].loaded is loaded:
            if self._in_use(key):
                await self._wait_for_release(None)
            else:
                self.forget(key, loaded)

    def drop_all(self) -> None:
        """Drops all models, at the end of the engine."""
        for key in list(self._residents):
            self._drop(key)

    async def _acquire(self, key: ModelKey) -> Resident[LoadedT]:
        if key in self._residents and not self._waits_for_room:
            return self._pin(key)
        if key in self._residents:
            async with self._turn:  # behind whoever waits for room
                if key in self._residents:
                    return self._pin(key)
        self._pending[key] += 1  # from its load until it is pinned, the model cannot be dropped
        try:
            while key not in self._residents:
                await self._loaded(key)
            return self._pin(key)
        finally:
            self._pending[key] -= 1
            self._released.set()

    async def _loaded(self, key: ModelKey) -> None:
        """Waits for the one load of a model, which goes on for the others when one of them goes away."""
        if key not in self._loads:
            self._loads[key] = asyncio.create_task(self._load_in_turn(key))
            self._loads[key].add_done_callback(lambda task: task.cancelled() or task.exception())  # seen by somebody
        await asyncio.shield(self._loads[key])

    async def _load_in_turn(self, key: ModelKey) -> None:
        try:
            async with self._turn:
                if key not in self._residents:
                    await self._bring(key)
        finally:
            del self._loads[key]

    def _pin(self, key: ModelKey) -> Resident[LoadedT]:
        self._residents.move_to_end(key)
        self._residents[key].users += 1
        return self._residents[key]

    async def _bring(self, key: ModelKey) -> None:
        """Loads a model after making room for it."""
        size_bytes = await self._measure(key)
        if size_bytes > self._budget_bytes:
            raise too_large(key, size_bytes=size_bytes, budget_bytes=self._budget_bytes)
        await self._make_room(size_bytes)
        self._residents[key] = Resident(await self._load_or_free(key), size_bytes)
        self._changed(len(self._residents), self.size_bytes)

    async def _load_or_free(self, key: ModelKey) -> LoadedT:
        """Loads a model; where the device has less room than was reckoned, once more without the idle ones."""
        try:
            return await self._load(key)
        except OutOfMemory:
            idle = [other for other in self._residents if not self._in_use(other)]
            if not idle:
                raise
        for other in idle:
            self._drop(other)
        return await self._load(key)

    async def _make_room(self, size_bytes: int) -> None:
        try:
            while self.size_bytes + size_bytes > self._budget_bytes:
                claims = {key: self._claim_seconds(key) for key in self._residents}
                idle = next((k for k, claim in claims.items() if claim <= 0 and not self._in_use(k)), None)
                if idle is not None:
                    self._drop(idle)
                    continue
                claims_left = [claim for claim in claims.values() if claim > 0]
                self._waits_for_room = not claims_left
                await self._wait_for_release(min(claims_left, default=None))
        finally:
            self._waits_for_room = False

    async def _wait_for_release(self, timeout_seconds: float | None) -> None:
        """Waits until somebody lets go of a model, at most so long."""
        self._released.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._released.wait()

    def _claim_seconds(self, key: ModelKey) -> float:
        """How long a model may still keep its room while another waits for it."""
        resident, now = self._residents[key], time.monotonic()
        tenure = resident.since + self._tenure_seconds - now
        return tenure if self._in_use(key) else min(tenure, resident.released + LINGER_SECONDS - now)

    def _in_use(self, key: ModelKey) -> bool:
        return bool(self._residents[key].users or self._pending[key])

    def _drop(self, key: ModelKey) -> None:
        self._dropped(self._residents.pop(key).loaded)
        self._changed(len(self._residents), self.size_bytes)


def too_large(key: ModelKey, *, size_bytes: int, budget_bytes: int) -> ResourceExhausted:
    """The error for a model that can never fit."""
    width = key.dtype.itemsize
    return ResourceExhausted(
        f"The model {key.model} takes {size_bytes} bytes ({size_bytes // width} parameters of {width} bytes), more "
        f"than this engine's whole budget of {budget_bytes} bytes.",
        reason="MODEL_TOO_LARGE",
        metadata={"model": key.model, "size_bytes": str(size_bytes), "budget_bytes": str(budget_bytes)},
    )
