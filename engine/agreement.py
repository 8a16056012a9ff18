"""Agreement of raters on nominal, ordinal or boolean labels: pure functions, frozen results.

Everything is worked out on tables of counts, so the bootstrap costs the same for a hundred units or a hundred thousand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from engine.intervals import Z95, Estimate, kappa, wilson

Level = Literal["nominal", "ordinal"]
LEVELS: tuple[Level, ...] = ("nominal", "ordinal")
CHUNK = 4_000_000  # bootstrap cells held at once
UNDEFINED_MAX = 0.05  # no interval where more of the resamples than this hold one class only


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two raters on one feature. Kappa, PABAK and AC1 are unweighted; only alpha uses the order of ordinal labels.

    `prevalence_a` and `prevalence_b` are each rater's share of True (or 1) for boolean labels, else NaN.
    """

    feature: str
    n: int
    observed: Estimate
    kappa: Estimate
    pabak: Estimate
    ac1: Estimate
    alpha: Estimate
    prevalence_a: float
    prevalence_b: float


@dataclass(frozen=True, slots=True)
class Many:
    """Any number of raters: alpha over units with two ratings or more, Fleiss' kappa over complete units."""

    alpha: Estimate
    fleiss: Estimate


def _nothing(n: int = 0) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, n)


def _check(level: str) -> None:
    if level not in LEVELS:
        raise ValueError(f"no level {level!r}")


def _codes(a: Any, b: Any, level: str, classes: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Both raters' labels as positions in the classes, which are those given or, sorted, those seen."""
    left, right = np.asarray(a), np.asarray(b)
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(f"raters need the same units: {left.shape} and {right.shape}")
    n = len(left)
    if n == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), list(classes or ())
    numbers = left.dtype.kind in "biuf" and right.dtype.kind in "biuf"
    both = np.concatenate([left, right] if numbers else [left.astype(object), right.astype(object)])
    if pd.isna(both).any():
        raise ValueError("missing labels: drop those units first")
    if classes is not None:
        codes = pd.Index(list(classes)).get_indexer(pd.Index(both))
        if (codes < 0).any():
            raise ValueError(f"label {both[np.argmax(codes < 0)]!r} is not among the classes")
        return codes[:n], codes[n:], list(classes)
    if level == "ordinal" and not numbers and any(isinstance(one, str) for one in both):
        raise ValueError("ordinal labels in words need their classes, lowest first")
    codes, seen = pd.factorize(both, sort=True)
    return codes[:n], codes[n:], list(seen)


def _pabak(observed: Estimate, size: int) -> Estimate:
    """PABAK (Byrt, Bishop and Carlin 1993, J Clin Epidemiol 46:423): (k po - 1) / (k - 1), 2 po - 1 for two classes.

    It is linear in po, so Wilson's interval carries over.
    """
    shares = (observed.estimate, observed.conf_low, observed.conf_high)
    mid, low, high = ((size * share - 1) / (size - 1) for share in shares)
    return Estimate(mid, low, high, observed.n)


def ac1(table: Sequence[Sequence[int]] | np.ndarray) -> Estimate:
    """Gwet's AC1 of two raters from a square table of counts (Gwet 2008, Br J Math Stat Psychol 61:29).

    The 95% interval is normal, from his variance for an infinite population of units, within [-1, 1]. It has no width
    where the raters never differ: read the interval of the observed agreement there.
    """
    counts = np.asarray(table, dtype=float)
    n, size = int(counts.sum()), len(counts)
    if n == 0 or size < 2:
        return _nothing(n)
    shares = counts / n
    observed = float(np.trace(shares))
    share = (shares.sum(axis=0) + shares.sum(axis=1)) / 2
    chance = float((share * (1 - share)).sum()) / (size - 1)
    found = (observed - chance) / (1 - chance)
    first = float((np.diag(shares) * (1 - share)).sum()) / (size - 1) - observed * chance
    pairs = 1 - (share[:, None] + share[None, :]) / 2
    second = float((shares * pairs**2).sum()) / (size - 1) ** 2 - chance**2
    spread = observed * (1 - observed) - 4 * (1 - found) * first + 4 * (1 - found) ** 2 * second
    half = Z95 * math.sqrt(max(spread, 0.0) / n) / (1 - chance)
    return Estimate(found, max(-1.0, found - half), min(1.0, found + half), n)


