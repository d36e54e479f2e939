"""Writes a dataset to a folder: `records.jsonl` and `media/`. The folder appears complete or not at all."""

import contextlib
import json
import mimetypes
import shutil
import tempfile
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omnialign.cli.output import plain
from omnialign.content import media_of
from omnialign.errors import AlreadyExists
from omnialign.v1 import content_pb2, record_pb2

if TYPE_CHECKING:
    from omnialign.client import AsyncClient

SUFFIXES = {"audio/wav": ".wav", "audio/x-wav": ".wav", "image/jpeg": ".jpg", "video/mp4": ".mp4"}


@dataclass(frozen=True)
class Exported:
    """What was written."""

    records: int
    media: int


async def export(
    records: AsyncIterable[record_pb2.Record], folder: Path, *, client: "AsyncClient", with_media: bool = True
) -> Exported:
    """Writes records and media. Raises AlreadyExists FOLDER_NOT_EMPTY when something is there already."""
    with _appearing(folder) as partial:
        return await _fill(partial, records, client if with_media else None)


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place at the end, or vanishes on an error."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"'{folder}' is there already and not empty; choose another folder."
        raise AlreadyExists(message, reason="FOLDER_NOT_EMPTY", metadata={"folder": str(folder)})
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


async def _fill(folder: Path, records: AsyncIterable[record_pb2.Record], client: "AsyncClient | None") -> Exported:
    media: dict[str, content_pb2.Media] = {}
    count = 0
    with (folder / "records.jsonl").open("w", encoding="utf-8") as lines:
        async for record in records:
            lines.write(json.dumps(plain(record), ensure_ascii=False) + "\n")
            for medium in media_of([record.prompt, *(response.content for response in record.responses)]):
                media[medium.sha256] = medium
            count += 1
    if client is None:
        return Exported(count, 0)
    (folder / "media").mkdir()
    for medium in media.values():
        (folder / "media" / file_name(medium)).write_bytes(await client.get_media(medium.sha256))
    return Exported(count, len(media))


def file_name(medium: content_pb2.Media) -> str:
    """`<sha256>.<suffix of its type>`."""
    suffix = SUFFIXES.get(medium.mime_type) or mimetypes.guess_extension(medium.mime_type) or ".bin"
    return medium.sha256 + suffix
