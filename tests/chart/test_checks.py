"""An installation that cannot work is refused before anything is made, with a sentence for each reason."""

import base64
import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from tests.chart import rendering
from tests.chart.api_server import Object, cluster

Render = Callable[..., Any]
SERVER = ("--dry-run=server", "--disable-openapi-validation")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": rendering.NAMESPACE},
        "data": {key.replace("_", "-"): encoded(value) for key, value in data.items()},
    }


def node(**allocatable: str) -> Object:
    resources = {key.replace("__", "/").replace("_", "."): value for key, value in allocatable.items()}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": resources}}


def storage_class(name: str, *, default: bool) -> Object:
    notes = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name, "annotations": notes}}


@pytest.fixture
def render(tmp_path: Path) -> Render:
    """Renders a scenario as `helm install` would in a cluster with these objects."""

    def render_in(
        scenario: str, *arguments: str, objects: Sequence[Object] = (), more: dict[str, dict[str, bool]] | None = None
    ) -> Any:
        with cluster(tmp_path, objects, more) as here:
            return rendering.template(scenario, *SERVER, "--kubeconfig", here.kubeconfig, *arguments)

    return render_in


def problems(done: Any) -> list[str]:
    assert done.returncode != 0
    return [line.removeprefix("  - ") for line in done.stderr.splitlines() if line.startswith("  - ")]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("postgresql.host=", "There is no database"),
        ("postgresql.existingSecret=", "The database has no credentials"),
        ("postgresql.sslMode=verify-ca", "There is no authority to check the database with"),
        ("gateway.service.nodeAddresses={192.0.2.1}", "`gateway.service.nodeAddresses` are of a NodePort"),
        ("s3.bucket=", "There is no object store"),
        ("s3.existingSecret=", "The object store has no credentials"),
        ("tls.existingSecret=", "There is no certificate"),
        ("tls.source=certManager", "cert-manager needs to know who signs"),
        ("tls.source=none", "Tokens would travel in the clear"),
        ("auth.existingSecret=", "There are no tokens"),
        ("auth.oidc.issuer=https://login.example.com", "An OIDC issuer needs an audience"),
        ("inference.pools.default.services={judge}", "No pool hosts critique"),
        ("inference.pools.default=null", "No pool hosts judge"),
        ("gateway.ingress.enabled=true", "The Ingress has no host"),
        ("gateway.grpcRoute.enabled=true", "The GRPCRoute has no gateway"),
        ("console.ingress.enabled=true", "The console's Ingress has no host"),
        ("console.httpRoute.enabled=true", "The HTTPRoute has no gateway"),
        ("console.replicas=2", "nothing that seals sessions"),
        ("console.oidc.clientId=console", "an issuer that there is not"),
        ("inference.defaults.endpoints.keysSecret.name=keys", "The pool `default` has keys and no endpoints"),
        ("inference.defaults.autoscaling.enabled=true", "is scaled by KEDA: set its `autoscaling.prometheusAddress`"),
    ],
)
def test_values_that_leave_something_out(value: str, sentence: str) -> None:
    assert any(sentence in problem for problem in problems(rendering.template("minimal", "--set", value)))


def test_all_problems_are_told_at_once() -> None:
    done = rendering.template("minimal", "--set", "postgresql.host=,s3.bucket=,tls.existingSecret=")
    assert len(problems(done)) == 3


def test_several_pods_share_no_volume_of_one_node() -> None:
    done = rendering.template(
        "minimal", "--set", "inference.defaults.modelCache.persistent=true,inference.defaults.replicas=2"
    )
    assert "ReadWriteMany" in problems(done)[0]


def test_secrets_that_are_missing_or_lack_a_key(render: Render) -> None:
    there = [
        secret("omnialign-postgresql", username="u"),
        secret("omnialign-s3", access_key_id="a", secret_access_key="b"),
        secret("omnialign-auth", service_token="a", job_key="b"),
    ]
    assert problems(render("minimal", objects=there)) == [
        "The Secret `omnialign-postgresql` has no key `password`.",
        "There is no Secret `omnialign-tls` in the namespace `omnialign`: "
        "make it, with the keys tls.crt, tls.key, ca.crt.",
        "The Secret `omnialign-auth` has no key `tokens.yaml`.",
    ]


def test_a_secret_that_several_pools_name_is_asked_for_once(render: Render) -> None:
    endpoints = (
        "inference.defaults.endpoints.urls={https://a.example.com/v1},inference.defaults.endpoints.keysSecret.name"
    )
    pools = ("--set", f"{endpoints}=keys,inference.pools.second.services={{judge}}")
    assert problems(render("cpu", *pools)) == [
        "There is no Secret `keys` in the namespace `omnialign`: make it, with the keys keys."
    ]


def test_a_cluster_with_nothing_installed_takes_the_cpu_scenario(render: Render) -> None:
    assert render("cpu", objects=[node(cpu="2", memory="24Gi")]).returncode == 0


def test_storage_classes(render: Render) -> None:
    persistent = ("--set", "postgresql.bundled.persistence.enabled=true")
    (problem,) = problems(render("cpu", *persistent))
    assert (
        "no default storage class: set `postgresql.bundled.persistence.storageClassName`, or its `enabled`" in problem
    )
    assert render("cpu", *persistent, objects=[storage_class("fast", default=True)]).returncode == 0
    chosen = (*persistent, "--set", "postgresql.bundled.persistence.storageClassName=slow")
    (problem,) = problems(render("cpu", *chosen, objects=[storage_class("fast", default=True)]))
    assert problem.endswith("of fast.")


