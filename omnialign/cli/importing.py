"""What `omnialign data import` shows: how far it is while it runs, and what came of it."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from omnialign.cli.follow import last_message
from omnialign.cli.output import Output, clock
from omnialign.wording import counted, size_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from omnialign.v1 import data_service_pb2, dataset_pb2

SECONDS_BETWEEN_LINES = 10


async def show_import(
    events: AsyncIterator[data_service_pb2.ImportDatasetResponse], *, out: Output
) -> dataset_pb2.DatasetVersion:
    """Shows the progress and the result of an import, and returns the new version.

    On a terminal, the progress is one line that changes; otherwise it is a line every ten seconds.
    """
    said = time.monotonic()

    def see(progress: data_service_pb2.ImportDatasetResponse) -> None:
        nonlocal said
        out.record(progress)
        if not out.is_live and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            out.say(progress_line(progress))

    last = await last_message(events, out=out, doing="looking through the files", text=progress_line, see=see)
    _show_result(last, out=out)
    return last.dataset_version


def progress_line(progress: data_service_pb2.ImportDatasetResponse) -> str:
    """How far an import is, how fast, and how long the rest will take."""
    read, total = progress.rows_read, progress.rows_total
    share = f" of {total:,} ({min(100, 100 * read // total)} %)" if total else ""
    parts = [f"importing: {read:,}{share} rows"]
    if progress.rows_skipped:
        parts.append(f"{progress.rows_skipped:,} there already")
    if progress.rows_per_second:
        parts.append(f"{progress.rows_per_second:,.0f} rows/s")
    if progress.HasField("time_left") and read < total:
        parts.append(f"{clock(progress.time_left.seconds)} left")
    if progress.media_bytes:
        parts.append(f"{size_text(progress.media_bytes)} of media")
    if progress.rows_quarantined:
        parts.append(f"{progress.rows_quarantined:,} set aside")
    return ", ".join(parts)


def _show_result(last: data_service_pb2.ImportDatasetResponse, *, out: Output) -> None:
    version = last.dataset_version
    _show_formats(last.file_formats, out=out)
    counts = ", ".join(f"{name} {number:,}" for name, number in sorted(version.subtask_counts.items()))
    out.say(f"{version.name}: {counted(version.record_count, 'record')} ({counts})")
    media = f"; media: {size_text(last.media_bytes)}" if last.media_bytes else ""
    out.say(f"imported: {last.records_imported:,} of {counted(last.rows_read, 'row')}{media}")
    if last.rows_skipped:
        out.say(f"there already, and not read again: {counted(last.rows_skipped, 'row')}")
    if last.records_replaced:
        out.say(f"replaced: {counted(last.records_replaced, 'record')} with ids that these files use")
    if last.records_removed:
        removed = counted(last.records_removed, "record")
        out.say(f"removed: {removed} of an earlier import that these files no longer have")
    out.say(f"quarantined: {counted(last.rows_quarantined, 'row')}")
    for reason, number in sorted(last.quarantine_reasons.items()):
        out.say(f"  {reason}: {number:,}")
    _show_what_is_not_read(last, out=out)


def _show_formats(files: Sequence[data_service_pb2.FileFormat], *, out: Output) -> None:
    """A line for each format; `--json` has each file."""
    formats: dict[str, list[data_service_pb2.FileFormat]] = defaultdict(list)
    for file in files:
        formats[file.format].append(file)
    for name, those in formats.items():
        where = those[0].file if len(those) == 1 else f"{len(those)} files"
        told = {file.told_by for file in those}
        out.say(f"format: {name} in {where}" + (f", told by {told.pop()}" if len(told) == 1 else ""))


def _show_what_is_not_read(last: data_service_pb2.ImportDatasetResponse, *, out: Output) -> None:
    for column in last.unread_columns:
        similar = f" (similar to {column.nearest})" if column.nearest else ""
        out.say(f"not read: column {column.column}{similar}, {counted(column.rows, 'row')} of {column.file}")
    for file in last.skipped_files:
        out.say(f"not read: {file.file}: it {file.why}")
    for rows in last.repeated_rows:
        done = "left out" if rows.left_out else "kept, since the split is another"
        out.say(f"repeated: {counted(rows.rows, 'row')} of {rows.file}, also in {rows.earlier_file}; {done}")
