"""Label Studio's own server, as it comes from PyPI, on loopback: it asks for no update and reports nothing."""

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import REPOSITORY, free_port, kill_group

PROGRAM = REPOSITORY / ".venv-label-studio" / "bin" / "label-studio"
START_SECONDS = 400.0
EMAIL, PASSWORD, TOKEN = "owner@example.com", "correct horse battery", "0123456789abcdef0123456789abcdef01234567"
QUIET = {
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    "ALLOW_IMPORT_TASKS_WITH_UNKNOWN_EMAILS": "true",
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
}


@dataclass(frozen=True)
class LabelStudio:
    """A server, and the owner's calls of it."""

    address: str

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a call. Raises AssertionError with what the server said."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Token {TOKEN}", "content-type": "application/json"}
        request = urllib.request.Request(self.address + path, method=method, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:2000]!r}") from error

    def project(self, title: str, config: str, **settings: Any) -> int:
        """A new project with a labeling configuration."""
        return int(self.call("POST", "/api/projects", {"title": title, "label_config": config, **settings})["id"])

    def load(self, project: int, tasks: list[Any]) -> dict[str, Any]:
        """Imports tasks; says how many, and how many annotations."""
        return dict(self.call("POST", f"/api/projects/{project}/import", tasks))

    def export(self, project: int) -> list[Any]:
        """Everything in a project, as its JSON export gives it."""
        return list(self.call("GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"))


@contextlib.contextmanager
def label_studio(root: Path, *, files: Path | None = None) -> Iterator[LabelStudio]:
    """Starts the server with its data in a folder, and media in `files`; it makes its tables first, which takes time.

    Raises AssertionError with the end of its log if it does not come.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    folders = {"LABEL_STUDIO_BASE_DATA_DIR": str(root / "data"), "HOME": str(root)}
    folders["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] = str(files or root)
    command = [str(PROGRAM), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    command += ["--username", EMAIL, "--password", PASSWORD, "--user-token", TOKEN, "--log-level", "ERROR"]
    log = root / "label-studio.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | QUIET | folders, stdout=output, stderr=output, cwd=root, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)  # between two looks at another process
        yield LabelStudio(address)
    finally:
        kill_group(process.pid)
        process.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
