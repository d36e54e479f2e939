"""The resource names inside stored messages: nobody vouches for them, so each is followed within the asker's rights.

A record says which model wrote it, an edge of lineage what it leads to, a job which tables it wrote. `references`
checks the names in a request before it is stored, but leaves data alone (prompts, answers, provenance), and rights
change. So whoever is about to look up a name that a stored message holds asks here first.
"""

from collections.abc import Iterable

from omnialign import names
from services.runtime.context import Caller, caller


def may_follow(name: str, *, holder: str) -> bool:
    """Whether `name`, found in a message that belongs to the resource `holder`, may be looked up.

    Names in the holder's own project may: whoever was let in to the holder may see that project. A name elsewhere takes
    a role of the caller's own there. Our services have none of their own: they answer for those who may see the holder,
    as in a report. Nor does a call without authentication.
    """
    if not names.is_resource(name):
        return False
    project = names.project_of(name)
    return project == names.project_of(holder) or _has_role(caller(), project)


def followable(found: Iterable[str], *, holder: str) -> list[str]:
    """Those of the names found in messages of `holder` that may be looked up, in their order."""
    return [name for name in found if may_follow(name, holder=holder)]


def _has_role(who: Caller | None, project: str) -> bool:
    return who is not None and not who.is_service and not who.job and bool(who.role_in(project))
