"""Tokens of an OpenID Connect issuer: signature, issuer, audience and times are checked; a claim tells the roles.

The claim (`OMNIALIGN_AUTH_OIDC_ROLES_CLAIM`) is either a mapping, `{"demo": "submitter", "*": "reader"}`, or the list
that issuers make of groups, `["demo:submitter", "*:reader"]`. What cannot be understood in it gives no right; nor can
it make anybody a service of ours.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt

from omnialign.errors import Unauthenticated
from services.runtime.auth.callers import ALL_PROJECTS, Caller, Role, is_project
from services.runtime.auth.key_set import KeySet

ALGORITHMS = ("RS256", "ES256")
LEEWAY_SECONDS = 30

_GRANTED = {role.name.lower(): role for role in (Role.READER, Role.SUBMITTER, Role.ADMIN)}


class Oidc:
    """Checks the tokens of one issuer."""

    def __init__(self, *, issuer: str, audience: str, roles_claim: str, ca_file: Path | None) -> None:
        self._issuer = issuer
        self._audience = audience
        self._roles_claim = roles_claim
        self._keys = KeySet(issuer, ca_file=ca_file)

    async def check(self, token: str, *, key_id: str) -> Caller:
        """The caller that a token is of; `key_id` is from its header.

        Raises Unauthenticated (`TOKEN_EXPIRED`, `TOKEN_UNKNOWN`), and Unavailable (`OIDC_UNAVAILABLE`) when the
        issuer's keys cannot be had.
        """
        key = await self._keys.find(key_id)
        if key is None or key.algorithm_name not in ALGORITHMS:
            raise _unknown()
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],  # the key's own: the token does not choose
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired; get a new one", reason="TOKEN_EXPIRED") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise _unknown() from None
        return Caller(str(claims["sub"])[:200], dict(roles_of(claims.get(self._roles_claim))))

    async def close(self) -> None:
        """Ends what goes on in the background."""
        await self._keys.close()


def roles_of(claim: Any) -> Iterator[tuple[str, Role]]:
    """(project, role) that a claim grants."""
    if isinstance(claim, Mapping):
        pairs = list(claim.items())
    elif isinstance(claim, list):
        pairs = [text.rpartition(":")[::2] for text in claim if isinstance(text, str)]
    else:
        return
    best: dict[str, Role] = {}
    for project, name in pairs:
        role = _GRANTED.get(name) if isinstance(name, str) else None
        if role and isinstance(project, str) and (project == ALL_PROJECTS or is_project(project)):
            best[project] = max(role, best.get(project, role))
    yield from best.items()


def _unknown() -> Unauthenticated:
    """One answer for every fault of a token, so that none of them teaches how to make a better one."""
    return Unauthenticated("The token is not one that is known here", reason="TOKEN_UNKNOWN")
