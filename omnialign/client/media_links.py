"""Media behind presigned links, read by ranges at the same time."""

import hashlib
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

RANGE_BYTES = 4 * 1024 * 1024
CONNECTIONS = 8
SECONDS = 20.0
AWAY_SECONDS = 60.0
"""How long a host that cannot be reached is not asked again."""


class MediaLinks:
    """Reads links over HTTP. Safe for concurrent threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="omnialign-links")
        self._away_until = dict[str, float]()
        """When hosts that could not be reached are asked again, on the monotonic clock: each time may take long."""

    def read(self, url: str, *, sha256: str, size_bytes: int) -> bytes | None:
        """The bytes of a medium (blocking); None if they cannot be read, or are others."""
        host = urlsplit(url).netloc
        if not url.startswith(("https://", "http://")) or time.monotonic() < self._away_until.get(host, 0.0):
            return None
        try:
            data = b"".join(self._threads.map(lambda start: _range(url, start, size_bytes), _starts(size_bytes)))
        except HTTPError:
            return None
        except URLError:
            self._away_until[host] = time.monotonic() + AWAY_SECONDS
            return None
        except (OSError, HTTPException, ValueError):  # a connection that broke, or an answer of the wrong size
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _starts(size_bytes: int) -> Iterator[int]:
    yield from range(0, size_bytes, RANGE_BYTES)


def _range(url: str, start: int, size_bytes: int) -> bytes:
    end = min(start + RANGE_BYTES, size_bytes)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-{end - 1}"})  # noqa: S310 - HTTP only
    with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
        data: bytes = response.read(end - start + 1)
    if len(data) != end - start:
        raise ValueError("another range came")
    return data
