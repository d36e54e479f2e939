"""What each image must do, tried in a container with a read-only root and the image's own numeric user.

The services answer their health checks, PostgreSQL a query, the S3 server an upload, the trainer runs DeepSpeed's
compiled operations; and no image holds a compiler or pip. Called by tools/build_images.py.
"""

import contextlib
import io
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tools.run_container import Image, Running, Start, image_of

START_SECONDS = 120
NO_TOOLS = """
import shutil
found = [name for name in ("gcc", "cc", "g++", "c++", "as", "ld", "make", "pip", "git", "curl") if shutil.which(name)]
raise SystemExit(f"found {', '.join(found)}" if found else 0)
"""
OPERATIONS = """
import os
os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "%s"}
import deepspeed, torch, torch.distributed
deepspeed.init_distributed(dist_backend="gloo", verbose=False)
from deepspeed.ops.op_builder import all_ops
builder = all_ops.__dict__["ALL_OPS"]["deepspeed_shm_comm"]
assert builder.load().__name__ == builder.absolute_name(), "compiled at run time"
total = torch.ones(4)
deepspeed.comm.all_reduce(total)
import training.runner, trl, transformers
print("operations are compiled in")
"""
MIGRATION = """
import os, runpy
for service in ("DATA", "TRAINING", "ALIGNMENT", "EVALUATION", "ANNOTATION"):
    os.environ[f"OMNIALIGN_{service}_DATABASE_URL"] = f"sqlite:////tmp/{service}.db"
runpy.run_module("services.migrate", run_name="__main__", alter_sys=True)
"""

Ask = Callable[[Running, Mapping[str, int]], None]


@dataclass(frozen=True)
class Check:
    """One container, and what it must do."""

    title: str
    start: Callable[[Mapping[str, int]], Start]
    """How to start it, given free ports by name."""
    ask: Ask
    """Returns once the container has done its job; raises an Exception that says what it did not do."""
    ports: tuple[str, ...] = ()


def check_image(engine: Sequence[str], reference: str, checks: Sequence[Check]) -> Iterator[tuple[str, str]]:
    """Runs the checks of an image; yields (what was checked, what is wrong or empty)."""
    try:
        with image_of(engine, reference) as image:
            user = image.config.get("User", "")
            numeric = user.replace(":", "").isdigit() and not user.startswith("0")
            yield f"runs as {user}", "" if numeric else "is not a numeric user other than root"
            for check in (*COMMON, *checks):
                yield check.title, _problem(image, check)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        yield "starts", str(error)


def _problem(image: Image, check: Check) -> str:
    ports = {name: free_port() for name in check.ports}
    with image.start(check.start(ports)) as running:
        try:
            check.ask(running, ports)
        except Exception as error:
            return f"{error}\n{running.log}"
        seconds = running.stop(image.stop_signal)
        if running.exit_code() != 0:
            return f"ended with {running.exit_code()}, {seconds:.0f} s after {image.stop_signal}\n{running.log}"
    return ""


def _serving(*services: str) -> Ask:
    """Waits until the health check on port `health` says SERVING for each of the services."""

    def ask(running: Running, ports: Mapping[str, int]) -> None:
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        def attempt() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{ports['health']}") as channel:
                for service in services:
                    request = health_pb2.HealthCheckRequest(service=service)
                    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
                    if answer.status != health_pb2.HealthCheckResponse.SERVING:
                        raise RuntimeError(f"{service} is not serving")

        _until(attempt, running)

    return ask


def _ends_well(running: Running, ports: Mapping[str, int]) -> None:
    del ports
    if code := running.wait(START_SECONDS):
        raise RuntimeError(f"ended with {code}")


def _answers_queries(running: Running, ports: Mapping[str, int]) -> None:
    import psycopg

    url = f"postgresql://omnialign:check-word@127.0.0.1:{ports['sql']}/omnialign?sslmode=disable&connect_timeout=5"

    def attempt() -> None:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS tried (at timestamptz)")

    _until(attempt, running)


def _stores_objects(running: Running, ports: Mapping[str, int]) -> None:
    from minio import Minio

    client = Minio(f"127.0.0.1:{ports['s3']}", access_key="check", secret_key="check-secret", secure=False)  # noqa: S106

    def attempt() -> None:
        if not client.bucket_exists("omnialign"):
            raise RuntimeError("the bucket is not there")

    _until(attempt, running)
    client.put_object("omnialign", "tried", io.BytesIO(b"bytes"), 5)
    if client.get_object("omnialign", "tried").data != b"bytes":
        raise RuntimeError("an object came back changed")


