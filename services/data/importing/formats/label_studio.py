"""Tasks in which people compared two responses, as Label Studio exports them (JSON): `data`, and `annotations`.

The fields of `data` are the columns. The side that people chose is the result of a `Pairwise` tag; the annotations of
people who did not skip the task must agree.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from omnialign.v1.record_pb2 import Record
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import SIDES, Row
from services.data.importing.formats.argilla import agreed
from services.data.importing.formats.exchanges import answers_on_sides, asked, fill_messages, one_of, whole
from services.data.importing.formats.spelling import Spelling
from services.data.importing.refusal import described, refusal

SPELLING = Spelling(prompt=("prompt", "instruction", "question"))
RESPONSE = "response_{k}"
DATA, ANNOTATIONS, COMPARISON = "data", "annotations", "pairwise"
SELECTED = {"left": 1, "right": 2}
OTHERS = ("drafts", "predictions", "meta")
"""What else a task may hold that people or models said."""
BOOKKEEPING = (
    "created_at", "updated_at", "inner_id", "project", "updated_by", "file_upload", "total_annotations",
    "cancelled_annotations", "total_predictions", "comment_count", "unresolved_comment_count", "comment_authors",
    "last_comment_updated_at",
)  # fmt: skip
COLUMNS = (*SPELLING.columns, *(RESPONSE.format(k=side) for side in SIDES), DATA, ANNOTATIONS, *OTHERS, *BOOKKEEPING)


def fill_label_studio(record: Record, row: Row, given: Given) -> None:
    """A prompt, its two responses, and the one that people chose."""
    task = _task(row)
    messages = asked(task, given, SPELLING)
    answers = list(answers_on_sides(task, given, messages, RESPONSE))
    column = one_of(task, SPELLING.prompt) or SPELLING.prompt[0]
    fill_messages(record, task, given, SPELLING, whole(task, SPELLING, messages, column), answers)
    record.preference.preferred = agreed(list(_sides(row)), ANNOTATIONS)


def unread_of_label_studio(row: Row) -> Iterator[str]:
    """The fields of the task, the results and the rest that hold a value and are not read."""
    data = row.get(DATA)
    if isinstance(data, Mapping):
        yield from (f"{DATA}.{str(name)[:100]}" for name, found in data.items() if found and name not in COLUMNS)
    for one in _results(row.get(ANNOTATIONS)):
        if one.get("type") != COMPARISON:
            yield f"{ANNOTATIONS}.{str(one.get('from_name'))[:100]}"
    yield from (name for name in OTHERS if row.get(name))


def _task(row: Row) -> Row:
    """The columns of the task, and those that were mapped. Raises ROW_MALFORMED."""
    data = row.get(DATA)
    if not isinstance(data, Mapping):
        raise refusal("ROW_MALFORMED", f"the column holds {described(data)}, and an object is taken", column=DATA)
    return {**data, **{name: found for name, found in row.items() if name not in (DATA, ANNOTATIONS)}}


def _sides(row: Row) -> Iterator[int]:
    """The side that each person chose. Raises LABEL_INVALID."""
    found = row.get(ANNOTATIONS)
    if not isinstance(found, list):
        message = f"the column holds {described(found)}, and a list of annotations is taken"
        raise refusal("LABEL_INVALID", message, column=ANNOTATIONS)
    for number, one in enumerate(found, 1):
        if not isinstance(one, Mapping):
            message = f"annotation {number} is {described(one)}, and an object with a result is taken"
            raise refusal("LABEL_INVALID", message, column=ANNOTATIONS)
        if not one.get("was_cancelled"):
            yield _side(one, number)


def _side(annotation: Mapping[str, Any], number: int) -> int:
    results = list(_results([annotation]))
    compared = [one.get("value") for one in results if one.get("type") == COMPARISON]
    if len(compared) != 1:
        kinds = ", ".join(dict.fromkeys(str(one.get("type"))[:40] for one in results)) or "none"
        message = (
            f"annotation {number} has {len(compared)} results of the type {COMPARISON}, and one is taken; its results "
            f"are of the types {kinds}"
        )
        raise refusal("LABEL_INVALID", message, column=ANNOTATIONS)
    selected = compared[0].get("selected") if isinstance(compared[0], Mapping) else None
    if not (isinstance(selected, str) and selected in SELECTED):
        shown = repr(selected)[:100] if isinstance(selected, str) else described(selected)
        message = f"annotation {number} selects {shown}, and left or right is taken"
        raise refusal("LABEL_INVALID", message, column=ANNOTATIONS)
    return SELECTED[selected]


def _results(annotations: Any) -> Iterator[Mapping[str, Any]]:
    """The results of annotations, as far as they are objects."""
    for annotation in annotations if isinstance(annotations, list) else ():
        results = annotation.get("result") if isinstance(annotation, Mapping) else None
        yield from (one for one in (results if isinstance(results, list) else ()) if isinstance(one, Mapping))
