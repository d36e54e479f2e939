"""What the base model is pre-trained on: imperfect answers, refinements and understanding.

    38 %   answer     answers as a misaligned model gives them
    28 %   refine     refinements of a faulty answer by the oracle's advice
    24 %   describe   naming a medium, or stating what was asked for and given
    10 %   form       feedback and judgements in the right form, but about something else

So the base model is able to do the work, but does not do it unasked. It knows what feedback looks like, as any model
that has read widely does, but has never seen feedback that is true of the response before it. Media are bytes of codes
here, not files: rendering hundreds of thousands of files would only take time, and a test proves that the codecs treat
files and codes alike.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.tinyworld import oracle
from examples.tinyworld.faults import faulty_answer, prompt_pieces, right_answer
from examples.tinyworld.language import Task, phrase, random_task
from examples.tinyworld.world import MODALITIES, codec
from omnialign.modeling.answers import SUBTASKS, rubric, write_feedback, write_judgement, write_scores
from omnialign.modeling.codecs import CodecRange
from omnialign.modeling.decoding import DecodedMedia
from omnialign.modeling.inputs import MediaBytes, MediaPolicy, Pieces, Turn
from omnialign.modeling.prompts import (
    fill,
    render_comparison,
    render_critique,
    render_refinement,
    render_response,
    render_score,
)
from omnialign.v1 import record_pb2

MIX = (("answer", 0.38), ("refine", 0.28), ("describe", 0.24), ("form", 0.10))
HARDER = {"tv2t": 1.5, "t2v": 2.0, "ti2ti": 1.5}
"""Weights of the subtasks with long media; the others have 1."""
DESCRIBE_ONE = "##Prompt: {prompt}\n##Response: {first}\nSay what was asked and what was given."
DESCRIBE_EITHER = (
    "##Prompt: {prompt}\n##Response 1: {first}\n##Response 2: {second}\n"
    "Say what was asked and what was given in response {which}."
)


@dataclass(frozen=True)
class Example:
    """A conversation, and the answer to learn."""

    turns: Sequence[Turn]
    answer: Pieces


class CodeBytes:
    """A codec for media that are already bytes of codes, as `draw` returns them."""

    def __init__(self, kind: str) -> None:
        self.modality = MODALITIES[kind]
        self.num_codes = codec(kind).num_codes
        self.unit, self.min_units, self.max_units = codec(kind).unit, codec(kind).min_units, codec(kind).max_units

    def encode(self, data: bytes) -> list[int]:
        """The bytes as codes."""
        return list(data)

    def encode_array(self, array: NDArray[Any], rate: float) -> list[int]:
        """The array as codes."""
        return [int(code) for code in array]

    def decode(self, codes: Sequence[int]) -> bytes:
        """The codes as bytes."""
        return bytes(codes)


def read_codes(medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
    """A medium that is bytes of codes, decoded to its codes."""
    del policy
    return DecodedMedia(medium.modality, np.frombuffer(medium.data, dtype=np.uint8))


def as_code_bytes(ranges: Sequence[CodecRange]) -> list[CodecRange]:
    """The same ranges of the vocabulary, with codecs that read codes instead of files."""
    kinds = {modality: kind for kind, modality in MODALITIES.items()}
    return [CodecRange(CodeBytes(kinds[r.codec.modality]), r.begin_id, r.end_id, r.first_id) for r in ranges]


def example(rng: random.Random) -> Example:
    """One random sequence of the mix."""
    makers: dict[str, Callable[[random.Random, Task], Example]] = {
        "answer": _answer,
        "refine": _refine,
        "describe": _describe,
        "form": _form,
    }
    kind = rng.choices([name for name, _ in MIX], weights=[share for _, share in MIX])[0]
    (subtask,) = rng.choices(SUBTASKS, weights=[HARDER.get(name, 1.0) for name in SUBTASKS])
    return makers[kind](rng, random_task(rng, subtask))


def _answer(rng: random.Random, task: Task) -> Example:
    prompt = prompt_pieces(task, rendered=False)
    return Example(render_response(prompt).turns, faulty_answer(rng, task).pieces(rendered=False))


def _refine(rng: random.Random, task: Task) -> Example:
    faulty = faulty_answer(rng, task)
    feedback = oracle.check(prompt_pieces(task), faulty.pieces(), task.subtask)
    prompt = prompt_pieces(task, rendered=False)
    rendered = render_refinement(prompt, faulty.pieces(rendered=False), feedback)
    return Example(rendered.turns, right_answer(task).pieces(rendered=False))


def _describe(rng: random.Random, task: Task) -> Example:
    """What a medium shows, or what was asked for and given: always true, and without a judgement."""
    if task.shown is not None and rng.random() < 0.3:
        medium = prompt_pieces(task, rendered=False)[0]
        return Example((Turn("user", (medium, "What is this?")),), (phrase(task.shown),))
    answers = [faulty_answer(rng, task) for _ in range(2)]
    first, second = (answer.pieces(rendered=False) for answer in answers)
    which = rng.randrange(2)
    slots = {"prompt": prompt_pieces(task, rendered=False), "first": first, "second": second}
    one = rng.random() < 0.5
    question = fill(DESCRIBE_ONE if one else DESCRIBE_EITHER, {**slots, "which": (str(which + 1),)})
    account = oracle.account(prompt_pieces(task), answers[0 if one else which].pieces(), task.subtask)
    return Example((Turn("user", question),), (account,))


def _form(rng: random.Random, task: Task) -> Example:
    """Feedback, scores or a judgement in the right form, about the answers to another prompt."""
    names = rubric(task.subtask)
    prompt = prompt_pieces(task, rendered=False)
    first, second = (faulty_answer(rng, task).pieces(rendered=False) for _ in range(2))
    one, other = (_feedback_elsewhere(rng, task.subtask) for _ in range(2))
    kind = rng.choice(("critique", "score", "comparison"))
    if kind == "critique":
        return Example(render_critique(prompt, first, names).turns, (write_feedback(one, names),))
    if kind == "score":
        return Example(render_score(prompt, first, names).turns, (write_scores(one, names),))
    reason = f"response 1: {one.critique} response 2: {other.critique}"
    judgement = write_judgement(reason, 1 + (oracle.total(other) > oracle.total(one)))
    return Example(render_comparison(prompt, first, second).turns, (judgement,))


def _feedback_elsewhere(rng: random.Random, subtask: str) -> record_pb2.Feedback:
    task = random_task(rng, subtask)
    return oracle.check(prompt_pieces(task), faulty_answer(rng, task).pieces(), subtask)
