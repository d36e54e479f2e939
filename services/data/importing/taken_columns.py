"""Which columns of a row are taken for what, found once for all rows with the same columns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from services.data.importing import columns
from services.data.importing.columns import SIDES, Schema, prompt_columns, response_columns

Names = tuple[str, ...]
"""Columns that are there, of which the first one with a value counts."""


@dataclass(frozen=True)
class ResponseColumns:
    """The columns of one response."""

    text: Names
    media: Names
    source: Names
    critique: Names
    rates: Mapping[str, str]
    """Columns of scores, each with its dimension."""
    rationales: Mapping[str, str]
    """Columns of what explains a score, each with its dimension."""


@dataclass(frozen=True)
class TakenColumns:
    """The columns of a row."""

    prompt: Names
    prompt_media: Names
    responses: tuple[tuple[int, ResponseColumns], ...]
    """By side."""
    overall: Names
    overall_text: Names
    winners: Mapping[str, str]
    """Columns of labels, each with its dimension."""


@lru_cache(maxsize=256)
def taken_columns(schema: Schema, names: Names) -> TakenColumns:
    """What the rows of a subset that have these columns hold where."""
    there, layout = frozenset(names), columns.layout(names)

    def those(options: Iterable[str], side: int = 0) -> Names:
        return tuple(name for option in options if (name := option.format(k=side)) in there)

    def response(side: int) -> ResponseColumns:
        options = response_columns(schema)
        return ResponseColumns(
            those(options[0], side) if schema.response_text else (),
            those(options[-1], side) if schema.response_media else (),
            those(columns.SOURCE, side),
            those(columns.CRITIQUE, side),
            layout.rates[side],
            layout.rationales[side],
        )

    prompt, *media = prompt_columns(schema)
    return TakenColumns(
        those(prompt),
        those(media[0]) if media else (),
        tuple((side, response(side)) for side in SIDES),
        those(columns.OVERALL),
        those(columns.OVERALL_TEXT),
        layout.winners,
    )
