"""Intervals and tests for shares, means and paired verdicts: pure functions, frozen results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Z95 = 1.959963984540054
MINIMUM_N = 30  # no verdict in words below this


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval and n. NaN where n is too small to say."""

    estimate: float
    conf_low: float
    conf_high: float
    n: int


def wilson(successes: float, n: int) -> Estimate:
    """Share with Wilson's 95% score interval (Wilson 1927, JASA 22:209). n = 0 gives NaN.

    Successes may be a sum of n shares: those vary less than successes do, so the interval is then a careful one.
    """
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    share = successes / n
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def mean_interval(mean: float, variance: float, n: int) -> Estimate:
    """Mean with Student's 95% interval from the sample variance (n - 1). Needs n of at least 2."""
    if n < 2 or not math.isfinite(variance):
        return Estimate(mean if n else math.nan, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(max(variance, 0.0) / n)
    return Estimate(mean, mean - half, mean + half, n)


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's exact test on paired verdicts: `only_a`, `only_b` are the discordant pairs."""

    only_a: int
    only_b: int
    n: int
    difference: Estimate
    p_value: float


def mcnemar(only_a: int, only_b: int, n: int) -> McNemar:
    """Exact binomial McNemar test (McNemar 1947) and the difference of the two shares (a minus b) in the same n pairs.

    The interval is Wald's for a paired difference; p is two-sided and 1 when nothing is discordant.
    """
    discordant = only_a + only_b
    p = float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0
    if n == 0:
        return McNemar(only_a, only_b, 0, Estimate(math.nan, math.nan, math.nan, 0), p)
    difference = (only_a - only_b) / n
    variance = (discordant - (only_a - only_b) ** 2 / n) / n**2
    half = Z95 * math.sqrt(max(variance, 0.0))
    return McNemar(only_a, only_b, n, Estimate(difference, difference - half, difference + half, n), p)


def kappa(table: Sequence[Sequence[int]], weights: str | None = None) -> Estimate:
    """Cohen's kappa of two raters from a square table of counts, with its large-sample 95% interval (Fleiss 1969).

    `weights`: linear or quadratic in the distance of the classes (Cohen 1968), for classes in order. NaN where both
    always say the same: agreement by chance is then certain.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    counts = np.asarray(table, dtype=float)
    n = int(counts.sum())
    chance = float((counts.sum(axis=0) * counts.sum(axis=1)).sum()) / n**2 if n else 1.0
    if chance >= 1.0:
        return Estimate(math.nan, math.nan, math.nan, n)
    with np.errstate(invalid="ignore"):
        found = cohens_kappa(counts, wt=weights)
    value, low, high = float(found.kappa), float(found.kappa_low), float(found.kappa_upp)
    if math.isnan(low):  # a variance of zero that rounding made negative
        low = high = value
    return Estimate(value, low, high, n)


CORRECTIONS = ("holm", "fdr_bh")


def correct(p_values: Sequence[float], method: str = "holm") -> list[float]:
    """p-values corrected for many tests: holm (Holm 1979), fdr_bh (Benjamini and Hochberg 1995) or bonferroni.

    NaN stays NaN and does not count as a test.
    """
    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    m, rank = len(order), np.arange(1, len(order) + 1)
    found = np.full(len(p), math.nan)
    if method == "bonferroni":
        found[order] = m * p[order]
    elif method == "holm":
        found[order] = np.maximum.accumulate((m - rank + 1) * p[order])
    elif method == "fdr_bh":
        found[order] = np.minimum.accumulate((m / rank * p[order])[::-1])[::-1]
    else:
        raise ValueError(f"no correction {method!r}")
    return [float(value) for value in np.minimum(found, 1.0)]


def share_text(value: float) -> str:
    """0.0%."""
    return "–" if math.isnan(value) else f"{value:.1%}"


def interval_text(one: Estimate) -> str:
    """A share with its interval and n, as captions say it."""
    if math.isnan(one.estimate):
        return "no data"
    return f"{one.estimate:.1%} [{one.conf_low:.1%}, {one.conf_high:.1%}], n = {one.n:,}"


def points_text(one: Estimate) -> str:
    """A difference of shares in percentage points with its interval."""
    if math.isnan(one.estimate):
        return "–"
    if math.isnan(one.conf_low):
        return f"{100 * one.estimate:+.1f} pp"
    return f"{100 * one.estimate:+.1f} pp [{100 * one.conf_low:+.1f}, {100 * one.conf_high:+.1f}]"
