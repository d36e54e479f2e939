"""Network policies allow the calls that the code makes, and no others."""

import pytest

from services.pool import HOSTED
from tests.chart import code, rendering
from tests.chart.rendering import SCENARIOS, Manifest, component_of, deployments, manifests, matches, pods

GRPC, HEALTH, METRICS = 50051, 50052, 9090
RELEASE = {"app.kubernetes.io/name": "omnialign", "app.kubernetes.io/instance": "omnialign"}
TRAINER = {**RELEASE, "app.kubernetes.io/component": "trainer"}
TRACING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracing"}}}
STRANGER = {"app": "somebody-else"}


def policies(scenario: str) -> list[Manifest]:
    return [item["spec"] for item in manifests(scenario, kind="NetworkPolicy")]


def allowed(scenario: str, source: Manifest, target: Manifest, port: int) -> bool:
    """Whether a pod may call another of the same namespace: both ends have a say."""
    out = _rules(scenario, source, "egress", "to", target, port)
    return out and _rules(scenario, target, "ingress", "from", source, port)


def _rules(scenario: str, own: Manifest, direction: str, side: str, other: Manifest, port: int) -> bool:
    mine = [item for item in policies(scenario) if matches(item["podSelector"], own)]
    kind = direction.capitalize()
    if not any(kind in item["policyTypes"] for item in mine):
        return True
    return any(
        _fits(rule, side, other, port)
        for item in mine
        if kind in item["policyTypes"]
        for rule in item.get(direction, [])
    )


def _fits(rule: Manifest, side: str, other: Manifest, port: int) -> bool:
    if "ports" in rule and port not in [item["port"] for item in rule["ports"]]:
        return False
    peers = rule.get(side)
    return peers is None or any(matches(peer["podSelector"], other) for peer in peers if "podSelector" in peer)


def labels(scenario: str) -> dict[str, Manifest]:
    """Labels of the pods of each component, training jobs among them."""
    return {**{component_of(found): found for _, found, _ in pods(scenario)}, "trainer": TRAINER}


def calls(scenario: str) -> set[tuple[str, str]]:
    """(caller, callee) by component, as the settings classes tell: whoever asks for an address calls it."""
    hosting = {
        service: [
            name
            for name, item in deployments(scenario).items()
            if f"omnialign.io/{service}" in item["spec"]["template"]["metadata"]["labels"]
        ]
        for service in HOSTED
    }
    found = set()
    for caller in ("alignment", "evaluation", "annotation", "training", "gateway", "console", *HOSTED):
        handed_on = {"refinement", "judge", "critique"} if caller == "training" else set()  # to jobs, which call them
        for callee in code.callees(f"OMNIALIGN_{caller.upper()}_") - {caller} - handed_on:
            found |= {(a, b) for a in hosting.get(caller, [caller]) for b in hosting.get(callee, [callee])}
    pools = {name for names in hosting.values() for name in names}
    found |= {(a, b) for a in hosting["refinement"] for b in hosting["refinement"] if a != b}  # about policies
    return found | {("trainer", callee) for callee in {"data", "training", *pools}}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_exactly_the_calls_of_the_code_are_allowed(scenario: str) -> None:
    known = labels(scenario)
    everyone = set(known) - {"test", "cleanup"}
    may = {(a, b) for a in everyone for b in everyone if a != b and allowed(scenario, known[a], known[b], GRPC)}
    assert may == calls(scenario)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_pod_is_denied_by_default(scenario: str) -> None:
    for where, found, _ in pods(scenario):
        kinds = {
            kind for item in policies(scenario) if matches(item["podSelector"], found) for kind in item["policyTypes"]
        }
        assert kinds == {"Ingress", "Egress"}, where


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_strangers_reach_the_gateway_and_the_console_alone(scenario: str) -> None:
    reached = {
        (component, port)
        for component, found in labels(scenario).items()
        for port in (GRPC, HEALTH, METRICS, 5432, 8333, 29500)
        if _rules(scenario, found, "ingress", "from", STRANGER, port)
    }
    assert reached == ({("gateway", GRPC), ("console", GRPC)} if scenario != "external" else set())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_tests_reach_health_and_the_gateway(scenario: str) -> None:
    known = labels(scenario)
    for component in (*deployments(scenario),):
        assert allowed(scenario, known["test"], known[component], HEALTH)
    assert allowed(scenario, known["test"], known["gateway"], GRPC)


def test_pods_of_a_training_job_reach_each_other_on_any_port() -> None:
    assert all(allowed("minimal", TRAINER, TRAINER, port) for port in (29500, 41234))


