"""The database of the workflow engine as such: how it is opened, whether it can be used, and what its failures mean.

The engine's library keeps its tables in it and opens connections of its own; nothing here reads or writes workflows.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from services.runtime.database import (
    MAX_CONNECTION_SECONDS,
    Database,
    make_private,
    parse_url,
    place,
    postgresql_arguments,
)
from services.runtime.database_errors import as_omnialign_error

POOL_SIZE = 8
SCHEMA = "dbos"
"""Where the tables are in PostgreSQL."""


class WorkflowDatabase:
    """One database, by its URL; a service with `migrate` makes the tables of a PostgreSQL database itself."""

    def __init__(self, url: str, *, migrate: bool) -> None:
        self._parsed = parse_url(url)
        self._place = place(self._parsed)
        self.is_sqlite = self._parsed.get_backend_name() == "sqlite"
        self.is_migrated_by_service = self.is_sqlite or migrate
        self._checked: Database | None = None
        """What `check` looks through: to open a database takes far longer than to look into it."""

    @property
    def url(self) -> str:
        """The URL with its password, for the engine."""
        return self._parsed.render_as_string(hide_password=False)

    def connection_settings(self) -> dict[str, Any]:
        """How many connections to PostgreSQL there are, and how long each waits."""
        if self.is_sqlite:
            return {}
        arguments = postgresql_arguments("omnialign-workflows")
        settings = {"connect_args": arguments, "pool_recycle": MAX_CONNECTION_SECONDS}
        return {"sys_db_pool_size": POOL_SIZE, "db_engine_kwargs": settings}

    def write_ahead(self) -> None:
        """Puts a SQLite file in write-ahead mode, which it remembers: commits are several times as fast."""
        if not self.is_sqlite or not self._parsed.database:
            return
        path = Path(self._parsed.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_private(path)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")

    async def check(self) -> None:
        """Raises what keeps it from being used: Unavailable (`DATABASE_UNAVAILABLE`, `SCHEMA_MISSING`), DataLoss."""
        self._checked = self._checked or Database(self.url, connections=1)
        await self._checked.read(lambda connection: connection.execute(_any_workflow(connection)).first())

    async def close(self) -> None:
        """Closes what `check` opened."""
        checked, self._checked = self._checked, None
        if checked is not None:
            await checked.close()

    @contextlib.contextmanager
    def typed_errors(self) -> Iterator[None]:
        """Turns what the engine's library raises of the database into the errors of `check`."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            if (typed := as_omnialign_error(error, place=self._place)) is not None:
                raise typed from error
            raise


def _any_workflow(connection: Connection) -> sa.Select[int]:
    schema = None if connection.dialect.name == "sqlite" else SCHEMA
    return sa.select(sa.literal(1)).select_from(sa.table("workflow_status", schema=schema)).limit(1)