def _alpha(patterns: np.ndarray, weights: np.ndarray, level: str) -> np.ndarray:
    """Krippendorff's alpha for each row of weights (how many units show each pattern of class counts).

    The ordinal difference of Krippendorff (2011), the squared sum of the counts between two classes with half of the
    ends, is the squared distance of their mid-ranks, so no coincidence matrix is formed. NaN where one class is left.
    """
    raters = patterns.sum(axis=1)
    marginals = weights @ patterns
    total = marginals.sum(axis=1)
    if level == "nominal":
        apart = weights @ ((raters**2 - (patterns**2).sum(axis=1)) / (raters - 1))
        expected = total**2 - (marginals**2).sum(axis=1)
    else:
        safe = np.maximum(total, 1.0)[:, None]
        rank = (np.cumsum(marginals, axis=1) - marginals / 2) / safe
        rank = rank - (marginals * rank).sum(axis=1, keepdims=True) / safe
        squares = rank**2 @ patterns.T
        sums = rank @ patterns.T
        apart = 2 * (weights * ((raters * squares - sums**2) / (raters - 1))).sum(axis=1)
        expected = 2 * (total * (marginals * rank**2).sum(axis=1) - (marginals * rank).sum(axis=1) ** 2)
    varied = (marginals > 0).sum(axis=1) > 1
    found = 1 - (total - 1) * apart / np.where(varied, expected, 1.0)
    return np.where(varied, np.minimum(found, 1.0), math.nan)


def _fleiss(patterns: np.ndarray, weights: np.ndarray, _level: str = "nominal") -> np.ndarray:
    """Fleiss' kappa (Fleiss 1971, Psychol Bull 76:378) for each row of weights. NaN where one class is left."""
    raters = patterns[0].sum()
    units = weights.sum(axis=1)
    observed = weights @ (((patterns**2).sum(axis=1) - raters) / (raters * (raters - 1))) / units
    marginals = weights @ patterns
    chance = ((marginals / (units * raters)[:, None]) ** 2).sum(axis=1)
    varied = (marginals > 0).sum(axis=1) > 1
    found = (observed - chance) / np.where(varied, 1 - chance, 1.0)
    return np.where(varied, np.minimum(found, 1.0), math.nan)


