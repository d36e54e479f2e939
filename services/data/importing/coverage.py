"""Which columns of a row are read, and whether an answer or a preference is lost with the others.

What a row yields depends only on which columns it has and which of them hold a value. Rows share a few such shapes, so
the answer is found once for each.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from services.data.importing import columns
from services.data.importing.columns import SCHEMAS, SIDES, Schema, prompt_columns, response_columns
from services.data.importing.formats.registry import FORMATS

NOTE = "_quarantine"
"""The column that exported rows of a quarantine have, and that imports leave out."""
IDS = ("id", "uid", "uuid", "record_id")
ALWAYS_READ = frozenset({*columns.EXTRA_LABELS, *IDS, "labels", "split", NOTE})
SIMILAR = 0.82
"""How similar a name is that may be a slip: `promt` to `prompt`, and not `prompt_id`."""
# Singular words in names of columns that hold answers, and of those that say which one is better.
PREFERENCE_WORDS = frozenset(
    {"chosen", "rejected", "preference", "preferred", "winner", "better", "worse", "overall", "rank", "ranking",
     "label", "score", "rating", "rate", "vote", "reward", "accepted", "best", "worst"}
)  # fmt: skip
ANSWER_WORDS = frozenset(
    {"chosen", "rejected", "preference", "preferred", "winner", "better", "worse", "overall", "accepted", "response",
     "answer", "output", "completion", "reply", "generation", "target", "critique", "feedback", "best", "worst"}
)  # fmt: skip


@dataclass(frozen=True)
class Coverage:
    """What is read of rows of one shape."""

    unread: tuple[str, ...]
    """Columns that hold a value and are not read."""
    lost: tuple[str, ...]
    """Those of them that seem to hold the answers or the preference that the row does not yield."""


@lru_cache(maxsize=1024)
def coverage(subtask: str, names: tuple[str, ...], valued: tuple[str, ...]) -> Coverage:
    """The coverage of a row with the columns `names`, of which `valued` hold a value."""
    read, has_responses, has_preference = _read_columns(SCHEMAS[subtask], names, frozenset(valued))
    unread = tuple(name for name in valued if name not in read)
    if not has_responses:
        lost = tuple(name for name in unread if _words(name) & ANSWER_WORDS)
    else:
        winners = columns.layout(names).winners
        seeming = tuple(name for name in unread if name in winners or _words(name) & PREFERENCE_WORDS)
        lost = () if has_preference else seeming
    return Coverage(unread, lost)


@lru_cache(maxsize=1024)
def nearest(subtask: str, name: str, *, form: str = "") -> str:
    """The column of which a name may be a slip of the pen; "" if none is that similar."""
    known = FORMATS[form].columns if form else _known(SCHEMAS[subtask])
    if name.partition(".")[0] in known:  # a field within it
        return ""
    found = difflib.get_close_matches(name.lower()[:100], known, n=1, cutoff=SIMILAR)
    return found[0] if found else ""


@lru_cache(maxsize=1024)
def format_coverage(form: str, valued: tuple[str, ...]) -> Coverage:
    """The coverage of a row of another format, which is refused on its own for what it lacks.

    Benchmarks aside, a preference that the format does not have is lost.
    """
    found = FORMATS[form]
    read = ALWAYS_READ | {*found.columns, *found.ids}
    unread = tuple(name for name in valued if name not in read)
    is_preferring = not found.tells or any(name in valued for name in found.preference)
    return Coverage(unread, () if is_preferring else tuple(one for one in unread if _words(one) & PREFERENCE_WORDS))


def _read_columns(schema: Schema, names: tuple[str, ...], valued: frozenset[str]) -> tuple[set[str], bool, bool]:
    """The columns that are read, whether there are responses, and whether there is a preference."""
    read = set(ALWAYS_READ)

    def take(options: Iterable[str], side: int = 0) -> bool:
        found = next((name for option in options if (name := option.format(k=side)) in valued), None)
        read.update([found] if found else [])
        return found is not None

    for options in prompt_columns(schema):
        take(options)
    # All are looked up, not only the first: a row with one of two responses is refused for what it lacks.
    taken = [take(options, side) for side in SIDES for options in response_columns(schema)]
    if not any(taken):
        return read, False, False
    layout = columns.layout(names)
    for side in SIDES:
        take(columns.SOURCE, side)
        take(columns.CRITIQUE, side)
        scored = {dimension for name, dimension in layout.rates[side].items() if name in valued}
        read.update(layout.rates[side])
        read.update(name for name, dimension in layout.rationales[side].items() if dimension in scored)
    has_preference = take(columns.OVERALL)
    if has_preference:
        take(columns.OVERALL_TEXT)
        read.update(layout.winners)
    return read, True, has_preference


def _words(name: str) -> set[str]:
    """The words of a name in lower case and in the singular: `betterResponses_1` has `better` and `response`."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return {word.removesuffix("s") for word in words}


@lru_cache(maxsize=16)
def _known(schema: Schema) -> tuple[str, ...]:
    both = [*prompt_columns(schema), columns.OVERALL, columns.OVERALL_TEXT, tuple(sorted(ALWAYS_READ - {NOTE}))]
    sided = [*response_columns(schema), columns.SOURCE, columns.CRITIQUE]
    found = [name for names in both for name in names]
    found += [name.format(k=side) for names in sided for name in names for side in SIDES]
    dimensions = {dimension for names in columns.LETTERS.values() for dimension in names}
    return tuple(dict.fromkeys([*found, *(f"{name}_rate_{side}" for name in sorted(dimensions) for side in SIDES)]))
