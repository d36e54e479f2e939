"""Imperfect answers, as a capable but misaligned model gives them: wrong attributes, noise, stutter, omissions."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from examples.tinyworld.language import Task, phrase
from examples.tinyworld.world import ATTRIBUTES, MODALITIES, Thing, codec, draw
from omnialign.content import output_modalities
from omnialign.modeling.inputs import MediaBytes, Piece, Pieces

WRONG_ATTRIBUTE, OMISSION, STUTTER, NOISY_ANSWER, NOISY_CODE, MISMATCH = 0.22, 0.10, 0.15, 0.5, 0.02, 0.10


@dataclass(frozen=True)
class Message:
    """Words, which may be missing, and media: the kind and the codes of each."""

    text: str | None
    media: tuple[tuple[str, bytes], ...] = ()

    def pieces(self, *, rendered: bool = True) -> Pieces:
        """The words, then media as files or, with `rendered=False` (for pre-training), as one byte per code."""
        words: list[Piece] = [self.text] if self.text is not None else []
        files = [codec(kind).decode(list(codes)) if rendered else codes for kind, codes in self.media]
        return (
            *words,
            *(MediaBytes(MODALITIES[kind], data) for (kind, _), data in zip(self.media, files, strict=True)),
        )


@dataclass(frozen=True)
class Answer:
    """An answer about one thing before it is rendered: words and the codes of a medium, either may be missing."""

    text: str | None
    thing: Thing
    codes: bytes | None

    def pieces(self, *, rendered: bool = True) -> Pieces:
        """The answer as a message."""
        media = ((self.thing.kind, self.codes),) if self.codes is not None else ()
        return Message(self.text, media).pieces(rendered=rendered)


class Showing(Protocol):
    """A task as far as its prompt goes: words, and the things shown with them."""

    @property
    def text(self) -> str:
        """The words."""

    @property
    def shown(self) -> Thing | Sequence[Thing] | None:
        """What is shown."""


def prompt_pieces(task: Showing, *, rendered: bool = True) -> Pieces:
    """The prompt of a task: the media first, then the words."""
    shown = (task.shown,) if isinstance(task.shown, Thing) else task.shown or ()
    media = Message(None, tuple((thing.kind, draw(thing)) for thing in shown))
    return (*media.pieces(rendered=rendered), task.text)


def right_answer(task: Task) -> Answer:
    """The answer of a perfect model."""
    written = output_modalities(task.subtask)
    text = phrase(task.wanted) if "text" in written else None
    codes = draw(task.wanted) if written != ("text",) else None
    return Answer(text, task.wanted, codes)


def faulty_answer(rng: random.Random, task: Task) -> Answer:
    """The answer of a misaligned model: each attribute is wrong with probability 0.22, and more goes wrong."""
    perfect = right_answer(task)
    thing = confuse(rng, task.wanted)
    codes = noisy(rng, draw(thing), thing.kind) if perfect.codes is not None else None
    said = confuse(rng, thing, probability=1.0, limit=1) if codes and rng.random() < MISMATCH else thing
    text = _say(rng, said) if perfect.text is not None else None
    return Answer(text, thing, codes)


def confuse(rng: random.Random, thing: Thing, *, probability: float = WRONG_ATTRIBUTE, limit: int = 9) -> Thing:
    """The thing with each attribute wrong with `probability`, but at most `limit` of them."""
    names = rng.sample(list(ATTRIBUTES[thing.kind]), len(ATTRIBUTES[thing.kind]))[:limit]
    for name in names:
        if rng.random() < probability:
            others = [v for v in ATTRIBUTES[thing.kind][name] if v != thing.attributes[name]]
            thing = thing.changed(name, rng.choice(others))
    return thing


def noisy(rng: random.Random, codes: bytes, kind: str) -> bytes:
    """The codes of a medium, in half of all cases with a few random ones among them."""
    if rng.random() >= NOISY_ANSWER:
        return codes
    size = codec(kind).num_codes
    return bytes(rng.randrange(size) if rng.random() < NOISY_CODE else code for code in codes)


def stutter(rng: random.Random, text: str) -> str:
    """The text with, now and then, a word said twice."""
    words = text.split()
    if rng.random() < STUTTER:
        position = rng.randrange(len(words))
        words.insert(position, words[position])
    return " ".join(words)


def _say(rng: random.Random, thing: Thing) -> str:
    omit = rng.choice(list(ATTRIBUTES[thing.kind])) if rng.random() < OMISSION else ""
    return stutter(rng, phrase(thing, omit=omit))
