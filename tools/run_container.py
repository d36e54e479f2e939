"""Runs one container as the chart would: the image's numeric user, no capabilities, a read-only root file system.

docker does it by itself. buildah only builds, so its images are unpacked by it and started by runc or crun. The
container shares this machine's network, so that a test can ask it on loopback.
"""

import json
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STOP_SECONDS = 40
RUNTIMES = ("runc", "crun")


@dataclass(frozen=True)
class Start:
    """How to start a container; a field left empty keeps the image's own setting."""

    arguments: tuple[str, ...] = ()
    """In place of the image's own; after its entry point."""
    entrypoint: tuple[str, ...] = ()
    """In place of the image's own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the image's own."""
    writable: tuple[str, ...] = ()
    """Folders that are mounted empty and writable; /tmp always is."""


class Running:
    """A started container. `log` is everything that it has written."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, *, signal_command: Sequence[str]) -> None:
        self._process = process
        self._log = log
        self._signal_command = signal_command

    @property
    def log(self) -> str:
        """What the container has written so far, the last of it."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_seconds: float) -> int:
        """The exit code; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_seconds)

    def stop(self, signal_name: str) -> float:
        """Sends the stop signal and returns the seconds until it ended; kills it after STOP_SECONDS."""
        started = time.monotonic()
        if self.exit_code() is None:
            subprocess.run([*self._signal_command, signal_name], check=False, capture_output=True)
            try:
                self.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                subprocess.run([*self._signal_command, "KILL"], check=False, capture_output=True)
                self.wait(STOP_SECONDS)
        return time.monotonic() - started


@contextmanager
def image_of(engine: Sequence[str], reference: str) -> Iterator["Image"]:
    """An image prepared for starting containers. Raises RuntimeError if nothing here can start one."""
    if Path(engine[0]).name == "docker":
        shown = _output(*engine, "image", "inspect", "--format", "{{json .Config}}", reference)
        yield Image(json.loads(shown), reference=reference, engine=tuple(engine))
        return
    runtime = next((program for program in RUNTIMES if shutil.which(program)), None)
    if runtime is None:
        raise RuntimeError("buildah only builds; install runc or crun to start containers")
    container = _output(*engine, "from", "--pull-never", reference)
    try:
        shown = json.loads(_output(*engine, "inspect", "--type", "image", reference))
        root = _output(*engine, "mount", container)
        yield Image(shown["OCIv1"]["config"], reference=reference, runtime=runtime, root=root)
    finally:
        _output(*engine, "rm", container)


class Image:
    """An image whose containers can be started."""

    def __init__(
        self, config: dict[str, Any], *, reference: str, engine: tuple[str, ...] = (), runtime: str = "", root: str = ""
    ) -> None:
        self.config = config
        self._reference = reference
        self._engine = engine
        self._runtime = runtime
        self._root = root

    @property
    def stop_signal(self) -> str:
        """The signal that asks its containers to end."""
        return str(self.config.get("StopSignal") or "SIGTERM").removeprefix("SIG")

    @contextmanager
    def start(self, start: Start) -> Iterator[Running]:
        """A container, killed on exit if it still runs."""
        name = f"omnialign-check-{uuid.uuid4().hex[:12]}"
        with tempfile.TemporaryDirectory(prefix="omnialign-check-") as folder:
            log = Path(folder, "log")
            if self._engine:
                command = [*self._engine, *self._docker_run(start, name=name)]
                signal_command = [*self._engine, "kill", name, "--signal"]
            else:
                Path(folder, "config.json").write_text(json.dumps(self._specification(start)), encoding="utf-8")
                command = [self._runtime, "run", "--bundle", folder, name]
                signal_command = [self._runtime, "kill", name]
            with log.open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            running = Running(process, log, signal_command=signal_command)
            try:
                yield running
            finally:
                running.stop("KILL")

    def _docker_run(self, start: Start, *, name: str) -> Iterator[str]:
        yield from ("run", "--rm", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL")
        yield from ("--security-opt", "no-new-privileges")
        user = self.config["User"].partition(":")[0]
        for folder in ("/tmp", *start.writable):  # noqa: S108
            yield from ("--tmpfs", f"{folder}:exec,uid={user}")
        for variable, value in start.environment.items():
            yield from ("--env", f"{variable}={value}")
        entrypoint = start.entrypoint
        if entrypoint:
            yield from ("--entrypoint", entrypoint[0])
        yield from (self._reference, *entrypoint[1:], *start.arguments)

    def _specification(self, start: Start) -> dict[str, Any]:
        user, _, group = self.config["User"].partition(":")
        given = start.arguments or tuple(self.config.get("Cmd") or ())
        process = {
            "user": {"uid": int(user), "gid": int(group or user)},
            "args": [*(start.entrypoint or self.config["Entrypoint"]), *given],
            "env": [*self.config.get("Env", []), *(f"{k}={v}" for k, v in start.environment.items())],
            "cwd": self.config.get("WorkingDir") or "/",
            "noNewPrivileges": True,
            "capabilities": {},
        }
        return {
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": self._root, "readonly": True},
            "hostname": "check",
            "mounts": [*_SYSTEM_MOUNTS, *(_tmpfs(path, uid=user) for path in ("/tmp", *start.writable))],  # noqa: S108
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }


def _tmpfs(path: str, *, uid: str, size: str = "2g") -> dict[str, Any]:
    options = ["nosuid", "nodev", "mode=0700", f"uid={uid}", f"size={size}"]
    return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}


_SYSTEM_MOUNTS: tuple[dict[str, Any], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
    {
        "destination": "/dev/shm",  # noqa: S108
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=268435456"],
    },
)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
