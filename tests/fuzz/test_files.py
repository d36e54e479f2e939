"""Mutated media, rows, tables and model folders reach a running service: no crash, no INTERNAL, no hang."""

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from examples.tinyworld import recipe
from examples.tinyworld.dataset import SCHEMAS
from omnialign.client import AsyncClient
from omnialign.modeling.decoding import decode
from omnialign.modeling.inputs import MediaBytes, MediaPolicy
from omnialign.v1 import content_pb2
from tests.fuzz.campaign import SECONDS, Campaign
from tests.fuzz.mutations import mutated_bytes, mutated_value

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(SECONDS * 4 + 120)]

MODALITIES = (content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO)
DAMAGED = MediaPolicy(use_damaged=True, max_frames=4, max_audio_seconds=1.0)
MODEL = Path(recipe.__file__).parent / "model"
SUBTASKS = {schema.folder: subtask for subtask, schema in SCHEMAS.items()}
SETTINGS = ("config.json", "codecs.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


async def test_media(client: AsyncClient, media_files: list[tuple[int, bytes]]) -> None:
    """What is accepted must decode for models, too."""
    others = [data for _, data in media_files]

    def make(draw: random.Random) -> tuple[int, bytes]:
        modality, data = draw.choice(media_files)
        return modality, mutated_bytes(data, others, draw)

    async def run(given: tuple[int, bytes]) -> None:
        modality, data = given
        accepted = await client.upload_media(data, modality=modality)
        decode(MediaBytes(accepted.modality, data), DAMAGED)

    campaign = await Campaign("media").run(make, run)
    assert campaign.outcomes[""], "no mutation left a file whole: the campaign tries nothing"


async def test_rows(client: AsyncClient, rows: dict[Path, list[Any]]) -> None:
    """Any failure of a row is that row's: the row beside it is imported."""

    def make(draw: random.Random) -> tuple[Path, list[Any]]:
        path = draw.choice(list(rows))
        return path, [mutated_value(draw.choice(rows[path]), draw), draw.choice(rows[path])]

    async def run(given: tuple[Path, list[Any]]) -> None:
        path, changed = given
        target = path.with_name("fuzz.jsonl")
        target.write_text("".join(json.dumps(row) + "\n" for row in changed))
        await imported(client, target, path.parent.name)

    await Campaign("rows").run(make, run)


async def test_tables(client: AsyncClient, rows: dict[Path, list[Any]], tmp_path: Path) -> None:
    """Bytes of a data file that are no table, or one that lies about itself."""
    texts = [json.dumps(found).encode() for found in rows.values()]
    table = next(path for path in rows if path.suffix == ".parquet")
    seeds = {"jsonl": texts, "json": texts, "parquet": [table.read_bytes()]}

    def make(draw: random.Random) -> tuple[str, bytes]:
        kind = draw.choice(sorted(seeds))
        return kind, mutated_bytes(draw.choice(seeds[kind]), texts, draw)

    async def run(given: tuple[str, bytes]) -> None:
        target = tmp_path / f"fuzz.{given[0]}"
        target.write_bytes(given[1])
        await imported(client, target, "t2t")

    await Campaign("tables").run(make, run)


async def imported(client: AsyncClient, source: Path, subtask: str) -> None:
    """Imports a file and removes it."""
    try:
        async for _ in client.import_dataset("fuzz", source.as_uri(), subtask=SUBTASKS.get(subtask, subtask)):
            pass
    finally:
        await asyncio.to_thread(source.unlink)


async def test_model_folders(client: AsyncClient, tmp_path: Path) -> None:
    """Registration takes a first look at everything in the folder."""
    files = {name: (MODEL / name).read_bytes() for name in SETTINGS if (MODEL / name).is_file()}
    weights = (MODEL / "model.safetensors").read_bytes()
    header = int.from_bytes(weights[:8], "little")

    def make(draw: random.Random) -> tuple[str, bytes]:
        name = draw.choice([*files, "model.safetensors"])
        if name == "model.safetensors":
            return name, mutated_bytes(weights[: 8 + header], list(files.values()), draw) + weights[8 + header :]
        if draw.random() < 0.7:
            return name, json.dumps(mutated_value(json.loads(files[name]), draw)).encode("utf-8", "replace")
        return name, mutated_bytes(files[name], list(files.values()), draw)

    async def run(given: tuple[str, bytes]) -> None:
        folder = tmp_path / "model"
        shutil.copytree(MODEL, folder)
        (folder / given[0]).write_bytes(given[1])
        try:
            await client.register_model("fuzz", folder.as_uri())
        finally:
            shutil.rmtree(folder)

    await Campaign("model-folders").run(make, run)