def _bootstrap(
    statistic: Any, patterns: np.ndarray, counts: np.ndarray, level: str, replicates: int, seed: int
) -> Estimate:
    """A statistic of patterns with its 95% percentile bootstrap interval over units (Efron 1979).

    To resample units is to draw the patterns' counts from a multinomial. Resamples of one class are left out, and
    there is no interval where they are more than a twentieth.
    """
    n = int(counts.sum())
    if n == 0:
        return _nothing()
    patterns = patterns.astype(float)
    estimate = float(statistic(patterns, counts[None, :].astype(float), level)[0])
    if math.isnan(estimate) or n < 2 or replicates < 1:
        return Estimate(estimate, math.nan, math.nan, n)
    rng, step = np.random.default_rng(seed), max(1, CHUNK // len(counts))
    sizes = [min(step, replicates - start) for start in range(0, replicates, step)]
    draws = (rng.multinomial(n, counts / n, size=size).astype(float) for size in sizes)
    drawn = np.concatenate([statistic(patterns, weights, level) for weights in draws])
    known = drawn[~np.isnan(drawn)]
    if len(known) < (1 - UNDEFINED_MAX) * replicates:
        return Estimate(estimate, math.nan, math.nan, n)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(estimate, float(low), float(high), n)


def _pairs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unordered pairs of classes in a square table as patterns, and how many units show each."""
    folded = np.triu(counts + np.tril(counts, -1).T)
    rows, columns = np.nonzero(folded)
    one = np.eye(len(counts), dtype=np.int64)
    return one[rows] + one[columns], folded[rows, columns]


def two(
    feature: str,
    a: Any,
    b: Any,
    level: Level = "nominal",
    replicates: int = 500,
    seed: int = 0,
    classes: Sequence[Any] | None = None,
) -> Agreement:
    """Agreement of two raters on the same units in the same order, nothing missing.

    Kappa is Cohen's (1960) with the interval of Fleiss, Cohen and Everitt (1969), NaN where only one class is used.
    Alpha is Krippendorff's (2011) with a seeded bootstrap. `classes`, lowest first, says which there could be; without
    it they are those seen, two at least.
    """
    _check(level)
    left, right, seen = _codes(a, b, level, classes)
    n, size = len(left), max(2, len(seen))
    counts = np.bincount(left * size + right, minlength=size * size).reshape(size, size)
    observed = wilson(int(np.trace(counts)), n)
    boolean = n > 0 and level == "nominal" and all(one in (0, 1) for one in seen)
    positive = [index for index, one in enumerate(seen) if one == 1]
    return Agreement(
        feature,
        n,
        observed,
        kappa(counts.tolist()),
        _pabak(observed, size),
        ac1(counts),
        _bootstrap(_alpha, *_pairs(counts), level, replicates, seed),
        float(np.isin(left, positive).mean()) if boolean else math.nan,
        float(np.isin(right, positive).mean()) if boolean else math.nan,
    )


def _patterns(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of codes, whoever gave which, as counts of each class, and how many units show each."""
    if not codes.size:
        return np.zeros((0, size), dtype=np.int64), np.zeros(0, dtype=np.int64)
    found = pd.DataFrame(np.sort(codes, axis=1)).groupby(list(range(codes.shape[1]))).size()
    rows = found.index.to_frame().to_numpy()
    return np.stack([(rows == one).sum(axis=1) for one in range(size)], axis=1), found.to_numpy()


def many(ratings: Any, level: Level = "nominal", replicates: int = 500, seed: int = 0) -> Many:
    """Agreement of any number of raters from (units, raters), NaN where one did not rate.

    Krippendorff's alpha (2011) over the units with two ratings or more; Fleiss' kappa (1971), which is nominal, over
    the complete units. Both intervals are seeded bootstraps over units.
    """
    _check(level)
    values = np.asarray(ratings, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"ratings need units and raters: {values.shape}")
    codes, seen = pd.factorize(values.ravel(), sort=True)
    codes, size = codes.reshape(values.shape).astype(np.int64), max(1, len(seen))
    if values.shape[1] < 2:
        return Many(_nothing(), _nothing())
    known = (codes >= 0).sum(axis=1)
    pairable, complete = codes[known >= 2], codes[known == values.shape[1]]
    alpha = _bootstrap(_alpha, *_patterns(pairable, size), level, replicates, seed)
    return Many(alpha, _bootstrap(_fleiss, *_patterns(complete, size), level, replicates, seed))


MEASURES = {"agreement": "observed", "kappa": "kappa", "pabak": "pabak", "ac1": "ac1", "alpha": "alpha"}
ENDS = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
COLUMNS = ["feature", "n", *ENDS, "prevalence_a", "prevalence_b"]


def table(found: Sequence[Agreement]) -> pd.DataFrame:
    """One row a feature: n, each measure with its _low and _high, and the prevalences."""
    rows = []
    for one in found:
        measures: list[Estimate] = [getattr(one, field) for field in MEASURES.values()]
        numbers = [number for each in measures for number in (each.estimate, each.conf_low, each.conf_high)]
        rows.append([one.feature, one.n, *numbers, one.prevalence_a, one.prevalence_b])
    return pd.DataFrame(rows, columns=COLUMNS)


def self_consistency(samples: Any) -> pd.DataFrame:
    """How far a rater's repeated answers to each unit agree, from (units, samples); missing samples are left out.

    One row a unit: `samples` counted, `modal` answer (of equals the lowest), `share` of it, and `entropy` (Shannon
    1948) over the log of the fewer of samples and classes seen: 0 always the same. NaN where nothing was answered.
    """
    values = np.asarray(samples)
    if values.ndim != 2:
        raise ValueError(f"samples need units and samples: {values.shape}")
    flat, seen = pd.factorize(values.ravel(), sort=True)
    codes, size = flat.reshape(values.shape), max(1, len(seen))
    keys = (np.arange(len(codes))[:, None] * size + codes)[codes >= 0]
    counts = np.bincount(keys, minlength=len(codes) * size).reshape(len(codes), size)
    known = counts.sum(axis=1)
    answered = known > 0
    shares = counts / np.maximum(known, 1)[:, None]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    most = np.log(np.maximum(np.minimum(known, size), 2))
    modal = [seen[top] if any_known else None for top, any_known in zip(counts.argmax(axis=1), answered)]
    return pd.DataFrame(
        {
            "samples": known,
            "modal": pd.Series(modal, dtype=object),
            "share": np.where(answered, shares.max(axis=1), math.nan),
            "entropy": np.where(answered, np.clip(entropy / most, 0.0, 1.0), math.nan),
        }
    )
