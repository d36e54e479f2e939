"""Hosts any of the critique, refinement and judge services in one process, on one engine.

On one GPU they share memory, so that each model is loaded once; a large cluster can give each service its own pods.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from services.critique import __main__ as critique
from services.inference.config import EngineConfig
from services.inference.factory import open_engine
from services.judge import __main__ as judge
from services.refinement import __main__ as refinement
from services.runtime.config import load_all
from services.runtime.server import Server, run

HOSTED: dict[str, tuple[Any, Any]] = {
    "critique": (critique.wire, critique.CritiqueConfig),
    "refinement": (refinement.wire, refinement.RefinementConfig),
    "judge": (judge.wire, judge.JudgeConfig),
}


@dataclass(frozen=True)
class PoolConfig:
    """Which services are hosted."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_POOL_"

    services: tuple[Literal["critique", "refinement", "judge"], ...]
    """The services of this process, separated by commas."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """A service named twice, or none."""
        if not self.services or len(set(self.services)) != len(self.services):
            yield "services", "must name at least one service, each once"


@asynccontextmanager
async def wire(server: Server, config: PoolConfig) -> AsyncIterator[None]:
    """Adds the services to a server, on one engine."""
    hosted = [HOSTED[name] for name in config.services]
    engine_config, *configs = load_all(EngineConfig, *(cls for _, cls in hosted))
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            open_engine(server, engine_config, data_address=configs[0].data_address)
        )
        for (wire_service, _), service_config in zip(hosted, configs, strict=True):
            await stack.enter_async_context(wire_service(server, service_config, engine=engine))
        yield


def main() -> None:
    """Runs the pool until SIGTERM."""
    run("pool", PoolConfig, wire)


if __name__ == "__main__":
    main()
