"""Exports that the service writes and this machine downloads: for large versions, since both go on where they broke."""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnialign import names
from omnialign.cli import uploads
from omnialign.cli.follow import last_message
from omnialign.exporting import ExportCounts
from omnialign.exporting.folder import check_free
from omnialign.wording import size_text

if TYPE_CHECKING:
    from omnialign.cli.output import Output
    from omnialign.client import AsyncClient
    from omnialign.v1.data_service_pb2 import ExportDatasetResponse, ExportedFile


async def export(
    client: "AsyncClient",
    version: str,
    folder: Path,
    *,
    form: str,
    subtasks: Sequence[str],
    splits: Sequence[str],
    with_media: bool,
    out: "Output",
) -> ExportCounts:
    """Exports a version into a new folder. The same call goes on with what an earlier one has left.

    Raises FOLDER_NOT_EMPTY, and what the calls raise.
    """
    names.parse(version, names.DATASET_VERSION)
    check_free(folder)
    version = (await client.get_dataset_version(version)).name  # the newest may be another when the call is repeated
    told = [version, form, *sorted(subtasks), "", *sorted(splits), "media" if with_media else ""]
    events = client.export_dataset(
        version,
        format=form,
        subtasks=sorted(subtasks),
        splits=sorted(splits),
        with_media=with_media,
        request_id=_request_id(folder, told),
    )
    files = list["ExportedFile"]()
    last = await last_message(
        events, out=out, doing="exporting", text=_shown, see=lambda event: files.extend(event.files)
    )
    with uploads.show_transfer("downloading", out=out) as progress:
        await client.download_export(last.export, files, folder, progress=progress)
    media = folder / "media"
    count = sum(1 for _ in media.iterdir()) if media.is_dir() else 0
    return ExportCounts(last.rows_written, count, last.left_out, last.without)


def _request_id(folder: Path, told: Sequence[str]) -> str:
    """The same for the same export into the same folder, so that repeating the command goes on with it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([str(folder.resolve()), *told])))


def _shown(event: "ExportDatasetResponse") -> str:
    known = f" of {event.record_count:,}" if event.record_count else ""
    left = event.record_count - event.records_read
    time_left = f", {left / event.records_per_second:,.0f} s left" if left > 0 and event.records_per_second else ""
    return (
        f"{event.records_read:,}{known} records, {size_text(event.bytes_written)}, "
        f"{event.records_per_second:,.0f} records/s{time_left}"
    )
