"""Mutations of real files and values, drawn from a seeded generator, so that a finding can be repeated."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

EDGES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
"""Numbers at which sizes, counts and offsets go wrong."""
MAX_MUTATIONS = 6

Generator = random.Random


def mutated_bytes(data: bytes, others: Sequence[bytes], draw: Generator) -> bytes:
    """A copy of `data` with a few changes, some of them taken from `others`."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, MAX_MUTATIONS)):
        draw.choice(_BYTE_MUTATIONS)(changed, others, draw)
    return bytes(changed)


def _flip(data: bytearray, others: Sequence[bytes], draw: Generator) -> None:
    del others
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _write_edge(data: bytearray, others: Sequence[bytes], draw: Generator) -> None:
    """A number at the edge of a type, in either byte order: what a header's sizes are made of."""
    del others
    width = draw.choice((1, 2, 4, 8))
    value = draw.choice(EDGES) % (1 << 8 * width)
    at = draw.randrange(min(len(data), 512) + 1) if draw.random() < 0.7 else draw.randrange(len(data) + 1)
    data[at : at + width] = value.to_bytes(width, draw.choice(("little", "big")))


def _cut(data: bytearray, others: Sequence[bytes], draw: Generator) -> None:
    del others
    start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    del data[start : min(end, start + draw.choice((1, 16, 256, 1 << 20)))]


def _repeat(data: bytearray, others: Sequence[bytes], draw: Generator) -> None:
    del others
    start = draw.randrange(len(data) + 1)
    piece = bytes(data[start : start + draw.choice((1, 16, 256))])
    data[start:start] = piece * draw.choice((1, 2, 64, 1024))


def _splice(data: bytearray, others: Sequence[bytes], draw: Generator) -> None:
    other = draw.choice(others)
    start, at = draw.randrange(len(other) + 1), draw.randrange(len(data) + 1)
    data[at:] = other[start:]


_BYTE_MUTATIONS: tuple[Callable[[bytearray, Sequence[bytes], Generator], None], ...] = (
    _flip, _flip, _write_edge, _write_edge, _write_edge, _cut, _repeat, _splice,
)  # fmt: skip


def hostile_value(draw: Generator) -> Any:
    """A value that a field of a row or of a settings file may hold, and that nobody expects there."""
    return draw.choice(
        (
            None, True, -1, 10**25, 10**400, 1e308, float("nan"), float("inf"), "", "\x00", "\x1b[31mred", "\ud800",
            "a" * 100_000, "../../etc/passwd", "{{ 9 ** (9 ** 9) }}", "<image>" * 50, [], {}, [None], [[]] * 1000,
            {"bytes": 10**25}, {"bytes": [1, 2, 3]}, {"array": [[["x"]]], "sampling_rate": 0}, {"path": "\x00"},
            {"bytes": None, "path": None}, _nested(200), list(range(1000)), {str(n): n for n in range(500)},
        )
    )  # fmt: skip


def _nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


def mutated_value(value: Any, draw: Generator) -> Any:
    """A copy of a value made of mappings, lists and scalars, with hostile values in some places."""
    changed = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, MAX_MUTATIONS)):
        changed = _mutate_inside(changed, draw)
    return changed


def _mutate_inside(value: Any, draw: Generator) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.15:
            del value[key]
        elif kind < 0.25:
            value[str(hostile_value(draw))[:50]] = value[key]
        else:
            value[key] = _mutate_inside(value[key], draw)
        return value
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        value[at] = _mutate_inside(value[at], draw)
        return value
    if isinstance(value, str) and draw.random() < 0.5:
        data = mutated_bytes(
            value.encode("utf-8", "surrogatepass"), [b"##Scores: clarity 3", b"\xf0\x9f\x98\x80"], draw
        )
        return data.decode("utf-8", "replace")
    return hostile_value(draw)
