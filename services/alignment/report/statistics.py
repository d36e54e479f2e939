"""The numbers of a report (`report.json`): shares with 95 % confidence intervals, and what each stage cost.

Pure: no files, no network.

Intervals are those of `omnialign.statistics`, over prompts and paired: the outcomes of a prompt are both wrong, mended,
broken, both right. The mean over subtasks weighs each subtask alike, however many prompts it has, and is resampled
within subtasks.
"""

import datetime
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from omnialign import statistics
from omnialign.v1 import alignment_service_pb2, data_service_pb2, record_pb2
from services.alignment.job import OPTIMIZE, PAIR, REWARD_MODELING, ROUNDS, SAMPLE, VERIFY, of_round
from services.alignment.report.tallies import ALL, HELD_OUT, SEEN, Tallies, Tally

AlignmentJob = alignment_service_pb2.AlignmentJob
StageStatus = alignment_service_pb2.StageStatus
Shares = NDArray[np.float64]  # (1 + resamples, outcomes): the observed shares first, then the resampled ones

PAIR_FATES = ("kept", "tied", "lost", "abstained")
SUBTASKS = ("t2t", "ti2t", "ta2t", "tv2t", "t2i", "t2a", "t2v", "ti2ti")  # the order in which people expect them
TOP_SCORE = 3

MARKS = ((False, False), (False, True), (True, False), (True, True))  # (base correct, aligned correct)
BASE_CORRECT = np.array([base for base, _ in MARKS], dtype=float)
ALIGNED_CORRECT = np.array([aligned for _, aligned in MARKS], dtype=float)

VERDICTS: dict[str, int] = {
    "win": record_pb2.VERDICT_WIN,
    "tie": record_pb2.VERDICT_TIE,
    "loss": record_pb2.VERDICT_LOSS,
    "abstain": record_pb2.VERDICT_ABSTAIN,
}
WIN_POINTS = np.array([1.0, 0.5, 0.0])

SCORES = tuple((base, aligned) for base in range(TOP_SCORE + 1) for aligned in range(TOP_SCORE + 1))
BASE_SCORE = np.array([base for base, _ in SCORES], dtype=float)
ALIGNED_SCORE = np.array([aligned for _, aligned in SCORES], dtype=float)


def report_numbers(
    job: AlignmentJob,
    *,
    tallies: Tallies,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    edges: Sequence[data_service_pb2.LineageEdge],
) -> dict[str, Any]:
    """The content of `report.json`. Shares are 0 to 1, times seconds, and what was not measured is null."""
    pairs = {"tried": job.pairs.tried, **{fate: getattr(job.pairs, fate) for fate in PAIR_FATES}}
    stages = {status.stage: _stage(status, kept=job.pairs.kept) for status in job.stages}
    return {
        "job": job.name,
        "created": job.create_time.ToDatetime(datetime.UTC).isoformat(timespec="seconds"),
        "seed": job.spec.seed,
        "models": {name: getattr(job.models, name) for name in ("base", "feedback", "judge", "aligned")},
        "dataset": job.spec.dataset,
        **evaluate(tallies, seed=job.spec.seed),
        "pairs": pairs,
        "gate": gate(job.gate),
        "rounds": rounds(job),
        "reinforcement": reinforcement(job, curves),
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages.values()),
        "tokens": sum(stage["tokens"] for stage in stages.values()),
        "training": {name: list(points) for name, points in curves.items()},
        "lineage": [{"source": e.source, "target": e.target, "relation": e.relation} for e in edges],
        "spec": json_format.MessageToDict(job.spec, preserving_proto_field_name=True),
    }


