"""What each method learns of preference pairs: samples and examples, for tests that take a step by hand."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from examples.tinyworld.faults import faulty_answer, prompt_pieces, right_answer
from examples.tinyworld.language import random_task
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import Turn
from omnialign.modeling.prompts import render_refinement
from omnialign.v1 import record_pb2
from tests.training.multimodal import keep
from training.examples import Example, encode_sample
from training.methods import METHODS
from training.samples import Sample

FEEDBACK = record_pb2.Feedback(critique="It says too little.", refinement="Say what it is.")


def world_pairs(*subtasks: str) -> list[Sample]:
    """A pair of the tiny world for each subtask: the right answer, and one with a fault."""
    tasks = [random_task(random.Random(1), subtask) for subtask in subtasks]
    return [
        Sample(
            (Turn("user", prompt_pieces(task)),),
            (right_answer(task).pieces(), faulty_answer(random.Random(2), task).pieces()),
        )
        for task in tasks
    ]


def samples_for(method: str, pairs: Sequence[Sample]) -> list[Sample]:
    """What a method learns of pairs.

    kto: each answer with its label, but for the last bad one. sdpo: the second answers, which a teacher with feedback
    on them reads too.
    """
    rows = METHODS[method].rows
    if rows == "answer":
        return [replace(p, answers=p.answers[:1]) for p in pairs]
    if rows == "labelled":
        both = [replace(p, answers=(y,), value=float(y is p.answers[0])) for p in pairs for y in p.answers]
        return both[:-1]
    if rows == "critiqued":
        return [
            replace(p, answers=(y,), teacher_turns=render_refinement(p.turns[0].pieces, y, FEEDBACK).turns)
            for p in pairs
            for y in p.answers[1:]
        ]
    return list(pairs)


def encoded(samples: Sequence[Sample], *, base: Path, folder: Path) -> list[Example]:
    """The samples as examples, the short ones first, as a run has them; their media are kept in the folder."""
    adapter = load_adapter(base)
    for sample in samples:
        keep(folder / "media", [*sample.turns, *sample.teacher_turns])
    found = [encode_sample(sample, adapter=adapter, max_length=10**6) for sample in samples]
    return sorted(found, key=lambda example: example.length)
