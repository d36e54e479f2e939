"""The revisions make the tables that the services work with, on both kinds of database."""

import asyncio
import sqlite3
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from omnialign.errors import Unavailable
from services.alignment.job import MIGRATIONS as ALIGNMENT
from services.annotation.tables import METADATA as ANNOTATION_TABLES
from services.annotation.tables import MIGRATIONS as ANNOTATION
from services.data.store import METADATA as DATA_TABLES
from services.data.store import MIGRATIONS as DATA
from services.evaluation.job import MIGRATIONS as EVALUATION
from services.pipeline.kept_answers import kept_answers
from services.pipeline.schema import tables
from services.runtime.database import Database
from services.training.store import METADATA as TRAINING_TABLES
from services.training.store import MIGRATIONS as TRAINING
from tests.new_databases import revisions

ALIGNMENT_TABLES = tables("alignment").metadata
SERVICES = {
    "data": (DATA, DATA_TABLES),
    "training": (TRAINING, TRAINING_TABLES),
    "alignment": (ALIGNMENT, ALIGNMENT_TABLES),
    "evaluation": (EVALUATION, tables("evaluation").metadata),
    "annotation": (ANNOTATION, ANNOTATION_TABLES),
    "drafting": (ANNOTATION, tables("drafting").metadata),
    "kept answers": (EVALUATION, kept_answers("evaluation").metadata),
}


@pytest.fixture(autouse=True)
def each_database_runs_its_revisions() -> Iterator[None]:
    with revisions():
        yield


def differences(connection, metadata):
    def is_ours(name, kind, _parents):
        return kind != "table" or name in metadata.tables

    context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": is_ours})
    return compare_metadata(context, metadata)


@pytest.mark.parametrize("service", SERVICES)
async def test_the_revisions_make_exactly_the_tables_of_the_code(service, database_url):
    migrations, metadata = SERVICES[service]
    database = Database(database_url)
    assert await database.write(migrations.upgrade) == ("", migrations.head)
    assert await database.read(lambda c: differences(c, metadata)) == []
    assert await database.write(migrations.upgrade) == (migrations.head, migrations.head)
    await database.close()


async def test_all_services_share_one_database(database_url):
    database = Database(database_url)
    for migrations, _ in SERVICES.values():
        await database.write(migrations.upgrade)
    for migrations, metadata in SERVICES.values():
        assert await database.read(migrations.current) == migrations.head
        assert await database.read(lambda c, metadata=metadata: differences(c, metadata)) == []
    await database.close()


async def test_two_runners_at_once_take_turns(database_url):
    first, second = Database(database_url), Database(database_url)
    results = await asyncio.gather(*(d.write(ALIGNMENT.upgrade) for d in (first, second, first, second)))
    assert sorted(before for before, _ in results) == ["", *[ALIGNMENT.head] * 3]
    await first.close()
    await second.close()


async def test_services_of_one_process_migrate_their_databases_at_once(tmp_path):
    databases = {name: Database(f"sqlite:///{tmp_path}/{name}.db") for name in SERVICES}
    await asyncio.gather(*(SERVICES[name][0].prepare(database) for name, database in databases.items()))
    for name, database in databases.items():
        assert await database.read(lambda c, name=name: differences(c, SERVICES[name][1])) == []
        await database.close()


async def test_a_database_made_before_there_were_revisions_is_adopted_with_its_rows(database_url):
    database = Database(database_url)
    old = [table for name, table in ALIGNMENT_TABLES.tables.items() if name != "alignment_reports"]

    def make(connection):
        ALIGNMENT_TABLES.create_all(connection, tables=old)
        connection.execute(sa.text("INSERT INTO alignment_replicas VALUES ('alignment-0', 7)"))

    await database.write(make)
    assert await database.write(ALIGNMENT.upgrade) == ("0001", ALIGNMENT.head)
    assert await database.read(lambda c: differences(c, ALIGNMENT_TABLES)) == []
    assert await database.read(lambda c: c.scalar(sa.text("SELECT heartbeat_ms FROM alignment_replicas"))) == 7
    await database.close()


async def test_sqlite_is_brought_up_to_date_at_the_start(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/new/data.db")
    await DATA.prepare(database)
    assert await database.read(DATA.current) == DATA.head
    await database.close()


async def test_a_service_refuses_a_database_without_tables_and_names_the_command(postgres_url):
    database = Database(postgres_url)
    with pytest.raises(Unavailable, match=r"python -m services\.migrate") as caught:
        await DATA.prepare(database)
    assert caught.value.reason == "SCHEMA_MISSING"
    assert caught.value.metadata["service"] == "data"
    await database.write(DATA.upgrade)
    await DATA.prepare(database)
    await database.close()


async def test_tables_of_a_newer_release_are_left_alone(database_url):
    """After a rollback the older program meets them."""
    database = Database(database_url)
    await database.write(DATA.upgrade)
    await database.write(lambda c: c.execute(sa.text("UPDATE data_schema_version SET version_num = '9999'")))
    await DATA.prepare(database)
    assert await database.write(DATA.upgrade) == ("9999", "9999")
    await database.close()


async def test_a_revision_that_fails_leaves_nothing_behind(tmp_path):
    """SQLite too changes its tables in one transaction."""
    path = tmp_path / "test.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE lineage (something INTEGER)")  # in the way of the last table
    connection.close()
    database = Database(f"sqlite:///{path}")
    with pytest.raises(sa.exc.OperationalError, match="already exists"):
        await database.write(DATA.upgrade)
    assert await database.read(lambda c: sa.inspect(c).get_table_names()) == ["lineage"]
    await database.close()
