"""All eight services in one process on one loopback port, and the console on another: omnialign on a laptop.

State lies under one folder: SQLite databases, Lance tables, media and models. One stack owns the folder at a
time, by a lock that the system releases when the process ends, however it ends. The model services share one engine, so
that a model is in memory once.
"""

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from omnialign.cli.state import StackState, read_state, remove_state, write_state
from omnialign.errors import FailedPrecondition
from services.alignment import __main__ as alignment
from services.alignment.__main__ import AlignmentConfig
from services.annotation import __main__ as annotation
from services.annotation.config import AnnotationConfig
from services.console import __main__ as console
from services.console.config import ConsoleConfig
from services.critique import __main__ as critique
from services.critique.__main__ import CritiqueConfig
from services.data import __main__ as data
from services.data.config import DataConfig
from services.evaluation import __main__ as evaluation
from services.evaluation.__main__ import EvaluationConfig
from services.inference.config import EngineConfig
from services.inference.factory import open_engine
from services.judge import __main__ as judge
from services.judge.__main__ import JudgeConfig
from services.refinement import __main__ as refinement
from services.refinement.__main__ import RefinementConfig
from services.runtime import logs, tracing
from services.runtime.config import ServerConfig, load
from services.runtime.connections import ClientFactory
from services.runtime.server import Server
from services.training import __main__ as training
from services.training.config import TrainingConfig

LOCK_FILE = ".lock"
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class EmbeddedStack:
    """A running stack."""

    server: Server
    root: Path
    console_address: str = ""
    """Where a browser finds the console; empty if there is none."""

    @property
    def address(self) -> str:
        """`host:port` of all services."""
        return self.server.address

    @property
    def metrics_address(self) -> str:
        """`host:port` of the Prometheus endpoint; empty when there is none."""
        return self.server.metrics_address

    async def serve_until_signal(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains."""
        await self.server.serve_until_signal()


@contextlib.asynccontextmanager
async def embedded(
    root: Path,
    *,
    port: int = 0,
    metrics_port: int | None = None,
    console_port: int | None = None,
    or_any_console_port: bool = False,
) -> AsyncIterator[EmbeddedStack]:
    """Runs the stack while the block runs. Port 0 takes a free one; without `console_port` there is no console.

    With `or_any_console_port` the console takes a free port if its own is taken.

    Raises FailedPrecondition: ROOT_IN_USE when another stack owns the folder, PORT_TAKEN when the port is not free.
    """
    with _owned(root) as folder:
        server = Server(
            ServerConfig(port=port, metrics_port=metrics_port, grace_seconds=GRACE_SECONDS), name="embedded"
        )
        address = _bound(server)
        async with AsyncExitStack() as wires:
            wires.enter_context(tracing.exported("embedded"))
            await _wire(server, folder, address, wires)
            try:
                await server.start()
                if problems := server.readiness.problems():
                    raise problems[0]  # on a laptop, waiting would not help
                server.set_serving()
                write_state(folder, StackState(address=address, process_id=os.getpid()))
                async with _console(server, address, console_port, or_any=or_any_console_port) as console_address:
                    yield EmbeddedStack(server, folder, console_address)
            finally:
                remove_state(folder)
                await server.stop(GRACE_SECONDS)


@contextlib.asynccontextmanager
async def _console(server: Server, address: str, port: int | None, *, or_any: bool) -> AsyncIterator[str]:
    """Serves the console on a port of this machine while the block runs, and gives its address."""
    if port is None:
        yield ""
        return
    config, own = replace(load(_OwnConsole), gateway_address=address), ServerConfig(port=port, grace_seconds=1.0)
    web_server = console.opened(config, own, clients=ClientFactory(), registry=server.registry, or_any=or_any)
    async with web_server as web:
        yield web.address


@dataclass(frozen=True)
class _OwnConsole(ConsoleConfig):
    """A console's settings where the address of the services is known."""

    gateway_address: str = "here"


def configure_logging(level: str) -> None:
    """Logs `level` and above to stderr and hides progress bars of libraries; for programs that host a stack."""
    logs.configure(level)
    disable_progress_bar()


async def _wire(server: Server, root: Path, address: str, wires: AsyncExitStack) -> None:
    """Adds the services; `wires` closes what they opened, in reverse order."""
    config = engine_config(root)
    engine = await wires.enter_async_context(open_engine(server, config, data_address=address))
    for wiring in (
        data.wire(server, DataConfig(root=root / "data", file_links=True)),
        refinement.wire(server, RefinementConfig(data_address=address), engine=engine),
        critique.wire(server, CritiqueConfig(data_address=address), engine=engine),
        judge.wire(server, JudgeConfig(data_address=address), engine=engine),
        training.wire(server, _training(root / "training", address, features=config.feature_cache)),
        alignment.wire(server, _alignment(root / "alignment", address)),
        evaluation.wire(server, _evaluation(root, address)),
        annotation.wire(server, _annotation(root, address)),
    ):
        await wires.enter_async_context(wiring)


def engine_config(root: Path) -> EngineConfig:
    """The engine's settings; media and policies are kept with everything else unless the environment says where.

    So policies are on the file system of the training jobs, and their weights can be linked instead of copied.
    """
    config = load(EngineConfig)

    def unless_set(setting: str, folder: Path) -> Path:
        found: Path = getattr(config, setting)
        return found if f"{config.ENV_PREFIX}{setting.upper()}" in os.environ else folder

    return replace(
        config,
        feature_cache=unless_set("feature_cache", root / "features"),
        policy_folder=unless_set("policy_folder", root / "policies"),
    )


def _training(root: Path, address: str, *, features: Path) -> TrainingConfig:
    return TrainingConfig(root=root, data_address=address, training_address=address, feature_cache=features)


def _alignment(root: Path, address: str) -> AlignmentConfig:
    return AlignmentConfig(
        root=root,
        data_address=address,
        refinement_address=address,
        critique_address=address,
        judge_address=address,
        training_address=address,
    )


def _evaluation(root: Path, address: str) -> EvaluationConfig:
    # The job kinds of a process share one workflow engine, and so its database and identity.
    beside = _alignment(root / "alignment", address)
    return EvaluationConfig(
        root=root / "evaluation",
        workflow_database_url=beside.workflows_url,
        executor_id=beside.executor_id,
        data_address=address,
        refinement_address=address,
        judge_address=address,
    )


def _annotation(root: Path, address: str) -> AnnotationConfig:
    beside = _alignment(root / "alignment", address)
    return AnnotationConfig(
        root=root / "annotation",
        workflow_database_url=beside.workflows_url,
        executor_id=beside.executor_id,
        data_address=address,
        refinement_address=address,
    )


def _bound(server: Server) -> str:
    try:
        return server.bind()
    except RuntimeError as error:
        port = server.config.port
        raise FailedPrecondition(
            f"Port {port} is taken; choose another with --port, or 0 for a free one.",
            reason="PORT_TAKEN",
            metadata={"port": str(port)},
        ) from error


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[Path]:
    """Holds the folder's lock. The file stays: removing it would let two processes lock two files of one name."""
    root = folder.expanduser().absolute()
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _in_use(root) from error
        yield root


def _in_use(root: Path) -> FailedPrecondition:
    state = read_state(root)
    owner = f"process {state.process_id} at {state.address}" if state else "another process"
    return FailedPrecondition(
        f"'{root}' is in use by {owner}; stop it, or choose another folder with --root.",
        reason="ROOT_IN_USE",
        metadata={"root": str(root), "owner": owner},
    )
