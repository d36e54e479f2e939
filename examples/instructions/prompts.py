"""Prompts: one sentence on a topic, under one constraint. Held-out ones have other topics, words and numbers."""

import random
from dataclasses import dataclass

from examples.instructions.constraints import FAMILIES, Family, Fillers
from omnialign.errors import InvalidArgument

TOPICS = (
    "rain", "the moon", "a garden", "bread", "a train", "winter", "a river", "the sea", "music", "a horse", "tea",
    "the wind", "a bridge", "snow", "a market", "a lamp", "summer", "a forest", "a clock", "a letter",
)  # fmt: skip
HELD_OUT_TOPICS = (
    "a mountain",
    "the sun",
    "a boat",
    "spring",
    "a kitchen",
    "a bird",
    "coffee",
    "a road",
    "a book",
    "a city",
)
WORDS = ("today", "often", "here", "now", "always", "again", "sometimes", "together", "slowly", "everywhere", "still")
HELD_OUT_WORDS = ("quietly", "tonight", "outside", "usually", "forever", "indeed", "tomorrow", "gently")
NUMBERS, HELD_OUT_NUMBERS = ("8", "10", "12"), ("9", "11")


@dataclass(frozen=True)
class Instruction:
    """What a prompt asks for."""

    topic: str
    family: Family
    fillers: Fillers

    @property
    def text(self) -> str:
        """The prompt."""
        return f"Write one sentence about {self.topic}. {self.family.say(self.fillers)}"


def random_instruction(rng: random.Random, *, held_out: bool = False) -> Instruction:
    """An instruction of any family; with `held_out`, one with a topic and fillers that no other has."""
    family = rng.choice(list(FAMILIES.values()))
    return Instruction(
        rng.choice(HELD_OUT_TOPICS if held_out else TOPICS), family, random_fillers(rng, family, held_out=held_out)
    )


def random_fillers(rng: random.Random, family: Family, *, held_out: bool = False) -> Fillers:
    """Different fillers for the places of a family."""
    if family.fillers == "numbers":
        return (rng.choice(HELD_OUT_NUMBERS if held_out else NUMBERS),)
    words = rng.sample(HELD_OUT_WORDS if held_out else WORDS, family.places)
    form = {"words": str.lower, "capitals": str.capitalize, "shouts": str.upper}[family.fillers]
    return tuple(form(word) for word in words)


def read_instruction(prompt: str) -> tuple[Family, Fillers]:
    """The constraint of a prompt. Raises InvalidArgument PROMPT_FOREIGN for a prompt without one."""
    for family in FAMILIES.values():
        if (fillers := family.find(prompt)) is not None:
            return family, fillers
    raise InvalidArgument(f"The prompt {prompt[:60]!r} has no constraint that is known.", reason="PROMPT_FOREIGN")
