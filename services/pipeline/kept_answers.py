"""Answers of models and judges that are kept, so that no later job of the project asks for the same again.

An answer is found by the hash of all that made it (`answer_keys`). Errors and abstentions are never kept: they are
asked for again. Nor are the answers of a model that may be another one tomorrow under the same name.

A key has one answer: of two calls that ask for the same at the same time, both use what the first of them kept. So a
later job finds what this one used.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection

from omnialign import names
from omnialign.modeling import prompts
from omnialign.v1 import record_pb2
from services.pipeline.answer_keys import answer_keys
from services.pipeline.kind import Job, JobContext, Plan
from services.runtime.database import Database

MAX_ANSWER_BYTES = 256 * 1024
"""A longer answer is not kept."""

GENERATIONS = ("generation", "forward_generation", "backward_generation")
"""Fields of an answer that tell how it was written."""

A = TypeVar("A", bound=Any)  # an answer type
Keys = Mapping[str, bytes]
"""The keys of answers by the ids of their items; empty if none may be kept."""


@functools.cache
def kept_answers(prefix: str) -> sa.Table:
    """The table of the answers that the jobs of a kind keep."""
    return sa.Table(
        f"{prefix}_kept_answers",
        sa.MetaData(),
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("project", sa.String(80), nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("kept_ms", sa.BigInteger, nullable=False, index=True),
    )


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Which answers the jobs of a kind keep, and for how long."""

    seconds: float
    count: int
    """How many are kept, over all projects; the oldest go first."""

    identity: Callable[[Job, str], str]
    """What tells a model of a job from any other of its name; empty if nothing does."""

    is_fresh: Callable[[Plan], bool]
    """Whether a job takes no answer that is older than itself. Its own replace those."""


class KeptAnswers:
    """The answers that are kept for the jobs of a kind."""

    def __init__(self, database: Database, kind_name: str, keeping: Keeping) -> None:
        self._database, self._keeping = database, keeping
        self._table = kept_answers(kind_name)

    def keys(self, context: JobContext, request: Any, items: Sequence[Any]) -> Keys:
        """The keys of the answers to the items of a request, which is given without them."""
        model = self._keeping.identity(context.job, request.model)
        if not model:
            return {}
        return answer_keys(request, items, project=names.project_of(context.name), model=model)

    async def find(self, context: JobContext, keys: Keys, answer: type[A]) -> dict[str, A]:
        """Those of the answers that are kept, by the ids of their items."""
        if not keys:
            return {}
        table = self._table.c
        is_used = (table.key.in_(set(keys.values())), table.kept_ms >= self._oldest_ms(context))
        query = sa.select(table.key, table.answer).where(*is_used)
        rows = {row.key: row.answer for row in await self._database.all(query)}
        found = {item: answer.FromString(rows[key]) for item, key in keys.items() if key in rows}
        for item, one in found.items():
            one.id = item
        return found

    async def keep(self, context: JobContext, keys: Keys, answers: Mapping[str, A]) -> dict[str, A]:
        """Keeps answers, by the ids of their items. Returns them, or what was kept under their keys meanwhile."""
        values = {i: _bytes(answer) for i, answer in answers.items() if i in keys and _says(answer)}
        values = {item: value for item, value in values.items() if len(value) <= MAX_ANSWER_BYTES}
        if not values:
            return dict(answers)
        now_ms, project = time.time_ns() // 1_000_000, names.project_of(context.name)
        rows = [
            {"key": key, "project": project, "answer": value, "kept_ms": now_ms}
            for key, value in sorted((keys[item], value) for item, value in values.items())  # all lock in this order
        ]
        insert, table = self._database.insert(self._table), self._table.c
        insert = insert.on_conflict_do_update(
            index_elements=["key"],
            set_={name: insert.excluded[name] for name in ("answer", "kept_ms")},
            where=table.kept_ms < self._oldest_ms(context),
        )
        written = await self._database.write(lambda connection: connection.execute(insert, rows).rowcount)
        if written == len(rows):
            return dict(answers)
        some = next(iter(answers.values()))
        return {**answers, **await self.find(context, {item: keys[item] for item in values}, type(some))}

    async def prune(self) -> None:
        """Removes what is older, or more, than is to be kept."""
        table, oldest_ms = self._table.c, self._oldest_ms()
        beyond = sa.select(table.kept_ms).order_by(table.kept_ms.desc()).offset(self._keeping.count).limit(1)

        def prune(connection: Connection) -> None:
            newest_beyond = connection.execute(beyond).scalar()
            limit_ms = oldest_ms if newest_beyond is None else max(oldest_ms, newest_beyond + 1)
            connection.execute(sa.delete(self._table).where(table.kept_ms < limit_ms))

        await self._database.write(prune)

    def _oldest_ms(self, context: JobContext | None = None) -> int:
        """When the oldest answer was given that may still be used, by a job, in milliseconds since 1970."""
        oldest_ms = int((time.time() - self._keeping.seconds) * 1000)
        if context is not None and self._keeping.is_fresh(context.plan):
            created_ms: int = context.job.create_time.ToMilliseconds()
            return max(oldest_ms, created_ms)
        return oldest_ms


def _says(answer: Any) -> bool:
    """Whether a model or a judge made something of the item, asked with a template of this release."""
    match answer.WhichOneof("result"):
        case None | "error" | "abstention":
            return False
        case "comparison" if answer.comparison.verdict == record_pb2.VERDICT_ABSTAIN:
            return False
        case "reward":
            return True
        case result:
            # While releases change, a service may still be of another one, whose answers the key does not describe.
            found = getattr(answer, result)
            named = [getattr(found, name) for name in GENERATIONS if name in found.DESCRIPTOR.fields_by_name]
            return all(not info.template or prompts.is_current(info.template) for info in named)


def _bytes(answer: Any) -> bytes:
    nameless = type(answer)()
    nameless.CopyFrom(answer)
    nameless.ClearField("id")
    data: bytes = nameless.SerializeToString(deterministic=True)
    return data
