"""What the training service keeps of jobs, on SQLite and on PostgreSQL, with several writers at once."""

import asyncio

import pytest

from omnialign.errors import AlreadyExists, InvalidArgument
from omnialign.v1.training_service_pb2 import CreateTrainingJobRequest, TrainingJob
from services.runtime.database import Database
from services.training.store import MIGRATIONS, Store, now

PARENT = "projects/default"


@pytest.fixture
async def stores(database_url):
    databases = Database(database_url), Database(database_url)
    await databases[0].write(MIGRATIONS.upgrade)
    yield tuple(map(Store, databases))
    for database in databases:
        await database.close()


def job(job_id="first"):
    return TrainingJob(name=f"{PARENT}/trainingJobs/{job_id}", uid=job_id, create_time=now())


async def test_updates_at_once_are_all_there_and_their_events_have_no_gaps(stores):
    await stores[0].create(job(), CreateTrainingJobRequest(), parent=PARENT)

    def restart(entry):
        entry.num_crashes += 1
        entry.job.attempt_count += 1

    await asyncio.gather(*(store.update(job().name, restart) for _ in range(12) for store in stores))
    entry = await stores[1].get(job().name)
    assert (entry.num_crashes, entry.job.attempt_count) == (24, 24)
    events = await stores[0].events(job().name, after=0)
    assert [event.sequence for event in events] == list(range(1, 26))
    assert [event.training_job.attempt_count for event in events] == list(range(25))


async def test_a_request_sent_to_two_replicas_at_once_makes_one_job(stores):
    request = CreateTrainingJobRequest(parent=PARENT, request_id="once")
    made = await asyncio.gather(*(store.create(job(), request, parent=PARENT) for store in stores))
    assert made[0].name == made[1].name == job().name
    assert len(await stores[0].page(PARENT, after=[], limit=9)) == 1
    other = CreateTrainingJobRequest(parent=PARENT, request_id="once", training_job_id="other")
    with pytest.raises(InvalidArgument):
        await stores[1].create(job("other"), other, parent=PARENT)


async def test_a_name_is_taken_once(stores):
    await stores[0].create(job(), CreateTrainingJobRequest(), parent=PARENT)
    with pytest.raises(AlreadyExists):
        await stores[1].create(job(), CreateTrainingJobRequest(), parent=PARENT)


async def test_pages_are_newest_first_and_ended_jobs_are_not_unfinished(stores):
    for job_id in ("a", "b", "c"):
        await stores[0].create(job(job_id), CreateTrainingJobRequest(), parent=PARENT)
    await stores[0].update(job("b").name, lambda entry: setattr(entry.job, "state", TrainingJob.STATE_FAILED))
    first = await stores[1].page(PARENT, after=[], limit=2)
    last = first[-1]
    rest = await stores[1].page(PARENT, after=[str(last.create_time.ToMicroseconds()), last.name], limit=2)
    assert [found.uid for found in (*first, *rest)] == ["c", "b", "a"]
    assert [entry.job.uid for entry in await stores[1].unfinished()] == ["a", "c"]
