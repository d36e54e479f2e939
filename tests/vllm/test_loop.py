"""The whole tiny-world loop with vLLM as the engine: pairs are made, a model is trained, and it has learnt."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.processes import REPOSITORY
from tests.vllm.cluster import PYTHON, vllm_cluster
from tests.vllm.shown import record

MEDIA = ("image", "audio", "video")
"""What the model of the demo, a language model with codecs, reads and writes in its eight subtasks."""
LEAST_GAIN = 0.25
"""Of the whole demo, as in the integration test on the transformers engine."""


async def demo(folder: Path) -> dict[str, Any]:
    """The report of the demo on a cluster whose models run on vLLM."""
    out, cluster = folder / "out", vllm_cluster(folder)
    try:
        await cluster.start()
        with (folder / "demo.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(str(PYTHON), "-m", "omnialign.cli.main", "demo", "--seed", "0"),
                *("--out", str(out), "--address", cluster.address),
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            assert await process.wait() == 0, (folder / "demo.log").read_text()[-4000:]
        assert "ENGINE_DIED" not in cluster.log("pool").read_text()
        report: dict[str, Any] = json.loads((out / "report.json").read_text())
        return report
    finally:
        cluster.stop()


@pytest.mark.slow
@pytest.mark.timeout(2700)
async def test_the_demo_gains_with_models_on_vllm(tmp_path: Path) -> None:
    report = await demo(tmp_path)
    assert report["mean"]["gain"] >= LEAST_GAIN
    assert all(subtask["gain"] > 0 for subtask in report["subtasks"].values())
    record("anygpt", reads=MEDIA, writes=MEDIA)
