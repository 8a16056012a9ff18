"""Agreement of two raters, and of one with itself: pure functions, frozen results. Several raters: engine.raters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from engine.alpha import alpha, bootstrap, nothing
from engine.intervals import Z95, Estimate, kappa, wilson

Level = Literal["nominal", "ordinal"]
LEVELS: tuple[Level, ...] = ("nominal", "ordinal")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two raters on one feature. Kappa, PABAK and AC1 are unweighted; alpha and `weighted` use the order of labels.

    `weighted` is kappa with quadratic weights (Cohen 1968, Psychol Bull 70:213), NaN for nominal labels.

    `prevalence_a` and `prevalence_b` are each rater's share of True (or 1) for boolean labels, else NaN.
    """

    feature: str
    n: int
    observed: Estimate
    kappa: Estimate
    pabak: Estimate
    ac1: Estimate
    alpha: Estimate
    weighted: Estimate
    prevalence_a: float
    prevalence_b: float


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
        return nothing(n)
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
    patterns, units = _pairs(counts)
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
        bootstrap([alpha(patterns, level)], units, replicates, seed)[0],
        kappa(counts.tolist(), "quadratic") if level == "ordinal" else nothing(n),
        float(np.isin(left, positive).mean()) if boolean else math.nan,
        float(np.isin(right, positive).mean()) if boolean else math.nan,
    )


MEASURES = {
    "agreement": "observed",
    "kappa": "kappa",
    "pabak": "pabak",
    "ac1": "ac1",
    "alpha": "alpha",
    "weighted": "weighted",
}
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
