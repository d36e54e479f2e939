"""Converting a row of a subset to a record. What cannot be converted becomes a quarantined record with a reason."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from omnialign.content import NAMES, add_parts, asked_of, media_of
from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.placeholders import place
from omnialign.rubrics import MAX_SCORE
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record, Response
from services.data.importing import columns
from services.data.importing.benchmarks.formats import FORMATS as BENCHMARKS
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import MAX_COLUMNS, SCHEMAS, Row, Schema, prompt_columns, response_columns
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
from services.data.importing.taken_columns import ResponseColumns, TakenColumns, taken_columns

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


class ReadRow(NamedTuple):
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
        self._names: tuple[str, ...] = ()
        self._taken = taken_columns(self._schema, self._names)

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
        if (size_bytes := record.ByteSize()) > MAX_RECORD_BYTES:
            error = error or refusal("RECORD_TOO_LARGE", f"the row's text is {size_bytes} bytes, and 2 MiB are taken")
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
            _add_labels(record, row)
            if self._source.format in BENCHMARKS:
                record.labels[BENCHMARK] = self._source.format
            self._format.fill(record, row, self._given)
            self._note_changes(record)
            return
        taken = self._columns(row)
        name = columns.first(row, taken.prompt)
        if isinstance(row.get(name), list):
            _add_labels(record, row)
            self._fill_conversation(record, row, taken)
        else:
            self._fill_prompt(record, row, name, taken)
        if self._add_responses(record, row, taken) and taken.overall:
            add_preference(record, row, taken, self._reading.scales)
        self._note_changes(record)

    def _columns(self, row: Row) -> TakenColumns:
        """Its columns, which are as a rule those of the row before it."""
        if (names := tuple(row)) != self._names:
            self._names, self._taken = names, taken_columns(self._schema, names)
        return self._taken

    def _note_changes(self, record: Record) -> None:
        """Records from which scale scores were converted, and that sounds were samples without a file."""
        if self._files.from_samples:
            record.labels[AUDIO] = FROM_SAMPLES
        scale = self._reading.scales.score_range
        if self._source.format == WHOLE_RECORDS:
            return  # their scores are read as they are
        if scale and scale != OWN_SCALE and any(response.feedback.scores for response in record.responses):
            record.labels[SCALE] = "{:g} to {:g}".format(*scale)

    def _prompt_text(self, row: Row, name: str) -> str:
        found = row.get(name, "")
        if not isinstance(found, str):
            raise refusal("PROMPT_MISSING", f"the prompt is {described(found)}, and text is taken", column=name)
        if not found.strip():
            there = ", ".join(list(row)[:MAX_NAMED_COLUMNS])[:300] or "none"
            message = f"the row has no prompt in {' or '.join(columns.PROMPT)}; its columns are {there}"
            raise refusal("PROMPT_MISSING", message)
        return found

    def _fill_conversation(self, record: Record, row: Row, taken: TakenColumns) -> None:
        """A prompt as messages, of which those before the last are its history."""
        modality = self._schema.prompt_media
        media = {modality: prompt_columns(self._schema)[-1]} if modality else {}
        spelling = Spelling(prompt=columns.PROMPT, system=(), history=(), media=media)
        fill_conversation(record, row, self._given, spelling)
        if media and not any(media_of(asked_of(record))):
            self._prompt_media(row, taken)  # raises: the row has none

    def _fill_prompt(self, record: Record, row: Row, name: str, taken: TakenColumns) -> None:
        asked = self._prompt_text(row, name)
        parts: Sequence[str | Media] = [asked]
        try:
            _add_labels(record, row)
            if modality := self._schema.prompt_media:
                placed = place(asked, self._prompt_media(row, taken), NAMES[modality])
                if not any(isinstance(part, str) and part.strip() for part in placed):
                    raise refusal("PROMPT_MISSING", "the prompt has no text beside its media")
                parts = placed
        finally:  # a row that is set aside shows its text, too
            add_parts(record.prompt, parts)

    def _prompt_media(self, row: Row, taken: TakenColumns) -> list[Media]:
        modality = self._schema.prompt_media
        if not (name := columns.first(row, taken.prompt_media)):
            raise _no_media(prompt_columns(self._schema)[-1], modality)
        return self._media_in(row, name, modality)

    def _media(self, row: Row, names: tuple[str, ...], modality: int, *, side: int = 0) -> list[Media]:
        """The media in the first of some columns that holds a value, for formats that spell them otherwise."""
        if not (name := columns.first(row, names, side=side)):
            raise _no_media(names, modality, side=side)
        return self._media_in(row, name, modality)

    def _media_in(self, row: Row, name: str, modality: int) -> list[Media]:
        found = row[name]
        several = found if isinstance(found, list) and found else [found]
        media = []
        for one in several:
            with in_column(name, one):
                media.append(self._files.store(one, modality))
        return media

    def _add_responses(self, record: Record, row: Row, taken: TakenColumns) -> bool:
        """Adds the two responses, or none if the row is only a prompt, or one of them cannot be read."""
        sides = taken.responses
        there = [bool(columns.first(row, side.text) or columns.first(row, side.media)) for _, side in sides]
        if not any(there):
            return False
        if not all(there):
            present, missing = (1, 2) if there[0] else (2, 1)
            raise refusal("RESPONSE_MISSING", f"the row has response {present} and no response {missing}")
        try:
            for number, side in sides:
                self._fill_response(record.responses.add(), row, number, side)
        except BaseException:
            record.ClearField("responses")
            raise
        return True

    def _fill_response(self, response: Response, row: Row, number: int, taken: ResponseColumns) -> None:
        modality, media = self._schema.response_media, list[Media]()
        if modality:
            if not (name := columns.first(row, taken.media)):
                raise _no_media(response_columns(self._schema)[-1], modality, side=number)
            media = self._media_in(row, name, modality)
        if not self._schema.response_text:
            add_parts(response.content, media)
        else:
            name = columns.first(row, taken.text)
            if not text(row, name):
                raise refusal("RESPONSE_MISSING", f"response {number} has no text", column=f"response_{number}")
            parts = place(row[name], media, NAMES[modality], media_first=False) if media else (row[name],)
            add_parts(response.content, parts)
        if source := columns.first(row, taken.source):
            response.source = str(row[source])
        add_feedback(response, row, taken, self._reading.scales)


def set_aside(record: Record, error: InvalidArgument, *, file: SourceFile, number: int, row: Any) -> None:
    """Says in a record why it goes to the quarantine, and in which format the row was that it comes from."""
    record.ClearField("id")
    record.quarantine.CopyFrom(quarantine(error, file=file.name, number=number, row=row))
    form = error.metadata.get(FORMAT, file.format)
    if form not in ("", ALIGN_ANYTHING, *BENCHMARKS):
        record.labels[FORMAT] = form


def _no_media(names: Sequence[str], modality: int, *, side: int = 0) -> InvalidArgument:
    message = f"the row lacks its {NAMES[modality]}, which is taken from {' or '.join(names)}".format(k=side)
    return refusal("MEDIA_MISSING", message)


def _add_labels(record: Record, row: Row) -> None:
    if found := labels(row):
        record.labels.update(found)


def _split(row: Row, otherwise: str) -> str:
    found = text(row, "split")
    return SPLITS.get(found.lower(), found)[:32] if found else otherwise
