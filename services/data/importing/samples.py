"""Reading samples from tar files, as webdataset writes them: members with one name up to its first dot are one sample.

Nothing is unpacked: members are read in memory, one sample at a time, and their names are names and never paths. What
is no regular file, is there twice, or is too large sets its sample aside.

A sample becomes a row. The fields of its `.json` are columns; `.txt` and `.cls` are columns of these names, as text and
as a whole number. A medium that the `.json` names is found by that name. Any other is in the column `image`, `audio` or
`video`, by its extension, or with others of its kind in `images`, `audios` or `videos`.
"""

import gzip
import itertools
import json
import mimetypes
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnialign.errors import InvalidArgument
from services.data.importing.refusal import MalformedRow, described, malformed
from services.data.importing.tables import FREE_BYTES, MAX_EXPANSION

MAX_MEMBERS = 256
MAX_SAMPLE_BYTES = 512 * 1024 * 1024
MAX_NAME_CHARACTERS = 1024
TEXTS, NUMBERS, OBJECT = ("txt", "text", "caption"), ("cls", "cls2", "index"), "json"
TABLES = (".parquet", ".arrow", ".jsonl", ".csv", ".tsv", ".zip", ".tar", ".gz")
"""What the archive of a folder holds, and a shard of samples does not."""
BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError)


class Sample(dict[str, Any]):
    """A row, and the members of its sample that the row may name."""

    members: Mapping[str, bytes]


@dataclass
class _Group:
    """The members of one sample, as far as they were seen."""

    key: str
    members: list[tarfile.TarInfo] = field(default_factory=list)
    wrong: str = ""

    def add(self, member: tarfile.TarInfo) -> None:
        """Adds a member, or says what is wrong with it."""
        name = member.name
        if not member.isreg():
            kind = "a link" if member.issym() or member.islnk() else "no regular file"
            self.wrong = self.wrong or f"the member {name[:200]!r} is {kind}"
        elif any(name == other.name for other in self.members):
            self.wrong = self.wrong or f"the member {name[:200]!r} is there twice"
        elif name.startswith("/") or "\0" in name or "\\" in name or ".." in name.split("/"):
            self.wrong = self.wrong or f"the member {name[:200]!r} has a name that leads out of the archive"
        elif len(self.members) == MAX_MEMBERS or len(name) > MAX_NAME_CHARACTERS:
            self.wrong = self.wrong or f"it has more than {MAX_MEMBERS} members, or one with a name that is too long"
        elif sum(one.size for one in self.members) + member.size > MAX_SAMPLE_BYTES:
            self.wrong = self.wrong or f"its members have more than {MAX_SAMPLE_BYTES >> 20} MiB"
        else:
            self.members.append(member)


def read_samples(path: Path, is_wanted: Callable[[int], bool] = lambda _: True) -> Iterator[tuple[int, Any]]:
    """Number and row of each sample; None in place of rows that are not wanted, by how many came before.

    Raises SOURCE_MALFORMED, SOURCE_EXPANDS, SOURCE_UNSUPPORTED.
    """
    return _read(path, is_wanted, has_media=True)


def read_sample_outlines(path: Path) -> Iterator[Any]:
    """Rows as of `read_samples`, with True in place of media. Raises what `read_samples` raises."""
    return (row for _, row in _read(path, lambda _: True, has_media=False))


def _read(path: Path, is_wanted: Callable[[int], bool], *, has_media: bool) -> Iterator[tuple[int, Any]]:
    try:
        with path.open("rb") as packed:
            is_gzip = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            plain = gzip.GzipFile(fileobj=packed) if is_gzip else packed
            with tarfile.open(fileobj=plain, mode="r:") as archive:  # type: ignore[call-overload] # of either kind
                for count, group in enumerate(_groups(archive, path)):
                    if is_gzip:
                        _check_expansion(path, archive.offset, packed.tell())
                    yield count + 1, _row(archive, group, has_media=has_media) if is_wanted(count) else None
    except BROKEN as error:
        raise malformed(path, str(error) or type(error).__name__) from error


