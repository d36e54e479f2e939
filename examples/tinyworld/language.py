"""Language about the world: phrases for things, instructions, and parsing both."""

import random
import re
from dataclasses import dataclass
from functools import cache

from examples.tinyworld.world import ATTRIBUTES, Thing, random_thing

FORMS = {
    "picture": "a {colour} {shape} at the {place}",
    "sound": "a {loudness} {duration} {register} {pattern} tone",
    "clip": "a {colour} {shape} moving {direction}",
}
# The kind of thing that each subtask is about; t2t is about any.
KINDS = {
    "ti2t": "picture",
    "ta2t": "sound",
    "tv2t": "clip",
    "t2i": "picture",
    "t2a": "sound",
    "t2v": "clip",
    "ti2ti": "picture",
}
NAMES = {"picture": "picture", "sound": "sound", "clip": "video"}
QUESTIONS = ("What does the {name} show?", "Describe the {name}.", "Tell me what is in this {name}.")
ORDERS = {
    "picture": ("Draw {phrase}.", "Paint {phrase}.", "Make a picture of {phrase}."),
    "sound": ("Play {phrase}.", "Make a sound: {phrase}.", "Let me hear {phrase}."),
    "clip": ("Film {phrase}.", "Animate {phrase}.", "Make a video of {phrase}."),
}
EDIT = "Change the {attribute} to {value}."
EDIT_TEXT = ("Here is {phrase}. {edit} What is it now?", "There is {phrase}. {edit} Describe it.")
EDIT_PICTURE = ("{edit} Show and describe the result.", "{edit} Describe and draw it.")


@dataclass(frozen=True)
class Task:
    """An instruction: its words, the thing shown with them (if any), and the thing that is asked for."""

    subtask: str
    text: str
    shown: Thing | None
    wanted: Thing

    @property
    def held_out(self) -> bool:
        """Whether no annotated data asks for its thing."""
        return self.wanted.held_out


def phrase(thing: Thing, *, omit: str = "") -> str:
    """A thing in words, optionally without the attribute `omit`."""
    form = FORMS[thing.kind]
    values = {**thing.attributes, **({omit: ""} if omit else {})}
    words = form.format(**values)
    words = re.sub(r" at the (?!\S)| moving (?!\S)", " ", words + " ") if omit else words
    return " ".join(words.split())


def random_task(rng: random.Random, subtask: str, *, held_out: bool | None = None) -> Task:
    """A random instruction of a subtask; `held_out` restricts the thing asked for, as in `random_thing`."""
    kind = KINDS.get(subtask) or rng.choice(list(FORMS))
    wanted = random_thing(rng, kind, held_out=held_out)
    if subtask in ("t2t", "ti2ti"):
        return _edit_task(rng, subtask, wanted)
    if subtask.startswith("t2"):
        return Task(subtask, rng.choice(ORDERS[kind]).format(phrase=phrase(wanted)), None, wanted)
    return Task(subtask, rng.choice(QUESTIONS).format(name=NAMES[kind]), wanted, wanted)


def _edit_task(rng: random.Random, subtask: str, wanted: Thing) -> Task:
    """An instruction to change one attribute of a thing, with `wanted` as the result."""
    attribute = rng.choice(list(ATTRIBUTES[wanted.kind]))
    value = wanted.attributes[attribute]
    before = wanted.changed(attribute, rng.choice([v for v in ATTRIBUTES[wanted.kind][attribute] if v != value]))
    edit = EDIT.format(attribute=attribute, value=value)
    if subtask == "t2t":
        return Task(subtask, rng.choice(EDIT_TEXT).format(phrase=phrase(before), edit=edit), None, wanted)
    return Task(subtask, rng.choice(EDIT_PICTURE).format(edit=edit), before, wanted)


@cache
def _pattern(kind: str) -> re.Pattern[str]:
    """Matches a phrase for a thing of a kind, with any attributes left out."""
    slots = {name: f"(?:(?P<{name}>{'|'.join(values)}) )?" for name, values in ATTRIBUTES[kind].items()}
    patterns = {
        "picture": "a {colour}{shape}(?:at the {place})?",
        "sound": "a {loudness}{duration}{register}{pattern}tone ",
        "clip": "a {colour}{shape}(?:moving {direction})?",
    }
    return re.compile(patterns[kind].format(**slots))


def read_phrase(kind: str, text: str) -> dict[str, str] | None:
    """The attributes in a well-formed phrase; None if the text is not one."""
    match = _pattern(kind).fullmatch(" ".join(text.lower().strip(" .").split()) + " ")
    return {name: value for name, value in match.groupdict().items() if value} if match else None


def find_attributes(kind: str, text: str) -> dict[str, set[str]]:
    """All values of each attribute that a text mentions, whether it is well-formed or not."""
    found = {}
    for name, values in ATTRIBUTES[kind].items():
        words = re.findall(rf"\b(?:{'|'.join(values)})\b", text.lower())
        if words:
            found[name] = set(words)
    return found


def read_edit(kind: str, text: str) -> tuple[str, str] | None:
    """The attribute and the value in an instruction to change one; None if there is none."""
    match = re.search(r"Change the (\w+) to ([a-z ]+?)\.", text)
    if match and match[2] in ATTRIBUTES[kind].get(match[1], ()):
        return match[1], match[2]
    return None


def find_thing(text: str) -> Thing | None:
    """The thing of the first complete phrase in a text; None if there is none."""
    for kind, form in FORMS.items():
        slots = {name: f"(?P<{name}>{'|'.join(values)})" for name, values in ATTRIBUTES[kind].items()}
        if match := re.search(form.format(**slots), text):
            return Thing(kind, tuple(match[name] for name in ATTRIBUTES[kind]))
    return None
