"""Writing rows and media to files in a folder: JSON Lines, Parquet, tar files. Blocking.

The bytes depend on what is written alone: the same records give the same files.
"""

import json
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal, Protocol

from omnialign.content import media_file_name
from omnialign.exporting.forms import Kind
from omnialign.exporting.parquet import ParquetFiles
from omnialign.exporting.rows import FOLDER, Row
from omnialign.v1.content_pb2 import Media

OPEN_FILES = 64
MEDIA_FILES = "media_files"
"""The column of a row in a tar file that names the member of each medium, by its digest."""
KEY_DIGITS = 9
MediaPlace = Literal["folder", "tar", "nowhere"]

Bytes = Mapping[str, bytes]
"""The bytes of media by their digests."""


class Files(Protocol):
    """Files that rows are added to; each call says how many bytes it added, as far as that is known."""

    def add(self, name: str, row: Row, media: list[Media], data: Bytes) -> int:
        """Writes a row to the file with this name, and its media within it or beside it."""
        ...

    def close(self) -> None:
        """Completes the files."""
        ...


def open_files(folder: Path, kind: Kind, *, media: MediaPlace, first: int = 0) -> Files:
    """Files in a folder that exists; `first` is the number of the first row, by which rows of tar files are named.

    Media beside rows go into the folder `media`, or into a tar file that holds that folder. Raises PYARROW_MISSING.
    """
    if kind == "parquet":
        return ParquetFiles(folder)
    if kind == "tar":
        return TarFiles(folder, first, with_media=media != "nowhere")
    return JsonFiles(folder, media)


class JsonFiles:
    """A JSON Lines file for each name, and media beside them."""

    def __init__(self, folder: Path, media: MediaPlace) -> None:
        self._folder, self._media, self._stored = folder, media, set[str]()
        self._files = Appending(folder)

    def add(self, name: str, row: Row, media: list[Media], data: Bytes) -> int:
        """See Files."""
        size = self._files.write(f"{name}.jsonl", _json(row) + b"\n")
        for medium in media if self._media != "nowhere" else ():
            if medium.sha256 not in self._stored:
                self._stored.add(medium.sha256)
                size += self._store(f"{FOLDER}/{media_file_name(medium)}", data[medium.sha256])
        return size

    def close(self) -> None:
        """See Files."""
        self._files.close()

    def _store(self, path: str, data: bytes) -> int:
        if self._media == "tar":
            return self._files.write(f"{FOLDER}.tar", _member(path, data))
        (self._folder / FOLDER).mkdir(exist_ok=True)
        (self._folder / path).write_bytes(data)
        return len(data)


class TarFiles:
    """A tar file for each name, as webdataset reads them: of a record its JSON and its media, one after the other."""

    def __init__(self, folder: Path, first: int, *, with_media: bool) -> None:
        self._files, self._number, self._with_media = Appending(folder), first, with_media

    def add(self, name: str, row: Row, media: list[Media], data: Bytes) -> int:
        """See Files."""
        key, names = f"{self._number:0{KEY_DIGITS}d}", dict[str, str]()
        for n, medium in enumerate(media if self._with_media else ()):
            names[medium.sha256] = f"{key}.{n}{Path(media_file_name(medium)).suffix}"
        members = [_member(f"{key}.json", _json(row | ({MEDIA_FILES: names} if names else {})))]
        members += [_member(path, data[sha256]) for sha256, path in names.items()]
        self._number += 1
        return sum(self._files.write(f"{name}.tar", member) for member in members)

    def close(self) -> None:
        """See Files."""
        self._files.close()


class Appending:
    """Files by name that grow; a few of them are open at a time. A tar file gets its end when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._names = folder, set[str]()
        self._open: OrderedDict[str, IO[bytes]] = OrderedDict()

    def write(self, name: str, data: bytes) -> int:
        """Appends to a file; returns how much."""
        if name not in self._open:
            if len(self._open) == OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._names.add(name)
            self._open[name] = (self._folder / name).open("ab")
        self._open.move_to_end(name)
        return self._open[name].write(data)

    def close(self) -> None:
        """Ends the files."""
        for name in sorted(self._names):
            if name.endswith(".tar"):
                self.write(name, bytes(2 * tarfile.BLOCKSIZE))
        for file in self._open.values():
            file.close()


def _json(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def _member(path: str, data: bytes) -> bytes:
    """A member of a tar file: header, bytes, and zeros up to the next block."""
    info = tarfile.TarInfo(path)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
