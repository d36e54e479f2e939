"""The metadata database: SQLite on a laptop, PostgreSQL in a cluster. Transactions are plain functions run in threads.

    await database.write(lambda connection: connection.execute(...))

A transaction is a synchronous function of a `sqlalchemy.Connection`; what it raises rolls it back. It runs to its end
in its thread even if its caller is cancelled meanwhile, so nobody can leave one open. It may run more than once: on
PostgreSQL one that lost a race (a serialization failure, a deadlock) is tried again. So it changes nothing but the
database; what the process must know after the commit goes into `then`.

On SQLite one thread writes, and takes the write lock when it begins (`BEGIN IMMEDIATE`): a deferred transaction that
reads and then writes fails at once when another process wrote in between. Readers never wait for it.
"""

import asyncio
import contextlib
import copy
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from omnialign.errors import InvalidArgument, OmnialignError, Unavailable
from omnialign.retry import RetryPolicy
from services.runtime.database_errors import SCHEMA_MISSING, UNAVAILABLE, as_omnialign_error, is_lost_race
from services.runtime.threads import in_own_thread

BUSY_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 30
WAIT_SECONDS = 20.0
"""How long a transaction waits for a free thread; on PostgreSQL that is also a free connection."""
OUTAGE_RETRIES = RetryPolicy(base_seconds=0.1, cap_seconds=3.0, budget_seconds=0.0)
"""Retries while the database is away: none, unless `patient` says for how long."""
LOST_RACE_RETRIES = RetryPolicy(base_seconds=0.1, factor=1.0, jitter=1.0, cap_seconds=0.1, budget_seconds=5.0)
"""Retries of a transaction that was rolled back because of another one. The pause need not grow, because one of the
two has won; it is wholly random so that the same two do not meet again."""
WAL_RETRIES = RetryPolicy(
    base_seconds=0.02, factor=1.0, jitter=0.95, cap_seconds=0.02, budget_seconds=BUSY_TIMEOUT_SECONDS
)
"""Retries of a connection that turns on the write-ahead log at the same time as another one."""
READERS, CONNECTIONS = 2, 5
MAX_CONNECTION_SECONDS = 300
"""After how long a connection is replaced when it is next used, so that a moved server is found again."""
# Notices a server that vanished silently after about 30 seconds, instead of the system's two hours.
KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}

T = TypeVar("T")
Transaction = Callable[[Connection], T]


