"""Resource names: `projects/{project}/datasets/{dataset}/versions/{version}` and the like (AIP-122).

A name is collections and ids in turn. Patterns are written as in the proto comments; `{record=**}` as the last part
matches the rest of the name, slashes included. Ids become names of folders and tables elsewhere, so `.`, `..`, blanks
and control characters are never ids.

This is the only module that takes names apart. `parse`, `format_name` and `parent_of` are strict and raise for what is
not a name. `project_of`, `project_name_of`, `id_of`, `unversioned`, `short_name` and `shown` never raise: they serve
code whose names have been checked already, and code that must cope with any text, such as the audit log.
"""

import re
from functools import lru_cache

from omnialign.errors import InvalidArgument

PROJECT = "projects/{project}"
DATASET = "projects/{project}/datasets/{dataset}"
DATASET_VERSION = "projects/{project}/datasets/{dataset}/versions/{version}"
RECORD = "projects/{project}/datasets/{dataset}/records/{record=**}"
MODEL = "projects/{project}/models/{model}"
MODEL_VERSION = "projects/{project}/models/{model}/versions/{version}"
TRAINING_JOB = "projects/{project}/trainingJobs/{training_job}"
POLICY = "projects/{project}/policies/{policy}"
ALIGNMENT_JOB = "projects/{project}/alignmentJobs/{alignment_job}"
EVALUATION = "projects/{project}/evaluations/{evaluation}"
CAMPAIGN = "projects/{project}/campaigns/{campaign}"
TASK = "projects/{project}/campaigns/{campaign}/tasks/{task}"
ITEM = "projects/{project}/campaigns/{campaign}/items/{item}"
DRAFT_JOB = "projects/{project}/draftJobs/{draft_job}"
NEWEST = "-"
"""The id of the newest version, whichever that is."""

_VARIABLE = re.compile(r"\{(\w+)(=\*\*)?\}")
_PROJECT_ID = re.compile(r"[a-z][a-z0-9-]{0,61}")


def parse(name: str, pattern: str, *, field: str = "name") -> dict[str, str]:
    """The ids in `name`, by variable of `pattern`.

    Raises InvalidArgument (`RESOURCE_NAME_INVALID`, with a violation of `field`) for a name of another shape.
    """
    ids = _match(name, pattern)
    if ids is None:
        raise _invalid(name, field=field, expected=pattern)
    return ids


def matches(name: str, pattern: str) -> bool:
    """Whether `name` has the shape of `pattern`."""
    return _match(name, pattern) is not None


def format_name(pattern: str, **ids: str) -> str:
    """The name made of `pattern` and `ids`; the inverse of `parse`, and as strict."""
    name = _VARIABLE.sub(lambda variable: ids[variable[1]], pattern)
    if _match(name, pattern) != ids:
        raise _invalid(name, field="name", expected=pattern)
    return name


def parent_of(name: str) -> str:
    """The name without its last collection and id; empty for a project.

    Raises InvalidArgument (`RESOURCE_NAME_INVALID`) when `name` is not collections and ids in turn.
    """
    parts = name.split("/")
    if len(parts) % 2 or not all(map(_is_id, parts)):
        raise _invalid(name, field="name", expected="collection/{id}/...")
    return "/".join(parts[:-2])


def project_of(name: str) -> str:
    """The project id in a resource name; empty for text that is not under a project."""
    parts = name.split("/")
    return parts[1] if parts[0] == "projects" and len(parts) > 1 else ""


def project_name_of(name: str) -> str:
    """The resource name of the project that `name` is under; empty for text that is not under a project."""
    project = project_of(name)
    return f"projects/{project}" if project else ""


def id_of(name: str) -> str:
    """The last id of a resource name. A record id with slashes is cut: `parse` such a name with `RECORD` instead."""
    return name.rpartition("/")[2]


def unversioned(name: str) -> str:
    """The dataset or model of a version's name; any other name as it is."""
    parts = name.split("/")
    return "/".join(parts[:-2]) if parts[-2:-1] == ["versions"] else name


def short_name(name: str) -> str:
    """The ids of a name below its project, for people: `base/1` for `projects/demo/models/base/versions/1`.

    Other text, such as a `file://` address, is returned as it is.
    """
    parts = name.split("/")
    if parts[0] != "projects" or len(parts) < 4:
        return name
    # [projects, demo, models, base, versions, 1]: everything after the second collection is one id, slashes included.
    return "/".join([parts[3], *parts[5:]])


def shown(name: str) -> str:
    """A name as a message shows it: the newest version of something, which has no number, as the thing itself."""
    return unversioned(name) if id_of(name) == NEWEST else name


def is_project_id(text: str) -> bool:
    """Whether `text` can be the id of a project."""
    return _PROJECT_ID.fullmatch(text) is not None


def is_resource(text: str) -> bool:
    """Whether `text` is a name under a project, of whatever kind."""
    parts = text.split("/")
    if parts[0] != "projects" or len(parts) < 2 or not is_project_id(parts[1]):
        return False
    return not any(part in {"", ".", ".."} for part in parts)


def _match(name: str, pattern: str) -> dict[str, str] | None:
    match = _expression(pattern).fullmatch(name)
    if match is None or not all(map(_is_id, name.split("/"))):
        return None
    return match.groupdict()


def _is_id(part: str) -> bool:
    return part not in {"", ".", ".."} and part.isprintable() and " " not in part


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    parts, position = [], 0
    for variable in _VARIABLE.finditer(pattern):
        parts += [re.escape(pattern[position : variable.start()]), _group(variable)]
        position = variable.end()
    return re.compile("".join(parts) + re.escape(pattern[position:]))


def _group(variable: re.Match[str]) -> str:
    return f"(?P<{variable[1]}>.+)" if variable[2] else f"(?P<{variable[1]}>[^/]+)"


def _invalid(name: str, *, field: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        f"'{name}' is not a resource name of the form '{expected}'",
        reason="RESOURCE_NAME_INVALID",
        metadata={"name": name[:256], "expected": expected},
        violations=[(field, f"must have the form '{expected}'")],
    )
