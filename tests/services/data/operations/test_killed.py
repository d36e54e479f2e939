"""A process that is killed while it makes a dataset: no version is left half made, and the same call finishes it."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omnialign.content import content
from omnialign.errors import NotFound
from omnialign.v1.dataset_operations_pb2 import Split, SplitShare
from omnialign.v1.record_pb2 import Record
from tests.services.data.operations.test_deriving import REQUEST_ID, filled, sides

RECORDS = 3000
MADE = "projects/default/datasets/made"
SPLIT = Split(shares=[SplitShare(split="train", share=0.9), SplitShare(split="test", share=0.1)])
SERVICE = """
import asyncio, sys
from pathlib import Path
from omnialign.v1.dataset_operations_pb2 import Split
from services.data.operations import target
from tests.services.data.conftest import serve

target.WRITE_RECORDS = 200

async def main():
    async with serve(Path(sys.argv[1])) as client:
        split = Split.FromString(bytes.fromhex(sys.argv[2]))
        async for done in client.derive_dataset("made", [sys.argv[3]], split=split, request_id=sys.argv[4]):
            print(done.records_written, flush=True)

asyncio.run(main())
"""


def run_until(seen: int, *arguments: str) -> None:
    """Kills a service once it has written so many records."""
    command = [sys.executable, "-c", SERVICE, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= seen:
                process.send_signal(signal.SIGKILL)
                return


@pytest.mark.chaos
async def test_a_killed_operation_leaves_no_version_and_is_finished_by_the_same_call(
    serving: Any, tmp_path: Path
) -> None:
    async with serving(tmp_path / "state") as client:
        pets = await filled(client, "pets", [Record(id=f"{n:05d}", prompt=content(f"p {n}")) for n in range(RECORDS)])
    arguments = (str(tmp_path / "state"), SPLIT.SerializeToString().hex(), pets, REQUEST_ID)
    for seen in (1, 2000):  # of batches of 1024
        await asyncio.to_thread(run_until, seen, *arguments)
        async with serving(tmp_path / "state") as client:
            with pytest.raises(NotFound):
                await client.get_dataset_version(f"{MADE}/versions/-")
    async with serving(tmp_path / "state") as client:
        for new, request_id in (("made", REQUEST_ID), ("undisturbed", "")):
            last = [one async for one in client.derive_dataset(new, [pets], split=SPLIT, request_id=request_id)][-1]
            assert last.dataset_version.record_count == RECORDS
        assert await sides(client, MADE) == await sides(client, "projects/default/datasets/undisturbed")
