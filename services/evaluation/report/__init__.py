"""The report of an evaluation: JSON for programs, and one self-contained HTML page for people.

Everything shown is read from what the evaluation's stages committed. The page makes no request of any kind.
"""

import asyncio
import json

from omnialign.client import AsyncClient
from services.evaluation.job import Job, Spec
from services.evaluation.report import cards, page
from services.evaluation.report.numbers import report_numbers
from services.pipeline.kind import Records
from services.pipeline.pages.messages import fetch_media

__all__ = ["make_report"]


async def make_report(job: Job, plan: Spec, *, records: Records, data: AsyncClient) -> dict[str, bytes]:
    """The report in UTF-8 by format: `json` and `html`. `data` is a client of the data service."""
    shown = page.choose(records, plan)
    references = cards.media_of(shown)
    media = await fetch_media(data, references)

    def make() -> dict[str, bytes]:
        numbers = report_numbers(job, plan, records)
        text = json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        html = page.render(job, plan, numbers=numbers, shown=shown, references=references, data=media)
        return {"json": text.encode(), "html": html.encode()}

    return await asyncio.to_thread(make)
