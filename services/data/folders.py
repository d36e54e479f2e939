"""Reading places that a caller names: `file://` addresses and plain paths, within the folders that are allowed."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from omnialign.errors import InvalidArgument, PermissionDenied


def local_path(uri: str, *, roots: Sequence[Path]) -> Path:
    """The resolved path that `uri` names. Raises URI_UNSUPPORTED, PATH_FORBIDDEN; it need not exist."""
    path = _path(uri)
    if "\0" in str(path) or not path.is_absolute():
        raise InvalidArgument("The address must be an absolute path.", reason="URI_UNSUPPORTED", metadata={"uri": uri})
    resolved = path.resolve()
    if roots and not any(resolved.is_relative_to(root) for root in roots):
        message = f"{uri} is outside the folders that this service may read."
        raise PermissionDenied(message, reason="PATH_FORBIDDEN", metadata={"uri": uri})
    return resolved


def _path(uri: str) -> Path:
    parts = urlsplit(uri)
    if not parts.scheme:
        return Path(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        message = f"{uri} is not a local path: give a folder as file:// or as a plain path."
        raise InvalidArgument(message, reason="URI_UNSUPPORTED", metadata={"uri": uri})
    return Path(unquote(parts.path))
