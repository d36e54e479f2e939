"""The report of an alignment job: JSON for programs, and one self-contained HTML page for people.

Everything shown is read over the clients from what the job's stages committed. The page makes no request of any kind.
"""

import asyncio
import json

from omnialign.client import AsyncClient
from omnialign.v1 import alignment_service_pb2
from services.alignment.report import page
from services.alignment.report.gather import gather
from services.alignment.report.statistics import report_numbers

__all__ = ["make_report"]


async def make_report(
    job: alignment_service_pb2.AlignmentJob, *, data: AsyncClient, training: AsyncClient
) -> dict[str, bytes]:
    """The report in UTF-8 by format: `json` and `html`. Raises OmnialignError if the evaluation cannot be read.

    `data` and `training` are clients of these two services.
    """
    material = await gather(job, data=data, training=training)

    def make() -> dict[str, bytes]:
        numbers = report_numbers(job, tallies=material.tallies, curves=material.curves, edges=material.edges)
        text = json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return {"json": text.encode(), "html": page.render(numbers, job=job, material=material).encode()}

    return await asyncio.to_thread(make)
