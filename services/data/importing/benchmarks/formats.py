"""The formats of benchmark files, and how the names of files and folders tell them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.data.importing.benchmarks import eval_anything, multiple_choice, preference
from services.data.importing.benchmarks.values import Fill
from services.data.importing.columns import Row

_MODALITY = "text|image|audio|video"
_TASK = re.compile(rf"(?P<read>(?:{_MODALITY})(?:-(?:{_MODALITY}))*)-to-(?P<written>[a-z0-9]+(?:-(?:{_MODALITY}))*)")
_INSTRUCT = re.compile(rf"(?P<written>{_MODALITY})-instruct")
SUBTASK = re.compile(r"[tiav]{1,4}2[tiav]{1,4}")


@dataclass(frozen=True)
class Format:
    """How the rows of a format become records."""

    names: tuple[str, ...]
    """Words in names of files and folders that tell the format, in lower case and without marks."""
    columns: tuple[str, ...]
    """The columns that are read, or that rows must not have a value in."""
    fill: Fill
    ids: tuple[str, ...] = ()
    """Columns that tell rows apart, beside those of every import."""
    key: str = ""
    """The column in which rows of one record agree; "" if each row is a record."""
    tells: tuple[tuple[str, ...], ...] = ()
    """Columns that tell the format: each a set that a row has. None where names do."""
    preference: tuple[str, ...] = ()
    """Columns of which rows with a preference have a value in one; the rest of their columns can hold none."""
    rated: tuple[int, int] | None = None
    """The scale on which its ratings are published, if that is not 0 to 3."""
    unread: Callable[[Row], Iterable[str]] = lambda _: ()
    """The fields within its columns, as `column.field`, that hold a value and are not read."""
    needs_task: bool = False
    """Whether the name of a file, or the request, must say what answers are made of."""


FORMATS: Mapping[str, Format] = {
    "amu": Format(("evalanythingamu",), eval_anything.AMU_COLUMNS, eval_anything.fill_amu, ("question_id",)),
    "instruction_following": Format(
        ("evalanythinginstructionfollowing",),
        eval_anything.INSTRUCTION_COLUMNS,
        eval_anything.fill_instruction,
        ("prompt_id",),
        key="prompt_id",
        needs_task=True,
    ),
    "selection": Format(
        ("evalanythingselectionsynergy",),
        eval_anything.SELECTION_COLUMNS,
        eval_anything.fill_selection,
        ("instruction_uid",),
    ),
    "multiple_choice": Format(
        ("omnibench",), multiple_choice.COLUMNS_WITH_MEDIA, multiple_choice.fill_multiple_choice, ("index",)
    ),
    "preference": Format(
        ("vlrewardbench", "omnirewardbench"), preference.COLUMNS_WITH_MEDIA, preference.fill_preference
    ),
}
EXPORTED = "benchmark-"
"""How the names of exported folders begin: `benchmark-amu`."""


def format_of(path: Path, names: Sequence[str]) -> str:
    """The format in the name of a file, or else of the nearest of its folders; "" if there is none."""
    for name in (path.stem, *names):
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        for code, form in FORMATS.items():
            exported = re.sub(r"[^a-z0-9]", "", EXPORTED + code)
            if any(word in plain for word in (*form.names, exported)):
                return code
    return ""


def subtask_in(path: Path, names: Sequence[str]) -> str:
    """The task in a name, as `t2a` for `audio_instruct` or `text_to_audio`.

    "" if the names have none, "?" for one that is not of text, images, audio and video.
    """
    for name in (path.stem, *names):
        plain = re.sub(r"[\s_.]+", "-", name.lower())
        if match := _INSTRUCT.search(plain):
            return f"t2{match['written'][0]}"
        if match := _TASK.search(plain):
            read, written = (side.split("-") for side in (match["read"], match["written"]))
            is_known = all(word in _MODALITY.split("|") for word in written)
            return f"{_letters(read)}2{_letters(written)}" if is_known else "?"
    return ""


def _letters(words: Sequence[str]) -> str:
    return "".join(word[0] for word in words)
