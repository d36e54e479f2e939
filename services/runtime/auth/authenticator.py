"""From the metadata `authorization` to a caller: a token of the file, a training job's, or an issuer's."""

from datetime import UTC, datetime

import jwt

from omnialign.errors import Unauthenticated
from services.runtime.auth.callers import Caller
from services.runtime.auth.config import AuthConfig
from services.runtime.auth.job_tokens import ALGORITHM, JobTokens
from services.runtime.auth.oidc import ALGORITHMS, Oidc
from services.runtime.auth.tokens import digest, parse_tokens
from services.runtime.auth.watched import Watched

MAX_TOKEN_CHARACTERS = 8192
UNKNOWN = "The token is not one that is known here"


class Authenticator:
    """Tells who calls. Raises OSError and InvalidArgument for files that cannot be used."""

    def __init__(self, config: AuthConfig) -> None:
        self._tokens = Watched(config.tokens_file, parse_tokens) if config.tokens_file else None
        self._jobs = JobTokens(config.job_key_file) if config.job_key_file else None
        self._oidc = _oidc(config) if config.oidc_issuer else None

    @property
    def knows_jobs(self) -> bool:
        """Whether training jobs have tokens that can be checked here."""
        return self._jobs is not None

    async def identify(self, authorization: str) -> Caller:
        """The caller. Raises Unauthenticated: `TOKEN_MISSING`, `TOKEN_EXPIRED`, `TOKEN_UNKNOWN`."""
        token = bearer(authorization)
        if (caller := self._of_file(token)) is not None:
            return caller
        algorithm, key_id = _header(token)
        if self._jobs is not None and algorithm == ALGORITHM:
            return self._jobs.check(token)
        if self._oidc is not None and algorithm in ALGORITHMS:
            return await self._oidc.check(token, key_id=key_id)
        raise Unauthenticated(UNKNOWN, reason="TOKEN_UNKNOWN")

    async def close(self) -> None:
        """Ends what goes on in the background."""
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
        text = "This server wants a token in the metadata `authorization: Bearer ...`"
        raise Unauthenticated(text, reason="TOKEN_MISSING")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise Unauthenticated(UNKNOWN, reason="TOKEN_UNKNOWN")
    return token


def _header(token: str) -> tuple[str, str]:
    """(algorithm, id of the key) that a signed token claims; empty for another kind of token."""
    if token.count(".") != 2:
        return "", ""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return "", ""
    return str(header.get("alg", "")), str(header.get("kid", ""))


def _oidc(config: AuthConfig) -> Oidc:
    return Oidc(
        issuer=config.oidc_issuer,
        audience=config.oidc_audience,
        roles_claim=config.oidc_roles_claim,
        ca_file=config.oidc_ca_file,
    )