def gate(found: alignment_service_pb2.GateCalibration) -> dict[str, Any] | None:
    """How the gate decided, and what it was calibrated on; None for a job that did not calibrate one."""
    if not found.rule:
        return None

    def rule_yield(measured: alignment_service_pb2.RuleYield) -> dict[str, float | None]:
        return {"share": measured.share, "precision": measured.precision if measured.HasField("precision") else None}

    is_probability = found.rule == found.RULE_PROBABILITY
    return {
        "rule": "probability" if is_probability else "words",
        "reason": found.reason,
        "message": found.message,
        "method": "logistic, of the mean margin of both orders",
        "precision": found.precision,
        "pairs": found.pairs,
        "slope": found.slope,
        "threshold": found.threshold if is_probability else None,
        "accuracy": found.accuracy if found.pairs else None,
        "by_probability": rule_yield(found.by_probability),
        "by_words": rule_yield(found.by_words),
        "reliability": [
            {"count": b.count, "predicted": b.predicted, "observed": b.observed} for b in found.reliability
        ],
    }


def rounds(job: AlignmentJob) -> list[dict[str, Any]]:
    """What the gate kept in each round that sampled, and the policy that came of it; empty without a loop."""
    statuses, found = {status.stage: status for status in job.stages}, []
    for number in ROUNDS:
        verify = statuses.get(of_round(VERIFY, number))
        if verify is None or "kept" not in verify.metrics:
            break
        fates = {fate: int(verify.metrics[fate]) for fate in ("kept", "tied", "lost")}
        tried, pair = statuses[of_round(SAMPLE, number)].total, statuses[of_round(PAIR, number)]
        policy = job.models.policies[number - 1] if len(job.models.policies) >= number else ""
        kept = fates["kept"] / tried if tried else None
        found.append(
            {"round": number, "tried": tried, **fates, "yield": kept, "pairs": pair.completed, "policy": policy}
        )
    return found


