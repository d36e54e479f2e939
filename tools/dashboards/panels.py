"""What a dashboard is made of: plain records of panels, rows and boards, and the PromQL that they share.

A dashboard is a flat list of these records; `grafana` turns them into Grafana's JSON. Every panel has a title, a unit
and a description, and every query selects the namespace in view (`HERE`). Widths are in columns: a line has 24.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RATE = "$__rate_interval"
HERE = 'namespace=~"$namespace"'
"""The matcher of every query: the namespaces chosen on the dashboard."""
CALLS = f'{HERE}, component!="gateway"'
"""Calls to the services themselves. The gateway counts every call that it forwards a second time."""
FAULTS = 'code=~"UNKNOWN|INTERNAL|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"'
"""Status codes that are the server's fault, or mean that it ran out of room or time."""


@dataclass(frozen=True)
class Thresholds:
    """Where a number turns yellow and red. With `yellow` above `red`, low numbers are the bad ones."""

    yellow: float
    red: float


@dataclass(frozen=True)
class Graph:
    """Lines over time. `series` maps each legend to its PromQL; `{{label}}` in a legend is the value of that label."""

    title: str
    series: Mapping[str, str]
    unit: str
    description: str
    width: int = 8
    stacked: bool = False
    minimum: float | None = 0
    maximum: float | None = None


@dataclass(frozen=True)
class Number:
    """The latest value in large print over a small graph of its past. Beside graphs, `height` is 8."""

    title: str
    query: str
    unit: str
    description: str
    width: int = 4
    height: int = 5
    thresholds: Thresholds | None = None


@dataclass(frozen=True)
class Bars:
    """The latest values as horizontal bars, one per series."""

    title: str
    series: Mapping[str, str]
    unit: str
    description: str
    width: int = 8


@dataclass(frozen=True)
class Table:
    """The latest series as a table of labels and values."""

    title: str
    query: str
    description: str
    width: int = 8
    unit: str = "none"


Panel = Graph | Number | Bars | Table


@dataclass(frozen=True)
class Row:
    """A titled line, with the panels below it."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard. Its values come from Prometheus; all are selected at first."""

    name: str
    label: str
    query: str


@dataclass(frozen=True)
class Board:
    """A dashboard; `uid` is its address in Grafana and never changes."""

    title: str
    uid: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()


def quantile(share: float, metric: str, matchers: str, *, by: str = "") -> str:
    """PromQL for a quantile of a histogram's recent observations, grouped by the labels in `by`."""
    labels = ", ".join(label for label in ("le", by) if label)
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{matchers}}}[{RATE}])))"


def rate(metric: str, matchers: str, *, by: str) -> str:
    """PromQL for a counter's increase per second, grouped by the labels in `by`."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[{RATE}]))"


def increase(metric: str, matchers: str, *, by: str = "", over: str = "$__range") -> str:
    """PromQL for a counter's increase over `over` (by default the time shown), grouped by the labels in `by`."""
    return f"sum{f' by ({by}) ' if by else ''}(increase({metric}{{{matchers}}}[{over}]))"
