"""Registering LoRAs: with their base, which must be there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnialign.client import AsyncClient
from omnialign.errors import OmnialignError
from tests.services.data.test_models import model


def lora(folder: Path, base: Any, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": base, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {"a": np.zeros((2, 5), np.float32), "b": np.zeros((3, 2), np.float32)}, folder / "adapter_model.safetensors"
    )
    return folder


async def refusal(client: AsyncClient, folder: Path) -> str:
    with pytest.raises(OmnialignError) as caught:
        await client.register_model("lora", str(folder))
    return caught.value.reason


@pytest.mark.parametrize("uploaded", [False, True])
async def test_a_lora_becomes_a_version_that_is_made_from_its_base(
    client: AsyncClient, tmp_path: Path, uploaded: bool
) -> None:
    base = await client.register_model("base", str(model(tmp_path / "base")))
    folder = lora(tmp_path / "lora", base.name)
    uri = await client.upload_files(folder) if uploaded else str(folder)
    source = "projects/default/trainingJobs/t"
    version = await client.register_model("lora", uri, sources=[source, base.name])
    assert (version.lora_base, version.parameter_count) == (base.name, 16)
    assert version.size_bytes == (folder / "adapter_model.safetensors").stat().st_size
    assert (await client.get_model_version(version.name)).lora_base == base.name
    assert base.lora_base == ""
    assert list(version.writes) == list(base.writes) != []
    edges = (await client.get_lineage(version.name)).edges
    assert {(edge.source, edge.relation) for edge in edges} == {(source, "made_from"), (base.name, "made_from")}


async def test_a_lora_whose_base_cannot_be_is_refused(client: AsyncClient, tmp_path: Path) -> None:
    base = await client.register_model("base", str(model(tmp_path / "base")))
    first = await client.register_model("first", str(lora(tmp_path / "first", base.name)))
    for number, (named, reason) in enumerate(
        [
            ("org/name", "BASE_MODEL_INVALID"),
            (None, "BASE_MODEL_INVALID"),
            (str(tmp_path / "base"), "BASE_MODEL_NOT_IN_PROJECT"),
            ((tmp_path / "base").as_uri(), "BASE_MODEL_NOT_IN_PROJECT"),
            (base.name.replace("default", "other"), "BASE_MODEL_NOT_IN_PROJECT"),
            (base.name.replace("versions/1", "versions/2"), "MODEL_VERSION_NOT_FOUND"),
            (first.name, "LORA_OF_LORA"),
        ]
    ):
        assert await refusal(client, lora(tmp_path / str(number), named)) == reason


async def test_what_is_no_plain_lora_is_refused_with_its_reason(client: AsyncClient, tmp_path: Path) -> None:
    base = await client.register_model("base", str(model(tmp_path / "base")))
    folder = lora(tmp_path / "lora", base.name, use_dora=True)
    assert await refusal(client, folder) == "LORA_UNSUPPORTED"
    (folder / "adapter_config.json").write_text("[]")
    assert await refusal(client, folder) == "LORA_CONFIG_INVALID"
    (folder / "adapter_model.bin").write_bytes(b"x")
    assert await refusal(client, folder) == "MODEL_HAS_PICKLE"
    (folder / "adapter_model.bin").unlink()
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2} | {"base_model_name_or_path": base.name})
    )
    assert await refusal(client, folder) == "MODEL_WEIGHTS_MISSING"


async def test_the_base_of_a_lora_is_deleted_only_by_force(client: AsyncClient, tmp_path: Path) -> None:
    base = await client.register_model("base", str(model(tmp_path / "base")))
    version = await client.register_model("lora", str(lora(tmp_path / "lora", base.name)))
    with pytest.raises(OmnialignError) as caught:
        await client.delete_model_version(base.name)
    assert (caught.value.reason, caught.value.metadata["dependents"]) == ("HAS_DEPENDENTS", version.name)
    await client.delete_model_version(base.name, force=True)
    await client.delete_model_version(version.name)
