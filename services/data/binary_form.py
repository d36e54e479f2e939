"""Messages in protobuf's binary form, put together from parts that are there already: their bytes are copied once."""

from functools import lru_cache


def field(number: int, *parts: bytes) -> list[bytes]:
    """A field with a message or bytes, which are given in parts. `number` is at most 15."""
    return [head(number, sum(map(len, parts))), *parts]


@lru_cache(maxsize=4096)
def head(number: int, size_bytes: int) -> bytes:
    """What precedes a message or bytes: the number of the field, that a length follows, and the length.

    Of the length seven bits a byte, the lowest first, each byte but the last marked.
    """
    found = bytearray((number << 3 | 2,))
    while size_bytes > 0x7F:
        found.append(size_bytes & 0x7F | 0x80)
        size_bytes >>= 7
    found.append(size_bytes)
    return bytes(found)
