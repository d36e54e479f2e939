"""The audit log: one line for each call that changes something or tried to: who, what, when, and how it ended.

Never tokens, and never what a message holds beyond the names it is about. The lines are written whatever the level of
the other lines is.
"""

import logging

from omnialign.client.context import Call
from services.runtime.auth.callers import Caller

LOGGER = "services.runtime.audit"

_log = logging.getLogger(LOGGER)


def enable() -> None:
    """Lets the lines out, whatever level the rest of the log has. Called once, when authentication is set up."""
    _log.setLevel(logging.INFO)


def write(call: Call, *, method: str, code: str, reason: str, peer: str) -> None:
    """Writes the line of a call that ended with the status named `code`; `reason` is the error's, empty for none."""
    caller = call.caller if isinstance(call.caller, Caller) else None
    parts = call.resource.split("/")
    fields = {
        "caller": caller.name if caller else "",
        "rpc": method,
        "project": parts[1] if parts[0] == "projects" and len(parts) > 1 else "",
        "resource": call.resource[:512],
        "code": code,
        "reason": reason,
        "peer": peer,
        "request_id": call.request_id,
    }
    _log.info("%s by %s: %s", method, fields["caller"] or "nobody known", code, extra=fields)
