"""What all forms of rows share: messages as texts and parts, media by their paths, and records that do not fit."""

from collections.abc import Callable, Sequence
from typing import Any

from omnialign.content import NAMES, media_file_name, media_of, text_of
from omnialign.v1.content_pb2 import Content, Media
from omnialign.v1.record_pb2 import Record

Row = dict[str, Any]
MEDIA_COLUMNS = {"image": "images", "audio": "audios", "video": "videos"}
FOLDER = "media"
"""Where media lie beside the rows."""


class Unwritable(ValueError):
    """A record that the columns cannot hold; the message completes "left out because "."""


def path_of(medium: Media) -> str:
    """Where a medium lies beside the rows."""
    return f"{FOLDER}/{media_file_name(medium)}"


def check_history(record: Record) -> None:
    """Raises Unwritable if a message before the prompt is blank."""
    for message in record.history:
        if not text_of(message.content).strip() and not any(media_of([message.content])):
            raise Unwritable("a message before its prompt is blank")


def with_place(record: Record, row: Row) -> Row:
    """The row with what every row may have: id, split and labels. Empty values are left out."""
    whole: Row = {"id": record.id, "split": record.split, **row}
    if record.labels:
        whole["labels"] = dict(record.labels)
    return {name: value for name, value in whole.items() if value not in ("", None)}


def media_columns(messages: Sequence[Content]) -> Row:
    """The columns of the media of messages, by kind and in order."""
    paths: dict[str, list[str]] = {}
    for medium in media_of(messages):
        paths.setdefault(MEDIA_COLUMNS[NAMES[medium.modality]], []).append(path_of(medium))
    return dict(paths)


def parts_of(message: Content) -> list[str | Media]:
    """The parts as texts and media."""
    return [part.text if part.WhichOneof("part") == "text" else part.media for part in message.parts]


def is_text(message: Content) -> bool:
    """Whether a message is one text."""
    return len(message.parts) == 1 and message.parts[0].WhichOneof("part") == "text"


def text_in(message: Content, what: str) -> str:
    """The one text that a message is. Raises Unwritable."""
    if not is_text(message):
        raise Unwritable(f"{what} is not one text, and no more has a place")
    return message.parts[0].text


def unblanked(text: str, what: str) -> str:
    """A text that is read as it stands. Raises Unwritable for blanks around it, which are not."""
    if text != text.strip():
        raise Unwritable(f"{what} has blanks around it")
    return text


def turn(role: str, message: Content, medium: Callable[[Media], Row]) -> Row:
    """A message with a role and parts, each medium as `medium` writes it."""
    content = [{"type": "text", "text": one} if isinstance(one, str) else medium(one) for one in parts_of(message)]
    return {"role": role, "content": content}
