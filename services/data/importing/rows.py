"""Converting a row of a subset to a record. What cannot be converted becomes a quarantined record with a reason."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omnialign.content import NAMES, add_parts, asked_of, media_of
from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.placeholders import place
from omnialign.rubrics import MAX_SCORE
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record, Response
from services.data.importing import columns
from services.data.importing.benchmarks.formats import FORMATS as BENCHMARKS
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import MAX_COLUMNS, SCHEMAS, SIDES, Row, Schema
from services.data.importing.coverage import prompt_columns, response_columns
from services.data.importing.feedback import add_feedback, add_preference, labels, text
from services.data.importing.formats.exchanges import fill_conversation
from services.data.importing.formats.own import NAME as WHOLE_RECORDS
from services.data.importing.formats.registry import ALIGN_ANYTHING, FORMATS
from services.data.importing.formats.spelling import Spelling
from services.data.importing.identity import MAPPINGS, ROW_CHARACTERS, Digests, content_digest, mended_id, row_digest
from services.data.importing.media_files import MediaFiles
from services.data.importing.reading import Reading
from services.data.importing.refusal import MalformedRow, described, in_column, quarantine, refusal
from services.data.importing.samples import Sample
from services.data.importing.sources import SPLITS, SourceFile

MAX_RECORD_BYTES = 2 * 1024 * 1024
MAX_NAMED_COLUMNS = 12
SCALE, OWN_SCALE = "score_range", (0, MAX_SCORE)
"""The label that says from which scale scores were converted, and the scale that needs none."""
UNTOLD_SUBTASK = "t2t"
"""That of rows which are set aside before they tell theirs."""
AUDIO, FROM_SAMPLES = "audio", "samples, written as WAV"
"""The label of records whose sounds came as samples with a rate, and what it says."""
BENCHMARK = "benchmark"
"""The label that says in which benchmark format a row was."""
FORMAT = "format"
"""The label that says in which other format a row was that is set aside."""


@dataclass(frozen=True)
class ReadRow:
    """A row as a record."""

    record: bytes
    """A Record. `quarantine` is set if it is to be quarantined, `id` only if the row has one of its own."""
    digest: str
    """Names the row within its source."""
    content: str
    """Digest of the row's content."""
    number: int
    """The number that people know the row by."""
    mends: str = ""
    """The id of the quarantined row that this one replaces."""


