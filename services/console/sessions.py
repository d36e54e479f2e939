"""Sessions: who a browser is, sealed in a cookie. The console keeps none of it.

The cookie holds the person's token, encrypted and authenticated (Fernet), and a secret that forms must repeat. So any
replica can answer, and a restart signs nobody out where the keys come from a file. What is longer than browsers keep in
one cookie is in several, `omnialign`, `omnialign-1` and so on; the first says how many.
"""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnialign.errors import InvalidArgument
from services.runtime.watched_file import WatchedFile

COOKIE, SECURE_COOKIE = "omnialign", "__Host-omnialign"
MAX_COOKIE_BYTES, MAX_COOKIES = 4000, 4
"""Browsers keep 4096 bytes of a cookie, its name and attributes among them."""
MAX_SESSION_BYTES = MAX_COOKIE_BYTES * MAX_COOKIES * 3 // 4 - 100
"""Of what is sealed: sealing adds at most 73 bytes, and then a third."""
MIN_KEY_CHARACTERS = 32


@dataclass(frozen=True)
class Flow:
    """A sign-in at the issuer that this browser has begun, and no other."""

    state: str
    nonce: str
    verifier: str
    """Secret of PKCE (RFC 7636)."""
    back: str
    """Where the issuer sends the browser."""
    wanted: str
    """Where the person was."""
    begun: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Session:
    """What a browser carries."""

    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """What forms must repeat: another site can send a form, but not read this."""
    token: str = ""
    """The bearer token of the person; empty for nobody."""
    begun: float = field(default_factory=time.time)
    renew_at: float = 0.0
    """When an issuer's token is to be renewed; 0 for never."""
    refresh: str = ""
    """The issuer's refresh token."""
    id_token: str = ""
    """The issuer's own statement of who this is, with which a person signs out there."""
    is_issued: bool = False
    """Whether the token is of the issuer."""
    flow: Flow | None = None
    """The sign-in under way."""

    def text(self) -> str:
        """What is sealed."""
        return json.dumps(asdict(self))

    @property
    def fits(self) -> bool:
        """Whether a browser keeps it."""
        return len(self.text()) <= MAX_SESSION_BYTES

    def fitting(self) -> "Session":
        """Itself. Raises InvalidArgument TOKEN_TOO_LONG if it does not fit."""
        if not self.fits:
            raise InvalidArgument(
                f"The token is too long for a browser's cookies, which hold {MAX_SESSION_BYTES:,} characters; have one "
                "with fewer claims issued.",
                reason="TOKEN_TOO_LONG",
            )
        return self


Renew = Callable[[Session], Awaitable[Session]]
"""Gives the session with a new token if the old one is about to expire, else the same object. Raises nothing."""


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
        try:
            found = json.loads(self._keys.decrypt(self._joined(connection).encode(), ttl=self._seconds))
            flow = found.pop("flow")
            session = Session(**found, flow=Flow(**flow) if flow else None)
        except (InvalidToken, ValueError, KeyError, TypeError):
            return None
        # Renewing seals again, so the age of the seal is not that of the session.
        return session if time.time() - session.begun <= self._seconds else None

    def seal(self, session: Session, headers: MutableHeaders, *, held: int = 0) -> None:
        """Adds the cookies of a session that fits to the headers of an answer to a browser that holds `held`."""
        sealed = self._keys.encrypt(session.text().encode()).decode()
        pieces = [sealed[at : at + MAX_COOKIE_BYTES] for at in range(0, len(sealed), MAX_COOKIE_BYTES)]
        # Strict would leave the cookie out when a person follows a link from a chat, and so sign them out. With Lax no
        # form of another site has it, and forms must repeat a secret besides.
        secure = "; Secure" if self._secure else ""
        attributes = f"Path=/; HttpOnly; SameSite=Lax{secure}"
        pieces[0] = f"{len(pieces)}.{pieces[0]}"
        for number, piece in enumerate(pieces):
            headers.append("set-cookie", f"{self._name_of(number)}={piece}; Max-Age={self._seconds}; {attributes}")
        for number in range(len(pieces), held):
            headers.append("set-cookie", f"{self._name_of(number)}=; Max-Age=0; {attributes}")

    def held(self, connection: HTTPConnection) -> int:
        """How many cookies of ours a browser has."""
        return sum(self._name_of(number) in connection.cookies for number in range(MAX_COOKIES))

    def _joined(self, connection: HTTPConnection) -> str:
        count, _, first = connection.cookies.get(self._name, "").partition(".")
        rest = range(1, min(int(count), MAX_COOKIES) if count.isascii() and count.isdigit() and len(count) == 1 else 1)
        return "".join((first, *(connection.cookies.get(self._name_of(number), "") for number in rest)))

    def _name_of(self, number: int) -> str:
        return f"{self._name}-{number}" if number else self._name

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

    A new session is sent with the first page: only forms need it. One whose token is about to expire is renewed.
    """

    def __init__(self, app: ASGIApp, *, sessions: Sessions, renew: Renew | None = None) -> None:
        self._app, self._sessions, self._renew = app, sessions, renew

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        found = self._sessions.open(connection)
        given = found or Session()
        state = scope.setdefault("state", {})
        state["session"] = await self._renew(given) if self._renew and given.renew_at else given

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html")
                is_shared = "public" in headers.get("cache-control", "")  # caches would give the cookie to others
                if not is_shared and (state["session"] is not given or (found is None and is_page)):
                    self._sessions.seal(state["session"], headers, held=self._sessions.held(connection))
            await send(message)

        await self._app(scope, receive, with_cookie)
