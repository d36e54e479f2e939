"""`omnialign media`: media files by themselves, without a dataset."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.client.media_uploads import MediaFile

app = typer.Typer(help="Upload media files.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Upload media files."""


@app.command()
@command
async def upload(
    session: Session,
    source: Annotated[Path, typer.Argument(help="Folder, with all below it, or a file.")],
    out: Annotated[
        Path | None, typer.Option(help="JSON lines of what is stored, added to. Files that it names are not even read.")
    ] = None,
) -> None:
    """Store media files, and print a line for each. What the service has already is not sent again."""
    from omnialign.errors import InvalidArgument
    from omnialign.folders import list_files

    if not source.exists():
        raise InvalidArgument(f"There is no {source} to upload; check the path.", reason="SOURCE_MISSING")
    folder, paths = (source, list_files(source)) if source.is_dir() else (source.parent, [source])
    done = _done(out)
    left = [path for path in paths if _mark(path, folder) not in done]
    stored, existed, refused = 0, len(paths) - len(left), Counter[str]()
    async with session.client() as client:
        async for file in client.upload_media_files(left):
            line = _line(file, folder)
            session.out.record(line)
            if file.error is None:
                stored += not file.existed
                existed += file.existed
                _add(out, line)
            else:
                refused[file.error.reason] += 1
                session.out.complain(f"{line['path']}: {file.error.message}")
    reasons = "".join(f", {count} refused as {reason}" for reason, count in sorted(refused.items()))
    session.out.say(f"{stored} media stored, {existed} already{reasons}")
    if refused:
        raise typer.Exit(1)


Mark = tuple[str, int, int]
"""What tells whether a file is as it was: path, size, and time of its last change in nanoseconds."""


def _mark(path: Path, folder: Path) -> Mark:
    found = path.stat()
    return path.relative_to(folder).as_posix(), found.st_size, found.st_mtime_ns


def _line(file: MediaFile, folder: Path) -> dict[str, object]:
    if file.media is None:
        reason = file.error.reason if file.error else ""
        return {"path": file.path.relative_to(folder).as_posix(), "reason": reason}
    path, size_bytes, changed_ns = _mark(file.path, folder)
    found = {"path": path, "size_bytes": size_bytes, "changed_ns": changed_ns}
    return {**found, "sha256": file.media.sha256, "mime_type": file.media.mime_type}


def _add(out: Path | None, line: dict[str, object]) -> None:
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _done(out: Path | None) -> set[Mark]:
    """The files that an earlier upload stored; a line that it was writing when it was ended counts as missing."""
    done = set[Mark]()
    if out is None or not out.exists():
        return done
    text = out.read_text(encoding="utf-8")
    whole, _, rest = text.rpartition("\n")
    if rest:  # the next line must not be appended to it
        out.write_text(whole + "\n" if whole else "", encoding="utf-8")
    for line in whole.splitlines():
        found = json.loads(line)
        done.add((found["path"], found["size_bytes"], found["changed_ns"]))
    return done
