"""The demo as a researcher runs it against a cluster: TLS, a token, PostgreSQL, S3, two replicas, real models."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import NotFound, Unauthenticated
from tests.integration.cluster import Cluster
from tests.integration.conftest import Identity, Security, Start
from tests.processes import REPOSITORY
from tests.s3_server import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(7200)]

STALL_SECONDS = 300.0
"""How long the demo may print nothing. Bounded by progress and not by time: other load makes it slow, not wrong."""
LOOK_SECONDS = 5.0
SUBTASKS = {"t2t", "ti2t", "ta2t", "tv2t", "t2i", "t2a", "t2v", "ti2ti", "tia2t", "tav2t", "t2tia"}


def command(cluster: Cluster, identity: Identity, *arguments: str) -> list[str]:
    """A call of the command line with an identity."""
    common = ["--address", f"grpcs://{cluster.address}", "--token-file", str(identity.token_file)]
    return [sys.executable, "-m", "omnialign.cli.main", *arguments, *common, "--ca-file", str(identity.ca_file)]


def client(cluster: Cluster, identity: Identity, **settings: str) -> AsyncClient:
    """A client with an identity."""
    return AsyncClient(f"grpcs://{cluster.address}", token=identity.token, ca_file=identity.ca_file, **settings)


async def test_the_small_demo_runs_to_its_report_through_tls_tokens_postgresql_and_s3(
    tmp_path: Path, postgres_url: str, s3: S3Server, start_cluster: Start, security: Security
) -> None:
    researcher, out = security.people["researcher"], tmp_path / "out"
    async with start_cluster(postgres_url, s3) as cluster:
        with (tmp_path / "demo.log").open("wb") as log:
            demo = await asyncio.create_subprocess_exec(
                *command(cluster, researcher, "demo", "--small", "--out", str(out)),
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            assert await end_of(demo, tmp_path / "demo.log") == 0, (tmp_path / "demo.log").read_text()[-4000:]
        report = json.loads((out / "report.json").read_text())
        pairs = report["pairs"]
        assert pairs["tried"] == sum(pairs[outcome] for outcome in ("kept", "tied", "lost", "abstained")) == 330
        assert pairs["kept"] > 0 and set(report["subtasks"]) == SUBTASKS
        assert report["training"] and all(report["training"].values()), "the report lacks curves of training"
        assert b"<html" in (out / "report.html").read_bytes()
        await check_what_others_see(cluster, security)
        check_that_no_secret_was_logged(cluster, security)


def read(log: Path) -> str:
    return log.read_text()


async def end_of(demo: asyncio.subprocess.Process, log: Path) -> int:
    """The exit status of the demo. Fails, and kills it, when its log stands still."""
    said, moved_at = "", time.monotonic()
    while True:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(demo.wait(), LOOK_SECONDS)
        if (text := read(log)) != said:
            said, moved_at = text, time.monotonic()
        if time.monotonic() - moved_at > STALL_SECONDS:
            demo.kill()
            pytest.fail(f"no progress for {STALL_SECONDS:g} s: {said[-4000:]}")


async def check_what_others_see(cluster: Cluster, security: Security) -> None:
    """Someone of another project finds nothing of it, and someone without a token is not answered at all."""
    async with client(cluster, security.people["researcher"]) as insider:
        jobs = [job async for job in insider.list_alignment_jobs()]
        assert len(jobs) == 1
    async with client(cluster, security.people["stranger"]) as outsider:
        for name in (jobs[0].name, jobs[0].name + "-absent"):
            with pytest.raises(NotFound):
                await outsider.get_alignment_job(name)
    async with AsyncClient(f"grpcs://{cluster.address}", ca_file=security.people["researcher"].ca_file) as nobody:
        with pytest.raises(Unauthenticated):
            await nobody.get_alignment_job(jobs[0].name)


def check_that_no_secret_was_logged(cluster: Cluster, security: Security) -> None:
    secret = [path.read_text().strip() for path in security.folder.glob("*.token")]
    for name in cluster.names:
        log = cluster.log(name).read_text()
        assert not any(token in log for token in secret), f"a token is in the log of {name}"
