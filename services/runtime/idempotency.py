"""Request ids (AIP-155): the same id with the same body is the same call; with another body it is an error.

A store keeps `body_digest(request)` beside the resource it created, written in the same transaction, and passes both to
`check_same_body` when the id comes again.
"""

import hashlib

from google.protobuf.message import Message

from omnialign.errors import InvalidArgument


def body_digest(message: Message) -> str:
    """SHA-256 (hexadecimal) of a request without its `request_id`; equal for equal requests, in any process."""
    body = type(message)()
    body.CopyFrom(message)
    if "request_id" in body.DESCRIPTOR.fields_by_name:
        body.ClearField("request_id")
    digest = hashlib.sha256(body.DESCRIPTOR.full_name.encode())
    digest.update(b"\0" + body.SerializeToString(deterministic=True))
    return digest.hexdigest()


def check_same_body(stored_digest: str, message: Message, *, request_id: str) -> None:
    """Raises InvalidArgument (`REQUEST_ID_REUSED`) unless `message` is the request that `stored_digest` is of."""
    if stored_digest != body_digest(message):
        raise InvalidArgument(
            f"request_id '{request_id}' was used before with another body; use a new one",
            reason="REQUEST_ID_REUSED",
            metadata={"request_id": request_id},
            violations=[("request_id", "was used before with another body")],
        )
