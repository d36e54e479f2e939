"""Opening the metadata database: SQLite on a laptop, PostgreSQL in a cluster.

On SQLite each transaction takes the write lock when it begins (`BEGIN IMMEDIATE`). A deferred one that reads and then
writes fails at once with "database is locked" when another wrote in between, however long the busy timeout; taken at
the start, the lock is waited for. So keep transactions short. One that only reads may be opened on
`engine.execution_options(read_only=True)` and then never waits.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

BUSY_TIMEOUT_SECONDS = 30.0

T = TypeVar("T")
P = ParamSpec("P")

_under_way: set[asyncio.Future[Any]] = set()  # the loop itself keeps weak references to tasks only


def open_database(url: str) -> AsyncEngine:
    """An engine for `url`, such as `sqlite+aiosqlite:///folder/file.db`. Connects on first use; `dispose()` closes it.

    The folder of a SQLite file is created when missing. Raises sqlalchemy's ArgumentError for a malformed URL.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_async_engine(parsed, pool_pre_ping=True)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def whole(transaction: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Lets a transaction come to its end when its caller is cancelled in the middle of it.

    Clients hang up and jobs are cancelled at any moment. A connection whose caller went away between sending BEGIN and
    its answer would go back to the pool, or be dropped, with the database's write lock held. The cancelled caller
    waits for the end, so that the engine may be disposed of after it.
    """

    @functools.wraps(transaction)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.ensure_future(transaction(*args, **kwargs))
        _under_way.add(task)
        task.add_done_callback(_under_way.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    return wrapper


def _prepare(connection: Any, _record: object) -> None:
    """Sets a new SQLite connection up. Transactions are begun by `_begin`, not by the driver."""
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")  # with WAL: safe against a crash of the process
        cursor.execute("PRAGMA foreign_keys = ON")
    finally:
        cursor.close()


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
