"""Building and reading multimodal messages (`omnialign.v1.Content`)."""

import mimetypes
from collections.abc import Iterable, Iterator

from omnialign.v1 import content_pb2

NAMES: dict[int, str] = {
    content_pb2.MODALITY_TEXT: "text",
    content_pb2.MODALITY_IMAGE: "image",
    content_pb2.MODALITY_AUDIO: "audio",
    content_pb2.MODALITY_VIDEO: "video",
}
SUFFIXES = {"audio/wav": ".wav", "audio/x-wav": ".wav", "image/jpeg": ".jpg", "video/mp4": ".mp4"}
LETTERS: dict[str, int] = {name[0]: modality for modality, name in NAMES.items()}


def content(*parts: str | content_pb2.Media) -> content_pb2.Content:
    """A message of text and media, in the order given."""
    return content_pb2.Content(
        parts=[content_pb2.Part(text=p) if isinstance(p, str) else content_pb2.Part(media=p) for p in parts]
    )


def text_of(message: content_pb2.Content) -> str:
    """The text parts, joined by a space."""
    return " ".join(part.text for part in message.parts if part.WhichOneof("part") == "text")


def media_of(messages: Iterable[content_pb2.Content]) -> Iterator[content_pb2.Media]:
    """The media of several messages, in order, repeated ones included."""
    for message in messages:
        for part in message.parts:
            if part.WhichOneof("part") == "media":
                yield part.media


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
