"""Feature imprint: what a reward model rewards (SEAL, arXiv 2408.10270, Eq 1 and Eq 2).

Eq 1 regresses rewards on features with an effect for every prompt. With two entries a pair that is ordinary least
squares on within-pair differences without an intercept:

    reward(chosen) - reward(rejected) = sum_f beta_f * (f(chosen) - f(rejected)) + e,   errors clustered by prompt

(an intercept, where wanted, is the effect of being the chosen side). SEAL's own code pooled all entries, left row_id in
as a number and did not cluster; `pooled` repeats that, under that name.

Everything here works on compressed patterns: rows of identical features with their weight, sum and sum of squares of
the outcome. That is exact for coefficients and heteroskedasticity-robust errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from engine.intervals import correct

VIF_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One feature's effect with its 95% interval. `n` counts the pairs (or entries) in which the feature varies."""

    feature: str
    estimate: float
    std_error: float
    conf_low: float
    conf_high: float
    p_value: float
    p_adjusted: float
    vif: float
    n: int


@dataclass(frozen=True)
class Imprint:
    """A fitted imprint. `scale` is what estimates were divided by (the margin's SD, or 1 in raw units).

    `dropped` maps a left-out feature to the reason. `covariance` is in the order of `coefficients`, in their units.
    """

    mode: str
    coefficients: tuple[Coefficient, ...]
    covariance: np.ndarray
    n: int
    clusters: int
    r_squared: float
    scale: float
    dropped: dict[str, str]

    def table(self) -> pd.DataFrame:
        """A tidy table, a row a feature."""
        return pd.DataFrame([{name: getattr(c, name) for name in Coefficient.__slots__} for c in self.coefficients])


def vifs(cross: np.ndarray) -> np.ndarray:
    """Variance inflation factors 1 / (1 - R2) of each column on the others, from a cross-product matrix.

    The matrix is centred, or without intercept; R2 is meant accordingly. A copy of another column gives infinity.
    """
    scaled = cross / np.sqrt(np.outer(np.diag(cross), np.diag(cross)))
    found = np.ones(len(scaled))
    for i in range(len(scaled)):
        rest = [j for j in range(len(scaled)) if j != i]
        if rest:
            b = scaled[rest, i]
            r_squared = float(b @ np.linalg.lstsq(scaled[np.ix_(rest, rest)], b, rcond=None)[0])
            found[i] = 1 / (1 - r_squared) if r_squared < 1 - 1e-12 else math.inf
    return found


def usable(cross: np.ndarray, names: Sequence[str], limit: float = VIF_LIMIT) -> tuple[list[int], dict[str, str]]:
    """Which columns to keep: constant ones go first, then the one with the highest VIF while any exceeds `limit`."""
    dropped: dict[str, str] = {}
    keep = []
    for i, name in enumerate(names):
        if cross[i, i] <= 1e-12 * max(1.0, float(np.diag(cross).max(initial=0.0))):
            dropped[name] = "does not vary"
        else:
            keep.append(i)
    while len(keep) > 1:
        found = vifs(cross[np.ix_(keep, keep)])
        worst = int(np.argmax(found))
        if found[worst] <= limit:
            break
        dropped[names[keep[worst]]] = f"VIF {found[worst]:.1f} above {limit:g}"
        del keep[worst]
    return keep, dropped


@dataclass(frozen=True)
class Patterns:
    """Compressed data: `x` (rows, k) feature differences, with weight n, sum and sum of squares of y per row.

    `clusters` optionally gives each row's cluster; then a row belongs to one cluster only.
    """

    names: tuple[str, ...]
    x: np.ndarray
    n: np.ndarray
    sum_y: np.ndarray
    sum_yy: np.ndarray
    clusters: np.ndarray | None = None


