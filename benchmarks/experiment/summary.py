"""Shares of right answers and gains over the base model, by arm and subtask, with intervals."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.experiment.arms import ARMS, BASE
from omnialign.rubrics import SUBTASKS

MEAN = "mean"
RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)
Outcome = Mapping[str, Any]
Row = dict[str, Any]
Flags = NDArray[np.float64]  # (prompts, 2): whether the base model's answer is right, and that of the arm


def summarise(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each arm and subtask, and one for the mean of the subtasks.

    `right` is the share of fully correct answers, `gain` how far it is above that of the base model on the same
    prompts; both with a 95 % interval. `feedback` is the share of the language feedback; None where there is none.
    """
    base = {outcome["seed"]: outcome["correct"] for outcome in outcomes if outcome["arm"] == BASE.name}
    rows = []
    for arm in ARMS:
        runs = [outcome for outcome in outcomes if outcome["arm"] == arm.name]
        if not runs:
            continue
        groups = {
            subtask: [_paired(base[run["seed"]][subtask], run["correct"][subtask]) for run in runs]
            for subtask in SUBTASKS
            if subtask in runs[0]["correct"]
        }
        known = {"arm": arm.name, "feedback": arm.source.share, "seeds": len(runs)}
        rows += [{**known, "subtask": name, **_measures([flags])} for name, flags in groups.items()]
        rows.append({**known, "subtask": MEAN, **_measures(list(groups.values()))})
    return rows


def mean_share(verdicts: Mapping[str, Sequence[bool]]) -> float:
    """Share of right answers, given whether each is right by subtask: the mean of the subtasks' shares."""
    return fmean(fmean(flags) for flags in verdicts.values())


def row_of(rows: Sequence[Row], arm: str, subtask: str) -> Row:
    """The row of an arm and a subtask."""
    return next(row for row in rows if (row["arm"], row["subtask"]) == (arm, subtask))


def _paired(base: Sequence[bool], arm: Sequence[bool]) -> Flags:
    return np.array([base, arm], dtype=float).T


def _measures(groups: Sequence[Sequence[Flags]]) -> Row:
    """Of subtasks, each with its seeds. Bootstrap: seeds are drawn again first, then the prompts within each."""
    found = np.array([_shares(groups), *_resampled(groups)])  # (1 + resamples, 2)
    measures: dict[str, float] = {}
    for name, values in (("right", found[:, 1]), ("gain", found[:, 1] - found[:, 0])):
        low, high = np.percentile(values[1:], PERCENTILES)
        measures |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return {name: round(float(value), 4) for name, value in measures.items()}


def _resampled(groups: Sequence[Sequence[Flags]]) -> list[Flags]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        seeds = rng.integers(0, len(groups[0]), len(groups[0]))
        drawn = [[flags[s][rng.integers(0, len(flags[s]), len(flags[s]))] for s in seeds] for flags in groups]
        found.append(_shares(drawn))
    return found


def _shares(groups: Sequence[Sequence[Flags]]) -> Flags:
    """The shares of the base model and of the arm: means over subtasks of means over seeds."""
    return np.asarray(np.mean([np.mean([flags.mean(axis=0) for flags in seeds], axis=0) for seeds in groups], axis=0))
