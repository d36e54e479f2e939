"""Ranks whose batches have unlike modalities: every rank runs every tower, and nothing else changes.

`test_zero_matrix` does the same with every method, and towers that do not learn.
"""

from itertools import chain
from pathlib import Path

import pytest
import torch

from omnialign.modeling.adapters import load_adapter
from tests.model_factory.families import FAMILIES
from tests.training.forked_ranks import run_ranks
from tests.training.multimodal import MODALITIES, batch, log_probabilities, losses, medium, prepare, question
from training.batch_order import BatchOrder
from training.samples import Sample
from training.trainers.step_means import answer_log_probs
from training.tuning import load_model

NAME = "qwen2_5_omni"
STEPS = 3


def disjoint() -> list[Sample]:
    """Six questions: with a picture, a sound, a video, and nothing, so that two ranks differ."""
    media = [medium(kind, seed=2) for kind in ("image", "audio", "video")]
    asked = [question("What is it?", piece) for piece in media] + [question(f"Who is {n}?") for n in range(3)]
    return [Sample(turns, ((f"It is {number}.",),)) for number, turns in enumerate(asked)]


def losses_on_ranks(folder: Path, *, base: Path, num_processes: int, zero_stage: int) -> dict[int, float]:
    """The loss by step of a run that trains the towers too."""
    prepare(
        folder,
        base=base,
        method="sft",
        samples=disjoint(),
        num_processes=num_processes,
        zero_stage=zero_stage,
        max_steps=STEPS,
        batch_size=2,
        train_towers=True,
    )
    assert run_ranks(folder, "sft", num_processes=num_processes) == [0] * num_processes
    return losses(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[NAME].build(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The loss by step of one rank, which needs no fillers."""
    return losses_on_ranks(tmp_path_factory.mktemp("alone"), base=base, num_processes=1, zero_stage=0)


@pytest.mark.families
@pytest.mark.timeout(300)
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_ranks_with_other_media_than_each_other_train_their_towers_as_one_rank_does(
    tmp_path: Path, base: Path, alone: dict[int, float], zero_stage: int
):
    found = losses_on_ranks(tmp_path, base=base, num_processes=2, zero_stage=zero_stage)
    assert list(found) == list(range(1, STEPS + 1))
    # Two with fillers come to the same.
    assert found == pytest.approx(alone, abs=2e-4)


def test_the_runs_above_do_give_the_ranks_other_media(tmp_path: Path):
    adapter = load_adapter(FAMILIES[NAME].build(tmp_path / "base"))
    lengths, kinds = [], []
    for sample in disjoint():
        inputs = adapter.encode(sample.turns)
        lengths.append(len(inputs.ids) + len(adapter.encode_answer(sample.answers[0])))
        kinds.append({medium.modality for medium in inputs.features})
    order = BatchOrder(lengths, batch_size=2, num_passes=1, num_ranks=2, rank=0, seed=0)
    assert any(kinds[first] != kinds[second] for ((first,), (second,)) in chain.from_iterable(order.steps()))


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "qwen2_audio", NAME])
def test_a_filler_changes_no_probability_and_no_gradient(tmp_path: Path, name: str):
    family = FAMILIES[name]
    base = family.build(tmp_path / "base")
    adapter = load_adapter(base)
    model = load_model(base, train_towers=True)
    samples = [Sample(question("Who are you?"), (("Nobody.",),)), Sample(question("And you?"), (("Somebody else.",),))]
    plain = batch(adapter, samples, folder=tmp_path)
    filled = batch(adapter, samples, folder=tmp_path, fill=[MODALITIES[kind] for kind in family.reads])
    assert filled["input_ids"].shape[1] > plain["input_ids"].shape[1]
    assert int(filled["completion_mask"].sum()) == int(plain["completion_mask"].sum())
    assert torch.allclose(log_probabilities(model, filled), log_probabilities(model, plain), atol=1e-4)
    gradients = []
    for inputs in (plain, filled):
        model.zero_grad()
        answer_log_probs(model, inputs).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    towers = gradients[1].keys() - gradients[0].keys()
    assert towers  # every tower took part, and learnt nothing
    assert not any(gradients[1][name].any() for name in towers)
    for name in gradients[0]:
        difference = (gradients[0][name] - gradients[1][name]).norm()
        assert difference <= 1e-5 * gradients[0][name].norm() + 1e-5, name  # another width rounds sums in another way
