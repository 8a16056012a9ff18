"""Krippendorff's alpha for every kind of label, and the bootstrap over units: arrays in, numbers out.

Ratings of a unit count without regard to who gave them, so units with the same ratings form one pattern. To resample
units is to draw how many show each pattern, which costs the same for a hundred units or a hundred thousand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from engine.intervals import Estimate

Level = Literal["nominal", "ordinal", "interval", "masi", "jaccard"]
LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval", "masi", "jaccard")
SETS = ("masi", "jaccard")
CHUNK = 4_000_000  # bootstrap cells held at once
UNDEFINED_MAX = 0.05  # no interval where more of the resamples than this leave the figure undefined
FLAT = 1e-10  # an expected difference this small beside the squares is rounding

# A figure for each row of weights (how many units show each pattern), NaN where it is undefined.
Statistic = Callable[[np.ndarray], np.ndarray]


def nothing(n: int = 0) -> Estimate:
    """A figure that is not defined."""
    return Estimate(math.nan, math.nan, math.nan, n)


def check(level: str) -> None:
    """ValueError for what is no level."""
    if level not in LEVELS:
        raise ValueError(f"no level {level!r}")


def _pairable(patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patterns with the units of fewer than two ratings emptied, and a divisor (m - 1) that is never zero."""
    raters = patterns.sum(axis=1)
    kept = np.where((raters >= 2)[:, None], patterns, 0.0)
    return kept, np.maximum(raters - 1.0, 1.0)


def _ratio(total: np.ndarray, apart: np.ndarray, expected: np.ndarray, varied: np.ndarray) -> np.ndarray:
    found = 1 - (total - 1) * apart / np.where(varied, expected, 1.0)
    return np.where(varied, np.minimum(found, 1.0), math.nan)


def alpha(patterns: np.ndarray, level: Level, values: Sequence[Any] = ()) -> Statistic:
    """Krippendorff's alpha (2011) from patterns (units, classes) of how many raters gave each class.

    `values` are the classes: numbers for interval, sets for masi and jaccard; ordinal ones stand lowest first. (Columns
    beyond them hold no rating.) NaN where the units with two ratings or more show one class only, or there are none.
    """
    check(level)
    kept, less_one = _pairable(patterns.astype(float))
    if level == "ordinal":
        return _ordinal(kept, less_one)
    if level == "interval":
        numbers = np.zeros(kept.shape[1])
        numbers[: len(values)] = values
        return _scored(kept, less_one, numbers)
    if level == "nominal":
        within = kept.sum(axis=1) ** 2 - (kept**2).sum(axis=1)
        apart, between = within / less_one, None
    else:
        between = np.zeros((kept.shape[1], kept.shape[1]))
        between[: len(values), : len(values)] = distances(values, level)
        apart = ((kept @ between) * kept).sum(axis=1) / less_one

    def statistic(weights: np.ndarray) -> np.ndarray:
        marginals = weights @ kept
        total = marginals.sum(axis=1)
        if between is None:
            expected = total**2 - (marginals**2).sum(axis=1)
        else:
            expected = ((marginals @ between) * marginals).sum(axis=1)
        return _ratio(total, weights @ apart, expected, (marginals > 0).sum(axis=1) > 1)

    return statistic


