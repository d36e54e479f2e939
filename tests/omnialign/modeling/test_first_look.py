"""The first look at a model's folder: what it finds, and that whatever it raises crosses a process."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.first_look import inspect_model
from tests.services.inference.model_factory import random_lora, random_model

TINY = Path("examples/tinyworld/model")
TEXTS = ("codecs.json", "config.json", "tokenizer.json", "generation_config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def test_a_whole_model_is_summed_up() -> None:
    found = inspect_model(TINY)
    assert found.parameter_count > 100_000 and found.lora is None
    assert inspect_model(TINY, weights=False).parameter_count == found.parameter_count
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_lora_is_summed_up_with_its_base(tmp_path: Path) -> None:
    base = random_model(tmp_path / "base")
    random_lora(tmp_path / "lora", base, rank=4)
    found = inspect_model(tmp_path / "lora")
    assert found.lora is not None and (found.lora.base, found.lora.rank) == (base, 4)
    assert found.parameter_count > 0


def test_an_error_crosses_a_process_with_all_that_it_says(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))
    with pytest.raises(InvalidArgument) as caught:
        inspect_model(folder)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.reason == "MODEL_WEIGHTS_MISMATCH"
    assert (copy.message, copy.metadata) == (caught.value.message, caught.value.metadata)


def test_a_poisoned_codec_is_refused_with_its_reason(folder: Path) -> None:
    codecs = json.loads((folder / "codecs.json").read_text())
    codecs["codecs"][0]["options"]["run"] = 10**9
    (folder / "codecs.json").write_text(json.dumps(codecs))
    with pytest.raises(InvalidArgument, match="run must be a whole number") as caught:
        inspect_model(folder)
    assert caught.value.reason == "CODEC_OPTIONS_INVALID"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(TEXTS[:2]), data=st.data())
def test_whatever_a_number_is_changed_to_the_error_is_typed(folder: Path, name: str, data: st.DataObject) -> None:
    good = (TINY / name).read_text()
    document = json.loads(good)
    places = [(found, key) for found in walk(document) for key in found if isinstance(found[key], int | float | str)]
    found, key = data.draw(st.sampled_from(places))
    found[key] = data.draw(st.sampled_from([0, -1, 1, 7, 10**9, 2**70, 0.5, "", "../x", None, [], {}, True, "9" * 99]))
    (folder / name).write_text(json.dumps(document))
    try:
        inspect_model(folder, weights=False)
    except OmnialignError as error:
        assert error.reason.isupper()
    finally:
        (folder / name).write_text(good)


def walk(value: object) -> list[dict[str, object]]:
    if isinstance(value, dict):
        return [value, *(found for entry in value.values() for found in walk(entry))]
    return [found for entry in value for found in walk(entry)] if isinstance(value, list) else []
