"""Constraints on a sentence that a program can check: how one is said, what an answer does about it, how to mend it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

NOTHING = "nothing"
LOOSE = frozenset(
    ("a", "an", "the", "of", "and", "or", "to", "in", "on", "with", "that", "which", "is", "as", "its", "by", "for")
)
"""Words that a sentence does not end with."""

Fillers = tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What was asked of an answer and what it gives."""

    asked: str
    given: str
    right: bool

    def __str__(self) -> str:
        return f"asked {self.asked}, given {self.given}, {'good' if self.right else 'wrong'}"


@dataclass(frozen=True)
class Family:
    """Constraints that differ only in what fills the places `{0}` and `{1}` of their sentence."""

    sentence: str
    examine: Callable[[str, Fillers], Finding]
    mend: Callable[[str, Fillers], str]
    """Makes of a plain sentence one that meets the constraint."""
    fillers: str = "words"
    """What fills the places: words, capitals (words that begin with one), shouts (in capital letters), or numbers."""

    @property
    def places(self) -> int:
        """How many places there are."""
        return len(re.findall(r"\{\d\}", self.sentence))

    def say(self, fillers: Fillers) -> str:
        """The constraint as an instruction says it."""
        return self.sentence.format(*fillers)

    def find(self, prompt: str) -> Fillers | None:
        """What fills the places of this constraint in a prompt; None if the prompt has another."""
        pattern = re.sub(r"\\\{\d\\\}", r"(\\w+)", re.escape(self.sentence))
        found = re.search(pattern, prompt)
        return found.groups() if found else None


def words_of(text: str) -> list[str]:
    """The words of a text, without the marks between them."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)


def is_whole(text: str) -> bool:
    """Whether a text ends as sentences do."""
    return text.rstrip("\"'”)").endswith((".", "!", "?"))


def core(text: str) -> str:
    """The first sentence of an answer, without quotation marks, and with a full stop where it breaks off."""
    line = next((line for line in text.splitlines() if words_of(line)), NOTHING)
    first = re.split(r"(?<=[.!?])[\s\"”]", line.strip('"“” '), maxsplit=1)[0]
    return first.rstrip('.!?,;:"” ') + "."


def _begin(text: str, fillers: Fillers) -> Finding:
    first = next(iter(words_of(text)), NOTHING)
    return Finding(f'first word "{fillers[0]}"', f'"{first}"', first == fillers[0])


def _begun(sentence: str, fillers: Fillers) -> str:
    keeps = sentence.startswith(("I ", "I'"))
    return f"{fillers[0]}, {sentence if keeps else sentence[:1].lower() + sentence[1:]}"


def _end(text: str, fillers: Fillers) -> Finding:
    last = next(iter(words_of(text)[-1:]), NOTHING)
    return Finding(f'last word "{fillers[0]}"', f'"{last}"', last == fillers[0])


def _ended(sentence: str, fillers: Fillers) -> str:
    return f"{sentence[:-1]}, {fillers[0]}."


def _word(text: str, fillers: Fillers) -> Finding:
    right = fillers[0] in words_of(text)
    return Finding(f'the word "{fillers[0]}"', f'"{fillers[0]}"' if right else "none", right)


def _order(text: str, fillers: Fillers) -> Finding:
    words = words_of(text.lower())
    there = sorted((word for word in fillers if word in words), key=words.index)
    given = " then ".join(f'"{word}"' for word in there) or "none"
    return Finding(f'"{fillers[0]}" then "{fillers[1]}"', given, there == list(fillers))


def _ordered(sentence: str, fillers: Fillers) -> str:
    return _ended(_begun(sentence, (fillers[0].capitalize(),)), fillers[1:])


def _exclaimed(text: str, _: Fillers) -> Finding:
    right = text.rstrip("\"'”)").endswith("!")
    return Finding('last mark "!"', f'"{text.strip()[-1:]}"', right)


def _short(text: str, fillers: Fillers) -> Finding:
    count = len(words_of(text))
    return Finding(f"at most {fillers[0]} words", str(count), count <= int(fillers[0]))


def _shortened(sentence: str, fillers: Fillers) -> str:
    words = sentence[:-1].split()[: int(fillers[0])]
    while len(words) > 1 and words[-1].strip(",").lower() in LOOSE:
        words.pop()
    return " ".join(words).rstrip(",;:") + "."


FAMILIES = {
    "begin": Family('Begin with the word "{0}".', _begin, _begun, "capitals"),
    "end": Family('End with the word "{0}".', _end, _ended),
    "word": Family('Use the word "{0}".', _word, _ended),
    "order": Family('Use the word "{0}" and later the word "{1}".', _order, _ordered),
    "shout": Family('Use the word "{0}" in capital letters.', _word, _ended, "shouts"),
    "mark": Family("End with an exclamation mark.", _exclaimed, lambda sentence, _: f"{sentence[:-1]}!"),
    "short": Family("Use at most {0} words.", _short, _shortened, "numbers"),
}
"""All constraints by name. No sentence of one is found in that of another, as `find` asks."""
