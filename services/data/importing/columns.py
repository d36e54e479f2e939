"""How the eight subsets spell their data: names of columns.

A side is 1 or 2. Columns are looked up by name, never by position, so extra columns and other orders do no harm.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from omnialign.v1 import content_pb2

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
Row = Mapping[str, Any]

SIDES = (1, 2)
MAX_COLUMNS = 1000
"""Most columns of a row: what is looked up among them takes time in their square."""
PROMPT = ("prompt", "question")
OVERALL = ("overall_response", "overall_audio", "overall_image", "overall_video")
OVERALL_TEXT = ("overall_textfeedback", "overall_text_feedback", "feedback")
SOURCE = ("res_{k}_from", "model_{k}", "image_{k}_model", "video_{k}_model", "audio_{k}_model", "response_{k}_from",
          "response_{k}_model")  # fmt: skip
CRITIQUE = ("text_critique_{k}", "text_{k}_feedback", "text_feedback_{k}")
EXTRA_LABELS = ("refine_prompt", "reasoning")
PROMPT_MEDIA = {
    IMAGE: ("image", "image_path", "image_url"),
    AUDIO: ("audio_path", "audio", "audio_url"),
    VIDEO: ("video_path", "video", "video_url"),
}
RESPONSE_TEXT = ("response_{k}",)
RESPONSE_MEDIA = {
    IMAGE: ("image_{k}", "output_image_url_{k}", "output_image_{k}", "image_url_{k}", "image_path_{k}",
            "image_{k}_path", "response_{k}"),
    AUDIO: ("response_{k}", "audio_{k}", "audio_path_{k}", "audio_{k}_path", "output_audio_url_{k}"),
    VIDEO: ("video_{k}", "response_{k}", "video_path_{k}", "video_{k}_path", "video_url_{k}", "output_video_url_{k}"),
}  # fmt: skip
RATE = re.compile(r"(?P<dimension>.+)_rate_(?P<side>[12])")
RATIONALE = re.compile(r"(?P<letters>.+)_rationale_(?P<side>[12])")
WINNER = re.compile(r"(?P<letters>.+)_(response|audio|image|video)")
# What the letters of a dimension stand for. Subsets reuse letters: the first dimension that the row has counts.
LETTERS = {
    "p": ("prompt_following", "instruction_following"),
    "o": ("objective_rules", "audio_quality", "video_objective_reality"),
    "c": ("clarity", "consistency", "content_coherence"),
    "ca": ("ca", "clarity_aesthetics"),
    "a": ("aesthetics", "aesthetic", "consistency", "audio_consistency"),
    "i": ("information_richness",),
    "s": ("safety",),
    "t": ("temporal_consistency",),
    "m": ("motion_naturalness",),
    "r": ("video_objective_reality",),
}


@dataclass(frozen=True)
class Schema:
    """What a subset's rows hold."""

    prompt_media: int = 0
    """Modality of the media in the prompt; 0 for none."""
    response_text: bool = True
    """Whether responses have text."""
    response_media: int = 0
    """Modality of the media in the responses; 0 for none."""


SCHEMAS: dict[str, Schema] = {
    "t2t": Schema(),
    "ti2t": Schema(prompt_media=IMAGE),
    "ta2t": Schema(prompt_media=AUDIO),
    "tv2t": Schema(prompt_media=VIDEO),
    "t2i": Schema(response_text=False, response_media=IMAGE),
    "t2a": Schema(response_text=False, response_media=AUDIO),
    "t2v": Schema(response_text=False, response_media=VIDEO),
    "ti2ti": Schema(prompt_media=IMAGE, response_media=IMAGE),
}


def response_columns(schema: Schema) -> tuple[tuple[str, ...], ...]:
    """The columns of a response by part, text first; of each, the first that holds a value counts."""
    found: list[tuple[str, ...]] = [RESPONSE_TEXT] if schema.response_text else []
    if schema.response_media:
        names = RESPONSE_MEDIA[content_pb2.Modality.ValueType(schema.response_media)]
        # If responses have text too, `response_k` is that text and not the media.
        found.append(tuple(name for name in names if not (schema.response_text and name in RESPONSE_TEXT)))
    return tuple(found)


def prompt_columns(schema: Schema) -> tuple[tuple[str, ...], ...]:
    """The columns of a prompt by part, text first."""
    if not schema.prompt_media:
        return (PROMPT,)
    return PROMPT, PROMPT_MEDIA[content_pb2.Modality.ValueType(schema.prompt_media)]


def first(row: Row, names: Iterable[str], *, side: int = 0) -> str:
    """The first column of these that holds a value; "" if none does."""
    for name in named(tuple(names), side) if side else names:
        found = row.get(name)
        if found is not None and found != "":
            return name
    return ""


@lru_cache(maxsize=1024)
def named(names: tuple[str, ...], side: int) -> tuple[str, ...]:
    """The names of columns for one side."""
    return tuple(name.format(k=side) for name in names)


def has(row: Row, names: Iterable[str]) -> bool:
    """Whether the row has one of the columns, even if it is empty."""
    return any(name in row for name in names)


@dataclass(frozen=True)
class Layout:
    """Which columns hold feedback on which dimension: column to dimension, by side where there are sides."""

    rates: Mapping[int, Mapping[str, str]]
    rationales: Mapping[int, Mapping[str, str]]
    winners: Mapping[str, str]

    @property
    def scores(self) -> tuple[str, ...]:
        """The columns of scores of both sides."""
        return tuple(name for side in SIDES for name in self.rates[side])


@lru_cache(maxsize=256)
def layout(names: tuple[str, ...]) -> Layout:
    """The layout of a row with these columns. Cached, since the rows of a file share a few layouts."""
    rates: dict[int, dict[str, str]] = {side: {} for side in SIDES}
    for name in names:
        if match := RATE.fullmatch(name):
            rates[int(match["side"])][name] = match["dimension"]
    present = tuple(dict.fromkeys([*rates[1].values(), *rates[2].values()]))
    rationales: dict[int, dict[str, str]] = {side: {} for side in SIDES}
    winners = dict[str, str]()
    for name in names:
        if (match := RATIONALE.fullmatch(name)) and (dimension := dimension_of(match["letters"], present)):
            rationales[int(match["side"])][name] = dimension
        elif (match := WINNER.fullmatch(name)) and (dimension := dimension_of(match["letters"], present)):
            winners[name] = dimension
    return Layout(rates, rationales, winners)


def dimension_of(letters: str, present: Sequence[str]) -> str:
    """The dimension in `present` that letters such as `p` or `ca` stand for; "" if there is none."""
    for dimension in (letters, *LETTERS.get(letters, ())):
        if dimension in present:
            return dimension
    initials = [name for name in present if "".join(word[0] for word in name.split("_") if word) == letters]
    beginning = [name for name in present if name.startswith(letters)]
    return next(iter([*initials, *(beginning if len(beginning) == 1 else [])]), "")
