"""Which files of a package the locks allow, asked of a real index in the tests' own process."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tools import hash_locks

FILES = {
    "alpha": [
        "alpha-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "alpha-1.0-cp310-abi3-macosx_11_0_arm64.whl",
        "alpha-1.0-cp310-cp310-manylinux_2_28_x86_64.whl",
        "alpha-1.0-cp311-cp311-win_amd64.whl",
        "alpha-1.0-pp311-pypy311_pp73-manylinux_2_28_x86_64.whl",
        "alpha-1.0.tar.gz",
        "alpha-2.0-py311-none-any.whl",
    ],
    "only-source": ["only_source-1.tar.gz", "only_source-2.tar.gz", "no-version-at-all.whl"],
}


def digest(file: str) -> str:
    return hashlib.sha256(file.encode()).hexdigest()


class Index(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        files = FILES.get(self.path.split("/")[-2])
        self.send_response(200 if files else 404)
        self.end_headers()
        entries = [{"filename": file, "hashes": {"sha256": digest(file)}} for file in files or ()]
        self.wfile.write(json.dumps({"files": entries}).encode())

    def log_message(self, *_: object) -> None:
        """Keeps the tests' output clean."""


@pytest.fixture(autouse=True)
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        yield
        server.shutdown()


def test_wheels_that_can_run_here_are_allowed_and_nothing_else_of_that_version() -> None:
    assert hash_locks.digests("Alpha", "1.0", ()) == sorted(map(digest, FILES["alpha"][:2]))


def test_a_package_without_wheels_comes_from_its_source() -> None:
    assert hash_locks.digests("only.source", "1", ()) == [digest("only_source-1.tar.gz")]


def test_a_version_that_the_index_lacks_is_named() -> None:
    with pytest.raises(LookupError, match=r"no file of alpha 3"):
        hash_locks.digests("alpha", "3", ())


def test_a_local_build_satisfies_a_pin_without_one(tmp_path: Path) -> None:
    build = tmp_path / "alpha-1.0+cpu-cp311-cp311-linux_x86_64.whl"
    build.write_bytes(b"a build of one's own")
    assert hashlib.sha256(build.read_bytes()).hexdigest() in hash_locks.digests("alpha", "1.0", [build])
    assert len(hash_locks.digests("alpha", "1.0+cpu", [build])) == 1


def test_comments_and_order_stay_and_hashes_are_replaced(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("# why\nonly-source==1\nalpha==2.0 \\\n    --hash=sha256:00\n")
    assert hash_locks.main([str(lock)]) == 0
    written = lock.read_text()
    assert written == (
        f"# why\nonly-source==1 \\\n    --hash=sha256:{digest('only_source-1.tar.gz')}\n"
        f"alpha==2.0 \\\n    --hash=sha256:{digest('alpha-2.0-py311-none-any.whl')}\n"
    )
    assert hash_locks.main([str(lock)]) == 0
    assert lock.read_text() == written
