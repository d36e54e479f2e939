"""The CPU scenario fits on a small node, a training job and a test among its pods."""

import re
from collections import defaultdict

import pytest
import yaml

from tests.chart.rendering import Manifest, component_of, containers, manifests, named, pods

UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
MAX_CORES, MAX_BYTES = 1.5, 12 * 2**30


def amount(quantity: str | int) -> float:
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity))
    assert found, quantity
    return float(found[1]) * UNITS[found[2]]


def requested(scenario: str) -> Manifest:
    """What all pods of a scenario request together: replicas, a training job, the migration and both tests.

    Not the cleanup, which runs when the others end.
    """
    total: dict[str, float] = defaultdict(float)
    replicas = {
        f"{item['kind']}/{item['metadata']['name']}": item["spec"].get("replicas", 1)
        for item in manifests(scenario)
        if "spec" in item
    }
    for where, labels, spec in pods(scenario):
        for container in containers(spec) if component_of(labels) != "cleanup" else ():
            for resource, quantity in container["resources"]["requests"].items():
                total[resource] += amount(quantity) * replicas.get(where, 1)
    config = named(scenario, "ConfigMap", "omnialign-training-jobs")["data"]["settings.yaml"]
    for resource, quantity in yaml.safe_load(config)["resources"]["requests"].items():
        total[resource] += amount(quantity)
    return total


def test_all_pods_of_the_cpu_scenario_fit_on_a_small_node() -> None:
    total = requested("cpu")
    assert total["cpu"] < MAX_CORES
    assert total["memory"] < MAX_BYTES
    assert set(total) == {"cpu", "memory"}


def test_the_cpu_scenario_needs_no_storage_and_no_operators() -> None:
    kinds = {item["kind"] for item in manifests("cpu")}
    assert not kinds & {
        "PersistentVolumeClaim",
        "Certificate",
        "ServiceMonitor",
        "PodMonitor",
        "HorizontalPodAutoscaler",
    }


@pytest.mark.parametrize("component", ["data", "pool-default"])
def test_shared_memory_and_scratch_are_bounded(component: str) -> None:
    (spec,) = [spec for where, _, spec in pods("cpu") if where == f"Deployment/omnialign-{component}"]
    assert all(item["emptyDir"]["sizeLimit"] for item in spec["volumes"] if "emptyDir" in item)
