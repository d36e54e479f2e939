"""What a family's folder calls its weights: other programs look for the published names, trained or not."""

import pytest
from safetensors import safe_open

from tests.model_factory.families import FAMILIES
from training.runner import load_model


def names(folder) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_audio"])
def test_a_model_is_saved_under_the_names_that_it_was_loaded_by(family, tmp_path):
    folder = FAMILIES[family].build(tmp_path / "published")
    load_model(folder).save_pretrained(tmp_path / "trained")
    assert names(tmp_path / "trained") == names(folder)
