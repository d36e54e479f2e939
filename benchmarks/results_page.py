"""What every page of results shares: facts about the machine, and Markdown tables of what was measured.

The facts let a reader judge a number; none of them names the machine or its owner.
"""

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("omnialign", "grpcio", "protobuf", "protovalidate", "pylance", "torch", "transformers")
INTRODUCTION = """# Benchmarks

Written by `make bench`; do not edit. Each measurement stands beside a plain way of doing the same thing, measured in
the same run on the same machine: trust the ratios further than the absolute numbers.
"""


def machine_facts() -> dict[str, object]:
    """CPU model, usable cores, memory in GiB, load at the start, and versions of what was measured."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
    }


def cpu_model() -> str:
    """The processor's name, as the kernel reports it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def installed(package: str) -> str | None:
    """The version of a package, None when it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def page(found: Mapping[str, Any]) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(section(name, entry) for name, entry in sorted(found.items()))])


def section(name: str, entry: Mapping[str, Any]) -> str:
    """One benchmark: what it is, the machine, and every number by its path."""
    result = dict(entry["result"])
    title, about = result.pop("title", name), result.pop("about", "")
    rows = "\n".join(f"| {path} | {number(value)} |" for path, value in leaves(result))
    return f"## {title}\n\n{about}\n\n{machine_line(entry['machine'])}\n\n| measure | value |\n|---|---|\n{rows}\n"


def machine_line(facts: Mapping[str, Any]) -> str:
    """The machine in one sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"Machine: {facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB, load {facts['load_1min']}"
        f" at the start; Python {facts['python']}, {versions}."
    )


def leaves(value: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every number or text of a nested result, with its path."""
    for key, inner in value.items():
        path = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            yield from leaves(inner, prefix=f"{path} / ")
        else:
            yield path, inner


def number(value: object) -> str:
    """A number with four significant digits; anything else as it is."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
