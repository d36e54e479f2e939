"""Combinations of modalities, written as letters in the order t, i, a, v: `ti` is text and image."""

import math
from collections.abc import Iterable, Mapping

from omnialign.content import NAMES
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2

ORDER = "tiav"
SUM_TOLERANCE = 1e-6


def combination(letters: Iterable[str]) -> str:
    """The combination of some of the letters t, i, a and v."""
    return "".join(sorted(set(letters), key=ORDER.index))


def combination_of(message: content_pb2.Content) -> str:
    """The modalities that a message contains; "" for an empty one. Blank text is none."""
    texts = ["t" for part in message.parts if part.text.strip()]
    media = [part.media for part in message.parts if part.WhichOneof("part") == "media"]
    return combination([*texts, *(NAMES[one.modality][0] for one in media if one.modality in NAMES)])


def media_among(combinations: Iterable[str]) -> str:
    """The letters of the media in any of some combinations, in the order i, a, v."""
    return combination({"i", "a", "v"}.intersection("".join(combinations)))


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises InvalidArgument (SHARES_INVALID) unless these are shares of votes for combinations, which add up to 1."""
    for name, share in shares.items():
        if not name or set(name) - set(ORDER) or combination(name) != name:
            raise _invalid(f"there are votes for {name!r}, and letters in the order t, i, a, v are taken")
        if not (math.isfinite(share) and 0 <= share <= 1):
            raise _invalid(f"the share of {name} is {share:g}, and 0 to 1 is taken")
    total = math.fsum(shares.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise _invalid(f"the shares of the votes add up to {total:g}, and 1 is taken")


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="SHARES_INVALID")