class Database:
    """One database. Connects on first use; made and used inside a running event loop."""

    def __init__(self, url: str, *, connections: int = CONNECTIONS, migrate: bool = False) -> None:
        """Opens nothing yet. The folder of a SQLite file is created when missing; `connections` bounds PostgreSQL's.

        `migrate` lets a service bring the tables of a PostgreSQL database up to date, as it does with SQLite's. Raises
        InvalidArgument (`DATABASE_URL`) for a URL of another kind.
        """
        parsed = parse_url(url)
        self.place = place(parsed)
        """Where the database is, without credentials: for messages."""
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.is_migrated_by_service = self.is_sqlite or migrate
        self._engine = _sqlite_engine(parsed) if self.is_sqlite else _postgresql_engine(parsed, connections)
        self._reading = self._engine.execution_options(**({"read_only": True} if self.is_sqlite else AUTOCOMMIT))
        self._readers = ThreadPoolExecutor(READERS if self.is_sqlite else connections, thread_name_prefix="database")
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="writer") if self.is_sqlite else self._readers
        self._outage_retries = OUTAGE_RETRIES

    def patient(self, *, budget_seconds: float) -> "Database":
        """The same database for background work: it retries for `budget_seconds` while the database is away.

        A transaction whose connection broke during the commit may have been committed, so transactions that are passed
        to the result must be safe to run twice.
        """
        view = copy.copy(self)
        view._outage_retries = replace(OUTAGE_RETRIES, budget_seconds=budget_seconds)
        return view

    async def write(self, transaction: Transaction[T], *, then: Callable[[T], object] | None = None) -> T:
        """The result of a transaction, committed.

        `then` is called with the result on the event loop right after the commit, even if the caller was cancelled.
        Raises IntegrityError as it is, Unavailable when the database is away or does not answer in time
        (`DATABASE_UNAVAILABLE`) or has no tables (`SCHEMA_MISSING`), DataLoss (`DATABASE_DAMAGED`), ResourceExhausted
        (`STORAGE_FULL`), and InvalidArgument (`VALUE_INVALID`) for a text that PostgreSQL does not take.
        """
        return await self._patiently(lambda: self._call(self._writers, self._engine.begin, transaction, then))

    async def read(self, transaction: Transaction[T]) -> T:
        """The result of a function that only reads. Each of its statements sees what is committed when it begins."""
        return await self._patiently(lambda: self._call(self._readers, self._reading.connect, transaction, None))

    def write_here(self, transaction: Transaction[T]) -> T:
        """`write` for code that runs in a thread of its own, which waits. Never call it on the event loop."""
        return self._writers.submit(self._run, self._engine.begin, transaction).result()

    def read_here(self, transaction: Transaction[T]) -> T:
        """`read` for code that runs in a thread of its own, which waits."""
        return self._readers.submit(self._run, self._reading.connect, transaction).result()

    async def all(self, query: sa.Select[Any]) -> Sequence[Any]:
        """The rows of a query."""
        return await self.read(lambda connection: connection.execute(query).all())

    async def first(self, query: sa.Select[Any]) -> Any:
        """The first row of a query, None if there is none."""
        return await self.read(lambda connection: connection.execute(query).first())

    async def scalar(self, query: sa.Select[Any]) -> Any:
        """The only value of the only row of a query."""
        return await self.read(lambda connection: connection.execute(query).scalar_one())

    async def close(self) -> None:
        """Closes the connections once the transactions under way have ended."""

        def shut() -> None:
            self._writers.shutdown(wait=True)
            self._readers.shutdown(wait=True)
            self._engine.dispose()

        await in_own_thread(shut)

    def insert(self, table: sa.Table) -> Any:
        """An INSERT into a table that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return (sqlite_dialect.insert if self.is_sqlite else postgresql.insert)(table)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, which is repeated while the database is away and the budget lasts."""
        retries = self._outage_retries.start()
        while True:
            try:
                return await call()
            except Unavailable as error:
                pause_seconds = retries.next_pause_seconds()
                if error.reason not in (UNAVAILABLE, SCHEMA_MISSING) or pause_seconds is None:
                    raise
            await asyncio.sleep(pause_seconds)

    async def _call(
        self,
        threads: ThreadPoolExecutor,
        connect: Callable[[], AbstractContextManager[Connection]],
        transaction: Transaction[T],
        then: Callable[[T], object] | None,
    ) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def deliver(result: T | None, error: BaseException | None) -> None:
            try:
                if error is None and then is not None:
                    then(result)  # type: ignore[arg-type]
            finally:
                if not answer.done() and error is not None:
                    answer.set_exception(error)
                elif not answer.done():
                    answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            try:
                result, error = self._run(connect, transaction), None
            except BaseException as problem:
                result, error = None, problem
            loop.call_soon_threadsafe(deliver, result, error)

        def expire() -> None:
            if not answer.done() and queued.cancel():
                answer.set_exception(_busy(self.place))

        # The caller's future and the job in the thread end independently. A cancelled caller leaves its running
        # transaction to finish, and `deliver` still calls `then`; a job that is still queued is withdrawn.
        queued = threads.submit(run)
        timer = loop.call_later(WAIT_SECONDS, expire)
        try:
            return await answer
        finally:
            timer.cancel()
            queued.cancel()  # has no effect on a job that runs

    def _run(self, connect: Callable[[], AbstractContextManager[Connection]], transaction: Transaction[T]) -> T:
        """Runs the transaction in the current thread, again while it loses races."""
        retries = LOST_RACE_RETRIES.start()
        while True:
            try:
                with connect() as connection:
                    return transaction(connection)
            except OmnialignError:
                raise
            except (SQLAlchemyError, OSError, sqlite3.Error) as error:
                is_lost = isinstance(error, DBAPIError) and is_lost_race(error)
                if is_lost and (pause_seconds := retries.next_pause_seconds()) is not None:
                    time.sleep(pause_seconds)
                    continue
                if (typed := as_omnialign_error(error, place=self.place)) is not None:
                    raise typed from error
                raise


AUTOCOMMIT: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}


