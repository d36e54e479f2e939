"""Reads the one thing that Helm sends as protocol buffers: the Secret that it keeps a release in.

`k8s.io/apimachinery`'s envelope: four bytes, then a message whose field 2 is the object. Of a Secret, field 1 is the
metadata (1 the name, 3 the namespace, 11 the labels) and field 2 the data.
"""

import base64
from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\x00"


def decode(body: bytes) -> dict[str, Any]:
    """A Secret as JSON has it."""
    envelope = dict(_fields(body.removeprefix(MAGIC)))
    secret = list(_fields(envelope[2]))
    metadata = list(_fields(dict(secret)[1]))
    plain = dict(metadata)
    return {
        "metadata": {
            "name": plain[1].decode(),
            "namespace": plain.get(3, b"").decode(),
            "labels": {key.decode(): value.decode() for key, value in _map(metadata, 11)},
        },
        "data": {key.decode(): base64.b64encode(value).decode() for key, value in _map(secret, 2)},
        "type": dict(secret).get(3, b"").decode(),
    }


def _map(fields: list[tuple[int, bytes]], number: int) -> Iterator[tuple[bytes, bytes]]:
    for entry in (value for found, value in fields if found == number):
        pair = dict(_fields(entry))
        yield pair[1], pair.get(2, b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of each field with a length; numbers are passed over."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        value, at = _number(message, at)
        if tag & 7 == 2:
            yield tag >> 3, message[at : at + value]
            at += value


def _number(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
