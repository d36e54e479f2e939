"""One run of an import: which rows it has seen, the counts, and the records that wait to be written."""

import asyncio
from collections import Counter
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field

from omnialign.errors import valid_text
from omnialign.names import project_name_of
from omnialign.v1 import record_pb2
from omnialign.v1.data_service_pb2 import ImportDatasetResponse as Progress
from services.data.datasets import Datasets
from services.data.importing.identity import ID, source_digest
from services.data.importing.reading_ahead import Row
from services.data.importing.sources import SourceFile
from services.data.media_store import MediaStore
from services.data.usage import Usage

WRITE_RECORDS = 4096
WRITE_BYTES = 16 * 1024 * 1024
MAX_EXAMPLES = 8
KEY_CHARACTERS = 16
"""Of each digest, only 64 bits are kept."""


@dataclass
class _Source:
    """What one source has given so far."""

    file: SourceFile
    """Its first file."""
    rows: Counter[int] = field(default_factory=Counter)
    """How often each row occurred."""
    quarantined: set[str] = field(default_factory=set)
    """The ids of rows that were set aside."""


@dataclass
class _Waiting:
    """What is to be written together."""

    good: list[record_pb2.Record] = field(default_factory=list)
    bad: list[record_pb2.Record] = field(default_factory=list)
    media: dict[str, int] = field(default_factory=dict)
    """Sizes in bytes by digest."""
    size_bytes: int = 0
    """Of the records."""

    @property
    def is_full(self) -> bool:
        """Whether it is enough to be written."""
        return len(self.good) + len(self.bad) >= WRITE_RECORDS or self.size_bytes >= WRITE_BYTES


class ImportRun:
    """Writes rows, and removes at the end what they replace."""

    def __init__(self, name: str, *, datasets: Datasets, media: MediaStore, usage: Usage, append: bool) -> None:
        self.name, self.progress = name, Progress()
        self.examples: dict[str, str] = {}
        """For each reason to set rows aside, the message of the first one."""
        self._datasets, self._media, self._usage, self._append = datasets, media, usage, append
        self._waiting = _Waiting()
        self._writing: asyncio.Task[None] | None = None
        self._sources: dict[str, _Source] = {}
        self._mended: set[str] = set()
        # The source of each row's content, to notice rows that several files share.
        self._contents: dict[int, _Source] = {}
        self._repeated: Counter[tuple[str, str, bool]] = Counter()

    def begin(self, file: SourceFile) -> None:
        """Says that the next rows are those of a file."""
        self._file, self._digest = file, source_digest(file)
        self._sources.setdefault(self._digest, _Source(file))

    async def add(self, row: Row) -> None:
        """Counts a row, and has it written: with others, and while the next ones are read."""
        self.progress.rows_read += 1
        if self._is_repeated(row):
            return
        source, key, waiting = self._sources[self._digest], _key(row.digest), self._waiting
        again = source.rows[key]
        source.rows[key] += 1
        record = row.record
        self._mended.update([record.id] if record.id else [])
        record.id = record.id or f"{record.subtask}-{row.digest}-{self._digest}" + (f"-{again}" if again else "")
        if record.HasField("quarantine"):
            source.quarantined.add(record.id)
            self._note(record.quarantine)
            waiting.bad.append(record)
        else:
            waiting.good.append(record)
        waiting.size_bytes += record.ByteSize()
        self.progress.media_bytes += sum(media.size_bytes for media in row.media)
        waiting.media.update((media.sha256, media.size_bytes) for media in row.media)
        if waiting.is_full:
            await self._settle()
            self._waiting, self._writing = _Waiting(), asyncio.create_task(self._write(waiting))

    async def flush(self) -> None:
        """Writes what waits. Raises QUOTA_EXCEEDED if the media do not fit."""
        await self._settle()
        waiting, self._waiting = self._waiting, _Waiting()
        await self._write(waiting)

    async def abandon(self) -> None:
        """Waits for a write that has begun."""
        with suppress(Exception):
            await self._settle()

    async def _settle(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _write(self, waiting: _Waiting) -> None:
        """Writes records, then counts them. Raises QUOTA_EXCEEDED if their media do not fit."""
        good, bad = waiting.good, waiting.bad
        parent = project_name_of(self.name)
        await self._usage.check(parent, waiting.media)
        await self._usage.hold(self.name, waiting.media, parent=parent)
        if good:
            await self._media.sync()  # media first: a record must never refer to media that a power cut can lose
            await self._datasets.append(self.name, good)
            await self._datasets.release(self.name, [record.id for record in good])
        if bad:
            await self._datasets.quarantine(self.name, bad)
        self.progress.records_imported += len(good)
        self.progress.rows_quarantined += len(bad)
        _count(self.progress.subtask_counts, (record.subtask for record in good))
        _count(self.progress.quarantine_reasons, (record.quarantine.reason for record in bad))

    async def finish(self) -> None:
        """Removes what earlier imports of the same sources gave and this one did not, and lists repeated rows."""
        for (file, earlier, left_out), rows in self._repeated.items():
            both = {"file": valid_text(file), "earlier_file": valid_text(earlier)}
            self.progress.repeated_rows.add(**both, rows=rows, left_out=left_out)
        if not self._append:
            self.progress.records_removed = await self._datasets.discard(self.name, self._is_stale)
            await self._datasets.discard(self.name, self._is_stale_in_quarantine, from_quarantine=True)

    def _is_repeated(self, row: Row) -> bool:
        """Whether a row is left out because another file of the same split has it. Within a file, all are kept."""
        source = self._sources[self._digest]
        first = self._contents.setdefault(_key(row.content), source)
        if first is source:
            return False
        left_out = first.file.split == source.file.split
        self._repeated[self._file.name, first.file.name, left_out] += 1
        return left_out

    def _is_stale(self, record_id: str) -> bool:
        return self._is_replaced(record_id, quarantined=False)

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
        is_given = int(match["again"] or 0) < source.rows[_key(match["row"])]
        return not is_given or record_id in source.quarantined

    def _note(self, found: record_pb2.Quarantine) -> None:
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.setdefault(found.reason, found.message)


def _key(digest: str) -> int:
    return int(digest[:KEY_CHARACTERS], 16)


def _count(counts: MutableMapping[str, int], keys: Iterable[str]) -> None:
    for key in keys:
        counts[key] += 1
