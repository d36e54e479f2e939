"""Values: a key that the chart does not know is refused at every level, and every key it knows has prose and a use."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart import regenerate, rendering
from tests.chart.rendering import CHART

SCHEMA = json.loads(regenerate.SCHEMA.read_text())
VALUES = yaml.safe_load(regenerate.VALUES.read_text())
FREE = {"global", "nodeAffinity", "podAffinity", "podAntiAffinity"}
"""Maps that are not ours: those of an umbrella chart and of Kubernetes."""


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref", "")
    return SCHEMA["$defs"][reference.removeprefix("#/$defs/")] if reference else schema


def objects(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every map of the values, by its path; `*` is any key."""
    schema = resolved(schema)
    if schema.get("type") == "object":
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from objects(child, (*path, name))
    if more := any_key(schema):
        yield from objects(more, (*path, "*"))
    if isinstance(items := schema.get("items"), dict) and resolved(items).get("properties"):
        yield from objects(items, (*path, "*"))


def any_key(schema: dict[str, Any]) -> dict[str, Any]:
    """What a key of any name holds; empty if names are fixed."""
    more = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
    return more if isinstance(more, dict) else {}


CLOSED = [path for path, schema in objects(SCHEMA) if schema.get("additionalProperties") is False]


def test_every_map_of_ours_is_closed() -> None:
    open_maps = {path for path, schema in objects(SCHEMA) if schema.get("additionalProperties", True) is True}
    assert {path for path in open_maps if path[-1] not in FREE and "*" not in path} == set()


def with_a_stranger(path: tuple[str, ...]) -> dict[str, Any]:
    """Values that hold an unknown key at a path, and are else as short as can be."""
    value: Any = {"STRANGER": 1}
    schemas = [SCHEMA]
    for name in path:
        parent = resolved(schemas[-1])
        schemas.append(parent["properties"][name] if name != "*" else parent.get("items") or any_key(parent))
    for depth in range(len(path) - 1, -1, -1):
        name, parent = path[depth], resolved(schemas[depth])
        value = [value] if name == "*" and "items" in parent else {("any" if name == "*" else name): value}
    return value  # type: ignore[no-any-return]


def test_a_stranger_is_refused_at_every_level(tmp_path: Any) -> None:
    """One file per branch of the tree would be slow: all strangers are in one file, and Helm names each of them."""
    merged: dict[str, Any] = {}
    for path in CLOSED:
        merge(merged, with_a_stranger(path))
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(merged))
    done = rendering.template("minimal", "-f", str(file))
    assert done.returncode != 0
    refused = set(re.findall(r"at '(\S*)': additional properties [^\n]*'STRANGER'", done.stderr))
    expected = {"/" + "/".join(part for part in path) if path else "" for path in CLOSED}
    shown = {re.sub(r"/(\d+|any)(?=/|$)", "/*", place) for place in refused}
    assert {place for place in expected if place not in shown} == set()


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] += value
        else:
            into[key] = value


@pytest.mark.parametrize(
    ("typo", "place"),
    [
        ("dta.replicas=2", "at '': additional properties 'dta'"),
        ("data.replica=2", "at '/data': additional properties 'replica'"),
        ("inference.pools.large.gpu=1", "at '/inference/pools/large': additional properties 'gpu'"),
        ("training.jobs.nodeselector.a=b", "at '/training/jobs': additional properties 'nodeselector'"),
        ("alignment.settings.CHUNKS_PRE_JOB=2", "at '/alignment/settings': additional properties 'CHUNKS_PRE_JOB'"),
        ("data.replicas=two", "at '/data/replicas': got string, want integer"),
        ("images.service.tag=latest", "at '/images/service/tag'"),
        ("tls.source=secrets", "at '/tls/source': value must be one of"),
        (
            "inference.defaults.engine.OPENAI_ENDPOINTS=x",
            "at '/inference/defaults/engine': additional properties 'OPENAI",
        ),
        ("inference.defaults.endpoints.urls={models.example.com}", "at '/inference/defaults/endpoints/urls/0'"),
        ("inference.pools.Large.gpus=1", "at '/inference/pools': additional properties 'Large'"),
    ],
)
def test_a_typo_is_named_with_its_place(typo: str, place: str) -> None:
    done = rendering.template("minimal", "--set", typo)
    assert done.returncode != 0
    assert place in done.stderr


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def test_every_default_is_described() -> None:
    described = {key for key, _, _ in regenerate.documented()}
    bare = {
        ".".join(path)
        for path in leaves(VALUES)
        if not any(".".join(path[:length]) in described for length in range(1, len(path) + 1))
    }
    assert bare == set()


def test_defaults_and_schema_have_the_same_keys() -> None:
    """What the schema allows and the values do not show, nobody would find. Settings are listed by the code."""
    hidden = set()
    for path, schema in objects(SCHEMA):
        if "*" in path or "Settings" in str(schema) or path[-1:] in (("affinity",), ("deadlines",)):
            continue
        shown = VALUES
        for name in path:
            shown = shown.get(name, {}) if isinstance(shown, dict) else {}
        if shown:
            hidden |= {".".join((*path, name)) for name in set(schema.get("properties", {})) - set(shown)}
    assert {key for key in hidden if ".settings." not in key and not key.startswith("quotas")} == set()


def test_every_value_is_used_by_a_template() -> None:
    templates = "\n".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    names = {path[-1] for path in leaves(VALUES) if path[:2] != ("training", "jobs")}
    names -= {"grafana_dashboard", "group", "MAX_RUNNING", "requests", "limits", "cpu", "memory", "default"}
    assert {name for name in names if not re.search(rf"\b{name}\b", templates)} == set()


def test_large_numbers_stay_whole() -> None:
    text = rendering.text_of("minimal", "--set", "inference.defaults.engine.MODEL_BUDGET_BYTES=70000000000")
    assert '"70000000000"' in text
    assert "e+" not in re.sub(r"omnialign-\S+|\+psycopg", "", text.split("kind: Secret")[0])
