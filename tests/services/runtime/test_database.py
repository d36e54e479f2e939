"""Transactions on SQLite and PostgreSQL: nothing lost, nobody locked out, and typed errors for what is away."""

import asyncio
import sqlite3
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from omnialign.errors import DataLoss, InvalidArgument, ResourceExhausted, Unavailable
from services.runtime import database as module
from services.runtime.database import Database, _prepare_sqlite, is_among
from tests.postgresql import PASSWORD, PostgreSQL


def make_tables(connection):
    connection.execute(text("CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER)"))
    connection.execute(text("CREATE TABLE child (parent INTEGER REFERENCES counter(id))"))
    connection.execute(text("INSERT INTO counter VALUES (1, 0), (2, 0)"))


def value(connection, key=1):
    return connection.execute(text("SELECT value FROM counter WHERE id = :id"), {"id": key}).scalar_one()


def put(connection, new, key=1):
    connection.execute(text("UPDATE counter SET value = :value WHERE id = :id"), {"value": new, "id": key})


@pytest.fixture
async def database(database_url):
    database = Database(database_url)
    await database.write(make_tables)
    yield database
    await database.close()


async def test_concurrent_increments_all_count(database):
    def increment(connection):
        query = sa.select(sa.column("value")).select_from(sa.table("counter")).where(sa.column("id") == 1)
        put(connection, connection.execute(query.with_for_update()).scalar_one() + 1)

    await asyncio.gather(*(database.write(increment) for _ in range(20)))
    assert await database.read(value) == 20


async def test_a_read_does_not_wait_for_a_writer(database):
    writing, go_on = threading.Event(), threading.Event()

    def write(connection):
        put(connection, 5)
        writing.set()
        assert go_on.wait(10)

    writer = asyncio.create_task(database.write(write))
    await asyncio.to_thread(writing.wait, 10)
    assert await database.read(value) == 0
    go_on.set()
    await writer
    assert await database.read(value) == 5


async def test_an_exception_rolls_back(database):
    def write(connection):
        put(connection, 9)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(write, then=lambda _: pytest.fail("it was not committed"))
    assert await database.read(value) == 0


async def test_a_transaction_whose_caller_is_cancelled_ends_and_its_effects_happen(database):
    begun, go_on, effects = threading.Event(), threading.Event(), []

    def write(connection):
        begun.set()
        assert go_on.wait(10)
        put(connection, 3)
        return 3

    caller = asyncio.create_task(database.write(write, then=effects.append))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert effects == []
    go_on.set()
    await database.write(lambda connection: None)  # locked out by nobody
    await database.close()
    assert effects == [3]


async def test_a_file_that_another_process_is_making_is_waited_for(tmp_path):
    # SQLite does not wait by itself here: turning the write-ahead log on is refused at once while a writer is at work.
    maker = sqlite3.connect(tmp_path / "new.db", isolation_level=None, check_same_thread=False)
    maker.execute("BEGIN IMMEDIATE")
    refused = threading.Event()

    class Refused(sqlite3.Connection):
        def execute(self, statement, *arguments):
            try:
                return super().execute(statement, *arguments)
            except sqlite3.OperationalError:
                refused.set()
                raise

    late = sqlite3.connect(tmp_path / "new.db", factory=Refused, check_same_thread=False)
    preparing = asyncio.create_task(asyncio.to_thread(_prepare_sqlite, late, None))
    assert await asyncio.to_thread(refused.wait, 10)
    maker.execute("COMMIT")
    await preparing
    assert late.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    late.close()
    maker.close()


async def test_effects_come_before_the_caller_goes_on(database):
    effects = []
    await database.write(lambda connection: 1, then=effects.append)
    assert effects == [1]


async def test_a_broken_constraint_is_the_callers_to_handle(database):
    with pytest.raises(IntegrityError):
        await database.write(lambda c: c.execute(text("INSERT INTO child VALUES (77)")))


async def test_a_faulty_statement_is_not_taken_for_a_database_that_is_away(database):
    with pytest.raises((ProgrammingError, sa.exc.OperationalError)):
        await database.read(lambda c: c.execute(text("SELECT nothing FRM nowhere")))


