"""Messages as a page shows them: their texts, and their media as pictures and players."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from omnialign.client import AsyncClient
from omnialign.content import ROLES, Asked
from omnialign.errors import OmnialignError
from omnialign.v1 import content_pb2
from services.pipeline.pages.pictures import Picture, left_out, picture

MAX_MEDIUM_BYTES = 32 * 1024 * 1024
"""A larger medium is not even fetched."""
MAX_PAGE_BYTES = 24 * 1024 * 1024
"""Media that a page holds; those that come later are left out, and say so."""
MAX_TEXT_CHARACTERS = 4000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A part of a message: text, or a picture when `text` is None."""

    text: str | None = None
    picture: Picture | None = None
    cut: int = 0
    """Characters of the text that are left out."""


def media_of(messages: Iterable[content_pb2.Content]) -> dict[str, content_pb2.Media]:
    """The media of messages, by digest."""
    return {part.media.sha256: part.media for m in messages for part in m.parts if part.WhichOneof("part") == "media"}


async def fetch_media(client: AsyncClient, references: Mapping[str, content_pb2.Media]) -> dict[str, bytes]:
    """The bytes of media by digest. One that is gone, or too large, is left out: the page says so."""
    wanted = [digest for digest, reference in references.items() if reference.size_bytes <= MAX_MEDIUM_BYTES]
    try:
        found = await client.fetch_media(wanted)
    except OmnialignError as error:
        log.warning("report: media left out", extra={"media": len(wanted), "reason": error.reason})
        return {}
    for digest, why in found.errors.items():
        log.warning("report: medium left out", extra={"sha256": digest, "reason": why.reason})
    return found


def pictures(references: Mapping[str, content_pb2.Media], data: Mapping[str, bytes]) -> dict[str, Picture]:
    """Each medium ready for the page, by digest, until the page is full. Decodes: call it off the event loop."""
    shown, left = dict[str, Picture](), MAX_PAGE_BYTES
    for sha256, reference in references.items():
        if left <= 0 or reference.size_bytes > MAX_MEDIUM_BYTES:
            shown[sha256] = left_out(reference)
            continue
        shown[sha256] = picture(reference, data.get(sha256))
        left -= shown[sha256].size
    return shown


def pieces(content: content_pb2.Content, shown: Mapping[str, Picture]) -> list[Piece]:
    """The parts of a message in reading order."""
    return [
        text_piece(part.text) if part.WhichOneof("part") == "text" else Piece(picture=shown[part.media.sha256])
        for part in content.parts
    ]


def earlier(asked: Asked, shown: Mapping[str, Picture]) -> list[tuple[str, list[Piece]]]:
    """The messages that came before a prompt: the role of each, and its parts."""
    return [(ROLES[message.role], pieces(message.content, shown)) for message in asked.history]


def text_piece(text: str) -> Piece:
    """A text, of which the page shows a bounded part."""
    return Piece(text=text[:MAX_TEXT_CHARACTERS], cut=max(0, len(text) - MAX_TEXT_CHARACTERS))
