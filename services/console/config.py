"""The console's settings, read once from the environment (`OMNIALIGN_CONSOLE_*`)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omnialign import names
from services.console.sessions import parse_keys

_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class ConsoleConfig:
    """Where the services are, and how people come in."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_CONSOLE_"

    gateway_address: str
    """`host:port` of the gateway, or of all services."""
    project: str = "default"
    """The project that is shown first."""
    sign_in: bool = False
    """Whether people sign in with a token of theirs: on where the services require one."""
    hosts: tuple[str, ...] = ()
    """Names by which browsers reach the console, without ports. Those of the machine itself are always allowed.
    Requests for any other name are refused, or a page elsewhere could point its own name here."""
    https: bool = False
    """Whether TLS ends in front of the console, so that its cookies must not travel without."""
    session_key_file: Path | None = None
    """Keys that seal sessions, one per line, shared by all replicas: the first seals and all open. Unset makes one up,
    and a restart signs everybody out."""
    session_hours: float = 12.0
    """After how long a person signs in again."""
    deadline_seconds: float = 10.0
    """How long a page waits for a service."""
    max_try_bytes: int = 64 << 20
    """The largest prompt with its files that a model can be tried with."""
    try_seconds: float = 600.0
    """How long an answer, a critique or a judgement of a trial may take."""
    max_preview_source_bytes: int = 256 << 20
    """The largest file of which a preview is made or a waveform is drawn. It is copied to the temporary folder, two at
    a time."""
    preview_bytes: int = 64 << 20
    """Memory for previews and waveforms that were made."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields (field, problem) for names and numbers that cannot be."""
        if not self.gateway_address:
            yield "gateway_address", "must be host:port"
        if not names.is_project_id(self.project):
            yield "project", "must be the id of a project"
        for host in self.hosts:
            if not _HOST.fullmatch(host):
                yield "hosts", f"'{host}' is not a name in lower case, without a port"
        for field in ("max_try_bytes", "max_preview_source_bytes", "preview_bytes"):
            if getattr(self, field) < 1:
                yield field, "must be 1 or more"
        for field in ("session_hours", "deadline_seconds", "try_seconds"):
            if not 0 < getattr(self, field) < float("inf"):
                yield field, "must be a number above 0"
        if self.session_key_file is not None:
            try:
                parse_keys(self.session_key_file.read_text("utf-8"))
            except (OSError, ValueError) as error:
                yield "session_key_file", f"cannot be used: {error}"
