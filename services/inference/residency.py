"""Which models are in memory: several within a budget, the least recently used leave first.

One load at a time. A model in use never leaves; who needs its room waits for it, and from then on everybody queues in
order, so that a busy model cannot keep its memory for ever. Nobody waits for one model while holding another, so this
cannot lock up.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from omnialign.errors import FailedPrecondition, ResourceExhausted
from services.inference.loading import LoadedModel, ModelKey


@dataclass
class Resident:
    """A model in memory, with its size as reckoned and its users."""

    loaded: LoadedModel
    size_bytes: int
    users: int = 0


class Residency:
    """Keeps models in memory. For use on one event loop.

    `measure` gives the bytes that a model will take, `load` reads it; both may raise, which harms that model alone.
    `changed` is told the number of models and bytes in memory whenever they change.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        measure: Callable[[ModelKey], Awaitable[int]],
        load: Callable[[ModelKey], Awaitable[LoadedModel]],
        changed: Callable[[int, int], None] = lambda models, size_bytes: None,
    ) -> None:
        self._budget_bytes = budget_bytes
        self._measure, self._load, self._changed = measure, load, changed
        self._residents: OrderedDict[ModelKey, Resident] = OrderedDict()
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
    async def use(self, key: ModelKey) -> AsyncIterator[LoadedModel]:
        """A model, loaded if need be, that stays in memory meanwhile. Raises ResourceExhausted MODEL_TOO_LARGE."""
        resident = await self._acquire(key)
        try:
            yield resident.loaded
        finally:
            resident.users -= 1
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

    async def _acquire(self, key: ModelKey) -> Resident:
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

    def _pin(self, key: ModelKey) -> Resident:
        self._residents.move_to_end(key)
        self._residents[key].users += 1
        return self._residents[key]

    async def _bring(self, key: ModelKey) -> None:
        """Loads a model after making room for it."""
        size_bytes = await self._measure(key)
        if size_bytes > self._budget_bytes:
            raise too_large(key, size_bytes=size_bytes, budget_bytes=self._budget_bytes)
        await self._make_room(size_bytes)
        self._residents[key] = Resident(await self._load(key), size_bytes)
        self._changed(len(self._residents), self.size_bytes)

    async def _make_room(self, size_bytes: int) -> None:
        try:
            while self.size_bytes + size_bytes > self._budget_bytes:
                idle = next((key for key in self._residents if not self._in_use(key)), None)
                if idle is not None:
                    self._drop(idle)
                    continue
                self._waits_for_room = True
                self._released.clear()
                await self._released.wait()
        finally:
            self._waits_for_room = False

    def _in_use(self, key: ModelKey) -> bool:
        return bool(self._residents[key].users or self._pending[key])

    def _drop(self, key: ModelKey) -> None:
        del self._residents[key]
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
