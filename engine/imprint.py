"""Feature imprint: what a reward model rewards (SEAL, arXiv 2408.10270, Eq 1 and Eq 2).

Eq 1 regresses rewards on features with an effect for every prompt. With two entries a pair that is ordinary least
squares on within-pair differences without an intercept (an intercept would be the effect of being the chosen side):

    reward(chosen) - reward(rejected) = sum_f beta_f * (f(chosen) - f(rejected)) + e,   errors clustered by prompt

SEAL's own code pooled all entries, left row_id in as a number and did not cluster; `pooled` repeats that, under that
name. Eq 2 regresses how far two models differ on a pair: here the difference of their standardised margins, which by
linearity is the difference of their imprints (`difference`), and SEAL's angle on both sides' features (`joint`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from engine.design import Array, Rows
from engine.intervals import MINIMUM_N, correct
from engine.regression import Fit, Moments, bootstrap, least_squares, moments

VIF_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One feature's effect with its 95% interval. `n` counts the pairs (or entries) in which the feature varies; with
    an intercept, those on the rarer side of a boolean.

    Under MINIMUM_N of them sandwich errors are too small to be believed: p_adjusted is then NaN, no verdict.
    """

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
    covariance: Array
    n: int
    clusters: int
    r_squared: float
    scale: float
    dropped: dict[str, str]

    def table(self) -> pd.DataFrame:
        """A tidy table, a row a feature."""
        columns = list(Coefficient.__slots__)
        return pd.DataFrame([{name: getattr(c, name) for name in columns} for c in self.coefficients], columns=columns)


def vifs(cross: Array) -> Array:
    """Variance inflation factors 1 / (1 - R2) of each column on the others, from a cross-product matrix.

    The matrix is centred, or without intercept; R2 is meant accordingly. A copy of another column gives infinity.
    """
    scaled = cross / np.sqrt(np.outer(np.diag(cross), np.diag(cross)))
    if len(scaled) > 1 and np.linalg.eigvalsh(scaled)[0] > 1e-8:
        return np.asarray(np.diag(np.linalg.inv(scaled)))  # the textbook identity, where no column is a copy
    found = np.ones(len(scaled))
    for i in range(len(scaled)):
        rest = [j for j in range(len(scaled)) if j != i]
        if rest:
            b = scaled[rest, i]
            r_squared = float(b @ np.linalg.lstsq(scaled[np.ix_(rest, rest)], b, rcond=None)[0])
            found[i] = 1 / (1 - r_squared) if r_squared < 1 - 1e-12 else math.inf
    return found


def usable(cross: Array, names: Sequence[str], limit: float = VIF_LIMIT) -> tuple[list[int], dict[str, str]]:
    """Which columns to keep: constant ones go first, then the one with the highest VIF while any exceeds `limit`.

    Without a limit (infinity) only exact copies go.
    """
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
        if found[worst] <= min(limit, 1e9):
            break
        dropped[names[keep[worst]]] = f"VIF {found[worst]:.1f} above {limit:g}"
        del keep[worst]
    return keep, dropped


def _chosen_moments(sums: Moments, keep: list[int], intercept: bool, n: int) -> Moments:
    """The moments of the kept columns, with a first column of ones where wanted."""
    cross, xy = sums.cross[np.ix_(keep, keep)], sums.xy[keep]
    if intercept:
        edge = sums.sums[keep]
        cross = np.block([[np.array([[float(n)]]), edge[None, :]], [edge[:, None], cross]])
        xy = np.vstack([sums.y_sums[None, :], xy])
    return Moments(cross, xy, sums.yy, sums.sums[keep], sums.y_sums, sums.varying[keep], sums.ones[keep])


