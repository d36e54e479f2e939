"""Which models are loaded, and why the others are not."""

import json
import shutil
import struct

import pytest

from omnialign.errors import NotFound, OmnialignError
from omnialign.v1 import model_pb2
from services.inference.config import EngineConfig
from services.inference.models.resolver import ModelResolver
from services.inference.models.safetensors import parameter_count
from services.inference.transformers.engine import open_transformers_engine
from tests.services.inference.model_factory import requests


@pytest.fixture
def copied(model, folder_of, tmp_path):
    """A copy of the model to spoil."""
    shutil.copytree(folder_of(model), tmp_path / "copy")
    return tmp_path / "copy"


async def refusal(engine, name):
    with pytest.raises(OmnialignError) as caught:
        await engine.load(name)
    return caught.value


async def works(engine, name):
    return [result.error async for result in engine.generate(requests(name, ["a"], max_new_tokens=2))] == [None]


async def test_a_pickle_is_refused_and_harms_no_other(engine, model, copied):
    (copied / "extra.pt").write_bytes(b"cos\nsystem\n")
    error = await refusal(engine, f"file://{copied}")
    assert (error.reason, error.metadata["files"]) == ("MODEL_HAS_PICKLE", "extra.pt")
    assert await works(engine, model)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file:///no/such/folder", "MODEL_NOT_FOUND"),
        ("file://elsewhere/folder", "MODEL_URI_UNSUPPORTED"),
        ("llama", "MODEL_NAME_INVALID"),
        ("projects/default/models/llama/versions/-", "MODEL_NAME_INVALID"),
        ("projects/p/models/m/versions/1", "MODEL_NOT_FOUND"),
    ],
)
async def test_an_unknown_model_is_a_clear_error(engine, name, reason):
    assert (await refusal(engine, name)).reason == reason


async def test_a_model_that_has_neither_codecs_nor_a_chat_template_is_refused(engine, copied):
    (copied / "codecs.json").unlink()
    refused = await refusal(engine, f"file://{copied}")
    assert refused.reason == "CHAT_TEMPLATE_MISSING"
    assert "codecs.json" in refused.message


async def test_a_model_without_a_tokenizer_has_no_adapter(engine, copied):
    (copied / "tokenizer.json").unlink()
    assert (await refusal(engine, f"file://{copied}")).reason == "MODEL_HAS_NO_ADAPTER"


@pytest.mark.parametrize("spoil", ["no weights", "short", "no header", "architecture"])
async def test_a_model_that_does_not_load_is_refused_and_can_be_mended(engine, copied, spoil):
    weights, config = copied / "model.safetensors", copied / "config.json"
    good, good_config = weights.read_bytes(), config.read_text()
    if spoil == "no weights":
        weights.unlink()
    elif spoil == "architecture":
        config.write_text(json.dumps({"model_type": "no_such_model"}))
    else:
        weights.write_bytes(good[:-1000] if spoil == "short" else b"nonsense")
    assert (await refusal(engine, f"file://{copied}")).reason == "MODEL_LOAD_FAILED"
    weights.write_bytes(good)
    config.write_text(good_config)
    assert await works(engine, f"file://{copied}")


async def test_code_that_comes_with_a_model_is_never_run(engine, copied, tmp_path):
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.M"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert (await refusal(engine, f"file://{copied}")).reason == "MODEL_LOAD_FAILED"
    assert not (tmp_path / "ran").exists()


async def test_models_are_read_from_the_allowed_folders_only(model, copied):
    async with open_transformers_engine(EngineConfig(threads=1, model_roots=(copied.parent,))) as engine:
        assert (await refusal(engine, model)).reason == "MODEL_NOT_ALLOWED"
        assert (await refusal(engine, f"file://{copied}/../../x")).reason == "MODEL_NOT_ALLOWED"
        assert await works(engine, f"file://{copied}")


async def test_two_models_take_turns_in_a_budget_for_one(model, other_model, folder_of):
    budget_bytes = parameter_count(folder_of(model), model=model) * 4
    async with open_transformers_engine(EngineConfig(threads=1, model_budget_bytes=budget_bytes)) as engine:
        for name in (model, other_model, model):
            assert await works(engine, name)
            assert [key.model for key in engine.residency.keys] == [name]
    async with open_transformers_engine(EngineConfig(threads=1, model_budget_bytes=budget_bytes - 1)) as engine:
        assert (await refusal(engine, model)).metadata["size_bytes"] == str(budget_bytes)


async def test_both_models_answer_one_call(engine, model, other_model):
    asked = requests(model, ["a"] * 3, max_new_tokens=4) + requests(other_model, ["b"] * 3, max_new_tokens=4)
    found = [result.info.model async for result in engine.generate(asked)]
    assert sorted(found) == sorted([model] * 3 + [other_model] * 3)


class Registry:
    """Knows one version and counts how often it is asked."""

    def __init__(self, uri):
        self.uri, self.asked = uri, 0

    async def get_model_version(self, name):
        self.asked += 1
        if not name.endswith("/1"):
            raise NotFound("No such version.", reason="MODEL_VERSION_NOT_FOUND")
        return model_pb2.ModelVersion(name=name, uri=self.uri)


async def test_registered_models_are_looked_up_once(model, folder_of):
    registry = Registry(model)
    resolver = ModelResolver(registry)
    for _ in range(2):
        assert await resolver.folder("projects/p/models/m/versions/1") == folder_of(model)
    assert registry.asked == 1
    with pytest.raises(NotFound) as caught:
        await resolver.folder("projects/p/models/m/versions/2")
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_a_huge_header_is_not_read(copied):
    (copied / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40))
    with pytest.raises(OmnialignError) as caught:
        parameter_count(copied, model="m")
    assert caught.value.reason == "MODEL_LOAD_FAILED"