def _ordinal(kept: np.ndarray, less_one: np.ndarray) -> Statistic:
    """The ordinal difference, the squared sum of the counts between two classes with half of the ends, is the squared
    distance of their mid-ranks, so no coincidence matrix is formed."""
    raters = kept.sum(axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        marginals = weights @ kept
        total = marginals.sum(axis=1)
        safe = np.maximum(total, 1.0)[:, None]
        rank = (np.cumsum(marginals, axis=1) - marginals / 2) / safe
        rank = rank - (marginals * rank).sum(axis=1, keepdims=True) / safe
        apart = 2 * (weights * ((raters * (rank**2 @ kept.T) - (rank @ kept.T) ** 2) / less_one)).sum(axis=1)
        expected = 2 * (total * (marginals * rank**2).sum(axis=1) - (marginals * rank).sum(axis=1) ** 2)
        return _ratio(total, apart, expected, (marginals > 0).sum(axis=1) > 1)

    return statistic


def _scored(kept: np.ndarray, less_one: np.ndarray, values: np.ndarray) -> Statistic:
    """The interval difference is the squared distance of the values: sums and sums of squares are enough."""
    raters = kept.sum(axis=1)
    middle = float(kept.sum(axis=0) @ values) / max(float(raters.sum()), 1.0)
    spread = float(np.max(np.abs(values - middle), initial=0.0)) or 1.0
    scores = (values - middle) / spread
    sums, squares = kept @ scores, kept @ scores**2
    apart = 2 * (raters * squares - sums**2) / less_one

    def statistic(weights: np.ndarray) -> np.ndarray:
        total, square = weights @ raters, weights @ squares
        expected = 2 * (total * square - (weights @ sums) ** 2)
        return _ratio(total, weights @ apart, expected, expected > FLAT * total * square)

    return statistic


def distances(values: Sequence[Any], level: Level) -> np.ndarray:
    """Distances of sets, (classes, classes): 1 - |both| / |either| (jaccard), or MASI's 1 - m |both| / |either|.

    m is 1 for equal sets, 2/3 where one holds the other, 1/3 where they overlap (Passonneau 2006, LREC). Two empty sets
    are equal; an empty one is at distance 1 from any other.
    """
    if not len(values):
        return np.zeros((0, 0))
    every = sorted({one for value in values for one in value}, key=repr)
    held = np.array([[one in value for one in every] for value in values], dtype=float).reshape(len(values), -1)
    both, sizes = held @ held.T, held.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - both
    alike = np.where(either > 0, both / np.maximum(either, 1.0), 1.0)
    if level == "masi":
        nested = both == np.minimum(sizes[:, None], sizes[None, :])
        alike = alike * np.where(both == either, 1.0, np.where(nested, 2 / 3, 1 / 3))
    return 1 - alike


def coded(ratings: Any, level: Level = "nominal", classes: Sequence[Any] | None = None) -> tuple[np.ndarray, list[Any]]:
    """Ratings (units, raters) as positions in the classes, -1 where missing (NaN, None), and the classes.

    Those are the ones given, lowest first, or, sorted, those seen. ValueError for a label that is no class.
    """
    table = np.asarray(ratings, dtype=object if level in SETS else None)
    if table.ndim != 2:
        raise ValueError(f"ratings need units and raters: {table.shape}")
    flat = table.ravel()
    if level in SETS:
        cells: list[Hashable] = [None if one is None or one != one else frozenset(one) for one in flat]
        known = list(classes) if classes is not None else sorted({one for one in cells if one is not None}, key=_order)
        place: dict[Hashable, int] = {one: i for i, one in enumerate(known)} | {None: -1}
        return np.array([place[one] for one in cells], dtype=np.int64).reshape(table.shape), known
    if classes is None:
        codes, seen = pd.factorize(flat, sort=True)
        return codes.reshape(table.shape).astype(np.int64), list(seen)
    codes = pd.Index(list(classes)).get_indexer(pd.Index(flat))
    strange = (codes < 0) & ~pd.isna(flat)
    if strange.any():
        raise ValueError(f"label {flat[np.argmax(strange)]!r} is not among the classes")
    return codes.reshape(table.shape).astype(np.int64), list(classes)


def _order(one: Any) -> tuple[int, list[str]]:
    return len(one), sorted(map(repr, one))


def patterns(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of codes, whoever gave which, as counts of each class, and how many units show each.

    Patterns are sorted, so that the order of units and raters changes nothing, a seeded bootstrap included.
    """
    if not codes.size:
        return np.zeros((0, size)), np.zeros(0, dtype=np.int64)
    rows, counts = np.unique(np.sort(codes, axis=1), axis=0, return_counts=True)
    place = np.repeat(np.arange(len(rows)), rows.shape[1])
    known = rows.ravel() >= 0
    found = np.bincount(place[known] * size + rows.ravel()[known], minlength=len(rows) * size)
    return found.reshape(len(rows), size).astype(float), counts


def bootstrap(
    statistics: Sequence[Statistic],
    counts: np.ndarray,
    replicates: int = 500,
    seed: int = 0,
    n: int | None = None,
    apart: np.ndarray | None = None,
) -> list[Estimate]:
    """Figures with their 95% percentile bootstrap intervals over units (Efron 1979), the same draws for all.

    `counts` says how many units show each pattern. With `apart` (patterns,), units of those patterns are resampled
    among themselves. `n` is what the figures report, all units unless given. Resamples in which a figure is undefined
    are left out, and it has no interval where they are more than a twentieth.
    """
    units = int(counts.sum())
    n = units if n is None else n
    if n == 0:
        return [nothing() for _ in statistics]
    whole = counts[None, :].astype(float)
    estimates = [float(statistic(whole)[0]) for statistic in statistics]
    drawn: list[list[np.ndarray]] = [[np.zeros(0)] for _ in statistics]
    if n > 1 and replicates > 0:
        rng, step = np.random.default_rng(seed), max(1, CHUNK // len(counts))
        parts = [np.ones(len(counts), dtype=bool)] if apart is None else [~apart, apart]
        for start in range(0, replicates, step):
            size = min(step, replicates - start)
            weights = np.zeros((size, len(counts)))
            for part in parts:
                if total := int(counts[part].sum()):
                    weights[:, part] = rng.multinomial(total, counts[part] / total, size=size)
            for found, statistic, estimate in zip(drawn, statistics, estimates):
                if not math.isnan(estimate):
                    found.append(statistic(weights))
    return [_percentiles(one, np.concatenate(found), replicates, n) for one, found in zip(estimates, drawn)]


def _percentiles(estimate: float, drawn: np.ndarray, replicates: int, n: int) -> Estimate:
    known = drawn[~np.isnan(drawn)]
    if not len(known) or len(known) < (1 - UNDEFINED_MAX) * replicates:
        return Estimate(estimate, math.nan, math.nan, n)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(estimate, float(low), float(high), n)
