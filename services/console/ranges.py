"""Ranges of bytes that a browser asks for (RFC 9110, section 14): one at a time, as players do."""

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """No byte of the object is in the range."""


@dataclass(frozen=True)
class ByteRange:
    """A part of an object that it has."""

    start: int
    end: int
    """Behind the last byte."""

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.end - self.start


def wanted_range(header: str, *, size: int) -> ByteRange | None:
    """The part that a `Range` header asks for; None for the whole. Raises Unsatisfiable.

    What is not one plain range of bytes is ignored, as the standard allows: several at once serve nobody but those who
    want one small request to cost much.
    """
    found = _RANGE.fullmatch(header.strip().lower())
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        if not length:
            raise Unsatisfiable
        return ByteRange(size - length, size)
    start, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if last < start and found[2]:
        return None
    if start >= size:
        raise Unsatisfiable
    return ByteRange(start, min(last + 1, size))
