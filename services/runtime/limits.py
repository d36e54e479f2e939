"""The limits of a server: calls in flight, calls per second of each project, and how much a project may own.

Calls in flight: what exceeds the limit is refused at once instead of queueing without end, and nobody can hold all of
the places. gRPC's own limit would refuse health checks too, and Kubernetes would kill a server that is merely busy; the
interceptor exempts health and reflection.

Calls per second: a token bucket per project. Each replica counts for itself, because a shared count would cost every
call a round trip to a database.

Quotas: the services that own a thing count it; the numbers come from one file.

    default: {alignment_jobs: 4, evaluations: 4, draft_jobs: 4, training_jobs: 8, datasets: 500, bytes: 500000000000}
    projects:
      speech: {alignment_jobs: 10}

A number given for a project replaces the default; what is not given has no limit. Calls of our own services are exempt:
what they create belongs to a job whose submission was counted.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from omnialign import names
from omnialign.client.context import Call
from omnialign.errors import InvalidArgument, ResourceExhausted
from services.runtime.context import Caller, caller
from services.runtime.errors import RETRY_AFTER
from services.runtime.watched_file import WatchedFile

RETRY_AFTER_SECONDS = 1.0
SILENT_PER_CALL = 4
"""Calls without a first message that may wait, for each call that may be in flight."""


class Places:
    """Places for the calls in flight.

    Nobody can take all of them: a caller holds at most half, a project three quarters, and the last eighth is for our
    own services, whose calls finish the work that others wait for. Calls whose first message has not come have places
    of their own, at most an eighth of them for one connection.
    """

    def __init__(self, limit: int) -> None:
        self._calls = _Held(limit)
        self._silent = _Held(limit * SILENT_PER_CALL)

    def for_call(self, call: Call) -> AbstractContextManager[None]:
        """A place while the block runs. Raises ResourceExhausted (`TOO_MANY_CALLS`) when there is none left."""
        limit, who = self._calls.limit, call.caller if isinstance(call.caller, Caller) else None
        if who is not None and who.is_service:
            return self._calls.one({"server": ("", limit)})
        # The gateway knows no caller, only the token that it passes on.
        name = who.name if who is not None else call.authorization
        bounds = {"server": ("", limit if who is None else limit - limit // 8)}
        if name:
            bounds["caller"] = (name, limit // 2)
        if project := names.project_of(call.resource):
            bounds["project"] = (project, limit * 3 // 4)
        return self._calls.one(bounds)

    def while_silent(self, peer: str) -> AbstractContextManager[None]:
        """A place for a call that waits for its first message. Raises ResourceExhausted (`TOO_MANY_CALLS`)."""
        limit = self._silent.limit
        return self._silent.one({"server": ("", limit), "connection": (peer, limit // 8)})


class _Held:
    """How many places are held, in all and by each holder."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one(self, bounds: Mapping[str, tuple[str, int]]) -> Iterator[None]:
        """Holds a place within the bounds, (holder, most places it may have) by the kind of holder."""
        for kind, (holder, most) in bounds.items():
            if self._held[kind, holder] >= max(most, 1):
                raise _too_many(kind, most=max(most, 1), limit=self.limit)
        keys = [(kind, holder) for kind, (holder, _) in bounds.items()]
        self._held.update(keys)
        try:
            yield
        finally:
            self._held.subtract(keys)
            for key in keys:
                if not self._held[key]:
                    del self._held[key]  # holders come and go; the counter must not remember them all


def _too_many(kind: str, *, most: int, limit: int) -> ResourceExhausted:
    whose = {
        "server": f"The server is at its limit of {most} calls in flight",
        "caller": f"You have {most} calls in flight here, the most that one caller may have",
        "project": f"The project has {most} calls in flight here, the most that one project may have",
        "connection": f"{most} calls of this connection have not sent their first message, the most that may wait",
    }[kind]
    return ResourceExhausted(
        f"{whose}; retry in {RETRY_AFTER_SECONDS:g} s",
        reason="TOO_MANY_CALLS",
        metadata={"scope": kind, "limit": str(limit), RETRY_AFTER: f"{RETRY_AFTER_SECONDS:g}"},
    )


MAX_BUCKETS = 4096
MIN_RETRY_SECONDS = 0.01


