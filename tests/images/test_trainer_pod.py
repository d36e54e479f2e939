"""The trainer image as a pod of a training job: the Job's own command, user, environment and mounts, under runc.

Needs the image to be built, and a runtime of containers: `OMNIALIGN_IMAGES_ENGINE` is buildah with its options.
"""

import asyncio
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import omnialign
from omnialign.v1.training_service_pb2 import TrainingJob
from tests.services.training.kubernetes.conftest import NAME, api, quick, serve_cluster, spec  # noqa: F401
from tests.services.training.kubernetes.fake_api import Object
from tests.services.training.kubernetes.fake_controllers import index, running
from tests.services.training.kubernetes.kubelet import Kubelet
from tests.services.training.kubernetes.test_real_pods import base_model, free_port, prepare  # noqa: F401
from tools.run_container import _SYSTEM_MOUNTS, image_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def root_of_image() -> Iterator[tuple[str, dict[str, Any]]]:
    """The image's file system and configuration."""
    engine = shlex.split(os.environ.get("OMNIALIGN_IMAGES_ENGINE", "buildah"))
    with image_of(engine, f"localhost/omnialign/trainer:{omnialign.__version__}") as image:
        yield image._root, image.config


class ContainerKubelet(Kubelet):
    """Runs each pod as a container on this machine's network; its volumes are folders that its user may write."""

    def __init__(self, *args: Any, image: tuple[str, dict[str, Any]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._root, self._config = image

    async def _start(self, pod: Object) -> asyncio.subprocess.Process:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        folder, user = self._folder / name, pod["spec"]["securityContext"]["runAsUser"]
        mounts = {mount["mountPath"]: folder / mount["name"] for mount in container["volumeMounts"]}
        for path in mounts.values():
            path.mkdir(parents=True)
            os.chown(path, user, user)
        self._mount_secrets(pod, folder)
        told = folder / "termination-log"
        told.touch()
        told.chmod(0o666)
        binds = {**{path: str(source) for path, source in mounts.items()}, "/dev/termination-log": str(told)}
        environment = {item["name"]: item["value"] for item in container["env"] if "value" in item}
        environment |= {"JOB_COMPLETION_INDEX": str(index(pod)), "OMNIALIGN_POD_CPUS": "2"}
        (folder / "config.json").write_text(json.dumps(self._specification(container, environment, binds, user=user)))
        self.logs[name] = folder / "log.txt"
        with self.logs[name].open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *("runc", "run", "--bundle", str(folder), name), stdout=log, stderr=log, start_new_session=True
            )
        self._api.change("pods", name, {"status": running()})
        return process

    def _specification(
        self, container: Object, environment: dict[str, str], binds: dict[str, str], *, user: int
    ) -> dict[str, Any]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and security["capabilities"]["drop"] == ["ALL"]
        own = [f"{key}={value}" for key, value in environment.items()]
        system = [mount for mount in _SYSTEM_MOUNTS if mount["destination"] not in binds]
        volumes = [
            {"destination": path, "type": "bind", "source": source, "options": ["rbind", "rw"]}
            for path, source in binds.items()
        ]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": user},
                "args": container["command"],
                "env": [*self._config["Env"], *own],
                "cwd": "/",
                "noNewPrivileges": True,
                "capabilities": {},
            },
            "root": {"path": self._root, "readonly": True},
            "hostname": "trainer",
            "mounts": [*system, *volumes],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }


async def test_a_pod_of_the_image_trains_on_two_ranks_and_delivers(
    serve_cluster: Any,  # noqa: F811
    api: Any,  # noqa: F811
    tmp_path: Path,
    root_of_image: tuple[str, dict[str, Any]],
) -> None:
    port = free_port()
    async with (
        serve_cluster() as cluster,
        ContainerKubelet(api, tmp_path / "node", rendezvous_port=port, image=root_of_image) as kubelet,
    ):
        await prepare(cluster, nodes=1, processes=2)
        await cluster.create()
        job = [event async for event in cluster.client.watch_training_job(NAME)][-1].training_job
        logs = "\n".join(path.read_text() for path in kubelet.logs.values())
        assert job.state == TrainingJob.STATE_SUCCEEDED, f"{job}\n{logs}"
        assert job.progress.completed_steps == 4
        assert "compil" not in logs.lower(), logs
