"""The composite scores of eval-anything: understanding (AMU), generation (AMG), and both.

    AMU     = 1/4 Σ S_c                              over four categories, each the mean of its items
    AMG     = Select · Σ 1/2 (S_a + S_b) · S_{a,b}   over the pairs of text, visual and auditory
    overall = (AMU + AMG) / 2

Source: arXiv 2412.15838; the printed table follows these formulas to rounding (tests). S_a is 0 to 10, S_{a,b} and
Select 0 to 1. The visual modality is images or videos: where a benchmark measures both, its score is the mean of the
two, each weighed alike. Functions take numbers or arrays of them, element by element, so that samples of a bootstrap go
through the same formulas.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omnialign.combinations import combination
from omnialign.errors import InvalidArgument
from omnialign.modeling.benchmark_items import CATEGORIES

SELECTION = "selection"
TEXT, AUDIO, VISUAL = "t", "a", "iv"
PAIRS = ((TEXT, VISUAL), (TEXT, AUDIO), (VISUAL, AUDIO))

Parts = Mapping[str, Any]  # the value of each part, a number or an array


def following(modality: str) -> str:
    """The name of the part for instruction following in a modality, `t`, `i`, `a` or `v`: `following-t`."""
    return f"following-{modality}"


def synergy(first: str, second: str) -> str:
    """The name of the part for the synergy of two modalities, in the order t, i, a, v: `synergy-ti`."""
    return f"synergy-{combination((first, second))}"


def amu(parts: Parts) -> Any:
    """All-modality understanding, in the unit of its parts, from the four `benchmark_items.CATEGORIES`.

    Raises InvalidArgument (PARTS_MISSING, PART_UNKNOWN).
    """
    unknown = sorted(set(parts) - set(CATEGORIES))
    if unknown:
        message = f"{unknown[0]!r} is no category of understanding: name one of {', '.join(CATEGORIES)}."
        raise InvalidArgument(message, reason="PART_UNKNOWN", metadata={"part": unknown[0]})
    return sum(_alike(parts, (category,)) for category in CATEGORIES) / len(CATEGORIES)


def amg(parts: Parts) -> Any:
    """All-modality generation, 0 to 30, from `selection`, `following-t` and so on, and `synergy-ti` and so on.

    Raises InvalidArgument (PARTS_MISSING).
    """
    score = {kind: _alike(parts, [following(letter) for letter in kind]) for kind in (TEXT, AUDIO, VISUAL)}
    together = {pair: _alike(parts, [synergy(a, b) for a in pair[0] for b in pair[1]]) for pair in PAIRS}
    return _alike(parts, (SELECTION,)) * sum((score[a] + score[b]) / 2 * together[a, b] for a, b in PAIRS)


def overall(parts: Parts) -> Any:
    """The mean of AMU and AMG, from the parts of both."""
    understanding = {category: parts[category] for category in CATEGORIES if category in parts}
    return (amu(understanding) + amg(parts)) / 2


def _alike(parts: Parts, names: Sequence[str]) -> Any:
    """The mean of those of the parts that there are, each weighed alike."""
    there = [parts[name] for name in names if name in parts]
    if not there:
        message = f"The score needs {' or '.join(names)}, which was not measured: measure it, or report parts alone."
        raise InvalidArgument(message, reason="PARTS_MISSING", metadata={"parts": ",".join(names)})
    return sum(there) / len(there)
