"""How files are to be read, from a small file or from options: what an import declares.

    format: trl
    map: {prompt: question, chosen: better}     # the column that is read: that of the files
    ignore: [notes]
    score_range: [1, 5]
    winner_labels: [0, 1]
    answer_labels: [1, 0]

Options win over the file, one by one.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from omnialign.cli.spec import read_file
from omnialign.errors import InvalidArgument

KINDS: Mapping[str, tuple[str, type | tuple[type, ...]]] = {
    "format": ("text", str),
    "subtask": ("text", str),
    "split": ("text", str),
    "map": ("a mapping of columns", dict),
    "ignore": ("a list of columns", list),
    "score_range": ("two numbers", list),
    "winner_labels": ("two whole numbers", list),
    "answer_labels": ("two labels, that of a good answer first,", list),
    "references": ("a whole number", int),
}


def read_mapping(path: Path | None) -> dict[str, Any]:
    """What a file declares; nothing without one. Raises SPEC_UNREADABLE, MAPPING_INVALID for the first bad key."""
    found = read_file(path) if path else {}
    for key, value in found.items():
        if key not in KINDS:
            near = difflib.get_close_matches(str(key), KINDS, n=1)
            raise _invalid(path, key, "is not known" + (f", {near[0]} is" if near else f": {', '.join(KINDS)} are"))
        wanted, kind = KINDS[key]
        if not isinstance(value, kind) or isinstance(value, bool) or not _is_filled(key, value):
            raise _invalid(path, key, f"is {value!r}"[:200] + f", and {wanted} is taken")
    if labels := found.get("answer_labels"):
        found["answer_labels"] = [str(one).lower() if isinstance(one, bool) else str(one) for one in labels]
    return found


def renamed_columns(mapped: Mapping[str, str], maps: Sequence[str], renames: Sequence[str]) -> dict[str, str]:
    """The columns to read by another name: theirs to ours. `maps` are `ours=theirs`, `renames` are `theirs=ours`."""
    pairs = [(ours, theirs) for ours, theirs in mapped.items()]
    pairs += [_pair(text, "--map", "OURS=THEIRS") for text in maps]
    pairs += [(ours, theirs) for theirs, ours in (_pair(text, "--rename", "THEIRS=OURS") for text in renames)]
    return {theirs: ours for ours, theirs in dict(pairs).items()}


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    first, _, second = text.partition("=")
    if not first or not second:
        raise typer.BadParameter(f"{text!r} is not {form}", param_hint=option)
    return first, second


def _is_filled(key: str, value: Any) -> bool:
    """Whether the items of a value are of the kinds that its key takes."""
    if key == "map":
        return all(isinstance(one, str) and one for pair in value.items() for one in pair)
    if key == "ignore":
        return all(isinstance(one, str) for one in value)
    if key in ("score_range", "winner_labels"):
        kinds = (int, float) if key == "score_range" else (int,)
        return len(value) == 2 and all(isinstance(one, kinds) and not isinstance(one, bool) for one in value)
    if key == "answer_labels":
        return len(value) == 2 and all(isinstance(one, str | int) for one in value)
    return True


def _invalid(path: Path | None, key: Any, why: str) -> InvalidArgument:
    message = f"In '{path}', {str(key)[:80]} {why}."
    return InvalidArgument(message, reason="MAPPING_INVALID", metadata={"path": str(path), "key": str(key)[:80]})
