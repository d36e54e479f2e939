"""The report of an alignment job: `report.json` for programs and one self-contained `report.html` for people.

Everything shown is read over the client from what the job's stages committed. The page makes no request of any kind.
"""

import asyncio
import json
import os
import tempfile
from pathlib import Path

from omnialign.client import AsyncClient
from omnialign.v1 import alignment_service_pb2
from services.alignment.report import page
from services.alignment.report.gather import gather
from services.alignment.report.numbers import report_numbers

__all__ = ["write_report"]


async def write_report(job: alignment_service_pb2.AlignmentJob, client: AsyncClient, folder: Path) -> None:
    """Writes `report.json` and `report.html` into the folder, each atomically; a repeated call replaces them.

    Raises OmnialignError when the evaluation cannot be read, and OSError when the folder cannot be written.
    """
    material = await gather(job, client)

    def write() -> None:
        numbers = report_numbers(job, records=material.evaluated, curves=material.curves, edges=material.edges)
        html = page.render(numbers, job=job, material=material)
        _replace(folder / "report.json", json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        _replace(folder / "report.html", html)

    await asyncio.to_thread(write)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
