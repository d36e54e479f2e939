"""Getting local files to the server: named where it runs on this machine, uploaded where it does not."""

from __future__ import annotations

import contextlib
import ipaddress
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import typer

from omnialign.cli.session import Session, local_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omnialign.cli.output import Output
    from omnialign.client import AsyncClient
    from omnialign.client.files import Progress

Upload = Annotated[
    bool | None,
    typer.Option("--upload/--no-upload", help="Send the files; default: unless the server runs on this machine."),
]
SEEN, NOT_SEEN = frozenset({"SOURCE_EMPTY"}), frozenset({"SOURCE_MISSING", "PATH_FORBIDDEN", "LOCATION_FORBIDDEN"})
MIB = 2**20


def is_loopback(address: str) -> bool:
    """Whether an address of a server is this machine's own."""
    host = address.rpartition("://")[2].lstrip("/").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def reachable(
    client: AsyncClient, source: Path | str, *, session: Session, upload: bool | None = None, keep_name: bool = False
) -> str:
    """What the server can read a path by: `file://` where it has this disk, else the name of an upload of it.

    A URI of another kind stays as it is. With `keep_name`, as imports want it, the folder itself is in the upload.
    """
    from omnialign.cli.state import find_address

    source = str(source)
    path = _path(source)
    if path is not None and upload is None:
        upload = not (is_loopback(find_address(session.address)) and await _has_this_disk(client))
    if path is None or not upload:
        return local_uri(source)
    with transfer("uploading", out=session.out) as progress:
        return await client.upload_files(path, keep_name=keep_name, progress=progress)


async def _has_this_disk(client: AsyncClient) -> bool:
    """Asks the server to import an empty folder of this machine: behind a forwarded port it does not find it."""
    from omnialign.errors import OmnialignError

    with tempfile.TemporaryDirectory(prefix="omnialign-") as folder:
        try:
            async for _ in client.import_dataset("nothing", local_uri(folder)):
                pass
        except OmnialignError as error:
            if error.reason not in SEEN | NOT_SEEN:
                raise
            return error.reason in SEEN
    return True


@contextlib.contextmanager
def transfer(verb: str, *, out: Output) -> Iterator[Progress | None]:
    """What a transfer tells its progress to; nothing where nobody looks."""
    if not out.is_live:
        yield None
        return
    with out.console.status(verb) as status:
        yield lambda done, total: status.update(f"{verb}: {done / MIB:,.0f} of {total / MIB:,.0f} MiB")


def _path(source: str) -> Path | None:
    """The path of this machine that a source names; None for any other URI."""
    if "://" not in source:
        return Path(source).expanduser()
    parts = urlsplit(source)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
