"""PostgreSQL, S3 and each service away for 40 s while a job runs: seen by probes, metrics and alerts, and survived.

`OMNIALIGN_OUTAGE_SECONDS` is how long each is away. The order matters for the last tests alone, which look back.
"""

import asyncio
import os
import time
from dataclasses import dataclass

import pytest

from omnialign.client import AsyncClient
from tests.outage.job import Counts, Materials, begun, counts, end_of, submit
from tests.outage.observe import EXPECTED, callers, follows
from tests.outage.stand import POSTGRESQL, S3, Stand, service_of

pytestmark = [pytest.mark.outage, pytest.mark.timeout(600)]

AWAY_SECONDS = float(os.environ.get("OMNIALIGN_OUTAGE_SECONDS", "40"))
DOWN, NOT_READY, WAITS, S3_FAILS = (
    f"Omnialign{name}" for name in ("ServiceDown", "NotReady", "AlignmentWaits", "S3Fails")
)
RATE_SECONDS = 300.0
"""The window of S3's failures, which alerts look back on."""


@dataclass(frozen=True)
class Outage:
    """What goes away, and what is seen of it."""

    part: str
    stage: str
    """The stage of the job in which it goes away."""
    hit: tuple[str, ...]
    """The processes that are not ready without it."""
    waited_for: str = ""
    """The service that the job waits for, and an alert says so."""

    @property
    def alerts(self) -> set[tuple[str, str]]:
        """The alerts that must fire, and clear afterwards. A process that is gone is down, not unready."""
        names = (DOWN,) if self.part in self.hit else (DOWN, NOT_READY)
        found = {(name, service_of(process)) for name in names for process in self.hit}
        return found | ({(WAITS, self.waited_for)} if self.waited_for else set())


OUTAGES = (
    Outage(S3, "sample", hit=("data",), waited_for="data"),
    Outage(POSTGRESQL, "critique", hit=("data", "training", "alignment-0", "annotation")),
    Outage("data", "verify", hit=("data",), waited_for="data"),
    Outage("training", "feedback_modeling", hit=("training",), waited_for="training"),
    Outage("pool", "sample", hit=("pool",)),
    Outage("alignment-0", "refine", hit=("alignment-0",)),
    Outage("annotation", "refine", hit=("annotation",)),
    Outage("gateway", "sample", hit=("gateway",)),
)


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.part)
async def test_an_outage_is_seen_within_seconds_and_the_job_ends_as_if_there_had_been_none(
    stand: Stand, materials: Materials, calm: Counts, outage: Outage
) -> None:
    async with AsyncClient(stand.cluster.address) as client, callers(stand, materials) as errors:
        job = await submit(client, materials, f"without-{outage.part}")
        watch = asyncio.create_task(end_of(client, job))
        await begun(client, job, outage.stage)
        await stand.take_away(outage.part)
        left_at = time.monotonic()
        await asyncio.gather(*(follows(stand, process, ready=False) for process in outage.hit))
        await stand.fires(outage.alerts)
        await asyncio.sleep(AWAY_SECONDS - (time.monotonic() - left_at))
        await stand.bring_back(outage.part)
        await asyncio.gather(*(follows(stand, process, ready=True) for process in outage.hit))
        await stand.clears(outage.alerts)
        assert counts(await watch) == calm
    assert [(name, repr(error)) for name, error in errors if not isinstance(error, EXPECTED)] == []


def test_no_service_answered_a_call_with_internal_or_unknown(stand: Stand) -> None:
    query = 'sum by (pod, method, code) (max_over_time(omnialign_rpc_requests_total{code=~"INTERNAL|UNKNOWN"}[1h])) > 0'
    assert stand.prometheus.get("query", query=query)["result"] == []


@pytest.mark.timeout(RATE_SECONDS + 60)
async def test_the_alert_on_s3_fired_and_clears_once_its_failures_are_five_minutes_old(stand: Stand) -> None:
    fired = {alert for alert in stand.fired if alert[0] == S3_FAILS}
    assert fired
    await stand.clears(fired, seconds=RATE_SECONDS)
