"""What the object store holds of exports: a plan, files by parts, and the manifest, which is written last. Blocking.

A part is a run of records in order of id, with a file for each name that its rows are written to. Its marker comes
after its files, so that an export which was killed goes on behind the last part that has one. Parts depend on the
version alone: a part that is written again has the same files under the same keys.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omnialign.errors import Aborted, NotFound, ResourceExhausted
from omnialign.folders import FileEntry
from services.data.objects import ObjectStore

PREFIX = "exports/"
EXPORT = "projects/{project}/exports/{export}"
ID = re.compile(r"[0-9a-f]{32}")
MAX_FILES = 10_000
MAX_JSON_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """What an export writes: fixed when it begins."""

    digest: str
    """That of the request."""
    version: str
    uid: str
    """That of the dataset, which another of the same name has not."""


@dataclass
class Progress:
    """How far an export is: the sums of all its parts."""

    after: str = ""
    """The id of the last record that was looked at."""
    parts: int = 0
    records: int = 0
    rows: int = 0
    size_bytes: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    without: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PartFile:
    """A file of a part: that of a name, with its suffix."""

    name: str
    suffix: str
    size_bytes: int
    sha256: str
    key: str


@dataclass(frozen=True)
class Manifest:
    """A complete export: its files, each with its key in the object store."""

    name: str
    expire_us: int
    progress: Progress
    files: dict[FileEntry, str]


class Ledger:
    """The exports of all projects in an object store."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def plan(self, export_id: str) -> Plan | None:
        """The plan of an export that has begun."""
        found = self._read(_plan_key(export_id))
        return Plan(**found) if found else None

    def begin(self, export_id: str, plan: Plan) -> None:
        """Keeps the plan. Writing it again makes the export as young as a new one, so that no sweep takes it."""
        self._write(_plan_key(export_id), asdict(plan))

    def progress(self, export_id: str) -> tuple[Progress, list[PartFile]]:
        """How far an export is, and its files so far."""
        progress, files = Progress(), list[PartFile]()
        while found := self._read(_part_key(export_id, progress.parts)):
            progress = Progress(**found["progress"])
            files += (PartFile(*one) for one in found["files"])
        return progress, files

    def put_part(
        self, export_id: str, progress: Progress, paths: Sequence[tuple[Path, FileEntry]], *, before: int
    ) -> list[PartFile]:
        """Stores the files of the next part, of which there were `before`; then the marker. Raises EXPORT_TOO_LARGE."""
        if before + len(paths) > MAX_FILES:
            message = f"An export has at most {MAX_FILES} files: export fewer splits or subtasks at a time."
            raise ResourceExhausted(message, reason="EXPORT_TOO_LARGE", metadata={"most_files": str(MAX_FILES)})
        files = list[PartFile]()
        for number, (path, entry) in enumerate(paths, before):
            key = f"{PREFIX}{export_id}/{number:06d}-{entry.sha256}"
            self._objects.put(key, path, sha256=entry.sha256)
            name, _, suffix = entry.path.rpartition(".")
            files.append(PartFile(name, suffix, entry.size_bytes, entry.sha256, key))
        marker = {"progress": asdict(progress), "files": [list(asdict(one).values()) for one in files]}
        self._write(_part_key(export_id, progress.parts - 1), marker)
        return files

    def complete(
        self, export_id: str, name: str, progress: Progress, files: Sequence[PartFile], *, expire_us: int
    ) -> Manifest:
        """Makes an export visible, and removes what a broken attempt has left. Raises Aborted EXPORT_REMOVED."""
        there = {found.key for found in self._objects.list(f"{PREFIX}{export_id}/")}
        parts = [_part_key(export_id, number) for number in range(progress.parts)]
        wanted = {_plan_key(export_id), *parts, *(one.key for one in files)}
        if missing := wanted - there:
            message = f"{len(missing)} files of the export were removed while it went on: export again."
            raise Aborted(message, reason="EXPORT_REMOVED", metadata={"name": name})
        for key in there - wanted:
            self._objects.delete(key)
        named = [[*entry_of(path, one), one.key] for path, one in zip(paths_of(files), files, strict=True)]
        found = {"name": name, "expire_us": expire_us, "progress": asdict(progress), "files": named}
        self._write(_manifest_key(export_id), found)
        return _manifest(found)

    def manifest(self, export_id: str) -> Manifest | None:
        """A complete export, which may have expired."""
        found = self._read(_manifest_key(export_id)) if ID.fullmatch(export_id) else None
        return _manifest(found) if found else None

    def remove(self, export_id: str) -> None:
        """Removes an export. The manifest goes first: an export that can be found has all its files."""
        self._objects.delete(_manifest_key(export_id))
        self._objects.delete_below(f"{PREFIX}{export_id}/")
        self._objects.delete(f"{PREFIX}{export_id}")  # what a process that died was about to rename

    def older_than(self, oldest_us: int) -> list[str]:
        """The exports whose newest object is older: one that still grows is not among them."""
        newest_us: dict[str, int] = {}
        for found in self._objects.list(PREFIX):
            export_id = found.key.removeprefix(PREFIX).partition("/")[0].removesuffix(".json")
            newest_us[export_id] = max(newest_us.get(export_id, 0), found.modified_us)
        return [export_id for export_id, modified_us in newest_us.items() if modified_us < oldest_us]

    def _read(self, key: str) -> Any:
        with suppress(NotFound):
            return json.loads(self._objects.read(key, length=MAX_JSON_BYTES))
        return None

    def _write(self, key: str, found: Any) -> None:
        self._objects.put_bytes(key, json.dumps(found).encode())


def entry_of(path: str, file: PartFile) -> tuple[str, int, str]:
    """Path, size and digest of a file."""
    return path, file.size_bytes, file.sha256


def paths_of(files: Sequence[PartFile]) -> Iterator[str]:
    """The paths of files: `train.jsonl`, or `train-00000-of-00002.jsonl` and so on where a name has several."""
    counts = Counter((one.name, one.suffix) for one in files)
    seen = Counter[tuple[str, str]]()
    for one in files:
        kind = (one.name, one.suffix)
        number = f"-{seen[kind]:05d}-of-{counts[kind]:05d}" if counts[kind] > 1 else ""
        seen[kind] += 1
        yield f"{one.name}{number}.{one.suffix}"


def _manifest(found: Any) -> Manifest:
    files = {FileEntry(*entry): key for *entry, key in found["files"]}
    return Manifest(found["name"], found["expire_us"], Progress(**found["progress"]), files)


def _plan_key(export_id: str) -> str:
    return f"{PREFIX}{export_id}/plan.json"


def _part_key(export_id: str, number: int) -> str:
    return f"{PREFIX}{export_id}/parts/{number:06d}.json"


def _manifest_key(export_id: str) -> str:
    return f"{PREFIX}{export_id}.json"
