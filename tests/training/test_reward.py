"""Reward models against their formula, written out with plain torch on rows one by one, and what they learn from."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from omnialign.content import content
from omnialign.errors import InvalidArgument
from omnialign.modeling import reward
from omnialign.modeling.adapters import Adapter, encode_response, load_adapter
from omnialign.modeling.inputs import ModelInputs
from omnialign.modeling.reward_folder import HEAD, REPORT, is_reward_model
from omnialign.v1 import record_pb2
from omnialign.v1.generation_pb2 import SamplingParams
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.transformers.engine import open_transformers_engine
from tests.training.in_process import kept
from tests.training.multimodal import MODALITIES, TRAINED, batch, medium, question
from tests.training.test_examples import of
from tests.training.test_resume import tiny_model  # noqa: F401
from tests.training.test_single_runs import run, settle
from tests.training.test_spec import GOOD, problems, read
from training import fused_lm_head, holdout, methods, source
from training.example_file import Examples, write_examples
from training.examples import Example, prompt_hash
from training.holdout import report_of, split
from training.runner import check_base
from training.samples import Dropped, Sample
from training.spec_file import read_spec
from training.trainers.reward import answer_rewards, end_places, pair_loss
from training.tuning import load_model

MARGINS, CENTER = (0.0, 0.3, 0.5), 0.05
LONG = "A red circle, on the left of a blue square, and nothing else at all."


def samples_of_family(name: str) -> list[Sample]:
    """Pairs with every modality that a family reads, of unlike lengths; a token family also writes one."""
    family = TRAINED[name]
    written = [medium(kind, seed=3) for kind in family.writes[:1]]
    shown = [medium(kind, seed=2) for kind in family.reads]
    return [
        Sample(question("What is it?", *shown), ((LONG,), ("No.",))),
        Sample(question("And what is this, if it is anything?"), (("Yes.", *written), (LONG,))),
        Sample(question("Hm?", *shown[:1]), (("A.",), (LONG, "B", LONG))),
    ]


def row_reward(model: torch.nn.Module, adapter: Adapter, row: ModelInputs, weight: torch.Tensor) -> torch.Tensor:
    """w · h of the last token of a row without padding."""
    ids = torch.tensor([row.ids])
    features = adapter.tensors([row], ids) if row.features else {}
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **features, output_hidden_states=True)
    return output.hidden_states[-1][0, -1] @ weight[0]  # of (1, columns, hidden)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.families
@pytest.mark.parametrize("fill", [False, True], ids=["plain", "filled"])
@pytest.mark.parametrize("name", ["anygpt", "qwen2_5_vl", "qwen2_5_omni", "janus"])
def test_loss_and_gradient_equal_those_of_single_rows(tmp_path: Path, name: str, fill: bool):
    """Scores of position -1 were those of padding, or of the filler medium behind a row."""
    folder = TRAINED[name].build(tmp_path / "model")
    adapter, model = load_adapter(folder), load_model(folder, train_towers=True).eval()
    head = reward.new_head(reward.hidden_size(model), seed=1)
    samples = samples_of_family(name)
    # Fillers go where the batch lacks a modality, so there the pairs have no media.
    if fill:
        samples = [Sample(question("Hm?"), sample.answers) for sample in samples]
    wanted_media = [MODALITIES[kind] for kind in TRAINED[name].reads] if fill and name != "anygpt" else []
    rows = [
        encode_response(adapter, sample.turns, answer)
        for at in (0, 1)
        for sample in samples
        for answer in [sample.answers[at]]
    ]
    chosen, rejected = torch.stack([row_reward(model, adapter, row, head.weight) for row in rows]).chunk(2)
    losses = [
        torch.log(1 + torch.exp(-(c - r - m))) + CENTER * (c + r) ** 2
        for c, r, m in zip(chosen, rejected, MARGINS, strict=True)
    ]
    wanted = sum(losses) / len(losses)
    wanted.backward()
    model.score = head
    wanted_gradients = gradients(model)

    reward.add_head(model, head)
    fused_lm_head.add_head(model)
    inputs = batch(adapter, samples, folder=tmp_path, fill=wanted_media)
    rewards = answer_rewards(model, inputs)
    loss = pair_loss(*rewards.chunk(2), torch.tensor(MARGINS), center_weight=CENTER).mean()
    loss.backward()
    assert rewards.tolist() == pytest.approx([*chosen.tolist(), *rejected.tolist()], abs=1e-5)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    found = gradients(model)
    for weight, gradient in wanted_gradients.items():
        scale = max(float(gradient.abs().max()), 1e-2)
        assert float((found[weight] - gradient).abs().max()) / scale < 5e-5, weight  # sums are in another order
    width = inputs["input_ids"].shape[1]
    assert any(int(place) % width != width - 1 for place in end_places(inputs["completion_mask"]))


@pytest.mark.families
@pytest.mark.parametrize("name", ["anygpt", "qwen2_5_vl", "qwen2_5_omni", "janus"])
async def test_engine_and_trainer_give_one_reward(tmp_path: Path, name: str):
    folder = TRAINED[name].build(tmp_path / "model")
    adapter, model = load_adapter(folder), load_model(folder).eval()
    head = reward.new_head(reward.hidden_size(model), seed=1)
    reward.save_head(head.weight, folder)
    reward.add_head(model, head)
    fused_lm_head.add_head(model)
    samples = samples_of_family(name)
    with torch.no_grad():
        wanted = answer_rewards(model, batch(adapter, samples, folder=tmp_path)).tolist()
    asked = [
        EngineRequest(f"{at}/{row}", folder.as_uri(), sample.turns, SamplingParams(), answer=sample.answers[at])
        for at in (0, 1)
        for row, sample in enumerate(samples)
    ]
    async with open_transformers_engine(EngineConfig(threads=1, feature_cache=tmp_path / "features")) as engine:
        found = {result.id: result.reward async for result in engine.generate(asked)}
    assert [found[request.id] for request in asked] == pytest.approx(wanted, abs=1e-5)


def test_the_end_place_is_that_of_the_answer_behind_which_other_tokens_follow():
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 0, 0]])
    assert end_places(mask).tolist() == [2, 5 + 4, 10 + 1]


def change(folder: Path, **sections: object) -> None:
    """Replaces sections of a run's spec."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))


