"""Templates of pages, and how numbers read in them.

Every text on a page came from a model or a data set and is untrusted: the templates escape all of it.
"""

import base64
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from omnialign import wording

SUBTASK_WORDS = {"t": "text", "i": "image", "a": "audio", "v": "video"}


@functools.cache
def environment(package: str, **filters: Callable[..., Any]) -> jinja2.Environment:
    """The templates of a package, and those that all pages share; compiled once."""
    loaders = [jinja2.PackageLoader(name, package_path="") for name in (package, "services.pipeline.pages")]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, points=percentage_points, duration=duration, count=count, words=words)
    made.filters.update(modalities=modalities, counted=counted)
    made.filters.update(filters)
    return made


@dataclass(frozen=True)
class Script:
    """A script of our own within a page, which runs because the page's policy names its digest."""

    text: Markup

    @property
    def source(self) -> Markup:
        """How the policy names it."""
        digest = base64.b64encode(hashlib.sha256(self.text.encode()).digest()).decode()
        return Markup("'sha256-{}'").format(digest)


def script(made: jinja2.Environment, name: str) -> Script:
    """A script among the templates. Nothing is filled into it."""
    assert made.loader is not None
    source, _, _ = made.loader.get_source(made, name)
    return Script(Markup(source))  # noqa: S704  a file of ours


def words(subtask: str) -> str:
    """`ti2t` as `text + image → text`; names of any other form stay as they are."""
    read, arrow, written = subtask.partition("2")
    if not arrow or not {*read, *written} <= set(SUBTASK_WORDS):
        return subtask
    return " → ".join(map(modalities, (read, written)))


def modalities(letters: str) -> str:
    """`ti` as `text + image`."""
    return " + ".join(SUBTASK_WORDS[letter] for letter in letters)


def percent(share: float | None) -> str:
    """A share as whole percent; a dash where nothing was measured."""
    return "–" if share is None else f"{100 * share:.0f}\u202f%"


def percentage_points(share: float | None) -> str:
    """A difference of shares in percentage points, always signed."""
    if share is None:
        return "–"
    rounded = round(100 * share)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else '±'}{abs(rounded)}"


def duration(seconds: float | None) -> str:
    """Seconds in the two units that matter."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def count(number: float | None) -> str:
    """A count with thin spaces between thousands."""
    return "–" if number is None else f"{number:,.0f}".replace(",", "\u202f")


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 000 rows`: a count with its noun, whose plural takes an s."""
    return wording.counted(number, noun).replace(",", "\u202f")
