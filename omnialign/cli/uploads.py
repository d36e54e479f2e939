"""Getting local files to the server: as a path if it runs on this machine, as an upload if it does not."""

from __future__ import annotations

import contextlib
import ipaddress
import re
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
    from omnialign.client.uploads import Progress

Upload = Annotated[
    bool | None,
    typer.Option("--upload/--no-upload", help="Upload the files. Default: only if the server runs on another machine."),
]
SEEN, NOT_SEEN = frozenset({"SOURCE_EMPTY"}), frozenset({"SOURCE_MISSING", "PATH_FORBIDDEN", "LOCATION_FORBIDDEN"})
"""Reasons of a server that does, or does not, see an empty folder of this machine."""
MIB = 2**20
PATTERN = re.compile(r"[*?\[{]")


def is_loopback(address: str) -> bool:
    """Whether the address of a server is on this machine."""
    host = address.rpartition("://")[2].lstrip("/").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def server_uri(
    client: AsyncClient, source: Path | str, *, session: Session, upload: bool | None = None, keep_name: bool = False
) -> str:
    """A URI by which the server can read `source`: `file://` if it shares this machine's disk, else that of an upload.

    A URI of another kind stays as it is. `keep_name`, which imports need, puts the folder itself into the upload.
    """
    from omnialign.cli.state import find_address

    source = str(source)
    path = _path(source)
    if path is not None and upload is None:
        upload = not (is_loopback(find_address(session.address)) and await _shares_disk(client))
    if path is None or not upload:
        return local_uri(source)
    if not path.exists() and PATTERN.search(source):
        from omnialign.errors import InvalidArgument

        message = f"{source} is a pattern, and this server does not share the disk: upload the folder."
        raise InvalidArgument(message, reason="PATTERN_NOT_UPLOADED", metadata={"source": source})
    with show_transfer("uploading", out=session.out) as progress:
        return await client.upload_files(path, keep_name=keep_name, progress=progress)


async def _shares_disk(client: AsyncClient) -> bool:
    """Tests whether the server sees an empty folder of this machine; behind a forwarded port it does not."""
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
def show_transfer(verb: str, *, out: Output) -> Iterator[Progress]:
    """A callback that shows the progress of a transfer on a terminal."""
    with out.status(verb) as show:
        yield lambda done, total: show(f"{verb}: {done / MIB:,.0f} of {total / MIB:,.0f} MiB")


def _path(source: str) -> Path | None:
    """The local path that `source` names; None for any other URI."""
    if "://" not in source:
        return Path(source).expanduser()
    parts = urlsplit(source)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
