"""Rows held out while a run trains: their loss, the best model, early stopping, and all of it over a restart."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.processes import kill_when
from tests.training.in_process import make_trainer, move, step
from tests.training.test_resume import prepare, start, tiny_model  # noqa: F401
from tests.training.test_single_runs import run
from tests.training.test_spec import GOOD, problems, read
from tests.training.test_tensorboard import scalars
from training import checkpoint, holdout, methods, source
from training.evaluation import STATE, Evaluator
from training.example_file import Examples, write_examples
from training.examples import Example
from training.methods import METHODS
from training.spec import Evaluation
from training.spec_file import parse_spec

OFFLINE = [name for name, method in METHODS.items() if method.rows != "prompt"]


def made(count: int, *, seed: int = 0) -> list[Example]:
    """Prompts with answers, by chance: what is learnt of some rows is no help for others."""
    draw = random.Random(seed)

    def ids(longest: int) -> list[int]:
        return [draw.randrange(6, 100) for _ in range(draw.randint(3, longest))]

    rows = range(count)
    return [
        Example(ids(12), [[*ids(20), 2] for _ in range(2)], value=float(at % 2), teacher_prompt=ids(20)) for at in rows
    ]


def trainer_of(method: str, base: Path, folder: Path, *, rows_per_pass: int, **sections: Any) -> Any:
    """A trainer of four rows to learn and seven held out, whose model is not that of the start."""
    beta = {} if "beta" in METHODS[method].lacks else {"beta": 0.7}
    found = make_trainer(
        method,
        base=base,
        examples=made(4),
        held_out=made(7, seed=1),
        folder=folder,
        rows_per_pass=rows_per_pass,
        hyperparameters={"max_length": 100, **beta},
        **sections,
    )
    found.context = Mock()
    move(found.model)
    return found


HELD_OUT = range(4, 11)
"""Indices of the rows held out, behind those to learn."""


@pytest.mark.parametrize("method", OFFLINE)
def test_rows_held_out_have_the_loss_and_measures_that_they_would_be_learnt_with(
    tmp_path: Path,
    tiny_model: Path,  # noqa: F811
    method: str,
):
    trainer = trainer_of(method, tiny_model, tmp_path, rows_per_pass=8)
    found = trainer.evaluate_held_out()
    assert found["loss"] == pytest.approx(step(trainer, [HELD_OUT]), rel=1e-5)
    learnt = trainer.means()
    assert learnt == pytest.approx({name: found[name] for name in learnt}, rel=1e-5, abs=1e-6)
    assert learnt
    assert trainer.evaluate_held_out() == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("method", OFFLINE)
def test_the_loss_does_not_depend_on_how_many_steps_rows_are_evaluated_in(
    tmp_path: Path,
    tiny_model: Path,  # noqa: F811
    method: str,
):
    trainer = trainer_of(method, tiny_model, tmp_path, rows_per_pass=3)
    assert trainer.evaluate_held_out()["loss"] == pytest.approx(step(trainer, [HELD_OUT]), rel=1e-5)


def test_an_evaluation_leaves_no_trace(tmp_path: Path, tiny_model: Path):  # noqa: F811
    trainer = trainer_of("dpo", tiny_model, tmp_path, rows_per_pass=4, dpo={"loss": "mpo"})
    step(trainer, [[0, 1, 2, 3]])
    kept, sums = trainer.method_state()["rewards_before"].clone(), trainer.means()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.evaluate_held_out()
    assert torch.equal(trainer.method_state()["rewards_before"], kept)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.means() == sums
    assert trainer.model.training


class Judged:
    """A trainer whose losses are given, one for each step."""

    def __init__(self, folder: Path, losses: list[float], **settings: int) -> None:
        self.state, self.losses = Mock(global_step=0, max_steps=len(losses)), losses
        self.progress = Mock()
        self.evaluator = Evaluator(
            Evaluation(holdout_fraction=0.1, **settings),
            folder=folder / "best",
            write_model=self.write,
            progress=self.progress,
            watchdog=Mock(during=Mock(return_value=Mock(__enter__=Mock(), __exit__=Mock(return_value=None)))),
        )

    def write(self, *, to: Path, files: Mapping[str, bytes]) -> None:
        to.mkdir(parents=True, exist_ok=True)
        (to / "step").write_text(str(self.state.global_step))

    def evaluate_held_out(self) -> dict[str, float]:
        return {"loss": self.losses[self.state.global_step - 1]}

    def evaluation_files(self) -> dict[str, bytes]:
        return {}

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.state.global_step += 1
            self.evaluator.evaluate(self)

    def save(self, root: Path) -> Path:
        """A checkpoint, as the loop commits one."""
        number = self.state.global_step
        staged = checkpoint.staging_dir(root, step=number)
        staged.mkdir(parents=True)
        self.evaluator.write_state(staged)
        found = checkpoint.commit(staged, root, step=number, shape={})
        self.evaluator.prune(root)
        return found


def test_the_best_model_is_that_of_the_lowest_loss(tmp_path: Path):
    judged = Judged(tmp_path, [3.0, 1.0, float("nan"), 2.0, 1.0])
    judged.go_on(5)
    assert judged.evaluator.deliver(tmp_path / "model")
    assert (tmp_path / "model" / "step").read_text() == "2"
    assert not (tmp_path / "best").exists()
    last = judged.progress.evaluated.call_args
    assert last.args == (2, {"eval/loss": 1.0})
    assert last.kwargs["best_step"] == 2


def test_without_a_loss_that_is_a_number_there_is_no_best_model(tmp_path: Path):
    judged = Judged(tmp_path, [float("nan")])
    judged.go_on(1)
    assert not judged.evaluator.deliver(tmp_path / "model")


def test_a_run_is_over_after_so_many_evaluations_without_a_lower_loss(tmp_path: Path):
    judged = Judged(tmp_path, [3.0, 4.0, 2.0, 2.0, 2.5], patience=2)
    over = []
    for _ in range(5):
        judged.go_on(1)
        over.append(judged.evaluator.is_over)
    assert over == [False, False, False, False, True]
    patient = Judged(tmp_path / "patient", [3.0, 4.0, 4.0, 4.0, 4.0])
    patient.go_on(5)
    assert not patient.evaluator.is_over


def test_a_model_is_kept_as_long_as_a_checkpoint_knows_it_as_the_best(tmp_path: Path):
    judged = Judged(tmp_path, [5.0, 4.0, 3.0])
    judged.go_on(2)
    first = judged.save(tmp_path / "checkpoints")
    judged.go_on(1)  # after the checkpoint, and unknown to it
    again = Judged(tmp_path, [5.0, 4.0, 4.5, 4.5])
    again.evaluator.restore(first)
    again.state.global_step = 2
    again.go_on(2)
    assert again.evaluator.deliver(tmp_path / "model")
    assert (tmp_path / "model" / "step").read_text() == "2"


def test_models_that_no_checkpoint_needs_are_removed(tmp_path: Path):
    root = tmp_path / "checkpoints"
    judged = Judged(tmp_path, [5.0, 4.0, 3.0, 3.5, 2.0, 1.0])
    judged.go_on(2)
    judged.save(root)  # knows step 2
    judged.go_on(1)
    judged.save(root)  # knows step 3
    judged.go_on(3)
    judged.save(root)  # knows step 6; of two checkpoints that are left, the other knows step 3
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"step-00000003", "step-00000006"}


def test_a_run_without_a_checkpoint_begins_without_a_best_model(tmp_path: Path):
    Judged(tmp_path, [1.0]).go_on(1)
    again = Judged(tmp_path, [2.0])
    again.evaluator.restore(None)
    assert not (tmp_path / "best").exists()
    again.go_on(1)
    assert again.evaluator.deliver(tmp_path / "model")


def test_a_best_model_that_is_gone_is_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    judged = Judged(tmp_path, [1.0, 2.0])
    judged.go_on(1)
    found = judged.save(tmp_path / "checkpoints")
    (tmp_path / "best").rename(tmp_path / "elsewhere")
    judged.evaluator.restore(found)
    assert "is gone" in caplog.text
    judged.go_on(1)
    assert judged.evaluator.deliver(tmp_path / "model")
    assert (tmp_path / "model" / "step").read_text() == "2"


def due(*, max_steps: int, every_steps: int = 0) -> list[int]:
    """After which steps a run is evaluated."""
    evaluator = Judged(Path("unused"), [0.0] * max_steps, every_steps=every_steps).evaluator
    found = []
    for number in range(1, max_steps + 1):
        control = Mock()
        evaluator.on_step_end(None, Mock(global_step=number, max_steps=max_steps), control)
        found += [number] * control.should_evaluate
    return found


def test_a_run_is_evaluated_ten_times_or_as_often_as_it_says_and_always_at_its_end():
    assert due(max_steps=100) == list(range(10, 101, 10))
    assert due(max_steps=4) == [1, 2, 3, 4]
    assert due(max_steps=25) == [3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert due(max_steps=7, every_steps=3) == [3, 6, 7]


def holding_out(**settings: object) -> dict[str, object]:
    return {**GOOD, "hyperparameters": {"evaluation": settings}}


def test_what_is_held_out_is_checked_with_the_spec():
    section = "hyperparameters.evaluation"
    assert "at most 0.5" in problems(holding_out(holdout_fraction=0.6))[f"{section}.holdout_fraction"]
    assert "needs holdout_fraction" in problems(holding_out(patience=2))[f"{section}.patience"]
    assert "did you mean `patience`" in problems(holding_out(patiense=2))[f"{section}.patiense"]
    online = {**holding_out(holdout_fraction=0.1), "grpo": {"rollout": {"rewards": [{"well_formed": True}]}}}
    assert "must be 0 for grpo" in problems(online, method="grpo")[f"{section}.holdout_fraction"]
    assert problems(holding_out(holdout_fraction=0.0, every_steps=2), method="reward").keys() == {
        f"{section}.every_steps"
    }


def test_only_reward_models_hold_rows_out_unless_told_to():
    assert methods.holdout_fraction(read(GOOD, method="reward")) == 0.1
    assert methods.holdout_fraction(read(holding_out(holdout_fraction=0.0), method="reward")) == 0.0
    assert methods.holdout_fraction(read(GOOD, method="dpo")) == 0.0
    completed = methods.complete(read(holding_out(holdout_fraction=0.2, patience=3)), num_processes=1)
    assert completed.evaluation == Evaluation(holdout_fraction=0.2, patience=3)


# ---- real runs ----


def settle(folder: Path, base: Path, *, method: str, count: int = 120, **sections: object) -> list[str]:
    """A run with examples made by chance; returns its command on two ranks."""
    command = prepare(folder, base=base, method=method, zero_stage=0, **sections)
    spec = parse_spec(yaml.safe_load((folder / "job.yaml").read_text()), method=method)
    length = methods.complete(spec, num_processes=1).max_length
    write_examples(source.cache_path(spec, max_length=length), made(count))
    return command


def lines(folder: Path, name: str) -> dict[int, float]:
    """A measure by step."""
    text = (folder / "progress.jsonl").read_text() if (folder / "progress.jsonl").exists() else ""
    return {row["step"]: row[name] for row in map(json.loads, text.splitlines()) if name in row}


def held_out_loss(folder: Path) -> float:
    """The mean negative log-likelihood of the answers' tokens held out under a run's model, row by row."""
    spec = parse_spec(yaml.safe_load((folder / "job.yaml").read_text()), method="sft")
    (file,) = spec.cache_dir.glob("examples-*.arrow")
    network, losses = AutoModelForCausalLM.from_pretrained(spec.model_dir), []
    for example in holdout.split(Examples(file), fraction=methods.holdout_fraction(spec))[1]:
        ids = torch.tensor([example.prompt + example.answers[0]])
        with torch.no_grad():
            scores = network(input_ids=ids).logits[0].log_softmax(-1)
        at = torch.arange(len(example.prompt) - 1, ids.shape[1] - 1)
        losses.append(-scores[at, ids[0, at + 1]])
    assert len(losses) > 10
    return float(torch.cat(losses).mean())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_whose_loss_on_rows_held_out_rises_ends_early_and_delivers_the_model_before(
    tmp_path: Path,
    tiny_model: Path,  # noqa: F811
):
    folder, evaluation = tmp_path / "run", {"holdout_fraction": 0.25, "every_steps": 4, "patience": 2}
    hyper = {"max_steps": 400, "batch_size": 32, "learning_rate": 2e-2, "no_warmup": True, "evaluation": evaluation}
    settle(folder, tiny_model, method="sft", hyperparameters=hyper, distribution={})
    assert run(folder, "sft") == 0
    losses = lines(folder, "eval/loss")
    best = min(losses, key=lambda number: losses[number])
    assert list(losses)[-3:] == [best, best + 4, best + 8]
    assert max(lines(folder, "loss")) == best + 8 < 400
    assert losses[best] < losses[4] and losses[best] < losses[best + 8]
    assert held_out_loss(folder) == pytest.approx(losses[best], rel=1e-4)
    assert not (folder / "best").exists()
    assert scalars(folder)["eval/loss"] == pytest.approx(losses)
    samples = folder / "samples"
    assert {path.name for path in samples.iterdir()} == {"reference", *(f"step-{number:08d}" for number in losses)}
    assert {path.name for path in (samples / f"step-{best:08d}").iterdir()} == {"0.txt", "1.txt"}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("method", "zero_stage", "sections"),
    [("sft", 2, {}), ("kto", 2, {}), ("reward", 3, {"lora": {"rank": 4, "merge": True}})],
)
def test_a_run_that_is_killed_between_checkpoints_has_the_same_best_model(
    tmp_path: Path,
    tiny_model: Path,  # noqa: F811
    method: str,
    zero_stage: int,
    sections: dict[str, object],
):
    """Killed after an evaluation that no checkpoint knows of."""
    every = {"holdout_fraction": 0.25, "every_steps": 2}
    hyper = {"max_steps": 14, "batch_size": 32, "learning_rate": 3e-2, "checkpoint_every_steps": 5, "evaluation": every}
    sections = {"hyperparameters": hyper, "distribution": {"num_processes": 2, "zero_stage": zero_stage}, **sections}
    found = []
    for name in ("whole", "broken"):
        folder = tmp_path / name
        command = settle(folder, tiny_model, method=method, **sections)
        running = start(command)
        if name == "broken":
            kill_when(running, lambda: max(lines(tmp_path / "broken", "eval/loss"), default=0) >= 8)
            assert not (folder / "model").exists()
            running = start(command)
        assert running.wait() == 0
        (weights,) = (folder / "model").glob("model*.safetensors")
        state = json.loads(next((folder / "checkpoints").glob(f"step-*14/{STATE}")).read_text())
        found.append((lines(folder, "eval/loss"), load_file(weights), state["best_step"]))
    (losses, model, best), (losses_again, model_again, best_again) = found
    assert list(losses) == [2, 4, 6, 8, 10, 12, 14]
    assert losses_again == pytest.approx(losses, abs=1e-5)
    assert best_again == best == min(losses, key=lambda number: losses[number])
    assert all(torch.allclose(model_again[name], value, atol=1e-5) for name, value in model.items())


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("method", "zero_stage"), [("dpo", 3), ("kto", 2), ("sdpo", 2)])
def test_two_ranks_find_what_one_finds(
    tmp_path: Path,
    tiny_model: Path,  # noqa: F811
    method: str,
    zero_stage: int,
):
    """In the last step of the rows held out, one of two ranks has none."""
    found, count = [], 56
    for number in (1, 2):
        folder = tmp_path / str(number)
        hyper = {
            "max_steps": 2,
            "batch_size": 4,
            "micro_batch_size": 2 // number,
            "evaluation": {"holdout_fraction": 0.3, "every_steps": 1},
        }
        distribution = {"num_processes": number, "zero_stage": zero_stage if number == 2 else 0}
        settle(folder, tiny_model, method=method, count=count, hyperparameters=hyper, distribution=distribution)
        assert run(folder, method, num_processes=number) == 0
        text = (folder / "progress.jsonl").read_text()
        found.append([row for row in map(json.loads, text.splitlines()) if "eval/loss" in row])
    (file,) = (folder / "cache").glob("examples-*.arrow")
    assert len(holdout.split(Examples(file), fraction=0.3)[1]) % 4 == 1
    assert len(found[0]) == 2
    for alone, together in zip(*found, strict=True):
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-5)
    assert len(list((folder / "samples" / "step-00000002").iterdir())) == 2
