"""What more labels would bring: a curve through scores by number of labels, and its forecast. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.intervals import Estimate

Floats = NDArray[np.float64]
EXPONENTS = np.geomspace(0.1, 2.0, 40)  # of the power law, tried one by one
DRAWS = 1000
SAME = 1.1  # draws of whole prompts differ a little in size


@dataclass(frozen=True, slots=True)
class Point:
    """A classifier learned from `n` entries, and its score on entries that stay the same for all points."""

    n: float
    score: float


@dataclass(frozen=True)
class Forecast:
    """The curve score = ceiling - span * n ** -rate, and what `more` entries would add to the score.

    All NaN where the points cannot say: fewer than four sizes.
    """

    ceiling: float
    span: float
    rate: float
    more: int
    gain: Estimate

    def at(self, n: float) -> float:
        """The curve's score at n entries."""
        return self.ceiling - self.span * n**-self.rate


def _power_law(sizes: Floats, scores: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Least squares of ceiling, span and rate for many curves at once: scores (curves, sizes), weights (sizes,).

    For each rate the other two follow from a regression; the span is kept from falling below 0 (more labels do no harm)
    and the ceiling from passing 1.
    """
    least = np.full(len(scores), np.inf)
    found = np.zeros((3, len(scores)))
    mean = (scores * weights).sum(1) / weights.sum()
    for rate in EXPONENTS:
        x = sizes**-rate
        centre = (x * weights).sum() / weights.sum()
        slope = ((x - centre) * weights * (scores - mean[:, None])).sum(1) / ((x - centre) ** 2 * weights).sum()
        slope = np.minimum(slope, 0.0)
        ceiling = mean - slope * centre
        over = ceiling > 1
        through = -(weights * x * (1 - scores)).sum(1) / (weights * x * x).sum()
        slope, ceiling = np.where(over, np.minimum(through, 0.0), slope), np.where(over, 1.0, ceiling)
        loss = (weights * (scores - ceiling[:, None] - slope[:, None] * x) ** 2).sum(1)
        better = loss < least
        least[better] = loss[better]
        found[:, better] = np.stack([ceiling, -slope, np.full(len(scores), rate)])[:, better]
    return found[0], found[1], found[2]


def _sizes(numbers: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Sizes of learning sets, and which each number belongs to: those within SAME of the smallest are one size."""
    order, place, start, count = np.argsort(numbers, kind="stable"), np.zeros(len(numbers), np.int64), 0.0, -1
    for i in order:
        if count < 0 or numbers[i] > start * SAME:
            start, count = float(numbers[i]), count + 1
        place[i] = count
    return np.bincount(place, numbers) / np.maximum(np.bincount(place), 1), place


def forecast(points: Sequence[Point], more: int = 200, seed: int = 0) -> Forecast:
    """An inverse power law through a learning curve (Figueroa et al. 2012; Viering and Loog 2023), and what `more`
    entries beyond the largest size would bring.

    The interval is a parametric bootstrap: scores are drawn around the curve with the spread that repeats of a size
    show and, if larger, that of the sizes' means around the curve. It speaks of the draw of entries, not of another
    test set. The gain of a curve that does not rise is 0; NaN with fewer than four sizes.
    """
    usable = [point for point in points if math.isfinite(point.score) and point.n > 0]
    sizes, place = _sizes(np.array([point.n for point in usable], float))
    nothing = Estimate(math.nan, math.nan, math.nan, len(usable))
    if len(sizes) < 4:
        return Forecast(math.nan, math.nan, math.nan, more, nothing)
    scores = np.array([point.score for point in usable])
    counts = np.bincount(place).astype(float)
    means = np.bincount(place, scores) / counts
    ceiling, span, rate = (float(part[0]) for part in _power_law(sizes, means[None], counts))
    fitted = Forecast(ceiling, span, rate, more, nothing)
    spare = len(scores) - len(sizes)
    within = float(((scores - means[place]) ** 2).sum() / spare) if spare else 0.0
    lack = float((counts * (means - np.array([fitted.at(n) for n in sizes])) ** 2).sum() / (len(sizes) - 3))
    spread = math.sqrt(max(within, lack))
    random = np.random.default_rng(seed)
    curve = np.array([fitted.at(n) for n in sizes])
    drawn = curve + random.normal(size=(DRAWS, len(sizes))) * spread / np.sqrt(counts)
    _, spans, rates = _power_law(sizes, drawn, counts)
    now, then = sizes[-1], sizes[-1] + more
    gains = spans * (now**-rates - then**-rates)
    low, high = np.percentile(gains, [2.5, 97.5])
    gain = Estimate(float(fitted.at(then) - fitted.at(now)), float(low), float(high), len(usable))
    return Forecast(ceiling, span, rate, more, gain)
