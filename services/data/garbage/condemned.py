"""Objects that nobody names: condemned when that is found, and removed a grace period later unless somebody wants them.

Whoever puts an object, or names it, pardons it first and looks for it only then. An object that is about to be removed
is claimed: then it cannot be pardoned any more, and whoever tries is told to come again. So nobody finds an object that
is gone a moment later, although a database and an object store know no common transaction:

- a pardon before the claim takes the object off the list, and there is nothing to claim;
- a pardon after the claim fails until the object is gone; then the object is put anew.

A claim that is not done in time was that of a process that died, and may be claimed again. A medium's key is its
digest; a pack's is `pack/` and its name.
"""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from omnialign.errors import Unavailable
from services.data.store import CONDEMNED_OBJECTS, HELD_OBJECTS, NAMES_PER_QUERY, PACKED_MEDIA, is_held, now_us
from services.runtime.database import Database, is_among

PACK = "pack/"
LEAST_CLAIM_SECONDS, CLAIM_SECONDS = 10.0, 600.0
"""How long a claim lasts: as long as the grace period, but not less and not more than this."""
TABLE = CONDEMNED_OBJECTS.c


class Condemned:
    """The list of condemned objects. Blocking; safe for concurrent threads and processes."""

    def __init__(self, database: Database, *, grace_seconds: float) -> None:
        self._database, self._grace_us = database, int(grace_seconds * 1e6)
        # Whoever sets a grace period says that no call takes longer, and so no removal either.
        self._claim_us = int(min(CLAIM_SECONDS, max(LEAST_CLAIM_SECONDS, grace_seconds)) * 1e6)

    def pardon(self, keys: Iterable[str]) -> None:
        """Keeps objects from being removed for the grace period. Raises OBJECT_LEAVES."""
        wanted = sorted(set(keys))
        # Most are not listed: a look is cheaper than a write. What is listed after the look stays for the grace period.
        if wanted and (listed := self._database.read_here(lambda connection: _listed(connection, wanted))):
            self._database.write_here(lambda connection: pardon(connection, listed))

    def condemn(self, keys: Sequence[str]) -> int:
        """Lists objects, unless they are listed; returns how many are new."""
        if not keys:
            return 0
        insert = self._database.insert(CONDEMNED_OBJECTS).on_conflict_do_nothing().returning(TABLE.key)
        rows = [{"key": key, "since_us": now_us()} for key in sorted(keys)]
        return len(self._database.write_here(lambda connection: connection.scalars(insert, rows).all()))

    def claim(self) -> list[str]:
        """Some of the objects whose time has come and that still nobody names, which the caller now removes."""
        return self._database.write_here(self._claim)

    def is_mine(self, since_us: int) -> bool:
        """Whether a claim of that time is young enough that nobody else takes it over while a removal is under way."""
        return now_us() - since_us < self._claim_us / 2

    def done(self, keys: Sequence[str]) -> None:
        """Takes claimed objects off the list, now that they are gone."""
        rows = CONDEMNED_OBJECTS.delete().where(TABLE.key.in_(keys))
        self._database.write_here(lambda connection: connection.execute(rows))

    def _claim(self, connection: Connection) -> list[str]:
        now = now_us()
        is_open = sa.or_(TABLE.claimed_us.is_(None), TABLE.claimed_us < now - self._claim_us)
        due = sa.select(TABLE.key).where(TABLE.since_us <= now - self._grace_us, is_open)
        keys = connection.scalars(due.order_by(TABLE.since_us, TABLE.key).limit(NAMES_PER_QUERY)).all()
        if not keys:
            return []
        named = _named(connection, keys)
        connection.execute(CONDEMNED_OBJECTS.delete().where(TABLE.key.in_(named), TABLE.claimed_us.is_(None)))
        rows = CONDEMNED_OBJECTS.update().where(TABLE.key.in_(set(keys) - named), is_open).values(claimed_us=now)
        return list(connection.scalars(rows.returning(TABLE.key)))


def pardon(connection: Connection, keys: Sequence[str]) -> None:
    """`Condemned.pardon`, within a transaction."""
    if listed := _listed(connection, keys):
        some = is_among(connection, TABLE.key, listed)
        connection.execute(CONDEMNED_OBJECTS.delete().where(some, TABLE.claimed_us.is_(None)))
        if (claimed := connection.scalars(sa.select(TABLE.key).where(some).limit(1)).first()) is not None:
            message = "The same bytes are being removed, because nothing named them: try again in a moment."
            raise Unavailable(message, reason="OBJECT_LEAVES", metadata={"key": claimed})


def _listed(connection: Connection, keys: Sequence[str]) -> list[str]:
    if connection.scalars(sa.select(TABLE.key).limit(1)).first() is None:  # as a rule, and much quicker to see
        return []
    return list(connection.scalars(sa.select(TABLE.key).where(is_among(connection, TABLE.key, keys))))


def _named(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Those of the objects that somebody names: media by their holders, packs by the media in them."""
    media = [key for key in keys if not key.startswith(PACK)]
    named = set(connection.scalars(sa.select(HELD_OBJECTS.c.key).where(HELD_OBJECTS.c.key.in_(media), is_held())))
    packs = {bytes.fromhex(key.removeprefix(PACK)): key for key in keys if key.startswith(PACK)}
    used = sa.select(PACKED_MEDIA.c.pack).where(PACKED_MEDIA.c.pack.in_(list(packs))).distinct()
    return named | {packs[name] for name in connection.scalars(used)}
