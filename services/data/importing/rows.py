"""Converting a row of a subset to a record. What cannot be converted becomes a quarantined record with a reason."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnialign.content import content
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record, Response
from services.data.importing import columns
from services.data.importing.columns import SCHEMAS, SIDES, Row, read_feedback_text, read_verdict_text
from services.data.importing.readers import MalformedLine
from services.data.importing.sources import SPLITS, MediaFiles, SourceFile

ID_CHARACTERS = 24
MAX_SCORE = 3
MAX_RECORD_BYTES = 2 * 1024 * 1024
MAX_MESSAGE_CHARACTERS = 500


@dataclass(frozen=True)
class ReadRow:
    """A row as a record; `record.quarantine` is set if it is to be quarantined. `digest` identifies its content."""

    record: Record
    digest: str
    media: tuple[Media, ...] = ()


def _refuse(reason: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=reason)


class RowReader:
    """Converts the rows of one file. Blocking; safe for concurrent threads."""

    def __init__(self, source: SourceFile, *, files: MediaFiles) -> None:
        self._source, self._files = source, files
        self._schema = SCHEMAS[source.subtask]

    def read(self, row: Any) -> ReadRow:
        """The row as a record, quarantined if anything is wrong with it. Never raises for a bad row."""
        record = Record(subtask=self._source.subtask, split=self._source.split)
        digest = content_digest(self._source.subtask, row)
        try:
            self._fill(record, row)
        except InvalidArgument as error:
            _quarantine(record, error)
        except (ValueError, TypeError) as error:  # text that is not valid Unicode, such as half a surrogate pair
            _quarantine(record, _refuse("ROW_MALFORMED", f"The row has a value of the wrong type: {error}."))
        if record.ByteSize() > MAX_RECORD_BYTES:
            _quarantine(record, _refuse("RECORD_TOO_LARGE", "The row's text is too long for a message."))
            for field in ("prompt", "responses", "preference", "labels"):
                record.ClearField(field)
        return ReadRow(record=record, digest=digest, media=tuple(_media(record)))

    def _fill(self, record: Record, row: Any) -> None:
        """Fills the record field by field, so that a quarantined row shows as much as possible."""
        if isinstance(row, MalformedLine):
            raise _refuse("ROW_MALFORMED", f"Line {row.number} is not JSON: {row.detail}.")
        if not isinstance(row, Mapping):
            raise _refuse("ROW_MALFORMED", "The row is not an object with columns.")
        record.split = _split(row, self._source.split)
        text = self._prompt_text(row)
        record.prompt.CopyFrom(content(text))
        record.labels.update(_labels(row))
        record.prompt.CopyFrom(content(*self._prompt_media(row), text))
        record.responses.extend(self._responses(row))
        if record.responses and columns.has(row, columns.OVERALL):
            record.preference.CopyFrom(_preference(row))

    def _prompt_text(self, row: Row) -> str:
        text = columns.value(row, columns.PROMPT)
        if not isinstance(text, str):
            raise _refuse("PROMPT_MISSING", "The row has no prompt.")
        if self._schema.placeholder and text.lstrip().startswith(self._schema.placeholder):
            text = text.lstrip().removeprefix(self._schema.placeholder).lstrip()
        if not text.strip():
            raise _refuse("PROMPT_MISSING", "The row has no prompt.")
        return text

    def _prompt_media(self, row: Row) -> list[Media]:
        modality = self._schema.prompt_media
        if not modality:
            return []
        found = columns.value(row, columns.PROMPT_MEDIA[content_pb2.Modality.ValueType(modality)])
        several = found if isinstance(found, list) and found else [found]
        return [self._files.store(one, modality) for one in several]

    def _responses(self, row: Row) -> list[Response]:
        """The two responses, or none if the row is only a prompt."""
        there = [self._has_response(row, side) for side in SIDES]
        if not any(there):
            return []
        if not all(there):
            raise _refuse("RESPONSE_MISSING", "The row has only one of its two responses.")
        return [self._response(row, side) for side in SIDES]

    def _has_response(self, row: Row, side: int) -> bool:
        return any(columns.value(row, names, side=side) is not None for names in self._response_columns())

    def _response_columns(self) -> Iterator[tuple[str, ...]]:
        if self._schema.response_text:
            yield columns.RESPONSE_TEXT
        if self._schema.response_media:
            yield self._media_columns()

    def _media_columns(self) -> tuple[str, ...]:
        names = columns.RESPONSE_MEDIA[content_pb2.Modality.ValueType(self._schema.response_media)]
        # If responses have text too, `response_k` is that text and not the media.
        return tuple(name for name in names if not (self._schema.response_text and name in columns.RESPONSE_TEXT))

    def _response(self, row: Row, side: int) -> Response:
        parts: list[str | Media] = []
        if self._schema.response_text:
            text = columns.value(row, columns.RESPONSE_TEXT, side=side)
            if not isinstance(text, str):
                raise _refuse("RESPONSE_MISSING", f"Response {side} has no text.")
            parts.append(text)
        if self._schema.response_media:
            found = columns.value(row, self._media_columns(), side=side)
            parts.append(self._files.store(found, self._schema.response_media))
        source = columns.value(row, columns.SOURCE, side=side)
        response = Response(content=content(*parts), source=str(source or ""))
        feedback = _feedback(row, side)
        if feedback.ByteSize():
            response.feedback.CopyFrom(feedback)
        return response


def _quarantine(record: Record, error: InvalidArgument) -> None:
    plain = error.message[:MAX_MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()
    record.quarantine.CopyFrom(record_pb2.Quarantine(stage="import", reason=error.reason, message=plain))


def content_digest(subtask: str, row: Any) -> str:
    """A digest of a row's content, the same in every run and on every machine. Columns without a value do not count."""
    digest = hashlib.sha256(subtask.encode())
    _update(digest, row)
    return digest.hexdigest()[:ID_CHARACTERS]