@pytest.mark.slow
def test_the_first_loss_and_measures_of_a_run_equal_those_by_hand(tmp_path: Path, tiny_model: Path):  # noqa: F811
    """With a LoRA, which changes nothing before the first step and is merged at the end; the head learns beside it."""
    folder = tmp_path / "run"
    cut = {"max_steps": 1, "batch_size": 13, "micro_batch_size": 1, "sft_weight": 0.0}
    settle(folder, tiny_model, method="reward", own={"center_weight": 0.5}, learning_rate=1e-3, no_warmup=True, **cut)
    change(folder, lora={"merge": True})
    spec = read_spec(folder / "job.yaml", method="reward")
    model = load_model(tiny_model).eval()
    weight = reward.new_head(32, seed=0).weight.detach()
    path = source.cache_path(spec, max_length=methods.complete(spec, num_processes=1).max_length)
    losses, ahead = [], []
    for example in Examples(path):
        rows = [ModelInputs(example.prompt + answer) for answer in example.answers]
        with torch.no_grad():
            chosen, rejected = (float(row_reward(model, load_adapter(tiny_model), row, weight)) for row in rows)
        losses.append(math.log1p(math.exp(rejected - chosen)) + 0.5 * (chosen + rejected) ** 2)
        ahead.append(chosen - rejected)
    assert run(folder, "reward") == 0
    (step,) = (json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines())
    assert step["loss"] == pytest.approx(sum(losses) / 13, abs=1e-5)
    assert step["rewards/margins"] == pytest.approx(sum(ahead) / 13, abs=1e-5)
    assert step["rewards/accuracies"] == pytest.approx(sum(one > 0 for one in ahead) / 13, abs=1e-6)
    trained = reward.load_head(folder / "model", hidden_size=32).weight
    assert is_reward_model(folder / "model")
    query = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(load_model(folder / "model").state_dict()[query], model.state_dict()[query])
    assert 0 < float((trained.detach() - weight).abs().max()) < 0.01
    assert load_adapter(folder / "model").end_id == load_adapter(tiny_model).end_id


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sharded_weights_learn_and_are_evaluated_as_whole_ones(tmp_path: Path, tiny_model: Path):  # noqa: F811
    """The head is sharded as the model is, and every rank takes its part of the pairs held out."""
    found = []
    for num_processes, zero_stage in ((1, 0), (2, 3)):
        folder = tmp_path / str(zero_stage)
        cut = {"num_processes": num_processes, "max_steps": 3, "checkpoint_every_steps": 3, "batch_size": 16}
        held_out = {"evaluation": {"holdout_fraction": 0.2, "every_steps": 3}}
        settle(folder, tiny_model, method="reward", own={"use_margin": True}, **cut, **held_out)
        change(folder, distribution={"num_processes": num_processes, "zero_stage": zero_stage})
        spec = read_spec(folder / "job.yaml", method="reward")
        pairs = [Example([6 + i % 90, 7], [[50, 60, 2], [61 + i % 7, 2]], value=i % 3 / 4) for i in range(90)]
        write_examples(source.cache_path(spec, max_length=1024), pairs)
        assert run(folder, "reward", num_processes=num_processes) == 0
        *steps, evaluation = (json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines())
        report = json.loads((folder / "model" / REPORT).read_text())
        for name in ("pairs", "accuracy", "log_loss"):
            assert evaluation[f"eval/{name}"] == report[name]
        weight = reward.load_head(folder / "model", hidden_size=32).weight.detach()
        found.append(([*(row["loss"] for row in steps), evaluation["eval/loss"]], report, weight))
    (losses, report, weight), (sharded_losses, sharded_report, sharded_weight) = found
    assert sharded_losses == pytest.approx(losses, abs=1e-4)
    assert torch.allclose(sharded_weight, weight, atol=1e-5)
    held_out = split(Examples(source.cache_path(spec, max_length=1024)), fraction=0.2)[1]
    assert report["pairs"] == sharded_report["pairs"] == len(held_out) > 5
    for name in ("accuracy", "log_loss", "calibration_error"):
        assert sharded_report[name] == pytest.approx(report[name], abs=1e-3)


