"""What the admission policy lets the training service make: the objects of its jobs, and nothing that reaches further.

The expressions run in a CEL interpreter; the objects are those that the launcher makes.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from services.training.kubernetes import manifests as launcher
from tests.chart.rendering import SCENARIOS, Manifest, manifests, named, template
from tests.chart.test_training_jobs import made, plan

cel = pytest.importorskip("cel")


def refusals(scenario: str, item: Manifest) -> list[str]:
    """The messages of the validations that refuse an object."""
    (policy,) = manifests(scenario, kind="ValidatingAdmissionPolicy")
    item = {"apiVersion": "v1", **item}
    variables: dict[str, Any] = {}
    for variable in policy["spec"]["variables"]:
        variables[variable["name"]] = cel.evaluate(variable["expression"], {"object": item})
    given = {"object": item, "variables": variables}
    return [v["message"] for v in policy["spec"]["validations"] if not cel.evaluate(v["expression"], given)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_everything_that_the_launcher_makes_is_allowed(scenario: str) -> None:
    owner = {"metadata": {"uid": "u"}}
    objects = [
        launcher.job_manifest(plan(scenario)),
        launcher.secret_manifest(plan(scenario), owner=owner),
        launcher.service_manifest(plan(scenario), owner=owner),
    ]
    assert [refusals(scenario, item) for item in objects] == [[], [], []]


def mount(secret: str) -> Callable[[Manifest], None]:
    def change(pod: Manifest) -> None:
        pod["volumes"].append({"name": "x", "secret": {"secretName": secret}})

    return change


def add_volume(**source: Any) -> Callable[[Manifest], None]:
    return lambda pod: pod["volumes"].append({"name": "x", **source})


def read_into_environment(pod: Manifest) -> None:
    source = {"secretKeyRef": {"name": "omnialign-auth", "key": "job-key"}}
    pod["containers"][0]["env"].append({"name": "STOLEN", "valueFrom": source})


@pytest.mark.parametrize(
    "change",
    [
        mount("omnialign-auth"),
        mount("omnialign-postgresql"),
        add_volume(projected={"sources": [{"secret": {"name": "omnialign-auth"}}]}),
        add_volume(projected={"sources": [{"serviceAccountToken": {"path": "token"}}]}),
        add_volume(hostPath={"path": "/"}),
        add_volume(persistentVolumeClaim={"claimName": "omnialign-postgresql"}),
        read_into_environment,
        lambda pod: pod["containers"][0].update(envFrom=[{"secretRef": {"name": "omnialign-auth"}}]),
        lambda pod: pod["containers"][0].update(image="attacker/image"),
        lambda pod: pod.update(initContainers=[copy.deepcopy(pod["containers"][0])]),
        lambda pod: pod.update(serviceAccountName="omnialign-training"),
        lambda pod: pod.update(automountServiceAccountToken=True),
        lambda pod: pod.update(imagePullSecrets=[{"name": "omnialign-auth"}]),
        lambda pod: pod.update(hostNetwork=True),
    ],
)
def test_a_job_that_reaches_for_more_is_refused(change: Callable[[Manifest], None]) -> None:
    job = copy.deepcopy(made("minimal"))
    change(job["spec"]["template"]["spec"])
    assert refusals("minimal", job)


def test_names_of_other_objects_and_tokens_of_other_accounts_are_refused() -> None:
    job = copy.deepcopy(made("minimal"))
    job["metadata"]["name"] = "omnialign-auth"  # a Job mounts the Secret of its own name
    assert refusals("minimal", job)
    secret = {"kind": "Secret", "metadata": {"name": "train-0f-1"}, "type": "kubernetes.io/service-account-token"}
    assert refusals("minimal", secret)
    service = {"kind": "Service", "metadata": {"name": "train-0f-1"}, "spec": {"clusterIP": "10.0.0.1"}}
    assert refusals("minimal", service)


def test_the_policy_holds_for_the_training_service_of_this_release_alone() -> None:
    (policy,) = manifests("external", kind="ValidatingAdmissionPolicy")
    (condition,) = policy["spec"]["matchConditions"]
    name = "system:serviceaccount:omnialign:align-training"
    assert named("external", "ServiceAccount", "align-training")
    for user, matches in ((name, True), ("system:serviceaccount:omnialign:align-data", False)):
        request = {"userInfo": {"username": user}}
        assert cel.evaluate(condition["expression"], {"request": request}) is matches


def test_whoever_may_make_no_policy_can_leave_it_out() -> None:
    done = template("minimal", "--set", "admissionPolicy.enabled=false")
    assert done.returncode == 0 and "ValidatingAdmissionPolicy" not in done.stdout
