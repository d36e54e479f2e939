"""Building and reading multimodal messages (`omnialign.v1.Content`)."""

import mimetypes
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias

from omnialign.v1 import content_pb2, record_pb2

NAMES: dict[int, str] = {
    content_pb2.MODALITY_TEXT: "text",
    content_pb2.MODALITY_IMAGE: "image",
    content_pb2.MODALITY_AUDIO: "audio",
    content_pb2.MODALITY_VIDEO: "video",
}
SUFFIXES = {"audio/wav": ".wav", "audio/x-wav": ".wav", "image/jpeg": ".jpg", "video/mp4": ".mp4"}
LETTERS: dict[str, int] = {name[0]: modality for modality, name in NAMES.items()}


Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: dict[int, Role] = {
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_USER: "user",
    content_pb2.ROLE_ASSISTANT: "assistant",
}


class Asked(Protocol):
    """A record, or an item of a request about one."""

    @property
    def history(self) -> Sequence[content_pb2.EarlierMessage]:
        """The messages that came before the prompt."""

    @property
    def prompt(self) -> content_pb2.Content:
        """The prompt."""


def content(*parts: str | content_pb2.Media) -> content_pb2.Content:
    """A message of text and media, in the order given."""
    message = content_pb2.Content()
    add_parts(message, parts)
    return message


def add_parts(message: content_pb2.Content, parts: Iterable[str | content_pb2.Media]) -> None:
    """Adds text and media to a message. Within another message, this copies less than to put a whole one there."""
    add = message.parts.add  # a part that is made elsewhere would be copied
    for part in parts:
        if isinstance(part, str):
            add(text=part)
        else:
            add(media=part)


def text_of(message: content_pb2.Content) -> str:
    """The text parts, joined by a space."""
    return " ".join(part.text for part in message.parts if part.WhichOneof("part") == "text")


def asked_of(asked: Asked) -> Iterator[content_pb2.Content]:
    """All that a response answers: the messages that came before the prompt, and the prompt."""
    yield from (message.content for message in asked.history)
    yield asked.prompt


def written_history(asked: Asked) -> Iterator[str | content_pb2.Media]:
    """The messages that came before the prompt as texts with their roles, a line each, and the media between them."""
    text = ""
    for number, message in enumerate(asked.history):
        text += ("\n" if number else "") + f"[{ROLES[message.role]}]: "
        for part in message.content.parts:
            if part.WhichOneof("part") == "text":
                text += part.text
            else:
                yield from [text] if text else []
                yield part.media
                text = ""
    yield from [text] if text else []


def contents_of(record: record_pb2.Record) -> Iterator[content_pb2.Content]:
    """The messages of a record: all that was asked, and the responses."""
    yield from asked_of(record)
    yield from (response.content for response in record.responses)


def media_of(messages: Iterable[content_pb2.Content]) -> Iterator[content_pb2.Media]:
    """The media of several messages, in order, repeated ones included."""
    for message in messages:
        for part in message.parts:
            if part.HasField("media"):
                yield part.media


def parts_of(record: record_pb2.Record) -> list[content_pb2.Part]:
    """The parts of all messages of a record, in the order of `contents_of`."""
    # Written out: tables and streams look for media in each of a million records.
    parts = [part for message in record.history for part in message.content.parts] if record.history else []
    parts += record.prompt.parts
    for response in record.responses:
        parts += response.content.parts
    return parts


def contributed_parts_of(record: record_pb2.Record) -> list[content_pb2.Part]:
    """The parts that the responses of a record were put together from."""
    return [part for response in record.responses for one in response.made_of for part in one.content.parts]


def subtask_of(prompt: content_pb2.Content, response: content_pb2.Content) -> str:
    """The subtask that a prompt and a response to it are of, such as `ti2t`; what is empty counts as text."""
    return "2".join(_letters(message) or "t" for message in (prompt, response))


def _letters(message: content_pb2.Content) -> str:
    found = {
        content_pb2.MODALITY_TEXT if part.WhichOneof("part") == "text" else part.media.modality
        for part in message.parts
    }
    return "".join(letter for letter, modality in LETTERS.items() if modality in found)


def media_file_name(medium: content_pb2.Media) -> str:
    """The name of an exported medium: `<sha256>` and the suffix of its type."""
    suffix = SUFFIXES.get(medium.mime_type) or mimetypes.guess_extension(medium.mime_type) or ".bin"
    return medium.sha256 + suffix


def output_modalities(subtask: str) -> tuple[str, ...]:
    """Modalities that a subtask's answers have: `ti2ti` gives ("text", "image"). Empty for an unknown code."""
    _, _, written = subtask.partition("2")
    return tuple(NAMES[LETTERS[letter]] for letter in written if letter in LETTERS)
