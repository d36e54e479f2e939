"""An export into a local folder, which appears complete or not at all."""

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from omnialign.errors import AlreadyExists
from omnialign.exporting.files import open_files
from omnialign.exporting.forms import form_of
from omnialign.exporting.rows import Unwritable
from omnialign.v1.record_pb2 import Record

ReadMedia = Callable[[str], Awaitable[bytes]]
"""Gives the bytes of a medium by its digest."""


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
    how, rows, seen = form_of(form), 0, set[str]()
    left_out, without = Counter[str](), Counter[str]()
    with atomic_folder(folder) as partial:
        files = open_files(partial, how.kind, media="folder" if with_media else "nowhere")
        async for record in records:
            try:
                row = how.row(record)
            except Unwritable as error:
                left_out[str(error)] += 1
                continue
            without.update(how.lost(record))
            media = how.media(record) if with_media else []
            # Beside the rows a medium is once, and need not be read again.
            needed = [one.sha256 for one in media if how.kind != "jsonl" or one.sha256 not in seen]
            data = {sha256: await read(sha256) for sha256 in needed}
            files.add(how.name(record), row, media, data)
            seen.update(one.sha256 for one in media)
            rows += 1
        files.close()
    return ExportCounts(rows, len(seen), left_out, without)


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
