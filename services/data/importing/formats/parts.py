"""The parts of messages: texts, media within them, and places for the media of a row's columns.

A place is a part without a medium (`{"type": "image"}`), or in a text the marker `<image>`, `<audio>` or `<video>`. The
places of all messages, the prompt's first, take the media of their modality in the order of the column. Media are
never dropped or moved: a row in which places and media do not match is set aside. Media without any place come first in
the prompt.
"""

from collections.abc import Mapping
from typing import Any

from omnialign.content import NAMES
from omnialign.placeholders import at_markers
from omnialign.v1.content_pb2 import Media
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import Row
from services.data.importing.formats.messages import Message
from services.data.importing.formats.spelling import Spelling
from services.data.importing.refusal import described, in_column, refusal

KINDS = {name: modality for modality, name in NAMES.items() if name != "text"}
MAX_PARTS = 256
HINTS = frozenset({"type", "detail", "format", "mime_type", "index"})
"""What a part may have besides its medium: hints for a server that say nothing of the message."""

Part = str | Media


class Places:
    """The media of a row's columns, given out to the places in its messages."""

    def __init__(self, row: Row, spelling: Spelling, given: Given) -> None:
        self._given, self._has_markers = given, spelling.has_markers
        self._columns, self._media, self._taken = dict[int, str](), dict[int, list[Media]](), dict[int, int]()
        for modality, names in spelling.media.items():
            there = [name for name in names if row.get(name) is not None and row[name] not in ("", [])]
            if len(there) > 1:
                message = f"both {there[0]} and {there[1]} have a value, and one of them is taken"
                raise refusal("COLUMN_TWICE", message, column=there[1])
            self._columns[modality] = there[0] if there else names[0]
            self._media[modality] = given.media(row, (there[0],), modality) if there else []
            self._taken[modality] = 0

    def parts(self, message: Message) -> list[Part]:
        """The parts of a message. Raises MEDIA_MISSING, PART_UNSUPPORTED, MESSAGES_INVALID, the MEDIA_* reasons."""
        if isinstance(message.content, str):
            return self._of_text(message.content, message)
        if len(message.content) > MAX_PARTS:
            text = f"{_named(message)} has {len(message.content)} parts, and up to {MAX_PARTS} are taken"
            raise refusal("MESSAGES_INVALID", text, column=message.column)
        found = [self._part(part, message, number) for number, part in enumerate(message.content, 1)]
        return [part for part in found if part != ""]

    def unplaced(self) -> list[Media]:
        """The media without a place, which come first in the prompt. Raises MEDIA_UNPLACED if others have one."""
        found = list[Media]()
        for modality, media in self._media.items():
            taken = self._taken[modality]
            if 0 < taken < len(media):
                message = f"the row has {len(media)} media and the messages {taken} places for them"
                raise refusal("MEDIA_UNPLACED", message, column=self._columns[modality])
            found += media[taken:]
        return found

    def _of_text(self, text: str, message: Message) -> list[Part]:
        """A text with a medium for each marker."""

        def take(kind: str) -> Media | None:
            is_place = self._has_markers or self._media[KINDS[kind]]
            return self._take(KINDS[kind], message) if is_place else None

        return at_markers(text, take)

    def _take(self, modality: int, message: Message) -> Media:
        media, taken = self._media[modality], self._taken[modality]
        if taken == len(media):
            text = (
                f"{_named(message)} has a place for {NAMES[modality]} {taken + 1}, and the row has {len(media)} in "
                f"{self._columns[modality]}"
            )
            raise refusal("MEDIA_MISSING", text, column=self._columns[modality])
        self._taken[modality] += 1
        return media[taken]

    def _part(self, found: Any, message: Message, number: int) -> Part:
        place = f"{_named(message)}, part {number}"
        if isinstance(found, str):
            return found
        if not isinstance(found, Mapping):
            text = f"{place} is {described(found)}, and text or an object with a type is taken"
            raise refusal("PART_UNSUPPORTED", text, column=message.column)
        kind = _kind(found)
        if kind not in ("text", *KINDS):
            shown = found.get("type")
            there = f"of the type {shown[:40]!r}" if isinstance(shown, str) else "without a type that is known"
            text = f"{place} is {there}, and text, image, audio or video is taken"
            raise refusal("PART_UNSUPPORTED", text, column=message.column)
        medium = _medium(found, kind) if kind != "text" else {}
        read = HINTS | ({"text"} if kind == "text" else set(medium))
        unread = [name for name, one in found.items() if one is not None and name not in read]
        if unread:
            text = f"{place} has the field {str(unread[0])[:80]!r}, which is not read"
            raise refusal("PART_UNSUPPORTED", text, column=message.column)
        if kind == "text":
            if not isinstance(found.get("text"), str):
                text = f"{place} holds {described(found.get('text'))}, and text is taken"
                raise refusal("PART_UNSUPPORTED", text, column=message.column)
            return str(found["text"])
        if not medium:
            return self._take(KINDS[kind], message)
        with in_column(message.column, next(iter(medium.values()))):
            return self._given.store(_unwrapped(next(iter(medium.values())), kind), KINDS[kind])


def _named(message: Message) -> str:
    return f"message {message.number}"


def _kind(part: Mapping[str, Any]) -> str:
    """What a part is: `image` for the types image, image_url and input_image; by its only key if it has no type."""
    said = part.get("type")
    if said is None:
        named = [kind for kind in ("text", *KINDS) if part.get(kind) is not None]
        return named[0] if len(named) == 1 else ""
    return said.strip().lower().removeprefix("input_").removesuffix("_url") if isinstance(said, str) else ""


def _medium(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The field of a part that holds its medium; none for a place."""
    names = (kind, f"{kind}_url", f"input_{kind}", "path", "url", "data", "bytes")
    return next(({name: part[name]} for name in names if part.get(name) is not None), {})


def _unwrapped(found: Any, kind: str) -> Any:
    """What a store takes: the URL of `{"url": ...}`, and for `{"data": ...}` a `data:` URL."""
    if isinstance(found, Mapping):
        if isinstance(found.get("url"), str):
            return found["url"]
        if isinstance(found.get("data"), str):
            data = found["data"]
            return data if data.startswith("data:") else f"data:{kind}/unknown;base64,{data}"
    return found
