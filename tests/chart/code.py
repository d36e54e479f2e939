"""What the chart must agree with, read from the code: settings classes, health names, who calls whom."""

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from services.runtime import limits
from services.training.kubernetes.settings import KubernetesSettings, key_of
from tests.chart.rendering import ROOT

Schema = dict[str, Any]

SETTINGS = {
    "dataSettings": "OMNIALIGN_DATA_",
    "alignmentSettings": "OMNIALIGN_ALIGNMENT_",
    "evaluationSettings": "OMNIALIGN_EVALUATION_",
    "annotationSettings": "OMNIALIGN_ANNOTATION_",
    "trainingSettings": "OMNIALIGN_TRAINING_",
    "gatewaySettings": "OMNIALIGN_GATEWAY_",
    "consoleSettings": "OMNIALIGN_CONSOLE_",
    "engineSettings": "OMNIALIGN_ENGINE_",
    "critiqueSettings": "OMNIALIGN_CRITIQUE_",
    "refinementSettings": "OMNIALIGN_REFINEMENT_",
    "judgeSettings": "OMNIALIGN_JUDGE_",
}
"""The free settings in the values, by their name in the schema."""

OWNED = {
    "OMNIALIGN_DATA_": r"root|database_url|objects_url|s3_(?!.*seconds).*|import_roots",
    "OMNIALIGN_ALIGNMENT_": r"root|.*_address|(workflow_)?database_url|executor_id|token",
    "OMNIALIGN_EVALUATION_": r"root|.*_address|(workflow_)?database_url|executor_id|token",
    "OMNIALIGN_ANNOTATION_": r"root|.*_address|(workflow_)?database_url|executor_id|token|draft_.*|chunks_per_job",
    "OMNIALIGN_TRAINING_": r"root|.*_address|database_url|launcher|kubernetes_file|command|num_cpus|python|metrics_.*",
    "OMNIALIGN_GATEWAY_": r".*_address",
    "OMNIALIGN_CONSOLE_": r".*_address|sign_in|hosts|https|session_key_file|oidc_.*",
    "OMNIALIGN_ENGINE_": r"(model|feature)_cache(_bytes)?|model_roots|openai_(endpoints|keys_file|concurrency)",
    "OMNIALIGN_CRITIQUE_": r".*_address",
    "OMNIALIGN_REFINEMENT_": r".*_address",
    "OMNIALIGN_JUDGE_": r".*_address",
}
"""Settings that the chart decides, or that mean nothing in a cluster; all others may be given as values."""

OWNED_JOBS = {"image", "image_pull_policy", "image_pull_secrets", "namespace", "kubeconfig", "instance"} | {
    "service_account_name",
    "tls",
    "run_as_user",
}
"""Settings of training jobs that the chart decides."""


@functools.cache
def config_classes() -> dict[str, type[Any]]:
    """Every class that reads the environment, by its prefix: whatever module has an `ENV_PREFIX`."""
    found: dict[str, type[Any]] = {}
    for path in sorted((ROOT / "services").rglob("*.py")):
        if "ENV_PREFIX: ClassVar" not in path.read_text():
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and "ENV_PREFIX" in vars(cls):
                found[cls.ENV_PREFIX] = cls  # type: ignore[attr-defined]
    return found


def variables(prefix: str) -> dict[str, str]:
    """The variables of a class by field."""
    return {item.name: prefix + item.name.upper() for item in dataclasses.fields(config_classes()[prefix]) if item.init}


def callees(prefix: str) -> set[str]:
    """The services whose address a class asks for."""
    return {name.removesuffix("_address") for name in variables(prefix) if name.endswith("_address")}


def health_names() -> dict[str, str]:
    """The health name of each service by its short name, as its `__main__` gives it to the server."""
    names = {}
    for path in sorted((ROOT / "services").glob("*/__main__.py")):
        module = importlib.import_module(f"services.{path.parent.name}.__main__")
        names[path.parent.name] = str(module.FULL_NAME)
    return names


def settings_schema(prefix: str) -> Schema:
    """What `settings` of a class may hold, as JSON schema."""
    cls = config_classes()[prefix]
    hints, prose = typing.get_type_hints(cls), _prose(cls)
    properties = {
        item.name.upper(): {**_json_type(hints[item.name]), "description": prose.get(item.name, "")}
        for item in dataclasses.fields(cls)
        if item.init and not re.fullmatch(OWNED[prefix], item.name)
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def jobs_schema() -> Schema:
    """What `training.jobs` may hold, as JSON schema."""
    return _settings(KubernetesSettings, skip=OWNED_JOBS)


def quota_schema() -> Schema:
    """What a project's quotas may hold, as JSON schema."""
    properties = {kind: {"type": "integer", "minimum": 0} for kind in typing.get_args(limits.Kind)}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _settings(cls: type[Any], *, skip: set[str] = frozenset()) -> Schema:  # type: ignore[assignment]
    hints, prose = typing.get_type_hints(cls), _prose(cls)
    properties = {}
    for item in dataclasses.fields(cls):
        if item.name not in skip:
            found = _job_type(item.name, hints[item.name])
            properties[key_of(item.name)] = {**found, "description": prose.get(item.name, "")}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _job_type(name: str, hint: Any) -> Schema:
    if name in ("resources", "tolerations", "affinity"):
        return {"$ref": f"#/$defs/{name}"}
    if dataclasses.is_dataclass(hint):
        return _settings(typing.cast(type[Any], hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return {"$ref": "#/$defs/stringMap"} if arguments[1] is str else {"type": "object"}
    if origin is tuple:
        return {"type": "array", "items": {"type": "string" if arguments[0] is str else "object"}}
    return {**_json_type(hint), **({"minimum": 0} if hint is int else {})}


def _json_type(hint: Any) -> Schema:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _json_type(next(argument for argument in arguments if argument is not type(None)))
    if origin is Literal:
        return {"enum": list(arguments)}
    return {"type": {int: "integer", float: "number", bool: "boolean"}.get(hint, "string")}


def _prose(cls: type[Any]) -> Mapping[str, str]:
    """The docstrings below the fields of a class and of those it extends."""
    return {name: text for base in reversed(cls.__mro__) if base is not object for name, text in _own_prose(base)}


def _own_prose(cls: type[Any]) -> Iterator[tuple[str, str]]:
    tree = ast.parse(Path(inspect.getfile(cls)).read_text())
    (node,) = (item for item in ast.walk(tree) if isinstance(item, ast.ClassDef) and item.name == cls.__name__)
    for before, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield typing.cast(ast.Name, before.target).id, " ".join(str(after.value.value).split())
