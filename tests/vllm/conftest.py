"""Tests on real vLLM, for the environment of `make test-vllm`; elsewhere there is nothing to collect here."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.inference.config import EngineConfig
from tests.services.inference import model_factory

HAVE_VLLM = importlib.util.find_spec("vllm") is not None
collect_ignore_glob = [] if HAVE_VLLM else ["test_*.py"]
TINY_WORLD = f"file://{Path(__file__).parents[2] / 'examples' / 'tinyworld' / 'model'}"
CACHE_BYTES = 128 << 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is marked, and waits for engines that start in half a minute."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model with a context of 512 tokens, whose answers seldom end; heads as vLLM's kernels want them."""
    folder = tmp_path_factory.mktemp("models") / "random"
    return model_factory.random_model(folder, hidden_size=64, num_attention_heads=2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[object]:
    """One engine for the tests of a module; a model is started by the first that asks for it."""
    from services.inference.vllm.engine import open_vllm_engine

    async with open_vllm_engine(EngineConfig(cache_budget_bytes=CACHE_BYTES)) as engine:
        yield engine


@pytest.fixture
def folder_of() -> object:
    """The folder of a `file://` model."""
    return lambda name: Path(name.removeprefix("file://"))
