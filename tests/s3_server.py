"""A real S3 server for tests: SeaweedFS on free ports of 127.0.0.1, over TLS with a certificate made on the spot."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from minio import Minio
from minio.credentials.providers import StaticProvider

from omnialign.retry import RetryBudget
from tests.certificates import Authority
from tests.processes import free_ports, kill_group

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
START_SECONDS = 60.0
# Runs $0 until our end of the pipe closes: a test run that is killed leaves no server behind.
UNTIL_WE_END = 'trap "kill -9 0" EXIT; "$0" "$@" & cat'
PORTS = ("master", "volume", "filer", "s3", "admin")


@dataclass
class S3Server:
    """One server. It can be stopped and started again on the same data and the same ports."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="omnialign-s3-")))
    bucket: str = "omnialign-test"

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[str] = []
        numbers = iter(free_ports(2 * len(PORTS) + 1))
        for name in PORTS:
            self._ports += [f"-{name}.port={next(numbers)}", f"-{name}.port.grpc={next(numbers)}"]
        self.port = next(numbers)
        authority, _ = _authority()
        self.ca_file = authority.file
        self.certificate = authority.issue(f"s3-{self.port}", hosts=("127.0.0.1",))
        key = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        identity = {"name": "test", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (self.folder / "identities.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def endpoint(self) -> str:
        """`https://host:port`."""
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the server and waits until it answers for its bucket."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            "sh", "-c", UNTIL_WE_END, str(Path(sys.executable).with_name("weed")), "-logtostderr", "mini",
            f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={self.folder / 'identities.json'}",
            f"-s3.port.https={self.port}", f"-s3.cert.file={self.certificate.certificate}",
            f"-s3.key.file={self.certificate.key}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-s3.autoCreateBucket=false", f"-bucket={self.bucket}", "-admin.ui=false", "-webdav=false",
            "-master.telemetry=false", *self._ports,
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self._wait()

    def stop(self) -> None:
        """Kills the server: connections break at once."""
        if self._process is not None:
            kill_group(self._process.pid)
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """Ends the server and removes its data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def credentials(self, *, secret: str = SECRET_KEY) -> Iterator[None]:
        """Sets the credentials in the environment for the block; `secret` may be a wrong one."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            yield

    def client(self) -> Minio:
        """A client of the SDK with the right credentials."""
        from services.data.objects.s3_client import open_http

        http = open_http(self.ca_file, budget=RetryBudget())
        keys = StaticProvider(ACCESS_KEY, SECRET_KEY)
        return Minio(f"127.0.0.1:{self.port}", credentials=keys, region="us-east-1", http_client=http)

    def settings(self, prefix: str) -> dict[str, object]:
        """Settings of a data service on this server."""
        return {
            "objects_url": f"s3://{self.bucket}/{prefix}",
            "s3_endpoint": self.endpoint,
            "s3_ca_file": self.ca_file,
        }

    def _wait(self) -> None:
        """Waits until an object can be written: the bucket exists before the volumes do."""
        from io import BytesIO

        client, deadline = self.client(), time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None and self._process.poll() is None, "the S3 server ended"
            try:
                client.put_object(self.bucket, "ready", BytesIO(b"yes"), 3)
                return
            except Exception:  # it is starting, in one of many ways
                if time.monotonic() > deadline:
                    self.stop()
                    raise
                time.sleep(0.1)


@cache
def _authority() -> tuple[Authority, tempfile.TemporaryDirectory[str]]:
    """One authority for all servers of a process: what a process trusts, it trusts until it ends."""
    folder = tempfile.TemporaryDirectory(prefix="omnialign-ca-")  # lives as long as this cache holds it
    return Authority(Path(folder.name)), folder
