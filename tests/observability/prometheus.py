"""A real Prometheus, started for a test, and its HTTP API."""

import asyncio
import contextlib
import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.processes import free_port
from tools import fetch_prometheus

START_SECONDS = 60.0
LOG = "log.txt"


class QueryFailed(Exception):
    """Prometheus refused an expression."""


class Prometheus:
    """The API of a running Prometheus. Its calls block: run them in a thread beside a loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.started_at = time.time()

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer. Raises QueryFailed with Prometheus' words."""
        words = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}?{words}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryFailed(json.load(error)["error"]) from error

    def numbers(self, expression: str) -> int:
        """How many numbers (not NaN) an expression yields, second by second, since this Prometheus started."""
        found = self.get("query_range", query=expression, start=self.started_at, end=time.time(), step=1)["result"]
        return sum(not math.isnan(float(value)) for series in found for _, value in series["values"])

    def await_numbers(self, expression: str) -> None:
        """Returns once an expression yields numbers. Raises AssertionError if it does not."""
        deadline = time.monotonic() + START_SECONDS
        while not self.numbers(expression):
            assert time.monotonic() < deadline, f"{expression} gives nothing"
            time.sleep(0.5)

    def values(self, label: str, selector: str) -> list[str]:
        """The values of a label."""
        found: list[str] = self.get(f"label/{label}/values", **{"match[]": selector})
        return found


@contextlib.asynccontextmanager
async def running_prometheus(
    folder: Path, *, targets: Mapping[str, Mapping[str, str]], rules: Sequence[Path]
) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes its targets (with their labels) and evaluates its rules every second."""
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.to_thread(_start, folder, address, _config(targets, rules))
    try:
        await asyncio.to_thread(_await_ready, address, process, folder / LOG)
        yield Prometheus(address)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


def _config(targets: Mapping[str, Mapping[str, str]], rules: Sequence[Path]) -> dict[str, Any]:
    seconds = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    static = [{"targets": [address], "labels": dict(labels)} for address, labels in targets.items()]
    return {
        "global": seconds,
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "lab", "static_configs": static}],
    }


def _start(folder: Path, address: str, config: dict[str, Any]) -> subprocess.Popen[bytes]:
    program = fetch_prometheus.fetch().prometheus
    folder.mkdir(parents=True)
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    words = [program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / LOG).open("w") as log:
        return subprocess.Popen([*words, f"--web.listen-address={address}"], stdout=log, stderr=log)


def _await_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once Prometheus answers. Raises AssertionError with its log if it exits or does not."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"Prometheus does not start:\n{log.read_text()[-3000:]}")
