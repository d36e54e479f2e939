"""The chart's values for one node, without a cluster: every pod a container, and the demo job from within.

`make images` first; `OMNIALIGN_IMAGES_ENGINE` is buildah with its options. The API server is a stand-in; all else is
what an installation runs: the rendered manifests, the images, PostgreSQL, S3, TLS, tokens, training Jobs.
"""

import asyncio
import contextlib
import os
import random
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.node import HOST, Container, Node, Object
from tests.processes import REPOSITORY
from tests.services.training.kubernetes.conftest import kubeconfig_of
from tests.services.training.kubernetes.fake_api import FakeApi
from tests.services.training.kubernetes.fake_controllers import Controllers, ended, index, running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

CHART = REPOSITORY / "charts" / "omnialign"
NAMESPACE = "omnialign"
WORKLOADS = ("Deployment", "StatefulSet")
HEALTH_SECONDS, JOB_SECONDS = 300.0, 1800.0


def rendered() -> list[Object]:
    """The manifests of `ci/cpu.yaml`."""
    helm = Path(sys.executable).with_name("helm")
    words = [str(helm), "template", "omnialign", str(CHART), "-n", NAMESPACE, "-f", str(CHART / "ci" / "cpu.yaml")]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """The node, with its network."""
    made = Node(tmp_path, shlex.split(os.environ.get("OMNIALIGN_IMAGES_ENGINE", "buildah")))
    made.open()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """The API server that the training service talks to."""
    fake = FakeApi(HOST)
    await fake.start()
    controllers = Controllers(fake)
    controllers.start()
    yield fake
    await controllers.stop()
    await fake.stop()


def install(node: Node, api: FakeApi, manifests: list[Object]) -> dict[str, Object]:
    """Makes the objects known, names and addresses included; returns the pods to run."""
    node.objects = {(item["kind"], item["metadata"]["name"]): item for item in manifests}
    settings = node.objects["ConfigMap", "omnialign-training-jobs"]["data"]
    reached = yaml.safe_load(settings["settings.yaml"]) | {"kubeconfig": "/etc/omnialign/kubernetes/kubeconfig"}
    settings["settings.yaml"] = yaml.safe_dump(reached)
    settings["kubeconfig"] = yaml.safe_dump(kubeconfig_of(api))
    pods = {f"{i['metadata']['name']}-0": i["spec"]["template"] for i in manifests if i["kind"] in WORKLOADS}
    addresses = {name: node.new_address() for name in pods}
    for service in (item for item in manifests if item["kind"] == "Service"):
        wanted = service["spec"]["selector"].items()
        for name, pod in pods.items():
            if wanted <= pod["metadata"]["labels"].items():
                short = service["metadata"]["name"]
                for full in (short, f"{short}.{NAMESPACE}", f"{short}.{NAMESPACE}.svc"):
                    node.names[full] = addresses[name]
    node.write_hosts()
    return {name: {**pod, "address": addresses[name]} for name, pod in pods.items()}


async def run_jobs(node: Node, api: FakeApi) -> None:
    """What a kubelet does for the pods of training Jobs, until cancelled."""
    seen: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        while True:
            for pod in api.of("pods"):
                name, subdomain = pod["metadata"]["name"], pod["spec"]["subdomain"]
                if name in seen or ("secrets", subdomain) not in api.objects:
                    continue
                seen.add(name)
                address = node.new_address()
                node.names[f"{subdomain}-{index(pod)}.{subdomain}"] = address
                node.write_hosts()
                node.objects["Secret", subdomain] = api.objects["secrets", subdomain]
                extra = {"JOB_COMPLETION_INDEX": str(index(pod))}
                started = await asyncio.to_thread(node.run, name, pod, address=address, extra=extra)
                api.change("pods", name, {"status": running()})
                tasks.create_task(follow(api, started))
            await asyncio.sleep(0.2)


async def follow(api: FakeApi, container: Container) -> None:
    """Tells the API server how a pod ended."""
    code = await asyncio.to_thread(container.process.wait)
    message = (container.folder / "termination-log").read_text()
    if ("pods", container.name) in api.objects:
        api.change("pods", container.name, {"log": container.text(), "status": ended(code, message=message)})


async def to_end(node: Node, name: str, pod: Object, *, seconds: float) -> Container:
    """Runs a pod to its end, which must be a good one."""
    container = await asyncio.to_thread(node.run, name, pod, address=node.new_address())
    async with asyncio.timeout(seconds):
        await asyncio.to_thread(container.process.wait)
    assert container.process.returncode == 0, report(node, container)
    return container


def report(node: Node, container: Container) -> str:
    """The end of every log, the one that matters last."""
    others = [other for other in node.running.values() if other is not container]
    return "\n".join(f"--- {c.name} ({c.process.poll()})\n{c.text()[-1500:]}" for c in (*others, container))


async def test_the_demo_job_runs_in_the_containers_that_the_chart_describes(node: Node, api: FakeApi) -> None:
    manifests = rendered()
    pods = install(node, api, manifests)
    for name in random.sample(sorted(pods), len(pods)):  # a cluster starts them in any order
        await asyncio.to_thread(node.run, name, pods[name], address=pods[name]["address"])
    jobs = [item for item in manifests if item["kind"] == "Job"]
    tests: dict[str, Any] = {i["metadata"]["name"]: i for i in manifests if i["kind"] == "Pod"}
    kubelet = asyncio.create_task(run_jobs(node, api))
    try:
        for job in jobs:
            await to_end(node, "migrate", job["spec"]["template"], seconds=HEALTH_SECONDS)
        await to_end(node, "health", tests["omnialign-test-health"], seconds=HEALTH_SECONDS)
        done = await to_end(node, "job", tests["omnialign-test-job"], seconds=JOB_SECONDS)
        assert "pairs:" in done.text(), done.text()
        ends = [container.process.poll() for name, container in node.running.items() if name in pods]
        assert ends == [None] * len(pods), report(node, done)
    finally:
        kubelet.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await kubelet
