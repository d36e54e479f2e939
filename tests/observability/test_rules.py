"""Every alert says how bad it is and what to do, and has a case in which it fires and one in which it does not."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.observability.expressions import ROOT, RULES, RUNBOOKS, alerts, rules
from tools import fetch_prometheus

CASES = sorted((ROOT / "tests" / "observability" / "rules").glob("*.test.yaml"))
SECTIONS = ["## What it means", "## Who is affected", "## Where to look", "## What to do"]


@pytest.mark.parametrize(("name", "rule"), alerts().items())
def test_every_alert_has_a_severity_words_and_a_runbook(name, rule):
    assert re.fullmatch(r"Omnialign[A-Za-z0-9]+", name)
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert len(rule["annotations"]["summary"]) < 100
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    assert (ROOT / rule["annotations"]["runbook_url"]).is_file()


@pytest.mark.parametrize(("name", "rule"), alerts().items())
def test_an_alert_waits_unless_its_expression_looks_back_far_enough(name, rule):
    assert "for" in rule or re.search(r"\[(30m|1h)\]", rule["expr"])


def test_alerts_and_recordings_have_names_of_their_own():
    names = [rule.get("alert") or rule["record"] for _, rule in rules()]
    assert len(names) == len(set(names))
    for _, rule in rules():
        if "record" in rule:
            assert re.fullmatch(r"[a-z_]+:omnialign_\w+:[a-z0-9_]+", rule["record"])


def test_there_is_one_runbook_for_each_alert_with_the_same_sections():
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("Omnialign*.md")}
    assert set(pages) == set(alerts())
    for name, text in pages.items():
        assert text.startswith(f"# {name}: ")
        assert re.findall(r"^## .*", text, flags=re.MULTILINE) == SECTIONS, name


def test_runbooks_name_panels_and_pages_that_exist():
    listed = (RUNBOOKS / "README.md").read_text()
    for name in alerts():
        assert f"[{name}]({name}.md)" in listed
    for path in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            assert (RUNBOOKS / link).is_file(), f"{path.name} links to {link}"


def test_every_alert_is_tested_firing_and_not_firing():
    outcomes: dict[str, set[bool]] = {}
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for expected in case["alert_rule_test"]:
                outcomes.setdefault(expected["alertname"], set()).add(bool(expected["exp_alerts"]))
    assert outcomes == {name: {True, False} for name in alerts()}


@pytest.fixture(scope="module")
def promtool() -> Path:
    return fetch_prometheus.fetch().promtool


@pytest.mark.slow
@pytest.mark.timeout(400)  # the first time Prometheus is downloaded
def test_promtool_accepts_the_rules(promtool):
    done = subprocess.run([promtool, "check", "rules", *RULES], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", CASES, ids=[path.name for path in CASES])
def test_alerts_fire_when_they_should_and_only_then(promtool, path):
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
