"""An export into a local folder, which appears complete or not at all."""

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnialign.errors import AlreadyExists
from omnialign.exporting.files import open_files
from omnialign.exporting.forms import Form, form_of
from omnialign.exporting.rows import Unwritable
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record

ReadMedia = Callable[[Iterable[str]], Awaitable[Mapping[str, bytes]]]
"""Gives the bytes of media by their digests."""
TOGETHER, TOGETHER_BYTES = 64, 8 * 1024 * 1024
"""The most records, and about the most bytes of their media, for which media are read together."""


@dataclass(frozen=True)
class ExportCounts:
    """How much was exported; for each reason how many records were left out, and how many came without something."""

    rows: int
    media: int
    left_out: Mapping[str, int]
    without: Mapping[str, int]


async def export(
    records: AsyncIterable[Record], folder: Path, *, form: str, read: ReadMedia, with_media: bool = True
) -> ExportCounts:
    """Writes records and their media into a new folder, in a form of `FORMS`.

    Raises FORMAT_UNKNOWN, FOLDER_NOT_EMPTY, PYARROW_MISSING, and what `read` raises.
    """
    how, seen = form_of(form), set[str]()
    left_out, without = Counter[str](), Counter[str]()
    with atomic_folder(folder) as partial:
        files = open_files(partial, how.kind, media="folder" if with_media else "nowhere")
        rows = 0
        async for group in _groups(records, how, left_out=left_out, with_media=with_media):
            # Beside the rows a medium is once, and need not be read again.
            wanted = {one.sha256 for _, _, media in group for one in media}
            found = await read(sorted(wanted - seen if how.kind == "jsonl" else wanted)) if wanted else {}
            for record, row, media in group:
                without.update(how.lost(record))
                needed = [one.sha256 for one in media if how.kind != "jsonl" or one.sha256 not in seen]
                files.add(how.name(record), row, media, {sha256: found[sha256] for sha256 in needed})
                seen.update(one.sha256 for one in media)
                rows += 1
        files.close()
    return ExportCounts(rows, len(seen), left_out, without)


async def _groups(
    records: AsyncIterable[Record], how: Form, *, left_out: Counter[str], with_media: bool
) -> AsyncIterator[list[tuple[Record, Any, list[Media]]]]:
    """Records with their rows and media, those together whose media are read together."""
    group, size_bytes = list[tuple[Record, Any, list[Media]]](), 0
    async for record in records:
        try:
            row = how.row(record)
        except Unwritable as error:
            left_out[str(error)] += 1
            continue
        media = how.media(record) if with_media else []
        group.append((record, row, media))
        size_bytes += sum(one.size_bytes for one in media)
        if len(group) == TOGETHER or size_bytes >= TOGETHER_BYTES:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill: it is renamed to `folder` at the end, or removed on an error."""
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_free(folder: Path) -> None:
    """Raises AlreadyExists FOLDER_NOT_EMPTY for a folder, or file, that an export would replace."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"'{folder}' exists already and is not empty; choose another folder."
        raise AlreadyExists(message, reason="FOLDER_NOT_EMPTY", metadata={"folder": str(folder)})
