"""Tokens of an OpenID Connect issuer: signature, issuer, audience and times are checked; a claim holds the roles.

The claim (`OMNIALIGN_AUTH_OIDC_ROLES_CLAIM`) is either a mapping, `{"demo": "submitter", "*": "reader"}`, or the list
that issuers make of groups, `["demo:submitter", "*:reader"]`. What cannot be understood in it grants nothing, and no
claim grants the role `service`.

The issuer's public keys are fetched over https and kept: on first need, again every hour, and when a token names a key
that is not among them (issuers rotate keys), but at most once in ten seconds, so that made-up key ids do not turn into
load on the issuer. While the issuer is away, the known keys stay in use.
"""

import asyncio
import json
import logging
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt

from omnialign import names
from omnialign.errors import Unauthenticated, Unavailable
from services.runtime.context import ALL_PROJECTS, Caller, Role

ALGORITHMS = ("RS256", "ES256")
LEEWAY_SECONDS = 30

_GRANTED = {role.name.lower(): role for role in (Role.READER, Role.ANNOTATOR, Role.SUBMITTER, Role.ADMIN)}


class OidcVerifier:
    """Checks the tokens of one issuer."""

    def __init__(self, *, issuer: str, audience: str, roles_claim: str, ca_file: Path | None) -> None:
        self._issuer = issuer
        self._audience = audience
        self._roles_claim = roles_claim
        self._keys = KeySet(issuer, ca_file=ca_file)

    async def check(self, token: str, *, key_id: str) -> Caller:
        """The caller of a token; `key_id` is from the token's header.

        Raises Unauthenticated (`TOKEN_EXPIRED`, `TOKEN_UNKNOWN`), and Unavailable (`OIDC_UNAVAILABLE`) when the
        issuer's keys cannot be had.
        """
        claims = await self.claims(token, key_id=key_id)
        return Caller(str(claims["sub"])[:200], dict(roles_of(claims.get(self._roles_claim))))

    async def claims(self, token: str, *, key_id: str) -> dict[str, Any]:
        """What a token says, once it is verified. Raises as `check` does."""
        key = await self._keys.find(key_id)
        if key is None or key.algorithm_name not in ALGORITHMS:
            raise _unknown()
        try:
            found: dict[str, Any] = jwt.decode(
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
        return found

    async def close(self) -> None:
        """Stops background work."""
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
        if role and isinstance(project, str) and (project == ALL_PROJECTS or names.is_project_id(project)):
            best[project] = max(role, best.get(project, role))
    yield from best.items()


def _unknown() -> Unauthenticated:
    """One answer for every fault of a token, so that the answer does not help to forge one."""
    return Unauthenticated("The token is unknown; check that it is meant for this server", reason="TOKEN_UNKNOWN")


DISCOVERY = "/.well-known/openid-configuration"
REFRESH_SECONDS = 3600.0
MIN_PAUSE_SECONDS = 10.0
TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 1024 * 1024

_log = logging.getLogger(__name__)


class KeySet:
    """The keys of one issuer by id."""

    def __init__(self, issuer: str, *, ca_file: Path | None) -> None:
        self._issuer = issuer
        self._ca_file = ca_file
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key with an id, None when the issuer has none. Raises Unavailable if its keys were never fetched."""
        key = self._get(key_id)
        if key is None:
            if (fetching := self._fetch_soon()) is not None:
                await asyncio.shield(fetching)
            key = self._get(key_id)
        elif time.monotonic() - self._fetched >= REFRESH_SECONDS:
            self._fetch_soon()  # in the background: the known key is good enough
        if key is None and not self._keys:
            raise Unavailable("The issuer of tokens does not answer; try again", reason="OIDC_UNAVAILABLE")
        return key

    async def close(self) -> None:
        """Ends a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _get(self, key_id: str) -> jwt.PyJWK | None:
        if not key_id and len(self._keys) == 1:  # an issuer with one key need not name it
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _fetch_soon(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None when the last one was a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if time.monotonic() - self._tried < MIN_PAUSE_SECONDS:
            return None
        self._tried = time.monotonic()
        self._fetching = asyncio.create_task(self._fetch(), name="fetch keys of the issuer")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            self._keys = await asyncio.to_thread(fetch_keys, self._issuer, self._ca_file)
            self._fetched = time.monotonic()
        except (OSError, ValueError, TypeError, jwt.PyJWTError) as error:
            _log.error("the keys of the issuer '%s' cannot be fetched: %s", self._issuer, error)


def fetch_keys(issuer: str, ca_file: Path | None) -> dict[str, jwt.PyJWK]:
    """The signing keys that an issuer publishes, by id. Raises OSError, ValueError and PyJWTError."""
    about, context = discover(issuer, ca_file), trusting(ca_file)
    entries = _read_json(str(about.get("jwks_uri", "")), context).get("keys", [])
    keys: dict[str, jwt.PyJWK] = {}
    for entry in filter(_signs, entries):
        try:
            keys[str(entry.get("kid", ""))] = jwt.PyJWK(entry)
        except jwt.PyJWTError as error:  # one key that cannot be read must not take the others away
            _log.warning("a key of the issuer '%s' cannot be read: %s", issuer, error)
    return keys


def discover(issuer: str, ca_file: Path | None) -> dict[str, Any]:
    """What an issuer says of itself (OpenID Connect Discovery 1.0). Raises OSError and ValueError."""
    about = _read_json(issuer.rstrip("/") + DISCOVERY, trusting(ca_file))
    if about.get("issuer") != issuer:
        raise ValueError(f"its discovery document is of another issuer, '{about.get('issuer')}'")
    return about


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """TLS to an issuer. Raises OSError."""
    return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


def _signs(entry: Any) -> bool:
    """Whether signatures of a published key are accepted here; the set may hold others."""
    kind = (entry.get("kty"), entry.get("crv")) if isinstance(entry, dict) else ()
    fits = kind in (("RSA", None), ("EC", "P-256"))
    return fits and entry.get("use", "sig") == "sig" and entry.get("alg", "RS256") in ("RS256", "ES256")


def _read_json(url: str, context: ssl.SSLContext) -> dict[str, Any]:
    """A JSON object over https; redirects are not followed."""
    if not url.startswith("https://"):
        raise ValueError(f"'{url}' is not an https address")
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
        body = answer.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise ValueError(f"'{url}' answers more than {MAX_ANSWER_BYTES} bytes")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError(f"'{url}' does not answer a JSON object")
    return document
