"""Messages as chats send them: roles, and contents of text and media, read into plain values.

Media come as bytes (`data:` URIs, or base64 for sound) or as references to what is stored here already. What they are
is decided by their bytes when they are stored; only the modality must be that of the part. No address is ever fetched.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2
from omnialign.v1.content_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER
from services.console.door.bodies import text_at
from services.console.door.errors import invalid, unsupported

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
REFERENCE = "omnialign://media/"
"""What begins the reference to a stored medium; its SHA-256 follows."""

ROLES = {"system": ROLE_SYSTEM, "developer": ROLE_SYSTEM, "user": ROLE_USER, "assistant": ROLE_ASSISTANT}
URL_PARTS = {"image_url": IMAGE, "video_url": VIDEO, "audio_url": AUDIO}
MAX_PARTS = MAX_MESSAGES = 256
_DATA_URI = re.compile(r"data:[^,]{0,200};base64,")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class InlineMedium:
    """A medium whose bytes came with the request; `param` is where."""

    param: str
    modality: int
    data: bytes


@dataclass(frozen=True)
class StoredMedium:
    """A medium that is stored already."""

    param: str
    modality: int
    sha256: str


Piece: TypeAlias = str | InlineMedium | StoredMedium


@dataclass(frozen=True)
class Message:
    """One message. `role` is a value of `omnialign.v1.Role`."""

    role: int
    pieces: tuple[Piece, ...]


def read_messages(value: Any) -> tuple[Message, ...]:
    """The messages of a request, the last of which is the user's.

    Raises InvalidArgument PARAMETER_INVALID, PARAMETER_UNSUPPORTED, MEDIA_URL_FOREIGN, MEDIA_UNDECODABLE.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise invalid("messages", f"must be a list of 1 to {MAX_MESSAGES} messages")
    messages = tuple(_message(message, f"messages[{index}]") for index, message in enumerate(value))
    if messages[-1].role != ROLE_USER:
        raise invalid(f"messages[{len(messages) - 1}].role", "must be user, because the model answers the last message")
    return messages


def reference_to(sha256: str) -> str:
    """The reference to a stored medium, as a part of a request may name it."""
    return f"{REFERENCE}{sha256}"


def _message(value: Any, param: str) -> Message:
    if not isinstance(value, Mapping):
        raise invalid(param, "must be an object with role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"{param}.role", "must be system, developer, user or assistant")
    known = {"role", "content"} if role != "assistant" else {"role", "content", "parts", "images", "videos", "audio"}
    for name in sorted(set(value) - known):
        if value[name]:  # what is null or empty says nothing
            raise unsupported(f"{param}.{name}", "leave it out")
    return Message(ROLES[role], tuple(_pieces(value, param)))


def _pieces(message: Mapping[str, Any], param: str) -> Iterator[Piece]:
    # An assistant's message may be an answer of ours: its parts are all of it, in their order.
    if message.get("parts"):
        yield from _parts(message["parts"], f"{param}.parts")
        return
    yield from _content(message.get("content"), f"{param}.content")
    for name in ("images", "videos"):
        if message.get(name):
            yield from _parts(message[name], f"{param}.{name}")
    if message.get("audio"):
        yield _spoken(message["audio"], f"{param}.audio")


def _content(value: Any, param: str) -> Iterator[Piece]:
    if isinstance(value, str):
        if value:
            yield text_at(value, param)
    elif isinstance(value, list):
        yield from _parts(value, param)
    elif value is not None:
        raise invalid(param, "must be a string or a list of parts")


def _parts(value: Any, param: str) -> Iterator[Piece]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_PARTS:
        raise invalid(param, f"must be a list of at most {MAX_PARTS} parts")
    for index, part in enumerate(value):
        yield _part(part, f"{param}[{index}]")


def _part(part: Any, param: str) -> Piece:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return text_at(part.get("text"), f"{param}.text")
    if isinstance(kind, str) and kind in URL_PARTS:
        return _from_url(part.get(kind), f"{param}.{kind}", URL_PARTS[kind])
    if kind == "input_audio":
        return _sound(part.get("input_audio"), f"{param}.input_audio")
    known = ", ".join(("text", *URL_PARTS, "input_audio"))
    raise invalid(f"{param}.type", f"must be one of {known}")


def _from_url(value: Any, param: str, modality: int) -> Piece:
    """The medium of a part with an address: `{"url": ...}`, or the address itself."""
    url = value.get("url") if isinstance(value, Mapping) else value
    if isinstance(value, Mapping):
        for name in sorted(set(value) - {"url"}):
            if value[name] not in (None, "", "auto"):
                raise unsupported(f"{param}.{name}", "leave it out: the model's processor decides how media are scaled")
        param = f"{param}.url"
    if not isinstance(url, str):
        raise invalid(param, "must be a string")
    if url.startswith(REFERENCE):
        return _stored(url, param, modality)
    if not (found := _DATA_URI.match(url)):
        raise _foreign(param)
    return InlineMedium(param, modality, _decoded(url[found.end() :], param))


def _sound(value: Any, param: str) -> Piece:
    data = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(data, str):
        raise invalid(f"{param}.data", "must be the sound in base64")
    if data.startswith(REFERENCE):
        return _stored(data, f"{param}.data", AUDIO)
    if found := _DATA_URI.match(data):
        data = data[found.end() :]
    return InlineMedium(f"{param}.data", AUDIO, _decoded(data, f"{param}.data"))


def _spoken(value: Any, param: str) -> Piece:
    """The sound of an earlier answer, which is stored here: `{"id": ...}`."""
    reference = value.get("id") if isinstance(value, Mapping) else None
    if not isinstance(reference, str) or not reference.startswith(REFERENCE):
        raise invalid(f"{param}.id", "must be the id of the sound of an earlier answer")
    return _stored(reference, f"{param}.id", AUDIO)


def _stored(reference: str, param: str, modality: int) -> StoredMedium:
    sha256 = reference.removeprefix(REFERENCE)
    if not _DIGEST.fullmatch(sha256):
        raise invalid(param, f"must be {REFERENCE} followed by a SHA-256 of 64 hexadecimal digits")
    return StoredMedium(param, modality, sha256)


def _decoded(text: str, param: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(param, "is not valid base64", reason="MEDIA_UNDECODABLE") from None
    if not data:
        raise invalid(param, "is empty", reason="MEDIA_EMPTY")
    return data


def _foreign(param: str) -> InvalidArgument:
    problem = (
        "is an address, and this server fetches none; send the bytes as `data:TYPE;base64,...`, or a stored medium as "
        f"`{REFERENCE}SHA256`"
    )
    return invalid(param, problem, reason="MEDIA_URL_FOREIGN")
