"""One run of an import: which rows it has seen, the counts, and the records that wait to be written."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from google.protobuf import json_format

from omnialign.errors import InvalidArgument, valid_text
from omnialign.names import project_name_of
from omnialign.v1.data_service_pb2 import ImportDatasetResponse as Progress
from omnialign.v1.record_pb2 import Record
from services.data.datasets import QUARANTINE, Datasets
from services.data.importing.file_keys import FileState, name_of
from services.data.importing.formats.own import NAME as WHOLE_RECORDS
from services.data.importing.identity import ID, source_digest
from services.data.importing.ids import ID_TAKEN, Ids
from services.data.importing.journal import ROW, STATE, Array, Journal, Part
from services.data.importing.reading_ahead import Row, Stored
from services.data.importing.rows import set_aside
from services.data.importing.sources import SourceFile
from services.data.importing.tally import Tally
from services.data.media_store import MediaStore
from services.data.record_rows import RecordRow, UnnamedRow
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
    number: int
    """From 1 on, as they come."""
    rows: Tally = field(default_factory=Tally)
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
    noted: list[Array] = field(default_factory=list)
    """What the journal keeps of the rows, of several at a time: `ROW`."""
    good: list[RecordRow] = field(default_factory=list)
    bad: list[RecordRow] = field(default_factory=list)


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
        lock: asyncio.Lock,
    ) -> None:
        """With `has_one_source`, no other file can have the same rows, and their contents need not be kept.

        There are `ids` if rows of a file are whole records. Whoever holds `lock` finds what is written in the journal.
        """
        self.name, self.progress = name, Progress()
        self.examples: dict[str, str] = {}
        """For each reason to set rows aside, the message of the first one."""
        self._datasets, self._media, self._usage, self._append = datasets, media, usage, append
        self._journal, self._has_one_source, self._ids, self._lock = journal, has_one_source, ids, lock
        self._waiting = _Waiting()
        self._writing: asyncio.Task[None] | None = None
        self._sources: dict[str, _Source] = {}
        self._files = set[str]()
        self._mended: set[str] = set()
        # The number of the source that had each row's content first, to notice rows that several files share.
        self._firsts = Tally()
        self._repeated: Counter[tuple[str, str, bool]] = Counter()

    def begin(self, file: SourceFile, *, key: str, survey: Mapping[str, object], state: FileState) -> None:
        """Says that the next rows are those of a file."""
        self._file, self._digest, self._state = file, source_digest(file), state
        self._sources.setdefault(self._digest, _Source(file, len(self._sources) + 1))
        self._files.add(name_of(file))
        self._next = Part(key, name_of(file), 0, 0, survey)
        self._draft: _Draft | None = None

    async def add(self, piece: Stored) -> None:
        """Counts rows, and has them written: with others, and while the next ones are read."""
        noted, rows, start = np.empty(len(piece.rows), ROW), piece.rows, 0
        noted["content"], noted["key"] = _keys(row.content for row in rows), _keys(row.digest for row in rows)
        noted["again"], noted["left_out"] = self._count_rows(noted["content"], noted["key"])
        while start < len(rows):
            end = start + max(1, WRITE_RECORDS - self._waiting.records)
            self._add(rows[start:end], noted[start:end], self._current())
            start = end
            if self._waiting.is_full:
                await self._begin_write()
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
        again, left_out = self._count_rows(rows["content"], rows["key"])
        if (again != rows["again"]).any() or (left_out != rows["left_out"]).any():
            raise RowsDiffer
        source.quarantined.update(part.aside)
        self._mended.update(part.mended)
        self._next.start = self._next.end = part.end
        self.progress.rows_read += len(rows)
        self.progress.rows_skipped += len(rows)
        self._count(part)

    async def flush(self) -> None:
        """Writes what waits. Raises QUOTA_EXCEEDED if the media do not fit."""
        await self._begin_write()
        await self._settle()

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
            self.progress.records_removed = await self._datasets.discard(self.name, self._stale)
            stale = partial(self._stale, in_quarantine=True)
            await self._datasets.discard(self.name, stale, from_quarantine=True)
        await asyncio.to_thread(self._journal.prune, self._files)

    def _current(self) -> _Draft:
        """What the next row belongs to."""
        if self._draft is None:
            told = self._next
            part = Part(told.file, told.name, told.end, told.end, told.survey)
            self._draft = _Draft(part, self._state)
            self._waiting.drafts.append(self._draft)
        return self._draft

    def _add(self, rows: Sequence[Row], noted: Array, draft: _Draft) -> None:
        """Adds the records of rows to what is to be written."""
        part, waiting = draft.part, self._waiting
        draft.noted.append(noted)
        self.progress.rows_read += len(rows)
        self._next.end = part.end = part.end + len(rows)
        for row, again, is_left_out in zip(rows, noted["again"].tolist(), noted["left_out"].tolist(), strict=True):
            if is_left_out:
                continue
            record = self._add_record(row, again, draft)
            waiting.records += 1
            waiting.size_bytes += record.size
            waiting.media.update(row.media)
            part.media_bytes += sum([size_bytes for _, size_bytes in row.media])

    def _add_record(self, row: Row, again: int, draft: _Draft) -> RecordRow:
        """Gives the record of a row its id, and adds it; one that cannot have the id that it brings is set aside."""
        part, aside = draft.part, row.aside
        if row.mends:
            self._mended.add(row.mends)
            part.mended.append(row.mends)
        name = row.mends or f"{row.record.subtask}-{row.digest}-{self._digest}" + (f"-{again}" if again else "")
        record = row.record.named(row.id or name)
        if self._ids is not None and aside is None:
            try:
                part.replaced += self._ids.take(record, is_own=bool(row.id))
            except InvalidArgument as error:
                record, aside = self._without_id(row, record, name, error)
        if aside is None:
            draft.good.append(record)
            part.subtasks[record.subtask] = part.subtasks.get(record.subtask, 0) + 1
            return record
        reason, message = aside
        self._sources[self._digest].quarantined.add(record.id)
        part.aside.append(record.id)
        part.examples.setdefault(reason, message)
        part.reasons[reason] = part.reasons.get(reason, 0) + 1
        draft.bad.append(record)
        return record

    def _without_id(
        self, row: Row, found: RecordRow, name: str, error: InvalidArgument
    ) -> tuple[RecordRow, tuple[str, str]]:
        """A record that cannot have the id it was given, as it is set aside, and why."""
        record = Record.FromString(found.record)
        whole = json_format.MessageToDict(record, preserving_proto_field_name=True) if row.id else None
        set_aside(record, error, file=self._file, number=row.number, row=whole)
        return UnnamedRow.of(record).named(name), (record.quarantine.reason, record.quarantine.message)

    async def _begin_write(self) -> None:
        await self._settle()
        waiting, self._waiting, self._draft = self._waiting, _Waiting(), None
        self._writing = asyncio.create_task(self._write(waiting))

    async def _settle(self) -> None:
        if self._writing is not None:
            # A write goes on when the import is left: what is in the table must come into the journal.
            await asyncio.shield(self._writing)
            self._writing = None

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
        async with self._lock:
            if good:
                await self._datasets.append_rows(self.name, good)
                mended = [one for draft in waiting.drafts for one in draft.part.mended]
                await self._datasets.release(self.name, [*(record.id for record in good), *mended])
            if bad:
                await self._datasets.append_rows(self.name, bad, suffix=QUARANTINE)
            for draft in waiting.drafts:
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

    def _count_rows(self, contents: Array, keys: Array) -> tuple[Array, Array]:
        """Of each of some rows, how often its source had it before, and whether it is left out."""
        source = self._sources[self._digest]
        left_out = self._left_out(contents, source)
        again = np.zeros(len(keys), np.uint32)
        again[~left_out] = source.rows.counted(keys[~left_out])
        return again, left_out

    def _left_out(self, contents: Array, source: _Source) -> Array:
        """Which rows are left out because another file of the same split has them. Within a file, all are kept."""
        if self._has_one_source:
            return np.zeros(len(contents), bool)
        unique, places, counts = np.unique(contents, return_inverse=True, return_counts=True)
        firsts = self._firsts.of(unique)
        new, left_out = firsts == 0, np.zeros(len(unique), bool)
        self._firsts.add(unique[new], np.full(new.sum(), source.number))
        sources = list(self._sources.values())
        for number in set(firsts[~new].tolist()) - {source.number}:
            first, are_its = sources[number - 1], firsts == number
            left_out |= are_its & (is_left_out := first.file.split == source.file.split)
            self._repeated[self._file.name, first.file.name, is_left_out] += int(counts[are_its].sum())
        return left_out[places]

    def _stale(self, ids: Iterable[str], *, in_quarantine: bool = False) -> list[str]:
        """Those of some records that are of a source of this run, which has not given them again in the same state."""
        stale, asked = list[str](), dict[str, list[tuple[str, re.Match[str]]]]()
        for record_id in ids:
            match = ID.fullmatch(record_id)
            source = self._sources.get(match["source"]) if match else None
            if match is None or source is None or record_id in self._mended:
                continue
            if not in_quarantine and self._ids is not None and self._ids.has(record_id):
                continue
            if (record_id in source.quarantined) != in_quarantine or (source.keeps_ids and not in_quarantine):
                stale.append(record_id)
            elif not in_quarantine:
                asked.setdefault(match["source"], []).append((record_id, match))
        for digest, some in asked.items():
            given = self._sources[digest].rows.of(_keys(match["row"] for _, match in some)).tolist()
            stale += [
                name for (name, match), count in zip(some, given, strict=True) if int(match["again"] or 0) >= count
            ]
        return stale


def _note(journal: Journal, drafts: Iterable[_Draft]) -> None:
    """Adds to the journal what was written of files that are still as they were hashed."""
    parts = []
    for draft in drafts:
        if draft.state.is_same():
            rows = np.concatenate([*draft.noted, np.empty(0, ROW)])
            arrays = {"rows": rows, "good": _states(draft.good), "bad": _states(draft.bad)}
            draft.part.visits = list(dict.fromkeys(draft.part.visits))
            parts.append((draft.part, arrays))
    if parts:
        journal.write(parts)


def _states(records: Iterable[RecordRow]) -> Array:
    return np.array([(record.hash, record.fingerprint) for record in records], STATE)


def _keys(digests: Iterable[str]) -> Array:
    packed = bytes.fromhex("".join([digest[:KEY_CHARACTERS] for digest in digests]))
    return np.frombuffer(packed, ">u8").astype(np.uint64)
