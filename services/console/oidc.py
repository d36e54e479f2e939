"""Sign-in with an OpenID Connect issuer: the authorization code flow with PKCE, renewal, and signing out there.

What the issuer says of the person, the ID token, is verified: signature, issuer, audience, times, and the nonce of
this browser's sign-in. The token that the services take is the access token, or the ID token where the issuer's access
tokens are not for others to read (`OMNIALIGN_CONSOLE_OIDC_TOKEN`). Whether they take it is theirs to say.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx2
import jwt
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from omnialign.errors import OmnialignError, Unauthenticated, Unavailable
from services.console.config import ConsoleConfig
from services.console.sessions import Flow, Session
from services.runtime.auth.authenticator import header_of
from services.runtime.auth.oidc import OidcVerifier, discover, trusting

_log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT_SECONDS = 5.0
ABOUT_SECONDS = 3600.0
EARLY_SECONDS = 60.0
"""How long before its end a token is renewed, or halfway if it lives for less than twice that."""
RENEWAL_KEPT_SECONDS = 10.0
"""Requests that a browser sent before it had the new cookie get what the first of them got."""
FLOW_SECONDS = 600.0
"""How long a person may take at the issuer."""


class Issuer:
    """The issuer, as the console talks to it. Made inside a running event loop. Raises OSError for its CA file."""

    def __init__(self, config: ConsoleConfig) -> None:
        self._config, self._tls = config, trusting(config.oidc_ca_file)
        self._verifier = OidcVerifier(
            issuer=config.oidc_issuer, audience=config.oidc_client_id, roles_claim="", ca_file=config.oidc_ca_file
        )
        self._about: Mapping[str, Any] = {}
        self._asked = float("-inf")
        self._renewals: dict[str, asyncio.Task[Session]] = {}

    @property
    def name(self) -> str:
        """What a person knows it by."""
        return urlsplit(self._config.oidc_issuer).netloc

    async def begin(self, *, back: str, wanted: str) -> tuple[str, Flow]:
        """Where the browser goes to sign in, and what it keeps meanwhile. Raises Unavailable OIDC_UNAVAILABLE."""
        about = await self._discovered()
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        flow = Flow(state, nonce, verifier, back, wanted)
        more = dict(pair.split("=", 1) for pair in self._config.oidc_parameters)
        async with self._client(about, back) as client:
            place, _ = client.create_authorization_url(
                about["authorization_endpoint"],
                state=flow.state,
                code_verifier=flow.verifier,
                nonce=flow.nonce,
                **more,
            )
        return str(place), flow

    async def finish(self, flow: Flow, answer: Mapping[str, str]) -> Session:
        """The session that the issuer's answer to a sign-in gives.

        Raises Unauthenticated SIGN_IN_REFUSED for what the issuer refuses and for an answer that is not this sign-in's,
        Unavailable OIDC_UNAVAILABLE, InvalidArgument TOKEN_TOO_LONG.
        """
        about = await self._discovered()
        # Another issuer may not answer in this one's name (RFC 9207).
        says_so = about.get("authorization_response_iss_parameter_supported") is True
        if answer.get("iss", "" if says_so else self._config.oidc_issuer) != self._config.oidc_issuer:
            raise _refused("the answer is of another issuer")
        async with self._client(about, flow.back) as client:
            given = await _asked(
                client.fetch_token(
                    about["token_endpoint"],
                    grant_type="authorization_code",
                    code=answer.get("code", ""),
                    code_verifier=flow.verifier,
                )
            )
        claims = await self._claims(given.get("id_token"))
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), flow.nonce.encode()):
            raise _refused("the ID token is of another sign-in")
        return self._session(Session(), given, claims)

    async def renewed(self, session: Session) -> Session:
        """The session with a new token if the old one is about to expire, else the same object. While the issuer does
        not give one, the old one stays: when it has expired, the services say so."""
        if not (session.renew_at and session.refresh and time.time() >= session.renew_at):
            return session
        key = hashlib.sha256(session.refresh.encode()).hexdigest()
        if (task := self._renewals.get(key)) is None:
            task = self._renewals[key] = asyncio.create_task(self._renew(session), name="renew a token")
            asyncio.get_running_loop().call_later(RENEWAL_KEPT_SECONDS, self._renewals.pop, key, None)
        try:
            return await asyncio.shield(task)
        except OmnialignError as error:
            _log.warning("a token was not renewed: %s", error.message)
            return session

    async def farewell(self, session: Session, *, back: str) -> str:
        """Where the browser goes to sign out at the issuer too; empty where that is not possible.

        Raises Unavailable OIDC_UNAVAILABLE.
        """
        place = str((await self._discovered()).get("end_session_endpoint") or "")
        if not place.startswith("https://"):
            return ""
        known = {"client_id": self._config.oidc_client_id, "post_logout_redirect_uri": back}
        if hint := session.id_token or session.token:
            known["id_token_hint"] = hint
        return f"{place}{'&' if urlsplit(place).query else '?'}{urlencode(known)}"

    async def close(self) -> None:
        """Stops background work."""
        for task in self._renewals.values():
            task.cancel()
        await asyncio.gather(*self._renewals.values(), return_exceptions=True)
        await self._verifier.close()

    async def _renew(self, session: Session) -> Session:
        about = await self._discovered()
        async with self._client(about, "") as client:
            given = await _asked(client.refresh_token(about["token_endpoint"], refresh_token=session.refresh))
        claims: Mapping[str, Any] = {}
        if "id_token" in given or self._config.oidc_token == "id":  # noqa: S105
            claims = await self._claims(given.get("id_token"))
            if claims["sub"] != _unverified(session.id_token or session.token).get("sub"):
                raise _refused("the new ID token is of another person")
        return self._session(session, given, claims)

    def _session(self, session: Session, given: Mapping[str, Any], claims: Mapping[str, Any]) -> Session:
        """The session with the tokens of an answer whose ID token says `claims`."""
        is_access = self._config.oidc_token == "access"  # noqa: S105
        token = str(given.get("access_token" if is_access else "id_token") or "")
        if not token:
            raise _refused("it gave no token for the services")
        now = time.time()
        expiry = (given.get("expires_at") or _unverified(token).get("exp")) if is_access else claims.get("exp")
        lasting = float(expiry) - now if isinstance(expiry, int | float) else 0.0
        refresh = str(given.get("refresh_token") or session.refresh)
        return replace(
            session,
            token=token,
            renew_at=now + max(lasting - EARLY_SECONDS, lasting / 2) if lasting > 0 and refresh else 0.0,
            refresh=refresh,
            is_issued=True,
            id_token=(str(given.get("id_token") or "") or session.id_token) if is_access else "",
        ).fitting()

    async def _claims(self, token: Any) -> Mapping[str, Any]:
        """What a verified ID token says. Raises Unauthenticated SIGN_IN_REFUSED, Unavailable OIDC_UNAVAILABLE."""
        text = token if isinstance(token, str) else ""
        try:
            claims = await self._verifier.claims(text, key_id=header_of(text)[1])
        except Unauthenticated:
            raise _refused("its ID token is not valid") from None
        if claims.get("azp", self._config.oidc_client_id) != self._config.oidc_client_id:
            raise _refused("its ID token was made for another program")
        return claims

    async def _discovered(self) -> Mapping[str, Any]:
        """What the issuer says of itself, asked once an hour; while it is away, what it said last."""
        if time.monotonic() - self._asked < ABOUT_SECONDS:
            return self._about
        issuer = self._config.oidc_issuer
        try:
            found = await asyncio.to_thread(discover, issuer, self._config.oidc_ca_file)
            for name in ("authorization_endpoint", "token_endpoint"):
                if not str(found.get(name, "")).startswith("https://"):
                    raise ValueError(f"its {name} is not an https address")
            self._about, self._asked = found, time.monotonic()
        except (OSError, ValueError, TypeError) as error:
            _log.error("the issuer '%s' does not say what it is: %s", issuer, error)
            if not self._about:
                raise _away() from None
        return self._about

    @contextlib.asynccontextmanager
    async def _client(self, about: Mapping[str, Any], back: str) -> AsyncIterator[AsyncOAuth2Client]:
        try:
            secret = self._config.client_secret()
        except (OSError, ValueError) as error:
            _log.error("the console's secret at the issuer cannot be read: %s", error)
            raise _away() from None
        methods = about.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        async with AsyncOAuth2Client(
            self._config.oidc_client_id,
            secret or None,
            token_endpoint_auth_method=method if secret else "none",
            scope=" ".join(self._config.oidc_scopes),
            redirect_uri=back,
            code_challenge_method="S256",
            verify=self._tls,
            timeout=TIMEOUT_SECONDS,
        ) as client:
            yield client


async def _asked(answer: Awaitable[T]) -> T:
    """The issuer's answer. Raises Unauthenticated SIGN_IN_REFUSED and Unavailable OIDC_UNAVAILABLE."""
    try:
        return await answer
    except AuthlibBaseError as error:
        raise _refused(f"it answers '{str(error.error)[:64]}'") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, TypeError) as error:
        _log.error("the issuer cannot be asked: %s", error)
        raise _away() from None


def _unverified(token: str) -> Mapping[str, Any]:
    """What a token of the issuer's claims, for what the console does with it; the services verify it."""
    try:
        found: Mapping[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError):
        return {}
    return found


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"The issuer does not sign you in: {why}. Begin again.", reason="SIGN_IN_REFUSED")


def _away() -> Unavailable:
    return Unavailable("The issuer that people sign in with does not answer; try again.", reason="OIDC_UNAVAILABLE")
