"""The protovalidate rules of the contract, checked on every message that comes in.

Only shape is checked here; whether a resource exists or a state allows a call is the domain's business.
"""

from typing import Any

import protovalidate
from google.protobuf.message import Message

from omnialign.errors import InvalidArgument


class Validator:
    """Checks messages against the rules in their descriptors; compiles the rules of a type on first sight."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def check(self, message: Message) -> None:
        """Raises InvalidArgument (`REQUEST_INVALID`) with one violation per field at fault."""
        found = self._validator.collect_violations(message)
        if found:
            violations = [_describe(violation.proto) for violation in found]
            raise InvalidArgument(
                "; ".join(f"{field}: {problem}" for field, problem in violations),
                reason="REQUEST_INVALID",
                violations=violations,
            )


def _describe(violation: Any) -> tuple[str, str]:
    """(path such as `items[2].prompt.parts[0]`, what is wrong with it)."""
    path = "".join(map(_step, violation.field.elements if violation.field else ())).removeprefix(".")
    return path, violation.message or violation.rule_id


def _step(element: Any) -> str:
    subscript = element.subscript
    if subscript is None:
        return f".{element.field_name}"
    key = f'"{subscript.value}"' if subscript.field == "string_key" else str(subscript.value).lower()
    return f".{element.field_name}[{key}]"
