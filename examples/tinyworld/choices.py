"""Multiple-choice questions about what a medium shows."""

import random
from dataclasses import dataclass

from examples.tinyworld.language import NAMES
from examples.tinyworld.world import ATTRIBUTES, Thing, random_thing

ASKED = "What is the {attribute} in the {name}?"
LETTERS = "ABCD"


@dataclass(frozen=True)
class Choice:
    """A question about one attribute of a thing, and up to four values to choose from, in the order of the world's."""

    thing: Thing
    attribute: str
    values: tuple[str, ...]

    @property
    def question(self) -> str:
        """The question without the choices."""
        return ASKED.format(attribute=self.attribute, name=NAMES[self.thing.kind])

    @property
    def letter(self) -> str:
        """The letter of the right choice."""
        return LETTERS[self.values.index(self.thing.attributes[self.attribute])]


def choices_about(rng: random.Random, thing: Thing) -> list[Choice]:
    """One question about each attribute of a thing."""
    return [_choice(rng, thing, name) for name in ATTRIBUTES[thing.kind]]


def random_choice(rng: random.Random) -> Choice:
    """A random question about a random thing."""
    thing = random_thing(rng, rng.choice(list(ATTRIBUTES)))
    return _choice(rng, thing, rng.choice(list(ATTRIBUTES[thing.kind])))


def _choice(rng: random.Random, thing: Thing, attribute: str) -> Choice:
    right = thing.attributes[attribute]
    others = [value for value in ATTRIBUTES[thing.kind][attribute] if value != right]
    values = {right, *rng.sample(others, min(len(others), len(LETTERS) - 1))}
    return Choice(thing, attribute, tuple(value for value in ATTRIBUTES[thing.kind][attribute] if value in values))
