"""Both figures in one picture: arms by subtask above, gain against share of feedback below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.experiment.arms import METHOD_ARMS, SHARE_ARMS
from benchmarks.experiment.summary import MEAN, Row, row_of

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#d1d5db", "#93c5fd", "#fca5a5", "#2563eb", "#dc2626", "#f59e0b", "#059669")
"""Of the arms of figure 3: pale without language feedback."""


def plot(rows: Sequence[Row], path: Path) -> None:
    """Writes the picture. Arms that were not run are left out."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 9), constrained_layout=True)
    _by_subtask(above, rows)
    _by_share(below, rows)
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def subtasks(rows: Sequence[Row]) -> list[str]:
    """The subtasks in the order of the rows, their mean first."""
    return [MEAN, *dict.fromkeys(row["subtask"] for row in rows if row["subtask"] != MEAN)]


def _by_subtask(axis: Any, rows: Sequence[Row]) -> None:
    arms = [name for name in METHOD_ARMS if any(row["arm"] == name for row in rows)]
    names, width = subtasks(rows), 0.85 / len(arms)
    for place, arm in enumerate(arms):
        found = [row_of(rows, arm, name) for name in names]
        where = np.arange(len(names)) + (place - (len(arms) - 1) / 2) * width
        colour = COLOURS[METHOD_ARMS.index(arm)]
        axis.bar(where, _percent(found, "right"), width, yerr=_errors(found, "right"), label=arm, color=colour)
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel("fully correct answers, %")
    axis.legend(ncols=len(arms), frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.1))


def _by_share(axis: Any, rows: Sequence[Row]) -> None:
    arms = [name for name in SHARE_ARMS if any(row["arm"] == name for row in rows)]
    for name in subtasks(rows) if arms else ():
        found = [row_of(rows, arm, name) for arm in arms]
        where = [100 * row["feedback"] for row in found]
        if name == MEAN:
            errors = _errors(found, "gain")
            axis.errorbar(where, _percent(found, "gain"), errors, color="#2563eb", marker="o", capsize=4, label="mean")
        else:
            axis.plot(where, _percent(found, "gain"), color="#bfdbfe", linewidth=1, zorder=0)
            axis.annotate(
                name, (where[-1], 100 * found[-1]["gain"]), xytext=(4, 0), textcoords="offset points", fontsize=8
            )
    if any(row["arm"] == "DPO" for row in rows):
        binary = row_of(rows, "DPO", MEAN)
        axis.axhline(100 * binary["gain"], color="#6b7280", linestyle="--", label="DPO on annotated preferences")
        axis.axhspan(100 * binary["gain_low"], 100 * binary["gain_high"], color="#e5e7eb", zorder=-1)
    axis.set_xticks([100 * row_of(rows, arm, MEAN)["feedback"] for arm in arms])
    axis.set_xlabel("share of the annotated language feedback, %")
    axis.set_ylabel("gain of DPO+LLF over the base model, points")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False)


def _percent(rows: Sequence[Row], name: str) -> list[float]:
    return [100 * row[name] for row in rows]


def _errors(rows: Sequence[Row], name: str) -> list[list[float]]:
    """How far the interval reaches below and above; a percentile interval need not hold its estimate."""
    below = [max(100 * (row[name] - row[f"{name}_low"]), 0.0) for row in rows]
    return [below, [max(100 * (row[f"{name}_high"] - row[name]), 0.0) for row in rows]]
