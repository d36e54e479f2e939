"""lmms-eval, as it comes from PyPI, evaluates a model through the door, on a task of tiny-world pictures."""

import asyncio
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from examples.tinyworld.faults import prompt_pieces
from examples.tinyworld.language import phrase, random_task
from omnialign.client import AsyncClient
from tests.processes import REPOSITORY
from tests.services.console.door.serving import omnialign_up

PYTHON = REPOSITORY / ".venv-lmms" / "bin" / "python"
pytestmark = [
    pytest.mark.lmms,
    pytest.mark.skipif(not PYTHON.exists(), reason="lmms-eval is not installed: `make test-openai` does it"),
]
ITEMS = 12
TASK = """
task: tinyworld_pictures
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{rows}"}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function tinyworld_pictures_utils.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 60, temperature: 0, seed: 1}}
process_results: !function tinyworld_pictures_utils.results
metric_list: [{{metric: named, aggregation: mean, higher_is_better: true}}]
"""
FUNCTIONS = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def results(doc, results):
    return {"named": float(doc["answer"] in results[0])}
"""


def write_task(folder: Path) -> list[tuple[Path, str, str]]:
    """A task of pictures to name; gives (picture, question, what is right) of its items."""
    draw, rows = random.Random(5), []
    for index in range(ITEMS):
        task = random_task(draw, "ti2t")
        picture, question = prompt_pieces(task)
        path = folder / f"{index}.png"
        path.write_bytes(picture.data)
        rows.append((path, question, phrase(task.wanted)))
    keys = ("image", "question", "answer")
    lines = [json.dumps(dict(zip(keys, map(str, row), strict=True))) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "tinyworld_pictures.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    (folder / "tinyworld_pictures_utils.py").write_text(FUNCTIONS)
    return rows


async def run(folder: Path, url: str) -> None:
    """Evaluates the model `tiny` behind a door, with the answers written into a folder."""
    words = [PYTHON, "-m", "lmms_eval", "--model", "openai", "--tasks", "tinyworld_pictures", "--batch_size", "1"]
    words += ["--model_args", f"model_version=tiny,base_url={url},api_key=none,timeout=120,num_concurrent=4"]
    words += ["--include_path", folder, "--output_path", folder / "out", "--log_samples"]
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    process = await asyncio.create_subprocess_exec(
        *map(str, words), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-3000:]


async def test_lmms_eval_gets_the_answers_of_our_own_client_and_counts_the_right_ones(tmp_path):
    rows = write_task(tmp_path)
    with omnialign_up(tmp_path / "stack", "--console-port", "0") as (address, url):
        await run(tmp_path, url)
        async with AsyncClient(address) as client:
            asked = [client.generate("tiny", [path, question], max_new_tokens=60, seed=1) for path, question, _ in rows]
            direct = [answer.text for answer in await asyncio.gather(*asked)]
    (samples,) = (tmp_path / "out").rglob("*samples*.jsonl")
    found = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"] for sample in found] == direct
    (report,) = (tmp_path / "out").rglob("*results.json")
    score = json.loads(report.read_text())["results"]["tinyworld_pictures"]["named,none"]
    assert score == sum(answer in text for (_, _, answer), text in zip(rows, direct, strict=True)) / ITEMS
