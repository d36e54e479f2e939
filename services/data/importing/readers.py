"""Reading the rows of a data file of any kind, in units, and a first look at all rows before any is imported.

`read_units` and `survey` run in child processes: a file may make its reader crash, or fill the memory.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from omnialign.errors import InvalidArgument
from services.data.importing.benchmarks.eval_anything import join_rows
from services.data.importing.columns import MAX_COLUMNS, SCHEMAS, layout
from services.data.importing.coverage import coverage, format_coverage
from services.data.importing.formats.registry import FORMATS, TOLD_BY_ROWS, told_by_columns
from services.data.importing.json_rows import read_json_lines, read_json_rows
from services.data.importing.reading import Reading
from services.data.importing.samples import read_sample_outlines, read_samples
from services.data.importing.scales import NumberChecks
from services.data.importing.sources import TABLES, SourceFile, subtask_unknown
from services.data.importing.tables import read_outlines, read_table, read_table_units
from services.data.importing.units import Share, Unit, units_of

MAX_UNREAD_COLUMNS = 100
"""Most columns of a file that are listed as not read."""


def read_units(source: SourceFile, reading: Reading, share: Share) -> Iterator[Unit]:
    """The units of a share of a file's rows, those of one record joined. Raises what `read_table` raises."""
    key, is_table = FORMATS[source.format].key if source.format else "", source.suffix in TABLES
    if key:
        rows = _rows_of_table(source) if is_table else _numbered(source)
        return units_of(join_rows(((number, _prepared(row, reading)) for number, row in rows), key), share)
    if is_table:
        return read_table_units(source.path, share)
    if source.suffix == ".tar":
        return units_of(read_samples(source.path, share.has_row), share)
    if source.suffix == ".jsonl":
        return units_of(read_json_lines(source.path, share.has_row), share)
    return units_of(_numbered(source), share)


def _rows_of_table(source: SourceFile) -> Iterator[tuple[int, Any]]:
    return (row for batch in read_table(source.path) for row in batch.rows())


def _prepared(row: Any, reading: Reading) -> Any:
    return reading.prepared(row) if _has_columns(row) else row


def _numbered(source: SourceFile) -> Iterator[tuple[int, Any]]:
    if source.suffix == ".jsonl":
        return read_json_lines(source.path)
    if source.suffix == ".tar":
        return read_samples(source.path)
    return enumerate(read_json_rows(source.path), 1)


@dataclass
class Survey:
    """What a first look at a file shows."""

    file: SourceFile
    """The file with its format, told by its columns if nothing else tells it."""
    rows: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    """For each column that is not read, the number of rows with a value in it."""
    lost: Counter[str] = field(default_factory=Counter)
    """Those of them that seem to hold answers or preferences that their rows do not yield."""

    def told(self) -> dict[str, Any]:
        """What `known` takes."""
        file = self.file
        names = {"subtask": file.subtask, "split": file.split, "format": file.format, "told_by": file.told_by}
        return {"file": names, "rows": self.rows, "unread": dict(self.unread)}

    @classmethod
    def known(cls, file: SourceFile, told: Mapping[str, Any] | None) -> "Survey | None":
        """The survey of a file that was looked at before; None if it was not."""
        return cls(replace(file, **told["file"]), told["rows"], Counter(told["unread"])) if told else None


def survey(source: SourceFile, reading: Reading) -> Survey:
    """Looks at all rows of a file.

    Raises SCORES_UNEXPECTED, LABELS_UNEXPECTED, ANSWERS_UNREAD, COLUMN_TWICE, SUBTASK_UNKNOWN, and what `read_table`
    raises.
    """
    source = _told(source, reading)
    _check_scale(source, reading)
    found, numbers = Survey(source), NumberChecks(source.name, reading.scales)
    for row, count in _outlines(source):
        found.rows += count
        if not _has_columns(row):
            continue  # set aside when it is imported
        row = reading.prepared(row)
        if source.otherwise(row)[0]:
            continue  # set aside, too
        names = tuple(row)
        valued = tuple(name for name in names if row[name] is not None and row[name] != "")
        covered = format_coverage(source.format, valued) if source.format else coverage(source.subtask, names, valued)
        fields = FORMATS[source.format].unread(row) if source.format else ()
        unread = dict.fromkeys([*covered.unread, *(name for name in fields if name not in reading.ignored_columns)])
        found.unread.update({name: count for name in unread if _has_room(found.unread, name)})
        found.lost.update({name: count for name in covered.lost if _has_room(found.lost, name)})
        if not source.format:
            numbers.add(layout(names), row, count)
    numbers.check()
    if found.lost:
        raise _answers_unread(source, found)
    return found


def _told(source: SourceFile, reading: Reading) -> SourceFile:
    """The file with its format. Raises SUBTASK_UNKNOWN if that has subsets, and nothing tells which."""
    if not source.told_by:
        form, why = told_by_columns(itertools.islice(_columns(source, reading), TOLD_BY_ROWS))
        source = replace(source, format=form, told_by=why)
        if not form and source.subtask not in SCHEMAS:
            raise subtask_unknown(source.path, columns=list(next(_columns(source, reading), ())))
    if not source.format and source.subtask not in SCHEMAS:
        raise subtask_unknown(source.path)
    return source


def _columns(source: SourceFile, reading: Reading) -> Iterator[Mapping[str, Any]]:
    """The rows of a file as they are to be read, without those that have no columns."""
    rows = (row for row, count in _outlines(source) for _ in range(count))
    return (reading.prepared(row) for row in rows if _has_columns(row))


def _check_scale(source: SourceFile, reading: Reading) -> None:
    """Raises SCORES_UNEXPECTED if the format's ratings are on a scale of their own and none is declared."""
    published = FORMATS[source.format].rated if source.format else None
    if published and reading.scales.score_range is None:
        scale = "{} to {}".format(*published)
        message = (
            f"The ratings in {source.name}, which is in the format {source.format}, are not 0, 1, 2 or 3; published "
            f"are {scale}: declare their scale with `--score-range {scale.replace(' to ', ' ')}`."
        )
        metadata = {"file": source.name, "lowest": str(published[0]), "highest": str(published[1])}
        raise InvalidArgument(message, reason="SCORES_UNEXPECTED", metadata=metadata)


def _has_columns(row: Any) -> bool:
    return isinstance(row, Mapping) and len(row) <= MAX_COLUMNS


def _outlines(source: SourceFile) -> Iterator[tuple[Any, int]]:
    """The rows of a file, as much of them as a first look takes, each with how many there are like it."""
    if source.suffix in TABLES:
        return read_outlines(source.path)
    rows = read_sample_outlines(source.path) if source.suffix == ".tar" else (row for _, row in _numbered(source))
    return ((row, 1) for row in rows)


def _has_room(counts: Counter[str], name: str) -> bool:
    return name in counts or len(counts) < MAX_UNREAD_COLUMNS


def _answers_unread(source: SourceFile, found: Survey) -> InvalidArgument:
    names = list(found.lost)
    rows = max(found.lost.values())
    mend = (
        f"say what they are with `--map`, choose another format than {source.format} with `--format`,"
        if source.format
        else "name them response_1, response_2 and overall_response (1 or 2), say what they are with `--map`,"
    )
    message = (
        f"{rows} rows of {source.name} have answers or preferences in {', '.join(names[:8])}, which are not read: "
        f"{mend} or leave them out with `--ignore COLUMN`."
    )
    metadata = {"file": source.name, "columns": ",".join(names)[:500], "rows": str(rows)}
    return InvalidArgument(message, reason="ANSWERS_UNREAD", metadata=metadata)