def _groups(archive: tarfile.TarFile, path: Path) -> Iterator[_Group]:
    """The samples in order. What was passed is forgotten, or a long archive would fill the memory."""
    group: _Group | None = None
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined] # the stubs lack it
        folder, _, base = member.name.rpartition("/")
        if member.isdir() or not base or base.startswith((".", "_")) or "__MACOSX" in folder:
            continue
        if base.lower().endswith(TABLES):
            message = f"{path.name} holds {base[:100]}, so it is no shard of samples: unpack it and import the folder."
            raise InvalidArgument(message, reason="SOURCE_UNSUPPORTED", metadata={"file": path.name})
        key = f"{folder}/{base.partition('.')[0]}"
        if group is None or group.key != key:
            if group is not None:
                yield group
            group = _Group(key)
        group.add(member)
    if group is not None:
        yield group
    plain: Any = archive.fileobj
    plain.seek(archive.offset)
    if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes anything for the end
        raise ValueError(f"it is cut off or damaged after {archive.offset:,} bytes")


def _row(archive: tarfile.TarFile, group: _Group, *, has_media: bool) -> Any:
    if group.wrong:
        return MalformedRow(f"the sample {group.key.lstrip('/')[:200]} cannot be read: {group.wrong}")
    row, media = Sample(), dict[str, tuple[str, Any]]()
    told = ""
    for member in group.members:
        base = member.name.rpartition("/")[2]
        extension = base.partition(".")[2].lower()
        kind = kind_of(base)
        if kind:
            media[base] = kind, _data(archive, member) if has_media else True
            continue
        data = _data(archive, member)
        try:
            if extension == OBJECT:
                told = data.decode("utf-8-sig")
                fields = json.loads(told)
                if not isinstance(fields, dict):
                    return MalformedRow(f"the member {base[:200]} holds {described(fields)}, and an object is taken")
                row.update(fields)
            elif extension in NUMBERS:
                row[extension] = int(data)
            elif extension in TEXTS:
                row[extension] = data.decode("utf-8-sig").removesuffix("\n")
            else:
                row[extension or base] = f"{len(data)} bytes"  # listed as not read
        except UnicodeDecodeError as error:
            return MalformedRow(f"the member {base[:200]} is not text in UTF-8: {error.reason} at byte {error.start}")
        except (ValueError, RecursionError) as error:
            what = "a whole number" if extension in NUMBERS else "JSON"
            return MalformedRow(f"the member {base[:200]} is not {what}, which is taken: {error}")
    _place(row, media, told)
    row.members = {name: found for name, (_, found) in media.items()}
    return row


def _place(row: Sample, media: Mapping[str, tuple[str, Any]], told: str) -> None:
    """Puts the media that the row does not name into its columns."""
    unnamed = sorted((kind, name) for name, (kind, _) in media.items() if json.dumps(name)[1:-1] not in told)
    for kind, names in itertools.groupby(unnamed, key=lambda one: one[0]):
        found = [media[name][1] for _, name in names]
        column = kind if len(found) == 1 else f"{kind}s"
        if row.get(column) is None:
            row[column] = found[0] if len(found) == 1 else found


def kind_of(name: str) -> str:
    """`image`, `audio` or `video`, by the extension of a name; "" for anything else."""
    guessed = (mimetypes.guess_type(name, strict=False)[0] or "").partition("/")[0]
    return guessed if guessed in ("image", "audio", "video") else ""


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise ValueError("it ends in the middle of a member")
    return data


def _check_expansion(path: Path, size: int, packed_bytes: int) -> None:
    if size > FREE_BYTES and size > MAX_EXPANSION * max(1, packed_bytes):
        message = f"{path.name} would grow from {packed_bytes:,} bytes to {size:,}: write it with less compression."
        raise InvalidArgument(message, reason="SOURCE_EXPANDS", metadata={"file": path.name})
