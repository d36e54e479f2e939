"""Which policies are open, and which version of its weights each of them holds.

A request takes the version that is held when it begins, and finishes on it. A version that has been replaced leaves
memory and disk when its last request has ended; if it has none, before the new one is loaded, so that there are not two
in memory for longer than needed.
"""

import asyncio
import fcntl
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

from omnialign import names
from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.v1 import policy_service_pb2 as pb
from services.inference.engine import Engine
from services.inference.metrics import PolicyMetrics
from services.inference.models.resolver import ModelFiles, ModelResolver
from services.inference.policies.errors import base_is_lora, not_newer, policy_exists, policy_not_found, stale

LOCK_FILE = ".lock"


@dataclass(eq=False)
class PolicyVersion:
    """One version of a policy's weights.

    `model` is what the engine loads: the base model, or the folder of these weights. No folder is used twice, so a
    policy that is closed and opened again is never mistaken for its former self.
    """

    name: str
    number: int
    model: str
    folder: Path | None = None
    """Folder of the weights; None for version 0, whose weights are the base model's."""
    digest: str = ""
    """Digest of the weights."""
    num_users: int = 0
    is_free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nobody uses it."""

    def __post_init__(self) -> None:
        self.is_free.set()


@dataclass(eq=False)
class OpenPolicy:
    """A policy with the version that it holds."""

    name: str
    base: ModelFiles
    held: PolicyVersion
    create_time: datetime
    update_time: datetime
    used_at: float
    """On the monotonic clock."""
    updating: asyncio.Lock = field(default_factory=asyncio.Lock)

    def message(self, *, replicas: int = 1) -> pb.Policy:
        """The policy as a resource, confirmed by this many replicas."""
        found = pb.Policy(name=self.name, base_model=self.base.base, version=self.held.number, replicas=replicas)
        found.create_time.FromDatetime(self.create_time)
        found.update_time.FromDatetime(self.update_time)
        return found


class PolicyStore:
    """The policies of one engine. For use on one event loop; `aclose` removes all files."""

    def __init__(self, folder: Path, engine: Engine, resolver: ModelResolver, metrics: PolicyMetrics) -> None:
        self._folder, self._engine, self._resolver, self.metrics = folder, engine, resolver, metrics
        self._policies: dict[str, OpenPolicy] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._taken: set[Path] = set()
        self._owned: Path | None = None
        self._stack = ExitStack()

    async def open(self, name: str, base_model: str) -> OpenPolicy:
        """Opens a policy, or returns the one that is open. Raises POLICY_EXISTS, and what finding the base raises."""
        base = await self._resolver.find(base_model)
        if base.lora is not None:
            raise base_is_lora(name, base_model)
        found = self._policies.get(name)
        if found is None:
            now = datetime.now(UTC)
            first = PolicyVersion(f"{name}/versions/0", 0, base_model)
            found = self._policies[name] = OpenPolicy(name, base, first, now, now, time.monotonic())
            self.metrics.open.set(len(self._policies))
        elif found.base.base != base_model:
            raise policy_exists(name, base=found.base.base, wanted=base_model)
        found.used_at = time.monotonic()
        return found

    def get(self, name: str) -> OpenPolicy:
        """A policy that is open. Raises POLICY_NOT_FOUND, and RESOURCE_NAME_INVALID for what is no name of a policy."""
        names.parse(name, names.POLICY)
        if name not in self._policies:
            raise policy_not_found(name)
        return self._policies[name]

    @asynccontextmanager
    async def use(self, model: str) -> AsyncIterator[PolicyVersion]:
        """The version that a request to this model begins on; it stays until the request ends.

        `model` names a policy or a version of one. Raises POLICY_NOT_FOUND, POLICY_STALE, MODEL_NAME_INVALID.
        """
        policy = self.get(names.unversioned(model))
        held = policy.held
        wanted = held.number if model == policy.name else _number(model)
        if wanted != held.number:
            raise stale(policy.name, wanted=wanted, held=held.number)
        held.num_users += 1
        held.is_free.clear()
        policy.used_at = time.monotonic()
        try:
            yield held
        finally:
            policy.used_at = time.monotonic()
            held.num_users -= 1
            if not held.num_users:
                held.is_free.set()

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """A folder for new weights, which is removed again unless `replace` has taken it."""
        folder = Path(mkdtemp(dir=self._own_folder()))
        try:
            yield folder
        finally:
            if folder not in self._taken:
                shutil.rmtree(folder, ignore_errors=True)

    def check_follows(self, policy: OpenPolicy, version: int) -> None:
        """Raises POLICY_VERSION_NOT_NEWER for a version that is older than the one that is held."""
        if version < policy.held.number:
            raise not_newer(policy.name, version=version, held=policy.held.number)

    async def replace(self, policy: OpenPolicy, version: int, *, folder: Path, digest: str) -> None:
        """Makes the weights in a folder the ones that are held, and loads them.

        The held version with the same weights changes nothing. Raises POLICY_NOT_FOUND if the policy was closed
        meanwhile, POLICY_VERSION_NOT_NEWER, and what loading raises: then the new version is held all the same, and
        the next request loads it.
        """
        async with policy.updating:
            if self._policies.get(policy.name) is not policy:
                raise policy_not_found(policy.name)
            old, policy.used_at = policy.held, time.monotonic()
            if (version, digest) != (old.number, old.digest):
                if version <= old.number:
                    raise not_newer(policy.name, version=version, held=old.number)
                name = f"{policy.name}/versions/{version}"
                policy.held = PolicyVersion(name, version, folder.as_uri(), folder, digest)
                self._taken.add(folder)
                policy.update_time = datetime.now(UTC)
                await self._retire(old)
            await self._engine.load(policy.held.model)

    async def close_policy(self, name: str) -> None:
        """Closes a policy; requests that have begun finish. One that is not open is closed."""
        names.parse(name, names.POLICY)
        if (policy := self._policies.pop(name, None)) is not None:
            self.metrics.open.set(len(self._policies))
            if policy.held.folder is not None:  # the base model stays, for others
                await self._retire(policy.held)

    async def close_idle(self, *, idle_seconds: float) -> list[str]:
        """Closes the policies that nobody has used for this long; their names."""
        last = time.monotonic() - idle_seconds
        idle = [p.name for p in self._policies.values() if p.used_at < last and p.held.is_free.is_set()]
        for name in idle:
            await self.close_policy(name)
        return idle

    async def aclose(self) -> None:
        """Forgets all policies and removes their files."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        self._policies.clear()
        self._stack.close()

    async def _retire(self, version: PolicyVersion) -> None:
        """Frees a version: now if nobody uses it, and otherwise when its last request has ended."""
        task = asyncio.create_task(self._free(version))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        if version.is_free.is_set():
            await asyncio.shield(task)  # it goes on if the caller hangs up

    async def _free(self, version: PolicyVersion) -> None:
        await version.is_free.wait()
        with suppress(FailedPrecondition):  # MODEL_IN_USE: others use the base model too
            await self._engine.unload(version.model)
        if version.folder is not None:
            self._taken.discard(version.folder)
            await asyncio.to_thread(shutil.rmtree, version.folder, ignore_errors=True)

    def _own_folder(self) -> Path:
        """The folder of this store, made when it is first needed. Those of processes that have died are removed."""
        if self._owned is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder, waits=True):  # else another process might find ours before it is locked
                remove_abandoned(self._folder)
                self._owned = Path(mkdtemp(dir=self._folder))
                self._stack.callback(shutil.rmtree, self._owned, ignore_errors=True)
                self._stack.enter_context(_locked(self._owned))
        return self._owned


def is_policy(model: str) -> bool:
    """Whether a model is named as a policy is."""
    return names.matches(names.unversioned(model), names.POLICY)


def remove_abandoned(folder: Path) -> None:
    """Removes the folders of processes that have ended without doing so. A lock shows which ones live."""
    for path in folder.iterdir():
        with suppress(OSError), _locked(path):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """Holds a folder's lock, which the system releases when the process ends.

    Raises OSError if another holds it, unless it `waits`.
    """
    with (folder / LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield


def _number(model: str) -> int:
    number = names.id_of(model)
    if number.isascii() and number.isdecimal():
        return int(number)
    raise InvalidArgument(
        f"The model {model!r} must end in the number of a version; leave out /versions/ to take the one that is held.",
        reason="MODEL_NAME_INVALID",
        metadata={"model": model},
    )
