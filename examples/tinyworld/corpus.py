"""What the base model is pre-trained on: imperfect answers, refinements and understanding.

    35 %   answer     answers as a misaligned model gives them
    25 %   refine     refinements of a faulty answer by the oracle's advice
    23 %   describe   naming media, or stating what was asked for and given, also by the references of people
     9 %   choose     multiple-choice questions about a medium
     8 %   form       feedback and judgements in the right form, but about something else

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
from examples.tinyworld.choices import random_choice
from examples.tinyworld.faults import Message, prompt_pieces
from examples.tinyworld.findings import Findings
from examples.tinyworld.language import Task, phrase
from examples.tinyworld.tasks import SUBTASKS, AnyTask, faulty_answer, random_task, right_answer
from examples.tinyworld.understanding import PEOPLE, Question
from examples.tinyworld.world import MODALITIES, codec, draw
from omnialign.modeling.answers import write_feedback, write_judgement, write_rating, write_scores
from omnialign.modeling.benchmark_items import write_references
from omnialign.modeling.codecs import CodecRange
from omnialign.modeling.decoding import DecodedMedia
from omnialign.modeling.inputs import MediaBytes, MediaPolicy, Pieces, Turn
from omnialign.modeling.prompts import (
    fill,
    render_choice,
    render_comparison,
    render_critique,
    render_generation,
    render_refinement,
    render_response,
    render_score,
    render_understanding,
)
from omnialign.rubrics import rubric
from omnialign.v1 import content_pb2

MIX = (("answer", 0.35), ("refine", 0.25), ("describe", 0.23), ("choose", 0.09), ("form", 0.08))
HARDER = {"tv2t": 1.5, "t2v": 2.0, "ti2ti": 1.5, "tia2t": 1.5, "tav2t": 1.75, "t2tia": 2.25}
"""Weights of the subtasks with long or several media; the others have 1."""
BLIND_OR_DEAF = 0.08
"""Share of the answers to questions about scenes for which one medium is not there, so that the model must guess."""
DESCRIBE_ONE = "##Prompt: {prompt}\n##Response: {first}\nSay what was asked and what was given."
DESCRIBE_EITHER = (
    "##Prompt: {prompt}\n##Response 1: {first}\n##Response 2: {second}\n"
    "Say what was asked and what was given in response {which}."
)
DESCRIBE_REFERENCES = (
    "##Category: {category}\n##Question: {prompt}\n##References: {references}\n##Response: {first}\n"
    "Say what was asked and what was given."
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
    makers: dict[str, Callable[[random.Random, AnyTask], Example]] = {
        "answer": _answer,
        "refine": _refine,
        "describe": _describe,
        "choose": _choose,
        "form": _form,
    }
    kind = rng.choices([name for name, _ in MIX], weights=[share for _, share in MIX])[0]
    (subtask,) = rng.choices(SUBTASKS, weights=[HARDER.get(name, 1.0) for name in SUBTASKS])
    return makers[kind](rng, random_task(rng, subtask))


def _answer(rng: random.Random, task: AnyTask) -> Example:
    prompt = prompt_pieces(task, rendered=False)
    if isinstance(task, Question) and rng.random() < BLIND_OR_DEAF:
        prompt = (prompt[rng.randrange(2)], prompt[-1])
    return Example(render_response(prompt).turns, faulty_answer(rng, task).pieces(rendered=False))


def _refine(rng: random.Random, task: AnyTask) -> Example:
    faulty = faulty_answer(rng, task)
    feedback = oracle.check(prompt_pieces(task), faulty.pieces(), task.subtask)
    prompt = prompt_pieces(task, rendered=False)
    rendered = render_refinement(prompt, faulty.pieces(rendered=False), feedback)
    return Example(rendered.turns, right_answer(task).pieces(rendered=False))


def _describe(rng: random.Random, task: AnyTask) -> Example:
    """What media show, or what was asked for and given: always true, and without a judgement."""
    if task.shown is not None and rng.random() < 0.3:
        *media, _ = prompt_pieces(task, rendered=False)
        words = phrase(task.shown) if isinstance(task, Task) else task.scene.words
        return Example((Turn("user", (*media, "What is this?")),), (words,))
    if isinstance(task, Question) and rng.random() < 0.4:
        return _describe_references(rng, task)
    answers = [faulty_answer(rng, task) for _ in range(2)]
    first, second = (answer.pieces(rendered=False) for answer in answers)
    which = rng.randrange(2)
    slots = {"prompt": prompt_pieces(task, rendered=False), "first": first, "second": second}
    one = rng.random() < 0.5
    question = fill(DESCRIBE_ONE if one else DESCRIBE_EITHER, {**slots, "which": (str(which + 1),)})
    account = oracle.account(prompt_pieces(task), answers[0 if one else which].pieces(), task.subtask)
    return Example((Turn("user", question),), (account,))


def _describe_references(rng: random.Random, task: Question) -> Example:
    """What was asked for by the answers of people, and given."""
    answer = faulty_answer(rng, task)
    pieces = prompt_pieces(task, rendered=False)
    slots = {
        "category": (task.category,),
        "prompt": pieces if rng.random() < 0.5 else pieces[-1:],
        "references": (write_references(task.references(rng, PEOPLE)),),
        "first": answer.pieces(rendered=False),
    }
    account = oracle.account(prompt_pieces(task), answer.pieces(), task.subtask)
    return Example((Turn("user", fill(DESCRIBE_REFERENCES, slots)),), (account,))


def _choose(rng: random.Random, _: AnyTask) -> Example:
    """The letter of what a medium shows: always true."""
    asked = random_choice(rng, shuffled=True)
    shown = Message(None, ((asked.thing.kind, draw(asked.thing)),)).pieces(rendered=False)
    return Example(render_choice(shown, asked.question, asked.values).turns, (asked.letter,))


def _form(rng: random.Random, task: AnyTask) -> Example:
    """Feedback, scores, a judgement or a rating in the right form, about the answers to another prompt."""
    names = rubric(task.subtask)
    prompt = prompt_pieces(task, rendered=False)
    first, second = (faulty_answer(rng, task).pieces(rendered=False) for _ in range(2))
    one, other = (_examined_elsewhere(rng, task.subtask) for _ in range(2))
    feedback = one.feedback(names)
    kind = rng.choice(("critique", "score", "comparison", "rating"))
    if kind == "critique":
        return Example(render_critique(prompt, first, names).turns, (write_feedback(feedback, names),))
    if kind == "score":
        return Example(render_score(prompt, first, names).turns, (write_scores(feedback, names),))
    if kind == "rating":
        return Example(_asked_to_rate(rng, task, first), (write_rating(feedback.critique, one.rating()),))
    reason = f"response 1: {feedback.critique} response 2: {other.critique()}"
    judgement = write_judgement(reason, 1 + (oracle.total(other.feedback(names)) > oracle.total(feedback)))
    return Example(render_comparison(prompt, first, second).turns, (judgement,))


def _asked_to_rate(rng: random.Random, task: AnyTask, response: Pieces) -> Sequence[Turn]:
    prompt = prompt_pieces(task, rendered=False)
    if isinstance(task, Question):
        return render_understanding(prompt, response, task.references(rng, PEOPLE), task.category).turns
    media = [piece.modality for piece in response if isinstance(piece, MediaBytes)]
    return render_generation(prompt, response, media[0] if media else content_pb2.MODALITY_TEXT).turns


def _examined_elsewhere(rng: random.Random, subtask: str) -> Findings:
    task = random_task(rng, subtask)
    return oracle.examine(prompt_pieces(task), faulty_answer(rng, task).pieces(), subtask)
