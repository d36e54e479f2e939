"""Media behind links: read by ranges, verified, and given up where a link does not work."""

import hashlib
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from omnialign.client import media_links
from omnialign.client.media_links import MediaLinks

DATA = random.Random(1).randbytes(50_000)
WANTED = {"sha256": hashlib.sha256(DATA).hexdigest(), "size_bytes": len(DATA)}


class Handler(BaseHTTPRequestHandler):
    """Serves ranges of DATA, or what the path asks for instead."""

    def do_GET(self) -> None:
        start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.server.ranges.append((start, end))  # type: ignore[attr-defined]
        body = {"/short": b"?", "/other": b"?" * (end - start + 1)}.get(self.path, DATA[start : end + 1])
        self.send_response(403 if self.path == "/expired" else 206)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.ranges = []  # type: ignore[attr-defined]
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Iterator[MediaLinks]:
    monkeypatch.setattr(media_links, "RANGE_BYTES", 12_000)
    found = MediaLinks()
    yield found
    found.close()


def test_a_medium_is_read_by_ranges(server: ThreadingHTTPServer, links: MediaLinks) -> None:
    assert links.read(f"http://127.0.0.1:{server.server_port}/good", **WANTED) == DATA
    assert sorted(server.ranges) == [  # type: ignore[attr-defined]
        (0, 11_999), (12_000, 23_999), (24_000, 35_999), (36_000, 47_999), (48_000, 49_999),
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/short", "/other", "/expired"])
def test_a_link_that_gives_other_bytes_gives_nothing(server: ThreadingHTTPServer, links: MediaLinks, path: str) -> None:
    assert links.read(f"http://127.0.0.1:{server.server_port}{path}", **WANTED) is None
    assert links.read(f"http://127.0.0.1:{server.server_port}/good", **WANTED) == DATA


def test_no_other_kind_of_address_is_opened(links: MediaLinks) -> None:
    assert links.read("file:///etc/hostname", **WANTED) is None


def test_a_host_that_cannot_be_reached_is_asked_again_after_a_while_only(
    links: MediaLinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("omnialign.client.media_links.time.monotonic", lambda: clock[0])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as gone:
        url = f"http://127.0.0.1:{gone.server_port}/good"
    assert links.read(url, **WANTED) is None
    asked = list[int]()
    monkeypatch.setattr(media_links, "_range", lambda url, start, size_bytes: asked.append(start) or b"")
    for moment, count in ((101.0, 0), (159.0, 0), (161.0, 5)):
        clock[0] = moment
        assert links.read(url, **WANTED) is None
        assert len(asked) == count
