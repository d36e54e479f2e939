"""The PostgreSQL and S3 servers of an evaluation install, and how both read their environment."""

import os
from pathlib import Path


def setting(name: str, default: str | None = None) -> str:
    """A variable, or the content of the file that NAME_FILE names, or the default. Exits if there is none."""
    path = os.environ.get(f"{name}_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SystemExit(f"{name}_FILE cannot be read: {error}. Mount the Secret there.") from None
    value = os.environ.get(name, default)
    if not value:
        raise SystemExit(f"{name} is required: set it, or {name}_FILE to a file that holds it.")
    return value
