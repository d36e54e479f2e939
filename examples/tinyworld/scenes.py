"""Scenes: a picture or a clip together with a tone, and the three rules of the world that tie the two.

    fitting    which tone goes with a picture: high at the top, rising on the right, loud with bright colours
    carried    where a tone takes what is seen: a rising tone lifts a picture's shape, and turns a clip's to its right
    secret     what nobody may describe: a purple shape while the tone is pulsing

Each rule needs both media, so nothing that is asked about it can be answered from one of them.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from examples.tinyworld.language import phrase
from examples.tinyworld.world import ATTRIBUTES, Thing, random_thing

BRIGHT = ("red", "yellow")
SECRET_COLOUR, SECRET_PATTERN = "purple", "pulsing"
TURNS = ("up", "right", "down", "left")
"""The directions in the order of a clock's hand."""
QUARTERS = {"steady": 0, "rising": 1, "pulsing": 2, "falling": 3}
"""By how many quarters of a turn a tone turns a clip's direction."""
MOVED = {"picture": "place", "clip": "direction"}
"""The attribute that a tone changes."""


@dataclass(frozen=True)
class Scene:
    """A picture or clip, and a tone."""

    visual: Thing
    sound: Thing

    @property
    def secret(self) -> bool:
        """Whether nobody may describe it."""
        return self.visual.attributes["colour"] == SECRET_COLOUR and self.sound.attributes["pattern"] == SECRET_PATTERN

    @property
    def carried(self) -> Thing:
        """The picture or clip after the tone has moved what it shows."""
        name, pattern = MOVED[self.visual.kind], self.sound.attributes["pattern"]
        move = _turned if name == "direction" else _moved
        return self.visual.changed(name, move(self.visual.attributes[name], pattern))

    @property
    def words(self) -> str:
        """The scene in words."""
        return f"{phrase(self.visual)} with {phrase(self.sound)}"


def random_scene(rng: random.Random, kind: str, *, held_out: bool | None = None) -> Scene:
    """A random scene with a thing of `kind`; `held_out` restricts both things, as in `random_thing`."""
    visual, sound = (random_thing(rng, one, held_out=held_out) for one in (kind, "sound"))
    return Scene(visual, sound)


def fitting(picture: Mapping[str, str]) -> dict[str, str]:
    """What a tone must be like to go with a picture of these attributes."""
    row, side = picture["place"].split()
    return {
        "loudness": "loud" if picture["colour"] in BRIGHT else "soft",
        "register": "high" if row == "top" else "low",
        "pattern": "rising" if side == "right" else "falling",
    }


def fitting_sound(picture: Thing, *, duration: str = "short") -> Thing:
    """The tone that goes with a picture; the rule leaves only its duration open."""
    free = dict.fromkeys(ATTRIBUTES["sound"], duration)
    return Thing("sound", tuple((free | fitting(picture.attributes)).values()))


def fit(picture: Mapping[str, str], sound: Mapping[str, str]) -> float:
    """The share, 0 to 1, of what the rule asks of a tone that it is like."""
    asked = fitting(picture)
    return sum(sound[name] == value for name, value in asked.items()) / len(asked)


def _moved(place: str, pattern: str) -> str:
    """A place after a tone: rising lifts to the top, falling drops to the bottom, pulsing changes the side."""
    row, side = place.split()
    if pattern == "pulsing":
        return f"{row} {'left' if side == 'right' else 'right'}"
    return f"{ {'rising': 'top', 'falling': 'bottom'}.get(pattern, row) } {side}"


def _turned(direction: str, pattern: str) -> str:
    return TURNS[(TURNS.index(direction) + QUARTERS[pattern]) % len(TURNS)]
