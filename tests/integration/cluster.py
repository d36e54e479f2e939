"""The services as processes of their own, as they run in a cluster: TLS both ways, tokens, PostgreSQL and S3.

Only Kubernetes itself is missing: training runs as local processes, and each process has its environment from here
instead of from the chart.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.migrate import VARIABLES, WORKFLOWS
from tests.processes import REPOSITORY, free_port, kill_group

START_SECONDS = 120.0
SERVICES = ("data", "training", "pool", "alignment-0", "alignment-1", "evaluation", "annotation", "gateway")
HEALTH = {
    "data": "omnialign.v1.DataService",
    "training": "omnialign.v1.TrainingService",
    "pool": "omnialign.v1.JudgeService",
    "refinement": "omnialign.v1.RefinementService",
    "judge": "omnialign.v1.JudgeService",
    "alignment-0": "omnialign.v1.AlignmentService",
    "alignment-1": "omnialign.v1.AlignmentService",
    "evaluation": "omnialign.v1.EvaluationService",
    "annotation": "omnialign.v1.AnnotationService",
    "gateway": "omnialign.Gateway",
    "console": "omnialign.Console",
}


@dataclass(frozen=True)
class Ports:
    """The ports of one process."""

    grpc: int = field(default_factory=free_port)
    health: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        """The address of its services."""
        return f"127.0.0.1:{self.grpc}"


@dataclass
class Cluster:
    """All processes. `common` is the environment that all of them share: TLS, tokens, credentials of the stores."""

    folder: Path
    database_url: str
    objects: Mapping[str, str]
    """The settings of the object store, without their prefix `OMNIALIGN_DATA_`."""
    common: Mapping[str, str]
    names: Sequence[str] = SERVICES
    ports: dict[str, Ports] = field(default_factory=lambda: {name: Ports() for name in SERVICES})
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The address that people call."""
        return self.ports["gateway"].address

    async def start(self) -> None:
        """Migrates the database and starts everything; returns once all services are ready."""
        await asyncio.to_thread(self.migrate)
        for name in self.names:
            self.spawn(name)
        await asyncio.gather(*(self.ready(name) for name in self.names))

    def migrate(self) -> None:
        """Runs the migrations, as the hook of the chart does."""
        urls = dict.fromkeys((*VARIABLES, *WORKFLOWS), self.database_url)
        subprocess.run(
            [sys.executable, "-m", "services.migrate"], cwd=REPOSITORY, env=self._base() | urls, check=True, timeout=120
        )

    def spawn(self, name: str) -> None:
        """Starts one process; its log is `NAME.log` in the folder."""
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [self.python(name), "-m", self.module(name)],
                cwd=REPOSITORY,
                env=self._common(name) | self._server(name) | self._settings(name),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def python(self, name: str) -> str:
        """The interpreter that runs a process."""
        return sys.executable

    def module(self, name: str) -> str:
        """The module that a process runs."""
        return f"services.{name.partition('-')[0]}"

    async def ready(self, name: str) -> None:
        """Waits until a process serves."""
        async with asyncio.timeout(START_SECONDS), grpc.aio.insecure_channel(self.health(name)) as channel:
            request = health_pb2.HealthCheckRequest(service=HEALTH[name])
            while True:
                assert self.processes[name].poll() is None, self.log(name).read_text()[-4000:]
                try:
                    watch = health_pb2_grpc.HealthStub(channel).Watch(request)
                    async for answer in watch:
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)  # it does not listen yet

    def kill(self, name: str) -> None:
        """Sends SIGKILL to one process."""
        process = self.processes.pop(name)
        kill_group(process.pid)
        process.wait(10)

    def end(self, name: str) -> None:
        """Sends SIGTERM to one process, and waits for it to end."""
        process = self.processes.pop(name)
        process.terminate()
        process.wait(30)

    def stop(self) -> None:
        """Sends SIGTERM to all, and SIGKILL to any that does not end."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                kill_group(process.pid)
                process.wait(10)
        self.processes.clear()

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.folder / f"{name}.log"

    def _base(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
        return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | dict(self.common)

    def _common(self, name: str) -> dict[str, str]:
        """Settings of every process; the gateway, though, asks its callers for neither a certificate nor a token."""
        common = self._base()
        if name != "gateway":
            return common
        return {key: value for key, value in common.items() if "_AUTH_" not in key and "CLIENT_CA" not in key}

    def _server(self, name: str) -> dict[str, str]:
        ports = self.ports[name]
        return {
            "OMNIALIGN_SERVER_PORT": str(ports.grpc),
            "OMNIALIGN_SERVER_HEALTH_PORT": str(ports.health),
            "OMNIALIGN_SERVER_METRICS_PORT": str(ports.metrics),
            "OMNIALIGN_SERVER_REFLECTION": "false",
            "OMNIALIGN_SERVER_GRACE_SECONDS": "5",
        }

    def _settings(self, name: str) -> dict[str, str]:
        root = self.folder / name
        root.mkdir(parents=True, exist_ok=True)
        data, pool = self.ports["data"].address, self.ports["pool"].address
        training, alignment = self.ports["training"].address, self.ports["alignment-0"].address
        evaluation, annotation = self.ports["evaluation"].address, self.ports["annotation"].address
        models = {"REFINEMENT_ADDRESS": pool, "CRITIQUE_ADDRESS": pool, "JUDGE_ADDRESS": pool}
        peers = {"DATA_ADDRESS": data, "TRAINING_ADDRESS": training, **models}
        own: dict[str, dict[str, str]] = {
            "data": {"ROOT": str(root), "DATABASE_URL": self.database_url, **self.objects},
            "training": {
                "ROOT": str(root),
                "DATABASE_URL": self.database_url,
                "DATA_ADDRESS": data,
                "TRAINING_ADDRESS": training,
            },
            "alignment": {
                "ROOT": str(root),
                "DATABASE_URL": self.database_url,
                "WORKFLOW_DATABASE_URL": self.database_url,
                "EXECUTOR_ID": name,
                "HEARTBEAT_SECONDS": "1",
                "SILENCE_SECONDS": "5",
                "CHUNKS_PER_JOB": "4",
                **peers,
            },
            "evaluation": {
                "ROOT": str(root),
                "DATABASE_URL": self.database_url,
                "WORKFLOW_DATABASE_URL": self.database_url,
                "DATA_ADDRESS": data,
                "REFINEMENT_ADDRESS": pool,
                "JUDGE_ADDRESS": pool,
            },
            "annotation": {
                "ROOT": str(root),
                "DATABASE_URL": self.database_url,
                "WORKFLOW_DATABASE_URL": self.database_url,
                "DATA_ADDRESS": data,
                "REFINEMENT_ADDRESS": pool,
            },
            "gateway": {
                "ALIGNMENT_ADDRESS": alignment,
                "EVALUATION_ADDRESS": evaluation,
                "ANNOTATION_ADDRESS": annotation,
                **peers,
            },
        }
        if name == "pool":
            hosted = ("critique", "refinement", "judge")
            cache = {"OMNIALIGN_ENGINE_MODEL_CACHE": str(root / "models"), "OMNIALIGN_POOL_SERVICES": ",".join(hosted)}
            return cache | {f"OMNIALIGN_{service.upper()}_DATA_ADDRESS": data for service in hosted}
        module = name.partition("-")[0]
        return {f"OMNIALIGN_{module.upper()}_{key}": value for key, value in own[module].items()}

    def health(self, name: str) -> str:
        """The address of a process's health checks."""
        return f"127.0.0.1:{self.ports[name].health}"
