"""Turns the records of `panels` into Grafana's JSON: the look that all dashboards share is here and nowhere else."""

import json
from collections.abc import Mapping
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
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

from tools.dashboards.panels import Bars, Board, Graph, Number, Panel, Table, Thresholds, Variable

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
NAMESPACE = Variable("namespace", "Namespace", "label_values(omnialign_build_info, namespace)")
TAG = "omnialign"
GREEN, YELLOW, RED = "green", "yellow", "red"
LATEST = common.ReduceDataOptions().calcs(["lastNotNull"])


def to_json(board: Board) -> str:
    """The dashboard as Grafana imports it, with the variables that all dashboards have and a menu of the others."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .editable()
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(_menu())
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in (NAMESPACE, *board.variables):
        builder.with_variable(_variable(variable))
    for row in board.rows:
        builder.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            builder.with_panel(_panel(panel))
    built = builder.build()
    for number, built_panel in enumerate(built.panels or [], start=1):
        built_panel.id_val = number  # links to a panel survive an upgrade as long as the order does
    return json.dumps(built, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _variable(variable: Variable) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .query(variable.query)
        .datasource(DATASOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel) -> Any:  # the SDK's panel builders have no common class
    match panel:
        case Graph():
            builder, queries = _graph(panel), _over_time(panel.series)
        case Number():
            builder, queries = _number(panel), _over_time({"": panel.query})
        case Bars():
            builder, queries = _bars(panel), _latest(panel.series, PromQueryFormat.TIME_SERIES)
        case Table():
            builder, queries = table.Panel().height(8), _latest({"": panel.query}, PromQueryFormat.TABLE)
    for query in queries:
        builder.with_target(query)
    return (
        builder.title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .unit(panel.unit)
        .span(panel.width)
    )


def _graph(panel: Graph) -> Any:
    builder = (
        timeseries.Panel()
        .height(8)
        .line_width(1.5)
        .fill_opacity(25 if panel.stacked else 8)
        .span_nulls(60_000)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if panel.minimum is not None:
        builder.min(panel.minimum)
    if panel.maximum is not None:
        builder.max(panel.maximum)
    if panel.stacked:
        builder.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return builder


def _number(panel: Number) -> Any:
    builder = (
        stat.Panel()
        .height(panel.height)
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE if panel.thresholds else BigValueColorMode.NONE)
        .reduce_options(LATEST)
    )
    return builder.thresholds(_colours(panel.thresholds)) if panel.thresholds else builder


def _bars(panel: Bars) -> Any:
    return bargauge.Panel().min(0).height(8).orientation(VizOrientation.HORIZONTAL).reduce_options(LATEST)


def _over_time(series: Mapping[str, str]) -> list[prometheus.Dataquery]:
    return [query.range() for query in _queries(series)]


def _latest(series: Mapping[str, str], form: PromQueryFormat) -> list[prometheus.Dataquery]:
    return [query.instant().format(form) for query in _queries(series)]


def _queries(series: Mapping[str, str]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expression).ref_id(letter).datasource(DATASOURCE).legend_format(legend or "__auto")
        for letter, (legend, expression) in zip("ABCDEFGH", series.items(), strict=False)
    ]


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.TABLE)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )


def _colours(thresholds: Thresholds) -> dashboard.ThresholdsConfig:
    low_is_bad = thresholds.yellow > thresholds.red
    colours = (RED, YELLOW, GREEN) if low_is_bad else (GREEN, YELLOW, RED)
    starts = (None, *sorted((thresholds.yellow, thresholds.red)))  # the first colour has no lower bound
    steps = [model.Threshold(value=start, color=colour) for start, colour in zip(starts, colours, strict=True)]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _menu() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("omnialign")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )
