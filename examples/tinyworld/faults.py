"""Imperfect answers, as a capable but misaligned model gives them: wrong attributes, noise, stutter, omissions."""

import random
from dataclasses import dataclass

from examples.tinyworld.language import Task, phrase
from examples.tinyworld.world import ATTRIBUTES, MODALITIES, Thing, codec, draw
from omnialign.content import output_modalities
from omnialign.modeling.inputs import MediaBytes, Piece, Pieces

WRONG_ATTRIBUTE, OMISSION, STUTTER, NOISY_ANSWER, NOISY_CODE, MISMATCH = 0.22, 0.10, 0.15, 0.5, 0.02, 0.10


@dataclass(frozen=True)
class Answer:
    """An answer before it is rendered: words and the codes of a medium, either of which may be missing."""

    text: str | None
    thing: Thing
    codes: bytes | None

    def pieces(self, *, rendered: bool = True) -> Pieces:
        """The answer with media as files or, with `rendered=False` (for pre-training), as one byte per code."""
        parts: list[Piece] = [self.text] if self.text is not None else []
        if self.codes is not None:
            data = codec(self.thing.kind).decode(list(self.codes)) if rendered else self.codes
            parts.append(MediaBytes(MODALITIES[self.thing.kind], data))
        return tuple(parts)


def prompt_pieces(task: Task, *, rendered: bool = True) -> Pieces:
    """The prompt of a task: the medium first, then the words."""
    if task.shown is None:
        return (task.text,)
    return (*Answer(None, task.shown, draw(task.shown)).pieces(rendered=rendered), task.text)


def right_answer(task: Task) -> Answer:
    """The answer of a perfect model."""
    written = output_modalities(task.subtask)
    text = phrase(task.wanted) if "text" in written else None
    codes = draw(task.wanted) if written != ("text",) else None
    return Answer(text, task.wanted, codes)


def faulty_answer(rng: random.Random, task: Task) -> Answer:
    """The answer of a misaligned model: each attribute is wrong with probability 0.22, and more goes wrong."""
    perfect = right_answer(task)
    thing = _confuse(rng, task.wanted)
    codes = _noise(rng, draw(thing), thing.kind) if perfect.codes is not None else None
    said = _confuse(rng, thing, probability=1.0, limit=1) if codes and rng.random() < MISMATCH else thing
    text = _say(rng, said) if perfect.text is not None else None
    return Answer(text, thing, codes)


def _confuse(rng: random.Random, thing: Thing, *, probability: float = WRONG_ATTRIBUTE, limit: int = 9) -> Thing:
    names = rng.sample(list(ATTRIBUTES[thing.kind]), len(ATTRIBUTES[thing.kind]))[:limit]
    for name in names:
        if rng.random() < probability:
            others = [v for v in ATTRIBUTES[thing.kind][name] if v != thing.attributes[name]]
            thing = thing.changed(name, rng.choice(others))
    return thing


def _noise(rng: random.Random, codes: bytes, kind: str) -> bytes:
    if rng.random() >= NOISY_ANSWER:
        return codes
    size = codec(kind).num_codes
    return bytes(rng.randrange(size) if rng.random() < NOISY_CODE else code for code in codes)


def _say(rng: random.Random, thing: Thing) -> str:
    omit = rng.choice(list(ATTRIBUTES[thing.kind])) if rng.random() < OMISSION else ""
    words = phrase(thing, omit=omit).split()
    if rng.random() < STUTTER:
        position = rng.randrange(len(words))
        words.insert(position, words[position])
    return " ".join(words)
