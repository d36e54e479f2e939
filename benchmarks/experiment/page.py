"""The experiment's table, page and plot from its raw outcomes: docs/results/experiment.{csv,md,png}."""

import csv
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiment.arms import ARMS, BASE, METHOD_ARMS, RATES, REWARD_TRAINING, SHARE_ARMS
from benchmarks.experiment.plot import plot, subtasks
from benchmarks.experiment.summary import MEAN, Outcome, Row, row_of, summarise

NAME = "experiment"
HEAD = """Written by `make experiment`: figures 3 and 4 of the paper in small, on the tiny world. Seeds {seeds};
{prompts} held-out prompts for each, answered at temperature 1 with the same seeds of sampling in every arm. Fully
correct answers by the oracle, %. 95 % intervals are bootstraps over seeds, then prompts. The mean is that of the
subtasks."""
BESIDES = """The intervals by subtask are in the CSV file. PPO+critic and SDPO are not in the paper: the one is
rewarded by the scores that the feedback model gives with its critiques, the other learns from the critiques
themselves."""
REWARDS = """Each arm of PPO drew {rollouts} times {answers} answers to the same prompts, for {steps} steps of the
optimiser. Order: of two answers of the base model to a held-out prompt, how often the reward puts first the one that
is better by the oracle (half is chance). The other columns are means over the first and the last tenth of the steps:
the reward in its own unit, the oracle's mark of the same answers in % of the best, and the KL divergence from the base
model in nats per token. A reward that rises while the oracle's mark does not is being gamed."""
TRAINING = """All arms start from one base model and have the same annotated records and prompts. Learning rates were
chosen on validation prompts of a seed that is not in the tables; the arms with a part of the feedback take over that
of DPO+LLF. The pairs of PPO+LLF, the critic of PPO+critic and the critiques of SDPO are those of DPO+LLF."""
SETTINGS = """Rates tried: DPO {dpo}; PPO {ppo}; SDPO {sdpo}. All else is as in `omnialign demo`. Reward models: rate
{learning_rate:g}, {num_epochs} epochs, SFT weight {sft_weight:g}, and no pair held out."""


def write_results(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Writes `experiment.csv`, `experiment.md` and `experiment.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = summarise(outcomes)
    with (folder / f"{NAME}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / f"{NAME}.md").write_text(as_markdown(rows, outcomes))
    plot(rows, folder / f"{NAME}.png")


def as_markdown(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """The page that people read."""
    parts = (_head(outcomes), _by_method(rows), _by_share(rows), _rewards(outcomes), _training(outcomes))
    return "\n\n".join(block for part in parts for block in part) + "\n"


def _head(outcomes: Sequence[Outcome]) -> Iterator[str]:
    seeds = sorted({outcome["seed"] for outcome in outcomes})
    prompts = sorted({sum(len(flags) for flags in outcome["correct"].values()) for outcome in outcomes})
    yield "# Language feedback against binary preferences"
    yield _paragraph(HEAD, seeds=_listed(seeds), prompts=_listed(prompts))
    yield f"![Both figures]({NAME}.png)"


def _by_method(rows: Sequence[Row]) -> Iterator[str]:
    names, lines = subtasks(rows), []
    for arm in _ran(rows, METHOD_ARMS):
        mean, *others = (row_of(rows, arm, name) for name in names)
        shares = [_share(mean), *(f"{100 * row['right']:.1f}" for row in others)]
        lines.append([arm, *shares, "" if arm == BASE.name else _gain(mean)])
    yield "## By method and subtask (figure 3)"
    yield _table(["arm", *names, "gain of the mean, points"], lines)
    yield _paragraph(BESIDES)


def _by_share(rows: Sequence[Row]) -> Iterator[str]:
    lines = []
    for arm in _ran(rows, ("DPO", *SHARE_ARMS)):
        row = row_of(rows, arm, MEAN)
        pairs = "annotated binary preferences" if row["feedback"] is None else f"{100 * row['feedback']:.0f} % feedback"
        lines.append([pairs, _share(row), _gain(row)])
    yield "## By share of language feedback (figure 4)"
    yield _table(["DPO on pairs of", "right, mean", "gain, points"], lines)


def _rewards(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """How good the rewards are, and what became of them."""
    rewarded = [outcome for arm in METHOD_ARMS for outcome in outcomes if outcome["arm"] == arm and "course" in outcome]
    if not rewarded:
        return
    rollouts, answers, steps = (rewarded[0][name] for name in ("rollouts", "answers", "steps"))
    lines = []
    for outcome in rewarded:
        course, order = outcome["course"], outcome["order"]
        right = "-" if order["share"] is None else f"{100 * order['share']:.0f} % of {order['pairs']}"
        reward = f"{course['reward']['first']:.2f} to {course['reward']['last']:.2f}"
        mark = f"{100 * course['oracle']['first']:.1f} to {100 * course['oracle']['last']:.1f}"
        lines.append([outcome["arm"], outcome["seed"], right, reward, mark, f"{course['kl']['last']:.3f}"])
    yield "## Rewards"
    yield _paragraph(REWARDS, rollouts=rollouts, answers=answers // rollouts, steps=steps)
    yield _table(["arm", "seed", "order", "reward", "oracle's mark", "KL at the end"], lines)


def _training(outcomes: Sequence[Outcome]) -> Iterator[str]:
    lines = []
    for arm in ARMS:
        runs = [outcome for outcome in outcomes if outcome["arm"] == arm.name and arm != BASE]
        if runs:
            learnt_from = dict.fromkeys(_learnt_from(run) for run in runs)
            lines.append([arm.name, *_tuned(runs[0]["settings"]), "; ".join(learnt_from)])
    yield "## How they were trained"
    yield _paragraph(TRAINING)
    yield _table(["arm", "rate", "right on validation prompts, by rate", "learnt from, by seed"], lines)
    rates = {method: _listed([f"{rate:g}" for rate in found]) for method, found in RATES.items() if method}
    yield _paragraph(SETTINGS, **rates, **REWARD_TRAINING)


def _tuned(settings: dict[str, Any]) -> tuple[str, str]:
    tried = "; ".join(f"{one['learning_rate']:g}: {100 * one['validation']:.1f} %" for one in settings["tried"])
    return f"{settings['learning_rate']:g}", tried


def _learnt_from(run: Outcome) -> str:
    if "critiques" in run:
        return f"{run['critiques']} critiques, {run['examples']} examples"
    if run["pairs"] is None:
        return "what the critic says of its answers"
    return f"{run['pairs']} pairs" + (f" of {run['kept']} kept of {run['tried']}" if run.get("tried") else "")


def _ran(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    return [name for name in names if any(row["arm"] == name for row in rows)]


def _share(row: Row) -> str:
    return f"{100 * row['right']:.1f} ({100 * row['right_low']:.1f} to {100 * row['right_high']:.1f})"


def _gain(row: Row) -> str:
    return f"{100 * row['gain']:+.1f} ({100 * row['gain_low']:+.1f} to {100 * row['gain_high']:+.1f})"


def _listed(values: Sequence[Any]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def _paragraph(text: str, **values: Any) -> str:
    return textwrap.fill(" ".join(text.format(**values).split()), 120, break_on_hyphens=False)


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in (head, ["---"] * len(head), *lines))
