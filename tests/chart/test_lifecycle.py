"""Helm installs, upgrades, rolls back and removes the chart, and the data are there after each of them.

The API server is a stand-in that runs no pods: what is seen here is what Helm makes and deletes, and in which order.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import rendering
from tests.chart.api_server import Cluster, cluster
from tests.chart.rendering import CHART, NAMESPACE, RELEASE

pytestmark = pytest.mark.slow

RELEASES = "helm.sh/release.v1"
"""Type of the Secrets that Helm keeps its releases in."""
KEPT = {("PersistentVolumeClaim", "omnialign-postgresql"), ("Secret", "omnialign-postgresql")}
CPU = ("-f", str(rendering.values_file("cpu")), "--set", "checks.cluster=false")
LASTING = (*CPU, "--set", "postgresql.bundled.persistence.enabled=true")


@pytest.fixture
def helm(tmp_path: Path) -> Any:
    """Runs Helm in an empty cluster; gives (the cluster, how to run)."""
    with cluster(tmp_path) as here:

        def run(*arguments: str) -> None:
            done = rendering.helm(*arguments, "--namespace", NAMESPACE, "--kubeconfig", here.kubeconfig)
            assert done.returncode == 0, done.stderr

        yield here, run


def secrets(here: Cluster) -> dict[str, Any]:
    return {
        item["metadata"]["name"]: item["data"] for item in here.find("v1", "Secret", {}) if item["type"] != RELEASES
    }


def test_data_and_passwords_outlive_upgrade_rollback_and_removal(helm: Any) -> None:
    here, run = helm
    run("install", RELEASE, str(CHART), *LASTING)
    first = secrets(here)
    run("upgrade", RELEASE, str(CHART), *LASTING, "--set", "images.service.tag=0.2.0")
    assert secrets(here) == first
    run("rollback", RELEASE)
    assert secrets(here) == first
    run("uninstall", RELEASE)
    left = [item for kind in ("Secret", "PersistentVolumeClaim") for item in here.find("v1", kind, {})]
    assert {(item["kind"], item["metadata"]["name"]) for item in left} == KEPT
    run("install", RELEASE, str(CHART), *LASTING)
    assert secrets(here)["omnialign-postgresql"] == first["omnialign-postgresql"]


def test_a_first_installation_that_waits_for_pods_ends(helm: Any) -> None:
    """Pods are ready after the migration, which must not wait for them."""
    here, run = helm
    run("install", RELEASE, str(CHART), *CPU, "--wait", "--timeout", "30s")
    assert any(name.startswith("Job/omnialign-migrate") for _, name in here.done)


def test_an_upgrade_migrates_before_anything_changes(helm: Any) -> None:
    here, run = helm
    run("install", RELEASE, str(CHART), *CPU)
    before = here.get("Deployment", "omnialign-data")["metadata"]["resourceVersion"]
    here.done.clear()
    run("upgrade", RELEASE, str(CHART), *CPU, "--set", "images.service.tag=0.2.0")
    migrated = here.done.index(("made", "Job/omnialign-migrate"))
    assert not [name for _, name in here.done[:migrated] if name.startswith("Deployment/")]
    data = here.get("Deployment", "omnialign-data")
    assert int(data["metadata"]["resourceVersion"]) > int(before)
    assert data["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":0.2.0")


def test_a_later_version_of_the_chart_keeps_selectors(helm: Any, tmp_path: Path) -> None:
    """They cannot be changed in a cluster."""
    here, run = helm
    run("install", RELEASE, str(CHART), *CPU)
    before = here.get("Deployment", "omnialign-pool-default")["spec"]["selector"]
    later = shutil.copytree(CHART, tmp_path / "omnialign")
    chart = yaml.safe_load((later / "Chart.yaml").read_text())
    (later / "Chart.yaml").write_text(yaml.safe_dump({**chart, "version": "9.0.0", "appVersion": "9.0.0"}))
    run("upgrade", RELEASE, str(later), *CPU)
    assert here.get("Deployment", "omnialign-pool-default")["spec"]["selector"] == before


def test_removal_ends_training_jobs_first(helm: Any) -> None:
    here, run = helm
    run("install", RELEASE, str(CHART), *CPU)
    here.done.clear()
    run("uninstall", RELEASE)
    made = here.done.index(("made", "Job/omnialign-cleanup"))
    assert not [name for what, name in here.done[:made] if what != "made"]
    assert not here.get("Job", "omnialign-cleanup") and not here.get("Role", "omnialign-cleanup")


def test_removal_can_go_without_it(helm: Any) -> None:
    here, run = helm
    run("install", RELEASE, str(CHART), *CPU)
    run("uninstall", RELEASE, "--no-hooks")
    assert not here.get("Deployment", "omnialign-data")
