"""The committed dashboards are the ones that their Python makes, and say what they show."""

import re

import pytest

from tests.observability.expressions import DASHBOARDS, boards, expressions, panels
from tools import build_dashboards

UNITS = {"Bps", "bytes", "cps", "none", "percentunit", "reqps", "s", "sci", "short"}
WITHOUT_NAMESPACE = {"overview / Alerts firing", "overview / Alerts"}
"""Prometheus' own ALERTS, whose namespace is the rule's."""


def test_the_committed_files_are_what_the_builder_makes():
    assert {path.name: path.read_text() for path in DASHBOARDS} == build_dashboards.rendered()


def test_the_dashboards_are_those_that_an_operator_expects():
    jobs = {"alignment", "evaluation", "annotation", "training"}
    assert set(boards()) == jobs | {"overview", "console", "inference", "storage"}


def test_ids_are_stable_and_unique():
    assert {name: board["uid"] for name, board in boards().items()} == {name: f"omnialign-{name}" for name in boards()}
    for board in boards().values():
        numbers = [panel["id"] for panel in board["panels"]]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(("where", "panel"), list(panels()), ids=[where for where, _ in panels()])
def test_every_panel_says_what_it_shows(where, panel):
    assert panel["title"]
    assert len(panel["description"]) > 15
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"]["uid"] == "${datasource}"
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize(("where", "panel"), list(panels()), ids=[where for where, _ in panels()])
def test_every_query_looks_at_the_chosen_namespace_with_grafanas_interval(where, panel):
    for target in panel["targets"]:
        if where not in WITHOUT_NAMESPACE:
            assert 'namespace=~"$namespace"' in target["expr"]
        windows = set(re.findall(r"\[([^\]]+)\]", target["expr"]))
        assert windows <= {"$__rate_interval", "$__range", "$__interval", "10m"}


def test_panels_fill_the_lines_of_the_grid_without_overlap():
    for name, board in boards().items():
        taken = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24, (name, panel["title"])
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, (name, panel["title"])
            taken |= cells


def test_titles_within_a_dashboard_differ():
    for name, board in boards().items():
        titles = [panel["title"] for panel in board["panels"]]
        assert len(titles) == len(set(titles)), name


def test_each_expression_is_found_once_under_its_place():
    places = [expression.where for expression in expressions()]
    assert len(places) == len(set(places))