def test_gpus_that_no_node_has(render: Render) -> None:
    asking = ("--set", "training.jobs.gpus=1", "--set", "checks.secrets=false")
    (problem,) = problems(render("cpu", *asking, objects=[node(cpu="2", nvidia_com__gpu="0")]))
    assert "No node has `nvidia.com/gpu`, which `training.jobs` asks for" in problem
    assert render("cpu", *asking, objects=[node(nvidia_com__gpu="8")]).returncode == 0
    assert render("cpu", *asking, "--set", "checks.cluster=false").returncode == 0


def test_kinds_that_are_switched_on_and_not_there(render: Render) -> None:
    asking = ("--set", "monitoring.podMonitor.enabled=true")
    (problem,) = problems(render("cpu", *asking))
    assert "`monitoring.podMonitor.enabled` needs monitoring.coreos.com/v1/PodMonitor" in problem
    assert render("cpu", *asking, more={"monitoring.coreos.com/v1": {"PodMonitor": True}}).returncode == 0


def test_nothing_is_asked_without_a_cluster() -> None:
    assert rendering.template("gpu").returncode == 0


def installed(done: Any) -> dict[tuple[str, str], Object]:
    assert done.returncode == 0, done.stderr
    found = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
    return {(item["kind"], item["metadata"]["name"]): item for item in found if item}


def as_stored(item: Object) -> Object:
    """A Secret as the API server keeps it."""
    data = {**item.get("data", {}), **{key: encoded(value) for key, value in item.get("stringData", {}).items()}}
    return {**{key: value for key, value in item.items() if key != "stringData"}, "data": data}


def test_an_upgrade_keeps_every_made_secret(render: Render) -> None:
    first = installed(render("cpu"))
    stored = [as_stored(item) for (kind, _), item in first.items() if kind == "Secret"]
    again = installed(render("cpu", "--is-upgrade", objects=stored))
    secrets = {name for kind, name in first if kind == "Secret"}
    assert len(secrets) == 6
    for name in secrets:
        assert as_stored(again["Secret", name])["data"] == as_stored(first["Secret", name])["data"], name


def test_other_names_make_another_certificate(render: Render) -> None:
    first = installed(render("cpu"))
    stored = [as_stored(first["Secret", "omnialign-tls"])]
    again = installed(render("cpu", "--is-upgrade", "--set", "tls.extraNames={align.example.com}", objects=stored))
    assert again["Secret", "omnialign-tls"]["data"] != first["Secret", "omnialign-tls"]["data"]
    pod = again["Deployment", "omnialign-data"]["spec"]["template"]["metadata"]["annotations"]
    assert pod != first["Deployment", "omnialign-data"]["spec"]["template"]["metadata"]["annotations"]


def test_an_upgrade_migrates_the_bundled_database_first(render: Render) -> None:
    first = installed(render("cpu"))
    database = {**first["StatefulSet", "omnialign-postgresql"]}
    jobs = {
        name: item
        for (kind, name), item in installed(render("cpu", "--is-upgrade", objects=[database])).items()
        if kind == "Job"
    }
    assert jobs["omnialign-migrate"]["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_a_database_that_an_upgrade_brings_along_is_migrated_beside_it(render: Render) -> None:
    upgraded = installed(render("cpu", "--is-upgrade"))
    (job,) = [item for (kind, name), item in upgraded.items() if kind == "Job" and "-migrate" in name]
    assert "annotations" not in job["metadata"]


def test_notes_tell_the_next_command(render: Render, tmp_path: Path) -> None:
    with cluster(tmp_path) as here:
        done = rendering.helm(
            *("install", rendering.RELEASE, str(rendering.CHART), "-n", rendering.NAMESPACE, *SERVER),
            *("-f", str(rendering.values_file("cpu")), "--kubeconfig", here.kubeconfig),
        )
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert "omnialign-auth-admin" in notes
    assert "omnialign-tls" in notes
    assert "helm test omnialign --namespace omnialign" in notes
    assert "port-forward service/omnialign-gateway" in notes
    assert "port-forward service/omnialign-console 8443:443" in notes
    assert "ADDRESS=localhost:50051" in notes and "--address $ADDRESS" in notes


def test_notes_name_a_node_that_the_certificate_names(render: Render, tmp_path: Path) -> None:
    node_address = ("--set", "gateway.service.nodeAddresses={192.0.2.10}")
    with cluster(tmp_path) as here:
        done = rendering.helm(
            *("install", rendering.RELEASE, str(rendering.CHART), "-n", rendering.NAMESPACE, *SERVER),
            *("-f", str(rendering.values_file("cpu")), "--kubeconfig", here.kubeconfig, *node_address),
        )
    assert "export ADDRESS=192.0.2.10:$(kubectl" in done.stdout.split("NOTES:")[1]
    (secret_of,) = [
        item
        for item in rendering.manifests("cpu", *node_address, kind="Secret")
        if item["metadata"]["name"] == "omnialign-tls"
    ]
    certificate = x509.load_pem_x509_certificate(base64.b64decode(secret_of["data"]["tls.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("192.0.2.10") in names.get_values_for_type(x509.IPAddress)
