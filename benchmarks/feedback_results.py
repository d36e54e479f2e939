"""The feedback-efficiency experiment's table, CSV and plot from its raw outcomes."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
Outcome = dict[str, Any]
Flags = NDArray[np.float64]


def write_results(outcomes: Sequence[Outcome], folder: Path, *, grid: Sequence[tuple[float, float]]) -> None:
    """Writes feedback_efficiency.{csv,md,png} into a folder; `grid` is what rate and SFT weight were chosen from."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = summarise(outcomes)
    with (folder / "feedback_efficiency.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "feedback_efficiency.md").write_text(as_markdown(rows, outcomes, grid))
    plot(rows, folder / "feedback_efficiency.png")


def summarise(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row per arm and subtask, and one for the mean of the subtasks: shares and gain with a 95 % interval."""
    rows = []
    for arm in dict.fromkeys(outcome["arm"] for outcome in outcomes):
        runs = [outcome for outcome in outcomes if outcome["arm"] == arm]
        subtasks = list(runs[0]["correct"])
        flags = {name: [np.array(run["correct"][name], dtype=float) for run in runs] for name in subtasks}
        rows += [_row(arm, name, [flags[name]], len(runs)) for name in subtasks]
        rows.append(_row(arm, "mean", list(flags.values()), len(runs)))
    return rows


def _row(arm: str, subtask: str, groups: list[list[Flags]], num_seeds: int) -> dict[str, Any]:
    base, aligned = np.mean([np.mean([run.mean(axis=0) for run in group], axis=0) for group in groups], axis=0)
    low, high = _interval(groups)
    values = {"base": base, "aligned": aligned, "gain": aligned - base, "gain_low": low, "gain_high": high}
    return {"arm": arm, "subtask": subtask, "seeds": num_seeds, **{k: round(float(v), 4) for k, v in values.items()}}


def _interval(groups: list[list[Flags]]) -> tuple[float, float]:
    """Bootstrap of the mean gain: seeds are drawn again first, then the prompts within each."""
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(RESAMPLES):
        seeds = rng.integers(0, len(groups[0]), len(groups[0]))
        drawn = [[group[s][rng.integers(0, len(group[s]), len(group[s]))] for s in seeds] for group in groups]
        means = np.mean([np.mean([run.mean(axis=0) for run in group], axis=0) for group in drawn], axis=0)
        gains.append(means[1] - means[0])
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def as_markdown(
    rows: Sequence[dict[str, Any]], outcomes: Sequence[Outcome], grid: Sequence[tuple[float, float]]
) -> str:
    """The page that people read."""
    lines = [
        "# Feedback efficiency",
        "",
        "Written by `make bench-feedback`. Share of fully correct answers by the oracle on held-out prompts, sampled",
        f"at temperature 1; {outcomes[0]['pairs']} pairs in every arm; {rows[0]['seeds']} seeds; 95 % intervals by",
        "bootstrap over seeds and prompts.",
        "",
        "| arm | subtask | base | aligned | gain | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        interval = f"{100 * row['gain_low']:+.1f} to {100 * row['gain_high']:+.1f}"
        shares = f"{100 * row['base']:.1f} | {100 * row['aligned']:.1f} | {100 * row['gain']:+.1f}"
        lines.append(f"| {row['arm']} | {row['subtask']} | {shares} | {interval} |")
    tried = ", ".join(f"({rate:g}, {weight:g})" for rate, weight in grid)
    lines += ["", "Settings chosen per arm on validation prompts of a seed that is not in the table,"]
    lines += [f"out of these (rate, SFT weight): {tried}:", ""]
    for arm, settings in {outcome["arm"]: outcome["settings"] for outcome in outcomes}.items():
        lines.append(
            f"- {arm}: rate {settings['learning_rate']:g}, SFT weight {settings['sft_weight']:g} "
            f"(validation {100 * settings['validation']:.1f} %)"
        )
    lines += ["", "What the gate kept, from which the pairs of the arm were drawn, by seed:", ""]
    for arm in dict.fromkeys(outcome["arm"] for outcome in outcomes):
        gates = [outcome["gate"] for outcome in outcomes if outcome["arm"] == arm]
        lines.append(f"- {arm}: " + ", ".join(f"{gate['kept']} of {gate['tried']}" for gate in gates))
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Gain over the base model per arm: the mean large, each subtask small."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = ["mean", *dict.fromkeys(row["subtask"] for row in rows if row["subtask"] != "mean")]
    figure, axes = plt.subplots(3, 3, figsize=(11, 8.5), sharey=True, constrained_layout=True)
    for axis, name in zip(axes.flat, names, strict=True):
        chosen = [row for row in rows if row["subtask"] == name]
        gains = np.array([100 * row["gain"] for row in chosen])
        errors = np.abs(np.array([[100 * row["gain_low"], 100 * row["gain_high"]] for row in chosen]).T - gains)
        colours = ["#9ca3af" if row["arm"].startswith("binary") else "#2563eb" for row in chosen]
        axis.bar(range(len(chosen)), gains, yerr=errors, color=colours, ecolor="#374151", capsize=3)
        axis.set_title(name, fontweight="bold" if name == "mean" else "normal")
        axis.set_xticks(range(len(chosen)), [row["arm"].replace(" ", "\n", 1) for row in chosen], fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supylabel("gain in fully correct answers over the base model, points")
    figure.savefig(path, dpi=130)
    plt.close(figure)
