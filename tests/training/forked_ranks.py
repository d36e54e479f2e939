"""Whole runs on several ranks whose processes are forked from one that has imported everything.

Each rank is a process of its own with DeepSpeed and gloo, as under torchrun. Only the imports, which take longer than
a run of a few steps, are shared. Methods that draw their own answers get fixed ones.
"""

import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.processes import free_port
from training import __main__ as program
from training import launch

CONTEXT = multiprocessing.get_context("forkserver")
SERVER = forkserver.ForkServer()  # the process's own is the sandbox's, which has imported other things
SERVER.set_forkserver_preload(["tests.training.forked_ranks_imports"])
ENVIRONMENT = launch.environment(os.environ, num_processes=2, num_cpus=2)
"""That of a run: no coverage is measured in it."""
_starting = threading.Lock()  # runs may be side by side, in threads, while which server they are forked from is patched
ANSWER_TOKENS = 8
"""Of sample answers. Models made by chance end none, and sharded ones are gathered for each token."""


def run_ranks(folder: Path, method: str, *, num_processes: int, timeout: float = 250.0) -> list[int | None]:
    """Runs the spec in `folder`, where each rank leaves its log; returns how the ranks ended.

    None for one that did not end within `timeout` seconds, and is killed.
    """
    port = free_port()
    ranks: list[BaseProcess] = [
        CONTEXT.Process(target=_run, args=(folder, method, rank, num_processes, port)) for rank in range(num_processes)
    ]
    with _starting:
        with patch.dict(os.environ, ENVIRONMENT, clear=True):
            SERVER.ensure_running()
        with patch.object(forkserver, "connect_to_new_process", SERVER.connect_to_new_process):
            for process in ranks:
                process.start()
    for process in ranks:
        process.join(timeout)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    return codes


def kinds_seen(folder: Path, *, rank: int) -> list[list[int]]:
    """The modalities of each batch of a rank, fillers left out."""
    return [json.loads(line) for line in (folder / f"kinds-{rank}.jsonl").read_text().splitlines()]


def _run(folder: Path, method: str, rank: int, num_processes: int, port: int) -> None:
    """A rank's process."""
    from tests.training.fixed_rollouts import fixed_rollouts
    from training import sample_answers

    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
    os.environ.update(ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    log = os.open(folder / f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    short_answers = patch.object(sample_answers, "MAX_NEW_TOKENS", ANSWER_TOKENS)
    with fixed_rollouts(), short_answers, _noted_kinds(folder / f"kinds-{rank}.jsonl"):
        code = program.main([method, "--spec", str(folder / "job.yaml")])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as the program does


@contextmanager
def _noted_kinds(path: Path) -> Iterator[None]:
    from training.media import BatchMedia

    inputs = BatchMedia.inputs

    def noted(self: BatchMedia, rows: Any, ids: Any) -> Any:
        kinds = sorted({ref.modality for row in rows for ref in row.get("media", ())})
        with path.open("a") as file:
            file.write(json.dumps(kinds) + "\n")
        return inputs(self, rows, ids)

    with patch.object(BatchMedia, "inputs", noted):
        yield
