"""Files and what is to be seen of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from omnialign.modeling.decoding import DecodedMedia
from omnialign.modeling.inputs import NO_BOUNDS, MediaPolicy


@dataclass(frozen=True)
class Made:
    """A file, what is to be true of what models see, the loss that is noted, and what the file is claimed to be."""

    data: bytes
    check: Callable[[DecodedMedia], None] = lambda _: None
    loss: str = ""
    policy: MediaPolicy = NO_BOUNDS
    claim: int = 0
    """A modality; 0 for none."""


Files = Mapping[str, Callable[[], list[Made]]]
"""Makers of files, by the line of the table."""
