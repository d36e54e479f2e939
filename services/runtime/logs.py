"""Logs as one JSON object per line on standard error, each with the request id it belongs to.

The access log has one line per finished call, at INFO, or at DEBUG for reads that succeeded.

The audit log has one line per call that changed something or tried to: who, what, when, and how it ended. It never
holds tokens or the content of messages beyond resource names. Its lines are written whatever the log level.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from omnialign import names
from omnialign.client.context import Call, request_id
from omnialign.errors import OmnialignError
from services.runtime.context import Caller
from services.runtime.tracing import trace_id

_access = logging.getLogger("services.runtime.access")

_READS = ("Get", "List", "Stream", "Watch")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure(level: str) -> None:
    """Sends every log line of the process, libraries' too, to standard error as JSON. Called once, by `run`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One line of JSON per record; what `extra` adds becomes keys."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without the line break."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if "request_id" not in line and (current := request_id()):
            line["request_id"] = current
        if trace := trace_id():
            line["trace_id"] = trace
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class AccessLog:
    """The access lines of one method."""

    def __init__(self, service: str, method: str) -> None:
        self._service = service
        self._method = method
        self._ok_level = logging.DEBUG if method.startswith(_READS) else logging.INFO

    def wants(self, code: str) -> bool:
        """Whether a call that ended with `code` is logged at all, and so whether to gather its details."""
        return _access.isEnabledFor(self._level(code))

    def write(self, *, code: str, reason: str, seconds: float, peer: str, request: str) -> None:
        """Logs one finished call; `reason` is the error's, empty for none."""
        fields = {
            "rpc_service": self._service,
            "rpc_method": self._method,
            "code": code,
            "reason": reason,
            "duration_ms": round(seconds * 1000, 3),
            "peer": peer,
            "request_id": request,
        }
        _access.log(self._level(code), "%s/%s %s", self._service, self._method, code, extra=fields)

    def _level(self, code: str) -> int:
        return self._ok_level if code == "OK" else logging.INFO


AUDIT_LOGGER = "services.runtime.audit"

_audit = logging.getLogger(AUDIT_LOGGER)


def enable_audit() -> None:
    """Turns the audit log on, whatever the log level. Called once, when authentication is set up."""
    _audit.setLevel(logging.INFO)


def write_audit(call: Call, *, method: str, code: str, reason: str, peer: str) -> None:
    """Writes the line of a call that ended with the status named `code`; `reason` is the error's, empty for none."""
    caller = call.caller if isinstance(call.caller, Caller) else None
    fields = {
        "caller": caller.name if caller else "",
        "rpc": method,
        "project": names.project_of(call.resource),
        "resource": call.resource[:512],
        "code": code,
        "reason": reason,
        "peer": peer,
        "request_id": call.request_id,
    }
    _audit.info("%s by %s: %s", method, fields["caller"] or "an unknown caller", code, extra=fields)


class Recurring:
    """Logs a problem of work that is repeated: when it begins, when it changes and when it is over, not every time."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: dict[str, str] = {}

    def failed(self, what: str, problem: BaseException) -> None:
        """`what` failed and will be tried again. The traceback of a problem that is not typed is logged with it."""
        text = str(problem) or type(problem).__name__
        if self._said.get(what) == text:
            return
        self._said[what] = text
        trace = None if isinstance(problem, OmnialignError | TimeoutError) else problem
        level = logging.WARNING if trace is None else logging.ERROR
        self._logger.log(level, "%s failed and will be tried again: %s", what, text, exc_info=trace)

    def succeeded(self, what: str) -> None:
        """`what` works."""
        if self._said.pop(what, None) is not None:
            self._logger.info("%s works again", what)
