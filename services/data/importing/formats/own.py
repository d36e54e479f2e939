"""Records as `omnialign data export` writes them: the JSON of the contract, with media beside it.

Media are found by their digests, or in the files that the row names.
"""

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import protovalidate
from google.protobuf import json_format

from omnialign.content import media_file_name, media_of
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record
from services.data.importing.benchmarks.formats import SUBTASK
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import Row
from services.data.importing.refusal import described, in_column, refusal

NAME = "records"
FIELDS = tuple(field.name for field in Record.DESCRIPTOR.fields)
FOLDER, FILES = "media", "media_files"
"""Where media lie beside the rows; and the column that names the file of each digest, where they lie elsewhere."""
COLUMNS = (*FIELDS, FILES)
_UNKNOWN_FIELD = re.compile(
    r"no field named \"(?P<name>.*?)\" at \"Record\.?(?P<place>.*?)\"\..*Available Fields.*?\[(?P<known>.*?)\]"
)
_FAILED = re.compile(r"Failed to parse (\w+) field: ")
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
    for column, medium in _media(found):
        path = files.get(medium.sha256, f"{FOLDER}/{media_file_name(medium)}")
        with in_column(column, path):
            stored = given.store(path, medium.modality)
        if stored.sha256 != medium.sha256:
            message = f"the file {path[:200]} holds something else than the record says"
            raise refusal("MEDIA_DIFFERS", message, column=column)
        medium.CopyFrom(stored)
    found.split = found.split or record.split
    record.CopyFrom(found)


def _parsed(row: dict[str, Any]) -> Record:
    """The record that a row says. Raises RECORD_INVALID for the first column that says none."""
    for name, value in row.items():
        _check_kind(name, value)
    try:
        found = _of_json(row)
    except (json_format.ParseError, RecursionError):
        for name, value in row.items():  # one by one, to find the column
            try:
                _of_json({name: value})
            except (json_format.ParseError, RecursionError) as error:
                raise refusal("RECORD_INVALID", _plain(error, name)[:500], column=name) from error
        raise
    with _CHECKING:
        violations = _VALIDATOR.collect_violations(found)
    if violations:
        first = violations[0].proto
        elements = first.field.elements if first.field else []
        column = elements[0].field_name if elements else ""
        raise refusal("RECORD_INVALID", f"{_path(elements)}: {first.message}"[:500], column=column)
    return found


def _of_json(row: dict[str, Any]) -> Record:
    return json_format.ParseDict(row, Record(), max_recursion_depth=50)


def _check_kind(name: str, found: Any) -> None:
    """Raises RECORD_INVALID for a value that can be no field: the parser would look for fields in a text."""
    field = Record.DESCRIPTOR.fields_by_name[name]
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    is_list = field.is_repeated and not is_map
    if (is_list or field.message_type is not None) and not isinstance(found, list if is_list else Mapping):
        wanted = "a list" if is_list else "an object"
        message = f"the column holds {described(found)}, and {wanted} is taken"
        raise refusal("RECORD_INVALID", message, column=name)


def _plain(error: Exception, column: str) -> str:
    """What a parser says of a column, without the way that it took there."""
    text = " ".join(str(error).split())
    if match := _UNKNOWN_FIELD.search(text):
        there = f" in {match['place']}" if match["place"] else ""
        return f"there is a field {match['name'][:80]!r}{there}, and {match['known']} are taken"
    *way, last = _FAILED.split(text)
    which = f"its field {way[-1]}" if way and way[-1] != column else "it"
    return f"{which} cannot be read: {last.rstrip('.')}"


def _path(elements: Iterable[Any]) -> str:
    """Where in a record a rule is broken, such as `responses[0].content`; "the record" if nowhere in particular."""
    found = ""
    for one in elements:
        place = f"[{one.subscript.value}]" if one.subscript is not None else ""
        found += f"{'.' if found else ''}{one.field_name}{place}"
    return found or "the record"


def _files(found: Any) -> Mapping[str, str]:
    """The file of each medium, by its digest. Raises RECORD_INVALID."""
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(one, str) for one in found.values()):
        message = f"the column holds {described(found)}, and an object that names a file for each digest is taken"
        raise refusal("RECORD_INVALID", message, column=FILES)
    return found


def _media(record: Record) -> Iterator[tuple[str, Media]]:
    """The media of a record, each with the column that it is in."""
    yield from (("history", one) for one in media_of(message.content for message in record.history))
    yield from (("prompt", one) for one in media_of([record.prompt]))
    for response in record.responses:
        contents = (response.content, *(one.content for one in response.made_of))
        yield from (("responses", one) for one in media_of(contents))
