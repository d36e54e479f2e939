"""Models and engines for the tests of the inference plane."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.inference.config import EngineConfig
from services.inference.transformers.engine import TransformersEngine, open_transformers_engine
from tests.services.inference import model_factory
from tests.services.inference.stub_endpoint import Stub, serve_stub


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model with a context of 512 tokens."""
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another of the same size."""
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture
async def engine() -> AsyncIterator[TransformersEngine]:
    """An engine with default settings on one CPU thread."""
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        yield engine


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    """An OpenAI-compatible endpoint that says the last words of the prompt."""
    async with serve_stub() as stub:
        yield stub


@pytest.fixture
def folder_of() -> object:
    """The folder of a `file://` model."""
    return lambda name: Path(name.removeprefix("file://"))
