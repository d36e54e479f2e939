"""How good the benchmark and its judges are: the oracle looks at every answer that they scored.

It reads the table of scores of an evaluation and knows nothing else of it.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from examples.tinyworld import oracle
from examples.tinyworld.examiners import synergy, take_apart
from omnialign.content import media_of
from omnialign.modeling.inputs import pieces
from omnialign.statistics import RESAMPLES, interval, rank_correlation, stream
from omnialign.v1 import record_pb2

LABEL = "evaluation."
"""How the labels begin that say which benchmark, item and model a score is of."""
RATED = {"understanding", "following"}
RIGHT, WRONG = 10.0, 0.0


@dataclass(frozen=True)
class Verdict:
    """A score that a judge gave, and the one that the oracle gives for the same."""

    benchmark: str
    item: str
    model: int
    is_ablated: bool
    group: str
    aspect: str
    judged: float
    true: float


@dataclass
class Yardstick:
    """All verdicts of an evaluation."""

    verdicts: list[Verdict] = field(default_factory=list)

    def look(self, record: record_pb2.Record, media: Mapping[str, bytes]) -> None:
        """Adds what the oracle says of a scored answer. Its digests are in `media`."""
        labels = record.labels
        if f"{LABEL}model" not in labels:
            return
        prompt, answer = pieces(record.prompt, media), pieces(record.responses[-1].content, media)
        shares: Mapping[str, float] = {f"synergy-{pair}": share for pair, share in synergy(answer).items()}
        asked = {question.id: question for question in record.benchmark_item.questions}
        for found in record.responses[-1].assessments:
            if found.abstain_reason:
                continue
            if found.aspect in RATED:
                true = float(oracle.rating(prompt, answer, record.subtask))
            elif found.aspect in asked:
                true = _answered(asked[found.aspect], answer)
            elif found.aspect in shares:
                true = shares[found.aspect]
            else:
                continue
            self.verdicts.append(
                Verdict(
                    benchmark=labels[f"{LABEL}benchmark"],
                    item=labels[f"{LABEL}item"],
                    model=int(labels[f"{LABEL}model"]),
                    is_ablated=f"{LABEL}ablated" in labels,
                    group=record.benchmark_item.category or record.subtask,
                    aspect="question" if found.aspect in asked else found.aspect,
                    judged=found.score,
                    true=true,
                )
            )

    def of(self, *aspects: str) -> list[Verdict]:
        """The verdicts on some aspects."""
        return [verdict for verdict in self.verdicts if verdict.aspect in aspects]

    def true_means(self, model: int) -> dict[str, float]:
        """What a model would have with the oracle as its judge: the mean of each part, and AMU."""
        groups: dict[str, list[float]] = {}
        for one in self.verdicts:
            if one.model == model and not one.is_ablated:
                name = (
                    one.aspect if one.aspect.startswith("synergy") else f"{one.benchmark.partition('-')[0]}/{one.group}"
                )
                groups.setdefault(name, []).append(one.true)
        means = {name: fmean(found) for name, found in sorted(groups.items())}
        categories = [mean for name, mean in means.items() if name.startswith("amu/")]
        return means | ({"amu": fmean(categories)} if categories else {})


def agreement(verdicts: Iterable[Verdict], *, seed: int = 0) -> dict[str, Any]:
    """How often a judge orders two answers to one item as the oracle does, among those that the oracle tells apart.

    Equal scores are half right. The interval is a bootstrap over items.
    """
    items: dict[tuple[str, str, str], list[Verdict]] = {}
    for one in verdicts:
        items.setdefault((one.benchmark, one.item, one.aspect), []).append(one)
    rows = [row for found in items.values() if (row := _ordered(found))[1]]
    if not rows:
        return {"value": None, "interval": None, "pairs": 0}
    sums = np.array(rows, dtype=np.float64)  # (items, right and all)
    drawn = stream(seed, "agreement").integers(len(sums), size=(RESAMPLES, len(sums)))
    totals = sums[drawn].sum(axis=1)
    right, pairs = sums.sum(axis=0)
    return {"value": right / pairs, "interval": list(interval(totals[:, 0] / totals[:, 1])), "pairs": int(pairs)}


def correlation(verdicts: Sequence[Verdict]) -> float | None:
    """The rank correlation of the scores of judge and oracle."""
    return rank_correlation([one.judged for one in verdicts], [one.true for one in verdicts])


def digests(record: record_pb2.Record) -> set[str]:
    """The media that an answer to an item, and the item, have."""
    return {medium.sha256 for medium in media_of([record.prompt, record.responses[-1].content])}


def _ordered(found: Sequence[Verdict]) -> tuple[float, int]:
    """The number of pairs that were ordered rightly, and of all."""
    pairs = [(a, b) for a, b in itertools.combinations(found, 2) if a.true != b.true]
    return sum(0.5 + 0.5 * np.sign((a.judged - b.judged) * (a.true - b.true)) for a, b in pairs), len(pairs)


def _answered(question: record_pb2.MultipleChoiceQuestion, answer: Sequence[Any]) -> float:
    """10 if what an answer shows is what the question's right choice says, else 0."""
    shown = [seen.thing.values for seen in take_apart(answer).media.values()]
    return RIGHT if any(question.choices[question.correct - 1] in values for values in shown) else WRONG