async def test_sqlite_writes_ahead(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/new/folder/test.db")
    assert await database.read(lambda c: c.execute(text("PRAGMA journal_mode")).scalar_one()) == "wal"
    await database.close()


async def test_a_folder_that_cannot_be_opened_is_said_so(tmp_path):
    (tmp_path / "file").mkdir()
    database = Database(f"sqlite:///{tmp_path}/file")
    with pytest.raises(Unavailable, match="is not available: unable to open database file") as caught:
        await database.read(lambda c: c.execute(text("SELECT 1")))
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    await database.close()


async def test_a_full_disk_is_said_so(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/test.db")
    await database.write(make_tables)

    def write(connection):
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        connection.execute(text("CREATE TABLE large (data BLOB)"))
        connection.execute(text("INSERT INTO large VALUES (zeroblob(1000000))"))

    with pytest.raises(ResourceExhausted) as caught:
        await database.write(write)
    assert caught.value.reason == "STORAGE_FULL"
    await database.close()


@pytest.mark.parametrize("url", ["mysql://root:s3cret@host/db", "s3cret", "", "postgresql://host:s3cret/db"])
async def test_an_unusable_url_is_not_repeated(url):
    with pytest.raises(InvalidArgument) as caught:
        Database(url)
    assert "s3cret" not in str(caught.value)


async def test_transactions_that_lose_a_race_are_tried_again(postgres_url):
    """Two transactions take the same two rows in opposite order: PostgreSQL ends one of them as a deadlock."""
    database = Database(postgres_url)
    await database.write(make_tables)
    meet, tries = threading.Barrier(2), []

    def crossing(first, second):
        def write(connection):
            tries.append(first)
            put(connection, value(connection, first) + 1, first)
            if len(tries) <= 2:
                meet.wait(10)
            put(connection, value(connection, second) + 1, second)

        return write

    await asyncio.gather(database.write(crossing(1, 2)), database.write(crossing(2, 1)))
    assert len(tries) == 3
    assert [await database.read(lambda c, key=key: value(c, key)) for key in (1, 2)] == [2, 2]
    await database.close()


async def test_a_transaction_that_finds_no_free_connection_in_time_is_refused(postgres_url, monkeypatch):
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
    database, go_on = Database(postgres_url, connections=1), threading.Event()
    holder = asyncio.create_task(database.write(lambda connection: go_on.wait(10)))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="is overloaded"):
        await database.read(lambda connection: None)
    go_on.set()
    await holder
    await database.close()


@pytest.fixture
def own_postgres():
    server = PostgreSQL()
    server.start()
    yield server
    server.close()


async def test_a_stopped_server_is_said_so_and_found_again(own_postgres):
    database = Database(own_postgres.url())
    await database.write(make_tables)
    own_postgres.stop()
    for call in (database.read(value), database.write(lambda c: put(c, 4))):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.reason == "DATABASE_UNAVAILABLE"
        assert PASSWORD not in str(caught.value)
        assert f"127.0.0.1:{own_postgres.port}/postgres" in str(caught.value)
    patient = asyncio.create_task(database.patient(budget_seconds=60).write(lambda c: put(c, 4)))
    await asyncio.to_thread(own_postgres.start)
    await patient
    assert await database.read(value) == 4
    await database.close()


async def test_a_wrong_password_is_said_so_without_it(postgres):
    database = Database(postgres.url().replace(PASSWORD, "wr0ng-s3cret"))
    with pytest.raises(Unavailable, match="password authentication failed") as caught:
        await database.read(lambda connection: None)
    assert "wr0ng" not in str(caught.value)
    await database.close()


async def test_a_damaged_file_is_data_loss_with_the_file_and_the_way_back(tmp_path):
    path = tmp_path / "data.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 16)
    database = Database(f"sqlite:///{path}")
    for call in (database.read, database.write):
        with pytest.raises(DataLoss, match="put its last backup there") as caught:
            await call(make_tables)
        assert caught.value.reason == "DATABASE_DAMAGED"
        assert str(path) in caught.value.message
    await database.close()


async def test_a_page_that_is_damaged_later_is_data_loss_too(tmp_path):
    path = tmp_path / "data.db"
    database = Database(f"sqlite:///{path}")
    await database.write(make_tables)
    await database.write(lambda connection: put(connection, 4))
    await database.close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    database = Database(f"sqlite:///{path}")
    with pytest.raises(DataLoss):
        await database.read(value)
    await database.close()


async def test_only_the_owner_may_read_a_database_file(tmp_path):
    path = tmp_path / "folder" / "data.db"
    path.parent.mkdir()
    path.touch(mode=0o644)
    database = Database(f"sqlite:///{path}")
    await database.write(make_tables)
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()} == dict.fromkeys(
        ("data.db", "data.db-wal", "data.db-shm"), "0o600"
    )
    await database.close()


async def test_texts_are_found_among_more_than_a_statement_takes_parameters(database):
    table = sa.Table("texts", sa.MetaData(), sa.Column("key", sa.String(20), primary_key=True))
    names = ["it's", 'a "quote"', "\u00e9", *map(str, range(70_000))]

    def look(connection):
        table.create(connection)
        connection.execute(table.insert(), [{"key": key} for key in [*names[:5], "other"]])
        found = connection.scalars(sa.select(table.c.key).where(is_among(connection, table.c.key, names)))
        nothing = connection.scalars(sa.select(table.c.key).where(is_among(connection, table.c.key, [])))
        return sorted(found), list(nothing)

    assert await database.write(look) == (sorted(names[:5]), [])
