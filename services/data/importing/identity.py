"""What tells rows apart: ids that name the row and the source it came from, and digests of content.

The id of a record is `{subtask}-{row}-{source}`, and `-1`, `-2` for rows that are alike. `row` is the digest of the
source's own id of the row, or else of the row's content, so that a corrected row with an id stays the same record.
`source` is the digest of subtask, split and the path of the file: files with the same are versions of one another,
wherever they lie. So what an earlier import of a file gave can be told by its ids alone. Whole records keep the ids
that they have: see `ids`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np

from services.data.importing.coverage import IDS, NOTE
from services.data.importing.sources import SourceFile

ROW_CHARACTERS = 24
SOURCE_CHARACTERS = 8
ID = re.compile(
    rf"(?P<subtask>[a-z0-9]{{1,16}})-(?P<row>[0-9a-f]{{{ROW_CHARACTERS}}})"
    rf"-(?P<source>[0-9a-f]{{{SOURCE_CHARACTERS}}})(-(?P<again>\d{{1,9}}))?"
)
_JSON = json.JSONEncoder(default=repr)
MAPPINGS = (dict, Mapping)
"""What rows are; nearly all are found at the first, to which a look costs a tenth of one at the second."""
SHARD = re.compile(r"[-_.]?\d{5}-of-\d{5}(?=\.)")


class Digests:
    """The SHA-256 of the bytes in some rows, each computed once: it tells rows apart, and names media.

    Bytes are told apart by where they lie in memory, and so are kept until `forget`.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, bytes]] = {}

    def of(self, data: bytes) -> bytes:
        """The digest of bytes."""
        if (known := self._known.get(id(data))) is None:
            known = self._known[id(data)] = data, hashlib.sha256(data).digest()
        return known[1]

    def forget(self) -> None:
        """Forgets all bytes."""
        self._known.clear()


def source_digest(file: SourceFile) -> str:
    """What files that are versions of one another have in common. The shards of a file are one source."""
    text = "\0".join((file.format or file.subtask, file.split, SHARD.sub("", file.name)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:SOURCE_CHARACTERS]


def row_digest(row: Any, content: str, *, ids: Sequence[str] = (), with_content: bool) -> str:
    """The digest of the row's own id, in one of `IDS` or of `ids`; that of its content if it has none.

    Rows that are appended keep those with the same id, so there the content counts as well.
    """
    if isinstance(row, MAPPINGS):
        for name in (*IDS, *ids):
            found = row.get(name)
            if isinstance(found, int | str) and not isinstance(found, bool) and str(found).strip():
                text = f"{str(found).strip()}\0{content if with_content else ''}"
                return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ROW_CHARACTERS]
    return content


def mended_id(row: Any) -> str:
    """The id of the quarantined row that this row, exported and mended, replaces; "" for any other row."""
    note = row.get(NOTE) if isinstance(row, Mapping) else None
    found = note.get("id") if isinstance(note, Mapping) else None
    return found if isinstance(found, str) and ID.fullmatch(found) else ""


def content_digest(subtask: str, row: Any, digests: Digests) -> str:
    """A digest of a row's content, the same in every run and on every machine. Columns without a value do not count."""
    parts = [subtask.encode()]
    _add(parts, row, digests)
    return hashlib.sha256(b"".join(parts)).hexdigest()[:ROW_CHARACTERS]


def _add(parts: list[bytes], found: Any, digests: Digests) -> None:
    """Adds what stands for a value. Bytes have their digest, so that the parts are as long as the texts of a row."""
    if isinstance(found, str):
        parts.append(encode_basestring_ascii(found).encode())
    elif isinstance(found, MAPPINGS):
        for key in sorted(found, key=str):
            value = found[key]
            if type(value) is str:  # most are: a call for each takes as long as its digest
                parts += _name(key), encode_basestring_ascii(value).encode()
            elif value is not None:
                parts.append(_name(key))
                _add(parts, value, digests)
    elif isinstance(found, bytes):
        parts.append(b"b" + digests.of(found))
    elif isinstance(found, list) and found and isinstance(found[0], float):
        parts.append(_numbers(found))
    elif isinstance(found, list):
        parts.append(b"[")
        for one in found:
            _add(parts, one, digests)
    elif type(found) is int:
        parts.append(str(found).encode())
    else:
        parts.append(_JSON.encode(found).encode())


def _name(key: object) -> bytes:
    return b"{" + str(key).encode("utf-8", "surrogatepass")


def _numbers(found: list[Any]) -> bytes:
    try:
        return b"f" + np.asarray(found, dtype=np.float64).tobytes()
    except (TypeError, ValueError, OverflowError):
        return b"r" + repr(found).encode("utf-8", "surrogatepass")
