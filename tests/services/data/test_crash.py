"""What is left when the process dies or the disk is full in the middle of a write."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omnialign.content import content
from omnialign.v1 import record_pb2
from services.data.record_table import CommitRetries, RecordTable
from services.data.selection import Selection

ROWS = 2000
WRITER = """
import sys
from pathlib import Path
from omnialign.content import content
from omnialign.v1.record_pb2 import Record
from services.data.record_table import CommitRetries, RecordTable
retries = CommitRetries(5, 30)
table = RecordTable(Path(sys.argv[1]), commit_retries=retries, retention_seconds=3600, compact_fragments=4)
for batch in range(1000):
    records = [Record(id=f"{batch:04d}-{n:05d}", prompt=content("x" * 500)) for n in range(2000)]
    print(batch, flush=True)
    table.merge(records)
    table.improve()
"""
FULL = """
import resource, sys
from pathlib import Path
from omnialign.content import content
from omnialign.errors import ResourceExhausted
from omnialign.v1.record_pb2 import Record
from services.data.record_table import CommitRetries, RecordTable
retries = CommitRetries(5, 30)
table = RecordTable(Path(sys.argv[1]), commit_retries=retries, retention_seconds=3600, compact_fragments=32)
table.merge([Record(id="kept")])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    table.merge([Record(id=str(n), prompt=content(str(n) * 2000)) for n in range(500)])
except ResourceExhausted as error:
    print(error.reason)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # for what is written at the exit, such as coverage
print(table.snapshot().count())
"""


def table(path: Path) -> RecordTable:
    return RecordTable(path, commit_retries=CommitRetries(5, 30), retention_seconds=3600, compact_fragments=4)


@pytest.mark.chaos
@pytest.mark.parametrize("seen", [1, 3, 6])
def test_a_killed_writer_leaves_all_of_a_call_or_nothing(tmp_path: Path, seen: int) -> None:
    path = tmp_path / "t.lance"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(seen + 1):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
    records = table(path)
    found = [one for batch in records.snapshot().batches(Selection()) for one in batch.records()]
    assert len(found) >= (seen - 1) * ROWS
    assert len(found) % ROWS == 0
    assert records.merge([record_pb2.Record(id="after", prompt=content("y"))]) == (1, 0)


def test_a_full_disk_is_said_so_and_the_head_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "t.lance")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["STORAGE_FULL", "1"]
