"""All formats that rows may be in, and how columns tell the format of a file."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from services.data.importing import columns
from services.data.importing.benchmarks.formats import FORMATS as BENCHMARKS
from services.data.importing.benchmarks.formats import Format, format_of
from services.data.importing.formats import argilla, label_studio, own, ratings
from services.data.importing.formats.exchanges import fill_exchange
from services.data.importing.formats.spelling import TOOLS, UNREAD, Spelling

ALIGN_ANYTHING = "align_anything"
"""The format of files that no other one is told of."""
UNTOLD = "no columns that tell another format"
EXPORTED = "format-"
"""How the names of folders of exported rows begin."""
TOLD_BY_ROWS = 256
"""How many rows tell the format of a file."""

_UNSUPPORTED = {"tools": TOOLS, "functions": TOOLS}
_OTHER_REJECTED = ("rejected_images", "rejected_audios", "rejected_videos", "positive_messages", "negative_messages")
LABEL = ("label",)
TRL = Spelling(
    prompt=("prompt",),
    answer=("completion",),
    label=LABEL,
    chosen=("chosen",),
    rejected=("rejected",),
    unsupported=_UNSUPPORTED,
)
RLAIF_V = Spelling(
    prompt=("question",), chosen=("chosen",), rejected=("rejected",), unsupported=_UNSUPPORTED | {"prompt": UNREAD}
)
MESSAGES = Spelling(conversation=("messages",), label=LABEL, unsupported=_UNSUPPORTED)
SHAREGPT = Spelling(conversation=("conversations",), label=LABEL, has_markers=True, unsupported=_UNSUPPORTED)
MS_SWIFT = Spelling(
    conversation=("messages",),
    rejected=("rejected_response", "rejected_messages"),
    label=LABEL,
    has_markers=True,
    unsupported=_UNSUPPORTED | dict.fromkeys(("objects", *_OTHER_REJECTED), UNREAD),
)
LLAMA_FACTORY = Spelling(
    prompt=("instruction",),
    input=("input",),
    conversation=("conversations",),
    answer=("output",),
    chosen=("chosen",),
    rejected=("rejected",),
    label=(*LABEL, "kto_tag"),
    has_markers=True,
    unsupported=_UNSUPPORTED,
)


def _format(spelling: Spelling, *tells: tuple[str, ...], ids: tuple[str, ...] = ()) -> Format:
    fill = partial(fill_exchange, spelling=spelling)
    return Format((), spelling.columns, fill, ids, tells=tells, preference=spelling.rejected)


PEOPLE: Mapping[str, Format] = {
    own.NAME: Format((), own.COLUMNS, own.fill_record, tells=(("prompt.parts",),), preference=own.COLUMNS),
    "argilla": Format(
        (), argilla.COLUMNS, argilla.fill_argilla, tells=((argilla.ANSWERS,),), preference=(argilla.ANSWERS,)
    ),
    "label_studio": Format(
        (), label_studio.COLUMNS, label_studio.fill_label_studio, preference=(label_studio.ANNOTATIONS,),
        tells=((label_studio.DATA, label_studio.ANNOTATIONS),), unread=label_studio.unread_of_label_studio,
    ),
    "ultrafeedback": Format(
        (), ratings.ULTRAFEEDBACK_COLUMNS, ratings.fill_ultrafeedback, ("prompt_id",), rated=(1, 5),
        tells=(("instruction", "completions"), ("prompt", "completions")), unread=ratings.unread_of_ultrafeedback,
    ),
    "helpsteer": Format(
        (), ratings.HELPSTEER_COLUMNS, ratings.fill_helpsteer, rated=(0, 4),
        tells=(("prompt", "response", "helpfulness"),),
    ),
    "helpsteer3": Format(
        (), ratings.HELPSTEER3_COLUMNS, ratings.fill_helpsteer3, preference=(ratings.PREFERENCE,),
        tells=(("response1", "response2", "overall_preference"),), unread=ratings.unread_of_helpsteer3,
    ),
    "llama_factory": _format(
        LLAMA_FACTORY, ("conversations", "chosen", "rejected"), ("instruction", "chosen", "rejected"),
        ("instruction", "output"),
    ),
    "ms_swift": _format(
        MS_SWIFT, ("messages", "rejected_response"), ("messages", "rejected_messages"), ("messages", "images"),
        ("messages", "audios"), ("messages", "videos"),
    ),
    "rlaif_v": _format(RLAIF_V, ("question", "chosen", "rejected"), ids=("idx",)),
    "trl": _format(TRL, ("chosen", "rejected"), ("prompt", "completion")),
    "sharegpt": _format(SHAREGPT, ("conversations",)),
    "messages": _format(MESSAGES, ("messages",)),
}  # fmt: skip
"""Formats that columns tell; the first counts."""
FORMATS: Mapping[str, Format] = {**BENCHMARKS, **PEOPLE}
WIDER = {"llama_factory": "sharegpt", "ms_swift": "messages"}
"""Formats that read the rows of another, too: one row of theirs makes a file of the others theirs."""
TELLING = frozenset(name for form in PEOPLE.values() for names in form.tells for name in names)
"""Columns that tell a format."""


def told_by_names(path: Path, folders: Sequence[str]) -> str:
    """The format that the name of a file or of the nearest of its folders tells; "" if none does."""
    return format_of(path, folders) or next((code for name in folders if (code := _exported(name))), "")


def told_by_columns(rows: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """The format that the columns of most rows tell, "" for align-anything-200k, and why it is thought to be that."""
    counts, whys = Counter[str](), dict[str, str]()
    for row in rows:
        form, told = _told(_names(row))
        counts[form] += 1
        whys.setdefault(form, told)
    for wider, narrower in WIDER.items():
        if counts[wider]:
            counts[wider] += counts.pop(narrower, 0)
    if not counts.total():
        return "", "it has no rows"
    form = max(counts, key=lambda one: (counts[one], one != ""))
    return form, whys[form]


def told_otherwise(form: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """Another format than that of its file which the columns of a row tell, and how; "" if they tell none."""
    found, told = _told(_names(row))
    return ("", "") if found in (form, WIDER.get(form)) or told == UNTOLD else (found or ALIGN_ANYTHING, told)


def _names(row: Mapping[str, Any]) -> frozenset[str]:
    """The columns with a value, and the fields of those that are objects."""
    there = {name: found for name, found in row.items() if found is not None and found != ""}
    objects = ((name, found) for name, found in there.items() if isinstance(found, Mapping))
    return frozenset([*there, *(f"{name}.{key}" for name, found in objects for key in list(found)[:9])])


@lru_cache(maxsize=1024)
def _told(names: frozenset[str]) -> tuple[str, str]:
    """The format that a row with values in these columns is in, and the columns that tell it."""
    if own := names.intersection(columns.OVERALL):
        return "", f"the column {min(own)}"
    for code, form in PEOPLE.items():
        for wanted in form.tells:
            if names.issuperset(wanted):
                return code, f"the column{'s' if len(wanted) > 1 else ''} {_listed(wanted)}"
    return "", UNTOLD


def _exported(folder: str) -> str:
    """The format of rows that were set aside and exported, in the name of their folder: `format-trl`."""
    code = folder.removeprefix(EXPORTED)
    return code if folder.startswith(EXPORTED) and code in PEOPLE else ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
