"""How far judges and annotators agree: Krippendorff's alpha.

    α = 1 - D_o / D_e

D_o is the mean squared distance of two ratings of one item, D_e that of any two ratings of all items that at least two
judges rated. 1 is full agreement, 0 what chance gives. Distances: nominal 0 or 1, interval (v - w)², ordinal the square
of the ratings from v to w, Σ n_g - (n_v + n_w) / 2. Source: K. Krippendorff, "Computing Krippendorff's
Alpha-Reliability" (2011), whose worked examples are the tests.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from omnialign.errors import InvalidArgument

Ratings = Sequence[Sequence[float | None]]


class Level(StrEnum):
    """What ratings are: names, ranks, or numbers whose differences mean something."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"
    INTERVAL = "interval"


def krippendorff_alpha(ratings: Ratings, level: Level) -> float | None:
    """Alpha of judges (rows) on items (columns), None for a rating that is missing.

    None if no item has two ratings, or if all such ratings are the same: then there is nothing to tell apart. Raises
    InvalidArgument (RATINGS_INVALID) for rows of different lengths.
    """
    if len({len(row) for row in ratings}) > 1:
        raise InvalidArgument("Every judge needs one rating, or None, for each item.", reason="RATINGS_INVALID")
    table = np.array([[np.nan if one is None else one for one in row] for row in ratings], dtype=np.float64)
    if level is Level.INTERVAL:
        return interval_alpha(table)
    table = _rated(table)
    values = np.unique(table[~np.isnan(table)])
    if len(values) < 2:
        return None
    # How often each value was given to each item: (items, values).
    counts = np.stack([(table == value).sum(axis=0) for value in values], axis=1).astype(np.float64)
    weighted = counts / (counts.sum(axis=1) - 1)[:, None]
    return _alpha(values, counts.T @ weighted - np.diag(weighted.sum(axis=0)), level)


def interval_alpha(table: NDArray[np.float64]) -> float | None:
    """Alpha of judges (rows) on items (columns) on an interval scale, NaN for a rating that is missing.

    Of sums of ratings and of their squares, so that its cost does not grow with the number of different ratings. None
    as of `krippendorff_alpha`.
    """
    table = _rated(table)
    if not table.size or np.nanmin(table) == np.nanmax(table):
        return None
    table = table - np.nanmean(table)  # or the difference of two large sums would lose digits
    numbers = (~np.isnan(table)).sum(axis=0)
    sums, squares = np.nansum(table, axis=0), np.nansum(table**2, axis=0)
    observed = ((numbers * squares - sums**2) / (numbers - 1)).sum() / numbers.sum()
    expected = (numbers.sum() * squares.sum() - sums.sum() ** 2) / (numbers.sum() * (numbers.sum() - 1))
    return float(1 - observed / expected)


def _rated(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns with at least two ratings."""
    return table[:, (~np.isnan(table)).sum(axis=0) >= 2] if table.size else np.empty((0, 0))


def alpha_of_pairs(pairs: Mapping[tuple[float, float], float], level: Level) -> float | None:
    """Alpha of ratings that are counted in pairs: how often an item has both, each time divided by its ratings less 1.

    The pairs of an item are in both orders. None as of `krippendorff_alpha`.
    """
    values = np.unique(np.array(list(pairs), dtype=np.float64))
    if len(values) < 2:
        return None
    coincidences = np.zeros((len(values), len(values)))
    for (one, other), weight in pairs.items():
        coincidences[np.searchsorted(values, one), np.searchsorted(values, other)] += weight
    return _alpha(values, coincidences, level)


def _alpha(values: NDArray[np.float64], coincidences: NDArray[np.float64], level: Level) -> float:
    totals = coincidences.sum(axis=1)
    distances = _DISTANCES[level](values, totals)
    observed = (coincidences * distances).sum() / totals.sum()
    expected = (np.outer(totals, totals) * distances).sum() / (totals.sum() * (totals.sum() - 1))
    return float(1 - observed / expected)


def _nominal(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - np.eye(len(values))


def _ordinal(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    middles = np.cumsum(totals) - totals / 2
    return np.asarray((middles[:, None] - middles[None, :]) ** 2)


def _interval(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values[:, None] - values[None, :]) ** 2)


_DISTANCES: dict[Level, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    Level.NOMINAL: _nominal,
    Level.ORDINAL: _ordinal,
    Level.INTERVAL: _interval,
}
