"""What a record says, without what was said about it: the key by which records are the same.

Upper and lower case, and kinds of white space, make no difference; every other character does, since `1+1` is not
`1-1`.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence

from omnialign.content import asked_of
from omnialign.v1.content_pb2 import Content, Media
from omnialign.v1.record_pb2 import Record

KEY_BYTES = 16


def messages(record: Record, *, prompt_only: bool = False) -> Sequence[Content]:
    """The prompt with what came before it, and the responses unless `prompt_only`."""
    return [*asked_of(record), *(() if prompt_only else (response.content for response in record.responses))]


def roles(record: Record) -> bytes:
    """Who wrote what came before the prompt; it tells earlier messages from responses."""
    return bytes(message.role for message in record.history)


def pieces(message: Content) -> Iterator[str | Media]:
    """The parts of a message, with neighbouring texts as one, normalised; empty texts are left out."""
    texts = list[str]()
    for part in message.parts:
        if part.WhichOneof("part") == "text":
            texts.append(part.text)
            continue
        if text := normalised(" ".join(texts)):
            yield text
        texts.clear()
        yield part.media
    if text := normalised(" ".join(texts)):
        yield text


def normalised(text: str) -> str:
    """The text in one Unicode form, without case, and with single blanks."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def content_key(record: Record, *, prompt_only: bool = False) -> bytes:
    """Equal for records with the same conversation, prompt and responses; `KEY_BYTES` long."""
    digest = hashlib.blake2b(roles(record), digest_size=KEY_BYTES)
    for message in messages(record, prompt_only=prompt_only):
        digest.update(b"M")
        for piece in pieces(message):
            data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else bytes.fromhex(piece.sha256)
            digest.update(b"T" if isinstance(piece, str) else b"D")
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.digest()


def draw(seed: int, key: bytes) -> int:
    """A random number from 0 to 2^64 - 1, always the same for a seed and a key."""
    digest = hashlib.blake2b(key, digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")
