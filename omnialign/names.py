"""Resource names: `projects/{project}/datasets/{dataset}/versions/{version}` and the like (AIP-122).

A name is collections and ids in turn. Patterns are written as in the proto comments; `{record=**}` as the last part
matches the rest of the name, slashes included. Ids become names of folders and tables elsewhere, so `.`, `..`, blanks
and control characters are never ids.
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
ALIGNMENT_JOB = "projects/{project}/alignmentJobs/{alignment_job}"

_VARIABLE = re.compile(r"\{(\w+)(=\*\*)?\}")


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


def project_of(name: str) -> str:
    """The project id in a resource name."""
    return name.split("/")[1]


def id_of(name: str) -> str:
    """The last id of a resource name."""
    return name.rpartition("/")[2]
