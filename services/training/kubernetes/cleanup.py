"""Ends what an installation left in the cluster; the chart runs `python -m services.training.kubernetes.cleanup`.

Helm deletes what it made. It knows nothing of training Jobs, which would run on, each with a Secret and a Service, and
deliver to nobody; and it forgets the pods of its tests and the Jobs of failed hooks. The training service is stopped
first, lest it start the next job of its queue.

Exit status: 0 when all of it is gone, 1 when it is not, with the names of what is left.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from omnialign.errors import NotFound, OmnialignError
from services.training.kubernetes import manifests
from services.training.kubernetes.api import Cluster, Object, connect
from services.training.kubernetes.observe import ENDED_PHASES
from services.training.kubernetes.settings import read_settings

DEADLINE_SECONDS = 240.0
POLL_SECONDS = 0.5
LEFTOVERS = (("pods", "test"), ("jobs", "migrate"))
"""Kinds and components of what Helm makes and forgets."""


class Cleanup:
    """The removal of one installation, by its label `app.kubernetes.io/instance`."""

    def __init__(self, cluster: Cluster, *, instance: str) -> None:
        self._cluster, self._instance = cluster, instance
        self.left = ""
        """What was there when last looked at."""

    async def run(self, *, deployment: str, keep_jobs: bool = False) -> None:
        """Deletes everything, and returns when nothing of it runs; with `keep_jobs`, all but training Jobs."""
        if not keep_jobs:
            await self._stop_service(deployment)
            of_jobs = f"{manifests.MANAGER_LABEL}={manifests.MANAGER},{manifests.INSTANCE_LABEL}={self._instance}"
            await self._delete("jobs", of_jobs)
            for kind in ("jobs", "pods"):
                await self._until_gone(kind, of_jobs)
        for kind, component in LEFTOVERS:
            await self._delete(kind, self._of(component))

    async def _stop_service(self, deployment: str) -> None:
        try:
            await self._cluster.scale(deployment, replicas=0)
        except NotFound:
            return
        await self._until_gone("pods", self._of("training"))

    async def _delete(self, kind: str, labels: str) -> None:
        for item in await self._cluster.list(kind, labels=labels):
            name = item["metadata"]["name"]
            _say(f"deletes {kind.removesuffix('s')} {name}")
            await self._cluster.delete(kind, name, uid=item["metadata"]["uid"])

    async def _until_gone(self, kind: str, labels: str) -> None:
        while left := [item for item in await self._cluster.list(kind, labels=labels) if not _has_ended(item)]:
            self.left = ", ".join(f"{kind.removesuffix('s')} {item['metadata']['name']}" for item in left[:5])
            await asyncio.sleep(POLL_SECONDS)

    def _of(self, component: str) -> str:
        return f"{manifests.INSTANCE_LABEL}={self._instance},app.kubernetes.io/component={component}"


def _has_ended(item: Object) -> bool:
    """Whether it is a pod that runs no more, which its owner's deletion takes along."""
    return item.get("status", {}).get("phase") in ENDED_PHASES


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


async def clean(settings_file: Path, *, deployment: str, keep_jobs: bool, deadline_seconds: float) -> int:
    """Cleans up with the training service's own settings; returns the exit status."""
    settings = read_settings(settings_file)
    cleanup = Cleanup(connect(settings), instance=settings.instance)
    try:
        async with asyncio.timeout(deadline_seconds):
            await cleanup.run(deployment=deployment, keep_jobs=keep_jobs)
    except TimeoutError:
        _say(f"still there after {deadline_seconds:g} s: {cleanup.left}")
        return 1
    except OmnialignError as error:
        _say(f"{error.reason}: {error.message}")
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m services.training.kubernetes.cleanup",
        description="Ends what an installation left in its cluster.",
    )
    parser.add_argument("--settings", type=Path, required=True, help="the file of OMNIALIGN_TRAINING_KUBERNETES_FILE")
    parser.add_argument("--deployment", required=True, help="the Deployment of the training service")
    parser.add_argument("--keep-jobs", action="store_true", help="leave training Jobs to end by themselves")
    given = parser.parse_args(arguments)
    work = clean(
        given.settings, deployment=given.deployment, keep_jobs=given.keep_jobs, deadline_seconds=DEADLINE_SECONDS
    )
    return asyncio.run(work)


if __name__ == "__main__":
    sys.exit(main())
