"""Our own tokens: those of people and services, listed in a file, and those of training jobs, signed.

The file keeps a digest of each token, and what its bearer may do:

    tokens:
      - name: alice
        sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        roles: {demo: submitter, speech: reader}
        expires: 2027-01-31T00:00:00Z
      - name: alignment
        sha256: "..."
        roles: {"*": service}

Tokens are long and random, so a plain digest is as safe as a slow one, and it can be looked up.

A job's token names the job, what it may read, and until when. It is signed, not stored: the training service makes it,
and the training and the data service check it with the same key, so that neither calls the other for it. The key file
holds one key per line, in any form of 32 bytes or more. The first one signs and all are accepted, so that a new key can
be put above the old one while jobs run.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeAlias

import jwt
import yaml

from omnialign import names
from omnialign.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from services.runtime.context import ALL_PROJECTS, Caller, Role
from services.runtime.watched_file import WatchedFile

MAX_NAME_CHARACTERS = 100
MAX_FILE_BYTES = 4 * 1024 * 1024

Problem: TypeAlias = tuple[str, str]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"name", "sha256", "roles", "expires"}
_ROLES = {role.name.lower(): role for role in Role}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Token:
    """One entry of the file."""

    caller: Caller
    expires: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether the token has expired."""
        return self.expires is not None and now >= self.expires


TokenTable: TypeAlias = Mapping[str, Token]


class TokensInvalid(InvalidArgument):
    """The file cannot be used. `problems` are (where, what is wrong), all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        text = "; ".join(f"{where}: {what}" for where, what in problems)
        super().__init__(f"The tokens file is invalid: {text}", reason="TOKENS_INVALID", violations=problems)
        self.problems = tuple(problems)


def digest(token: str) -> str:
    """The SHA-256 of a token in hexadecimal, which the file keeps instead of the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def parse_tokens(text: str) -> TokenTable:
    """The tokens of a file by their digest. Raises TokensInvalid with every problem in it."""
    if len(text) > MAX_FILE_BYTES:
        raise TokensInvalid([("file", f"is larger than {MAX_FILE_BYTES} bytes")])
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506  a safe loader, the one in C where there is one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TokensInvalid([("file", f"is not YAML: {' '.join(str(error).split())[:200]}")]) from None
    if not isinstance(document, dict) or set(document) != {"tokens"} or not isinstance(document["tokens"], list):
        raise TokensInvalid([("file", "must be a mapping with the one key `tokens`, a list")])
    problems: list[Problem] = []
    found: dict[str, Token] = {}
    taken: set[str] = set()
    for index, entry in enumerate(document["tokens"]):
        where = f"tokens[{index}]"
        wrong = list(_problems(entry, where)) or list(_repeated(entry, where, taken=taken, digests=found))
        if not wrong:
            found[entry["sha256"]] = _token(entry)
            taken.add(entry["name"])
        problems += wrong
    if problems:
        raise TokensInvalid(problems)
    return found


def _problems(entry: Any, where: str) -> Iterator[Problem]:
    """What is wrong with one entry, taken by itself."""
    if not isinstance(entry, dict):
        yield where, "must be a mapping"
        return
    for key in entry:
        if key not in _KEYS:
            yield f"{where}.{key}", f"is not a key; known are {', '.join(sorted(_KEYS))}"
    name = entry.get("name")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARACTERS:
        yield f"{where}.name", f"must be 1 to {MAX_NAME_CHARACTERS} printable characters"
    if not isinstance(entry.get("sha256"), str) or not _SHA256.fullmatch(entry["sha256"]):
        yield f"{where}.sha256", "must be the token's SHA-256 as 64 lower-case hexadecimal digits, in quotes"
    yield from _role_problems(entry.get("roles"), f"{where}.roles")
    if "expires" in entry and _moment(entry["expires"]) is None:
        yield f"{where}.expires", "must be a time such as 2027-01-31T00:00:00Z"


