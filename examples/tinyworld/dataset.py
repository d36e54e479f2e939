"""Writes the tiny world's data in the column schemas of align-anything-200k, which the regular importer reads.

The split `train` is annotated: two faulty responses with ratings, rationales, critiques and an overall label. The
splits `prompts`, `validation` and `test` have only prompts; half of those in the last two are combinations of
attributes that occur in no other split.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.tinyworld import oracle
from examples.tinyworld.faults import faulty_answer, prompt_pieces
from examples.tinyworld.language import Task, random_task
from examples.tinyworld.media_folder import file_name, save_in
from omnialign.modeling.inputs import MediaBytes, Pieces
from omnialign.rubrics import rubric
from omnialign.v1 import record_pb2

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Rows per subtask and split."""

    train: int = 150
    prompts: int = 150
    validation: int = 0
    test: int = 60


@dataclass(frozen=True)
class Schema:
    """The column names of a subset. `side` is the suffix of the winner on a dimension (`p_response`, `p_image`)."""

    folder: str
    prompt: str
    media: str
    responses: tuple[str, str]
    sources: tuple[str, str]
    critiques: tuple[str, str]
    side: str
    parquet: bool
    answer_media: tuple[str, str] = ("", "")

    @property
    def overall(self) -> str:
        """The column of the overall label."""
        return f"overall_{self.side}"


_FROM, _MODEL = ("res_1_from", "res_2_from"), ("model_1", "model_2")
_TEXTS, _RESPONSES = ("text_critique_1", "text_critique_2"), ("response_1", "response_2")
SCHEMAS = {
    "t2t": Schema("text-to-text", "question", "", _RESPONSES, _FROM, _TEXTS, "response", True),
    "ti2t": Schema("text-image-to-text", "question", "image", _RESPONSES, _FROM, _TEXTS, "response", True),
    "ta2t": Schema("text-audio-to-text", "prompt", "audio_path", _RESPONSES, _FROM, _TEXTS, "response", True),
    "tv2t": Schema("text-video-to-text", "prompt", "video_path", _RESPONSES, _MODEL, _TEXTS, "response", False),
    "t2i": Schema(
        "text-to-image",
        "prompt",
        "",
        ("image_1", "image_2"),
        ("image_1_model", "image_2_model"),
        ("text_1_feedback", "text_2_feedback"),
        "image",
        True,
    ),
    "t2a": Schema(
        "text-to-audio", "prompt", "", _RESPONSES, _FROM, ("text_1_feedback", "text_2_feedback"), "audio", True
    ),
    "t2v": Schema(
        "text-to-video",
        "prompt",
        "",
        ("video_1", "video_2"),
        ("video_1_model", "video_2_model"),
        _TEXTS,
        "video",
        False,
    ),
    "ti2ti": Schema(
        "text-image-to-text-image",
        "question",
        "image_url",
        _RESPONSES,
        _FROM,
        _TEXTS,
        "response",
        False,
        answer_media=("output_image_url_1", "output_image_url_2"),
    ),
}
# The prefixes of the rationale columns in the data card; those for videos follow the same pattern.
LETTERS = {
    "prompt_following": "p",
    "objective_rules": "o",
    "clarity": "c",
    "aesthetics": "a",
    "ca": "ca",
    "audio_quality": "o",
    "information_richness": "i",
    "safety": "s",
    "temporal_consistency": "t",
    "content_coherence": "cc",
    "motion_naturalness": "m",
}


def letter(subtask: str, dimension: str) -> str:
    """The prefix of a dimension's rationale columns; `consistency` has `a` in text-to-audio and `c` elsewhere."""
    if dimension == "consistency":
        return "a" if subtask == "t2a" else "c"
    return LETTERS[dimension]


def write(folder: Path, *, seed: int, sizes: Sizes | None = None) -> None:
    """Writes all eight subsets under `folder`, one subfolder each, one file per split."""
    counts = sizes or Sizes()
    for subtask, schema in SCHEMAS.items():
        target = folder / schema.folder
        target.mkdir(parents=True, exist_ok=True)
        for split in ("train", "prompts", "validation", "test"):
            rng = random.Random(f"{seed}/{subtask}/{split}")
            tasks = _tasks(rng, subtask, getattr(counts, split), mixed=split in ("validation", "test"))
            make = _annotated if split == "train" else _prompt_only
            rows = [make(rng, task, schema, _saver(target, schema)) for task in tasks]
            if rows:
                _write_rows(target, split, rows, schema)


