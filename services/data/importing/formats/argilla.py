"""A dataset of preferences as Argilla gives it to `datasets`: two responses, and beside them what people answered.

The answers of people who submitted must agree. Numbers are only taken as labels if the request declares them.
"""

from collections.abc import Sequence
from typing import Any

from omnialign.v1.record_pb2 import Record
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import SIDES, Row
from services.data.importing.formats.exchanges import answers_on_sides, asked, fill_messages, one_of, whole
from services.data.importing.formats.spelling import Spelling
from services.data.importing.refusal import described, refusal

SPELLING = Spelling(prompt=("prompt", "instruction", "question"))
RESPONSE = "response_{k}"
ANSWERS = "preference.responses"
STATUSES = ("preference.responses.status", "preference.status")
USERS = "preference.responses.users"
COLUMNS = (*SPELLING.columns, *(RESPONSE.format(k=side) for side in SIDES), ANSWERS, *STATUSES, USERS)


def fill_argilla(record: Record, row: Row, given: Given) -> None:
    """A prompt, its two responses, and the one that people preferred."""
    messages = asked(row, given, SPELLING)
    answers = list(answers_on_sides(row, given, messages, RESPONSE))
    fill_messages(record, row, given, SPELLING, whole(row, SPELLING, messages, SPELLING.prompt[0]), answers)
    record.preference.preferred = _preferred(row, given)


def _preferred(row: Row, given: Given) -> int:
    """The side that all who submitted an answer prefer. Raises LABEL_INVALID."""
    found = row.get(ANSWERS)
    found = found if isinstance(found, list) else [found]
    statuses = row.get(one_of(row, STATUSES))
    if isinstance(statuses, list):
        if len(statuses) != len(found):
            message = f"there are {len(found)} answers and {len(statuses)} statuses, and one for each is taken"
            raise refusal("LABEL_INVALID", message, column=ANSWERS)
        found = [one for one, status in zip(found, statuses, strict=True) if status == "submitted"]
    return agreed([_side(one, given) for one in found], ANSWERS)


def agreed(sides: Sequence[int], column: str) -> int:
    """The side that all people chose. Raises LABEL_INVALID."""
    if len(set(sides)) != 1:
        counts = " and ".join(f"{sides.count(side)} for {RESPONSE.format(k=side)}" for side in sorted(set(sides)))
        there = f"the answers of people differ, {counts}" if sides else "nobody has submitted an answer"
        raise refusal("LABEL_INVALID", f"{there}, and answers that agree are taken", column=column)
    return sides[0]


def _side(found: Any, given: Given) -> int:
    if isinstance(found, str) and found.strip() in (names := [RESPONSE.format(k=side) for side in SIDES]):
        return names.index(found.strip()) + 1
    side = given.scales.winner(found) if given.scales.winner_labels else None
    if side is None:
        shown = repr(found)[:100] if isinstance(found, str | int | float) else described(found)
        declared = given.scales.winner_labels
        wanted = f"{declared[0]} or {declared[1]}" if declared else "response_1 or response_2"
        message = f"an answer is {shown}, and {wanted} is taken: `--winner-labels` declares numbers"
        raise refusal("LABEL_INVALID", message, column=ANSWERS)
    return side