def _update(digest: Any, found: Any) -> None:
    if isinstance(found, Mapping):
        for key in sorted(found, key=str):
            if found[key] is not None:
                digest.update(b"{" + str(key).encode("utf-8", "surrogatepass"))
                _update(digest, found[key])
    elif isinstance(found, bytes):
        digest.update(b"b" + hashlib.sha256(found).digest())
    elif isinstance(found, list) and found and isinstance(found[0], float):
        digest.update(_numbers(found))
    elif isinstance(found, list):
        digest.update(b"[")
        for one in found:
            _update(digest, one)
    else:
        digest.update(json.dumps(found, default=repr).encode())


def _numbers(found: list[Any]) -> bytes:
    try:
        return b"f" + np.asarray(found, dtype=np.float64).tobytes()
    except (TypeError, ValueError):
        return b"r" + repr(found).encode("utf-8", "surrogatepass")


def _split(row: Row, otherwise: str) -> str:
    found = row.get("split")
    if not isinstance(found, str) or not found.strip():
        return otherwise
    return SPLITS.get(found.strip().lower(), found.strip())[:32]


def _feedback(row: Row, side: int) -> record_pb2.Feedback:
    reasons = columns.rationales(row, side)
    feedback = record_pb2.Feedback()
    for dimension, found in columns.rates(row, side):
        feedback.scores.add(dimension=dimension, score=_score(dimension, found), rationale=reasons.get(dimension, ""))
    text = columns.value(row, columns.CRITIQUE, side=side)
    if isinstance(text, str):
        sections = read_feedback_text(text)
        feedback.critique = "\n".join(filter(None, (sections.critique, sections.reason)))
        feedback.refinement = sections.refinement
    return feedback


def _score(dimension: str, found: Any) -> int:
    number = as_integer(found)
    if number is None or not 0 <= number <= MAX_SCORE:
        raise _refuse("SCORE_INVALID", f"The score {found!r} of {dimension} is not 0, 1, 2 or 3."[:500])
    return number


def as_integer(found: Any) -> int | None:
    """The integer that a value is, even if stored as a float or as digits; None for anything else."""
    if isinstance(found, bool):
        return None
    if isinstance(found, str) and found.strip().isascii() and found.strip().isdigit():
        return int(found) if len(found.strip()) < 10 else None
    if isinstance(found, float) and found.is_integer():
        return int(found)
    return found if isinstance(found, int) else None


def _preference(row: Row) -> record_pb2.Preference:
    found = columns.value(row, columns.OVERALL)
    preferred = as_integer(found)
    if preferred not in SIDES:
        raise _refuse("LABEL_INVALID", f"The overall label {found!r} is not 1 or 2."[:500])
    text = columns.value(row, columns.OVERALL_TEXT)
    reason = read_verdict_text(text) if isinstance(text, str) else ""
    return record_pb2.Preference(preferred=preferred, reason=reason, dimensions=columns.winners(row))


def _labels(row: Row) -> dict[str, str]:
    labels = {name: row[name] for name in columns.EXTRA_LABELS if isinstance(row.get(name), str) and row[name]}
    found = row.get("labels")
    if isinstance(found, str) and found.strip():
        try:
            found = json.loads(found)
        except (ValueError, RecursionError) as error:
            raise _refuse("LABELS_INVALID", f"The labels are not JSON: {error}.") from error
    if found in (None, ""):
        return labels
    if not isinstance(found, Mapping):
        raise _refuse("LABELS_INVALID", "The labels are not an object that maps names to values.")
    named = {str(name): one for name, one in found.items() if one is not None}
    return labels | {name: one if isinstance(one, str) else json.dumps(one) for name, one in named.items()}


def _media(record: Record) -> Iterator[Media]:
    for message in (record.prompt, *(response.content for response in record.responses)):
        yield from (part.media for part in message.parts if part.WhichOneof("part") == "media")
