"""What reading records by id, appending and upkeep cost in a table that grows, and what memory they take.

Records are appended as a job appends them, in groups, with upkeep in between. At each size, groups are appended and
records with ids of chance are read, and the medians are printed: wall clock and time of this process's threads.
"""

import argparse
import hashlib
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from omnialign.content import content
from omnialign.v1.record_pb2 import Record
from services.data.record_table import CommitRetries, RecordTable
from services.data.selection import Selection
from services.data.upkeep import WRITES

GROUP, READ, REPEATS = 256, 64, 20

Cost = tuple[float, float]
"""Milliseconds of wall clock and of processors."""


def record_name(number: int) -> str:
    """Ids in an order that is not that in which they are written."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:24]


def record(number: int) -> Record:
    """About 600 bytes."""
    return Record(id=record_name(number), subtask="t2t", split="train", prompt=content(f"x{number} " * 100))


def cost_of(call: Callable[[], Any]) -> Cost:
    """What a call costs."""
    wall, processors = time.perf_counter(), time.process_time()
    call()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processors) * 1e3


def typical(costs: Sequence[Cost]) -> Cost:
    """The medians."""
    return median(wall for wall, _ in costs), median(own for _, own in costs)


def mean(costs: Sequence[Cost]) -> Cost:
    """The means."""
    return fmean(wall for wall, _ in costs), fmean(own for _, own in costs)


def resident_mib() -> int:
    """The resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


class Growing:
    """A table to which records are appended."""

    def __init__(self, folder: Path) -> None:
        retries = CommitRetries(max_retries=30, timeout_seconds=60)
        self.table = RecordTable(folder, commit_retries=retries, retention_seconds=900, compact_fragments=32)
        self.size, self._writes = 0, 0

    def append(self) -> tuple[Cost, Cost]:
        """Appends one group; what that cost, and what the upkeep cost that came due."""
        rows = [record(number) for number in range(self.size, self.size + GROUP)]
        appended, kept = cost_of(lambda: self.table.merge(rows)), (0.0, 0.0)
        self.size, self._writes = self.size + GROUP, self._writes + 1
        if self._writes % WRITES == 0:
            kept = cost_of(self._keep)
        return appended, kept

    def read(self) -> Cost:
        """Reads records by ids of chance."""
        names = [record_name(random.randrange(self.size)) for _ in range(READ)]
        return cost_of(lambda: list(self.table.snapshot().batches(Selection(ids=names))))

    def _keep(self) -> None:
        while self.table.improve():
            pass


def main() -> None:
    """Prints a line for each size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 32_000, 256_000, 512_000])
    print(f"milliseconds (of processors): append {GROUP}, its upkeep (mean), read {READ} by id; resident MiB")
    with tempfile.TemporaryDirectory() as folder:
        growing = Growing(Path(folder) / "table.lance")
        for size in parser.parse_args().sizes:
            upkeep: list[Cost] = []
            while growing.size < size:
                upkeep.append(growing.append()[1])
            appended, read = [growing.append()[0] for _ in range(REPEATS)], [growing.read() for _ in range(REPEATS)]
            costs = typical(appended), mean(upkeep), typical(read)
            print(size, *(f"{wall:.1f} ({own:.1f})" for wall, own in costs), resident_mib(), sep="  ", flush=True)


if __name__ == "__main__":
    main()
