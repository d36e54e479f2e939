"""Annotated pairs that judges and reward models are measured on.

Takes the columns of VL-RewardBench (MMInstruction/VL-RewardBench: `query, response[2], human_ranking`), of
Omni-RewardBench (HongbangYuan/OmniRewardBench: `prompt, response1, response2, criteria, criteria_preference`) and pairs
as `chosen` and `rejected`. What the answers are made of is in the name of the file; the media of the prompt are told by
the columns that a row has.
"""

from typing import Any

from omnialign.combinations import combination
from omnialign.content import LETTERS, NAMES, content
from omnialign.errors import InvalidArgument
from omnialign.placeholders import place
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record, Response
from services.data.importing.benchmarks.multiple_choice import prompt_media
from services.data.importing.benchmarks.values import PROMPT_MEDIA, Given, category, is_list_of_text, needed
from services.data.importing.columns import SIDES, Row, first
from services.data.importing.feedback import text
from services.data.importing.refusal import described, refusal

PROMPT = ("prompt", "query", "question")
BOTH = ("response", "responses")
"""Columns with a list of both responses."""
RESPONSE = ("response{k}", "response_{k}", "response{k}_path", "response_{k}_path")
CHOSEN = ("chosen", "rejected")
PREFERRED = ("criteria_preference", "human_ranking", "preferred")
CRITERION = ("criteria", "criterion")
CATEGORY = ("category", "task")
SOURCES, SOURCE = "models", ("model{k}", "model_{k}")
LABELS = ("query_source", "source")
NAMED_SIDES = {"response1": 1, "response2": 2, "response_1": 1, "response_2": 2}

_SIDED = tuple(name.format(k=side) for name in (*RESPONSE, *SOURCE) for side in SIDES)
COLUMNS = (*PROMPT, *BOTH, *CHOSEN, *PREFERRED, *CRITERION, *CATEGORY, SOURCES, *LABELS, *_SIDED)
COLUMNS_WITH_MEDIA = (*COLUMNS, *(name for names in PROMPT_MEDIA.values() for name in names))


def fill_preference(record: Record, row: Row, given: Given) -> None:
    """A pair of responses, which of them people preferred, and by which criterion if there is one."""
    prompt = needed(row, PROMPT)
    record.prompt.CopyFrom(content(prompt))
    media = prompt_media(row, given)
    read = combination(["t", *(NAMES[one.modality][0] for one in media)])
    record.subtask = f"{read}2{given.written}"
    kinds = {one.modality for one in media}
    is_placed = len(kinds) == 1
    parts = place(prompt, media, NAMES[kinds.pop()]) if is_placed else [*media, prompt]
    record.prompt.CopyFrom(content(*parts))
    for name, label in ((first(row, CRITERION), "criterion"), *((name, name) for name in LABELS)):
        if found := text(row, name):
            record.labels[label] = found
    if name := first(row, CATEGORY):
        record.benchmark_item.category = category(text(row, name), name)
    record.responses.extend(_response(row, side, given) for side in SIDES)
    record.preference.preferred = _preferred(row)


def _response(row: Row, side: int, given: Given) -> Response:
    models = row.get(SOURCES)
    source = models[side - 1] if is_list_of_text(models) and len(models) == len(SIDES) else None
    source = source or row.get(first(row, SOURCE, side=side))
    return Response(content=content(_answer(row, side, given)), source=str(source or ""))


def _answer(row: Row, side: int, given: Given) -> str | Media:
    """A response as text or as a medium, by what the name of the file says that answers are."""
    name, taken = first(row, BOTH), (*RESPONSE, CHOSEN[side - 1])
    row = _apart(row, name) if name else row
    name = name or first(row, taken, side=side) or f"response{side}"
    if given.written == "t":
        found = text(row, first(row, taken, side=side))
        if not found:
            raise refusal("RESPONSE_MISSING", f"response {side} has no text", column=name)
        return found
    if given.written not in LETTERS:
        message = f"answers of {given.written!r} are not read as pairs: they are text, an image, audio or a video"
        raise refusal("RESPONSE_MISSING", message, column=name)
    (medium, *more) = given.media(row, taken, LETTERS[given.written], side=side)
    if more:
        raise refusal("RESPONSE_MISSING", f"response {side} has several media, and one is taken", column=name)
    return medium


def _apart(row: Row, name: str) -> dict[str, Any]:
    """Both responses of a list as columns of their own."""
    found = row[name]
    if not isinstance(found, list) or len(found) != len(SIDES):
        message = f"the responses are {described(found)}, and a list of two is taken"
        raise refusal("RESPONSE_MISSING", message, column=name)
    return {f"response{side}": found[side - 1] for side in SIDES}


def _preferred(row: Row) -> int:
    """The preferred side: by its name or number, by ranks of which 0 is the better, or as `chosen`."""
    name = first(row, PREFERRED)
    if not name and not first(row, BOTH) and all(first(row, (column,)) for column in CHOSEN):
        return 1
    found = row.get(name)
    if isinstance(found, str):
        found = NAMED_SIDES.get(found.strip().lower(), found)
    if isinstance(found, list) and sorted(found, key=str) == [0, 1]:
        found = found.index(0) + 1
    if isinstance(found, bool) or found not in SIDES:
        raise _no_preference(found, name)
    return int(found)


def _no_preference(found: Any, name: str) -> InvalidArgument:
    shown = repr(found[:100]) if isinstance(found, str) else described(found)
    message = f"the preference is {shown}, and response1, response2, 1, 2 or the ranks [0, 1] or [1, 0] are taken"
    return refusal("LABEL_INVALID", message, column=name or PREFERRED[0])
