"""The quarantine of a dataset: its rows by reason, and their export as data files to mend and import again.

An exported row keeps its own columns, without the bytes of media, and says in the column `_quarantine` what is wrong
with it. That column also names the row, so that the mended row takes its place when it is imported.
"""

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path

from omnialign.exporting.align_anything import subtask_name
from omnialign.exporting.folder import atomic_folder
from omnialign.v1 import record_pb2

NOTE = "_quarantine"
BENCHMARK, FORMAT = "benchmark", "format"
"""The labels that say in which format a row was."""
UNTOLD = "rows"
"""The name of a file that does not tell the subtask, since the columns do."""


@dataclass(frozen=True)
class ExportCounts:
    """How many rows were exported, and how many could not be because their columns are not known."""

    rows: int
    left_out: int


async def with_reasons(
    records: AsyncIterable[record_pb2.Record], reasons: Collection[str]
) -> AsyncIterator[record_pb2.Record]:
    """The rows that were set aside for one of these reasons; all if there are none."""
    async for record in records:
        if not reasons or record.quarantine.reason in reasons:
            yield record


def row_text(record: record_pb2.Record) -> str:
    """A quarantined row in a line or two: its reason, and the message that begins with its place."""
    return f"{record.quarantine.reason}  {record.quarantine.message}"


async def export_rows(records: AsyncIterable[record_pb2.Record], folder: Path) -> ExportCounts:
    """Writes rows to a new folder, a JSON Lines file for each subtask, those of other formats in folders of their own.

    Raises AlreadyExists FOLDER_NOT_EMPTY.
    """
    rows = left_out = 0
    with atomic_folder(folder) as partial:
        async for record in records:
            if record.quarantine.row_json:
                is_told = record.labels.get(FORMAT) and "t" in record.subtask.partition("2")[2]
                name = UNTOLD if is_told else subtask_name(record.subtask)
                path = partial / folder_name(record) / f"{name}.jsonl"
                path.parent.mkdir(exist_ok=True)
                with path.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row_to_mend(record), ensure_ascii=False) + "\n")
                rows += 1
            else:
                left_out += 1
    return ExportCounts(rows, left_out)


def row_to_mend(record: record_pb2.Record) -> dict[str, object]:
    """The columns of a quarantined row, and what is wrong with it."""
    found = record.quarantine
    note = {
        "id": record.id,
        "file": found.source_file,
        "row": found.source_row,
        "reason": found.reason,
        "message": found.message,
    }
    row: dict[str, object] = json.loads(found.row_json)
    return {"split": record.split} | row | {NOTE: note}


def folder_name(record: record_pb2.Record) -> str:
    """The name that tells an import the format: `benchmark-amu`, `format-trl`; "" for align-anything-200k."""
    told = [(label, record.labels.get(label, "")) for label in (BENCHMARK, FORMAT)]
    return next((f"{label}-{code}" for label, code in told if re.fullmatch(r"[a-z_]+", code)), "")
