"""Services as processes of their own, as people run them, so that each one's memory can be told."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from omnialign.client import AsyncClient
from tests.integration.cluster import Cluster, Ports
from tests.postgresql import PostgreSQL
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

MODELS = "pool"
"""The process that stands in for a pool of models and for the training service."""
MEASURED = ("data", "alignment-0", "evaluation")
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class ScaleServices(Cluster):
    """The data, the alignment and the evaluation service, and models that answer at once."""

    def migrate(self) -> None:
        """Makes the tables of PostgreSQL; those of SQLite are made by the services themselves."""
        if self.database_url:
            super().migrate()

    def module(self, name: str) -> str:
        """The module that a process runs."""
        return "benchmarks.null_models" if name == MODELS else super().module(name)

    def peak_bytes(self) -> dict[str, int]:
        """The most memory that each measured process has had resident so far, shared pages included."""
        found = {}
        for name in MEASURED:
            status = Path(f"/proc/{self.processes[name].pid}/status").read_text()
            if (peak := PEAK.search(status)) is None:
                raise RuntimeError(f"The kernel tells no peak of {name}.")
            found[name.partition("-")[0]] = 1024 * int(peak[1])
        return found

    def models_seconds(self) -> float:
        """The processor time that the models have taken so far."""
        times = psutil.Process(self.processes[MODELS].pid).cpu_times()
        return float(times.user + times.system)

    def client(self, name: str) -> AsyncClient:
        """A client of one process."""
        return AsyncClient(self.ports[name].address)

    def _settings(self, name: str) -> dict[str, str]:
        if name == MODELS:
            return {}
        found = super()._settings(name)
        # As an operator finds them: a cluster of the tests has short times and few chunks.
        return {key: value for key, value in found.items() if not key.endswith(("_SECONDS", "_CHUNKS_PER_JOB"))} | (
            {"OMNIALIGN_ALIGNMENT_TRAINING_ADDRESS": self.ports[MODELS].address} if name.startswith("alignment") else {}
        )


@contextlib.asynccontextmanager
async def on_this_machine(folder: Path) -> AsyncIterator[ScaleServices]:
    """The processes with SQLite and local files."""
    async with _running(folder, database_url="", objects={}, common={}) as services:
        yield services


@contextlib.asynccontextmanager
async def on_s3_and_postgresql(folder: Path) -> AsyncIterator[ScaleServices]:
    """The processes with a real S3 server and a real PostgreSQL, both on this machine as well."""
    objects = folder / "s3"
    objects.mkdir(parents=True)
    postgresql, s3 = PostgreSQL(), S3Server(objects)
    postgresql.start()
    try:
        s3.start()
        settings = {key.upper(): str(value) for key, value in s3.settings("scale").items()}
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        database = postgresql.create_database()
        async with _running(folder, database_url=database, objects=settings, common=keys) as services:
            yield services
    finally:
        s3.close()
        postgresql.close()


@contextlib.asynccontextmanager
async def data_service(folder: Path) -> AsyncIterator[Callable[[], AsyncClient]]:
    """Makes clients of a data service on this machine, whose files they may read by themselves."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    settings = {"FILE_LINKS": "true"}
    async with _running(folder, database_url="", objects=settings, common={}, names=("data",)) as services:
        yield partial(services.client, "data")


@contextlib.asynccontextmanager
async def _running(
    folder: Path,
    *,
    database_url: str,
    objects: Mapping[str, str],
    common: Mapping[str, str],
    names: Sequence[str] = (*MEASURED, MODELS),
) -> AsyncIterator[ScaleServices]:
    ports = {name: Ports() for name in (*MEASURED, MODELS, "training", "annotation", "gateway")}
    services = ScaleServices(folder, database_url, objects, common, names=names, ports=ports)
    try:
        await services.start()
        yield services
    finally:
        services.stop()
