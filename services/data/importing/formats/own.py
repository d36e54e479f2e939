"""Records as `omnialign data export` writes them: the JSON of the contract, with media beside it by their digests."""

import threading
from collections.abc import Iterator
from typing import Any

import protovalidate
from google.protobuf import json_format

from omnialign.content import media_file_name, media_of
from omnialign.v1.content_pb2 import Content
from omnialign.v1.record_pb2 import Record
from services.data.importing.benchmarks.formats import SUBTASK
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import Row
from services.data.importing.refusal import refusal

COLUMNS = tuple(field.name for field in Record.DESCRIPTOR.fields)
FOLDER = "media"
_CHECKING = threading.Lock()
_VALIDATOR = protovalidate.Validator()


def fill_record(record: Record, row: Row, given: Given) -> None:
    """The record itself. Raises RECORD_INVALID, MEDIA_DIFFERS, and the MEDIA_* reasons."""
    found = _parsed({name: value for name, value in row.items() if name in COLUMNS and value is not None})
    if found.HasField("quarantine"):
        raise refusal("RECORD_INVALID", "the record is one that was set aside", column="quarantine")
    if not SUBTASK.fullmatch(found.subtask):
        message = f"the subtask is {found.subtask!r}, and letters of t, i, a, v such as ti2t are taken"
        raise refusal("RECORD_INVALID", message, column="subtask")
    if not found.prompt.parts:
        raise refusal("PROMPT_MISSING", "the prompt has no parts", column="prompt")
    for medium in media_of(_contents(found)):
        stored = given.store(f"{FOLDER}/{media_file_name(medium)}", medium.modality)
        if stored.sha256 != medium.sha256:
            message = f"the file {FOLDER}/{media_file_name(medium)} holds something else than its name says"
            raise refusal("MEDIA_DIFFERS", message)
        medium.CopyFrom(stored)
    found.split = found.split or record.split
    record.CopyFrom(found)


def _parsed(row: dict[str, Any]) -> Record:
    try:
        found = json_format.ParseDict(row, Record(), max_recursion_depth=50)
    except (json_format.ParseError, RecursionError) as error:
        raise refusal("RECORD_INVALID", f"the row is no record: {error}"[:500]) from error
    with _CHECKING:
        violations = _VALIDATOR.collect_violations(found)
    if violations:
        first = violations[0].proto
        path = ".".join(element.field_name for element in first.field.elements) if first.field else "the record"
        raise refusal("RECORD_INVALID", f"{path}: {first.message}"[:500], column=path.partition(".")[0])
    return found


def _contents(record: Record) -> Iterator[Content]:
    yield record.prompt
    for response in record.responses:
        yield response.content
        yield from (one.content for one in response.made_of)
