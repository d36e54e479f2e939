"""The things in the world: pictures of a shape, sounds of a tone, clips of a moving shape, each with a few attributes.

The medium of a thing is a short row of codes, one byte each (`draw`), which the codecs turn into files. This file knows
nothing about prompts, models or faults.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from omnialign.modeling.codecs import Codec, build
from omnialign.modeling.codecs.rule_based import PaletteImageCodec, PaletteVideoCodec
from omnialign.v1 import content_pb2

Codes = NDArray[np.uint8]

SHAPES = {
    "square": ("###", "###", "###"),
    "ring": ("###", "#.#", "###"),
    "plus": (".#.", "###", ".#."),
    "cross": ("#.#", ".#.", "#.#"),
    "tee": ("###", ".#.", ".#."),
    "ell": ("#..", "#..", "###"),
}
COLOURS = ("red", "green", "blue", "yellow", "purple")
PALETTE = ("#111827", "#ef4444", "#22c55e", "#3b82f6", "#facc15", "#a855f7")
PLACES = {"top left": (0, 0), "top right": (0, 3), "bottom left": (3, 0), "bottom right": (3, 3)}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
REGISTERS = {"low": 0, "middle": 3, "high": 6}
PATTERNS = {"steady": (1, 1, 1), "rising": (0, 1, 2), "falling": (2, 1, 0), "pulsing": (1, 1, 1)}
LOUDNESSES = ("soft", "loud")
DURATIONS = {"short": 6, "long": 12}
GRID, RUN, CLIP_FRAMES, SOUND_FRAMES = 6, 3, 4, 12

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "picture": {"colour": COLOURS, "shape": tuple(SHAPES), "place": tuple(PLACES)},
    "sound": {
        "loudness": LOUDNESSES,
        "duration": tuple(DURATIONS),
        "register": tuple(REGISTERS),
        "pattern": tuple(PATTERNS),
    },
    "clip": {"colour": COLOURS, "shape": tuple(SHAPES), "direction": tuple(DIRECTIONS)},
}
MODALITIES: dict[str, int] = {
    "picture": content_pb2.MODALITY_IMAGE,
    "sound": content_pb2.MODALITY_AUDIO,
    "clip": content_pb2.MODALITY_VIDEO,
}
HELD_OUT_PERCENT = 15
"""Share of the combinations of attributes that occur only in validation and test."""


@dataclass(frozen=True)
class Thing:
    """A picture, sound or clip: the values of its attributes, in the order of `ATTRIBUTES[kind]`."""

    kind: str
    values: tuple[str, ...]

    @property
    def attributes(self) -> Mapping[str, str]:
        """The values by attribute name."""
        return dict(zip(ATTRIBUTES[self.kind], self.values, strict=True))

    def changed(self, attribute: str, value: str) -> "Thing":
        """The same thing with one attribute changed."""
        return Thing(self.kind, tuple({**self.attributes, attribute: value}.values()))

    @property
    def held_out(self) -> bool:
        """Whether this combination of attributes is kept out of all annotated data; decided by a hash."""
        digest = hashlib.sha256("|".join((self.kind, *self.values)).encode()).digest()
        return digest[0] % 100 < HELD_OUT_PERCENT


@cache
def things(kind: str) -> tuple[Thing, ...]:
    """All things of a kind."""
    return tuple(Thing(kind, values) for values in itertools.product(*ATTRIBUTES[kind].values()))


def random_thing(rng: random.Random, kind: str, *, held_out: bool | None = None) -> Thing:
    """A random thing: of all combinations, or only of those that are (or are not) held out."""
    return rng.choice([thing for thing in things(kind) if held_out is None or thing.held_out is held_out])


@cache
def draw(thing: Thing) -> bytes:
    """The clean medium of a thing, one byte per code."""
    if thing.kind == "sound":
        return _sound(thing.attributes).tobytes()
    cells = (_picture if thing.kind == "picture" else _clip)(thing.attributes)
    return bytes(visual_codec(thing.kind).pack(cells))


def stamp(shape: str, colour: str, row: int, column: int) -> Codes:
    """A shape on an empty grid `(GRID, GRID)` of palette indices."""
    grid = np.zeros((GRID, GRID), dtype=np.uint8)
    mask = np.array([[cell == "#" for cell in line] for line in SHAPES[shape]])
    grid[row : row + 3, column : column + 3][mask] = 1 + COLOURS.index(colour)
    return grid


def clip_positions(direction: str) -> Iterator[tuple[int, int]]:
    """The top left corner of the moving shape in each frame: it moves by one cell per frame."""
    down, right = DIRECTIONS[direction]
    for step in range(CLIP_FRAMES):
        yield tuple((1 if not d else step if d > 0 else CLIP_FRAMES - 1 - step) for d in (down, right))  # type: ignore[misc]


def _picture(attributes: Mapping[str, str]) -> Codes:
    return stamp(attributes["shape"], attributes["colour"], *PLACES[attributes["place"]])


def _clip(attributes: Mapping[str, str]) -> Codes:
    positions = clip_positions(attributes["direction"])
    return np.stack([stamp(attributes["shape"], attributes["colour"], *position) for position in positions])


def _sound(attributes: Mapping[str, str]) -> Codes:
    length, level = DURATIONS[attributes["duration"]], LOUDNESSES.index(attributes["loudness"])
    codes = np.zeros(SOUND_FRAMES, dtype=np.uint8)
    for frame in range(length):
        pitch = REGISTERS[attributes["register"]] + PATTERNS[attributes["pattern"]][frame * 3 // length]
        codes[frame] = 1 + pitch * len(LOUDNESSES) + level
    if attributes["pattern"] == "pulsing":
        codes[1::2] = 0
    return codes


CODEC_OPTIONS: dict[str, tuple[str, dict[str, object]]] = {
    "picture": ("palette_image", {"palette": PALETTE, "rows": GRID, "columns": GRID, "run": RUN, "cell_pixels": 16}),
    "sound": (
        "tone_audio",
        {
            "frequencies_hz": [round(220 * 2 ** (k / 3), 1) for k in range(9)],
            "amplitudes": [0.15, 0.6],
            "frames": SOUND_FRAMES,
            "frame_samples": 800,
            "rate_hz": 8000,
        },
    ),
    "clip": (
        "palette_video",
        {
            "palette": PALETTE,
            "frames": CLIP_FRAMES,
            "rows": GRID,
            "columns": GRID,
            "run": RUN,
            "cell_pixels": 16,
            "frames_per_second": 4,
        },
    ),
}


@cache
def visual_codec(kind: str) -> PaletteImageCodec | PaletteVideoCodec:
    """The codec of pictures or clips."""
    types: dict[str, Any] = {"picture": PaletteImageCodec, "clip": PaletteVideoCodec}
    return cast("PaletteImageCodec | PaletteVideoCodec", types[kind](**CODEC_OPTIONS[kind][1]))


@cache
def codec(kind: str) -> Codec:
    """The codec that turns the codes of a kind into files and back."""
    name, options = CODEC_OPTIONS[kind]
    return build(name, options)
