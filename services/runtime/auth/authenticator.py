"""Authentication: its settings, and the way from the metadata `authorization` to a caller.

A token is one of the file, a training job's, or an OpenID Connect issuer's. Settings are read once from the environment
(`OMNIALIGN_AUTH_*`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import jwt

from omnialign.errors import InvalidArgument, Unauthenticated
from services.runtime.auth.oidc import ALGORITHMS, OidcVerifier
from services.runtime.auth.tokens import ALGORITHM, JobTokens, digest, parse_keys, parse_tokens
from services.runtime.context import Caller
from services.runtime.limits import parse_quotas
from services.runtime.watched_file import WatchedFile


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
    """Claim with the roles: a mapping of project to role, or a list of `project:role`."""
    oidc_ca_file: Path | None = None
    """Certificates to trust when talking to the issuer, as PEM; unset means the system's."""
    job_key_file: Path | None = None
    """Keys that sign the tokens of training jobs, one per line; the training and the data service share them."""
    rate_per_second: float = 0.0
    """Calls per second that each project may make to each replica; 0 means no limit."""
    rate_burst: int = 0
    """Calls that a project may make at once after a pause; 0 means two seconds' worth."""
    quotas_file: Path | None = None
    """YAML file of quotas per project; read again when it changes."""

    @property
    def enabled(self) -> bool:
        """Whether callers must authenticate."""
        return self.tokens_file is not None or bool(self.oidc_issuer)

    def problems(self) -> Iterator[tuple[str, str]]:
        """What does not fit together, and everything that is wrong in the files."""
        if self.oidc_issuer and not self.oidc_issuer.startswith("https://"):
            yield "oidc_issuer", "must be an https:// address"
        if self.oidc_issuer and not self.oidc_audience:
            yield (
                "oidc_audience",
                "is required with an issuer: otherwise tokens issued for other programs would be accepted",
            )
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


MAX_TOKEN_CHARACTERS = 8192
UNKNOWN = "The token is unknown; check that it is meant for this server"


class Authenticator:
    """Identifies callers by their tokens. Raises OSError and InvalidArgument for unusable files."""

    def __init__(self, config: AuthConfig) -> None:
        self._tokens = WatchedFile(config.tokens_file, parse_tokens) if config.tokens_file else None
        self._jobs = JobTokens(config.job_key_file) if config.job_key_file else None
        self._oidc = _oidc(config) if config.oidc_issuer else None

    @property
    def knows_jobs(self) -> bool:
        """Whether the tokens of training jobs can be checked here."""
        return self._jobs is not None

    async def identify(self, authorization: str) -> Caller:
        """The caller. Raises Unauthenticated: `TOKEN_MISSING`, `TOKEN_EXPIRED`, `TOKEN_UNKNOWN`."""
        token = bearer(authorization)
        if (caller := self._of_file(token)) is not None:
            return caller
        algorithm, key_id = header_of(token)
        if self._jobs is not None and algorithm == ALGORITHM:
            return self._jobs.check(token)
        if self._oidc is not None and algorithm in ALGORITHMS:
            return await self._oidc.check(token, key_id=key_id)
        raise Unauthenticated(UNKNOWN, reason="TOKEN_UNKNOWN")

    async def close(self) -> None:
        """Stops background work."""
        if self._oidc is not None:
            await self._oidc.close()

    def _of_file(self, token: str) -> Caller | None:
        entry = self._tokens.current().get(digest(token)) if self._tokens else None
        if entry is None:
            return None
        if entry.expired(datetime.now(UTC)):
            raise Unauthenticated("The token has expired; ask for a new one", reason="TOKEN_EXPIRED")
        return entry.caller


def bearer(authorization: str) -> str:
    """The token in `Bearer TOKEN`. Raises Unauthenticated (`TOKEN_MISSING`, `TOKEN_UNKNOWN`)."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        text = "This server requires a token: send the metadata `authorization: Bearer TOKEN`"
        raise Unauthenticated(text, reason="TOKEN_MISSING")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise Unauthenticated(UNKNOWN, reason="TOKEN_UNKNOWN")
    return token


def header_of(token: str) -> tuple[str, str]:
    """(algorithm, id of the key) that a signed token claims; empty for another kind of token."""
    if token.count(".") != 2:
        return "", ""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return "", ""
    return str(header.get("alg", "")), str(header.get("kid", ""))


def _oidc(config: AuthConfig) -> OidcVerifier:
    return OidcVerifier(
        issuer=config.oidc_issuer,
        audience=config.oidc_audience,
        roles_claim=config.oidc_roles_claim,
        ca_file=config.oidc_ca_file,
    )
