"""The ZeRO matrix: every method at every stage on two ranks with unlike media learns as one rank does.

Full weights and LoRA, with and without offload, in pairwise combinations. The processes are those of a run, with
DeepSpeed, gloo and the watchdog; see `forked_ranks` for what they are spared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.model_factory.families import FAMILIES
from tests.training.forked_ranks import kinds_seen, run_ranks
from tests.training.method_samples import samples_for
from tests.training.multimodal import measures, medium, prepare, question
from training.launch import read_failure
from training.methods import METHODS
from training.samples import Sample

NAME = "qwen2_5_omni"
STEPS = 3
TOLERANCE = 2e-4
OFFLOADS = {0: ("",), 1: ("", "optimizer"), 2: ("optimizer", ""), 3: ("optimizer_and_weights", "", "optimizer")}
"""What each stage can keep in the machine's memory."""
ROLLOUT = {"rewards": [{"well_formed": True}]}
ENGINE = {"refinement_address": "127.0.0.1:1"}
"""Is not called: answers are fixed."""
OWN: dict[str, dict[str, Any]] = {
    "grpo": {**ENGINE, "beta": 0.1, "grpo": {"group_size": 2, "rollout": ROLLOUT}},
    "ppo": {**ENGINE, "ppo": {"num_samples": 2, "rollout": ROLLOUT}},
}
"""Settings with which a method takes part with all that it has, such as a reference."""


@dataclass(frozen=True)
class Case:
    """A run: its method, on so many ranks, and where its weights and states are."""

    method: str
    lora: bool
    zero_stage: int = 0
    offload: str = ""
    num_processes: int = 2

    def __str__(self) -> str:
        tuning = "lora" if self.lora else "full"
        return "-".join(filter(None, (self.method, f"zero{self.zero_stage}", tuning, self.offload)))


def cases() -> Iterator[Case]:
    """Each method at each stage that it allows; the other settings so that every two values of them meet."""
    for (number, method), stage in product(enumerate(METHODS), OFFLOADS):
        if (method, stage) == ("sdpo", 3):  # its teacher changes places with whole weights
            continue
        choices = OFFLOADS[stage]
        place = number if stage == 3 else number // 2
        yield Case(method, (number + stage) % 2 == 1, stage, choices[place % len(choices)])


CASES = list(cases())


def pairs() -> list[Sample]:
    """Questions with a picture, a sound, a video, and nothing."""
    shown = [medium(kind, seed=2) for kind in ("image", "audio", "video")]
    asked = [question("What is it?", piece) for piece in shown] + [question(f"Who is {n}?") for n in range(3)]
    return [Sample(turns, ((f"It is number {n}.",), ("No.",))) for n, turns in enumerate(asked)]


def run(case: Case, folder: Path, base: Path) -> list[dict[str, float]]:
    """Runs a case to its end, and returns what was measured in each step, but for tokens: fillers are among them."""
    settings: dict[str, Any] = dict(OWN.get(case.method, {}))
    if case.lora:
        settings["lora"] = {"rank": 4, "merge": case.method == "reward"}  # a LoRA has no place for the reward head
    prepare(
        folder,
        base=base,
        method=case.method,
        samples=samples_for(case.method, pairs()),
        num_processes=case.num_processes,
        zero_stage=case.zero_stage,
        offload=case.offload,
        max_steps=STEPS,
        batch_size=2,
        learning_rate=0.02 if case.lora else 2e-3,
        no_warmup=True,
        **settings,
    )
    codes = run_ranks(folder, case.method, num_processes=case.num_processes)
    assert codes == [0] * case.num_processes, (folder / "log-0.txt").read_text()[-3000:]
    assert read_failure(folder) is None  # the watchdog had nothing to say
    return [{name: value for name, value in row.items() if name != "tokens"} for row in measures(folder)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[NAME].build(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], list[dict[str, float]]]:
    """What one rank measures that trains a method's full weights or a LoRA."""
    known: dict[Case, list[dict[str, float]]] = {}

    def found(method: str, lora: bool) -> list[dict[str, float]]:
        case = Case(method, lora, num_processes=1)
        if case not in known:
            known[case] = run(case, tmp_path_factory.mktemp(str(case)), base)
        return known[case]

    return found


@pytest.mark.families
@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_with_unlike_media_learn_as_one_does(
    case: Case, base: Path, alone: Callable[[str, bool], list[dict[str, float]]], tmp_path: Path
):
    wanted, found = alone(case.method, case.lora), run(case, tmp_path, base)
    assert len(found) == len(wanted) == STEPS
    for one, two in zip(wanted, found, strict=True):
        assert two == pytest.approx(one, rel=TOLERANCE, abs=TOLERANCE)
    assert max(abs(row["loss"] - wanted[0]["loss"]) for row in wanted) > 10 * TOLERANCE  # it learns
    assert wanted[0]["grad_norm"] > 10 * TOLERANCE
    batches = list(zip(kinds_seen(tmp_path, rank=0), kinds_seen(tmp_path, rank=1), strict=True))
    assert any(bool(first) != bool(second) for first, second in batches)  # text alone beside media


def test_every_two_settings_meet_somewhere():
    stages = {(case.method, case.zero_stage) for case in CASES}
    assert len(stages) == len(CASES) == len(METHODS) * len(OFFLOADS) - 1
    assert {(case.method, case.lora) for case in CASES} == set(product(METHODS, (False, True)))
    assert {(case.method, bool(case.offload)) for case in CASES} == set(product(METHODS, (False, True)))
    places = {(stage, offload) for stage, choices in OFFLOADS.items() for offload in choices}
    assert {(case.lora, (case.zero_stage, case.offload)) for case in CASES} == set(product((False, True), places))
