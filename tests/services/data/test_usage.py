"""What projects store, on SQLite and on PostgreSQL, with two replicas."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from omnialign.errors import ResourceExhausted
from services.data.store import MIGRATIONS, now_us
from services.data.usage import Usage, UsageMetrics
from services.runtime.database import Database
from services.runtime.limits import Quotas

PARENT, OTHER = "projects/default", "projects/other"
ONE, TWO = f"{PARENT}/datasets/one", f"{PARENT}/datasets/two"


@pytest.fixture
async def usages(database_url, tmp_path):
    (tmp_path / "quotas").write_text("default: {bytes: 100}")
    databases = Database(database_url), Database(database_url)
    await databases[0].write(MIGRATIONS.upgrade)
    quotas, metrics = Quotas(tmp_path / "quotas"), UsageMetrics(CollectorRegistry())
    yield tuple(Usage(database, quotas=quotas, metrics=metrics) for database in databases)
    for database in databases:
        await database.close()


async def test_what_several_holders_of_a_project_share_counts_once(usages):
    await asyncio.gather(*(usage.hold(ONE, {"a": 30, "b": 20}, parent=PARENT) for usage in usages))
    await usages[0].hold(TWO, {"b": 20, "c": 5}, parent=PARENT)
    await usages[0].hold(OTHER, {"a": 30}, parent=OTHER)
    assert (await usages[1].used_bytes(PARENT), await usages[1].used_bytes(OTHER)) == (55, 30)
    await usages[1].release(ONE)
    assert await usages[0].used_bytes(PARENT) == 25


async def test_what_a_project_has_already_fits_whatever_the_quota(usages):
    await usages[0].hold(ONE, {str(number): 1 for number in range(1000)}, parent=PARENT)
    await usages[1].check(PARENT, {str(number): 1 for number in range(1000)})
    with pytest.raises(ResourceExhausted) as caught:
        await usages[1].check(PARENT, {"7": 1, "another": 1})
    assert (caught.value.metadata["used"], caught.value.metadata["limit"]) == ("1000", "100")
    await usages[1].check(OTHER, {"another": 100})


async def test_a_holder_counts_until_its_time_has_come(usages):
    await usages[0].hold(ONE, {"past": 10}, parent=PARENT, expire_us=now_us() - 1)
    await usages[0].hold(TWO, {"future": 20}, parent=PARENT, expire_us=now_us() + 10**9)
    assert await usages[1].used_bytes(PARENT) == 20
    await usages[1].forget_expired()
    await usages[1].check(PARENT, {"past": 80})
