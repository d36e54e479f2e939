"""Escaping special tokens: what users write stays text, even if it spells a control token of the model.

A chat template mixes users' texts with the model's control tokens in one string, where `<|im_end|>` in a text could end
the turn. So, as with SQL, user text is escaped before it is put in:

1. `escape` wraps every control token that a user's text spells in two marks. The marks are Unicode noncharacters, which
   valid text never contains; any in the user's text are removed first.
2. The template renders the conversation, marks and all.
3. `encode` encodes what is between marks with a copy of the tokenizer that has no added tokens, so it comes out as
   ordinary text, and everything else with the model's own tokenizer.
"""

import json
import re
from collections.abc import Callable, Iterable
from itertools import pairwise

from tokenizers import Tokenizer

OPEN, CLOSE, BREAK = "\ufdd0", "\ufdd1", "\ufdd2"
MARKS = re.compile(f"[{OPEN}{CLOSE}{BREAK}]")


class SpecialTokenEscaper:
    """Escapes users' texts, and encodes what a template makes of them. Safe for threads.

    Control tokens are the tokenizer's special tokens, its added tokens apart from white space and ordinary words, and
    `controls`, which counts as control tokens whatever the tokenizer says.
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
        # Proper prefixes of control tokens, as a set: a family with a codebook has tens of thousands of control tokens.
        self._prefixes = {token[:end] for token in self._controls for end in range(1, len(token))}
        self._longest = max(map(len, self._prefixes), default=0)
        self._escaped = re.compile(f"{OPEN}(.*?){CLOSE}|[{OPEN}{CLOSE}{BREAK}]", re.DOTALL)
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        self.prefix_ids = self._prefix()
        self._newline = self._ids("\n")
        self._adds_space = self._ids("a") != self._ids("\na")[len(self._newline) :]

    @property
    def controls(self) -> list[str]:
        """The control tokens, longest first."""
        return list(self._controls)

    def escape(self, texts: Iterable[str]) -> list[str]:
        """Escapes the texts of one turn. Two neighbouring texts cannot form a control token together either."""
        clean = [MARKS.sub("", text) for text in texts]
        marked = [self._control.sub(f"{OPEN}\\g<0>{CLOSE}", text) for text in clean]
        # The template may put neighbours side by side: a break keeps "<|im_" and "end|>" apart.
        joints = [BREAK if self._may_join(text) else "" for text, _ in pairwise(clean)]
        return [text + joint for text, joint in zip(marked, [*joints, ""], strict=False)]

    def substitute(self, rendered: str, token: re.Pattern[str], replace: Callable[[str], str]) -> str:
        """Replaces the template's own occurrences of `token`; what users spelled is escaped and stays."""
        either = re.compile(f"{OPEN}.*?{CLOSE}|{token.pattern}", re.DOTALL)
        return either.sub(lambda found: found[0] if found[0].startswith(OPEN) else replace(found[0]), rendered)

    def encode(self, rendered: str, *, begins: bool = True) -> list[int]:
        """The ids of a rendered template; `begins` says whether `rendered` is the start of the prompt."""
        pieces = self._escaped.split(rendered)  # plain, escaped or None for a break, plain, ...
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            if piece and index % 2:
                ids += self._escaped_ids(piece)
            elif piece:
                ids += self._ids(piece) if begins and not index else self._later_ids(piece)
        return ids

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def _later_ids(self, text: str, encoder: Tokenizer | None = None) -> list[int]:
        """The ids of a text inside a prompt, without the space that some tokenizers insert at the start of a text.

        The text is encoded after a newline, and the newline's ids are dropped.
        """
        encoder = self._encoder if encoder is None else encoder
        if self._adds_space:
            after_newline: list[int] = encoder.encode("\n" + text, add_special_tokens=False).ids
            if after_newline[: len(self._newline)] == self._newline:  # otherwise the newline merged with the text
                return after_newline[len(self._newline) :]
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
        return ids

    def _escaped_ids(self, token: str) -> list[int]:
        ids = self._later_ids(token, self._plain)
        if self._encoder.token_to_id(token) in ids:  # it is in the plain vocabulary too: go letter by letter
            ids = [number for letter in token for number in self._later_ids(letter, self._plain)]
        return ids

    def _is_plain(self, number: int) -> bool:
        """Whether ordinary text gives this added token anyway, so that it controls nothing."""
        token = str(self._encoder.id_to_token(number))
        return token.isspace() or self._plain.encode(token, add_special_tokens=False).ids == [number]

    def _may_join(self, text: str) -> bool:
        """Whether a text ends the way a control token begins."""
        return any(text[-size:] in self._prefixes for size in range(1, min(len(text), self._longest) + 1))

    def _prefix(self) -> list[int]:
        """The ids that the tokenizer puts before every text. What it appends is ignored: it would end the prompt."""
        bare, whole = self._ids("a"), self._encoder.encode("a", add_special_tokens=True).ids
        starts = [at for at in range(len(whole)) if whole[at : at + len(bare)] == bare]
        return list(whole[: starts[0]]) if starts else []


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of a tokenizer with only its plain vocabulary."""
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": [], "post_processor": None}))