def _until(attempt: Callable[[], None], running: Running) -> None:
    """Repeats until it succeeds, the container has ended, or START_SECONDS are over."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return attempt()
        except Exception as error:
            if running.exit_code() is not None:
                raise RuntimeError(f"ended with {running.exit_code()}") from error
            if time.monotonic() > deadline:
                raise
        time.sleep(0.3)


def free_port() -> int:
    """A free port below those that the system hands out by itself; SeaweedFS also takes the one 10,000 above."""
    while True:
        port = random.randrange(20000, 30000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _service(module: str, *health_names: str, **environment: str) -> Check:
    """The check of one service program, whose health check lists these names."""

    def start(ports: Mapping[str, int]) -> Start:
        listening = {
            "OMNIALIGN_SERVER_HOST": "127.0.0.1",
            "OMNIALIGN_SERVER_PORT": "0",
            "OMNIALIGN_SERVER_HEALTH_PORT": str(ports["health"]),
        }
        return Start((module,), environment=listening | environment, writable=("/var/lib/omnialign",))

    return Check(f"{module} answers its health check", start, _serving(*health_names), ports=("health",))


def _peers(prefix: str, *names: str) -> dict[str, str]:
    """Addresses where nothing listens: a service is ready without its peers."""
    return {f"OMNIALIGN_{prefix}{name}_ADDRESS": "127.0.0.1:1" for name in names}


def _program(title: str, *arguments: str, ports: tuple[str, ...] = ()) -> Check:
    """The check that `python ARGUMENTS` ends well; %s in one of them is the first port."""

    def start(given: Mapping[str, int]) -> Start:
        filled = tuple(text % tuple(given.values()) if given and "%s" in text else text for text in arguments)
        return Start(filled, entrypoint=("python",))

    return Check(title, start, _ends_well, ports=ports)


_ALL = ("DATA", "CRITIQUE", "REFINEMENT", "JUDGE", "TRAINING")
COMMON = (_program("has no compiler, pip or git inside", "-c", NO_TOOLS),)
CHECKS: dict[str, tuple[Check, ...]] = {
    "service": (
        _service("services.data", "omnialign.v1.DataService", OMNIALIGN_DATA_ROOT="/var/lib/omnialign"),
        _service(
            "services.training",
            "omnialign.v1.TrainingService",
            OMNIALIGN_TRAINING_ROOT="/var/lib/omnialign",
            **_peers("TRAINING_", "DATA"),
        ),
        _service(
            "services.alignment",
            "omnialign.v1.AlignmentService",
            OMNIALIGN_ALIGNMENT_ROOT="/var/lib/omnialign",
            **_peers("ALIGNMENT_", *_ALL),
        ),
        _service(
            "services.evaluation",
            "omnialign.v1.EvaluationService",
            OMNIALIGN_EVALUATION_ROOT="/var/lib/omnialign",
            **_peers("EVALUATION_", "DATA", "REFINEMENT", "JUDGE"),
        ),
        _service(
            "services.annotation",
            "omnialign.v1.AnnotationService",
            OMNIALIGN_ANNOTATION_ROOT="/var/lib/omnialign",
            **_peers("ANNOTATION_", "DATA", "REFINEMENT"),
        ),
        _service(
            "services.gateway",
            "omnialign.Gateway",
            **_peers("GATEWAY_", *_ALL, "ALIGNMENT", "EVALUATION", "ANNOTATION"),
        ),
        _program("makes tables", "-c", MIGRATION),
        _program("has the command line", "-m", "omnialign.cli.main", "--version"),
    ),
    "inference": (
        _service(
            "services.pool",
            "omnialign.v1.CritiqueService",
            "omnialign.v1.RefinementService",
            "omnialign.v1.PolicyService",
            "omnialign.v1.JudgeService",
            OMNIALIGN_POOL_SERVICES="critique,refinement,judge",
            **_peers("", "CRITIQUE_DATA", "REFINEMENT_DATA", "JUDGE_DATA"),
        ),
    ),
    "trainer": (_program("runs DeepSpeed's operations without a compiler", "-c", OPERATIONS, ports=("rendezvous",)),),
    "evaluation": (
        Check(
            "evaluation.postgres answers a query",
            lambda ports: Start(
                ("evaluation.postgres",),
                environment={"POSTGRES_PASSWORD": "check-word", "POSTGRES_PORT": str(ports["sql"])},
                writable=("/var/lib/postgresql",),
            ),
            _answers_queries,
            ports=("sql",),
        ),
        Check(
            "evaluation.s3 stores an object",
            lambda ports: Start(
                ("evaluation.s3",),
                environment={
                    "AWS_ACCESS_KEY_ID": "check",
                    "AWS_SECRET_ACCESS_KEY": "check-secret",
                    **{f"S3_{name}PORT": str(ports[f"s3{name}"]) for name in ("", "MASTER_", "FILER_", "VOLUME_")},
                },
                writable=("/var/lib/seaweedfs",),
            ),
            _stores_objects,
            ports=("s3", "s3MASTER_", "s3FILER_", "s3VOLUME_"),
        ),
    ),
}
