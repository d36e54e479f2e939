"""Writes the data in the schema of the text subset of align-anything-200k, which the regular importer reads.

The split `train` is annotated: two answers with ratings, critiques and an overall label. The splits `prompts` and
`test` have only prompts; those of `test` have topics, words and numbers that occur in no other split.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.instructions import checker
from examples.instructions.prompts import Instruction, random_fillers, random_instruction
from omnialign.v1 import record_pb2

Row = dict[str, Any]
FOLDER = "text-to-text"
SENTENCES = Path(__file__).parent / "sentences.json"
AS_WRITTEN, NARROW, CUT = 0.4, 0.15, 0.1
"""Shares of annotated answers: as the base model wrote them, mended with other words, and broken off besides."""
LETTERS = {
    "prompt_following": "p",
    "objective_rules": "o",
    "clarity": "c",
    "information_richness": "i",
    "safety": "s",
}


@dataclass(frozen=True)
class Sizes:
    """Prompts per split."""

    train: int = 120
    prompts: int = 120
    test: int = 100


def write(folder: Path, *, seed: int, sizes: Sizes | None = None) -> None:
    """Writes the subset under `folder`, one file per split."""
    counts, target = sizes or Sizes(), folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "prompts", "test"):
        rng = random.Random(f"{seed}/{split}")
        wanted = [random_instruction(rng, held_out=split == "test") for _ in range(getattr(counts, split))]
        rows = [_annotated(rng, one) if split == "train" else {"question": one.text} for one in wanted]
        pq.write_table(pa.Table.from_pylist(rows), target / f"{split}.parquet")


def _annotated(rng: random.Random, wanted: Instruction) -> Row:
    while True:  # the columns know no ties: draw again until one answer is better
        answers = [_answer(rng, wanted) for _ in range(2)]
        feedbacks = [checker.check([wanted.text], [answer], "t2t") for answer in answers]
        totals = [checker.total(feedback) for feedback in feedbacks]
        if totals[0] != totals[1]:
            break
    row: Row = {"question": wanted.text}
    for side, (answer, feedback) in enumerate(zip(answers, feedbacks, strict=True), start=1):
        row |= {f"response_{side}": answer, f"res_{side}_from": f"annotated-{side}"}
        row |= _feedback_columns(feedback, side)
    preferred = 1 + (totals[1] > totals[0])
    for first, second in zip(feedbacks[0].scores, feedbacks[1].scores, strict=True):
        row[f"{LETTERS[first.dimension]}_response"] = 1 + (second.score > first.score)
    return row | {
        "overall_response": preferred,
        "overall_textfeedback": f"##Reason: response {preferred} follows the instruction better. ##Refinement: "
        + feedbacks[preferred - 1].refinement,
    }


def _answer(rng: random.Random, wanted: Instruction) -> str:
    """A sentence of the base model on the topic: as written, mended, mended with other words, or broken off."""
    sentence: str = rng.choice(_sentences()[wanted.topic])
    kind = rng.random()
    if kind >= AS_WRITTEN:
        others = kind < AS_WRITTEN + NARROW
        fillers = random_fillers(rng, wanted.family) if others else wanted.fillers
        sentence = wanted.family.mend(sentence, fillers)
    if rng.random() < CUT:
        sentence = " ".join(sentence.split()[:-3]).rstrip(".,") or sentence
    return sentence


def _sentences() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(SENTENCES.read_text())
    return found


def _feedback_columns(feedback: record_pb2.Feedback, side: int) -> Row:
    row: Row = {f"text_critique_{side}": f"##Critique: {feedback.critique} ##Refinement: {feedback.refinement}"}
    for score in feedback.scores:
        row[f"{score.dimension}_rate_{side}"] = score.score
        row[f"{LETTERS[score.dimension]}_rationale_{side}"] = score.rationale
    return row
