"""A version of a dataset as one file: what `omnialign data export` writes, in a zip.

It is written to temporary files first, so that what cannot be exported is an error and not half a file. Larger versions
are for the command line, which writes a folder and goes on where it was.
"""

import asyncio
import json
import tempfile
import zipfile
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from omnialign import exporting, names
from omnialign.client import AsyncClient
from omnialign.content import contents_of, media_of
from omnialign.errors import InvalidArgument, ResourceExhausted
from omnialign.v1.record_pb2 import Record
from services.console.context import Context, name_in
from services.console.places import Places

ALIGN_ANYTHING = "align-anything"
"""What rows are written in unless something else is chosen."""
NOT_WRITTEN = "not-written.json"
"""What was left out and why; only where something was."""
BLOCK_BYTES = 256 * 1024
EXPORTS = 1
"""How many exports go on at a time."""


def export_routes(context: Context) -> list[Route]:
    """The download."""
    places = Places(EXPORTS, "Others are exporting; try again when they are done.", reason="EXPORTS_BUSY")
    most = context.config.max_export_bytes

    async def export(request: Request) -> Response:
        client, version = context.client(request), name_in(request, names.DATASET_VERSION)
        columns = request.query_params.get("columns", ALIGN_ANYTHING)
        if columns not in exporting.FORMS:
            message = f"There is no export with these columns; there are {', '.join(exporting.FORMS)}."
            raise InvalidArgument(message, reason="COLUMNS_UNKNOWN", violations=[("columns", "is not known")])
        with places.one():
            found = await client.get_dataset_version(version)
            folder = tempfile.TemporaryDirectory(prefix="omnialign-export-")
            try:
                stream = bounded(client.stream_records(found.name), found.name, most=most)
                path = await zipped(stream, Path(folder.name), client=client, columns=columns)
            except BaseException:
                folder.cleanup()
                raise
        name = f"{names.short_name(found.name).replace('/', '-')}-{columns}.zip"
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Length": str(path.stat().st_size),
            "Cache-Control": "no-store",
        }
        return StreamingResponse(_blocks(path, folder), media_type="application/zip", headers=headers)

    return [Route(f"/{names.DATASET_VERSION}/export", export)]


async def bounded(stream: AsyncIterable[Record], version: str, *, most: int) -> AsyncIterator[Record]:
    """The records. Raises ResourceExhausted EXPORT_TOO_LARGE once they and their media have more than `most` bytes."""
    seen, size_bytes = set[str](), 0
    async for record in stream:
        size_bytes += record.ByteSize()
        for medium in media_of(contents_of(record)):
            size_bytes += 0 if medium.sha256 in seen else medium.size_bytes
            seen.add(medium.sha256)
        if size_bytes > most:
            raise ResourceExhausted(
                f"The version has more than {most} bytes; `omnialign data export {names.short_name(version)} FOLDER` "
                "writes versions of any size.",
                reason="EXPORT_TOO_LARGE",
                metadata={"most_bytes": str(most)},
            )
        yield record


async def zipped(stream: AsyncIterable[Record], folder: Path, *, client: AsyncClient, columns: str) -> Path:
    """Writes a zip into a folder. Media are not compressed: they are already."""
    files = folder / "files"
    done = await exporting.export(stream, files, form=columns, read=client.fetch_media)
    missing = {"left_out": done.left_out, "without": done.without}
    if any(missing.values()):
        text = json.dumps({name: dict(counts) for name, counts in missing.items()}, indent=2, ensure_ascii=False)
        (files / NOT_WRITTEN).write_text(text + "\n", encoding="utf-8")
    return await asyncio.to_thread(_pack, files, folder / "export.zip")


def _pack(files: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(one for one in files.rglob("*") if one.is_file()):
            kind = zipfile.ZIP_DEFLATED if path.suffix in (".json", ".jsonl") else zipfile.ZIP_STORED
            archive.write(path, path.relative_to(files), compress_type=kind)
            path.unlink()  # the disk holds each file once
    return target


async def _blocks(path: Path, folder: tempfile.TemporaryDirectory[str]) -> AsyncIterator[bytes]:
    """The file, whose folder goes with the end of the answer."""
    with folder, path.open("rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block