class RowReader:
    """Converts the rows of one file. Blocking."""

    def __init__(
        self, source: SourceFile, *, files: MediaFiles, reading: Reading, digests: Digests | None = None
    ) -> None:
        """`digests` are those of what keeps the media of `files`."""
        self._source, self._files, self._reading = source, files, reading
        self._digests = digests
        self._format = FORMATS.get(source.format)
        self._given = Given(
            self._media,
            source.subtask.partition("2")[2],
            reading.references,
            files.store,
            reading.scales,
            reading.ignored_columns,
        )
        self._schema = Schema() if self._format else SCHEMAS[source.subtask]

    def read(self, number: int, row: Any) -> ReadRow:
        """The row as a record, quarantined if anything is wrong with it. Raises only what is not the row's fault."""
        self._files.members = row.members if isinstance(row, Sample) else {}
        self._files.from_samples = 0
        record, digest = self.record(number, row)
        ids = self._format.ids if self._format else ()
        name = row_digest(row, digest, ids=ids, with_content=self._reading.append)
        return ReadRow(record.SerializeToString(), name, digest, number, mended_id(row))

    def record(self, number: int, row: Any) -> tuple[Record, str]:
        """The row as a record, and the digest of its content."""
        record = Record(subtask=self._source.subtask or UNTOLD_SUBTASK, split=self._source.split)
        try:
            digest = content_digest(self._source.subtask or UNTOLD_SUBTASK, row, self._digests or Digests())
        except Exception:  # values that nobody foresaw, or nested too deeply: the place of the row tells it apart
            digest = hashlib.sha256(f"{self._source.name}\0{number}".encode("utf-8", "replace")).hexdigest()
        error = self._failure(record, row)
        if error is None and record.ByteSize() > MAX_RECORD_BYTES:
            error = refusal("RECORD_TOO_LARGE", f"the row's text is {record.ByteSize()} bytes, and 2 MiB are taken")
        if record.ByteSize() > MAX_RECORD_BYTES:
            for field in ("history", "prompt", "responses", "preference", "labels", "benchmark_item"):
                record.ClearField(field)
        if error is not None:
            set_aside(record, error, file=self._source, number=number, row=row)
        return record, digest[:ROW_CHARACTERS]

    def _failure(self, record: Record, row: Any) -> InvalidArgument | None:
        """Fills the record; what is wrong with the row, if anything. Failures of the service itself go on."""
        try:
            self._fill(record, row)
        except InvalidArgument as error:
            return error
        except (OmnialignError, OSError, MemoryError):
            raise
        except Exception as error:  # whatever else a value does to the code that reads it is the row's own failure
            return refusal("ROW_MALFORMED", f"a value is not of a type that is taken ({type(error).__name__}: {error})")
        return None

    def _fill(self, record: Record, row: Any) -> None:
        """Fills the record field by field, so that a quarantined row shows as much as possible."""
        if isinstance(row, MalformedRow):
            raise refusal("ROW_MALFORMED", f"{row.detail}")
        if not isinstance(row, MAPPINGS):
            raise refusal("ROW_MALFORMED", f"the row is {described(row)}, and an object with columns is taken")
        if len(row) > MAX_COLUMNS:
            raise refusal("ROW_TOO_WIDE", f"the row has {len(row)} columns, and up to {MAX_COLUMNS} are taken")
        row = self._reading.prepared(row)
        other, told = self._source.otherwise(row)
        if other:
            message = f"the row is in the format {other}, told by {told}, and the file in {self._source.format}"
            raise InvalidArgument(message, reason="FORMAT_DIFFERS", metadata={FORMAT: other})
        record.split = _split(row, self._source.split)
        if self._format:
            record.labels.update(labels(row))
            if self._source.format in BENCHMARKS:
                record.labels[BENCHMARK] = self._source.format
            self._format.fill(record, row, self._given)
            self._note_changes(record)
            return
        if isinstance(row.get(columns.first(row, columns.PROMPT)), list):
            record.labels.update(labels(row))
            self._fill_conversation(record, row)
        else:
            self._fill_prompt(record, row)
        self._add_responses(record, row)
        if record.responses and columns.has(row, columns.OVERALL):
            add_preference(record, row, self._reading.scales)
        self._note_changes(record)

    def _note_changes(self, record: Record) -> None:
        """Records from which scale scores were converted, and that sounds were samples without a file."""
        if self._files.from_samples:
            record.labels[AUDIO] = FROM_SAMPLES
        scale = self._reading.scales.score_range
        if self._source.format == WHOLE_RECORDS:
            return  # their scores are read as they are
        if scale and scale != OWN_SCALE and any(response.feedback.scores for response in record.responses):
            record.labels[SCALE] = "{:g} to {:g}".format(*scale)

    def _prompt_text(self, row: Row) -> str:
        name = columns.first(row, columns.PROMPT)
        found = row.get(name, "")
        if not isinstance(found, str):
            raise refusal("PROMPT_MISSING", f"the prompt is {described(found)}, and text is taken", column=name)
        if not found.strip():
            there = ", ".join(list(row)[:MAX_NAMED_COLUMNS])[:300] or "none"
            message = f"the row has no prompt in {' or '.join(columns.PROMPT)}; its columns are {there}"
            raise refusal("PROMPT_MISSING", message)
        return found

    def _fill_conversation(self, record: Record, row: Row) -> None:
        """A prompt as messages, of which those before the last are its history."""
        _, *media_columns = prompt_columns(self._schema)
        media = {self._schema.prompt_media: media_columns[0]} if media_columns else {}
        spelling = Spelling(prompt=columns.PROMPT, system=(), history=(), media=media)
        fill_conversation(record, row, self._given, spelling)
        if media and not any(media_of(asked_of(record))):
            self._media(row, media_columns[0], self._schema.prompt_media)  # raises: the row has none

    def _fill_prompt(self, record: Record, row: Row) -> None:
        _, *media_columns = prompt_columns(self._schema)
        asked = self._prompt_text(row)
        parts: Sequence[str | Media] = [asked]
        try:
            record.labels.update(labels(row))
            if media_columns:
                media = self._media(row, media_columns[0], self._schema.prompt_media)
                placed = place(asked, media, NAMES[self._schema.prompt_media])
                if not any(isinstance(part, str) and part.strip() for part in placed):
                    raise refusal("PROMPT_MISSING", "the prompt has no text beside its media")
                parts = placed
        finally:  # a row that is set aside shows its text, too
            add_parts(record.prompt, parts)

    def _media(self, row: Row, names: tuple[str, ...], modality: int, *, side: int = 0) -> list[Media]:
        name = columns.first(row, names, side=side)
        if not name:
            message = f"the row lacks its {NAMES[modality]}, which is taken from {' or '.join(names)}".format(k=side)
            raise refusal("MEDIA_MISSING", message)
        found = row[name]
        several = found if isinstance(found, list) and found else [found]
        media = []
        for one in several:
            with in_column(name, one):
                media.append(self._files.store(one, modality))
        return media

    def _add_responses(self, record: Record, row: Row) -> None:
        """Adds the two responses, or none if the row is only a prompt, or one of them cannot be read."""
        options = response_columns(self._schema)
        there = [any(columns.first(row, names, side=side) for names in options) for side in SIDES]
        if not any(there):
            return
        if not all(there):
            present, missing = (1, 2) if there[0] else (2, 1)
            raise refusal("RESPONSE_MISSING", f"the row has response {present} and no response {missing}")
        try:
            for side in SIDES:
                self._fill_response(record.responses.add(), row, side)
        except BaseException:
            record.ClearField("responses")
            raise

    def _fill_response(self, response: Response, row: Row, side: int) -> None:
        media_name, media = NAMES.get(self._schema.response_media, ""), list[Media]()
        if self._schema.response_media:
            media = self._media(row, response_columns(self._schema)[-1], self._schema.response_media, side=side)
        parts: list[str | Media] = [*media]
        if self._schema.response_text:
            name = columns.first(row, columns.RESPONSE_TEXT, side=side)
            if not text(row, name):
                raise refusal("RESPONSE_MISSING", f"response {side} has no text", column=f"response_{side}")
            parts = place(row[name], media, media_name, media_first=False)
        add_parts(response.content, parts)
        if source := columns.first(row, columns.SOURCE, side=side):
            response.source = str(row[source])
        add_feedback(response, row, side, self._reading.scales)


def set_aside(record: Record, error: InvalidArgument, *, file: SourceFile, number: int, row: Any) -> None:
    """Says in a record why it goes to the quarantine, and in which format the row was that it comes from."""
    record.ClearField("id")
    record.quarantine.CopyFrom(quarantine(error, file=file.name, number=number, row=row))
    form = error.metadata.get(FORMAT, file.format)
    if form not in ("", ALIGN_ANYTHING, *BENCHMARKS):
        record.labels[FORMAT] = form


def _split(row: Row, otherwise: str) -> str:
    found = text(row, "split")
    return SPLITS.get(found.lower(), found)[:32] if found else otherwise
