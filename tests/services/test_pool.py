"""One process that hosts any of the model services on one engine."""

import importlib.util
import subprocess
import sys

import pytest

from services import pool
from services.runtime.config import ConfigError, ServerConfig, load
from services.runtime.server import Server

NOWHERE = "127.0.0.1:1"


async def test_a_pool_serves_what_it_is_told_to_and_nothing_else(monkeypatch):
    for name in ("critique", "judge"):
        monkeypatch.setenv(f"OMNIALIGN_{name.upper()}_DATA_ADDRESS", NOWHERE)
    server = Server(ServerConfig(), name="pool")
    async with pool.wire(server, pool.PoolConfig(services=("critique", "judge"))):
        await server.start()
        server.set_serving()
        assert server._names == ["omnialign.v1.CritiqueService", "omnialign.v1.JudgeService"]
        await server.stop(0)


@pytest.mark.parametrize("named", ["", "critique,critique", "critique,poet"])
def test_a_pool_of_nothing_of_twice_the_same_or_of_strangers_is_refused(named):
    with pytest.raises(ConfigError, match="OMNIALIGN_POOL_SERVICES"):
        load(pool.PoolConfig, {"OMNIALIGN_POOL_SERVICES": named})


def test_a_missing_setting_of_a_hosted_service_ends_the_process_with_a_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "services.pool"],
        env={"OMNIALIGN_POOL_SERVICES": "critique"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert "OMNIALIGN_CRITIQUE_DATA_ADDRESS: is required and not set" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_an_engine_that_is_not_installed_ends_the_process_with_a_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "services.pool"],
        env={
            "OMNIALIGN_POOL_SERVICES": "critique",
            "OMNIALIGN_CRITIQUE_DATA_ADDRESS": NOWHERE,
            "OMNIALIGN_ENGINE_KIND": "vllm",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert "OMNIALIGN_ENGINE_KIND: is vllm, which is not installed here; use the image" in done.stderr
    assert "Traceback" not in done.stderr
