"""Settings of authentication, read once from the environment (`OMNIALIGN_AUTH_*`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omnialign.errors import InvalidArgument
from services.runtime.auth.job_tokens import parse_keys
from services.runtime.auth.quotas import parse_quotas
from services.runtime.auth.tokens import parse_tokens


@dataclass(frozen=True)
class AuthConfig:
    """Where tokens come from, and how much a project may ask for. With neither source of tokens, all is open."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_AUTH_"

    tokens_file: Path | None = None
    """YAML file of bearer tokens (digests and roles); read again when it changes."""
    oidc_issuer: str = ""
    """https address of the OpenID Connect issuer whose tokens are accepted; empty means none are."""
    oidc_audience: str = ""
    """Audience that the issuer's tokens must be for; required with an issuer."""
    oidc_roles_claim: str = "omnialign_roles"
    """Claim that tells the roles: a mapping of project to role, or a list of `project:role`."""
    oidc_ca_file: Path | None = None
    """Certificates to trust when talking to the issuer, as PEM; unset means the system's."""
    job_key_file: Path | None = None
    """Keys that sign the tokens of training jobs, one a line; the training and the data service share them."""
    rate_per_second: float = 0.0
    """Calls a second that each project may make of each replica; 0 means no limit."""
    rate_burst: int = 0
    """Calls that a project may make at once after a pause; 0 means the calls of two seconds."""
    quotas_file: Path | None = None
    """YAML file with how much a project may have; read again when it changes."""

    @property
    def enabled(self) -> bool:
        """Whether callers must say who they are."""
        return self.tokens_file is not None or bool(self.oidc_issuer)

    def problems(self) -> Iterator[tuple[str, str]]:
        """What does not fit together, and everything that is wrong in the files."""
        if self.oidc_issuer and not self.oidc_issuer.startswith("https://"):
            yield "oidc_issuer", "must be an https:// address"
        if self.oidc_issuer and not self.oidc_audience:
            yield "oidc_audience", "is required with an issuer: else a token made for another program would do here"
        if not 0 <= self.rate_per_second < float("inf"):
            yield "rate_per_second", "must be a number, 0 or more"
        if self.rate_burst < 0:
            yield "rate_burst", "must be 0 or more"
        if not self.enabled:
            for name in ("rate_per_second", "quotas_file"):
                if getattr(self, name):
                    yield name, "needs OMNIALIGN_AUTH_TOKENS_FILE or OMNIALIGN_AUTH_OIDC_ISSUER"
        yield from _file_problems("tokens_file", self.tokens_file, parse_tokens)
        yield from _file_problems("job_key_file", self.job_key_file, parse_keys)
        yield from _file_problems("quotas_file", self.quotas_file, parse_quotas)
        yield from _file_problems("oidc_ca_file", self.oidc_ca_file, str)


def _file_problems(field: str, path: Path | None, parse: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    if path is None:
        return
    try:
        parse(path.read_text("utf-8"))
    except InvalidArgument as error:
        for where, what in error.violations or [("", error.message)]:
            yield field, f"{where}: {what}".removeprefix(": ")
    except (OSError, ValueError) as error:
        yield field, f"cannot be read: {error}"