@pytest.mark.parametrize(
    ("target", "port", "clients"),
    [
        ("postgresql", 5432, {"data", "alignment", "evaluation", "annotation", "training", "migrate"}),
        ("s3", 8333, {"data"}),
    ],
)
def test_bundled_servers_answer_those_who_need_them(target: str, port: int, clients: set[str]) -> None:
    known = labels("cpu")
    assert {name for name in known if allowed("cpu", known[name], known[target], port)} == clients


def test_external_servers_are_reached_in_their_networks_alone() -> None:
    blocks = {
        (component_of(item["metadata"]["labels"]), rule["ports"][0]["port"], peer["ipBlock"]["cidr"])
        for item in manifests("external", kind="NetworkPolicy")
        for rule in item["spec"].get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer and rule["ports"][0]["port"] not in (53, 443)
    }
    databases = {
        (name, 6432, "10.20.0.0/16")
        for name in ("alignment", "annotation", "data", "evaluation", "migrate", "training")
    }
    assert blocks == {*databases, ("data", 9000, "10.30.0.0/16"), ("pool-default", 8000, "10.40.0.0/16")}


def test_pools_reach_their_endpoints_where_these_lie() -> None:
    policy = rendering.named("external", "NetworkPolicy", "align-pool-default")
    peers = [
        {"ipBlock": {"cidr": "10.40.0.0/16"}},
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "models"}},
            "podSelector": {"matchLabels": {"app": "qwen"}},
        },
    ]
    for port in (443, 8000):
        assert {"ports": [{"port": port}], "to": peers} in policy["spec"]["egress"]


def test_only_pools_with_endpoints_may_leave_for_them() -> None:
    value = "inference.pools.asking.endpoints.urls={http://10.1.2.3:8000/v1}"
    opened = {
        component_of(item["metadata"]["labels"]): rule
        for item in manifests("minimal", "--set", value, kind="NetworkPolicy")
        for rule in item["spec"].get("egress", [])
        if {"port": 8000} in rule.get("ports", [])
    }
    assert opened == {"pool-asking": {"ports": [{"port": 8000}], "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}}


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("http://collector.tracing.svc:4317", TRACING),
        ("http://c.tracing.svc.cluster.local:4317", TRACING),
        ("http://10.1.2.3:4317", {"ipBlock": {"cidr": "10.1.2.3/32"}}),
        ("http://[fd00::1]:4317", {"ipBlock": {"cidr": "fd00::1/128"}}),
    ],
)
def test_an_address_that_says_where_it_is_opens_no_more_than_that(address: str, peer: Manifest) -> None:
    policy = rendering.named("minimal", "NetworkPolicy", "omnialign-data", "--set", f"tracing.endpoint={address}")
    assert {"ports": [{"port": 4317}], "to": [peer]} in policy["spec"]["egress"]


def test_an_address_outside_is_reached_where_the_operator_says() -> None:
    values = "tracing.endpoint=https://traces.example.com:4317,networkPolicy.tracingTo[0].ipBlock.cidr=192.0.2.0/24"
    policy = rendering.named("minimal", "NetworkPolicy", "omnialign-data", "--set", values)
    assert {"ports": [{"port": 4317}], "to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]} in policy["spec"]["egress"]


@pytest.mark.parametrize(("client", "is_open"), [("console", True), ("", False)])
def test_the_console_reaches_the_issuer_if_people_sign_in_there(client: str, is_open: bool) -> None:
    values = f"console.oidc.clientId={client},networkPolicy.oidcTo[0].ipBlock.cidr=192.0.2.0/24"
    policy = rendering.named("external", "NetworkPolicy", "align-console", "--set", values)
    issuer = {"ports": [{"port": 443}], "to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}
    assert (issuer in policy["spec"]["egress"]) == is_open


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_names_are_resolved_by_the_clusters_own_servers(scenario: str) -> None:
    rules = [
        rule
        for item in manifests(scenario, kind="NetworkPolicy")
        for rule in item["spec"].get("egress", [])
        if {"port": 53, "protocol": "UDP"} in rule.get("ports", [])
    ]
    assert rules and all(rule["to"] for rule in rules)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_only_training_and_its_cleanup_reach_the_api_server(scenario: str) -> None:
    reaching = {
        component_of(item["metadata"]["labels"])
        for item in manifests(scenario, kind="NetworkPolicy")
        for rule in item["spec"].get("egress", [])
        if 6443 in [port["port"] for port in rule.get("ports", [])]
    }
    assert reaching == {"training", "cleanup"}


def test_policies_can_be_left_out() -> None:
    assert rendering.manifests("minimal", "--set", "networkPolicy.enabled=false", kind="NetworkPolicy") == []