def is_among(connection: Connection, column: sa.ColumnElement[str], texts: Sequence[str]) -> sa.ColumnElement[bool]:
    """The condition that a column holds one of any number of texts, which are one parameter.

    With a parameter for each, as `in_` has them, writing the statement takes longer than running it.
    """
    if connection.dialect.name == "sqlite":
        return column.in_(sa.select(sa.func.json_each(json.dumps(list(texts))).table_valued("value").c.value))
    return column == sa.func.any(sa.bindparam(None, list(texts), postgresql.ARRAY(sa.Text)))


def execute_many(connection: Connection, statement: sa.Insert, rows: Sequence[dict[str, Any]]) -> None:
    """Executes a statement for each of many rows, whose values are texts, numbers and bytes as the driver takes them.

    SQLAlchemy looks at each value by itself, which takes longer than to write it.
    """
    compiled = statement.compile(dialect=connection.dialect, column_keys=list(rows[0]))
    names = compiled.positiontup  # type: ignore[attr-defined] # of compiled SQL
    connection.exec_driver_sql(str(compiled), [tuple(map(row.__getitem__, names)) for row in rows] if names else rows)


def parse_url(url: str) -> URL:
    """The URL with the driver that is installed. Raises InvalidArgument (`DATABASE_URL`), which does not repeat it."""
    try:
        parsed = sa.make_url(url)
    except (SQLAlchemyError, ValueError):
        parsed = None
    if parsed is not None and parsed.drivername.partition("+")[0] == "sqlite":
        return parsed.set(drivername="sqlite")
    if parsed is not None and parsed.drivername.partition("+")[0] in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise InvalidArgument(
        "A database URL is 'postgresql+psycopg://user:password@host:5432/name' or 'sqlite:///folder/file.db'.",
        reason="DATABASE_URL",
    )


def url_problems(**urls: str) -> Iterator[tuple[str, str]]:
    """Yields (name, problem) for each invalid URL of a configuration; an empty URL counts as unset."""
    for name, url in urls.items():
        try:
            parse_url(url or "sqlite://")
        except InvalidArgument as error:
            yield name, f"is unusable: {error.message}"


def place(url: URL) -> str:
    """Where a database is, for people: its file, or host, port and name."""
    if url.get_backend_name() == "sqlite":
        return url.database or ":memory:"
    return f"{url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"


def postgresql_arguments(name: str) -> dict[str, Any]:
    """Arguments of every connection to PostgreSQL: limits on connecting, and on waiting for a peer that vanished."""
    return {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": name, **KEEPALIVE}


def _sqlite_engine(url: URL) -> sa.Engine:
    if url.database and url.database != ":memory:":
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_private(path)
    arguments = {"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
    engine = sa.create_engine(url, connect_args=arguments, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def make_private(path: Path) -> None:
    """Lets only the owner read a database file, new or old. What SQLite puts beside it gets the same permissions."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            with contextlib.suppress(FileNotFoundError):
                file.chmod(0o600)
    except OSError:
        return  # not ours, or a read-only place: the first transaction says whether it can be used


def _postgresql_engine(url: URL, connections: int) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args=postgresql_arguments("omnialign"),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        pool_pre_ping=True,
        pool_recycle=MAX_CONNECTION_SECONDS,
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Sets a new SQLite connection up. Transactions are begun by `_begin_sqlite`, not by the driver."""
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: safe against a crash of the process
    connection.execute("PRAGMA foreign_keys = ON")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turns the write-ahead log on, which the file then keeps.

    SQLite's busy timeout does not help where two connections turn it on in a new file at once: each holds a lock that
    the other needs, so SQLite refuses one of them immediately. The loser tries again here.
    """
    retries = WAL_RETRIES.start()
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            pause_seconds = retries.next_pause_seconds()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or pause_seconds is None:
                raise
        time.sleep(pause_seconds)


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get("read_only", False):
        connection.connection.driver_connection.execute("BEGIN IMMEDIATE")  # type: ignore[union-attr]


def _prepare_postgresql(connection: Any, _record: object) -> None:
    """Bounds the statements of a new connection. Not by a startup option: poolers in between refuse those."""
    milliseconds = STATEMENT_TIMEOUT_SECONDS * 1000
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {milliseconds}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {2 * milliseconds}")
    connection.commit()


def _busy(where: str) -> Unavailable:
    message = f"The database {where} is overloaded: retry later, or give it more connections."
    return Unavailable(message, reason=UNAVAILABLE, metadata={"database": where})
