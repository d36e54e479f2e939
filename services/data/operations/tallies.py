"""Counts of many numbers or names in bounded memory."""

from collections import Counter

from omnialign.v1.dataset_operations_pb2 import NumberDistribution

MAX_KINDS = 200
OTHERS = "(others)"
EXACT_BITS = 10
"""Numbers of so many bits are counted exactly, larger ones to a thousandth."""


class Kinds:
    """How often each name occurs; those that come after `MAX_KINDS` others are counted together."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def add(self, name: str, number: int = 1) -> None:
        """Counts a name."""
        self.counts[name if name in self.counts or len(self.counts) < MAX_KINDS else OTHERS] += number


class Numbers:
    """How many numbers of which size there are: from 0 on, whole."""

    def __init__(self) -> None:
        self._counts, self._total, self._least, self._most = Counter[int](), 0, 0, 0

    def add(self, number: int) -> None:
        """Counts a number."""
        shift = max(0, number.bit_length() - EXACT_BITS)
        self._least = min(self._least, number) if self._counts else number
        self._most = max(self._most, number)
        self._counts[number >> shift << shift] += 1
        self._total += number

    def distribution(self) -> NumberDistribution:
        """What they are."""
        count = self._counts.total()
        if not count:
            return NumberDistribution()
        ordered = sorted(self._counts.items())
        made = NumberDistribution(
            count=count,
            mean=self._total / count,
            least=self._least,
            most=self._most,
            median=_percentile(ordered, count * 0.5),
            percentile_90=_percentile(ordered, count * 0.9),
            percentile_99=_percentile(ordered, count * 0.99),
        )
        bins = Counter[int]()
        for number, times in ordered:
            bins[_start(number)] += times
        start, last = min(bins), max(bins)
        while start <= last:
            made.bins.add(start=start, count=bins[start])
            start = _next(start)
        return made


def _percentile(ordered: list[tuple[int, int]], wanted: float) -> int:
    reached = 0
    for number, times in ordered:
        reached += times
        if reached >= wanted:
            return number
    return ordered[-1][0]


def _start(number: int) -> int:
    """Where the bin of a number begins: at 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    if number < 4:
        return number
    octave = 1 << (number.bit_length() - 1)
    return octave + octave // 2 if number >= octave + octave // 2 else octave


def _next(start: int) -> int:
    if start < 4:
        return start + 1
    octave = 1 << (start.bit_length() - 1)
    return octave * 2 if start > octave else octave + octave // 2
