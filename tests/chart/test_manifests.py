"""Every manifest is valid, and every pod is as restricted as Kubernetes can make it."""

from collections import Counter

import kubernetes_validate
import pytest

from tests.chart import rendering
from tests.chart.rendering import SCENARIOS, Manifest, component_of, containers, manifests, pods

VERSIONS = ("1.33", "1.37")
OTHER_GROUPS = {"monitoring.coreos.com", "cert-manager.io", "keda.sh", "gateway.networking.k8s.io"}
"""Groups of custom resources, whose schemas Kubernetes does not have."""
CLUSTER_WIDE = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
ALLOWED_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
NAME, INSTANCE, COMPONENT = (f"app.kubernetes.io/{part}" for part in ("name", "instance", "component"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kubernetes_takes_every_manifest(scenario: str, version: str) -> None:
    for manifest in manifests(scenario):
        group = manifest["apiVersion"].rpartition("/")[0]
        if group not in OTHER_GROUPS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_custom_resources_are_of_known_groups() -> None:
    groups = {item["apiVersion"].rpartition("/")[0] for scenario in SCENARIOS for item in manifests(scenario)}
    assert {group for group in groups if "." in group and not group.endswith(".k8s.io")} == OTHER_GROUPS - {
        "gateway.networking.k8s.io"
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pods_are_restricted(scenario: str) -> None:
    for where, _, spec in pods(scenario):
        assert violations(spec) == [], where


def violations(spec: Manifest) -> list[str]:
    """What the restricted Pod Security level, and more than it, would complain about."""
    pod = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    found += [f"volume {key}" for item in spec.get("volumes", []) for key in item.keys() - {"name"} - ALLOWED_VOLUMES]
    if not (pod.get("runAsNonRoot") and pod.get("runAsUser", 0) > 0 and pod.get("runAsGroup", 0) > 0):
        found.append("may run as root")
    if pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("seccomp")
    for container in containers(spec):
        wanted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        if container.get("securityContext") != wanted:
            found.append(f"securityContext of {container['name']}")
        found += [f"hostPort {port}" for port in container.get("ports", []) if "hostPort" in port]
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_only_training_and_the_cleanup_after_it_may_talk_to_the_api_server(scenario: str) -> None:
    mounting = [where for where, _, spec in pods(scenario) if spec["automountServiceAccountToken"]]
    assert sorted(where.split("-")[-1] for where in mounting) == ["cleanup", "training"]
    assert not any(account["automountServiceAccountToken"] for account in manifests(scenario, kind="ServiceAccount"))
    bindings = manifests(scenario, kind="RoleBinding")
    subjects = [subject["name"].split("-")[-1] for binding in bindings for subject in binding["subjects"]]
    assert sorted(subjects) == ["cleanup", "training"]
    assert not manifests(scenario, kind="ClusterRole") + manifests(scenario, kind="ClusterRoleBinding")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_containers_ask_for_what_they_need_and_no_more(scenario: str) -> None:
    for where, _, spec in pods(scenario):
        for container in containers(spec):
            for part in ("requests", "limits"):
                assert container["resources"][part].keys() >= {"cpu", "memory"}, (where, part)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_images_are_pinned(scenario: str) -> None:
    for where, _, spec in pods(scenario):
        for container in containers(spec):
            reference, _, digest = container["image"].partition("@")
            tag = reference.rpartition("/")[2].partition(":")[2]
            assert digest or tag not in ("", "latest"), where


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_selectors_are_name_instance_and_component(scenario: str) -> None:
    for kind in ("Deployment", "StatefulSet"):
        for manifest in manifests(scenario, kind=kind):
            selector = manifest["spec"]["selector"]["matchLabels"]
            assert selector.keys() == {NAME, INSTANCE, COMPONENT}
            assert rendering.matches({"matchLabels": selector}, manifest["spec"]["template"]["metadata"]["labels"])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_two_objects_have_one_name(scenario: str) -> None:
    names = Counter((item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in manifests(scenario))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_object_has_labels_and_a_namespace(scenario: str) -> None:
    for item in manifests(scenario):
        if item["kind"] not in CLUSTER_WIDE:
            assert item["metadata"]["namespace"] == rendering.NAMESPACE, item["metadata"]["name"]
        assert item["metadata"]["labels"].keys() >= {NAME, INSTANCE, COMPONENT, "helm.sh/chart"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_pods_refer_to_is_there_or_is_the_operators(scenario: str) -> None:
    """Service accounts, Secrets, ConfigMaps and claims; those of the operator are named in the scenario."""
    made = {(item["kind"], item["metadata"]["name"]) for item in manifests(scenario)}
    made |= {("Secret", item["spec"]["secretName"]) for item in manifests(scenario, kind="Certificate")}
    theirs = rendering.values_file(scenario).read_text()
    for where, _, spec in pods(scenario):
        for kind, name in _references(spec):
            assert (kind, name) in made or name in theirs, (where, kind, name)


def _references(spec: Manifest) -> list[tuple[str, str]]:
    found = [("ServiceAccount", spec["serviceAccountName"])]
    keys = [("secret", "secretName", "Secret"), ("configMap", "name", "ConfigMap")]
    keys.append(("persistentVolumeClaim", "claimName", "PersistentVolumeClaim"))
    for volume in spec.get("volumes", []):
        found += [(kind, volume[key][field]) for key, field, kind in keys if key in volume]
    for container in containers(spec):
        sources = [item["valueFrom"] for item in container.get("env", []) if "valueFrom" in item]
        found += [("Secret", source["secretKeyRef"]["name"]) for source in sources if "secretKeyRef" in source]
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_mounts_and_volumes_belong_together(scenario: str) -> None:
    for where, _, spec in pods(scenario):
        volumes = [item["name"] for item in spec.get("volumes", [])]
        for container in containers(spec):
            mounts = container.get("volumeMounts", [])
            assert len({item["mountPath"] for item in mounts}) == len(mounts), where
            assert sorted(item["name"] for item in mounts) == sorted(volumes), where
            assert "/tmp" in {item["mountPath"] for item in mounts}, where


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_variables_are_given_once(scenario: str) -> None:
    for where, _, spec in pods(scenario):
        for container in containers(spec):
            names = Counter(item["name"] for item in container.get("env", []))
            assert [name for name, count in names.items() if count > 1] == [], where


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_budgets_are_only_for_several_pods(scenario: str) -> None:
    budgets = {
        component_of(item["metadata"]["labels"]): item for item in manifests(scenario, kind="PodDisruptionBudget")
    }
    for component, deployment in rendering.deployments(scenario).items():
        several = deployment["spec"].get("replicas") != 1 and component != "pool-policy"
        assert (component in budgets) == several, component
    assert {item["spec"]["unhealthyPodEvictionPolicy"] for item in budgets.values()} <= {"AlwaysAllow"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_several_pods_are_spread(scenario: str) -> None:
    for deployment in rendering.deployments(scenario).values():
        spread = deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
        several = deployment["spec"].get("replicas") != 1
        assert [item["topologyKey"].rpartition("/")[2] for item in spread] == ["hostname", "zone"] * several


def test_an_autoscaler_owns_the_number_of_pods() -> None:
    assert "replicas" not in rendering.deployments("ha")["data"]["spec"]
    assert "replicas" not in rendering.deployments("gpu")["pool-policy"]["spec"]
    (scaled,) = manifests("gpu", kind="ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == "omnialign-pool-policy"
    assert "omnialign_engine_queue_depth" in scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_gpus_are_requested_and_never_doubled_by_a_rollout() -> None:
    deployment = rendering.deployments("gpu")["pool-policy"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["nvidia.com/gpu"] == container["resources"]["limits"]["nvidia.com/gpu"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_data_outlive_an_uninstallation() -> None:
    kept = [
        item
        for item in manifests("cpu", "--set", "postgresql.bundled.persistence.enabled=true")
        if item["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    ]
    assert {(item["kind"], item["metadata"]["name"]) for item in kept} == {
        ("PersistentVolumeClaim", "omnialign-postgresql"),
        ("Secret", "omnialign-postgresql"),
    }
    assert manifests("gpu", kind="PersistentVolumeClaim")[0]["metadata"]["annotations"] == {
        "helm.sh/resource-policy": "keep"
    }
