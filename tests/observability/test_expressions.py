"""All expressions of dashboards and rules parse, and use metrics that exist, as their types allow."""

import re
from pathlib import Path

import pytest

from tests.observability.expressions import ROOT, Expression, expressions, rules, variables, with_grafana_variables
from tests.observability.promql import uses
from tools import list_metrics

KNOWN = list_metrics.known()
RECORDED = {rule["record"] for _, rule in rules() if "record" in rule}
RATES = {"rate", "irate", "increase", "resets"}
TARGET_LABELS = {"namespace", "pod", "component", "training_job"}
OTHERS = set(list_metrics.OTHERS)

EXPRESSIONS = expressions()
BY_PLACE = pytest.mark.parametrize("expression", EXPRESSIONS, ids=[e.where for e in EXPRESSIONS])


def kind_of(name: str) -> str:
    """counter or gauge; the series of a histogram are counters."""
    if name in RECORDED:
        return "gauge"
    if name in KNOWN and KNOWN[name].kind != "histogram":
        return KNOWN[name].kind
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    assert base != name and base in KNOWN and KNOWN[base].kind == "histogram", f"{name} is no metric of ours"
    return "counter"


def labels_of(name: str) -> set[str]:
    base = name if name in KNOWN else re.sub(r"_(bucket|sum|count)$", "", name)
    return {*KNOWN[base].labels, *TARGET_LABELS, *({"le"} if name.endswith("_bucket") else ())}


@BY_PLACE
def test_it_parses_and_uses_metrics_that_exist(expression: Expression):
    assert uses(expression.text)
    for use in uses(expression.text):
        kind_of(use.metric)


@BY_PLACE
def test_counters_are_rated_and_gauges_are_not(expression: Expression):
    for use in uses(expression.text):
        if kind_of(use.metric) == "counter":
            assert use.function in RATES, f"{use.metric} is a counter and says nothing without a rate"
        else:
            assert use.function not in RATES, f"{use.metric} is a gauge and has no rate"


@BY_PLACE
def test_it_matches_by_labels_that_the_metric_has(expression: Expression):
    for use in uses(expression.text):
        if use.metric not in RECORDED | OTHERS:
            assert set(use.labels) <= labels_of(use.metric), use


@pytest.mark.parametrize(("where", "selector", "label"), list(variables()))
def test_variables_ask_for_labels_that_exist(where, selector, label):
    (use,) = uses(with_grafana_variables(selector))
    assert label in labels_of(use.metric), where


def test_every_recording_is_used():
    used = {use.metric for expression in EXPRESSIONS for use in uses(expression.text)}
    assert used >= RECORDED


def test_the_catalogue_is_what_the_programs_register():
    assert list_metrics.PAGE.read_text() == list_metrics.page()


def test_every_metric_that_the_code_names_is_in_the_catalogue():
    found = set()
    for folder in ("services", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= {(name, path) for name in metric_names(path)}
    missing = {
        (name, str(path.relative_to(ROOT))) for name, path in found if name not in KNOWN and f"{name}_info" not in KNOWN
    }
    assert missing == set()


def metric_names(path: Path) -> list[str]:
    """The names given to the constructors of metrics in a file."""
    return re.findall(r"\b(?:Counter|Gauge|Histogram|Summary|Info)\(\s*\"(omnialign_\w+)\"", path.read_text())


def test_metrics_that_the_chart_and_the_documents_name_exist():
    files = [*(ROOT / "charts" / "omnialign" / "templates").rglob("*"), ROOT / "charts" / "omnialign" / "values.yaml"]
    files += [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "runbooks").glob("*.md"), ROOT / "README.md"]
    text = "\n".join(path.read_text() for path in files if path.is_file())
    areas = "|".join({name.split("_")[1] for name in KNOWN if name.startswith("omnialign_")})
    for name in set(re.findall(rf"(?<![\w/.])omnialign_(?:{areas})_[a-z0-9_]+", text)):
        assert name in KNOWN or kind_of(name)


def test_gauges_and_histograms_are_not_named_like_counters():
    for name, metric in KNOWN.items():
        assert name.endswith("_total") == (metric.kind == "counter"), name


def test_no_label_can_take_any_number_of_values():
    labels = {label for name, metric in KNOWN.items() if not name.endswith("_info") for label in metric.labels}
    bounded = {"service", "method", "code", "direction", "stage", "outcome", "verdict", "state", "reason", "operation"}
    bounded |= {"benchmark"}  # their names are in the contract
    bounded |= {"route", "status"}  # of the console: as its code writes them, and of HTTP
    assert labels <= bounded | {"result", "endpoint"}  # as many endpoints as the operator lists
