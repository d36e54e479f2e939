"""SimPO and ORPO against their formulas, written out with plain torch on the rows one by one."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests.training.test_resume import tiny_model  # noqa: F401
from tests.training.test_single_runs import run, settle
from training import methods, source
from training.example_file import Examples
from training.examples import Example
from training.spec_file import parse_spec
from training.trainers import orpo, simpo

PAIRS = 13


def answers(model: torch.nn.Module, example: Example) -> list[torch.Tensor]:
    """The log-probability of each token of the chosen and of the rejected answer, from unpadded rows."""
    found = []
    for answer in example.answers:
        ids = torch.tensor([example.prompt + answer])
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0].double().log_softmax(-1)
        at = torch.arange(len(example.prompt) - 1, ids.shape[1] - 1)
        found.append(scores[at, ids[0, at + 1]])
    return found


def by_hand(scored: list[list[torch.Tensor]], *, method: str, beta: float, margin: float, weight: float) -> float:
    """The loss of all pairs as one step."""
    pair_losses = []
    for chosen, rejected in scored:
        means = [float(chosen.mean()), float(rejected.mean())]
        rewards = [beta * mean if method == "simpo" else mean - math.log(1 - math.exp(mean)) for mean in means]
        ahead = rewards[0] - rewards[1] - (margin if method == "simpo" else 0.0)
        pair_losses.append((1.0 if method == "simpo" else beta) * math.log1p(math.exp(-ahead)))
    tokens = torch.cat([chosen for chosen, _ in scored])
    return sum(pair_losses) / len(pair_losses) - weight * float(tokens.mean())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simpo", "orpo"])
def test_the_first_loss_and_measures_equal_those_by_hand(tmp_path: Path, tiny_model: Path, method: str):  # noqa: F811
    folder = tmp_path / "run"
    settle(folder, tiny_model, method=method, max_steps=1, batch_size=PAIRS, micro_batch_size=1, beta=1.5)
    document = yaml.safe_load((folder / "job.yaml").read_text())
    if method == "simpo":
        document["simpo"] = {"margin": 0.25}
        (folder / "job.yaml").write_text(yaml.safe_dump(document))
    spec = parse_spec(document, method=method)
    length = methods.complete(spec, num_processes=1).max_length
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    scored = [answers(model, e) for e in Examples(source.cache_path(spec, max_length=length))]
    assert len(scored) == PAIRS
    assert run(folder, method) == 0
    (step,) = (json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines())
    wanted = by_hand(scored, method=method, beta=1.5, margin=0.25, weight=0.5)
    assert step["loss"] == pytest.approx(wanted, abs=1e-5)
    ahead = [float(chosen.mean() > rejected.mean()) for chosen, rejected in scored]
    assert step["rewards/accuracies"] == pytest.approx(sum(ahead) / PAIRS, abs=1e-6)
    assert step["logps/chosen"] == pytest.approx(sum(float(c.sum()) for c, _ in scored) / PAIRS, rel=1e-5)


@given(st.floats(-80, -1e-4))
def test_log_odds_keep_their_digits(mean: float):
    found = float(orpo.log_odds(torch.tensor(mean, dtype=torch.float64)))
    assert found == pytest.approx(mean - math.log(-math.expm1(mean)), rel=1e-9, abs=1e-12)


def test_an_answer_that_is_certain_has_finite_odds_and_gradients():
    mean = torch.zeros(1, requires_grad=True)
    orpo.log_odds(mean).sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(orpo.log_odds(torch.zeros(1))).all()


def test_a_margin_asks_for_more_than_the_right_order():
    ahead = torch.tensor([0.5])
    assert float(simpo.pair_loss(ahead, margin=1.0)) > float(simpo.pair_loss(ahead, margin=0.0))
