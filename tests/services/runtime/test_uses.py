"""What a service says of the datasets and models that its jobs use, to a real data service that may be away."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from omnialign.client import AsyncClient
from omnialign.errors import NotFound, Unavailable
from omnialign.v1.alignment_service_pb2 import AlignmentJob, AlignmentSpec
from omnialign.v1.evaluation_service_pb2 import EvaluationSpec
from services.runtime import uses as module
from services.runtime.uses import ACCEPTANCE_SECONDS, LEASE_SECONDS, Uses, names_in
from tests.services.data.conftest import serve

PROJECT = "projects/default"
WORLD, MARS = f"{PROJECT}/datasets/world", f"{PROJECT}/datasets/mars"
JOB, OTHER = f"{PROJECT}/alignmentJobs/one", f"{PROJECT}/alignmentJobs/two"


class Service:
    """A data service, whether it answers, and what it was asked."""

    def __init__(self, client: AsyncClient, database: str) -> None:
        self.client, self._database, self.is_away, self.count = client, database, False, 0

    async def ask(self, call: Callable[[AsyncClient], Awaitable[None]]) -> None:
        self.count += 1
        if self.is_away:
            raise Unavailable("The data service is away.")
        await call(self.client)

    async def users(self, name: str) -> list[str]:
        return list((await self.client.get_dataset(name)).users)

    def seconds_left(self, user: str) -> float:
        """How long a use of WORLD lasts, about."""
        with sa.create_engine(self._database).connect() as connection:
            query = "SELECT expire_us FROM uses WHERE name = :name AND user = :user"
            expire_us = connection.scalar(sa.text(query), {"name": WORLD, "user": user})
        return expire_us / 1e6 - module.time.time()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(tmp_path) as client:
        for name in ("world", "mars"):
            await client.create_dataset(name)
        yield Service(client, f"sqlite:///{tmp_path}/data.db")


def reads(*datasets: str) -> tuple[AlignmentSpec, ...]:
    return tuple(AlignmentSpec(dataset=dataset) for dataset in datasets)


def test_the_names_in_a_spec_are_those_of_datasets_and_models_whatever_field_they_are_in():
    spec = AlignmentSpec(
        dataset=f"{WORLD}/versions/3", base_model="file:///models/base", judge_model=f"{PROJECT}/models/j"
    )
    endpoint = f"openai+http://host/v1#name?adapter={PROJECT}/models/tokens/versions/1"
    spec.feedback_model = endpoint
    job = AlignmentJob(name=JOB, spec=spec)
    job.stages.add(stage="pair", dataset=f"{PROJECT}/datasets/one-pairs/versions/1")
    evaluation = EvaluationSpec(models=[f"{PROJECT}/models/m/versions/2", f"{PROJECT}/models/m/versions/new"])
    evaluation.benchmarks.add(dataset=f"{MARS}/versions/-").judges.add(model="trained")
    found = {"models/j", "models/tokens/versions/1", "datasets/one-pairs/versions/1", "models/m/versions/2"}
    wanted = {f"{WORLD}/versions/3", f"{MARS}/versions/-", *(f"{PROJECT}/{name}" for name in found)}
    assert names_in(job, evaluation) == wanted


async def test_a_job_that_was_never_accepted_holds_what_it_names_for_an_hour_and_one_that_was_for_a_week(service):
    uses = Uses(service.ask)
    await uses.begin(JOB, *reads(WORLD))
    assert ACCEPTANCE_SECONDS - 60 < service.seconds_left(JOB) <= ACCEPTANCE_SECONDS
    await uses.keep({JOB: reads(WORLD)})
    assert LEASE_SECONDS - 60 < service.seconds_left(JOB) <= LEASE_SECONDS


async def test_what_a_job_uses_is_said_again_when_it_is_due_or_something_new_comes(service, monkeypatch):
    uses = Uses(service.ask)
    for users in ({JOB: reads(WORLD)}, {JOB: reads(WORLD)}, {JOB: reads(WORLD, MARS)}, {JOB: reads(WORLD, MARS)}):
        await uses.keep(users)
    assert service.count == 2
    assert await service.users(MARS) == [JOB]
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.0)
    await uses.keep({JOB: reads(WORLD, MARS)})
    assert service.count == 3


async def test_the_uses_of_jobs_that_have_ended_end(service):
    uses = Uses(service.ask)
    await uses.keep({JOB: reads(WORLD), OTHER: reads(WORLD)})
    await uses.end(JOB)
    assert await service.users(WORLD) == [OTHER]
    await uses.keep({})  # another replica ended it
    assert await service.users(WORLD) == []


async def test_an_end_while_the_data_service_is_away_is_made_up_for(service):
    uses = Uses(service.ask)
    await uses.begin(JOB, *reads(WORLD))
    service.is_away = True
    await uses.end(JOB)
    with pytest.raises(Unavailable):
        await uses.keep({})
    service.is_away = False
    assert await service.users(WORLD) == [JOB]
    await uses.keep({})
    assert await service.users(WORLD) == []


async def test_a_job_over_what_is_gone_is_refused_and_one_that_runs_keeps_the_rest(service):
    uses, gone = Uses(service.ask), f"{PROJECT}/datasets/gone"
    with pytest.raises(NotFound):
        await uses.begin(JOB, *reads(WORLD, gone))
    await uses.begin(JOB, *reads(gone), allow_missing=True)
    await uses.keep({JOB: reads(WORLD, gone)})
    assert await service.users(WORLD) == [JOB]
