"""Bringing the tables of a service up to date: alembic's revisions, run by us, without its command line or files.

Each service keeps its revisions in `services/X/migrations/versions/` and notes the one its database is at in a table of
its own, so that all services may share one PostgreSQL database. SQLite is brought up to date when a service starts; on
PostgreSQL `python -m services.migrate` does it and services only look, unless `MIGRATE_AT_START` leaves it to them.

A revision must leave the release before it working: on a rollback the older program meets the newer tables. So add
columns with a default and tables; remove only what two releases no longer use.
"""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from omnialign.errors import FailedPrecondition, Unavailable
from services.runtime.database import Database, place
from services.runtime.database_errors import COMMAND, SCHEMA_MISSING, schema_missing

LOCK_TIMEOUT_SECONDS = 60

_one_at_a_time = threading.Lock()  # `alembic.op`, which revisions speak to, is one for the whole process


@dataclass(frozen=True)
class Migrations:
    """The revisions of a service, in a folder with `versions/`. `first` is the revision that made the oldest tables.

    A database that has `witness`, one of those tables, and no note of a revision, was made before there were revisions:
    it is taken to be at `first`.
    """

    service: str
    folder: Path
    witness: str
    first: str = "0001"

    @property
    def version_table(self) -> str:
        """Where the revision is noted."""
        return f"{self.service}_schema_version"

    @property
    def head(self) -> str:
        """The newest revision."""
        return str(self._script().get_current_head())

    def upgrade(self, connection: sa.Connection) -> tuple[str, str]:
        """Brings the tables up to date in the connection's transaction; returns the revisions before and after.

        The first is empty for a new database. Two that run at once take turns. A database that is ahead of this
        program is left alone.
        """
        self._take_turns(connection)
        before, script = self.current(connection), self._script()
        if self._is_ahead(before):
            return before, before
        context = self._context(connection, script)
        if before and not context.get_current_heads():
            context.stamp(script, before)
        with _one_at_a_time, Operations.context(context):
            context.run_migrations()
        return before, self.head

    def current(self, connection: sa.Connection) -> str:
        """The revision that the tables are at; empty where there are none."""
        heads = self._context(connection, self._script()).get_current_heads()
        if heads:
            return heads[0]
        return self.first if sa.inspect(connection).has_table(self.witness) else ""

    def check(self, connection: sa.Connection) -> None:
        """Raises FailedPrecondition (`SCHEMA_OUTDATED`) when revisions are missing, Unavailable (`SCHEMA_MISSING`)
        when there are no tables at all.
        """
        current = self.current(connection)
        if not current:
            raise schema_missing(place(connection.engine.url), service=self.service)
        if current != self.head and not self._is_ahead(current):
            raise FailedPrecondition(
                f"The tables of the {self.service} service are at revision {current} and must be at {self.head}: "
                f"run '{COMMAND}'.",
                reason="SCHEMA_OUTDATED",
                metadata={"service": self.service, "revision": current, "needed": self.head},
            )

    async def prepare(self, database: Database) -> None:
        """What a service does at its start: brings the tables up to date where that is up to it, or checks them."""
        if database.is_migrated_by_service:
            await database.write(self.upgrade)
        else:
            await database.read(self.check)

    async def look(self, database: Database) -> None:
        """What a service does every few seconds: whether the tables are there. Makes them again where it may.

        A bundled PostgreSQL that lost its volume comes back empty. Raises what `prepare` raises.
        """
        try:
            await database.read(lambda connection: connection.execute(self._any_row()).first())
        except Unavailable as error:
            if error.reason != SCHEMA_MISSING:
                raise
            await self.prepare(database)

    def _any_row(self) -> sa.Select[int]:
        return sa.select(sa.literal(1)).select_from(sa.table(self.witness)).limit(1)

    def _script(self) -> ScriptDirectory:
        return ScriptDirectory(str(self.folder), version_locations=[str(self.folder / "versions")])

    def _context(self, connection: sa.Connection, script: ScriptDirectory) -> MigrationContext:
        def steps(revision: object, context: object) -> object:
            return script._upgrade_revs("head", revision)  # type: ignore[arg-type]  # what alembic's commands do

        options = {"version_table": self.version_table, "script": script, "fn": steps}
        return MigrationContext.configure(connection, opts=options)

    def _is_ahead(self, revision: str) -> bool:
        """Whether a newer program made the tables."""
        try:
            return bool(revision) and self._script().get_revision(revision) is None
        except CommandError:
            return True

    def _take_turns(self, connection: sa.Connection) -> None:
        """Waits for others that migrate this service's tables; SQLite's write lock is held already."""
        if connection.dialect.name == "postgresql":
            key = int.from_bytes(hashlib.sha256(self.version_table.encode()).digest()[:8], signed=True)
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
