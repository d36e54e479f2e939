"""Reports of evaluations and of comparisons: JSON for programs, and one self-contained HTML page for people.

Everything shown is read from what the evaluation's stages committed. The pages make no request of any kind.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from omnialign.client import AsyncClient
from services.evaluation.comparing import Compared
from services.evaluation.job import Job, Spec
from services.evaluation.report import cards, comparison, page
from services.evaluation.report.numbers import report_numbers
from services.pipeline.kind import Records
from services.pipeline.pages.messages import fetch_media

__all__ = ["make_comparison_report", "make_report"]


async def make_report(
    job: Job, plan: Spec, *, items: Sequence[dict[str, Any]], records: Records, data: AsyncClient
) -> dict[str, bytes]:
    """The report in UTF-8 by format: `json` and `html`.

    `items` is what the JSON tells of items, and `records` are those of the items on the page: `choice.Choice` chooses
    both. `data` is a client of the data service.
    """
    shown = page.choose(records, plan)
    references = cards.media_of(shown)
    media = await fetch_media(data, references)

    def make() -> dict[str, bytes]:
        numbers = report_numbers(job, plan, items)
        html = page.render(job, plan, numbers=numbers, shown=shown, references=references, data=media)
        return {"json": _as_json(numbers), "html": html.encode()}

    return await asyncio.to_thread(make)


async def make_comparison_report(compared: Compared, *, report_format: str, data: AsyncClient) -> bytes:
    """The report of a comparison in UTF-8, as `json` or `html`. `data` is a client of the data service."""
    items = await comparison.read_different(compared, data)
    numbers = await asyncio.to_thread(comparison.numbers_of, compared, items)
    if report_format == "json":
        return _as_json(numbers)
    shown = comparison.choose(compared, items)
    references = cards.media_of(shown)
    media = await fetch_media(data, references)
    html = await asyncio.to_thread(
        comparison.render, compared, numbers=numbers, shown=shown, references=references, data=media
    )
    return html.encode()


def _as_json(numbers: Any) -> bytes:
    return (json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