def _role_problems(roles: Any, where: str) -> Iterator[Problem]:
    if not isinstance(roles, dict) or not roles:
        yield where, 'must map projects, or "*" for all, to reader, submitter or admin'
        return
    for project, role in roles.items():
        if not isinstance(project, str) or (project != ALL_PROJECTS and not names.is_project_id(project)):
            yield f"{where}.{project}", 'is not the id of a project; put it in quotes, or write "*" for all'
        if not isinstance(role, str) or role not in _ROLES:
            yield f"{where}.{project}", f"must be one of {', '.join(_ROLES)}"
        elif role == "service" and set(roles) != {ALL_PROJECTS}:
            yield f"{where}.{project}", 'service is a role for "*" alone'


def _repeated(entry: Mapping[str, Any], where: str, *, taken: set[str], digests: TokenTable) -> Iterator[Problem]:
    if entry["name"] in taken:
        yield f"{where}.name", f"'{entry['name']}' is the name of an entry above"
    if entry["sha256"] in digests:
        yield f"{where}.sha256", "is that of an entry above"


def _token(entry: Mapping[str, Any]) -> Token:
    roles = {project: _ROLES[role] for project, role in entry["roles"].items()}
    return Token(Caller(entry["name"], roles), _moment(entry.get("expires")))


def _moment(value: Any) -> datetime | None:
    """A time with its zone: UTC where none is given, the first moment of a bare date; None for what is no time."""
    if isinstance(value, str):  # in quotes, as programs write it
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, date):
        return None
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


ALGORITHM = "HS256"
ISSUER = "omnialign-training"
MIN_KEY_BYTES = 32
LEEWAY_SECONDS = 10

Keys = tuple[bytes, ...]


class JobTokens:
    """Makes and checks the tokens of jobs with the keys of a file, which is read again when it changes.

    Raises InvalidArgument (`JOB_KEY_INVALID`) for a file without a key or with a short one, and OSError.
    """

    def __init__(self, key_file: Path) -> None:
        self._keys = WatchedFile(key_file, parse_keys)

    def make(self, job: str, *, inputs: Sequence[str], lifetime_seconds: float) -> str:
        """The token of a job, by the job's resource name. `inputs` are the dataset and model as its spec names them."""
        names.parse(job, names.TRAINING_JOB)
        if lifetime_seconds <= 0:
            raise FailedPrecondition("A token needs a lifetime above 0", reason="LIFETIME_INVALID")
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": job,
            "project": names.project_of(job),
            "inputs": sorted(set(inputs)),
            "iat": now,
            "exp": now + max(int(lifetime_seconds), 1),
        }
        return jwt.encode(claims, self._keys.current()[0], algorithm=ALGORITHM)

    def check(self, token: str) -> Caller:
        """The caller of a job's token. Raises Unauthenticated: `TOKEN_EXPIRED`, `TOKEN_UNKNOWN`."""
        for key in self._keys.current():
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[ALGORITHM],
                    issuer=ISSUER,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp", "iat", "sub", "iss"], "verify_aud": False},
                )
            except jwt.ExpiredSignatureError:
                raise Unauthenticated("The job's token has expired", reason="TOKEN_EXPIRED") from None
            except (jwt.InvalidTokenError, ValueError):
                continue
            job, inputs = claims["sub"], claims.get("inputs")
            if isinstance(job, str) and names.matches(job, names.TRAINING_JOB) and isinstance(inputs, list):
                return Caller(job, job=job, inputs=frozenset(map(str, inputs)))
        raise Unauthenticated("The token is unknown; check that it is meant for this server", reason="TOKEN_UNKNOWN")


def parse_keys(text: str) -> Keys:
    """The keys of a file, one a line. Raises InvalidArgument (`JOB_KEY_INVALID`)."""
    keys = tuple(line.strip().encode() for line in text.splitlines() if line.strip())
    if not keys or min(map(len, keys)) < MIN_KEY_BYTES:
        raise InvalidArgument(
            f"The file of job keys must hold one key per line, each of {MIN_KEY_BYTES} bytes or more",
            reason="JOB_KEY_INVALID",
        )
    return keys
