"""A kubelet for tests: runs the command of each pod as a process of this machine, with folders for its volumes."""

import asyncio
import base64
import os
import signal
import sys
from pathlib import Path

from tests.processes import kill_group
from tests.services.training.kubernetes import fake_controllers as pods
from tests.services.training.kubernetes.fake_api import FakeApi, Object


class Kubelet:
    """The only node of the cluster."""

    def __init__(self, api: FakeApi, folder: Path, *, rendezvous_port: int) -> None:
        self._api, self._folder, self._port = api, folder, rendezvous_port
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self.logs: dict[str, Path] = {}

    async def __aenter__(self) -> "Kubelet":
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.cancel()
        for process in self._processes.values():
            if process.returncode is None:
                kill_group(process.pid)
        await asyncio.gather(self._loop, *self._tasks, return_exceptions=True)

    def terminate(self, name: str) -> None:
        """Tells a pod's program to end, as at an eviction."""
        self._processes[name].send_signal(signal.SIGTERM)

    async def _run(self) -> None:
        while True:
            present = {pod["metadata"]["name"]: pod for pod in self._api.of("pods")}
            for name, pod in present.items():
                if name not in self._processes and ("secrets", pod["spec"]["subdomain"]) in self._api.objects:
                    self._processes[name] = await self._start(pod)
                    task = asyncio.create_task(self._follow(name))
                    self._tasks.add(task)
            for name, process in self._processes.items():
                if name not in present and process.returncode is None:
                    process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.05)

    async def _start(self, pod: Object) -> asyncio.subprocess.Process:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        folder = self._folder / name
        mounts = {mount["mountPath"]: folder / mount["name"] for mount in container["volumeMounts"]}
        for path in mounts.values():
            path.mkdir(parents=True)
        self._mount_secrets(pod, folder)
        number = pods.index(pod)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path.cwd()),
            "JOB_COMPLETION_INDEX": str(number),
            "OMNIALIGN_POD_TERMINATION_LOG": str(folder / "termination-log"),
            "OMNIALIGN_POD_RENDEZVOUS": f"127.0.0.1:{self._port}",
            "OMNIALIGN_POD_ADDRESS": f"127.0.0.{1 + number}",
            "OMNIALIGN_POD_CPUS": "1",
        }
        for item in container["env"]:
            if "value" in item:
                environment[item["name"]] = self._placed(item["value"], mounts)
        assert container["command"][0] == "python"
        self.logs[name] = folder / "log.txt"
        with self.logs[name].open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *container["command"][1:],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._api.change("pods", name, {"status": pods.running()})
        return process

    def _mount_secrets(self, pod: Object, folder: Path) -> None:
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                for key, value in self._api.objects["secrets", volume["secret"]["secretName"]]["data"].items():
                    (folder / volume["name"] / key).write_bytes(base64.b64decode(value))

    def _placed(self, value: str, mounts: dict[str, Path]) -> str:
        for path, folder in mounts.items():
            if value == path or value.startswith(f"{path}/"):
                return f"{folder}{value.removeprefix(path)}"
        return value

    async def _follow(self, name: str) -> None:
        code = await self._processes[name].wait()
        told = self._folder / name / "termination-log"
        message = told.read_text() if told.exists() else ""
        if ("pods", name) in self._api.objects:
            log = self.logs[name].read_text(errors="replace")
            self._api.change("pods", name, {"log": log, "status": pods.ended(code, message=message)})
