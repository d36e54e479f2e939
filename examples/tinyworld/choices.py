"""Multiple-choice questions about what a medium shows."""

import random
from dataclasses import dataclass

from examples.tinyworld.language import NAMES
from examples.tinyworld.world import ATTRIBUTES, Thing, random_thing

ASKED = "What is the {attribute} in the {name}?"
LETTERS = "ABCD"


@dataclass(frozen=True)
class Choice:
    """A question about one attribute of a thing, and up to four values to choose from."""

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
    """One question about each attribute of a thing, with the values in the world's order."""
    return [_choice(rng, thing, name) for name in ATTRIBUTES[thing.kind]]


def random_choice(rng: random.Random, *, shuffled: bool = False) -> Choice:
    """A random question about a random thing, with the values in the world's order or shuffled."""
    thing = random_thing(rng, rng.choice(list(ATTRIBUTES)))
    return _choice(rng, thing, rng.choice(list(ATTRIBUTES[thing.kind])), shuffled=shuffled)


def _choice(rng: random.Random, thing: Thing, attribute: str, *, shuffled: bool = False) -> Choice:
    all_values, right = ATTRIBUTES[thing.kind][attribute], thing.attributes[attribute]
    others = [value for value in all_values if value != right]
    values = [right, *rng.sample(others, min(len(others), len(LETTERS) - 1))]
    values = rng.sample(values, len(values)) if shuffled else sorted(values, key=all_values.index)
    return Choice(thing, attribute, tuple(values))
