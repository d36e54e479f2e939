"""How large a codec may be: the sizes in a `codecs.json` are untrusted, and checked before anything is computed.

`"run": 1000000000` would otherwise raise a number to that power, and `"frames"` of the same size would allocate that
many pictures. The limits are far above every published codec. Errors are ValueErrors; `build` makes typed ones of them.
"""

import math
from collections.abc import Sequence

MAX_CODES = 1 << 22
"""Codes of all codebooks together; each is a row of the model's embeddings."""
MAX_TOKENS = 1 << 20
"""Tokens of one medium."""
MAX_PIXELS = 1 << 26
"""Pixels of a picture, or of all frames of a video."""
MAX_SAMPLES = 1 << 26
"""Samples of a sound."""
MAX_SIDE = 1 << 13
MAX_RATE = 1 << 20
MIN_VIDEO_RATE = 0.001
"""Frames per second; `write_video` rounds to thousandths."""


def whole(name: str, value: object, most: int, *, least: int = 1) -> int:
    """A whole number within limits. Raises ValueError."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {_shown(value)}")
    return value


def positive(name: str, value: object, most: float, *, least: float = 0.0) -> float:
    """A positive number within limits. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most or value < least:
        above = f"of at least {least:g}" if least else "above 0"
        raise ValueError(f"{name} must be a number {above} and of at most {most:g}, not {_shown(value)}")
    return float(value)


def product(name: str, factors: Sequence[int], most: int) -> int:
    """The product of whole numbers, each within limits already. Raises ValueError above `most`."""
    found = math.prod(factors)
    if found > most:
        raise ValueError(f"it would have {found} {name}, and {most} is the most")
    return found


def _shown(value: object) -> str:
    return repr(value)[:40]
