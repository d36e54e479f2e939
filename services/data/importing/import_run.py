"""One run of an import: which rows it has seen, the counts, and the records that wait to be written."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from google.protobuf import json_format

from omnialign.errors import InvalidArgument, valid_text
from omnialign.names import project_name_of
from omnialign.v1 import record_pb2
from omnialign.v1.data_service_pb2 import ImportDatasetResponse as Progress
from services.data.datasets import Datasets
from services.data.importing.file_keys import FileState, name_of
from services.data.importing.formats.own import NAME as WHOLE_RECORDS
from services.data.importing.identity import ID, source_digest
from services.data.importing.ids import ID_TAKEN, Ids
from services.data.importing.journal import ROW, STATE, Array, Journal, Part
from services.data.importing.reading_ahead import Row, Stored
from services.data.importing.rows import set_aside
from services.data.importing.sources import SourceFile
from services.data.media_store import MediaStore
from services.data.record_rows import state
from services.data.usage import Usage

WRITE_RECORDS = 4096
WRITE_BYTES = 16 * 1024 * 1024
MAX_EXAMPLES = 8
KEY_CHARACTERS = 16
"""Of each digest, only 64 bits are kept."""


class RowsDiffer(Exception):
    """Rows that are in the journal would not be written now as they were: those of other files have changed."""


@dataclass
class _Source:
    """What one source has given so far."""

    file: SourceFile
    """Its first file."""
    rows: Counter[int] = field(default_factory=Counter)
    """How often each row occurred."""
    quarantined: set[str] = field(default_factory=set)
    """The ids of rows that were set aside."""

    @property
    def keeps_ids(self) -> bool:
        """Whether its rows are whole records, whose ids do not tell where they come from."""
        return self.file.format == WHOLE_RECORDS


@dataclass
class _Draft:
    """Rows of one file that are to be written together."""

    part: Part
    state: FileState
    rows: list[tuple[int, int, int, bool]] = field(default_factory=list)
    good: list[record_pb2.Record] = field(default_factory=list)
    bad: list[record_pb2.Record] = field(default_factory=list)


@dataclass
class _Waiting:
    """What is to be written together."""

    drafts: list[_Draft] = field(default_factory=list)
    media: dict[str, int] = field(default_factory=dict)
    """Sizes in bytes by digest."""
    records: int = 0
    size_bytes: int = 0
    """Of the records."""

    @property
    def is_full(self) -> bool:
        """Whether it is enough to be written."""
        return self.records >= WRITE_RECORDS or self.size_bytes >= WRITE_BYTES


class ImportRun:
    """Writes rows, and removes at the end what they replace."""

    def __init__(
        self,
        name: str,
        *,
        datasets: Datasets,
        media: MediaStore,
        usage: Usage,
        append: bool,
        journal: Journal,
        has_one_source: bool,
        ids: Ids | None,
    ) -> None:
        """With `has_one_source`, no other file can have the same rows, and their contents need not be kept.

        There are `ids` if rows of a file are whole records.
        """
        self.name, self.progress = name, Progress()
        self.examples: dict[str, str] = {}
        """For each reason to set rows aside, the message of the first one."""
        self._datasets, self._media, self._usage, self._append = datasets, media, usage, append
        self._journal, self._has_one_source, self._ids = journal, has_one_source, ids
        self._waiting = _Waiting()
        self._writing: asyncio.Task[None] | None = None
        self._sources: dict[str, _Source] = {}
        self._files = set[str]()
        self._mended: set[str] = set()
        # The source of each row's content, to notice rows that several files share.
        self._contents: dict[int, _Source] = {}
        self._repeated: Counter[tuple[str, str, bool]] = Counter()

    def begin(self, file: SourceFile, *, key: str, survey: Mapping[str, object], state: FileState) -> None:
        """Says that the next rows are those of a file."""
        self._file, self._digest, self._state = file, source_digest(file), state
        self._sources.setdefault(self._digest, _Source(file))
        self._files.add(name_of(file))
        self._next = Part(key, name_of(file), 0, 0, survey)
        self._draft: _Draft | None = None

    async def add(self, piece: Stored) -> None:
        """Counts rows, and has them written: with others, and while the next ones are read."""
        for row in piece.rows:
            self._add(row, self._current())
            if self._waiting.is_full:
                await self._settle()
                waiting, self._waiting, self._draft = self._waiting, _Waiting(), None
                self._writing = asyncio.create_task(self._write(waiting))
        # The rows of one piece may be written in two parts: both depend on its files.
        self._current().part.visits += piece.visits

    def end(self) -> None:
        """Says that the file has no more rows."""
        self._current().part.is_last = True

    def replay(self, part: Part, rows: Array, ids: Array) -> None:
        """Counts rows that an earlier run has written, with the hashes of their ids. Raises RowsDiffer."""
        source = self._sources[self._digest]
        if self._ids is not None and (ID_TAKEN in part.reasons or not self._ids.take_again(ids)):
            raise RowsDiffer
        for content, key, again, left_out in rows.tolist():
            if self._is_repeated(content) != left_out or (not left_out and source.rows[key] != again):
                raise RowsDiffer
            if not left_out:
                source.rows[key] += 1
        source.quarantined.update(part.aside)
        self._mended.update(part.mended)
        self._next.start = self._next.end = part.end
        self.progress.rows_read += len(rows)
        self.progress.rows_skipped += len(rows)
        self._count(part)

    async def flush(self) -> None:
        """Writes what waits. Raises QUOTA_EXCEEDED if the media do not fit."""
        await self._settle()
        waiting, self._waiting, self._draft = self._waiting, _Waiting(), None
        await self._write(waiting)

    async def abandon(self) -> None:
        """Waits for a write that has begun."""
        with suppress(Exception):
            await self._settle()

    async def finish(self) -> None:
        """Removes what earlier imports of the same sources gave and this one did not, and lists repeated rows."""
        for (file, earlier, left_out), rows in self._repeated.items():
            both = {"file": valid_text(file), "earlier_file": valid_text(earlier)}
            self.progress.repeated_rows.add(**both, rows=rows, left_out=left_out)
        if not self._append:
            self.progress.records_removed = await self._datasets.discard(self.name, self._is_stale)
            await self._datasets.discard(self.name, self._is_stale_in_quarantine, from_quarantine=True)
        await asyncio.to_thread(self._journal.prune, self._files)

    def _current(self) -> _Draft:
        """What the next row belongs to."""
        if self._draft is None:
            told = self._next
            part = Part(told.file, told.name, told.end, told.end, told.survey)
            self._draft = _Draft(part, self._state)
            self._waiting.drafts.append(self._draft)
        return self._draft

    def _add(self, row: Row, draft: _Draft) -> None:
        self.progress.rows_read += 1
        self._next.end = draft.part.end = draft.part.end + 1
        content, key = _key(row.content), _key(row.digest)
        if self._is_repeated(content):
            draft.rows.append((content, key, 0, True))
            return
        source, waiting, record = self._sources[self._digest], self._waiting, row.record
        again = source.rows[key]
        source.rows[key] += 1
        draft.rows.append((content, key, again, False))
        if row.mends:
            self._mended.add(row.mends)
            draft.part.mended.append(row.mends)
        given = row.mends or f"{record.subtask}-{row.digest}-{self._digest}" + (f"-{again}" if again else "")
        if self._ids is not None and not record.HasField("quarantine"):
            draft.part.replaced += self._take_id(row, self._ids, given)
        record.id = record.id or given
        if record.HasField("quarantine"):
            source.quarantined.add(record.id)
            draft.part.aside.append(record.id)
            draft.part.examples.setdefault(record.quarantine.reason, record.quarantine.message)
            draft.bad.append(record)
        else:
            draft.good.append(record)
        waiting.records += 1
        waiting.size_bytes += record.ByteSize()
        draft.part.media_bytes += sum(media.size_bytes for media in row.media)
        waiting.media.update((media.sha256, media.size_bytes) for media in row.media)

    def _take_id(self, row: Row, ids: Ids, given: str) -> bool:
        """Gives a record the id that its row brings, or else this one; whether it takes another record's place.

        One that cannot have it is set aside.
        """
        record, is_own = row.record, bool(row.record.id)
        record.id = record.id or given
        try:
            return ids.take(record, is_own=is_own)
        except InvalidArgument as error:
            whole = json_format.MessageToDict(record, preserving_proto_field_name=True) if is_own else None
            set_aside(record, error, file=self._file, number=row.number, row=whole)
            return False

    async def _settle(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _write(self, waiting: _Waiting) -> None:
        """Writes records, then counts them. Raises QUOTA_EXCEEDED if their media do not fit."""
        good = [record for draft in waiting.drafts for record in draft.good]
        bad = [record for draft in waiting.drafts for record in draft.bad]
        parent = project_name_of(self.name)
        await self._usage.check(parent, waiting.media)
        # Before anybody can read the records: the collector must find that the dataset names their media.
        await self._usage.hold(self.name, waiting.media, parent=parent)
        if good:
            await self._media.sync()  # media first: a record must never refer to media that a power cut can lose
            await self._datasets.append(self.name, good, are_held=True)
            mended = [one for draft in waiting.drafts for one in draft.part.mended]
            await self._datasets.release(self.name, [*(record.id for record in good), *mended])
        if bad:
            await self._datasets.quarantine(self.name, bad, are_held=True)
        for draft in waiting.drafts:
            _count(draft.part.subtasks, (record.subtask for record in draft.good))
            _count(draft.part.reasons, (record.quarantine.reason for record in draft.bad))
            self._count(draft.part)
        # The records first: a row that the journal has is in the table.
        await asyncio.to_thread(_note, self._journal, waiting.drafts)

    def _count(self, part: Part) -> None:
        """Counts what was written."""
        self.progress.media_bytes += part.media_bytes
        self.progress.records_imported += sum(part.subtasks.values())
        self.progress.records_replaced += part.replaced
        self.progress.rows_quarantined += sum(part.reasons.values())
        for counts, more in (
            (self.progress.subtask_counts, part.subtasks),
            (self.progress.quarantine_reasons, part.reasons),
        ):
            for name, count in more.items():
                counts[name] += count
        for reason, message in part.examples.items():
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.setdefault(reason, message)

    def _is_repeated(self, content: int) -> bool:
        """Whether a row is left out because another file of the same split has it. Within a file, all are kept."""
        if self._has_one_source:
            return False
        source = self._sources[self._digest]
        first = self._contents.setdefault(content, source)
        if first is source:
            return False
        left_out = first.file.split == source.file.split
        self._repeated[self._file.name, first.file.name, left_out] += 1
        return left_out

    def _is_stale(self, record_id: str) -> bool:
        is_given = self._ids is not None and self._ids.has(record_id)
        return not is_given and self._is_replaced(record_id, quarantined=False)

    def _is_stale_in_quarantine(self, record_id: str) -> bool:
        return self._is_replaced(record_id, quarantined=True)

    def _is_replaced(self, record_id: str, *, quarantined: bool) -> bool:
        """Whether a record is from a source of this run, which has not given it again in the same state."""
        match = ID.fullmatch(record_id)
        source = self._sources.get(match["source"]) if match else None
        if match is None or source is None or record_id in self._mended:
            return False
        if quarantined:
            return record_id not in source.quarantined
        is_given = not source.keeps_ids and int(match["again"] or 0) < source.rows[_key(match["row"])]
        return not is_given or record_id in source.quarantined


def _note(journal: Journal, drafts: Iterable[_Draft]) -> None:
    """Adds to the journal what was written of files that are still as they were hashed."""
    parts = []
    for draft in drafts:
        if draft.state.is_same():
            arrays = {"rows": np.array(draft.rows, ROW), "good": _states(draft.good), "bad": _states(draft.bad)}
            draft.part.visits = list(dict.fromkeys(draft.part.visits))
            parts.append((draft.part, arrays))
    if parts:
        journal.write(parts)


def _states(records: Iterable[record_pb2.Record]) -> Array:
    return np.array([state(record) for record in records], STATE)


def _key(digest: str) -> int:
    return int(digest[:KEY_CHARACTERS], 16)


def _count(counts: MutableMapping[str, int], keys: Iterable[str]) -> None:
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
