"""How a run calls the services: with the job's own token, and with the certificates that its environment names.

The variables are those that services read for the same purpose (`OMNIALIGN_PEER_*`), but for the token: a run speaks
for its job and for nobody else.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

CA_VARIABLE = "OMNIALIGN_PEER_CA_FILE"
CERTIFICATE_VARIABLE = "OMNIALIGN_PEER_CERTIFICATE_FILE"
KEY_VARIABLE = "OMNIALIGN_PEER_KEY_FILE"
VARIABLES = (CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE)


class Connection(TypedDict):
    """The arguments of a client beside its address."""

    project: str
    token: str | None
    tls: bool
    ca_file: Path | None
    certificate_file: Path | None
    key_file: Path | None


def connection(job: str, *, token: str, environ: Mapping[str, str] = os.environ) -> Connection:
    """How to call as a job, by its resource name. No file named means plain connections."""
    files = [Path(environ[name]) if environ.get(name) else None for name in VARIABLES]
    parts = job.split("/")
    return Connection(
        project=parts[1] if len(parts) > 1 else "default",
        token=token or None,
        tls=files[0] is not None,
        ca_file=files[0],
        certificate_file=files[1],
        key_file=files[2],
    )
