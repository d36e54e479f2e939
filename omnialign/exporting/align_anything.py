"""Records in the columns of align-anything-200k, one file for each subtask.

The columns have no place for marks, for how a model generated something, and for what judges and benchmarks said.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from omnialign.content import LETTERS, NAMES
from omnialign.exporting.exchanges import lost_labels, lost_of_models
from omnialign.exporting.rows import Unwritable, path_of, with_place
from omnialign.feedback_text import (
    FeedbackText,
    read_feedback_text,
    read_verdict_text,
    write_feedback_text,
    write_verdict_text,
)
from omnialign.placeholders import written
from omnialign.v1.content_pb2 import (
    MODALITY_AUDIO,
    MODALITY_IMAGE,
    MODALITY_UNSPECIFIED,
    MODALITY_VIDEO,
    Content,
)
from omnialign.v1.record_pb2 import Record, Response

SIDES = (1, 2)
TEXT_LETTERS = {
    "prompt_following": "p",
    "objective_rules": "o",
    "clarity": "c",
    "information_richness": "i",
    "safety": "s",
}
MEDIA_LETTERS = {
    "prompt_following": "p",
    "objective_rules": "o",
    "aesthetics": "a",
    "information_richness": "i",
    "safety": "s",
}
AUDIO_LETTERS = {**MEDIA_LETTERS, "audio_quality": "o", "consistency": "a"}
VIDEO_LETTERS = {
    **MEDIA_LETTERS,
    "temporal_consistency": "t",
    "content_coherence": "c",
    "motion_naturalness": "m",
    "video_objective_reality": "r",
}
BOTH_LETTERS = {**TEXT_LETTERS, "ca": "ca", "consistency": "c"}


@dataclass(frozen=True)
class Columns:
    """How a subset spells its data; `{k}` is the side. A column that is "" is not there."""

    prompt: str = "question"
    prompt_media: str = ""
    prompt_modality: int = MODALITY_UNSPECIFIED
    text: str = "response_{k}"
    media: str = ""
    modality: int = MODALITY_UNSPECIFIED
    source: str = "res_{k}_from"
    critique: str = "text_critique_{k}"
    side: str = "response"
    """What the columns of winners end in."""
    letters: Mapping[str, str] = field(default_factory=lambda: TEXT_LETTERS)
    """What stands for a dimension in its columns; the name of the dimension where there is none."""


COLUMNS = {
    "t2t": Columns(),
    "ti2t": Columns(prompt_media="image", prompt_modality=MODALITY_IMAGE),
    "ta2t": Columns("prompt", prompt_media="audio_path", prompt_modality=MODALITY_AUDIO),
    "tv2t": Columns("prompt", prompt_media="video_path", prompt_modality=MODALITY_VIDEO, source="model_{k}"),
    "t2i": Columns(
        "prompt",
        text="",
        media="image_{k}",
        modality=MODALITY_IMAGE,
        source="image_{k}_model",
        critique="text_{k}_feedback",
        side="image",
        letters=MEDIA_LETTERS,
    ),
    "t2a": Columns(
        "prompt",
        text="",
        media="response_{k}",
        modality=MODALITY_AUDIO,
        critique="text_{k}_feedback",
        side="audio",
        letters=AUDIO_LETTERS,
    ),
    "t2v": Columns(
        "prompt",
        text="",
        media="video_{k}",
        modality=MODALITY_VIDEO,
        source="video_{k}_model",
        critique="text_{k}_feedback",
        side="video",
        letters=VIDEO_LETTERS,
    ),
    "ti2ti": Columns(
        prompt_media="image_url",
        prompt_modality=MODALITY_IMAGE,
        media="output_image_url_{k}",
        modality=MODALITY_IMAGE,
        letters=BOTH_LETTERS,
    ),
}


def align_anything_row(record: Record) -> dict[str, Any]:
    """The columns of a record. Raises Unwritable."""
    columns = COLUMNS.get(record.subtask)
    if columns is None:
        raise Unwritable(f"align-anything has no subset for {record.subtask or 'records without a subtask'}")
    if len(record.responses) not in (0, 2):
        raise Unwritable(f"a row has two responses, and the record {len(record.responses)}")
    if record.history:
        raise Unwritable("a row has a prompt of one message, and messages came before the prompt")
    letters = _letters(columns, record)
    row = _message(record.prompt, columns.prompt, columns.prompt_media, columns.prompt_modality)
    for side, response in zip(SIDES, record.responses, strict=False):
        row |= _response(columns, response, side, letters)
    if record.HasField("preference"):
        row |= _preference(columns, record, letters)
    return with_place(record, row)


def lost_of_align_anything(record: Record) -> Iterator[str]:
    """What of a record the columns have no place for."""
    if any(response.feedback.marks for response in record.responses):
        yield "marks"
    yield from lost_labels(record)
    yield from lost_of_models(record)


def subtask_name(subtask: str) -> str:
    """The name that tells an import the subtask: `ti2t` gives `text-image-to-text`."""
    read, _, written = subtask.partition("2")
    sides = ("-".join(NAMES[LETTERS[letter]] for letter in side if letter in LETTERS) for side in (read, written))
    return "-to-".join(sides)


def _response(columns: Columns, response: Response, side: int, letters: Mapping[str, str]) -> dict[str, Any]:
    text, media = columns.text.format(k=side), columns.media.format(k=side)
    row = _message(response.content, text, media, columns.modality)
    row[columns.source.format(k=side)] = response.source
    feedback = response.feedback
    for score in feedback.scores:
        row[f"{score.dimension}_rate_{side}"] = score.score
        row[f"{letters[score.dimension]}_rationale_{side}"] = _trimmed(score.rationale)
    text = write_feedback_text(feedback.critique, feedback.refinement)
    if read_feedback_text(text) != FeedbackText(critique=feedback.critique, refinement=feedback.refinement):
        raise Unwritable("its critique or advice has the marks of sections, or blanks around it")
    return row | {columns.critique.format(k=side): text}


def _preference(columns: Columns, record: Record, letters: Mapping[str, str]) -> dict[str, Any]:
    preference = record.preference
    if set(preference.dimensions) - set(letters):
        raise Unwritable("a dimension has a winner and no scores")
    row: dict[str, Any] = {f"{letters[name]}_{columns.side}": winner for name, winner in preference.dimensions.items()}
    text = write_verdict_text(preference.reason)
    if read_verdict_text(text) != preference.reason:
        raise Unwritable("its reason has the marks of sections, or blanks around it")
    return row | {f"overall_{columns.side}": preference.preferred, "overall_textfeedback": text}


def _letters(columns: Columns, record: Record) -> dict[str, str]:
    """What stands for each dimension with scores: its letters, or if they would not tell all apart, its name."""
    scored = {score.dimension for response in record.responses for score in response.feedback.scores}
    found = {name: columns.letters.get(name, name) for name in scored}
    is_clear = scored <= set(columns.letters) and len(set(found.values())) == len(found)
    return found if is_clear else {name: name for name in scored}


def _message(content: Content, text: str, media: str, modality: int) -> dict[str, Any]:
    """The columns of a message: its text with markers, and the paths of its media."""
    parts = [part.text if part.WhichOneof("part") == "text" else part.media for part in content.parts]
    found = [part for part in parts if not isinstance(part, str)]
    if any(medium.modality != modality for medium in found):
        raise Unwritable("it has media of a kind that its subset has none of")
    if media and not found:
        raise Unwritable(f"it has no {NAMES[modality]} where its subset has one")
    if bool(text) != any(isinstance(part, str) and part.strip() for part in parts):
        raise Unwritable("it has no text where its subset has one" if text else "it has text where its subset has none")
    paths = [path_of(medium) for medium in found]
    row: dict[str, Any] = {media: paths if len(paths) > 1 else paths[0]} if paths else {}
    try:
        return row | ({text: written(parts, NAMES.get(modality, "image"))} if text else {})
    except ValueError as error:
        raise Unwritable(str(error)) from error


def _trimmed(text: str) -> str:
    if text != text.strip():
        raise Unwritable("a rationale has blanks around it")
    return text
