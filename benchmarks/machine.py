"""Facts about the machine that a reader needs to judge a number. Nothing in them names the machine or its owner."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("omnialign", "grpcio", "protobuf", "protovalidate", "pylance", "torch", "transformers")


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
