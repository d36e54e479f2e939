"""`python -m services.migrate`: all tables of all services, on a real PostgreSQL."""

import asyncio
import os
import subprocess
import sys

import pytest
import sqlalchemy as sa

from services.migrate import VARIABLES, WORKFLOWS, migrate
from services.runtime.database import Database, parse_url
from tests.postgresql import PASSWORD, PostgreSQL


def run(**variables):
    """The command, as an operator's Job runs it."""
    command = [sys.executable, "-m", "services.migrate", "--deadline-seconds", "20"]
    base = {key: value for key, value in os.environ.items() if not key.startswith("OMNIALIGN_")}
    return subprocess.run(command, env=base | variables, capture_output=True, text=True, timeout=60, check=False)


def tables(url, schema):
    engine = sa.create_engine(parse_url(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return set(sa.inspect(connection).get_table_names(schema))


def test_it_makes_all_tables_in_one_database_and_says_so_and_may_be_repeated(postgres_url):
    every = dict.fromkeys((*VARIABLES, *WORKFLOWS), postgres_url)
    done = run(**every)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    kinds = ["data", "training", "alignment", "evaluation", "annotation", "workflows"]
    assert [line.partition(":")[0] for line in lines] == kinds
    assert "from nothing to revision 0005 in 127.0.0.1:" in lines[2]
    assert PASSWORD not in done.stdout
    assert {"datasets", "training_jobs", "alignment_jobs", "evaluation_jobs"} <= tables(postgres_url, "public")
    assert "workflow_status" in tables(postgres_url, "dbos")
    again = run(**every)
    assert again.returncode == 0
    assert all("up to date" in line for line in again.stdout.splitlines())


async def test_two_of_them_at_once_both_succeed(postgres_url, capsys):
    every = dict.fromkeys(VARIABLES, postgres_url)
    assert await asyncio.gather(*(migrate(every, deadline_seconds=20) for _ in range(2))) == [0, 0]
    assert capsys.readouterr().out.count("from nothing") == len(VARIABLES)


async def test_it_waits_for_a_database_that_comes_later(capsys):
    server = PostgreSQL()
    try:
        work = asyncio.create_task(migrate(dict.fromkeys(VARIABLES, server.url()), deadline_seconds=60))
        await asyncio.to_thread(server.start)
        assert await work == 0
        database = Database(server.url())
        assert await database.read(lambda c: c.scalar(sa.text("SELECT count(*) FROM datasets"))) == 0
        await database.close()
    finally:
        server.close()


async def test_a_database_that_stays_away_is_a_failure_with_its_reason(capsys):
    url = f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/nothing"
    assert await migrate({"OMNIALIGN_DATA_DATABASE_URL": url}, deadline_seconds=0.2) == 1
    said = capsys.readouterr().out
    assert said.startswith("data: failed: The database 127.0.0.1:1/nothing is not available: connection failed")
    assert PASSWORD not in said


@pytest.mark.parametrize("environ", [{}, {"OMNIALIGN_DATA_DATABASE_URL": "mysql://u:s3cret@h/d"}])
async def test_nothing_usable_to_do_is_a_mistake_of_configuration(environ, capsys):
    assert await migrate(environ, deadline_seconds=1) == 2
    assert "s3cret" not in capsys.readouterr().out


async def test_it_works_on_sqlite_too(tmp_path, capsys):
    urls = dict.fromkeys(WORKFLOWS, f"sqlite:///{tmp_path}/dbos.db") | {
        name: f"sqlite:///{tmp_path}/{i}.db" for i, name in enumerate(VARIABLES)
    }
    assert await migrate(urls, deadline_seconds=5) == 0
