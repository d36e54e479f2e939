"""The chart renders for every scenario, to what was reviewed."""

import tomllib

import pytest
import yaml

from tests.chart import regenerate, rendering
from tests.chart.rendering import CHART, GOLDEN, ROOT, SCENARIOS

REGENERATE = "review the difference, then `python -m tests.chart.regenerate`"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lint_finds_nothing(scenario: str) -> None:
    done = rendering.helm("lint", str(CHART), "--strict", "-f", str(rendering.values_file(scenario)))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rendering_is_the_reviewed_one(scenario: str) -> None:
    assert regenerate.golden(scenario) == (GOLDEN / f"{scenario}.yaml").read_text(), REGENERATE


def test_every_golden_has_a_scenario() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.yaml")) == SCENARIOS


def test_schema_holds_the_settings_of_the_code() -> None:
    assert regenerate.SCHEMA.read_text() == regenerate.schema(), REGENERATE


def test_readme_holds_todays_values() -> None:
    assert regenerate.README.read_text() == regenerate.readme(), REGENERATE


def test_two_renderings_differ_in_nothing_but_made_secrets() -> None:
    first, second = rendering.template("minimal"), rendering.template("minimal")
    assert first.stdout == second.stdout


def test_a_long_release_name_makes_valid_names() -> None:
    done = rendering.helm(
        "template", "a-release-name-that-is-as-long-as-helm-allows-them", str(CHART), "-f", str(CHART / "ci/gpu.yaml")
    )
    assert done.returncode == 0, done.stderr
    names = {line.split(": ")[1] for line in done.stdout.splitlines() if line.startswith("  name: ")}
    assert max(map(len, names)) <= 63


def test_the_chart_is_of_this_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == project["version"]


def test_every_image_is_one_that_is_built() -> None:
    images = yaml.safe_load(regenerate.VALUES.read_text())["images"].keys() - {"pullPolicy"}
    assert images == {path.stem for path in (ROOT / "images").glob("*.Dockerfile")}


def test_every_dashboard_and_rule_file_is_installed() -> None:
    found = rendering.manifests("gpu", kind="ConfigMap") + rendering.manifests("gpu", kind="PrometheusRule")
    names = {item["metadata"]["name"].removeprefix("omnialign-") for item in found}
    assert {f"dashboard-{path.stem}" for path in (CHART / "dashboards").glob("*.json")} <= names
    assert {f"rules-{path.stem}" for path in (CHART / "files" / "rules").glob("*.yaml")} <= names
    for rule in rendering.manifests("gpu", kind="PrometheusRule"):
        file = rule["metadata"]["name"].removeprefix("omnialign-rules-")
        assert rule["spec"] == yaml.safe_load((CHART / "files" / "rules" / f"{file}.yaml").read_text())
