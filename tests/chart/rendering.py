"""What Helm renders from the chart, as parsed manifests, with helpers to look into them."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "omnialign"
GOLDEN = Path(__file__).parent / "golden"
SCENARIOS = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
RELEASE = NAMESPACE = "omnialign"
TIMEOUT_SECONDS = 60
SERVICES = (
    "data",
    "alignment",
    "evaluation",
    "annotation",
    "training",
    "gateway",
    "console",
    "critique",
    "refinement",
    "judge",
)

Manifest = dict[str, Any]

# The C loader is ten times as fast, which counts for the dashboards.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def helm_program() -> str:
    """The Helm of this environment, or one on the path. Raises FileNotFoundError with what to do."""
    beside = Path(sys.executable).parent / "helm"
    found = str(beside) if beside.is_file() else shutil.which("helm")
    if not found:
        raise FileNotFoundError("helm is missing: run `python tools/fetch_helm.py`")
    return found


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Helm; never fails by itself."""
    command = [helm_program(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)


def values_file(scenario: str) -> Path:
    """The values of a scenario."""
    return CHART / "ci" / f"{scenario}.yaml"


def template(scenario: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`helm template` of a scenario; never fails by itself."""
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "-f", str(values_file(scenario)), *arguments)


@functools.lru_cache(maxsize=64)
def text_of(scenario: str, *arguments: str) -> str:
    """What Helm renders, as it is. Fails with Helm's message."""
    done = template(scenario, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.lru_cache(maxsize=64)
def _manifests(scenario: str, *arguments: str) -> list[Manifest]:
    return [found for found in yaml.load_all(text_of(scenario, *arguments), Loader=_Loader) if found]


def manifests(scenario: str, *arguments: str, kind: str = "") -> list[Manifest]:
    """All manifests of a scenario, or those of a kind."""
    return [found for found in _manifests(scenario, *arguments) if not kind or found["kind"] == kind]


def named(scenario: str, kind: str, name: str, *arguments: str) -> Manifest:
    """The one manifest of a kind and a name."""
    (found,) = [item for item in manifests(scenario, *arguments, kind=kind) if item["metadata"]["name"] == name]
    return found


def pods(scenario: str, *arguments: str) -> Iterator[tuple[str, Manifest, Manifest]]:
    """(kind/name, labels, pod spec) of everything that creates pods, including tests."""
    for manifest in manifests(scenario, *arguments):
        where = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "Pod":
            yield where, manifest["metadata"]["labels"], manifest["spec"]
        elif template_of := manifest.get("spec", {}).get("template", {}).get("spec"):
            yield where, manifest["spec"]["template"]["metadata"]["labels"], template_of


def containers(spec: Manifest) -> Iterator[Manifest]:
    """All containers of a pod, including init containers."""
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


def environment(container: Manifest) -> dict[str, str]:
    """The variables of a container; a placeholder stands for values from elsewhere."""
    return {variable["name"]: variable.get("value", "from-elsewhere") for variable in container.get("env", [])}


def component_of(labels: Manifest) -> str:
    """The component of pods with these labels."""
    return str(labels["app.kubernetes.io/component"])


def deployments(scenario: str) -> dict[str, Manifest]:
    """The Deployments of a scenario by component."""
    return {component_of(found["metadata"]["labels"]): found for found in manifests(scenario, kind="Deployment")}


def matches(selector: Manifest, labels: Manifest) -> bool:
    """Whether a label selector matches these labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", rule
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True
