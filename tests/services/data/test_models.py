"""The model registry over gRPC, on real safetensors files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound, PermissionDenied
from omnialign.v1 import content_pb2
from services.data import models


def model(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tensor = np.random.default_rng(seed).random((3, 5), dtype=np.float32)
    save_file({"a": tensor, "b": np.zeros(7, np.float16)}, folder / "model.safetensors")
    return folder


async def test_a_folder_becomes_a_version_with_its_numbers(client: AsyncClient, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    version = await client.register_model("base", str(folder), display_name="Base", labels={"a": "b"})
    assert version.name == "projects/default/models/base/versions/1"
    assert version.uri == folder.as_uri()
    assert version.parameter_count == 22
    assert version.size_bytes == (folder / "model.safetensors").stat().st_size
    assert len(version.sha256) == 64
    assert list(version.writes) == [content_pb2.MODALITY_TEXT]
    assert await client.get_model_version("projects/default/models/base/versions/-") == version


async def test_the_same_bytes_are_the_same_version_and_others_the_next(client: AsyncClient, tmp_path: Path) -> None:
    first = await client.register_model("base", model(tmp_path / "a").as_uri())
    assert await client.register_model("base", model(tmp_path / "b").as_uri()) == first
    second = await client.register_model("base", model(tmp_path / "c", seed=1).as_uri())
    assert second.name.endswith("/versions/2")
    assert [version.name async for version in client.list_model_versions()] == [second.name, first.name]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "x.pkl", "x.PTH", "deep/er.ckpt"])
async def test_a_folder_with_a_pickle_is_refused(client: AsyncClient, tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "m")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert await reason(client, folder.as_uri()) == "MODEL_HAS_PICKLE"


async def test_what_is_no_model_is_refused_with_its_reason(client: AsyncClient, tmp_path: Path) -> None:
    assert await reason(client, "file:///nowhere/at/all") == "MODEL_FOLDER_MISSING"
    assert await reason(client, "https://example.org/model") == "URI_UNSUPPORTED"
    folder = model(tmp_path / "m")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[:-1], b"\xff" * 40, b"\2\0\0\0\0\0\0\0[]"):
        weights.write_bytes(broken)
        assert await reason(client, str(folder)) == "MODEL_WEIGHTS_INVALID"
    weights.unlink()
    assert await reason(client, str(folder)) == "MODEL_WEIGHTS_MISSING"
    (folder / "config.json").write_text("{")
    assert await reason(client, str(folder)) == "MODEL_CONFIG_INVALID"
    (folder / "config.json").unlink()
    assert await reason(client, str(folder)) == "MODEL_CONFIG_MISSING"


async def test_a_folder_outside_the_allowed_ones_is_refused(serving: Any, tmp_path: Path) -> None:
    model(tmp_path / "outside")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    async with serving(tmp_path / "state", import_roots=(tmp_path / "inside",)) as client:
        model(tmp_path / "inside" / "linked")
        (tmp_path / "inside" / "linked" / "more.safetensors").symlink_to(tmp_path / "outside" / "model.safetensors")
        for path in ("outside", "inside/../outside", "inside/link", "inside/linked"):
            with pytest.raises(PermissionDenied) as caught:
                await client.register_model("base", str(tmp_path / path))
            assert caught.value.reason == "PATH_FORBIDDEN"


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/other/model.safetensors", "absent.safetensors"])
async def test_an_index_that_names_files_elsewhere_is_refused(client: AsyncClient, tmp_path: Path, name: str) -> None:
    model(tmp_path / "other")
    folder = model(tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.rename(folder / "a.safetensors")
    for named, expected in ((name, "MODEL_MANIFEST_INVALID"), ("a.safetensors", "")):
        index = json.dumps({"metadata": {}, "weight_map": {"a": "a.safetensors", "b": named}})
        (folder / "model.safetensors.index.json").write_text(index)
        if expected:
            assert await reason(client, str(folder)) == expected
            with pytest.raises(InvalidArgument) as caught:
                await client.register_model("base", await client.upload_files(folder))
            assert caught.value.reason == expected
        else:
            assert (await client.register_model("base", str(folder))).parameter_count == 22


async def test_a_folder_that_is_model_and_lora_is_refused(client: AsyncClient, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "../x"}))
    assert await reason(client, str(folder)) == "MODEL_HAS_ADAPTER"


async def test_sources_become_lineage(client: AsyncClient, tmp_path: Path) -> None:
    source = "projects/default/trainingJobs/t"
    version = await client.register_model("base", str(model(tmp_path / "m")), sources=[source])
    edges = (await client.get_lineage(version.name)).edges
    assert [(edge.source, edge.target) for edge in edges] == [(source, version.name)]


async def test_a_model_that_is_not_there_is_not_found(client: AsyncClient) -> None:
    with pytest.raises(NotFound) as caught:
        await client.get_model_version("projects/default/models/none/versions/-")
    assert caught.value.reason == "MODEL_VERSION_NOT_FOUND"
    assert caught.value.message == "There is no projects/default/models/none."


async def test_the_number_of_a_deleted_version_is_not_used_again(client: AsyncClient, tmp_path: Path) -> None:
    folders = [model(tmp_path / str(seed), seed=seed) for seed in range(3)]
    names = [(await client.register_model("base", str(folder))).name for folder in folders]
    await client.delete_model_version(names[2])
    with pytest.raises(NotFound) as caught:
        await client.get_model_version(names[2])
    assert caught.value.reason == "MODEL_VERSION_NOT_FOUND"
    assert (await client.get_model_version("projects/default/models/base/versions/-")).name == names[1]
    assert (await client.register_model("base", str(folders[2]))).name.endswith("/versions/4")
    assert [version.name[-1] async for version in client.list_model_versions()] == ["4", "2", "1"]
    assert (folders[2] / "config.json").exists(), "a folder that was registered in place is left alone"
    with pytest.raises(InvalidArgument) as refused:
        await client.delete_model_version("projects/default/models/base/versions/-")
    assert refused.value.reason == "RESOURCE_NAME_INVALID"


async def test_files_stay_as_long_as_another_version_has_them(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "REGISTRATION_SECONDS", 0)
    stored, folder = tmp_path / "state" / "models", model(tmp_path / "m")
    first, second = [await client.register_model(name, await client.upload_files(folder)) for name in ("one", "two")]
    await client.delete_model_version(first.name)
    await client.download_model(second.name, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    await client.delete_model_version(second.name)
    assert [path for path in stored.rglob("*") if path.is_file()] == []
    third = await client.register_model("two", await client.upload_files(folder))
    assert (third.name[-1], third.sha256) == ("2", second.sha256)
    await client.download_model(third.name, tmp_path / "again")


async def test_files_that_were_registered_of_late_are_left_to_the_sweep(client: AsyncClient, tmp_path: Path) -> None:
    version = await client.register_model("base", await client.upload_files(model(tmp_path / "m")))
    await client.delete_model_version(version.name)
    assert (tmp_path / "state" / "models" / version.sha256 / "config.json").exists()


async def reason(client: AsyncClient, uri: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        await client.register_model("base", uri)
    return caught.value.reason
