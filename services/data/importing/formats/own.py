"""Records as `omnialign data export` writes them: the JSON of the contract, with media beside it.

Media are found by their digests, or in the files that the row names.
"""

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import protovalidate
from google.protobuf import json_format

from omnialign.content import contents_of, media_file_name, media_of
from omnialign.v1.content_pb2 import Content
from omnialign.v1.record_pb2 import Record
from services.data.importing.benchmarks.formats import SUBTASK
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import Row
from services.data.importing.refusal import described, refusal

NAME = "records"
FIELDS = tuple(field.name for field in Record.DESCRIPTOR.fields)
FOLDER, FILES = "media", "media_files"
"""Where media lie beside the rows; and the column that names the file of each digest, where they lie elsewhere."""
COLUMNS = (*FIELDS, FILES)
_CHECKING = threading.Lock()
_VALIDATOR = protovalidate.Validator()


def fill_record(record: Record, row: Row, given: Given) -> None:
    """The record itself. Raises RECORD_INVALID, MEDIA_DIFFERS, and the MEDIA_* reasons."""
    found = _parsed({name: value for name, value in row.items() if name in FIELDS and value is not None})
    if found.HasField("quarantine"):
        raise refusal("RECORD_INVALID", "the record is one that was set aside", column="quarantine")
    if not SUBTASK.fullmatch(found.subtask):
        message = f"the subtask is {found.subtask!r}, and letters of t, i, a, v such as ti2t are taken"
        raise refusal("RECORD_INVALID", message, column="subtask")
    if not found.prompt.parts:
        raise refusal("PROMPT_MISSING", "the prompt has no parts", column="prompt")
    files = _files(row.get(FILES))
    for medium in media_of(_contents(found)):
        path = files.get(medium.sha256, f"{FOLDER}/{media_file_name(medium)}")
        stored = given.store(path, medium.modality)
        if stored.sha256 != medium.sha256:
            raise refusal("MEDIA_DIFFERS", f"the file {path[:200]} holds something else than the record says")
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


def _files(found: Any) -> Mapping[str, str]:
    """The file of each medium, by its digest. Raises RECORD_INVALID."""
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(one, str) for one in found.values()):
        message = f"the column holds {described(found)}, and an object that names a file for each digest is taken"
        raise refusal("RECORD_INVALID", message, column=FILES)
    return found


def _contents(record: Record) -> Iterator[Content]:
    yield from contents_of(record)
    for response in record.responses:
        yield from (one.content for one in response.made_of)