def _tasks(rng: random.Random, subtask: str, count: int, *, mixed: bool) -> list[Task]:
    """Tasks with combinations that are not held out; with `mixed`, every second one is."""
    return [random_task(rng, subtask, held_out=mixed and index % 2 == 1) for index in range(count)]


def _saver(target: Path, schema: Schema) -> Callable[[MediaBytes], Any]:
    """A function that stores a medium as the subset does: embedded in Parquet, or as a file in its media folder."""

    def save(media: MediaBytes) -> Any:
        if schema.parquet:
            return {"bytes": media.data, "path": file_name(media)}
        return save_in(target, "media", media)

    return save


def _prompt_only(_: random.Random, task: Task, schema: Schema, save: Callable[[MediaBytes], Any]) -> Row:
    row: Row = {schema.prompt: task.text, "labels": json.dumps({"held_out": str(task.held_out).lower()})}
    for piece in prompt_pieces(task):
        if isinstance(piece, MediaBytes):
            row[schema.media] = save(piece)
    return row


def _annotated(rng: random.Random, task: Task, schema: Schema, save: Callable[[MediaBytes], Any]) -> Row:
    row = _prompt_only(rng, task, schema, save)
    prompt = prompt_pieces(task)
    while True:  # the columns know no ties: draw again until one answer is better
        answers = [faulty_answer(rng, task).pieces() for _ in range(2)]
        feedbacks = [oracle.check(prompt, answer, task.subtask) for answer in answers]
        totals = [oracle.total(feedback) for feedback in feedbacks]
        if totals[0] != totals[1]:
            break
    for side, (answer, feedback) in enumerate(zip(answers, feedbacks, strict=True)):
        row |= _answer_columns(answer, schema, side, save) | _feedback_columns(feedback, task.subtask, schema, side)
    preferred = 1 + (totals[1] > totals[0])
    row |= _winners(feedbacks, task.subtask, schema)
    row[schema.overall] = preferred
    row["overall_textfeedback"] = _overall(feedbacks, preferred)
    return row


def _answer_columns(answer: Pieces, schema: Schema, side: int, save: Callable[[MediaBytes], Any]) -> Row:
    row: Row = {schema.sources[side]: f"tinyworld-{'ab'[side]}"}
    for piece in answer:
        if isinstance(piece, str):
            row[schema.responses[side]] = piece
        else:
            row[schema.answer_media[side] or schema.responses[side]] = save(piece)
    return row


def _feedback_columns(feedback: record_pb2.Feedback, subtask: str, schema: Schema, side: int) -> Row:
    row: Row = {schema.critiques[side]: f"##Critique: {feedback.critique} ##Refinement: {feedback.refinement}"}
    for score in feedback.scores:
        row[f"{score.dimension}_rate_{side + 1}"] = score.score
        row[f"{letter(subtask, score.dimension)}_rationale_{side + 1}"] = score.rationale
    return row


def _winners(feedbacks: list[record_pb2.Feedback], subtask: str, schema: Schema) -> Mapping[str, int]:
    """Which side wins each dimension; the columns know no ties, so equal scores go to the first."""
    pairs = zip(rubric(subtask), feedbacks[0].scores, feedbacks[1].scores, strict=True)
    return {f"{letter(subtask, name)}_{schema.side}": 1 + (b.score > a.score) for name, a, b in pairs}


def _overall(feedbacks: list[record_pb2.Feedback], preferred: int) -> str:
    reason = " ".join(f"response {side}: {feedback.critique}" for side, feedback in enumerate(feedbacks, 1))
    return f"##Reason: {reason} ##Refinement: {feedbacks[preferred - 1].refinement}"


def _write_rows(target: Path, split: str, rows: list[Row], schema: Schema) -> None:
    if schema.parquet:
        pq.write_table(pa.Table.from_pylist(rows), target / f"{split}.parquet")
    else:
        (target / f"{split}.json").write_text(json.dumps(rows))


def main() -> None:
    """Entry point: `python -m examples.tinyworld.dataset FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    for name, default in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"rows per subtask (default {default})")
    arguments = vars(parser.parse_args())
    write(arguments.pop("folder"), seed=arguments.pop("seed"), sizes=Sizes(**arguments))


if __name__ == "__main__":
    main()
