"""Every PromQL expression of the chart: those of the dashboards' panels and variables, and those of the rules."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = sorted((ROOT / "charts" / "omnialign" / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "charts" / "omnialign" / "files" / "rules").glob("*.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks"

GRAFANA = {"$__rate_interval": "30s", "$__interval": "30s", "$__range": "10m"}
"""Values of Grafana's own variables; scrapes are a second apart here, so short windows suffice."""


@dataclass(frozen=True)
class Expression:
    """An expression, where it is, and what it is for: panel, record, alert."""

    where: str
    text: str
    use: str


def boards() -> dict[str, dict[str, Any]]:
    """The dashboards by file name."""
    return {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """All panels but rows, each with `dashboard / title`."""
    for name, board in boards().items():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield f"{name} / {panel['title']}", panel


def variables() -> Iterator[tuple[str, str, str]]:
    """(where, selector, label) of the variables that ask for the values of a label."""
    for name, board in boards().items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
                assert found, variable["query"]
                yield f"{name} / ${variable['name']}", found[1], found[2]


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """All rules, each with its file's name."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path.stem, rule


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    return {rule["alert"]: rule for _, rule in rules() if "alert" in rule}


def expressions() -> list[Expression]:
    """All of them, as Grafana and Prometheus would evaluate them."""
    shown = [
        Expression(f"{where} [{target['refId']}]", with_grafana_variables(target["expr"]), "panel")
        for where, panel in panels()
        for target in panel["targets"]
    ]
    ruled = [
        Expression(
            f"{file} / {rule.get('record') or rule['alert']}", rule["expr"], "alert" if "alert" in rule else "record"
        )
        for file, rule in rules()
    ]
    return shown + ruled


def with_grafana_variables(text: str) -> str:
    """The expression with Grafana's variables filled in: its own, and All for those that a person selects."""
    for name, value in GRAFANA.items():
        text = text.replace(name, value)
    return re.sub(r'"\$\w+"', '".*"', text)
