"""A real OpenID Connect issuer over https, in this process: codes with PKCE, rotating refresh tokens, signing out.

A person is signed in there already, so that a browser goes straight through. What a test sets makes it misbehave.
"""

import base64
import contextlib
import hashlib
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from services.console.lifetime import Lifetime
from services.console.server import WebServer
from services.runtime.config import ServerConfig
from tests.certificates import Authority

AUDIENCE, CLIENT, SECRET = "omnialign", "console", "a secret / of the console"


@dataclass
class Issuer:
    """What it gives, and what it was asked."""

    url: str
    ca_file: Path
    roles: Any = field(default_factory=lambda: {"demo": "admin"})
    lasting: int = 300
    """Seconds that tokens live."""
    gives_refresh: bool = True
    is_away: bool = False
    access: dict[str, Any] = field(default_factory=dict)
    """Claims of access tokens that differ."""
    identity: dict[str, Any] = field(default_factory=dict)
    """Claims of ID tokens that differ; None leaves one out."""
    refusal: dict[str, str] = field(default_factory=dict)
    """The answer to a sign-in, instead of a code."""
    secret: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    """Requests for tokens."""
    ended: list[dict[str, str]] = field(default_factory=list)
    """Requests to sign out."""
    _key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)
    _refreshes: set[str] = field(default_factory=set)

    def settings(self, **more: Any) -> dict[str, Any]:
        """What the console must know."""
        return {"oidc_issuer": self.url, "oidc_client_id": CLIENT, "oidc_ca_file": self.ca_file, **more}

    def routes(self) -> list[Route]:
        return [
            Route("/.well-known/openid-configuration", self._about),
            Route("/keys", self._keys),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/end", self._end),
        ]

    async def _about(self, request: Request) -> Response:
        if self.is_away:
            return PlainTextResponse("away", 503)
        places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        about = {name: f"{self.url}/{path}" for name, path in {**places, "end_session_endpoint": "end"}.items()}
        return JSONResponse({"issuer": self.url, **about})

    async def _keys(self, request: Request) -> Response:
        public = jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return JSONResponse({"keys": [{**public, "kid": "first", "use": "sig"}]})

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert (asked["client_id"], asked["response_type"], asked["code_challenge_method"]) == (CLIENT, "code", "S256")
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        answer = self.refusal or {"code": code, "iss": self.url}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({**answer, 'state': asked['state']})}")

    async def _token(self, request: Request) -> Response:
        if self.is_away:
            return PlainTextResponse("away", 503)
        form = {name: str(value) for name, value in (await request.form()).items()}
        self.asked.append(form)
        if self.secret:
            given = base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode()
            if given != f"{CLIENT}:{self.secret}":
                return JSONResponse({"error": "invalid_client"}, 401)
        elif form["client_id"] != CLIENT:
            return JSONResponse({"error": "invalid_client"}, 401)
        nonce = ""
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] not in self._refreshes:
                return JSONResponse({"error": "invalid_grant"}, 400)
            self._refreshes.discard(form["refresh_token"])
        else:
            asked = self._codes.pop(form["code"], None)
            if asked is None or not _fits(asked, form):
                return JSONResponse({"error": "invalid_grant", "error_description": "<script>alert(1)</script>"}, 400)
            nonce = asked["nonce"]
        return JSONResponse(self._tokens(nonce))

    def access_token(self, **claims: Any) -> str:
        """A token for the services, some of whose claims may differ."""
        return self._signed({**self._base(), "aud": AUDIENCE, "omnialign_roles": self.roles, **self.access, **claims})

    def _base(self) -> dict[str, Any]:
        return {"iss": self.url, "sub": "ann", "exp": time.time() + self.lasting, "jti": secrets.token_hex(8)}

    def _tokens(self, nonce: str) -> dict[str, Any]:
        identity = {**self._base(), "aud": CLIENT, **({"nonce": nonce} if nonce else {}), **self.identity}
        answer: dict[str, Any] = {
            "access_token": self.access_token(),
            "id_token": self._signed({name: value for name, value in identity.items() if value is not None}),
            "token_type": "Bearer",
            "expires_in": self.lasting,
        }
        if self.gives_refresh:
            answer["refresh_token"] = secrets.token_urlsafe(24)
            self._refreshes.add(answer["refresh_token"])
        return answer

    def _signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": "first"})

    async def _end(self, request: Request) -> Response:
        self.ended.append(dict(request.query_params))
        return RedirectResponse(request.query_params["post_logout_redirect_uri"])

    @contextlib.asynccontextmanager
    async def browser(self) -> AsyncIterator[httpx2.AsyncClient]:
        """What a person's browser asks the issuer with."""
        async with httpx2.AsyncClient(verify=ssl.create_default_context(cafile=str(self.ca_file))) as found:
            yield found


def _fits(asked: dict[str, str], form: dict[str, str]) -> bool:
    digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return challenge == asked["code_challenge"] and form["redirect_uri"] == asked["redirect_uri"]


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Issuer]:
    """An issuer at a free port, while the block runs."""
    authority = Authority(folder)
    pair = authority.issue("issuer")
    issuer = Issuer("", authority.file)
    config = ServerConfig(port=0, tls_certificate_file=pair.certificate, tls_key_file=pair.key)
    server = WebServer(Starlette(routes=issuer.routes()), config, lifetime=Lifetime())
    await server.start()
    issuer.url = server.address
    yield issuer
    await server.stop(0)