class RateLimiter:
    """The token buckets of all projects. A project that has not called for a long time has a full one."""

    def __init__(self, *, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst or max(1, round(2 * per_second)))
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, project: str, *, now: float | None = None) -> None:
        """Counts one call. Raises ResourceExhausted (`RATE_LIMITED`, with the time to wait) when the bucket is empty.

        `now` is on the clock of `time.monotonic`.
        """
        now = time.monotonic() if now is None else now
        # Removed and added again, so that the buckets stay ordered by their last call.
        level, filled = self._buckets.pop(project, (self._burst, now))
        level = min(self._burst, level + max(now - filled, 0.0) * self._per_second)
        self._buckets[project] = (level - 1 if level >= 1 else level, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)  # the longest silent project: its bucket has most likely filled up
        if level < 1:
            raise self._limited(project, wait_seconds=max((1 - level) / self._per_second, MIN_RETRY_SECONDS))

    def _limited(self, project: str, *, wait_seconds: float) -> ResourceExhausted:
        return ResourceExhausted(
            f"Project '{project}' calls more than {self._per_second:g} times a second; retry in {wait_seconds:.2g} s",
            reason="RATE_LIMITED",
            metadata={
                "project": project,
                "rate_per_second": f"{self._per_second:g}",
                RETRY_AFTER: f"{wait_seconds:.3f}",
            },
        )


Kind: TypeAlias = Literal["alignment_jobs", "evaluations", "draft_jobs", "training_jobs", "datasets", "bytes"]

_WORDS: Mapping[str, str] = {
    "alignment_jobs": "alignment jobs that have not ended",
    "evaluations": "evaluations that have not ended",
    "draft_jobs": "draft jobs that have not ended",
    "training_jobs": "training jobs that have not ended",
    "datasets": "datasets",
    "bytes": "bytes of media, models and uploads",
}


@dataclass(frozen=True)
class QuotaTable:
    """The content of the file."""

    default: Mapping[str, int] = field(default_factory=dict)
    projects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def limit(self, project: str, kind: Kind) -> int | None:
        """How many things of a kind a project may have; None for no limit."""
        return self.projects.get(project, {}).get(kind, self.default.get(kind))


class Quotas:
    """The quotas in force; none without a file. Raises OSError and what `parse_quotas` raises."""

    def __init__(self, file: Path | None = None) -> None:
        self._table = WatchedFile(file, parse_quotas) if file else None

    def has_limit(self, parent: str, kind: Kind) -> bool:
        """Whether the caller is bound by a quota of this kind in `parent`, which is `projects/{project}`."""
        return self._limit(parent, kind) is not None

    async def check(self, parent: str, kind: Kind, count: Callable[[], Awaitable[int]], *, adding: int = 1) -> None:
        """Raises ResourceExhausted (`QUOTA_EXCEEDED`) unless `adding` more fit. `count` is called only if necessary."""
        limit = self._limit(parent, kind)
        if limit is None:
            return
        used, project = await count(), names.project_of(parent)
        if used + adding > limit:
            found = f"has {used:,} {_WORDS[kind]} and may have {limit:,}"
            metadata = {"project": project, "quota": kind, "limit": str(limit), "used": str(used)}
            if adding > 1:
                found += f", so that {adding:,} more do not fit"
                metadata["adding"] = str(adding)
            message = f"Project '{project}' {found}; end or delete some first"
            raise ResourceExhausted(message, reason="QUOTA_EXCEEDED", metadata=metadata)

    def _limit(self, parent: str, kind: Kind) -> int | None:
        if self._table is None or ((who := caller()) is not None and who.is_service):
            return None
        return self._table.current().limit(names.project_of(parent), kind)


def parse_quotas(text: str) -> QuotaTable:
    """The content of a file. Raises InvalidArgument (`QUOTAS_INVALID`) with every problem in it."""
    try:
        document = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _invalid([("file", f"is not YAML: {' '.join(str(error).split())[:200]}")]) from None
    if problems := list(_problems(document)):
        raise _invalid(problems)
    return QuotaTable(document.get("default") or {}, document.get("projects") or {})


def _problems(document: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(document, dict) or not set(document) <= {"default", "projects"}:
        yield "file", "must be a mapping with the keys `default` and `projects`"
        return
    yield from _limit_problems(document.get("default") or {}, "default")
    projects = document.get("projects") or {}
    if not isinstance(projects, dict):
        yield "projects", "must map projects to limits"
        return
    for project, limits in projects.items():
        if not isinstance(project, str) or not names.is_project_id(project):
            yield f"projects.{project}", "is not the id of a project; put it in quotes"
        yield from _limit_problems(limits, f"projects.{project}")


def _limit_problems(limits: Any, where: str) -> Iterator[tuple[str, str]]:
    if not isinstance(limits, dict):
        yield where, f"must map some of {', '.join(_WORDS)} to numbers"
        return
    for kind, limit in limits.items():
        if kind not in _WORDS:
            yield f"{where}.{kind}", f"is not a quota; known are {', '.join(_WORDS)}"
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            yield f"{where}.{kind}", "must be a whole number, 0 or more"


def _invalid(problems: list[tuple[str, str]]) -> InvalidArgument:
    text = "; ".join(f"{where}: {what}" for where, what in problems)
    return InvalidArgument(f"The quotas file is invalid: {text}", reason="QUOTAS_INVALID", violations=problems)
