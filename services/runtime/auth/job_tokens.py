"""The token of a training job: says which job it is, what it may read, and until when. Signed, not stored.

The training service makes it; the training and the data service check it with the same key, so no call goes between
them for it. The key file holds one key a line, in any form of 32 bytes or more: the first one signs and all are
accepted, so that a new key can be put above the old one while jobs run.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import jwt

from omnialign import names
from omnialign.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from services.runtime.auth.callers import Caller
from services.runtime.auth.watched import Watched

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
        self._keys = Watched(key_file, parse_keys)

    def make(self, job: str, *, inputs: Sequence[str], lifetime_seconds: float) -> str:
        """The token of a job, by the job's resource name. `inputs` are the dataset and model as its spec names them."""
        names.parse(job, names.TRAINING_JOB)
        if lifetime_seconds <= 0:
            raise FailedPrecondition("A token needs a lifetime above 0", reason="LIFETIME_INVALID")
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": job,
            "project": job.split("/")[1],
            "inputs": sorted(set(inputs)),
            "iat": now,
            "exp": now + max(int(lifetime_seconds), 1),
        }
        return jwt.encode(claims, self._keys.current()[0], algorithm=ALGORITHM)

    def check(self, token: str) -> Caller:
        """The job that a token is of. Raises Unauthenticated: `TOKEN_EXPIRED`, `TOKEN_UNKNOWN`."""
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
        raise Unauthenticated("The token is not one that is known here", reason="TOKEN_UNKNOWN")


def parse_keys(text: str) -> Keys:
    """The keys of a file, one a line. Raises InvalidArgument (`JOB_KEY_INVALID`)."""
    keys = tuple(line.strip().encode() for line in text.splitlines() if line.strip())
    if not keys or min(map(len, keys)) < MIN_KEY_BYTES:
        raise InvalidArgument(
            f"The file of job keys must hold one key a line, each of {MIN_KEY_BYTES} bytes or more",
            reason="JOB_KEY_INVALID",
        )
    return keys
