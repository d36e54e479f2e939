"""Who an annotator is: the caller, or without authentication whoever the request says."""

from omnialign.errors import InvalidArgument, PermissionDenied
from services.runtime.context import caller


def person(given: str, *, field: str) -> str:
    """The name under which a request counts.

    Raises PermissionDenied PERSON_NOT_CALLER for another's name than the caller's, which only our own services may
    give, and InvalidArgument PERSON_MISSING where nobody is named.
    """
    who = caller()
    if who is not None and not who.is_service:
        if given not in ("", who.name):
            raise PermissionDenied(
                f"{field} is {given!r}, and you are {who.name!r}: leave it empty.",
                reason="PERSON_NOT_CALLER",
                metadata={"given": given, "caller": who.name},
            )
        return who.name
    if not given.strip():
        raise InvalidArgument(
            f"{field} must say who you are, as the service has no authentication (`--as NAME` of the command).",
            reason="PERSON_MISSING",
            violations=[(field, "must not be empty")],
        )
    return given
