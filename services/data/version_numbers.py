"""The last part of a version's name: a number, or `-` for the newest."""

from omnialign.errors import InvalidArgument
from omnialign.names import NEWEST


def version_number(text: str) -> int | None:
    """The number in a version's name; None for the newest (`-`). Raises RESOURCE_NAME_INVALID."""
    if text == NEWEST:
        return None
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    message = f"A version is a number or `-`, not {text!r}."
    raise InvalidArgument(message, reason="RESOURCE_NAME_INVALID", metadata={"version": text})
