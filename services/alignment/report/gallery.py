"""Which answers the report shows, and in what form.

The choice is drawn by the job's seed, not by how well an answer looks: within each outcome the order is that of a hash
of seed and record id, so the page is reproducible and shows failures beside successes.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from omnialign.v1 import content_pb2, record_pb2
from services.alignment.report import statistics
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
    marked = statistics.marks(record)
    return "not checked" if marked is None else OUTCOMES[marked]


def verdict(record: Record) -> str:
    """The judge's verdict as a word; empty where it did not judge."""
    return VERDICTS.get(record.comparison.verdict, "")


def choose_answers(records: Iterable[Record], *, seed: int) -> dict[str, list[Record]]:
    """Examples of the evaluation by subtask: two improved, one still wrong, one regressed, as far as there are any.

    Free places go to answers that were right before and after.
    """
    chosen: dict[str, list[Record]] = {}
    for name, group in _by_subtask(records).items():
        ranked = _ranked(group, seed=seed)
        picked = [r for kind, count in QUOTA for r in [r for r in ranked if outcome(r) == kind][:count]]
        chosen[name] = picked[:EXAMPLES_PER_SUBTASK]
    return chosen


def choose_feedback(records: Iterable[Record], *, seed: int) -> list[Record]:
    """Examples of the loop: one kept refinement by subtask, and one of each way in which the gate refused one."""
    groups = _by_subtask(records)
    kept = [_first(_ranked(group, seed=seed), lambda r: verdict(r) == "win") for group in groups.values()]
    everything = _ranked([r for group in groups.values() for r in group], seed=seed)
    refused = [_first(everything, lambda r, word=word: verdict(r) == word) for word in REFUSED]  # type: ignore[misc]
    return [record for record in (*kept, *refused) if record is not None]


def media_of(records: Iterable[Record]) -> dict[str, content_pb2.Media]:
    """The media that these records show, by digest."""
    return messages.media_of(m for r in records for m in (r.prompt, *(one.content for one in r.responses[:2])))


def answer_card(record: Record, shown: Mapping[str, Picture]) -> dict[str, Any]:
    """One example of the evaluation for the template."""
    marked = statistics.marks(record)
    return {
        "id": record.id,
        "outcome": outcome(record),
        "held_out": statistics.is_held_out(record),
        "verdict": verdict(record),
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


def _by_subtask(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.responses:
            groups.setdefault(record.subtask, []).append(record)
    return {name: groups[name] for name in sorted(groups, key=statistics.subtask_order)}


def _ranked(records: Sequence[Record], *, seed: int) -> list[Record]:
    return sorted(records, key=lambda record: hashlib.sha256(f"{seed}:{record.id}".encode()).digest())


def _first(records: Sequence[Record], wanted: Callable[[Record], bool]) -> Record | None:
    return next((record for record in records if wanted(record)), None)
