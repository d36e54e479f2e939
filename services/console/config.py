"""The console's settings, read once from the environment (`OMNIALIGN_CONSOLE_*`)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from omnialign import names
from services.console.sessions import parse_keys

GIB = 1024**3
RESERVED = frozenset(
    {"client_id", "code_challenge", "code_challenge_method", "code_verifier", "nonce", "redirect_uri", "response_mode"}
    | {"response_type", "scope", "state", "url"}
)
"""Parameters of a request to sign in that the console sets."""
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

SIZES = (
    "max_try_bytes",
    "max_preview_source_bytes",
    "preview_bytes",
    "max_upload_bytes",
    "max_uploads",
    "max_export_bytes",
)
"""Settings that must be 1 or more."""


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
    max_upload_bytes: int = 2 * GIB
    """Most bytes of one upload of files in the browser."""
    max_uploads: int = 2
    """Most uploads at a time; each may need `max_upload_bytes` in the folder for temporary files."""
    max_export_bytes: int = GIB
    """Most bytes of records and media in one download of a dataset's version."""
    oidc_issuer: str = ""
    """https address of the OpenID Connect issuer that people sign in with; empty means with a token alone."""
    oidc_client_id: str = ""
    """What the issuer knows the console by."""
    oidc_client_secret_file: Path | None = None
    """Its secret there; unset for a public client."""
    oidc_scopes: tuple[str, ...] = ("openid",)
    """What is asked for; many issuers give a refresh token for `offline_access`."""
    oidc_parameters: tuple[str, ...] = ()
    """More of a request to sign in, as `name=value`; some issuers want `audience=...` or `resource=...`."""
    oidc_token: Literal["access", "id"] = "access"  # noqa: S105  which token, and no token
    """Which of the issuer's tokens the services take: it must be for the audience that they accept."""
    oidc_ca_file: Path | None = None
    """Certificates to trust when talking to the issuer, as PEM; unset means the system's."""

    def client_secret(self) -> str:
        """The console's secret at the issuer, read each time so that it can be changed; empty for a public client."""
        return self.oidc_client_secret_file.read_text("utf-8").strip() if self.oidc_client_secret_file else ""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields (field, problem) for names and numbers that cannot be."""
        if not self.gateway_address:
            yield "gateway_address", "must be host:port"
        if not names.is_project_id(self.project):
            yield "project", "must be the id of a project"
        for host in self.hosts:
            if not _HOST.fullmatch(host):
                yield "hosts", f"'{host}' is not a name in lower case, without a port"
        for field in SIZES:
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
        yield from self._oidc_problems()

    def _oidc_problems(self) -> Iterator[tuple[str, str]]:
        if not self.oidc_issuer:
            for field in ("oidc_client_id", "oidc_client_secret_file"):
                if getattr(self, field):
                    yield field, "needs OMNIALIGN_CONSOLE_OIDC_ISSUER"
            return
        if not self.oidc_issuer.startswith("https://"):
            yield "oidc_issuer", "must be an https:// address"
        if not self.oidc_client_id:
            yield "oidc_client_id", "is required with an issuer"
        if not self.sign_in:
            yield "sign_in", "must be on with an issuer"
        if "openid" not in self.oidc_scopes:
            yield "oidc_scopes", "must have 'openid' among them"
        for pair in self.oidc_parameters:
            name, _, value = pair.partition("=")
            if not value or name in RESERVED:
                yield "oidc_parameters", f"'{pair}' is not name=value, or a name that the console sets itself"
        for field in ("oidc_client_secret_file", "oidc_ca_file"):
            try:
                if (path := getattr(self, field)) is not None and not path.read_text("utf-8").strip():
                    yield field, "is empty"
            except (OSError, ValueError) as error:
                yield field, f"cannot be used: {error}"
