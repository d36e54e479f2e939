"""The servers that evaluation installs bring along: what they refuse, and that the S3 server makes its bucket."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from minio import Minio

from tools.build_images import ROOT
from tools.check_images import free_port


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "images"))
    return importlib.import_module


def test_a_setting_is_read_from_the_file_that_is_named(program, monkeypatch, tmp_path):
    path = tmp_path / "password"
    path.write_text("from a file\n")
    monkeypatch.setenv("WORD_FILE", str(path))
    monkeypatch.setenv("WORD", "from the environment")
    assert program("evaluation").setting("WORD") == "from a file"


@pytest.mark.parametrize("variables", [{}, {"WORD": ""}, {"WORD_FILE": "/nowhere/at/all"}])
def test_a_setting_that_is_missing_ends_the_program_with_what_to_do(program, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r"WORD.*(set it|Mount)"):
        program("evaluation").setting("WORD")


@pytest.mark.parametrize("name", ["Upper", "a b", "a;drop", "1st", 'a"b', "a" * 64])
def test_a_name_that_would_need_quotes_is_refused(program, monkeypatch, name):
    monkeypatch.setenv("POSTGRES_DB", name)
    with pytest.raises(SystemExit, match="POSTGRES_DB"):
        program("evaluation.postgres").name_of("POSTGRES_DB")


def test_a_password_is_a_literal_whatever_is_in_it(program):
    assert program("evaluation.postgres").quoted("it's \\ 'quoted'") == "'it''s \\ ''quoted'''"


@pytest.mark.parametrize("name", ["ab", "Upper", "a b c", "bucket\nexit", "-abc"])
def test_a_bucket_that_cannot_be_is_refused(program, monkeypatch, name):
    monkeypatch.setenv("S3_BUCKET", name)
    with pytest.raises(SystemExit, match="S3_BUCKET"):
        program("evaluation.s3").bucket_name()


@pytest.mark.slow
def test_the_s3_server_makes_its_bucket_and_ends_on_a_signal(tmp_path):
    ports = {name: free_port() for name in ("S3_PORT", "S3_MASTER_PORT", "S3_FILER_PORT", "S3_VOLUME_PORT")}
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "images"),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret-secret",
        "S3_BUCKET": "tried",
        "S3_DIR": str(tmp_path / "data"),
        "TMPDIR": str(tmp_path),
    } | {name: str(port) for name, port in ports.items()}
    client = Minio(f"127.0.0.1:{ports['S3_PORT']}", access_key="key", secret_key="secret-secret", secure=False)
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "evaluation.s3"], env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: client.bucket_exists("tried"), server)
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(40)
    assert code == 0, (tmp_path / "log").read_text()[-2000:]


def wait_for(condition, server):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(Exception):  # not listening yet
            if condition():
                return
        time.sleep(0.2)
    pytest.fail(f"the condition did not come true; the server's exit code: {server.poll()}")
