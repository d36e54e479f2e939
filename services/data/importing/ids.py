"""The ids that an import gives, where whole records keep theirs.

An id is the source's word, and anybody can write any. So within an import the first row with an id has it, and the next
one is set aside. What the dataset holds under an id of a whole record is replaced, and counted; an import that appends
keeps it and sets the row aside.
"""

import numpy as np

from services.data.importing.journal import Array
from services.data.importing.refusal import refusal
from services.data.record_rows import RecordRow, id_hash

ID_TAKEN = "ID_TAKEN"
SHOWN_CHARACTERS = 100


class Ids:
    """The ids that one run has given so far."""

    def __init__(self, head: Array, *, append: bool) -> None:
        """`head` are the states of the dataset's records, sorted, as they were before the run."""
        self._head, self._append, self._given = head, append, set[int]()

    def take(self, record: RecordRow, *, is_own: bool) -> bool:
        """Gives a record its id, which the row may have brought; whether it takes another record's place.

        Raises ID_TAKEN.
        """
        shown, column = f"the id {record.id[:SHOWN_CHARACTERS]!r}", "id" if is_own else ""
        if record.hash in self._given:
            message = f"an earlier row of this import has {shown}, and each record has one of its own"
            raise refusal(ID_TAKEN, message, column=column)
        is_other = is_own and self._differs(record.hash, record.fingerprint)
        if is_other and self._append:
            message = f"the dataset has another record with {shown}, and an import that appends keeps it"
            raise refusal(ID_TAKEN, message, column=column)
        self._given.add(record.hash)
        return is_other

    def take_again(self, numbers: Array) -> bool:
        """Gives the ids of records that an earlier run has written, by their hashes; False if one is given already."""
        found = set(numbers.tolist())
        if not self._given.isdisjoint(found):
            return False
        self._given |= found
        return True

    def has(self, record_id: str) -> bool:
        """Whether a row of this run has the id."""
        return id_hash(record_id) in self._given

    def _differs(self, number: int, fingerprint: int) -> bool:
        """Whether the dataset has a record with this id and other contents."""
        at = int(np.searchsorted(self._head["hash"], number))
        is_there = at < len(self._head) and int(self._head["hash"][at]) == number
        return is_there and int(self._head["fingerprint"][at]) != fingerprint
