"""Writes the tiny world's benchmark in the published files and columns of eval-anything, which the importer reads.

    EvalAnything-AMU                    questions about scenes, with ten references and their key terms each
    EvalAnything-InstructionFollowing   instructions in the four output modalities, for audio and video with questions
    EvalAnything-Selection_Synergy      open instructions with the vote shares of modality combinations

Half of the items show combinations of attributes that no annotated data shows.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.tinyworld import presenting, understanding
from examples.tinyworld.choices import Choice, choices_about
from examples.tinyworld.faults import prompt_pieces
from examples.tinyworld.language import random_task
from examples.tinyworld.media_folder import save_in
from examples.tinyworld.understanding import CATEGORIES, Question, random_question
from omnialign.modeling.choices import write_choices
from omnialign.modeling.inputs import MediaBytes

Row = dict[str, Any]
INSTRUCTED = {"text": "t2t", "image": "t2i", "audio": "t2a", "video": "t2v"}


@dataclass(frozen=True)
class BenchmarkSizes:
    """Items of each category of understanding, of each modality of instructions, and of open instructions."""

    understanding: int = 40
    instructions: int = 20
    selection: int = 42


def write_benchmark(folder: Path, *, seed: int, sizes: BenchmarkSizes | None = None) -> None:
    """Writes the three parts under `folder`, one folder each."""
    counts = sizes or BenchmarkSizes()
    _write_understanding(folder / "EvalAnything-AMU", random.Random(f"{seed}/amu"), counts.understanding)
    target = folder / "EvalAnything-InstructionFollowing"
    for modality, subtask in INSTRUCTED.items():
        rng = random.Random(f"{seed}/instructions/{subtask}")
        rows = [row for index in range(counts.instructions) for row in _instruction(rng, subtask, index)]
        _write_rows(target / f"{modality}_instruct" / "test.parquet", rows)
    rng = random.Random(f"{seed}/selection")
    rows = [_open_instruction(rng, index) for index in range(counts.selection)]
    _write_rows(folder / "EvalAnything-Selection_Synergy" / "test.parquet", rows)


def _write_understanding(target: Path, rng: random.Random, count: int) -> None:
    subtasks = list(understanding.SUBTASKS)
    rows = []
    for index in range(count * len(CATEGORIES)):
        number, category = divmod(index, len(CATEGORIES))
        subtask = subtasks[number // 2 % len(subtasks)]
        item = random_question(rng, subtask, held_out=number % 2 == 1, category=CATEGORIES[category])
        rows.append(_question(rng, item, index, target))
    (target / "config.json").write_text(json.dumps(rows))


def _question(rng: random.Random, item: Question, index: int, target: Path) -> Row:
    seen, heard, question = prompt_pieces(item)
    assert isinstance(seen, MediaBytes) and isinstance(heard, MediaBytes)
    return {
        "question_id": index,
        "evaluation_dimension": item.category.replace("_", "-"),
        "question": question,
        "visual_modality_path": save_in(target, "visual", seen),
        "auditory_modality_path": save_in(target, "auditory", heard),
        "annotations": [_annotation(reference) for reference in item.references(rng)],
    }


def _annotation(reference: Any) -> Row:
    terms = {name: list(found.terms) for name, found in reference.key_terms.items()}
    auditory = terms.pop("audio")
    (visual,) = terms.values()
    return {"answer": reference.answer, "keywords": {"visual": visual, "auditory": auditory}}


def _instruction(rng: random.Random, subtask: str, index: int) -> Iterator[Row]:
    """One row, or for audio and video one for each question about the answer."""
    task = random_task(rng, subtask, held_out=index % 2 == 1)
    row = {"prompt_id": index, "prompt": task.text}
    if subtask in ("t2t", "t2i"):
        yield row
        return
    for number, asked in enumerate(choices_about(rng, task.wanted)):
        yield row | {"question_id": f"{index}-{number}"} | _choice_columns(asked)


def _choice_columns(asked: Choice) -> Row:
    return {"question": asked.question, "choice": write_choices(asked.values), "answer": asked.letter}


def _open_instruction(rng: random.Random, index: int) -> Row:
    (subtask,) = presenting.SUBTASKS
    item = presenting.random_invitation(
        rng,
        subtask,
        held_out=index % 2 == 1,
        combination=presenting.COMBINATIONS[index // 2 % len(presenting.COMBINATIONS)],
    )
    uid = hashlib.sha256(json.dumps(item.text).encode()).hexdigest()
    return {"instruction_uid": uid, "instruction": item.text, "selection": item.votes(rng)}


def _write_rows(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def main() -> None:
    """Entry point: `python -m examples.tinyworld.benchmark FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    for name, default in vars(BenchmarkSizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"items (default {default})")
    arguments = vars(parser.parse_args())
    folder, seed = arguments.pop("folder"), arguments.pop("seed")
    write_benchmark(folder, seed=seed, sizes=BenchmarkSizes(**arguments))


if __name__ == "__main__":
    main()
