"""How much a project may have. The services that own a thing count it; the numbers come from one file.

    default: {alignment_jobs: 4, training_jobs: 8, datasets: 500}
    projects:
      speech: {alignment_jobs: 10}

A number that is given for a project takes the place of the default's; what is not given has no limit. Calls of our own
services are let through: what they make belongs to a job whose submission was counted.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from omnialign.errors import InvalidArgument, ResourceExhausted
from services.runtime.auth.callers import is_project
from services.runtime.auth.watched import Watched
from services.runtime.context import caller

Kind: TypeAlias = Literal["alignment_jobs", "training_jobs", "datasets"]

_WORDS: Mapping[str, str] = {
    "alignment_jobs": "alignment jobs that have not ended",
    "training_jobs": "training jobs that have not ended",
    "datasets": "datasets",
}


@dataclass(frozen=True)
class QuotaTable:
    """The content of the file."""

    default: Mapping[str, int] = field(default_factory=dict)
    projects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def limit(self, project: str, kind: Kind) -> int | None:
        """How much a project may have; None for no limit."""
        return self.projects.get(project, {}).get(kind, self.default.get(kind))


class Quotas:
    """The limits in force; without a file there are none. Raises what `parse_quotas` raises, and OSError."""

    def __init__(self, file: Path | None = None) -> None:
        self._table = Watched(file, parse_quotas) if file else None

    async def check(self, parent: str, kind: Kind, count: Callable[[], Awaitable[int]]) -> None:
        """Raises ResourceExhausted (`QUOTA_EXCEEDED`) unless one more fits. `count` is asked only if there is a limit.

        `parent` is `projects/{project}`.
        """
        project = parent.split("/")[1]
        limit = self._table.current().limit(project, kind) if self._table else None
        if limit is None or ((who := caller()) is not None and who.is_service):
            return
        used = await count()
        if used >= limit:
            raise ResourceExhausted(
                f"Project '{project}' has {used} {_WORDS[kind]} and may have {limit}; end or delete some first",
                reason="QUOTA_EXCEEDED",
                metadata={"project": project, "quota": kind, "limit": str(limit), "used": str(used)},
            )


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
        if not isinstance(project, str) or not is_project(project):
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
    return InvalidArgument(f"The file of quotas is wrong: {text}", reason="QUOTAS_INVALID", violations=problems)
