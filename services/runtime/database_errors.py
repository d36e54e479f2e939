"""What exceptions of a database driver mean: unavailable, without its tables, damaged, full, a lost race, an invalid
value, or a bug.
"""

import sqlite3

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from omnialign.errors import DataLoss, InvalidArgument, OmnialignError, ResourceExhausted, Unavailable

UNAVAILABLE = "DATABASE_UNAVAILABLE"
SCHEMA_MISSING = "SCHEMA_MISSING"
COMMAND = "python -m services.migrate"
LOST_RACES = ("40001", "40P01")
# PostgreSQL's SQLSTATE prefixes that mean unavailable: connections, resources, operator intervention and timeouts,
# logins, a missing database, a read-only server (a standby after a failover), and a lock timeout.
AWAY = ("08", "53", "57", "28", "3D", "25006", "25P03", "55P03")
FULL = "53100"
NO_TABLE = ("42P01", "3F000")
DAMAGED = ("XX001", "XX002")
DAMAGED_SQLITE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
ROW_TOO_LARGE = "54000"
AWAY_SQLITE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
)
FULL_WORDS = ("no space left", "disk is full", "file too large", "quota exceeded")
MAX_CHARACTERS = 200


def is_lost_race(error: DBAPIError) -> bool:
    """Whether the transaction was rolled back because of another, and may succeed when it is repeated."""
    return _sqlstate(error) in LOST_RACES


def as_omnialign_error(error: Exception, *, place: str) -> OmnialignError | None:
    """The typed error for `error` of the database at `place`; None for violated constraints and for bugs."""
    if isinstance(error, PoolTimeout | OSError):
        return _away(error, place=place)
    if not isinstance(error, DBAPIError | sqlite3.Error) or isinstance(error, IntegrityError):
        return None
    if _is_full(error):
        message = f"The storage of the database {place} is full: free some space and retry."
        return ResourceExhausted(message, reason="STORAGE_FULL", metadata={"database": place})
    if _sqlstate(error) in DAMAGED or _sqlite_code(error) in DAMAGED_SQLITE:
        return damaged(place)
    if _sqlstate(error) in NO_TABLE or str(_cause(error)).startswith("no such table"):
        return schema_missing(place)
    if isinstance(error, DataError) or _sqlstate(error) == ROW_TOO_LARGE:
        message = "A value is too long for the database or not valid text: shorten or correct it."
        return InvalidArgument(message, reason="VALUE_INVALID")
    return _away(error, place=place) if _is_away(error) else None


def damaged(place: str) -> DataLoss:
    """The error for a database whose file is damaged."""
    message = f"The database {place} is damaged: stop the service, put its last backup there, and start it again."
    return DataLoss(message, reason="DATABASE_DAMAGED", metadata={"database": place})


def schema_missing(place: str, *, service: str = "") -> Unavailable:
    """The error for a database without our tables. Unavailable, because calls succeed once they are there."""
    message = f"The database {place} has no tables: run '{COMMAND}', and restore a backup if it had some before."
    return Unavailable(message, reason=SCHEMA_MISSING, metadata={"database": place, "service": service})


def _is_full(error: DBAPIError | sqlite3.Error) -> bool:
    words = str(_cause(error)).lower()
    return (
        _sqlstate(error) == FULL
        or _sqlite_code(error) == sqlite3.SQLITE_FULL
        or any(each in words for each in FULL_WORDS)
    )


def _is_away(error: DBAPIError | sqlite3.Error) -> bool:
    if isinstance(_cause(error), sqlite3.Error):
        return _sqlite_code(error) in AWAY_SQLITE
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    sqlstate = _sqlstate(error)
    if sqlstate:
        return sqlstate in LOST_RACES or sqlstate.startswith(AWAY)
    # No code means that the driver could not reach the server.
    return isinstance(error, OperationalError | InterfaceError)


def _cause(error: BaseException) -> BaseException:
    """The driver's own error."""
    return getattr(error, "orig", None) or error


def _sqlstate(error: BaseException) -> str:
    return getattr(_cause(error), "sqlstate", None) or ""


def _sqlite_code(error: BaseException) -> int:
    return int(getattr(_cause(error), "sqlite_errorcode", 0)) & 0xFF  # the extended code begins above


def _away(error: Exception, *, place: str) -> Unavailable:
    """The error in one sentence. A driver's message may name host, user and database, but never the password."""
    cause = _cause(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    said = (lines[0] if lines else type(cause).__name__)[:MAX_CHARACTERS].rstrip(".:")
    return Unavailable(
        f"The database {place} is not available: {said}.", reason=UNAVAILABLE, metadata={"database": place}
    )
