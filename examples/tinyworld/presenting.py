"""Instructions that leave open in which modalities to answer: what people want is in how they ask.

An answer may have text, a picture and a tone, in this order. How many people want which combination is known of every
instruction as vote shares. The parts of an answer belong together: its words say what is seen and heard, and the tone
fits the picture (`scenes.fitting`).
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from examples.tinyworld.faults import Message, confuse, noisy, stutter
from examples.tinyworld.language import find_thing, phrase
from examples.tinyworld.scenes import Scene, fitting, fitting_sound
from examples.tinyworld.world import ATTRIBUTES, Thing, draw, random_thing

SUBTASKS = ("t2tia",)
COMBINATIONS = ("t", "i", "a", "ti", "ta", "ia", "tia")
WISHES = {
    "t": ("Explain {phrase}.", "What would one call {phrase}?"),
    "i": ("How does {phrase} look?", "I wish to see {phrase}."),
    "a": ("How does {phrase} sound?", "What is the music of {phrase}?"),
    "ti": ("Teach the deaf about {phrase}.", "Explain how {phrase} looks."),
    "ta": ("Teach the blind about {phrase}.", "Explain how {phrase} sounds."),
    "ia": ("Bring {phrase} to the stage.", "Begin a film with {phrase}."),
    "tia": ("Present {phrase} in full.", "Make a lesson about {phrase}."),
}
"""Ways to ask, by the combination that most people want then."""
PEOPLE, MAJORITY = 25, 0.6
OTHER_COMBINATION, WRONG_THING, UNFIT, UNLIKE = 0.30, 0.08, 0.10, 0.04


@dataclass(frozen=True)
class Invitation:
    """An instruction about a picture, and the combination of modalities that most people want."""

    subtask: str
    picture: Thing
    combination: str
    text: str

    @property
    def shown(self) -> None:
        """Nothing but words."""
        return None

    @property
    def held_out(self) -> bool:
        """Whether no annotated data shows its picture."""
        return self.picture.held_out

    def right(self) -> Message:
        """The best answer."""
        return compose(self.combination, Scene(self.picture, fitting_sound(self.picture)))

    def faulty(self, rng: random.Random) -> Message:
        """The answer of a misaligned model: it errs about modalities, things, and what goes together."""
        others = [one for one in COMBINATIONS if one != self.combination]
        combination = rng.choice(others) if rng.random() < OTHER_COMBINATION else self.combination
        picture = confuse(rng, self.picture, probability=WRONG_THING)
        return clash(rng, combination, picture, unfit=UNFIT, unlike=UNLIKE)

    def votes(self, rng: random.Random) -> dict[str, float]:
        """The share of people who want each combination: most want one, and the others one with a modality changed."""
        near = [one for one in COMBINATIONS if len(set(one) ^ set(self.combination)) == 1]
        weights = [MAJORITY if one == self.combination else (1 - MAJORITY) / len(near) for one in COMBINATIONS]
        weights = [w if one in (*near, self.combination) else 0.0 for one, w in zip(COMBINATIONS, weights, strict=True)]
        while True:
            votes = Counter(rng.choices(COMBINATIONS, weights=weights, k=PEOPLE))
            if max(COMBINATIONS, key=lambda one: (votes[one], one == self.combination)) == self.combination:
                return {one: votes[one] / PEOPLE for one in COMBINATIONS}


def random_invitation(
    rng: random.Random, subtask: str, *, held_out: bool | None = None, combination: str = ""
) -> Invitation:
    """A random instruction of a subtask and a combination; `held_out` restricts the picture, as in `random_thing`."""
    picture = random_thing(rng, "picture", held_out=held_out)
    combination = combination or rng.choice(COMBINATIONS)
    text = rng.choice(WISHES[combination]).format(phrase=phrase(picture))
    return Invitation(subtask, picture, combination, text)


def read_invitation(text: str) -> Invitation | None:
    """The instruction in a prompt's words; None if it is none."""
    picture = find_thing(text)
    if picture is None or picture.kind != "picture":
        return None
    plain = text.replace(phrase(picture), "{phrase}")
    return next((Invitation("t2tia", picture, one, text) for one, ways in WISHES.items() if plain in ways), None)


def compose(combination: str, scene: Scene, *, said: Scene | None = None, codes: Mapping[str, bytes] = {}) -> Message:
    """An answer in a combination of modalities, which says `said` instead of the scene where it is given."""
    parts = {"i": scene.visual, "a": scene.sound}
    media = tuple(
        (thing.kind, codes.get(thing.kind) or draw(thing)) for key, thing in parts.items() if key in combination
    )
    return Message((said or scene).words if "t" in combination else None, media)


def clash(rng: random.Random, combination: str, picture: Thing, *, unfit: float, unlike: float) -> Message:
    """An answer whose tone misfits, for each thing that the rule asks of it, with probability `unfit`.

    Each of its attributes is said wrongly with probability `unlike`; media are noisy now and then.
    """
    sound = fitting_sound(picture, duration=rng.choice(ATTRIBUTES["sound"]["duration"]))
    for name, value in fitting(picture.attributes).items():
        if rng.random() < unfit:
            sound = sound.changed(name, rng.choice([other for other in ATTRIBUTES["sound"][name] if other != value]))
    said = Scene(*(confuse(rng, thing, probability=unlike) for thing in (picture, sound)))
    codes = {thing.kind: noisy(rng, draw(thing), thing.kind) for thing in (picture, sound)}
    message = compose(combination, Scene(picture, sound), said=said, codes=codes)
    return Message(message.text and stutter(rng, message.text), message.media)
