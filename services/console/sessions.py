"""Sessions: who a browser is, sealed in a cookie. The console keeps none of it.

The cookie holds the person's token, encrypted and authenticated (Fernet), and a secret that forms must repeat. So any
replica can answer, and a restart signs nobody out where the keys come from a file.
"""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnialign.errors import InvalidArgument
from services.runtime.watched_file import WatchedFile

COOKIE, SECURE_COOKIE = "omnialign", "__Host-omnialign"
MAX_COOKIE_BYTES = 4000
"""Browsers keep 4096 bytes, the cookie's name and attributes among them."""
MIN_KEY_CHARACTERS = 32


@dataclass(frozen=True)
class Session:
    """What a browser carries."""

    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """What forms must repeat: another site can send a form, but not read this."""
    token: str = ""
    """The bearer token of the person; empty for nobody."""


class Sessions:
    """Opens and seals sessions."""

    def __init__(self, key_file: Path | None, *, hours: float, secure: bool) -> None:
        """`secure` cookies travel over TLS alone. Raises OSError and ValueError for keys that cannot be used."""
        self._watched = WatchedFile(key_file, parse_keys) if key_file else None
        self._own = MultiFernet([Fernet(Fernet.generate_key())])
        self._seconds, self._secure = round(hours * 3600), secure
        self._name = SECURE_COOKIE if secure else COOKIE

    def open(self, connection: HTTPConnection) -> Session | None:
        """The session of a request; None if it has none, or one that is too old or not from here."""
        sealed = connection.cookies.get(self._name, "")
        try:
            found = json.loads(self._keys.decrypt(sealed.encode(), ttl=self._seconds))
            return Session(csrf=found["csrf"], token=found["token"])
        except (InvalidToken, ValueError, KeyError, TypeError):
            return None

    def seal(self, session: Session, headers: MutableHeaders) -> None:
        """Adds the cookie to the headers of an answer. Raises InvalidArgument TOKEN_TOO_LONG."""
        text = json.dumps({"csrf": session.csrf, "token": session.token})
        sealed = self._keys.encrypt(text.encode()).decode()
        if len(sealed) > MAX_COOKIE_BYTES:
            raise InvalidArgument(
                "The token is too long for a browser's cookie; sign in with one of at most 2,800 characters.",
                reason="TOKEN_TOO_LONG",
            )
        # Strict would leave the cookie out when a person follows a link from a chat, and so sign them out. With Lax no
        # form of another site has it, and forms must repeat a secret besides.
        secure = "; Secure" if self._secure else ""
        attributes = f"Path=/; Max-Age={self._seconds}; HttpOnly; SameSite=Lax{secure}"
        headers.append("set-cookie", f"{self._name}={sealed}; {attributes}")

    @property
    def _keys(self) -> MultiFernet:
        return self._watched.current() if self._watched else self._own


def parse_keys(text: str) -> MultiFernet:
    """The keys of a file. Raises ValueError for none, and for one that is short."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or min(map(len, lines)) < MIN_KEY_CHARACTERS:
        raise ValueError(f"it must hold keys of {MIN_KEY_CHARACTERS} characters or more, one per line")
    digests = [hashlib.sha256(line.encode()).digest() for line in lines]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])


class SessionMiddleware:
    """Gives each request its session in `request.state.session`. A handler signs in or out by putting another there.

    A new session is sent with the first page: only forms need it.
    """

    def __init__(self, app: ASGIApp, *, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = self._sessions.open(HTTPConnection(scope))
        given = found or Session()
        state = scope.setdefault("state", {})
        state["session"] = given

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html")
                if state["session"] is not given or (found is None and is_page):
                    self._sessions.seal(state["session"], headers)
            await send(message)

        await self._app(scope, receive, with_cookie)
