"""Which answers the report shows, and in what form.

The choice is drawn by the job's seed, not by how well an answer looks: within each outcome the order is that of a hash
of seed and record id, so the page is reproducible and shows failures beside successes.
"""

import bisect
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from omnialign.content import asked_of
from omnialign.v1 import content_pb2, record_pb2
from services.alignment.report import statistics
from services.alignment.report.tallies import is_held_out, marks
from services.pipeline.pages import messages
from services.pipeline.pages.messages import pieces
from services.pipeline.pages.pictures import Picture

Record = record_pb2.Record

EXAMPLES_PER_SUBTASK = 4
QUOTA = (("improved", 2), ("still wrong", 1), ("regressed", 1), ("right before and after", 1), ("not checked", 2))
OUTCOMES = {
    (False, True): "improved",
    (False, False): "still wrong",
    (True, False): "regressed",
    (True, True): "right before and after",
}
VERDICTS = {
    record_pb2.VERDICT_WIN: "win",
    record_pb2.VERDICT_TIE: "tie",
    record_pb2.VERDICT_LOSS: "loss",
    record_pb2.VERDICT_ABSTAIN: "abstain",
}
REFUSED = ("loss", "tie", "abstain")


def outcome(record: Record) -> str:
    """What alignment did to this prompt's answer, in a few words."""
    marked = marks(record)
    return "not checked" if marked is None else OUTCOMES[marked]


def verdict(record: Record) -> str:
    """The judge's verdict as a word; empty where it did not judge."""
    return VERDICTS.get(record.comparison.verdict, "")


class AnswerChoice:
    """Examples of the evaluation by subtask: two improved, one still wrong, one regressed, as far as there are any.

    Free places go to answers that were right before and after.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._best: dict[str, dict[str, Best]] = {}  # by subtask and outcome

    def add(self, record: Record) -> None:
        """Takes in a record."""
        if record.responses:
            outcomes = self._best.setdefault(
                record.subtask, {kind: Best(count, seed=self._seed) for kind, count in QUOTA}
            )
            outcomes[outcome(record)].add(record)

    def close(self) -> dict[str, list[Record]]:
        """The examples of what was taken in."""
        return {
            name: [record for kind, _ in QUOTA for record in self._best[name][kind].records][:EXAMPLES_PER_SUBTASK]
            for name in sorted(self._best, key=statistics.subtask_order)
        }


class FeedbackChoice:
    """Examples of the loop: one kept refinement by subtask, and one of each way in which the gate refused one."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._kept: dict[str, Best] = {}
        self._refused = {word: Best(1, seed=seed) for word in REFUSED}

    def add(self, record: Record) -> None:
        """Takes in a record."""
        word = verdict(record) if record.responses else ""
        if word == "win":
            self._kept.setdefault(record.subtask, Best(1, seed=self._seed)).add(record)
        elif word:
            self._refused[word].add(record)

    def close(self) -> list[Record]:
        """The examples of what was taken in."""
        kept = (self._kept[name] for name in sorted(self._kept, key=statistics.subtask_order))
        return [record for best in (*kept, *self._refused.values()) for record in best.records]


class Best:
    """The first few records, in an order that is drawn by a seed."""

    def __init__(self, count: int, *, seed: int) -> None:
        self._count, self._seed = count, seed
        self._ranked: list[tuple[bytes, Record]] = []

    def add(self, record: Record) -> None:
        """Takes in a record."""
        place = hashlib.sha256(f"{self._seed}:{record.id}".encode()).digest()
        bisect.insort(self._ranked, (place, record), key=lambda ranked: ranked[0])
        del self._ranked[self._count :]

    @property
    def records(self) -> list[Record]:
        """The records, in order."""
        return [record for _, record in self._ranked]


def media_of(records: Iterable[Record]) -> dict[str, content_pb2.Media]:
    """The media that these records show, by digest."""
    return messages.media_of(
        message for r in records for message in (*asked_of(r), *(one.content for one in r.responses[:2]))
    )


def answer_card(record: Record, shown: Mapping[str, Picture]) -> dict[str, Any]:
    """One example of the evaluation for the template."""
    marked = marks(record)
    return {
        "id": record.id,
        "outcome": outcome(record),
        "held_out": is_held_out(record),
        "verdict": verdict(record),
        "history": messages.earlier(record, shown),
        "prompt": pieces(record.prompt, shown),
        "answers": [
            {
                "title": title,
                "correct": None if marked is None else marked[i],
                "pieces": pieces(record.responses[i].content, shown),
                "scores": _scores(record.responses[i].feedback),
                "critique": record.responses[i].feedback.critique,
            }
            for i, title in enumerate(("Base", "Aligned"))
        ],
    }


def feedback_card(record: Record, shown: Mapping[str, Picture]) -> dict[str, Any]:
    """One example of prompt, answer, feedback, refinement and verdict for the template."""
    feedback = record.responses[0].feedback
    return {
        "id": record.id,
        "subtask": record.subtask,
        "verdict": verdict(record),
        "history": messages.earlier(record, shown),
        "prompt": pieces(record.prompt, shown),
        "answer": pieces(record.responses[0].content, shown),
        "scores": _scores(feedback),
        "critique": feedback.critique,
        "refinement": feedback.refinement,
        "refined": pieces(record.responses[1].content, shown) if len(record.responses) > 1 else [],
        "forward_reason": record.comparison.forward_reason,
        "backward_reason": record.comparison.backward_reason,
        "abstain_reason": record.comparison.abstain_reason,
    }


def _scores(feedback: record_pb2.Feedback) -> list[dict[str, Any]]:
    return [{"dimension": s.dimension, "score": s.score, "rationale": s.rationale} for s in feedback.scores]
