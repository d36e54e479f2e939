"""The grammar of a medium among token ids: begin id, a head, repeated units, end id.

It covers every token family: one code per unit (a VQ image of Chameleon), one unit per frame with a code of every book
(EnCodec, DAC, Mimi), a size in text before rows with marks at their ends (Emu3). Engines use it to let a model write
nothing else inside a span, adapters to read what was written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Slot = tuple[range, ...]
"""The ids that may stand in one place, as ranges."""


def slot(first_id: int, last_id: int | None = None) -> Slot:
    """The ids from one to another, the last one included; one id where there is no last one."""
    return (range(first_id, (first_id if last_id is None else last_id) + 1),)


def union(slots: Sequence[Slot]) -> Slot:
    """The ids of any of some slots."""
    return tuple(dict.fromkeys(ids for entry in slots for ids in entry))


@dataclass(frozen=True)
class MediaSpan:
    """`begin_id`, then `head`, then `min_units` to `max_units` times `unit`, then `end_id`.

    `codes` are the ids that stand in such spans alone: outside of them a model may not write them. The end id stands
    nowhere else in the span.
    """

    begin_id: int
    end_id: int
    unit: tuple[Slot, ...]
    min_units: int
    max_units: int
    codes: Slot
    head: tuple[Slot, ...] = ()

    def allowed(self, position: int) -> Slot:
        """What may stand `position` places after the begin id; the end id is one of it where the span may end."""
        if position < len(self.head):
            return self.head[position]
        units, place = divmod(position - len(self.head), len(self.unit))
        if place:
            return self.unit[place]
        more = self.unit[0] if units < self.max_units else ()
        return (*more, range(self.end_id, self.end_id + 1)) if units >= self.min_units else more

    def num_units(self, ids: Sequence[int]) -> int:
        """Units of a whole span, begin and end included; 0 if it is none."""
        if len(ids) < 2 or ids[0] != self.begin_id or ids[-1] != self.end_id:
            return 0
        units, rest = divmod(len(ids) - 2 - len(self.head), len(self.unit))
        if rest or not self.min_units <= units <= self.max_units:
            return 0
        places = zip(ids[1:-1], (*self.head, *self.unit * units), strict=True)
        return units if all(any(i in part for part in place) for i, place in places) else 0

    @property
    def max_tokens(self) -> int:
        """The length of the longest span, begin and end included."""
        return 2 + len(self.head) + self.max_units * len(self.unit)
