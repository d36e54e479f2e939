"""How the rows of an import are to be read: what its request declares."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omnialign.errors import InvalidArgument
from omnialign.v1 import data_service_pb2
from services.data.importing.columns import Row
from services.data.importing.scales import Scales

REFERENCES = 10
"""How many people answered each published item of AMU."""
_MISSING = object()
_COLUMN = re.compile(r"\S(.{0,198}\S)?", re.DOTALL)


@dataclass(frozen=True)
class Reading:
    """How the rows of an import are to be read."""

    scales: Scales = field(default_factory=Scales)
    ignored_columns: frozenset[str] = frozenset()
    renamed_columns: Mapping[str, str] = field(default_factory=dict)
    """For columns of the files that are to be read under another name, that name."""
    references: int = REFERENCES
    """How many references an item must have; 0 for any number."""
    append: bool = False

    @classmethod
    def of(cls, request: data_service_pb2.ImportDatasetRequest) -> "Reading":
        """What a request declares. Raises the reasons of `Scales.of`, and RENAME_INVALID."""
        renamed = dict(request.renamed_columns)
        for theirs, ours in renamed.items():
            if not (_COLUMN.fullmatch(theirs) and _COLUMN.fullmatch(ours)) or list(renamed.values()).count(ours) > 1:
                message = f"The column {theirs!r} cannot be read as {ours!r}: give each column a name of its own."
                raise InvalidArgument(message, reason="RENAME_INVALID", metadata={"column": theirs})
        return cls(
            Scales.of(request),
            frozenset(request.ignored_columns),
            renamed,
            request.reference_count if request.HasField("reference_count") else REFERENCES,
            request.append,
        )

    def prepared(self, row: Row) -> Row:
        """The row without ignored columns, and with others renamed, also fields of objects. Raises COLUMN_TWICE."""
        if not self.ignored_columns and not self.renamed_columns:
            return row
        found = {name: value for name, value in row.items() if name not in self.ignored_columns}
        for theirs, ours in self.renamed_columns.items():
            value = _take(found, theirs)
            if value is _MISSING:
                continue
            if found.get(ours) is not None:
                message = f"The column {theirs} is to be read as {ours}, which is there too: ignore one (`--ignore`)."
                raise InvalidArgument(message, reason="COLUMN_TWICE", metadata={"column": theirs})
            found[ours] = value
        return found


def _take(row: dict[str, Any], name: str) -> Any:
    """Takes a column out of a row, or a field such as `input.messages` out of the object in one."""
    if name in row:
        return row.pop(name)
    column, _, rest = name.partition(".")
    if not rest or not isinstance(row.get(column), Mapping):
        return _MISSING
    fields = dict(row[column])
    value = _take(fields, rest)
    if value is not _MISSING:
        row[column] = fields or None
    return value
