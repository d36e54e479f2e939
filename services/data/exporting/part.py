"""Writing one part of an export to local files. Blocking."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omnialign.exporting import Form, Unwritable
from omnialign.exporting.files import open_files
from omnialign.exporting.rows import Row
from omnialign.folders import FileEntry, file_entry, list_files
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record
from services.data.errors import translate_storage_errors
from services.data.exporting.ledger import Progress

MAX_NAMES, MAX_RECORDS = 64, 50_000
"""The most names that a part writes to, and the most records that it looks at."""
MAX_REASONS = 100
OTHERS = "other reasons"


@dataclass(frozen=True)
class Prepared:
    """A record as a row, or why it is left out."""

    id: str
    row: Row | None
    name: str = ""
    media: Sequence[Media] = ()
    notes: Sequence[str] = ()
    """Why it is left out; or else what is not written."""
    data: dict[str, bytes] = field(default_factory=dict)
    """The bytes of its media as they are read, by digest."""


def prepare(records: Sequence[Record], form: Form, *, with_media: bool) -> list[Prepared]:
    """The rows of records."""
    return [_prepared(record, form, with_media) for record in records]


def _prepared(record: Record, form: Form, with_media: bool) -> Prepared:
    try:
        row = form.row(record)
    except Unwritable as error:
        return Prepared(record.id, None, notes=(str(error),))
    media = form.media(record) if with_media else []
    return Prepared(record.id, row, form.name(record), media, tuple(form.lost(record)))


class Part:
    """A part that is being written into a folder of its own within `folder`.

    It is full by what is written to it alone, wherever a call began: each attempt at a part gives the same one.
    """

    def __init__(self, folder: Path, form: Form, before: Progress, *, most_bytes: int, with_media: bool) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._form, self._before, self._most_bytes = form, before, most_bytes
        self._files = open_files(self._folder, form.kind, media="tar" if with_media else "nowhere", first=before.rows)
        self._names, self._stored = set[str](), set[str]()
        self._records = self._rows = self._bytes = 0
        self._after = before.after
        self._left_out, self._without = Counter(before.left_out), Counter(before.without)

    @property
    def is_full(self) -> bool:
        """Whether the next record goes into the next part."""
        return self._bytes >= self._most_bytes or len(self._names) >= MAX_NAMES or self._records >= MAX_RECORDS

    def needed(self, media: Sequence[Media]) -> Iterator[str]:
        """The digests of those media whose bytes are to be read: beside the rows, a part has each once."""
        return (one.sha256 for one in media if self._form.kind != "jsonl" or one.sha256 not in self._stored)

    def add(self, rows: Sequence[Prepared]) -> int:
        """Writes rows until the part is full; returns how many. Raises STORAGE_FULL."""
        with translate_storage_errors():
            for count, one in enumerate(rows):
                if self.is_full:
                    return count
                self._add(one)
        return len(rows)

    def progress(self) -> Progress:
        """How far the export is with this part."""
        before = self._before
        return Progress(
            self._after,
            before.parts + 1,
            before.records + self._records,
            before.rows + self._rows,
            before.size_bytes + self._bytes,
            dict(self._left_out),
            dict(self._without),
        )

    def close(self) -> tuple[Progress, list[tuple[Path, FileEntry]]]:
        """Completes the files; they in order of name, and how far the export is with them. Raises STORAGE_FULL."""
        with translate_storage_errors():
            self._files.close()
            files = [(path, file_entry(path, folder=self._folder)) for path in list_files(self._folder)]
        done = self.progress()
        done.size_bytes = self._before.size_bytes + sum(entry.size_bytes for _, entry in files)
        return done, files

    def discard(self) -> None:
        """Removes what is left of the files on this machine."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _add(self, one: Prepared) -> None:
        self._records += 1
        self._after = one.id
        notes = self._without if one.row is not None else self._left_out
        for note in one.notes:
            notes[note if note in notes or len(notes) < MAX_REASONS else OTHERS] += 1
        if one.row is None:
            return
        self._rows += 1
        self._names.add(one.name)
        self._bytes += self._files.add(one.name, one.row, list(one.media), one.data)
        self._stored.update(medium.sha256 for medium in one.media)