def reinforcement(job: AlignmentJob, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """What each run that was rewarded learnt to get; empty for other methods.

    Of the reward, each of its terms (those of weight 0 too, which are only measured), the KL divergence from the start
    in nats per token and the length in tokens, the means over the first and the last tenth of the steps. A learnt term
    that rises while a checker falls is being gamed. Beside them stands the share of held-out pairs that the run's own
    reward model orders rightly, if the job trained one.
    """
    statuses, found = {status.stage: status for status in job.stages}, []
    for number in ROUNDS:
        stage, reward = of_round(OPTIMIZE, number), statuses.get(of_round(REWARD_MODELING, number))
        runs = [points for name, points in curves.items() if name.startswith(f"{stage}/")]
        rewarded = [point for points in runs for point in points if "rewards/mean" in point]
        if not rewarded:
            continue
        tenth = max(len(rewarded) // 10, 1)
        measures = [name for name in rewarded[-1] if name.startswith("rewards/") and name != "rewards/std"]
        found.append(
            {
                "round": number,
                "reward_model_accuracy": reward.metrics.get("eval/accuracy") if reward else None,
                "measures": {
                    name: {"first": _mean(rewarded[:tenth], name), "last": _mean(rewarded[-tenth:], name)}
                    for name in [*sorted(measures), "kl", "completions/length"]
                },
            }
        )
    return found


def _mean(points: Sequence[Mapping[str, float]], name: str) -> float | None:
    """The mean of a measure over the points that have it."""
    values = [point[name] for point in points if name in point]
    return sum(values) / len(values) if values else None


def evaluate(tallies: Tallies, *, seed: int = 0) -> dict[str, Any]:
    """Measures by subtask and their mean over subtasks, as `report.json` holds them.

    Returns `{"subtasks": {name: measures}, "mean": measures}`. `measures` has `prompts`; `base`, `aligned` and `gain`
    (shares of fully correct answers, 0 to 1, over the prompts that a checker marked); `dimensions` (mean scores 0 to
    3); `judge` (shares of the compared prompts); `win_rate` (wins and half the ties over the judged prompts); and the
    first three again under `seen` and `held_out`. Each has a `..._interval` beside it. What was not measured is None.
    """
    names = sorted(tallies, key=subtask_order)
    return {
        "subtasks": {name: _measures({name: tallies[name]}, seed=seed) for name in names},
        "mean": _measures({name: tallies[name] for name in names}, seed=seed),
    }


def subtask_order(name: str) -> tuple[int, str]:
    """Sorting key of subtasks: the eight of align-anything-200k in their usual order, others after them by name."""
    return (SUBTASKS.index(name) if name in SUBTASKS else len(SUBTASKS), name)


def _measures(groups: Mapping[str, Tally], *, seed: int) -> dict[str, Any]:
    return {
        **_part(groups, ALL, seed=seed),
        **_judgement(groups, seed=seed),
        "dimensions": _dimensions(groups, seed=seed),
        "seen": _part(groups, SEEN, seed=seed),
        "held_out": _part(groups, HELD_OUT, seed=seed),
    }


def _part(groups: Mapping[str, Tally], part: str, *, seed: int) -> dict[str, Any]:
    counts = {name: tally.marks[part] for name, tally in groups.items()}
    shares = _mean_shares(counts, MARKS, seed=seed, measure=f"correct/{part}")
    return {
        "prompts": sum(tally.prompts[part] for tally in groups.values()),
        **_measure("base", shares, BASE_CORRECT),
        **_measure("aligned", shares, ALIGNED_CORRECT),
        **_measure("gain", shares, ALIGNED_CORRECT - BASE_CORRECT),
        "checked": sum(marked.total() for marked in counts.values()),
    }


def _judgement(groups: Mapping[str, Tally], *, seed: int) -> dict[str, Any]:
    counts = {name: tally.verdicts for name, tally in groups.items()}
    shares = _mean_shares(counts, tuple(VERDICTS.values()), seed=seed, measure="judge")
    judged = _mean_shares(counts, tuple(VERDICTS.values())[:3], seed=seed, measure="win_rate")
    return {
        "judge": {name: None if shares is None else float(shares[0, i]) for i, name in enumerate(VERDICTS)},
        "compared": sum(verdicts.total() for verdicts in counts.values()),
        **_measure("win_rate", judged, WIN_POINTS),
    }


def _dimensions(groups: Mapping[str, Tally], *, seed: int) -> dict[str, dict[str, Any]]:
    names = sorted({dimension for tally in groups.values() for dimension in tally.scores})
    return {name: _dimension(groups, name, seed=seed) for name in names}


def _dimension(groups: Mapping[str, Tally], name: str, *, seed: int) -> dict[str, Any]:
    counts = {subtask: tally.scores.get(name, Counter()) for subtask, tally in groups.items()}
    shares = _mean_shares(counts, SCORES, seed=seed, measure=f"dimension/{name}")
    return {**_measure("base", shares, BASE_SCORE), **_measure("aligned", shares, ALIGNED_SCORE)}


def _mean_shares(
    groups: Mapping[str, Mapping[Any, int]], outcomes: Sequence[Hashable], *, seed: int, measure: str
) -> Shares | None:
    """Shares of each outcome, averaged over the subtasks that have any; None when none has."""
    parts = []
    for name, counts in groups.items():
        known = np.array([counts.get(value, 0) for value in outcomes])
        if known.sum():
            parts.append(_resample(known, seed=seed, stream=f"{measure}/{name}"))
    return np.mean(parts, axis=0) if parts else None


def _resample(counts: NDArray[np.int64], *, seed: int, stream: str) -> Shares:
    """The observed shares, and below them those of the bootstrap samples."""
    drawn = statistics.resample(counts, statistics.stream(seed, stream))
    return np.vstack([counts, drawn]) / int(counts.sum())


def _measure(name: str, shares: Shares | None, values: NDArray[np.float64]) -> dict[str, Any]:
    if shares is None:
        return {name: None, f"{name}_interval": None}
    estimates = shares @ values
    return {name: float(estimates[0]), f"{name}_interval": list(statistics.interval(estimates[1:]))}


def _stage(status: StageStatus, *, kept: int) -> dict[str, Any]:
    seconds = status.elapsed.ToNanoseconds() / 1e9
    return {
        "state": StageStatus.State.Name(status.state).removeprefix("STATE_").lower(),
        "seconds": seconds,
        "completed": status.completed,
        "total": status.total,
        "quarantined": status.quarantined,
        "abstained": status.abstained,
        "tokens": status.tokens,
        "seconds_per_kept_pair": seconds / kept if kept else None,
        "tokens_per_kept_pair": status.tokens / kept if kept else None,
        "metrics": {name: value if math.isfinite(value) else None for name, value in status.metrics.items()},
    }
