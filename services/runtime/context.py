"""What a handler may ask about the call it answers, without touching gRPC's context object.

The values live in a ContextVar that the interceptor sets in the handler's own task; child tasks see them too.
"""

from omnialign.client.context import CURRENT_CALL, request_id
from services.runtime.auth.callers import Caller

__all__ = ["bearer_token", "caller", "remaining_seconds", "request_id"]


def remaining_seconds() -> float | None:
    """Time until the caller gives up, 0 when it has; None without a deadline, and outside or after a call."""
    call = CURRENT_CALL.get()
    return call.remaining_seconds() if call else None


def bearer_token() -> str:
    """The token of the metadata `authorization: Bearer ...`; empty when there is none."""
    call = CURRENT_CALL.get()
    scheme, _, token = (call.authorization if call else "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def caller() -> Caller | None:
    """Who makes the call that is being answered; None where callers need not say so, and outside a call."""
    call = CURRENT_CALL.get()
    return call.caller if call and isinstance(call.caller, Caller) else None
