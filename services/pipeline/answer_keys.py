"""The key of an answer: a hash of all that made it.

    key = SHA-256(project, release, prompt templates, model, request without its items, item without its id)

Each part goes in behind its length, so that no two lists of parts can be the same bytes. The request tells the model's
name, sampling, media policy and form of answers, the item the seed and what is shown, with media by their digests: both
as protobuf serializes them deterministically, so that whatever a later release adds to them is in the key too. Where
the batch decides the tokens, the other items of the request are part of what made an answer.
"""

import hashlib
import struct
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

from omnialign.modeling import prompts

FORMAT = b"omnialign answer 1"


def answer_keys(request: Any, items: Sequence[Any], *, project: str, model: str) -> dict[str, bytes]:
    """The key of each item's answer, by the item's id.

    `request` has no items. `model` tells the model from any other that was, or will be, called by the same name.
    """
    common = (
        FORMAT,
        project.encode(),
        _release().encode(),
        model.encode(),
        request.DESCRIPTOR.full_name.encode(),
        request.SerializeToString(deterministic=True),
    )
    bodies = [_body(item) for item in items]
    if is_deterministic(request):
        batch = _digest(*bodies)
        bodies = [_digest(batch, str(place).encode()) for place in range(len(bodies))]
    return {item.id: _digest(*common, body) for item, body in zip(items, bodies, strict=True)}


def is_deterministic(request: Any) -> bool:
    """Whether the same request gives the same answers again, so that all of its items decide each of them."""
    return bool(getattr(request, "sampling", request).deterministic)


@cache
def _release() -> str:
    return "\n".join((metadata.version("omnialign"), *prompts.identities()))


def _body(item: Any) -> bytes:
    nameless = type(item)()
    nameless.CopyFrom(item)
    nameless.ClearField("id")
    body: bytes = nameless.SerializeToString(deterministic=True)
    return body


def _digest(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(struct.pack(">Q", len(part)))
        whole.update(part)
    return whole.digest()
