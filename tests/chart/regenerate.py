"""Generates the chart's schema, table of values and goldens: `python -m tests.chart.regenerate`; tests compare them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.chart import code, rendering
from tests.chart.rendering import CHART, GOLDEN, SCENARIOS, Manifest

SCHEMA, README, VALUES = CHART / "values.schema.json", CHART / "README.md", CHART / "values.yaml"
BLOCK = re.compile(r"(<!-- VALUES[^>]*-->\n).*?(<!-- END OF VALUES -->)", re.DOTALL)


def schema() -> str:
    """values.schema.json with the settings that the code has today."""
    document = json.loads(SCHEMA.read_text())
    for name, prefix in code.SETTINGS.items():
        document["$defs"][name] = code.settings_schema(prefix)
    document["$defs"]["trainingJobs"] = code.jobs_schema()
    document["$defs"]["quota"] = code.quota_schema()
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def readme() -> str:
    """The chart's README with the table of today's values."""
    rows = ["| key | default | what it is |", "| --- | --- | --- |"]
    rows += [f"| `{key}` | {_cell(default)} | {prose} |" for key, default, prose in documented()]
    return BLOCK.sub(lambda block: f"{block[1]}{chr(10).join(rows)}\n{block[2]}", README.read_text())


def _cell(default: str) -> str:
    return f"`{default}`" if default else ""


def documented() -> Iterator[tuple[str, str, str]]:
    """(path, default, prose) of each key with a `# --` comment, in the order of values.yaml."""
    path: list[tuple[int, str]] = []
    prose: list[str] = []
    values = yaml.safe_load(VALUES.read_text())
    for line in VALUES.read_text().splitlines():
        if comment := re.match(r" *# ?(-- )?(.*)", line):
            prose = [comment[2]] if comment[1] else [*prose, comment[2]] if prose else []
        elif key := re.match(r"( *)([A-Za-z0-9_]+):", line):
            indent = len(key[1])
            path = [*((depth, name) for depth, name in path if depth < indent), (indent, key[2])]
            if prose:
                dotted = ".".join(name for _, name in path)
                yield dotted, _default(values, dotted), " ".join(prose).replace("|", "\\|")
            prose = []
        else:
            prose = []


def _default(values: Any, path: str) -> str:
    for name in path.split("."):
        values = values[name]
    return "" if values is None or values == "" else json.dumps(values).replace("|", "\\|")


def golden(scenario: str) -> str:
    """What a scenario renders to, in a fixed order and without what differs each time."""
    found = sorted(rendering.manifests(scenario), key=lambda item: (item["kind"], item["metadata"]["name"]))
    return yaml.safe_dump_all([_fixed(item) for item in found], sort_keys=False, width=120)


def _fixed(manifest: Manifest) -> Manifest:
    """Without random secrets, and without files that are tested where they are made."""
    manifest = json.loads(json.dumps(manifest))
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if kind == "Secret":
        for part in ("data", "stringData"):
            if part in manifest:
                manifest[part] = dict.fromkeys(manifest[part], "(made at installation)")
    if kind == "ConfigMap" and "-dashboard-" in name:
        manifest["data"] = dict.fromkeys(manifest["data"], "(the dashboard)")
    if kind == "PrometheusRule":
        manifest["spec"] = {"groups": "(the rules)"}
    return manifest


def main() -> None:
    """Writes everything; the schema first, since Helm checks the values with it."""
    SCHEMA.write_text(schema())
    README.write_text(readme())
    GOLDEN.mkdir(exist_ok=True)
    for scenario in SCENARIOS:
        (GOLDEN / f"{scenario}.yaml").write_text(golden(scenario))
    for path in GOLDEN.glob("*.yaml"):
        if path.stem not in SCENARIOS:
            path.unlink()


if __name__ == "__main__":
    main()
