"""The call that is being answered: who makes it, with which roles, and how much time is left.

The values live in a ContextVar that the interceptor sets in the handler's own task; child tasks see them too. Handlers
ask here instead of touching gRPC's context object.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from omnialign import names
from omnialign.client.context import CURRENT_CALL

ALL_PROJECTS = "*"


class Role(enum.IntEnum):
    """What a caller may do in a project; each role includes those before it."""

    READER = 1
    """Read."""
    ANNOTATOR = 2
    """Annotate the pairs of campaigns."""
    SUBMITTER = 3
    """Write data, register and run models, submit and end jobs."""
    ADMIN = 4
    """Delete; an admin of all projects may also name locations outside of them."""
    SERVICE = 5
    """One of our own services: everything, everywhere, without a rate limit."""


@dataclass(frozen=True)
class Caller:
    """The bearer of a valid token."""

    name: str
    """Name in the audit log."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """Role by project id; `*` stands for every project."""
    job: str = ""
    """Resource name of the training job that the token belongs to; empty for people and services."""
    inputs: frozenset[str] = frozenset()
    """What that job may read, named as in its spec."""

    @property
    def is_service(self) -> bool:
        """Whether this is one of our own services."""
        return self.roles.get(ALL_PROJECTS) is Role.SERVICE

    @property
    def project(self) -> str:
        """Project id of that job; empty for people and services."""
        return names.project_of(self.job)

    def role_in(self, project: str) -> int:
        """The role in a project as a number, 0 for none."""
        return max(self.roles.get(project, 0), self.roles.get(ALL_PROJECTS, 0))


def remaining_seconds() -> float | None:
    """Seconds until the caller gives up, 0 when it has; None without a deadline, and outside or after a call."""
    call = CURRENT_CALL.get()
    return call.remaining_seconds() if call else None


def bearer_token() -> str:
    """The token of the metadata `authorization: Bearer ...`; empty when there is none."""
    call = CURRENT_CALL.get()
    scheme, _, token = (call.authorization if call else "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def caller() -> Caller | None:
    """Who makes the call that is being answered; None without authentication, and outside a call."""
    call = CURRENT_CALL.get()
    return call.caller if call and isinstance(call.caller, Caller) else None
