"""One stand for all tests of outages, and the counts of a job that nothing disturbed."""

import asyncio
from collections.abc import Iterator

import pytest

from omnialign.client import AsyncClient
from tests.outage.job import Counts, Materials, counts, end_of, prepare, submit
from tests.outage.stand import Stand, running_stand


@pytest.fixture(scope="session")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Everything, running."""
    with asyncio.Runner() as runner:
        running = running_stand(tmp_path_factory.mktemp("outage"))
        found = runner.run(running.__aenter__())
        try:
            yield found
        finally:
            runner.run(running.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def materials(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> Materials:
    """A dataset and a model that jobs work on."""

    async def make() -> Materials:
        async with AsyncClient(stand.cluster.address) as client:
            return await prepare(client, tmp_path_factory.mktemp("model"))

    return asyncio.run(make())


@pytest.fixture(scope="session")
def calm(stand: Stand, materials: Materials) -> Counts:
    """The counts of a job that nothing disturbed."""

    async def run() -> Counts:
        async with AsyncClient(stand.cluster.address) as client:
            job = await submit(client, materials, "calm")
            return counts(await end_of(client, job))

    return asyncio.run(run())
