"""What all dashboards are made of: a board with its variables, rows, graphs and single numbers.

Every panel has a title, a unit and a description; every query names the namespace it looks at. A width is in columns,
of which a line has 24.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

P = TypeVar("P")

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "omnialign"
RATE = "$__rate_interval"
HERE = 'namespace=~"$namespace"'
"""The matcher of every query: the namespace that is looked at."""
CALLS = f'{HERE}, component!="gateway"'
"""Calls at the services themselves: the gateway counts those it passes on a second time."""
FAULTS = 'code=~"UNKNOWN|INTERNAL|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"'
"""Codes of calls that failed for the server's fault, or for want of room or time."""
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the name of its series; `{{label}}` is the label's value."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Levels:
    """Where a number turns yellow and red. With `yellow` above `red`, low numbers are the bad ones."""

    yellow: float
    red: float


def board(title: str, *, uid: str, description: str, variables: Sequence[Any] = ()) -> dashboard.Dashboard:
    """An empty dashboard with the variables that all have, and links to its siblings."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .editable()
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(_siblings())
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(choice("namespace", "Namespace", "label_values(omnialign_build_info, namespace)"))
    )
    for variable in variables:
        made.with_variable(variable)
    return made


def choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable whose values come from Prometheus; all of them unless some are chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(DATASOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def row(title: str) -> dashboard.Row:
    """A line with a title above the panels that follow."""
    return dashboard.Row(title)


def graph(
    title: str,
    *queries: Query,
    unit: str,
    description: str,
    width: int = 8,
    stacked: bool = False,
    minimum: float | None = 0,
    maximum: float | None = None,
) -> timeseries.Panel:
    """Lines over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .height(8)
        .span(width)
        .line_width(1.5)
        .fill_opacity(25 if stacked else 8)
        .span_nulls(60_000)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return _with(panel, queries)


def number(
    title: str,
    query: Query,
    *,
    unit: str,
    description: str,
    width: int = 4,
    height: int = 5,
    levels: Levels | None = None,
) -> stat.Panel:
    """A single number, with a small graph of its past; `height` 8 beside graphs."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .height(height)
        .span(width)
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE if levels else BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if levels:
        panel.thresholds(_thresholds(levels))
    return _with(panel, [query])


def bars(title: str, query: Query, *, unit: str, description: str, width: int = 8) -> bargauge.Panel:
    """The newest values as bars, one per series."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .min(0)
        .height(8)
        .span(width)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    return _with(panel, [query], newest=PromQueryFormat.TIME_SERIES)


def listing(title: str, query: Query, *, description: str, width: int = 8) -> table.Panel:
    """The newest series as a table: their labels, and their values."""
    panel = (
        table.Panel().title(title).description(description).datasource(DATASOURCE).unit("none").height(8).span(width)
    )
    return _with(panel, [query], newest=PromQueryFormat.TABLE)


def quantile(share: float, metric: str, matchers: str, *, by: str = "") -> str:
    """A quantile of a histogram's recent observations, for each value of the labels in `by`."""
    labels = ", ".join(label for label in ("le", by) if label)
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{matchers}}}[{RATE}])))"


def rate(metric: str, matchers: str, *, by: str) -> str:
    """Increase per second of a counter, for each value of the labels in `by`."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[{RATE}]))"


def increase(metric: str, matchers: str, *, by: str = "", over: str = "$__range") -> str:
    """Increase of a counter over the time shown, or per interval of the graph, for each value of the labels in `by`."""
    return f"sum{f' by ({by}) ' if by else ''}(increase({metric}{{{matchers}}}[{over}]))"


def _with(panel: P, queries: Sequence[Query], *, newest: PromQueryFormat | None = None) -> P:
    """Adds the queries to a panel: their newest values in a format, or their course for None."""
    builder: Any = panel  # the kinds of panels share no class
    for index, query in enumerate(queries):
        target = prometheus.Dataquery().expr(query.expression).ref_id(chr(ord("A") + index)).datasource(DATASOURCE)
        target.legend_format(query.legend or "__auto")
        builder.with_target(target.instant().format(newest) if newest else target.range())
    return panel


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.TABLE)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )


def _thresholds(levels: Levels) -> dashboard.ThresholdsConfig:
    low_is_bad = levels.yellow > levels.red
    colours = (RED, YELLOW, GREEN) if low_is_bad else (GREEN, YELLOW, RED)
    steps = sorted((levels.yellow, levels.red))
    values = [None, *steps]
    made = [model.Threshold(value=value, color=colour) for value, colour in zip(values, colours, strict=True)]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def _siblings() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("omnialign")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )
