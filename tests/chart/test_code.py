"""Ports, probes, names and variables are those of the code, which is asked here and not typed again."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from services import migrate
from services.inference.config import EngineConfig
from services.inference.openai.endpoint import ApiKeys
from services.pool import HOSTED
from services.runtime.config import load_all
from services.runtime.health import LIVENESS
from services.training.kubernetes.settings import read_settings
from tests.chart import code, regenerate, rendering
from tests.chart.rendering import (
    SCENARIOS,
    Manifest,
    component_of,
    containers,
    deployments,
    environment,
    manifests,
    matches,
    named,
    pods,
)

ADDRESS = "dns:///{}.omnialign.svc:50051"
SERVER = "OMNIALIGN_SERVER_"


def program(container: Manifest) -> str:
    return str(container["args"][0])


HOOKS = ("services.migrate", "services.training.kubernetes.cleanup")
"""Programs that run once and serve nothing."""


def is_service(container: Manifest) -> bool:
    return program(container).startswith("services.") and program(container) not in HOOKS


def services(scenario: str) -> list[tuple[str, Manifest, Manifest]]:
    """(component, pod spec, container) of everything that serves gRPC."""
    return [
        (component_of(labels), spec, container)
        for _, labels, spec in pods(scenario)
        for container in containers(spec)
        if is_service(container)
    ]


def full_names() -> dict[str, str]:
    """The services of the contract, by short name."""
    return {name: full for name, full in code.health_names().items() if full.startswith("omnialign.v1.")}


@pytest.fixture
def mounted(tmp_path: Path) -> Any:
    """Puts what a pod mounts into a folder; gives its environment with the paths changed to that folder."""

    def mount(scenario: str, spec: Manifest, container: Manifest) -> dict[str, str]:
        paths = {item["name"]: item["mountPath"] for item in container["volumeMounts"]}
        for volume in spec["volumes"]:
            for name, content in _files(scenario, volume).items():
                target = tmp_path / paths[volume["name"]].lstrip("/") / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content)
        return {
            name: value.replace("/etc/omnialign", f"{tmp_path}/etc/omnialign")
            for name, value in environment(container).items()
        }

    return mount


def _files(scenario: str, volume: Manifest) -> dict[str, str]:
    """The files of a volume. The operator's own Secrets are stood in for by those that the chart makes."""
    if "configMap" in volume:
        return dict(named(scenario, "ConfigMap", volume["configMap"]["name"])["data"])
    if "secret" not in volume:
        return {}
    made = _made()
    items = volume["secret"].get("items")
    names = [item["path"] for item in items] if items else ["tls.crt", "tls.key", "ca.crt"]
    return {name: made[name] for name in names}


def _made() -> dict[str, str]:
    tls, auth = named("cpu", "Secret", "omnialign-tls"), named("cpu", "Secret", "omnialign-auth")
    session = named("cpu", "Secret", "omnialign-console")["stringData"]
    decoded = {key: base64.b64decode(value).decode() for key, value in tls["data"].items()}
    given = {"keys": "https://models.example.com/v1 a-key", "client-secret": "a-secret"}
    return {**decoded, **auth["stringData"], **session, **given}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_service_starts_with_its_environment(scenario: str, mounted: Any) -> None:
    """The classes that the program reads at its start accept what the chart gives, files among it."""
    for component, spec, container in services(scenario):
        variables = mounted(scenario, spec, container)
        prefixes = [
            prefix
            for prefix in code.config_classes()
            if any(name.startswith(prefix) for name in variables) or prefix == f"OMNIALIGN_{component.upper()}_"
        ]
        load_all(*(code.config_classes()[prefix] for prefix in prefixes), environ=variables)


def test_endpoints_and_their_keys_reach_the_engine(mounted: Any) -> None:
    ((_, spec, container),) = [found for found in services("external") if program(found[2]) == "services.pool"]
    (engine,) = load_all(EngineConfig, environ=mounted("external", spec, container))
    assert engine.openai_endpoints == ("https://models.example.com/v1", "http://qwen.models.svc:8000/v1")
    assert engine.openai_concurrency == 16
    assert ApiKeys(engine.openai_keys_file).of("https://models.example.com/v1") == "a-key"


def test_as_many_requests_are_at_an_endpoint_as_without_the_chart() -> None:
    endpoints = yaml.safe_load(regenerate.VALUES.read_text())["inference"]["defaults"]["endpoints"]
    assert endpoints["concurrency"] == EngineConfig().openai_concurrency


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_variable_is_somebodys(scenario: str) -> None:
    known = {variable for prefix in code.config_classes() for variable in code.variables(prefix).values()}
    known |= {*migrate.VARIABLES, *migrate.WORKFLOWS}
    for where, _, spec in pods(scenario):
        for container in containers(spec):
            ours = {name for name in environment(container) if name.startswith("OMNIALIGN_")}
            client = {"OMNIALIGN_ADDRESS", "OMNIALIGN_TOKEN_FILE", "OMNIALIGN_CA_FILE"} if "Pod/" in where else set()
            assert ours <= known | client, where


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ports_are_those_that_the_server_listens_on(scenario: str) -> None:
    for component, _, container in services(scenario):
        variables = environment(container)
        ports = {item["name"]: str(item["containerPort"]) for item in container["ports"]}
        assert ports == {
            ("http" if component == "console" else "grpc"): variables[SERVER + "PORT"],
            "health": variables[SERVER + "HEALTH_PORT"],
            "metrics": variables[SERVER + "METRICS_PORT"],
        }, component
        assert variables[SERVER + "HOST"] == "0.0.0.0"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_probes_ask_for_names_that_the_server_knows(scenario: str) -> None:
    known = code.health_names()
    for component, _, container in services(scenario):
        hosted = environment(container).get("OMNIALIGN_POOL_SERVICES", component).split(",")
        assert container["readinessProbe"]["grpc"]["service"] == (known[hosted[0]] if len(hosted) == 1 else "")
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["grpc"]["service"] == LIVENESS
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert str(container[probe]["grpc"]["port"]) == environment(container)[SERVER + "HEALTH_PORT"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pods_get_the_time_that_the_server_takes_to_end(scenario: str) -> None:
    for component, spec, container in services(scenario):
        variables = environment(container)
        budget = float(variables[SERVER + "DRAIN_SECONDS"]) + float(variables[SERVER + "GRACE_SECONDS"]) + 10
        assert spec["terminationGracePeriodSeconds"] == budget, component


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_service_of_the_contract_is_reached_through_a_service_object(scenario: str) -> None:
    """Its pods are selected, and they host it, on the port that the addresses name."""
    for short in full_names():
        found = [item for item in manifests(scenario, kind="Service") if _serves(item, short)]
        assert len(found) == 1, short
        selector = {"matchLabels": found[0]["spec"]["selector"]}
        hosts = [
            container
            for item in manifests(scenario, kind="Deployment")
            if matches(selector, item["spec"]["template"]["metadata"]["labels"])
            for container in containers(item["spec"]["template"]["spec"])
        ]
        assert hosts, short
        for container in hosts:
            hosted = environment(container).get("OMNIALIGN_POOL_SERVICES")
            assert short in hosted.split(",") if hosted else program(container) == f"services.{short}"
        port = next(item for item in found[0]["spec"]["ports"] if item["name"] == "grpc")
        assert (port["port"], port["targetPort"]) == (50051, "grpc")


def _serves(item: Manifest, short: str) -> bool:
    return str(item["metadata"]["name"]).rpartition("omnialign-")[2].rpartition("align-")[2] in (
        short,
        f"{short}-headless",
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_addresses_lead_to_the_service_they_are_for(scenario: str) -> None:
    objects = {ADDRESS.format(item["metadata"]["name"]): item for item in manifests(scenario, kind="Service")}
    for component, _, container in services(scenario):
        for name, value in environment(container).items():
            if name.endswith("_ADDRESS"):
                wanted = name.removesuffix("_ADDRESS").rpartition("_")[2].lower()
                assert value in objects, (component, name)
                assert component_of(objects[value]["metadata"]["labels"]) == wanted, (component, name)


def test_clients_balance_over_the_pods_of_services_with_several() -> None:
    for name in ("data", *HOSTED):
        assert named("ha", "Service", f"omnialign-{name}-headless")["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_migration_knows_every_database(scenario: str) -> None:
    (container,) = [c for _, _, spec in pods(scenario) for c in containers(spec) if program(c) == "services.migrate"]
    given = {name for name in environment(container) if name.startswith("OMNIALIGN_")}
    assert given == {*migrate.VARIABLES, *migrate.WORKFLOWS}
    urls = {environment(container)[name] for name in given}
    for _, _, service in services(scenario):
        urls |= {value for name, value in environment(service).items() if name.endswith("DATABASE_URL")}
    assert len(urls) == 1


def migration(scenario: str, *arguments: str) -> Manifest:
    made = manifests(scenario, *arguments, kind="Job")
    (found,) = [item for item in made if component_of(item["metadata"]["labels"]) == "migrate"]
    return found


def test_the_migration_runs_first_where_there_is_a_database() -> None:
    external = migration("external")
    assert external["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    bundled = migration("cpu")
    assert "annotations" not in bundled["metadata"]
    changed = migration("cpu", "--set", "images.service.tag=0.2.0")
    assert changed["metadata"]["name"] != bundled["metadata"]["name"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_settings_of_training_jobs_are_those_that_the_service_reads(scenario: str, tmp_path: Path) -> None:
    (config,) = [item for item in manifests(scenario, kind="ConfigMap") if item["metadata"]["name"].endswith("-jobs")]
    file = tmp_path / "settings.yaml"
    file.write_text(config["data"]["settings.yaml"])
    settings = read_settings(file)
    accounts = {item["metadata"]["name"] for item in manifests(scenario, kind="ServiceAccount")}
    assert settings.service_account_name in accounts
    assert settings.instance == rendering.RELEASE
    assert settings.resources.limits.keys() >= {"cpu", "memory"}
    spec = deployments(scenario)["training"]["spec"]["template"]["spec"]
    secrets = {item["name"]: item["secret"]["secretName"] for item in spec["volumes"] if "secret" in item}
    assert settings.tls.secret_name == secrets["tls"]


def test_settings_of_training_jobs_reach_the_service() -> None:
    config = named("gpu", "ConfigMap", "omnialign-training-jobs")
    settings = yaml.safe_load(config["data"]["settings.yaml"])
    assert (settings["gpus"], settings["queue"], settings["shmBytes"]) == (8, "training", 64 * 2**30)
    assert settings["image"] == "omnialign/trainer:0.1.0-cuda"


def test_training_is_never_doubled() -> None:
    spec = deployments("ha")["training"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_tests_ask_every_service_for_its_health() -> None:
    arguments = named("gpu", "Pod", "omnialign-test-health")["spec"]["containers"][0]["args"]
    compile(arguments[0], "health.py", "exec")
    asked = {pair.partition("=")[2] for pair in arguments[2:]}
    assert asked == {*full_names().values(), code.health_names()["gateway"], code.health_names()["console"]}
    hosts = {pair.partition("=")[0] for pair in arguments[2:]}
    assert hosts <= {item["metadata"]["name"] for item in manifests("gpu", kind="Service")}
