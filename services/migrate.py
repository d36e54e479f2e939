"""`python -m services.migrate`: brings the tables of all services up to date, before a new release starts.

The databases come from the services' own variables: OMNIALIGN_DATA_DATABASE_URL, OMNIALIGN_TRAINING_DATABASE_URL,
OMNIALIGN_ALIGNMENT_DATABASE_URL, OMNIALIGN_EVALUATION_DATABASE_URL, OMNIALIGN_ANNOTATION_DATABASE_URL, and for the
workflow engine's own tables the same three of the services with jobs, as OMNIALIGN_ALIGNMENT_WORKFLOW_DATABASE_URL;
those that are not set are skipped. It is safe to run repeatedly, and several times at once.

Exit status: 0 when everything is up to date, 1 when a database did not answer in time or refused, 2 when nothing or
something unusable is configured.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

from sqlalchemy.exc import SQLAlchemyError

from omnialign.errors import InvalidArgument, OmnialignError
from services.alignment.job import MIGRATIONS as ALIGNMENT
from services.annotation.tables import MIGRATIONS as ANNOTATION
from services.data.store import MIGRATIONS as DATA
from services.evaluation.job import MIGRATIONS as EVALUATION
from services.pipeline import workflow_engine
from services.runtime.database import Database
from services.runtime.migrations import Migrations
from services.training.store import MIGRATIONS as TRAINING

DEADLINE_SECONDS = 300.0
EXIT_FAILED, EXIT_CONFIG = 1, 2
VARIABLES = {
    "OMNIALIGN_DATA_DATABASE_URL": DATA,
    "OMNIALIGN_TRAINING_DATABASE_URL": TRAINING,
    "OMNIALIGN_ALIGNMENT_DATABASE_URL": ALIGNMENT,
    "OMNIALIGN_EVALUATION_DATABASE_URL": EVALUATION,
    "OMNIALIGN_ANNOTATION_DATABASE_URL": ANNOTATION,
}
WORKFLOWS = tuple(f"OMNIALIGN_{service}_WORKFLOW_DATABASE_URL" for service in ("ALIGNMENT", "EVALUATION", "ANNOTATION"))

Migrate = Callable[[], Awaitable[str]]


async def migrate(environ: Mapping[str, str], *, deadline_seconds: float) -> int:
    """Migrates and reports on stdout; returns the exit status. Waits `deadline_seconds` for an unavailable database."""
    plan = list(_plan(environ, deadline_seconds=deadline_seconds))
    if not plan:
        _say(f"Nothing to do: set one of {', '.join([*VARIABLES, *WORKFLOWS])}.")
        return EXIT_CONFIG
    for name, work in plan:
        try:
            async with asyncio.timeout(2 * deadline_seconds):
                _say(f"{name}: {await work()}")
        except InvalidArgument as error:
            _say(f"{name}: {error}")
            return EXIT_CONFIG
        except (OmnialignError, SQLAlchemyError, TimeoutError) as error:
            _say(f"{name}: failed: {error or 'it took too long'}")
            return EXIT_FAILED
    return 0


def _plan(environ: Mapping[str, str], *, deadline_seconds: float) -> Sequence[tuple[str, Migrate]]:
    plan: list[tuple[str, Migrate]] = []
    for variable, migrations in VARIABLES.items():
        if url := environ.get(variable):
            plan.append((migrations.service, _tables(url, migrations, deadline_seconds=deadline_seconds)))
    for url in dict.fromkeys(url for name in WORKFLOWS if (url := environ.get(name))):
        plan.append(("workflows", _workflows(url, deadline_seconds=deadline_seconds)))
    return plan


def _tables(url: str, migrations: Migrations, *, deadline_seconds: float) -> Migrate:
    async def work() -> str:
        database = Database(url, connections=1)
        try:
            patient = database.patient(budget_seconds=deadline_seconds)
            before, after = await patient.write(migrations.upgrade)
        finally:
            await database.close()
        if before == after:
            return f"up to date at revision {after} in {database.place}"
        return f"from {f'revision {before}' if before else 'nothing'} to revision {after} in {database.place}"

    return work


def _workflows(url: str, *, deadline_seconds: float) -> Migrate:
    async def work() -> str:
        database = Database(url, connections=1)
        try:
            await database.patient(budget_seconds=deadline_seconds).read(lambda connection: None)
        finally:
            await database.close()
        await asyncio.to_thread(workflow_engine.migrate, url)
        return f"up to date in {database.place}"

    return work


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Runs it from the command line."""
    parser = argparse.ArgumentParser(prog="python -m services.migrate", description="Brings all tables up to date.")
    parser.add_argument(
        "--deadline-seconds", type=float, default=DEADLINE_SECONDS, help="how long to wait for an unavailable database"
    )
    arguments = parser.parse_args()
    raise SystemExit(asyncio.run(migrate(os.environ, deadline_seconds=arguments.deadline_seconds)))


if __name__ == "__main__":
    main()
