"""Sample answers of a model in training, kept as files."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from examples.tinyworld.pretrain import FOLDER
from omnialign.media import read_image
from omnialign.modeling.adapters import load_adapter
from tests.training.method_samples import encoded, world_pairs
from tests.training.test_every_method import TRAINED, pairs_of
from training import fused_lm_head, sample_answers
from training.media import BatchMedia
from training.sample_answers import SampleAnswers
from training.samples import Sample
from training.tuning import load_model, tokenizer_of


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models made by chance end none of their answers."""
    monkeypatch.setattr(sample_answers, "MAX_NEW_TOKENS", 24)


@pytest.fixture
def model() -> torch.nn.Module:
    """The model of the demo, as a trainer has it."""
    found = load_model(FOLDER)
    fused_lm_head.add_head(found)
    return found.train()


def samples(folder: Path, pairs: Sequence[Sample], *, base: Path = FOLDER) -> SampleAnswers:
    adapter = load_adapter(base)
    return SampleAnswers(
        encoded(pairs, base=base, folder=folder),
        media=BatchMedia(adapter, folder / "media"),
        tokenizer=tokenizer_of(base, pad_id=adapter.pad_id, end_id=adapter.end_id),
        folder=folder / "samples",
        is_sharded=False,
    )


@pytest.mark.slow
def test_answers_are_kept_as_text_and_media_beside_those_of_the_data(tmp_path: Path, model: torch.nn.Module):
    sampled = samples(tmp_path, world_pairs("t2i", "t2t"))
    sampled.write(model, step=3)
    assert model.training
    kept = {path.name: path for path in (tmp_path / "samples" / "step-00000003").iterdir()}
    assert {"0.txt", "1.txt"} <= kept.keys()
    assert all(path.read_text() for name, path in kept.items() if name.endswith(".txt"))
    reference = {path.name: path for path in (tmp_path / "samples" / "reference").iterdir()}
    (picture,) = (path for name, path in reference.items() if name.endswith(".png"))
    assert read_image(picture.read_bytes()).ndim == 3
    assert f"[{picture.name}]" in reference[f"{picture.name[0]}.txt"].read_text()


@pytest.mark.families
@pytest.mark.parametrize("family", TRAINED)
def test_models_of_every_family_answer_but_janus_whose_generation_is_its_own(tmp_path: Path, family: str):
    base = TRAINED[family].build(tmp_path / family)
    trained = load_model(base).float()
    fused_lm_head.add_head(trained)
    samples(tmp_path, pairs_of(family), base=base).write(trained, step=1)
    kept = {path.name for path in (tmp_path / "samples").glob("step-*/*.txt")}
    assert kept == (set() if family == "janus" else {"0.txt", "1.txt", "2.txt"})


def test_a_model_that_cannot_generate_costs_the_samples_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    class Mute:
        device, training = torch.device("cpu"), False
        asked = 0

        def eval(self) -> None:
            pass

        def train(self, mode: bool) -> None:
            pass

        def generate(self, **given: object) -> None:
            self.asked += 1
            raise NotImplementedError("no words")

    mute, sampled = Mute(), samples(tmp_path, world_pairs("t2t"))
    sampled.write(mute, step=1)
    sampled.write(mute, step=2)
    assert mute.asked == 1
    assert "no words" in caplog.text
    assert not (tmp_path / "samples" / "step-00000002").exists()