def test_a_reward_model_is_a_base_for_another_and_for_nothing_else(tmp_path: Path):
    (tmp_path / HEAD).touch()
    spec = {**GOOD, "base_model_dir": str(tmp_path)}
    for method, record in methods.METHODS.items():
        if method == "reward":
            continue
        own = {"rollout": {"rewards": [{"well_formed": True}]}} if record.rows == "prompt" else {}
        with pytest.raises(InvalidArgument, match="name the model that it was trained from") as refused:
            check_base(read({**spec, method: own}, method=method))
        assert refused.value.reason == "MODEL_IS_A_REWARD_MODEL"
    check_base(read(spec, method="reward"))


def test_a_lora_is_merged_because_it_has_no_place_for_the_head():
    assert "must be true" in problems({**GOOD, "lora": {}}, method="reward")["lora.merge"]
    assert read({**GOOD, "lora": {"merge": True}}, method="reward").lora is not None


def rate(record: record_pb2.Record, *scores: int) -> None:
    for response, score in zip(record.responses, scores, strict=True):
        for dimension in response.feedback.scores:
            dimension.score = score


def test_the_margin_is_how_much_better_the_preferred_response_is_rated(record):
    rate(record, 1, 3)
    (sample,) = of(record, method="reward")
    assert sample.answers == (("hello",), ("bye",))
    assert sample.value == pytest.approx(2 / 3)
    rate(record, 3, 1)  # the preference is what people said last, and it stands
    (sample,) = of(record, method="reward")
    assert (sample.answers[0], sample.value) == (("hello",), 0.0)
    record.responses[0].ClearField("feedback")
    assert of(record, method="reward")[0].value == 0.0


