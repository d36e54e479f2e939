"""The guard between a call and its handler: who calls, whether the caller may, and how often.

A caller without a role in a project gets NOT_FOUND before anything is looked up, whether or not the resource exists, so
that the answer reveals nothing. A caller whose role is insufficient gets PERMISSION_DENIED, with the role it takes.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

from google.protobuf.message import Message
from prometheus_client import CollectorRegistry, Counter

from omnialign import names
from omnialign.client.context import Call
from omnialign.errors import InvalidArgument, NotFound, OmnialignError, PermissionDenied
from services.runtime.auth.authenticator import AuthConfig, Authenticator, bearer
from services.runtime.auth.policy import POLICY, Rule
from services.runtime.auth.references import LOCATIONS, find_references, looks_like_resource
from services.runtime.context import ALL_PROJECTS, Caller, Role
from services.runtime.limits import RateLimiter
from services.runtime.logs import enable_audit, write_audit

NO_ROLE = "NO_ROLE_IN_PROJECT"
"""Reason in the metric where the caller is told NOT_FOUND."""
REASONS = (
    "TOKEN_MISSING",
    "TOKEN_UNKNOWN",
    "TOKEN_EXPIRED",
    "OIDC_UNAVAILABLE",
    NO_ROLE,
    "ROLE_TOO_SMALL",
    "LOCATION_FORBIDDEN",
    "JOB_TOKEN_REQUIRED",
    "RATE_LIMITED",
)


class Guard:
    """Guards all methods of a server. Raises OSError and InvalidArgument for files that cannot be used."""

    def __init__(self, config: AuthConfig, *, registry: CollectorRegistry) -> None:
        self._failures = Counter(
            "omnialign_auth_failures_total",
            "Calls that were refused for who made them, by reason.",
            ("reason",),
            registry=registry,
        )
        for reason in REASONS:
            self._failures.labels(reason)  # so that a rate can be taken from the start
        self._authenticator = Authenticator(config)
        self._rates = RateLimiter(per_second=config.rate_per_second, burst=config.rate_burst)
        self._has_rates = config.rate_per_second > 0
        enable_audit()

    def of_method(self, path: str) -> "MethodGuard":
        """The guard of one method, by its path on the wire."""
        return MethodGuard(
            path,
            authenticator=self._authenticator,
            rates=self._rates if self._has_rates else None,
            failed=self._failed,
        )

    async def close(self) -> None:
        """Stops background work."""
        await self._authenticator.close()

    def _failed(self, error: OmnialignError) -> None:
        self._failures.labels(NO_ROLE if isinstance(error, NotFound) else error.reason).inc()


class BearerCheck:
    """The guard of a server that only passes calls on: they carry a token, which the service behind checks."""

    def of_method(self, path: str) -> "BearerCheck":
        """The same for every method."""
        del path
        return self

    async def identify(self, call: Call) -> None:
        """Raises Unauthenticated (`TOKEN_MISSING`)."""
        bearer(call.authorization)

    def admit(self, call: Call, message: Any) -> None:
        """Every message is for the service behind."""

    def admit_next(self, call: Call, message: Any) -> None:
        """Every message is for the service behind."""

    def write_audit(self, call: Call, *, code: str, reason: str, peer: str) -> None:
        """The service behind writes the line."""


class MethodGuard:
    """Guards one method."""

    def __init__(
        self,
        path: str,
        *,
        authenticator: Authenticator,
        rates: RateLimiter | None,
        failed: Callable[[OmnialignError], None],
    ) -> None:
        self._path = path
        self._rule = POLICY.get(path)
        self._authenticator = authenticator
        self._rates = rates
        self._failed = failed
        # Without the key of job tokens only the training service can check one, so the handler does.
        self._leaves_to_handler = self._rule is not None and self._rule.role is None and not authenticator.knows_jobs

    async def identify(self, call: Call) -> None:
        """Sets the call's caller. Raises Unauthenticated, and Unavailable when the issuer's keys cannot be had."""
        try:
            if self._leaves_to_handler:
                bearer(call.authorization)
            else:
                call.caller = await self._authenticator.identify(call.authorization)
        except OmnialignError as error:
            self._failed(error)
            raise

    def admit(self, call: Call, message: Message | None) -> None:
        """Authorizes a request, or the first message of a stream, and sets the call's resource; None: it was empty.

        Raises NotFound for what the caller may not see, PermissionDenied for what it may not do, ResourceExhausted
        for too many calls, and InvalidArgument for a request that does not say what it is about.
        """
        if message is None:
            raise InvalidArgument("The stream ended before its first message", reason="REQUEST_EMPTY")
        if self._leaves_to_handler:
            return
        try:
            if self._rule is None:
                raise PermissionDenied("No policy allows this method", reason="ROLE_TOO_SMALL")
            resource = call.resource = _resource(message, self._rule)
            _authorise(call.caller, self._rule, resource)
            _check_references(call.caller, self._rule, message)
            if self._rates is not None and not call.caller.is_service and not call.caller.job:
                self._rates.take(names.project_of(resource))
        except InvalidArgument:
            raise
        except OmnialignError as error:
            self._failed(error)
            raise

    def admit_next(self, call: Call, message: Message) -> None:
        """Checks a message of a stream whose first one was admitted: it is about the same, and names nothing hidden."""
        if not self._leaves_to_handler and self._rule is not None:
            _check_same(call, message, self._rule)
            _check_references(call.caller, self._rule, message)

    def write_audit(self, call: Call, *, code: str, reason: str, peer: str) -> None:
        """Writes the audit line of a call that changes something."""
        if self._rule is None or self._rule.mutates:
            write_audit(call, method=self._path.removeprefix("/"), code=code, reason=reason, peer=peer)


def _authorise(caller: Caller, rule: Rule, resource: str) -> None:
    """Raises NotFound or PermissionDenied unless the caller may do to `resource` what the rule is about."""
    if caller.job:
        if not _is_open_to_job(caller, rule, resource):
            raise _missing(resource)
        return
    if not names.is_resource(resource):  # a location outside of the projects: `_check_references` decides
        return
    role = caller.role_in(names.project_of(resource))
    if not role:
        raise _missing(resource)
    if rule.role is None:
        text = "Only a training job itself may call this, with its own token"
        raise PermissionDenied(text, reason="JOB_TOKEN_REQUIRED", metadata={"name": resource})
    if role < rule.role:
        wanted, project = rule.role.name.lower(), names.project_of(resource)
        raise PermissionDenied(
            f"This requires the role {wanted} in project '{project}'",
            reason="ROLE_TOO_SMALL",
            metadata={"role": wanted, "project": project},
        )


def _is_open_to_job(caller: Caller, rule: Rule, resource: str) -> bool:
    """Whether a rule lets the token of a job act on `resource`."""
    match rule.job:
        case "itself":
            return resource == caller.job
        case "inputs":
            return resource in caller.inputs
        case "project":
            return resource == names.project_name_of(caller.job)
        case "within":
            is_own = names.is_resource(resource) and names.project_of(resource) == caller.project
            return is_own or resource in caller.inputs
        case None:
            return False


def _check_references(caller: Caller, rule: Rule, message: Message) -> None:
    """Raises NotFound for a name of a project that the caller may not see, PermissionDenied for a place outside."""
    if caller.job and rule.job == "within":
        for text, is_location in find_references(message):
            if (is_location or looks_like_resource(text)) and not _is_open_to_job(caller, rule, text):
                raise _missing(text)
    if caller.is_service or caller.job:
        return
    for text, is_location in find_references(message):
        if names.is_resource(text):
            if not caller.role_in(names.project_of(text)):
                raise _missing(text)
        elif is_location and caller.roles.get(ALL_PROJECTS, 0) < Role.ADMIN:
            raise PermissionDenied(
                f"'{text[:256]}' is outside of the projects, which requires the role admin in all projects (\"*\")",
                reason="LOCATION_FORBIDDEN",
                metadata={"location": text[:256]},
            )
        elif looks_like_resource(text):
            raise _missing(text)


def _check_same(call: Call, message: Message, rule: Rule) -> None:
    """Raises InvalidArgument when a later message of a stream names another resource than the first."""
    if (later := _read(message, rule)) and later != call.resource:
        raise _invalid(later, rule, "must be the same in all messages of the stream")


def _resource(message: Message, rule: Rule) -> str:
    """The name that a request is about. Raises InvalidArgument (`RESOURCE_NAME_INVALID`) when it is none."""
    text = _read(message, rule)
    if not names.is_resource(text) and not (text and _is_location(message, rule)):
        raise _invalid(text, rule, "must be the name of a resource, `projects/{project}...`")
    return text


def _read(message: Message, rule: Rule) -> str:
    return str(reduce(getattr, rule.field.split("."), message))


def _is_location(message: Message, rule: Rule) -> bool:
    return f"{message.DESCRIPTOR.full_name}.{rule.field}" in LOCATIONS


def _missing(name: str) -> NotFound:
    name = name[:512]
    return NotFound(f"There is no '{names.shown(name)}'", reason="NOT_FOUND", metadata={"name": name})


def _invalid(text: str, rule: Rule, problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"{rule.field}: {problem}",
        reason="RESOURCE_NAME_INVALID",
        metadata={"name": text[:256]},
        violations=[(rule.field, problem)],
    )
