"""Which items a report tells of, chosen among scored records that are seen one by one."""

import bisect
from typing import Any

from services.evaluation.job import Spec
from services.evaluation.report.cards import worst
from services.evaluation.report.numbers import item_numbers
from services.evaluation.report.page import ITEMS_SHOWN
from services.evaluation.scores import subject_of
from services.evaluation.works import BENCHMARK, group_of, item_of
from services.pipeline.kind import Record

ITEMS_TOLD = 100
"""Items in the JSON, for each benchmark and subject; all of them are in the table of scores."""


class Choice:
    """The items of the lowest scores; those without any score come last."""

    def __init__(self, plan: Spec) -> None:
        self._plan = plan
        self._told: dict[Any, list[tuple[float, dict[str, Any]]]] = {}
        """The lowest share and the numbers of records, by benchmark and subject."""
        self._shown: dict[tuple[str, str], dict[str, float]] = {}
        """The lowest share of any record of each item, by benchmark and group."""

    def add(self, record: Record) -> None:
        """Takes in a record."""
        share = worst([record])
        told = self._told.setdefault((record.labels[BENCHMARK], subject_of(record)), [])
        if len(told) < ITEMS_TOLD or share < told[-1][0]:
            bisect.insort(told, (share, item_numbers(record, self._plan)), key=lambda one: one[0])
            del told[ITEMS_TOLD:]
        shown, item = self._shown.setdefault((record.labels[BENCHMARK], group_of(record)), {}), item_of(record)
        shown[item] = min(share, shown.get(item, share))
        if len(shown) > ITEMS_SHOWN:
            del shown[max(shown, key=lambda one: (shown[one], one))]

    def told(self) -> list[dict[str, Any]]:
        """What the JSON tells of items, for each benchmark and subject, the lowest first."""
        return [numbers for told in self._told.values() for _, numbers in told]

    def shows(self, record: Record) -> bool:
        """Whether a record is of an item that the page shows."""
        return item_of(record) in self._shown.get((record.labels[BENCHMARK], group_of(record)), {})