def _tables(
    names: Sequence[str], beta: np.ndarray, covariance: np.ndarray, inflation: np.ndarray, varying: np.ndarray,
    degrees: float, scale: float, correction: str,
) -> tuple[tuple[Coefficient, ...], np.ndarray]:  # fmt: skip
    beta, covariance = beta / scale, covariance / scale**2
    errors = np.sqrt(np.maximum(np.diag(covariance), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(beta / errors), degrees)
    half = stats.t.ppf(0.975, degrees) * errors
    adjusted = correct([float(one) for one in p], correction)
    found = tuple(
        Coefficient(name, float(b), float(e), float(b - h), float(b + h), float(q), a, float(v), int(k))
        for name, b, e, h, q, a, v, k in zip(names, beta, errors, half, p, adjusted, inflation, varying)
    )
    return found, covariance


def within(patterns: Patterns, scale: float = 1.0, correction: str = "holm", limit: float = VIF_LIMIT) -> Imprint:
    """Eq 1 with a real pair effect: least squares on within-pair differences, no intercept.

    Errors: cluster-robust CR1 over `patterns.clusters` (prompt), factor G/(G-1) * (N-1)/(N-K) as pyfixest's ssc with
    differences; pairs are their own clusters where none are given (then HC1-like with G = N). p and intervals use
    Student's t with G - 1 degrees of freedom. Estimates are divided by `scale`.
    """
    weights = patterns.n.astype(float)
    cross = (patterns.x * weights[:, None]).T @ patterns.x
    keep, dropped = usable(cross, patterns.names, limit)
    x = patterns.x[:, keep]
    total = int(patterns.n.sum())
    if not keep or total <= len(keep) + 1:
        return Imprint("within", (), np.zeros((0, 0)), total, 0, math.nan, scale, dropped)
    a = cross[np.ix_(keep, keep)]
    inverse = np.linalg.inv(a)
    beta = inverse @ (x.T @ patterns.sum_y)
    fitted = x @ beta
    residual_squares = patterns.sum_yy - 2 * fitted * patterns.sum_y + weights * fitted**2
    if patterns.clusters is None:
        meat = (x * residual_squares[:, None]).T @ x
        groups = total
    else:
        scores = x * (patterns.sum_y - weights * fitted)[:, None]
        _, codes = np.unique(patterns.clusters, return_inverse=True)
        groups = int(codes.max()) + 1
        summed = np.zeros((groups, len(keep)))
        np.add.at(summed, codes, scores)
        meat = summed.T @ summed
    factor = groups / (groups - 1) * (total - 1) / (total - len(keep))
    covariance = factor * inverse @ meat @ inverse
    names = [patterns.names[i] for i in keep]
    varying = ((x != 0) * weights[:, None]).sum(axis=0)
    coefficients, scaled = _tables(names, beta, covariance, vifs(a), varying, groups - 1, scale, correction)
    all_squares = float(patterns.sum_yy.sum())
    r_squared = 1 - float(residual_squares.sum()) / all_squares if all_squares else math.nan
    return Imprint("within", coefficients, scaled, total, groups, r_squared, scale, dropped)


def pooled(patterns: Patterns, scale: float = 1.0, correction: str = "holm", limit: float = math.inf) -> Imprint:
    """What SEAL's authors ran for Eq 1: pooled least squares of raw rewards over all entries, with an intercept and
    classical errors (reference: no prompt effect, no clustering). Patterns hold levels, not differences.

    Their row_id covariate is left out: it is an accident of file order.
    """
    weights = patterns.n.astype(float)
    total = int(patterns.n.sum())
    means = (patterns.x * weights[:, None]).sum(axis=0) / max(total, 1)
    centred = patterns.x - means
    cross = (centred * weights[:, None]).T @ centred
    keep, dropped = usable(cross, patterns.names, limit)
    if not keep or total <= len(keep) + 2:
        return Imprint("pooled", (), np.zeros((0, 0)), total, 0, math.nan, scale, dropped)
    x = centred[:, keep]
    a = cross[np.ix_(keep, keep)]
    mean_y = float(patterns.sum_y.sum()) / total
    sum_y = patterns.sum_y - weights * mean_y
    sum_yy = patterns.sum_yy - 2 * mean_y * patterns.sum_y + weights * mean_y**2
    beta = np.linalg.solve(a, x.T @ sum_y)
    fitted = x @ beta
    rest = float((sum_yy - 2 * fitted * sum_y + weights * fitted**2).sum())
    degrees = total - len(keep) - 1
    covariance = rest / degrees * np.linalg.inv(a)
    names = [patterns.names[i] for i in keep]
    varying = ((patterns.x[:, keep] != 0) * weights[:, None]).sum(axis=0)
    coefficients, scaled = _tables(names, beta, covariance, vifs(a), varying, degrees, scale, correction)
    return Imprint("pooled", coefficients, scaled, total, total, 1 - rest / float(sum_yy.sum()), scale, dropped)


def difference(one: Imprint, other: Imprint, both: Imprint, correction: str = "holm") -> pd.DataFrame:
    """Difference of two models' imprints per feature (one minus other), with the interval of `both`.

    `both` is the imprint of the difference of the two standardised margins on the same pairs: by linearity its
    coefficients are the differences, and its clustered errors account for the shared texts. Columns: feature, one,
    other, estimate, std_error, conf_low, conf_high, p_value, p_adjusted, n.
    """
    first = {c.feature: c.estimate for c in one.coefficients}
    second = {c.feature: c.estimate for c in other.coefficients}
    adjusted = correct([c.p_value for c in both.coefficients], correction)
    return pd.DataFrame(
        [
            {"feature": c.feature, "one": first.get(c.feature, math.nan), "other": second.get(c.feature, math.nan),
             "estimate": c.estimate, "std_error": c.std_error, "conf_low": c.conf_low, "conf_high": c.conf_high,
             "p_value": c.p_value, "p_adjusted": p, "n": c.n}
            for c, p in zip(both.coefficients, adjusted)
        ]
    )  # fmt: skip