def _imprint(
    mode: str, fit: Fit, names: Sequence[str], inflation: Array, varying: Sequence[int], total: float, scale: float,
    correction: str, intercept: bool, dropped: dict[str, str],
) -> Imprint:  # fmt: skip
    beta, covariance = fit.beta / scale, fit.covariance / scale**2
    errors = np.sqrt(np.maximum(np.diag(covariance), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(beta / errors), fit.degrees)
    half = stats.t.ppf(0.975, fit.degrees) * errors
    first = 1 if intercept else 0
    if correction == "bonferroni":  # the authors' way: the intercept counts among the tests
        adjusted = correct([float(one) for one in p], correction)
    else:
        enough = [float(one) if k >= MINIMUM_N else math.nan for one, k in zip(p[first:], varying)]
        adjusted = [math.nan] * first + correct(enough, correction)
    found = tuple(
        Coefficient(name, float(b), float(e), float(b - h), float(b + h), float(q), a, float(v), int(k))
        for name, b, e, h, q, a, v, k in zip(
            names, beta[first:], errors[first:], half[first:], p[first:], adjusted[first:], inflation, varying
        )
    )
    r_squared = 1 - fit.residual / total if total > 0 else math.nan
    return Imprint(
        mode, found, covariance[first:, first:], fit.n, fit.clusters, r_squared, scale, dropped
    )  # fmt: skip


def estimate(
    rows: Rows, y: Array, mode: str, scales: Sequence[float], clustered: bool, intercept: bool, correction: str,
    limit: float,
) -> list[Imprint]:  # fmt: skip
    """Least squares of every column of y (n, m) on the rows, with VIF selection: one Imprint an outcome.

    Estimates of outcome j are divided by scales[j]. Empty coefficients where there are too few rows to fit.
    """
    sums = moments(rows, y)
    centred = sums.cross - np.outer(sums.sums, sums.sums) / max(rows.n, 1) if intercept else sums.cross
    keep, dropped = usable(centred, rows.names, limit)
    if not keep or rows.n <= len(keep) + 2:
        empty = np.zeros((0, 0))
        return [Imprint(mode, (), empty, rows.n, 0, math.nan, scale, dropped) for scale in scales]
    kept = rows.keep(keep)
    fits = least_squares(
        kept.with_intercept() if intercept else kept, y, _chosen_moments(sums, keep, intercept, rows.n), clustered
    )
    totals = sums.yy - sums.y_sums**2 / rows.n if intercept else sums.yy
    inflation = vifs(centred[np.ix_(keep, keep)])
    varying = sums.varying[keep]
    if intercept:  # a boolean that is nearly always 1 varies as little as one that is nearly always 0
        varying = np.where(sums.ones[keep] == varying, np.minimum(varying, rows.n - varying), varying)
    return [
        _imprint(mode, fit, kept.names, inflation, varying.tolist(), float(total), scale, correction,
                 intercept, dropped)
        for fit, total, scale in zip(fits, totals, scales)
    ]  # fmt: skip


def within(rows: Rows, y: Array, scale: float = 1.0, correction: str = "holm", limit: float = VIF_LIMIT) -> Imprint:
    """Eq 1 with a real pair effect: rows are within-pair differences, y (n) margins; no intercept.

    Errors: cluster-robust CR1 over `rows.clusters` (prompts), factor G/(G-1) * (N-1)/(N-K); p and intervals use
    Student's t with G - 1 degrees of freedom. Estimates are divided by `scale`.
    """
    return estimate(rows, y[:, None], "within", [scale], True, False, correction, limit)[0]


def pooled(
    rows: Rows, y: Array, scale: float = 1.0, correction: str = "bonferroni", limit: float = math.inf
) -> Imprint:
    """What SEAL's authors ran for Eq 1: pooled least squares of raw rewards y (2n) over all entries, with an intercept
    and classical errors: no prompt effect, no clustering.

    Their row_id covariate is left out: it is an accident of file order.
    """
    return estimate(rows, y[:, None], "pooled", [scale], False, True, correction, limit)[0]


def joint(rows: Rows, y: Array, correction: str = "holm", authors: bool = False) -> list[Imprint]:
    """Eq 2 as SEAL has it: an outcome of the pair on chosen and rejected features with an intercept, y (n, m).

    Errors clustered by prompt; `authors`: classical errors and Bonferroni over all coefficients, as they ran it.
    """
    scales = [1.0] * y.shape[1]
    if authors:
        return estimate(rows, y, "authors", scales, False, True, "bonferroni", math.inf)
    return estimate(rows, y, "joint", scales, True, True, correction, VIF_LIMIT)


def difference(one: Imprint, other: Imprint, both: Imprint, correction: str = "holm") -> pd.DataFrame:
    """Difference of two models' imprints per feature (one minus other), with the interval of `both`.

    `both` is the imprint of the difference of the two standardised margins on the same pairs: by linearity its
    coefficients are the differences, and its clustered errors account for the shared texts. Columns: feature, one,
    other, estimate, std_error, conf_low, conf_high, p_value, p_adjusted, n.
    """
    first = {c.feature: c.estimate for c in one.coefficients}
    second = {c.feature: c.estimate for c in other.coefficients}
    adjusted = correct([c.p_value for c in both.coefficients], correction)
    columns = [
        "feature",
        "one",
        "other",
        "estimate",
        "std_error",
        "conf_low",
        "conf_high",
        "p_value",
        "p_adjusted",
        "n",
    ]
    return pd.DataFrame(
        [
            {"feature": c.feature, "one": first.get(c.feature, math.nan), "other": second.get(c.feature, math.nan),
             "estimate": c.estimate, "std_error": c.std_error, "conf_low": c.conf_low, "conf_high": c.conf_high,
             "p_value": c.p_value, "p_adjusted": p, "n": c.n}
            for c, p in zip(both.coefficients, adjusted)
        ],
        columns=columns,
    )  # fmt: skip


def bootstrapped(found: Imprint, rows: Rows, y: Array, replicates: int = 400, seed: int = 0) -> pd.DataFrame:
    """Percentile intervals from a cluster bootstrap beside the analytic ones: a check, on request.

    Columns: feature, estimate, conf_low, conf_high (analytic), boot_low, boot_high. `rows`, `y` as they were fitted.
    """
    names = [c.feature for c in found.coefficients]
    drawn = bootstrap(rows.keep([rows.names.index(name) for name in names]), y, replicates, seed) / found.scale
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    table = found.table()[["feature", "estimate", "conf_low", "conf_high"]]
    return table.assign(boot_low=low, boot_high=high)
