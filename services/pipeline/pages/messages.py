"""Messages as a page shows them: their texts, and their media as pictures and players."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from omnialign.client import AsyncClient
from omnialign.errors import OmnialignError
from omnialign.v1 import content_pb2
from services.pipeline.pages.pictures import Picture, picture

FETCHES_AT_ONCE = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A part of a message: text, or a picture when `text` is None."""

    text: str | None = None
    picture: Picture | None = None


def media_of(messages: Iterable[content_pb2.Content]) -> dict[str, content_pb2.Media]:
    """The media of messages, by digest."""
    return {part.media.sha256: part.media for m in messages for part in m.parts if part.WhichOneof("part") == "media"}


async def fetch_media(client: AsyncClient, references: Iterable[str]) -> dict[str, bytes]:
    """The bytes of media by digest. One that is gone is left out: the page says so."""
    places, found = asyncio.Semaphore(FETCHES_AT_ONCE), dict[str, bytes]()

    async def fetch(sha256: str) -> None:
        async with places:
            try:
                found[sha256] = await client.get_media(sha256)
            except OmnialignError as error:
                log.warning("report: medium left out", extra={"sha256": sha256, "reason": error.reason})

    async with asyncio.TaskGroup() as group:
        for sha256 in references:
            group.create_task(fetch(sha256))
    return found


def pictures(references: Mapping[str, content_pb2.Media], data: Mapping[str, bytes]) -> dict[str, Picture]:
    """Each medium ready for the page, by digest. Decodes: call it off the event loop."""
    return {sha256: picture(reference, data.get(sha256)) for sha256, reference in references.items()}


def pieces(content: content_pb2.Content, shown: Mapping[str, Picture]) -> list[Piece]:
    """The parts of a message in reading order."""
    return [
        Piece(text=part.text) if part.WhichOneof("part") == "text" else Piece(picture=shown[part.media.sha256])
        for part in content.parts
    ]
