"""The pods that the training service makes of the chart's settings fit into what the chart makes around them."""

import re
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.kubernetes import manifests as launcher
from services.training.kubernetes.settings import parse_settings
from tests.chart.rendering import SCENARIOS, Manifest, containers, deployments, environment, manifests, matches, named
from tests.chart.test_manifests import VERSIONS, violations

JOB = TrainingJob(name="projects/default/trainingJobs/demo", uid="0f0e0d0c-0b0a-0908-0706-050403020100")


@cache
def plan(scenario: str) -> launcher.Plan:
    """What the training service of a scenario would start."""
    (config,) = [item for item in manifests(scenario, kind="ConfigMap") if item["metadata"]["name"].endswith("-jobs")]
    (container,) = containers(deployments(scenario)["training"]["spec"]["template"]["spec"])
    variables = environment(container)
    return launcher.Plan(
        settings=parse_settings(yaml.safe_load(config["data"]["settings.yaml"])),
        job=JOB,
        attempt=1,
        token="token",
        addresses={
            f"{name}_address": variables[f"OMNIALIGN_TRAINING_{name.upper()}_ADDRESS"]
            for name in ("data", "training", "refinement", "judge")
        },
        step_timeout_seconds=60.0,
        metrics_port=int(variables["OMNIALIGN_TRAINING_METRICS_PORT"]),
    )


def made(scenario: str) -> Manifest:
    job = launcher.job_manifest(plan(scenario))
    return {**job, "metadata": {**job["metadata"], "namespace": "omnialign"}}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kubernetes_takes_the_job(scenario: str, version: str) -> None:
    kubernetes_validate.validate(made(scenario), version, strict=True)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pods_of_jobs_are_restricted_and_bounded(scenario: str) -> None:
    spec = made(scenario)["spec"]["template"]["spec"]
    assert violations(spec) == []
    assert not spec["automountServiceAccountToken"]
    for container in containers(spec):
        assert all(container["resources"][part].keys() >= {"cpu", "memory"} for part in ("requests", "limits"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pods_of_jobs_show_the_certificate_that_services_want(scenario: str) -> None:
    spec = made(scenario)["spec"]["template"]["spec"]
    service = deployments(scenario)["data"]["spec"]["template"]["spec"]
    secrets = [
        {item["name"]: item["secret"]["secretName"] for item in pod["volumes"] if "secret" in item}
        for pod in (spec, service)
    ]
    assert secrets[0]["tls"] == secrets[1]["tls"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_policies_select_the_pods_of_jobs(scenario: str) -> None:
    labels = made(scenario)["spec"]["template"]["metadata"]["labels"]
    selecting = [
        item["metadata"]["name"]
        for item in manifests(scenario, kind="NetworkPolicy")
        if matches(item["spec"]["podSelector"], labels)
    ]
    assert sorted(name.partition("-")[2] for name in selecting) == ["default-deny", "trainer"]


def test_prometheus_finds_the_pods_of_jobs() -> None:
    template = made("gpu")["spec"]["template"]
    (monitor,) = [
        item
        for item in manifests("gpu", kind="PodMonitor")
        if matches(item["spec"]["selector"], template["metadata"]["labels"])
    ]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (container,) = containers(template["spec"])
    assert endpoint["port"] in [port["name"] for port in container["ports"]]
    (source,) = next(
        rule["sourceLabels"] for rule in endpoint["relabelings"] if rule.get("targetLabel") == "training_job"
    )
    label = launcher.JOB_LABEL.replace("/", "_").replace(".", "_").replace("-", "_")
    assert source == f"__meta_kubernetes_pod_label_{label}"


def test_the_service_may_do_what_its_client_does_and_no_more() -> None:
    role = named("minimal", "Role", "omnialign-training")
    rights = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    text = "\n".join(path.read_text() for path in Path(launcher.__file__).parent.glob("*.py"))
    used = {
        (kind, verb)
        for verb, kind in re.findall(
            r"\w\.(create|get|list|patch|delete)\(\s*\"(jobs|pods|secrets|services|events)\"", text
        )
    }
    used |= {(kind, verb) for kind in ("jobs", "pods") for verb in ("list", "watch")}  # the mirrors
    assert used <= rights
    owned = {("secrets", "create"), ("services", "create"), ("jobs/finalizers", "update")}
    assert rights - used <= owned | {("pods", "get"), ("pods/log", "get")}
