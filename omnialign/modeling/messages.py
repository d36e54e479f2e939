"""Messages as a model plane sees them: text and the bytes of media, in turns.

Control messages carry media by digest (`omnialign.v1.Content`); here the bytes are at hand.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from omnialign.errors import NotFound
from omnialign.v1 import content_pb2


@dataclass(frozen=True)
class MediaBytes:
    """One medium with its bytes. `modality` is a value of `omnialign.v1.Modality`."""

    modality: int
    data: bytes

    @cached_property
    def sha256(self) -> str:
        """The digest that the medium is stored under, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


Piece = str | MediaBytes
Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class Turn:
    """What one side of a conversation said."""

    role: Literal["user", "assistant"]
    pieces: Pieces


def pieces(content: content_pb2.Content, media: Mapping[str, bytes]) -> Pieces:
    """The parts of a message with bytes looked up by sha256. Raises NotFound MEDIA_NOT_FOUND."""
    return tuple(_piece(part, media) for part in content.parts)


def _piece(part: content_pb2.Part, media: Mapping[str, bytes]) -> Piece:
    if part.WhichOneof("part") == "text":
        return part.text
    digest = part.media.sha256
    if digest not in media:
        raise NotFound(f"Media {digest} is not stored.", reason="MEDIA_NOT_FOUND", metadata={"sha256": digest})
    return MediaBytes(part.media.modality, media[digest])
