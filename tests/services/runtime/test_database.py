"""SQLite as the metadata database: concurrent read-modify-write loses nothing."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from services.runtime.database import open_database, whole


@pytest.fixture
async def engine(tmp_path):
    engine = open_database(f"sqlite+aiosqlite:///{tmp_path}/new/folder/test.db")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER)"))
        await connection.execute(text("CREATE TABLE child (parent INTEGER REFERENCES counter(id))"))
        await connection.execute(text("INSERT INTO counter VALUES (1, 0)"))
    yield engine
    await engine.dispose()


async def test_concurrent_increments_all_count(engine):
    async def increment() -> None:
        async with engine.begin() as connection:
            value = (await connection.execute(text("SELECT value FROM counter"))).scalar_one()
            await connection.execute(text("UPDATE counter SET value = :value"), {"value": value + 1})

    await asyncio.gather(*(increment() for _ in range(20)))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT value FROM counter"))).scalar_one() == 20


async def test_a_read_only_transaction_does_not_wait_for_a_writer(engine):
    reader = engine.execution_options(read_only=True)
    async with engine.begin() as writing:
        await writing.execute(text("UPDATE counter SET value = 5"))
        async with reader.connect() as reading:
            assert (await reading.execute(text("SELECT value FROM counter"))).scalar_one() == 0


async def test_an_exception_rolls_back(engine):
    with pytest.raises(ZeroDivisionError):
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE counter SET value = 9"))
            raise ZeroDivisionError
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT value FROM counter"))).scalar_one() == 0


async def test_a_transaction_whose_caller_is_cancelled_ends_and_locks_nobody_out(engine):
    begun, go_on = asyncio.Event(), asyncio.Event()

    @whole
    async def write() -> None:
        async with engine.begin() as connection:
            begun.set()
            await go_on.wait()
            await connection.execute(text("UPDATE counter SET value = 3"))

    caller = asyncio.create_task(write())
    await begun.wait()
    caller.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    async with engine.begin() as connection:
        assert (await connection.execute(text("SELECT value FROM counter"))).scalar_one() == 3


async def test_wal_and_foreign_keys_are_on(engine):
    async with engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
    with pytest.raises(IntegrityError):
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO child VALUES (77)"))
