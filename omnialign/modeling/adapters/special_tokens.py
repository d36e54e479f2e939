"""Text that stays text: what people wrote never becomes a control token, whatever it spells.

A chat template mixes people's texts with the model's control tokens in one string. Here every token that people spell
is wrapped in two marks before the template sees it; what is between the marks is then encoded by a tokenizer that knows
no added tokens, and the rest, the template's own words, by the model's. The marks are Unicode noncharacters, which no
text may hold; they are taken out of people's texts.
"""

import json
import re
from collections.abc import Callable, Iterable
from itertools import pairwise

from tokenizers import Tokenizer

OPEN, CLOSE, BREAK = "\ufdd0", "\ufdd1", "\ufdd2"
MARKS = re.compile(f"[{OPEN}{CLOSE}{BREAK}]")


class SpecialTokenEscaper:
    """Marks people's texts and encodes what a template made of them. Safe for threads.

    `controls` are tokens that are controls even where the tokenizer does not say so. Added tokens that ordinary text
    gives anyway, and white space, are no controls.
    """

    def __init__(self, tokenizer: Tokenizer, controls: Iterable[str] = ()) -> None:
        self._encoder = Tokenizer.from_str(tokenizer.to_str())
        self._encoder.no_padding()
        self._encoder.no_truncation()
        self._encoder.encode_special_tokens = False
        self._plain = _without_added_tokens(self._encoder)
        added = self._encoder.get_added_tokens_decoder()
        names = {token.content for number, token in added.items() if token.special or not self._is_plain(number)}
        self._controls = sorted(names | set(controls), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, self._controls)) or "(?!)")
        # A family with a code book in its vocabulary has tens of thousands of controls, which begin alike.
        self._beginnings = {token[:end] for token in self._controls for end in range(1, len(token))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._quoted = re.compile(f"{OPEN}(.*?){CLOSE}|[{OPEN}{CLOSE}{BREAK}]", re.DOTALL)
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        self.prefix_ids = self._prefix()
        self._newline = self._ids("\n")
        self._adds_space = self._ids("a") != self._ids("\na")[len(self._newline) :]

    @property
    def controls(self) -> list[str]:
        """The tokens that text cannot become, longest first."""
        return list(self._controls)

    def quote(self, texts: Iterable[str]) -> list[str]:
        """Texts of one turn for a template, their control tokens marked. Two neighbours cannot make a token either."""
        clean = [MARKS.sub("", text) for text in texts]
        marked = [self._control.sub(f"{OPEN}\\g<0>{CLOSE}", text) for text in clean]
        joints = [BREAK if self._may_join(text) else "" for text, _ in pairwise(clean)]
        return [text + joint for text, joint in zip(marked, [*joints, ""], strict=False)]

    def substitute(self, rendered: str, token: re.Pattern[str], replace: Callable[[str], str]) -> str:
        """A rendered template with its own occurrences of a token replaced; what people spelled stays."""
        either = re.compile(f"{OPEN}.*?{CLOSE}|{token.pattern}", re.DOTALL)
        return either.sub(lambda found: found[0] if found[0].startswith(OPEN) else replace(found[0]), rendered)

    def encode(self, rendered: str, *, begins: bool = True) -> list[int]:
        """Ids of a rendered template; `begins` tells whether it is the beginning of a text."""
        pieces = self._quoted.split(rendered)  # plain, quoted or None, plain, ...
        ids: list[int] = []
        for place, piece in enumerate(pieces):
            if piece and place % 2:
                ids += self._quoted_ids(piece)
            elif piece:
                ids += self._ids(piece) if begins and not place else self._later_ids(piece)
        return ids

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return found

    def _later_ids(self, text: str, encoder: Tokenizer | None = None) -> list[int]:
        """Ids of a text that others precede, without the space that some tokenizers put before a text's beginning."""
        encoder = self._encoder if encoder is None else encoder
        if self._adds_space:
            ids: list[int] = encoder.encode("\n" + text, add_special_tokens=False).ids
            if ids[: len(self._newline)] == self._newline:
                return ids[len(self._newline) :]
        found: list[int] = encoder.encode(text, add_special_tokens=False).ids
        return found

    def _quoted_ids(self, token: str) -> list[int]:
        ids = self._later_ids(token, self._plain)
        if self._encoder.token_to_id(token) in ids:  # a vocabulary that has it as a word too: letter by letter then
            ids = [number for letter in token for number in self._later_ids(letter, self._plain)]
        return ids

    def _is_plain(self, number: int) -> bool:
        """Whether ordinary text gives this added token, so that it controls nothing."""
        token = str(self._encoder.id_to_token(number))
        return token.isspace() or self._plain.encode(token, add_special_tokens=False).ids == [number]

    def _may_join(self, text: str) -> bool:
        """Whether a text ends as a control token begins."""
        return any(text[-size:] in self._beginnings for size in range(1, min(len(text), self._longest) + 1))

    def _prefix(self) -> list[int]:
        """The ids that the tokenizer puts before every text by itself. What it puts behind would end a prompt."""
        bare, whole = self._ids("a"), self._encoder.encode("a", add_special_tokens=True).ids
        starts = [at for at in range(len(whole)) if whole[at : at + len(bare)] == bare]
        return list(whole[: starts[0]]) if starts else []


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with nothing but its vocabulary."""
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": [], "post_processor": None}))
