"""Faults of published multimodal trainers, each kept out by a test.

Those of the order of examples are in `test_distributed`, those of prompts and their ends in `test_examples`.
"""

from collections import Counter
from pathlib import Path

import pytest
import torch

from omnialign.content import content
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.inputs import Turn
from omnialign.v1 import content_pb2, record_pb2
from tests.model_factory.families import FAMILIES
from tests.training.multimodal import batch, log_probabilities, medium, question
from training.batches import PairCollator, SftCollator, pair_row, sft_row
from training.examples import Example, Tally, make_examples
from training.samples import Sample
from training.tuning import load_model

NAME = "qwen2_5_vl"
LONG = ("A red circle, on the left of a square.",)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[NAME].build(tmp_path_factory.mktemp("model") / NAME)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Adapter:
    return load_adapter(base)


def by_hand(model, adapter: Adapter, turns: tuple[Turn, ...], answer) -> float:
    """The summed log-probability of an answer from all logits of one row without padding."""
    inputs = adapter.encode(turns)
    learnt = adapter.encode_answer(answer)
    ids = torch.tensor([[*inputs.ids, *learnt]])
    with torch.no_grad():
        logits = model(input_ids=ids, **adapter.tensors([inputs], ids)).logits.float().log_softmax(-1)
    return sum(float(logits[0, len(inputs.ids) + at - 1, token]) for at, token in enumerate(learnt))


def test_every_token_of_an_answer_counts_from_the_first_to_the_end_token(base: Path, adapter: Adapter, tmp_path: Path):
    """Windows of "the last n tokens" lost the first token, or moved by what the template writes after an answer."""
    model = load_model(base)
    media = [medium("image", seed=seed) for seed in (0, 1)]
    asked = [(question("What?", media[0]), LONG), (question(*media, "Which is redder?"), ("No.",))]
    wanted = [by_hand(model, adapter, turns, answer) for turns, answer in asked]
    together = log_probabilities(model, batch(adapter, [Sample(t, (a,)) for t, a in asked], folder=tmp_path))
    assert together.tolist() == pytest.approx(wanted, abs=1e-3)


def test_a_pad_id_that_is_the_end_id_too_is_still_learnt():
    """Masks made by comparing ids with the pad id took the end token away where both are one."""
    sft = SftCollator(pad_id=9)([sft_row(Example([1, 2, 9, 3], [[7, 9]])), sft_row(Example([1], [[9]]))])
    assert sft["attention_mask"].sum(1).tolist() == [6, 2]
    pair = PairCollator(pad_id=9)([pair_row(Example([1, 9, 2], [[5, 9], [6, 6, 6, 9]]))])
    learnt = [row[mask.bool()].tolist() for row, mask in zip(pair["input_ids"], pair["completion_mask"], strict=True)]
    assert learnt == [[5, 9], [6, 6, 6, 9]]
    assert pair["attention_mask"].sum(1).tolist() == [5, 7]


def test_padding_is_no_part_of_an_answer(base: Path, adapter: Adapter, tmp_path: Path):
    """Masks of ones took padding for an answer; scores of short answers then moved with their company."""
    model = load_model(base)
    short = Sample(question("Hm?"), (("No.",),))
    long = Sample(question("What is it?", medium("image")), (LONG,))
    alone = log_probabilities(model, batch(adapter, [short], folder=tmp_path))
    together = log_probabilities(model, batch(adapter, [short, long], folder=tmp_path))
    assert together[0] == pytest.approx(float(alone[0]), abs=1e-4)


def test_media_are_never_cut_out_of_a_prompt_that_is_too_long(adapter: Adapter):
    """Truncated prompts lost places of features, and the run its media or its life; here the record goes, counted."""
    picture = medium("image", seed=2)
    shown = content_pb2.Media(modality=picture.modality, mime_type="image/png", sha256=picture.sha256)
    response = record_pb2.Response(content=content("A circle."))
    record = record_pb2.Record(id="r", subtask="ti2t", prompt=content("What?", shown), responses=[response, response])
    for room, wanted in ((30, 0), (200, 1)):
        tally = Tally()
        media = {picture.sha256: picture.data}
        made = list(
            make_examples([(record, media)], adapter=adapter, method="sft", target="", max_length=room, tally=tally)
        )
        assert len(made) == wanted
        assert tally.dropped == Counter(TOO_LONG=1 - wanted)
        for example in made:
            assert [ref.sha256 for ref in example.media] == [picture.sha256]


def test_both_answers_of_a_pair_see_the_media_of_their_prompt(adapter: Adapter, tmp_path: Path):
    """Features given once for a batch that is doubled left the rejected rows without theirs, or with another's."""
    media = [medium("image", seed=seed) for seed in (0, 1)]
    pairs = [Sample(question("What?", one), (LONG, ("No.",))) for one in media]
    doubled = batch(adapter, pairs, folder=tmp_path)
    once = batch(adapter, [Sample(pair.turns, (LONG,)) for pair in pairs], folder=tmp_path)
    assert torch.equal(doubled["image_grid_thw"], once["image_grid_thw"].repeat(2, 1))
    assert torch.equal(doubled["pixel_values"], once["pixel_values"].repeat(2, 1))


def test_chosen_and_rejected_differ_by_their_answers_alone(base: Path, adapter: Adapter, tmp_path: Path):
    """A policy that was its own reference, or rows that were swapped, showed as ratios of nothing."""
    model = load_model(base)
    turns = question("What is it?", medium("image"))
    pair = batch(adapter, [Sample(turns, (LONG, ("No.",)))], folder=tmp_path)
    wanted = [by_hand(model, adapter, turns, answer) for answer in (LONG, ("No.",))]
    assert log_probabilities(model, pair).tolist() == pytest.approx(wanted, abs=1e-3)


def test_freezing_towers_freezes_them_and_nothing_else(base: Path):
    """Flags were read and not obeyed, so that a run trained other parts than its settings said."""
    frozen = {name for name, p in load_model(base).named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in load_model(base).named_parameters() if ".visual." in f".{name}"}
    assert all(p.requires_grad for p in load_model(base, train_towers=True).parameters())


def test_a_run_that_trains_towers_leaves_the_codec_within_a_model_alone(tmp_path: Path):
    """A codec that learns gives other codes than those that the examples hold."""
    model = load_model(FAMILIES["chameleon"].build(tmp_path / "base"), train_towers=True)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "vqmodel" in name}
