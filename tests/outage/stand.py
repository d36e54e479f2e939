"""The services as processes behind the gateway, on a PostgreSQL, an S3 server and under a Prometheus of their own.

Data, training, alignment, annotation and gateway are real; models are null, and training programs learn nothing.
Whatever runs here can be taken away and brought back.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.integration.cluster import HEALTH, Cluster
from tests.observability.expressions import RULES
from tests.observability.prometheus import Prometheus, running_prometheus
from tests.postgresql import PostgreSQL
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

PROCESSES = ("data", "training", "pool", "alignment-0", "annotation", "gateway")
POSTGRESQL, S3 = "postgresql", "s3"
ALERT_WAITS = "2s"
"""How long an alert's condition must hold here, in place of minutes."""
SETTLE_SECONDS = 40.0
"""How long an alert may take to fire or to clear: scrapes and evaluations, and the pauses of those who wait."""


class OutageCluster(Cluster):
    """The processes. Restarts are quick, and those who wait look again every two seconds."""

    def module(self, name: str) -> str:
        """Null models in place of the pool."""
        return "tests.outage.null_pool" if name == "pool" else super().module(name)

    def _server(self, name: str) -> dict[str, str]:
        return super()._server(name) | {"OMNIALIGN_SERVER_GRACE_SECONDS": "1"}

    def _settings(self, name: str) -> dict[str, str]:
        if name == "pool":
            return {}
        own = {
            "training": {
                "OMNIALIGN_TRAINING_COMMAND": f"{sys.executable},-m,tests.outage.trainer",
                "OMNIALIGN_TRAINING_STOP_JOBS_ON_SHUTDOWN": "false",
                "OMNIALIGN_TRAINING_MAX_RUNNING": "8",
            },
            "alignment-0": {"OMNIALIGN_ALIGNMENT_RETRY_CAP_SECONDS": "2"},
        }
        return super()._settings(name) | own.get(name, {})


@dataclass
class Stand:
    """Everything that runs."""

    cluster: OutageCluster
    postgres: PostgreSQL
    s3: S3Server
    prometheus: Prometheus
    fired: set[tuple[str, str]] = field(default_factory=set)
    """Every alert that was seen to fire, as `alerts` names it."""

    async def take_away(self, part: str) -> None:
        """Ends a process or a store at once."""
        if part in PROCESSES:
            await asyncio.to_thread(self.cluster.kill, part)
        else:
            await asyncio.to_thread(self._store(part).stop)

    async def bring_back(self, part: str) -> None:
        """Starts a process or a store again, and returns once it answers."""
        if part in PROCESSES:
            self.cluster.spawn(part)
            await self.cluster.ready(part)
        else:
            await asyncio.to_thread(self._store(part).start)

    def alerts(self) -> set[tuple[str, str]]:
        """The alerts that fire now, each with the service that it is about, if it is about one."""
        found = self.prometheus.get("alerts")["alerts"]
        firing = {(a["labels"]["alertname"], a["labels"].get("service", "")) for a in found if a["state"] == "firing"}
        self.fired |= firing
        return firing

    async def fires(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Returns once all these alerts have fired. They need not fire at the same time."""
        seen = set[tuple[str, str]]()
        async with _settling(lambda: f"not fired: {set(wanted) - seen}"):
            while not set(wanted) <= seen:
                seen |= await asyncio.to_thread(self.alerts)
                await asyncio.sleep(0.5)

    async def clears(self, unwanted: Iterable[tuple[str, str]], *, seconds: float = SETTLE_SECONDS) -> None:
        """Returns once none of these alerts fires."""
        left = set(unwanted)
        async with _settling(lambda: f"still firing: {left}", seconds=seconds):
            while left:
                left = set(unwanted) & await asyncio.to_thread(self.alerts)
                await asyncio.sleep(0.5)

    def _store(self, part: str) -> PostgreSQL | S3Server:
        return {POSTGRESQL: self.postgres, S3: self.s3}[part]


@asynccontextmanager
async def running_stand(folder: Path) -> AsyncIterator[Stand]:
    """Starts everything for the block."""
    postgres, s3 = PostgreSQL(), S3Server()
    try:
        with s3.credentials():
            await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(s3.start))
        cluster = OutageCluster(
            folder,
            database_url=postgres.create_database(),
            objects={key.upper(): str(value) for key, value in s3.settings("outage").items()},
            common={"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
            names=PROCESSES,
        )
        try:
            await cluster.start()
            async with running_prometheus(
                folder / "prometheus", targets=_targets(cluster), rules=_rules(folder)
            ) as found:
                yield Stand(cluster, postgres, s3, found)
        finally:
            await asyncio.to_thread(cluster.stop)
    finally:
        s3.close()
        postgres.close()


def _targets(cluster: Cluster) -> dict[str, dict[str, str]]:
    """The metrics of each process, with the labels that the chart's monitors give them."""
    return {
        f"127.0.0.1:{cluster.ports[name].metrics}": {
            "namespace": "outage",
            "pod": name,
            "component": name.partition("-")[0],
        }
        for name in PROCESSES
    }


def _rules(folder: Path) -> list[Path]:
    """The chart's rules with other durations: `for` alone is changed."""
    written = []
    for path in RULES:
        document = yaml.safe_load(path.read_text())
        for rule in (rule for group in document["groups"] for rule in group["rules"]):
            rule.update({"for": ALERT_WAITS} if "for" in rule else {})
        written.append(folder / path.name)
        written[-1].write_text(yaml.safe_dump(document))
    return written


def service_of(process: str) -> str:
    """The service by which a process is known to health checks and metrics."""
    return HEALTH[process]


@asynccontextmanager
async def _settling(problem: Callable[[], str], *, seconds: float = SETTLE_SECONDS) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(problem()) from None
