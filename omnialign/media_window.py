"""The media that both ends of a stream of records remember, so that none is sent twice in a row."""

from collections import OrderedDict
from typing import Generic, TypeVar

from omnialign.content import parts_of
from omnialign.v1 import record_pb2

WINDOW_BYTES = 16 * 1024 * 1024

V = TypeVar("V")


def media_named_by(record: record_pb2.Record) -> list[str]:
    """The digests of a record's media, each once, in the order in which they are named."""
    # Without asking which kind of part each is, which takes longer than to look.
    return list(dict.fromkeys([digest for part in parts_of(record) if (digest := part.media.sha256)]))


class MediaWindow(Generic[V]):
    """Values by digest: those of the media that were named last, of WINDOW_BYTES in all, or the last one alone.

    Whoever names the same media in the same order holds the same digests.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, V]] = OrderedDict()
        self._size_bytes = 0

    def get(self, sha256: str) -> V | None:
        """The value of a medium that is held, which is the one named last from now on."""
        if sha256 not in self._kept:
            return None
        self._kept.move_to_end(sha256)
        return self._kept[sha256][1]

    def add(self, sha256: str, size_bytes: int, value: V) -> None:
        """Holds a medium that is not held yet."""
        self._kept[sha256] = size_bytes, value
        self._size_bytes += size_bytes
        while self._size_bytes > WINDOW_BYTES and len(self._kept) > 1:
            self._size_bytes -= self._kept.popitem(last=False)[1][0]