def test_a_record_without_a_preference_is_ordered_by_its_ratings(record):
    record.ClearField("preference")
    record.responses.add(content=content("well")).feedback.scores.add(dimension="clarity", score=1)
    rate(record, 0, 2, 1)
    (sample,) = of(record, method="reward")
    assert sample.answers == (("hello",), ("bye",))
    assert sample.value == pytest.approx(2 / 3)
    rate(record, 1, 1, 1)
    with pytest.raises(Dropped, match="RATINGS_EQUAL"):
        of(record, method="reward")
    for response in record.responses[1:]:
        response.ClearField("feedback")
    with pytest.raises(Dropped, match="NO_PREFERENCE"):
        of(record, method="reward")


def test_ratings_do_not_overrule_the_gate(record):
    record.ClearField("preference")
    rate(record, 3, 0)
    record.comparison.verdict = record_pb2.VERDICT_WIN
    assert of(record, method="reward")[0].answers == (("hello",), ("bye",))
    record.comparison.verdict = record_pb2.VERDICT_TIE
    with pytest.raises(Dropped, match="NO_PREFERENCE"):
        of(record, method="reward")


def example(number: int, answer: int = 7) -> Example:
    return Example([1, number], [[answer, 2], [8, 2]])


def test_pairs_are_held_out_by_prompt_and_stay_so_when_more_data_comes(tmp_path: Path):
    more = kept([example(i, answer=i % 5) for i in range(1000)], tmp_path)
    some = more.select(np.arange(400))
    learnt, held = split(some, fraction=0.1)
    assert len(learnt) + len(held) == 400
    assert 20 <= len(held) <= 65
    assert {e.prompt[1] for e in held} == {e.prompt[1] for e in split(more, fraction=0.1)[1]} & set(range(400))
    assert prompt_hash(example(3)) == prompt_hash(example(3, answer=9)) != prompt_hash(example(4))
    assert not split(some.select(np.arange(49)), fraction=0.1)[1]
    assert not split(some, fraction=0.0)[1]


def test_data_of_one_prompt_is_learnt_and_not_held_out(tmp_path: Path):
    held = next(e for e in map(example, range(1000)) if prompt_hash(e) / 2**64 < 0.1)
    learnt, held_out = split(kept([held] * 60, tmp_path), fraction=0.1)
    assert (list(learnt), list(held_out)) == ([held] * 60, [])


def test_a_report_has_the_accuracy_the_loss_and_the_calibration_of_the_pairs():
    found = report_of([2.0, 1.0, -1.0, 0.0])
    assert found.accuracy == pytest.approx(2.5 / 4)
    losses = [math.log1p(math.exp(-d)) for d in (2.0, 1.0, -1.0, 0.0)]
    assert found.log_loss == pytest.approx(sum(losses) / 4)
    low, high = found.accuracy_interval
    assert 0 < low < found.accuracy < high < 1
    assert sum(one.count for one in found.calibration) == 8
    # σ(±1) is 0.27 and 0.73: one pair is right and one wrong, so half of either bin is preferred.
    observed = {round(one.predicted, 2): one.observed for one in found.calibration}
    assert observed == {0.12: 0.0, 0.27: 0.5, 0.5: 0.5, 0.73: 0.5, 0.88: 1.0}
    error = (2 * 0.1192 + 4 * 0.2311) / 8
    assert found.calibration_error == pytest.approx(error, abs=1e-3)


def test_wilsons_interval_is_the_published_one():
    assert holdout.wilson(0.9, 50) == pytest.approx((0.7864, 0.9565), abs=1e-4)
