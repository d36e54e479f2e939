"""What every format reads a row with, and values that a row must have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record
from services.data.importing.columns import AUDIO, IMAGE, VIDEO, Row, first
from services.data.importing.feedback import text
from services.data.importing.refusal import described, refusal
from services.data.importing.scales import Scales

MAX_CATEGORY_CHARACTERS = 64
PROMPT_MEDIA = {
    IMAGE: ("image", "image_path", "image_url"),
    AUDIO: ("audio", "audio_path", "audio_url"),
    VIDEO: ("video", "video_path", "video_url"),
}
"""The columns of the media of a prompt. What is in the row itself comes before the name that it had."""


class MediaReader(Protocol):
    """Stores the media of a row's first column of these that holds a value. Raises the MEDIA_* reasons."""

    def __call__(self, row: Row, names: tuple[str, ...], modality: int, *, side: int = 0) -> list[Media]:
        """The media, at least one."""
        ...


@dataclass(frozen=True)
class Given:
    """What a row is read with."""

    media: MediaReader
    written: str
    """What answers are made of, as letters, if the name of the file or the request says it."""
    references: int
    """How many references an item must have; 0 for any number."""
    store: Callable[[Any, int], Media]
    """Stores one medium of a modality that is within a message. Raises the MEDIA_* reasons."""
    scales: Scales = field(default_factory=Scales)
    ignored: frozenset[str] = frozenset()
    """Columns, and fields of messages as `column.field`, that are left out."""


Fill = Callable[[Record, Row, Given], None]
"""Fills a record from a row, field by field. Raises InvalidArgument for what is wrong with the row."""


def needed(row: Row, names: Sequence[str]) -> str:
    """The text in the first of the columns that holds a value. Raises VALUE_MISSING, TEXT_EXPECTED."""
    found = text(row, first(row, names))
    if not found:
        raise refusal("VALUE_MISSING", f"the row has no text in {' or '.join(names)}", column=names[0])
    return found


def identifier(row: Row, name: str) -> str:
    """A text or a whole number that tells rows apart. Raises ID_INVALID."""
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, int | str) or not 0 < len(str(found).strip()) <= 200:
        raise refusal("ID_INVALID", f"the id is {described(found)}, and text or a whole number is taken", column=name)
    return str(found).strip()


def category(found: str, name: str) -> str:
    """A category. Raises CATEGORY_INVALID for one that is too long."""
    if len(found) > MAX_CATEGORY_CHARACTERS:
        message = f"the category has {len(found)} characters, and up to {MAX_CATEGORY_CHARACTERS} are taken"
        raise refusal("CATEGORY_INVALID", message, column=name)
    return found


def is_list_of_text(found: Any) -> TypeGuard[list[str]]:
    """Whether a value is a list of texts."""
    return isinstance(found, list) and all(isinstance(one, str) for one in found)
