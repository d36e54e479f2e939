"""Programs that check answers: entry points of the group `omnialign.checkers`, run in threads.

A program takes the prompt, the response and the subtask; if it has a parameter `history`, also the turns that came
before the prompt.
"""

import asyncio
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from omnialign.errors import InvalidArgument
from omnialign.modeling.inputs import pieces, turns
from omnialign.v1 import content_pb2, record_pb2

GROUP = "omnialign.checkers"
TOP_SCORE = 3

Checker = Callable[..., record_pb2.Feedback]


def known() -> list[str]:
    """Names of the checkers that are installed."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)})


def check_names(names: Iterable[str], *, field: str = "checkers") -> None:
    """Raises InvalidArgument (`CHECKER_UNKNOWN`, with a violation of `field`) for a name that is not installed."""
    available = known()
    for name in names:
        if name not in available:
            listed = ", ".join(available) or "none"
            message = f"there is no checker '{name}'; installed are: {listed}"
            raise InvalidArgument(
                message,
                reason="CHECKER_UNKNOWN",
                metadata={"checker": name, "known": listed},
                violations=[(field, message)],
            )


def load(names: Sequence[str]) -> list[Checker]:
    """The checkers of these names, in order. Raises InvalidArgument (`CHECKER_UNKNOWN`)."""
    check_names(names)
    points = importlib.metadata.entry_points(group=GROUP)
    return [next(point.load() for point in points if point.name == name) for name in names]


async def check(
    checkers: Sequence[Checker],
    *,
    record: record_pb2.Record,
    response: content_pb2.Content,
    media: Mapping[str, bytes],
) -> record_pb2.Feedback:
    """The scores of all checkers on one answer to what a record asks, with their comments in the critique."""
    question, answer, history = pieces(record.prompt, media), pieces(response, media), turns(record.history, media)
    found = record_pb2.Feedback()
    for checker in checkers:
        told = partial(checker, history=history) if _takes_history(checker) else checker
        feedback = await asyncio.to_thread(told, question, answer, record.subtask)
        found.scores.extend(feedback.scores)
        found.critique = "\n".join(filter(None, (found.critique, feedback.critique)))
    return found


def _takes_history(checker: Checker) -> bool:
    return "history" in inspect.signature(checker).parameters


def is_correct(feedback: record_pb2.Feedback) -> bool:
    """Whether an answer is fully correct: there are scores, and all of them are the highest."""
    return bool(feedback.scores) and all(score.score == TOP_SCORE for score in feedback.scores)


def share(feedback: record_pb2.Feedback) -> float | None:
    """The mean of the scores as a share of the best, between 0 and 1; None without scores."""
    if not feedback.scores:
        return None
    return sum(score.score for score in feedback.scores) / (TOP_SCORE * len(feedback.scores))
