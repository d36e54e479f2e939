"""New SQLite databases get the tables of the first one of their kind in this process; to run revisions takes longer."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
from dbos._sys_db_sqlite import SQLiteSystemDatabase

from services.runtime.migrations import Migrations

_UPGRADE, _RUN_MIGRATIONS = Migrations.upgrade, SQLiteSystemDatabase.run_migrations
_STATEMENTS: dict[object, list[str]] = {}
"""What makes the tables of each kind, with the rows that revisions put in them."""


@contextmanager
def copied_tables() -> Iterator[None]:
    """Within it, the revisions of a service, and those of the workflow engine, run for the first new database alone."""
    with _using(_copied_upgrade, _copied_run_migrations):
        yield


@contextmanager
def revisions() -> Iterator[None]:
    """Within it, revisions run for every database, as they do outside of tests."""
    with _using(_UPGRADE, _RUN_MIGRATIONS):
        yield


@contextmanager
def _using(upgrade: Callable[..., Any], run_migrations: Callable[..., Any]) -> Iterator[None]:
    with (
        patch.multiple(Migrations, upgrade=upgrade),
        patch.multiple(SQLiteSystemDatabase, run_migrations=run_migrations),
    ):
        yield


def _copied_upgrade(self: Migrations, connection: sa.Connection) -> tuple[str, str]:
    before, after = "", self.head
    if not _is_new(connection):
        return _UPGRADE(self, connection)
    if not _copy((self.folder, after), connection):
        before, after = _UPGRADE(self, connection)
        _keep((self.folder, after), connection)
    return before, after


def _copied_run_migrations(self: SQLiteSystemDatabase) -> None:
    with self.engine.begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        is_new = _is_new(connection)
        if is_new and _copy(SQLiteSystemDatabase, connection):
            return
    _RUN_MIGRATIONS(self)
    if is_new:
        with self.engine.connect() as connection:
            _keep(SQLiteSystemDatabase, connection)


def _is_new(connection: sa.Connection) -> bool:
    return connection.dialect.name == "sqlite" and not sa.inspect(connection).get_table_names()


def _copy(kind: object, connection: sa.Connection) -> bool:
    """Makes the tables of a kind; False where none were kept."""
    driver: sqlite3.Connection = connection.connection.driver_connection
    for statement in _STATEMENTS.get(kind, ()):
        driver.execute(statement)
    return kind in _STATEMENTS


def _keep(kind: object, connection: sa.Connection) -> None:
    driver: sqlite3.Connection = connection.connection.driver_connection
    _STATEMENTS[kind] = [line for line in driver.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;")]
