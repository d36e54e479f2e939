"""Which models are in memory: several within a budget; the least recently used leave first.

Models load one at a time. A model in use never leaves: whoever needs its memory waits. To keep jobs with different
models from swapping them at every call, a model with work keeps its memory for a minimum residency, and anybody who
wants it gets it at once. When that time is over, everybody queues in order, so that a busy model cannot keep its memory
forever. A model that has had no work for a moment may leave earlier.

This cannot deadlock, because nobody waits for one model while holding another.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from omnialign.errors import FailedPrecondition, ResourceExhausted
from services.inference.errors import OutOfMemory
from services.inference.models.key import ModelKey

LoadedT = TypeVar("LoadedT", bound=Any)
"""What an engine has in memory for a model."""

GRACE_SECONDS = 0.5
"""How long a model without work counts as busy within its minimum residency: the next request of a caller follows the
answer to the last."""


@dataclass
class Resident(Generic[LoadedT]):
    """A model in memory."""

    loaded: LoadedT
    size_bytes: int
    """Estimated before the load; the budget is kept by these estimates."""
    num_users: int = 0
    loaded_at: float = field(default_factory=time.monotonic)
    released_at: float = field(default_factory=time.monotonic)


class Residency(Generic[LoadedT]):
    """Keeps models in memory. For use on one event loop.

    `measure` returns the bytes that a model will take, `load` loads it; either may raise, which harms no other model.
    `min_residency_seconds` is how long a model with work keeps its memory while others wait for it. `on_drop` is called
    with each model that leaves, to free what garbage collection does not. `on_change` is called with the number of
    models in memory and their bytes whenever they change.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        measure: Callable[[ModelKey], Awaitable[int]],
        load: Callable[[ModelKey], Awaitable[LoadedT]],
        on_change: Callable[[int, int], None] = lambda num_models, size_bytes: None,
        on_drop: Callable[[LoadedT], None] = lambda loaded: None,
        min_residency_seconds: float = 0.0,
    ) -> None:
        self._budget_bytes, self._min_residency_seconds = budget_bytes, min_residency_seconds
        self._measure, self._load, self._on_change, self._on_drop = measure, load, on_change, on_drop
        self._residents: OrderedDict[ModelKey, Resident[LoadedT]] = OrderedDict()  # least recently used first
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
            resident.num_users -= 1
            resident.released_at = time.monotonic()
            self._released.set()

    async def unload(self, model: str) -> None:
        """Drops a model of this name from memory. Raises FailedPrecondition MODEL_IN_USE."""
        keys = [key for key in self._residents if key.model == model]
        if any(self._in_use(key) for key in keys):
            raise FailedPrecondition(
                f"The model {model} is in use; try again when its requests are finished.",
                reason="MODEL_IN_USE",
                metadata={"model": model},
            )
        for key in keys:
            self._drop(key)

    def evict_broken(self, key: ModelKey, loaded: LoadedT) -> None:
        """Drops a model that has broken, even while it is in use; the next use loads it again."""
        if key in self._residents and self._residents[key].loaded is loaded:
            self._drop(key)
            self._released.set()

    async def retire(self, key: ModelKey, loaded: LoadedT) -> None:
        """Drops a model as soon as nobody uses it; the next use loads it again."""
        while key in self._residents and self._residents[key].loaded is loaded:
            if self._in_use(key):
                await self._wait_for_release(None)
            else:
                self.evict_broken(key, loaded)

    def drop_all(self) -> None:
        """Drops all models, when the engine shuts down."""
        for key in list(self._residents):
            self._drop(key)

    async def _acquire(self, key: ModelKey) -> Resident[LoadedT]:
        # 1. A resident model is taken at once, unless somebody waits for room and all minimum residencies are over:
        #    then new users would keep the model busy forever, so they queue behind whoever waits.
        if key in self._residents and not self._waits_for_room:
            return self._pin(key)
        if key in self._residents:
            async with self._turn:
                if key in self._residents:
                    return self._pin(key)
        # 2. Load it. It counts as in use from its load until it is pinned; otherwise the next load in line could drop
        #    it before the first user gets to run.
        self._pending[key] += 1
        try:
            while key not in self._residents:
                await self._load_once(key)
            return self._pin(key)
        finally:
            self._pending[key] -= 1
            self._released.set()

    async def _load_once(self, key: ModelKey) -> None:
        """Waits for the one load of a model, which continues for other users if this one is cancelled."""
        if key not in self._loads:
            self._loads[key] = asyncio.create_task(self._load_in_turn(key))
            # Retrieves the exception, even if every user was cancelled.
            self._loads[key].add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._loads[key])

    async def _load_in_turn(self, key: ModelKey) -> None:
        try:
            async with self._turn:
                if key not in self._residents:
                    size_bytes = await self._measure(key)
                    if size_bytes > self._budget_bytes:
                        raise too_large(key, size_bytes=size_bytes, budget_bytes=self._budget_bytes)
                    await self._make_room(size_bytes)
                    self._residents[key] = Resident(await self._load_or_free(key), size_bytes)
                    self._on_change(len(self._residents), self.size_bytes)
        finally:
            del self._loads[key]

    def _pin(self, key: ModelKey) -> Resident[LoadedT]:
        self._residents.move_to_end(key)
        self._residents[key].num_users += 1
        return self._residents[key]

    async def _load_or_free(self, key: ModelKey) -> LoadedT:
        """Loads a model. If the device has less memory than estimated, drops the idle models and tries once more."""
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
        """Drops the least recently used models that may leave, and waits for others, until `size_bytes` fit."""
        try:
            while self.size_bytes + size_bytes > self._budget_bytes:
                claims = {key: self._claim_seconds(key) for key in self._residents}
                idle = next((k for k, claim in claims.items() if claim <= 0 and not self._in_use(k)), None)
                if idle is not None:
                    self._drop(idle)
                    continue
                # Nothing may leave now. While some model has a claim left, newcomers still get resident models at once,
                # and this load looks again when the first claim ends. With no claim left, newcomers have to queue.
                claims_left = [claim for claim in claims.values() if claim > 0]
                self._waits_for_room = not claims_left
                await self._wait_for_release(min(claims_left, default=None))
        finally:
            self._waits_for_room = False

    async def _wait_for_release(self, timeout_seconds: float | None) -> None:
        """Waits until somebody releases a model, for at most `timeout_seconds`."""
        # The event is cleared here and not by its setter: it reports releases since this wait began, and several
        # waiters are woken by one release, each of which looks at the residents again.
        self._released.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._released.wait()

    def _claim_seconds(self, key: ModelKey) -> float:
        """How long a model may still keep its memory while another waits for it; 0 or less if it may not."""
        resident, now = self._residents[key], time.monotonic()
        residency_left = resident.loaded_at + self._min_residency_seconds - now
        if self._in_use(key):
            return residency_left
        return min(residency_left, resident.released_at + GRACE_SECONDS - now)

    def _in_use(self, key: ModelKey) -> bool:
        return bool(self._residents[key].num_users or self._pending[key])

    def _drop(self, key: ModelKey) -> None:
        self._on_drop(self._residents.pop(key).loaded)
        self._on_change(len(self._residents), self.size_bytes)


def too_large(key: ModelKey, *, size_bytes: int, budget_bytes: int) -> ResourceExhausted:
    """The error for a model that can never fit."""
    width = key.dtype.itemsize
    return ResourceExhausted(
        f"The model {key.model} takes {size_bytes} bytes ({size_bytes // width} parameters of {width} bytes), more "
        f"than this engine's whole budget of {budget_bytes} bytes.",
        reason="MODEL_TOO_LARGE",
        metadata={"model": key.model, "size_bytes": str(size_bytes), "budget_bytes": str(budget_bytes)},
    )
