"""Seeing and hearing: from a media file back to the thing it shows, and how well it shows it.

Works only on decoded files: it knows what things look like, not what anyone meant to draw.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from examples.tinyworld.world import (
    CLIP_FRAMES,
    COLOURS,
    DIRECTIONS,
    GRID,
    MODALITIES,
    SHAPES,
    Thing,
    codec,
    draw,
    stamp,
    things,
    visual_codec,
)
from omnialign.modeling.inputs import MediaBytes

Codes = NDArray[np.uint8]
KINDS = {modality: kind for kind, modality in MODALITIES.items()}


@dataclass(frozen=True)
class Seen:
    """The thing that a file shows best, in how many codes (`noise`) it differs from it, and the codes."""

    thing: Thing
    noise: int
    codes: Codes

    @property
    def noise_share(self) -> float:
        """The share of codes that differ."""
        return self.noise / len(self.codes)


def look(media: MediaBytes) -> Seen:
    """What a media file shows. Raises MediaError when it does not decode."""
    kind = KINDS[media.modality]
    codes = np.array(codec(kind).encode(media.data), dtype=np.uint8)
    differences = (_templates(kind) != codes).sum(axis=1)  # (things,)
    nearest = int(differences.argmin())
    return Seen(things(kind)[nearest], int(differences[nearest]), codes)


@cache
def _templates(kind: str) -> Codes:
    """The clean codes of all things of a kind, `(things, codes)`."""
    return np.stack([np.frombuffer(draw(thing), dtype=np.uint8) for thing in things(kind)])


@cache
def _stamps() -> tuple[list[tuple[str, str, int, int]], Codes]:
    """Every shape in every colour at every position: their keys, and their grids `(stamps, GRID * GRID)`."""
    span = range(GRID - 2)
    keys = [(s, c, row, column) for s in SHAPES for c in COLOURS for row in span for column in span]
    return keys, np.stack([stamp(*key).reshape(-1) for key in keys])


@dataclass(frozen=True)
class Motion:
    """How a clip moves: frames with its own shape and colour, steps in its direction, frames with one colour."""

    steady_frames: int
    right_steps: int
    coherent_frames: int


def watch(seen: Seen) -> Motion:
    """Measures a clip frame by frame."""
    frames = visual_codec("clip").unpack(seen.codes.tolist()).reshape(CLIP_FRAMES, -1)  # (frames, GRID * GRID)
    keys, stamps = _stamps()
    nearest = [keys[int((stamps != frame).sum(axis=1).argmin())] for frame in frames]
    shape, colour, direction = (seen.thing.attributes[name] for name in ("shape", "colour", "direction"))
    step = DIRECTIONS[direction]
    moves = [(b[2] - a[2], b[3] - a[3]) for a, b in pairwise(nearest)]
    return Motion(
        steady_frames=sum(key[:2] == (shape, colour) for key in nearest),
        right_steps=sum(move == step for move in moves),
        coherent_frames=sum(len(set(frame[frame > 0].tolist())) == 1 for frame in frames),
    )
