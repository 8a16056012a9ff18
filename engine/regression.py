"""Least squares and logit on matrices that come a block at a time, with errors clustered by prompt.

Nothing here grows with the number of rows but a few vectors: the normal equations are summed over blocks, which is
exact, and a logit starts from a fit to a part of the rows and then takes full Newton steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.design import Array, Rows

WARM_ROWS = 200_000  # a logit on more rows starts from the fit to about this many


@dataclass(frozen=True)
class Moments:
    """Sums over all rows: cross (k, k) X'X, xy (k, m) X'Y, yy (m) Y'Y, sums (k) of X, y_sums (m); counts of rows in
    which a column is not 0 (varying) and is 1 (ones)."""

    cross: Array
    xy: Array
    yy: Array
    sums: Array
    y_sums: Array
    varying: NDArray[np.int64]
    ones: NDArray[np.int64]


def moments(rows: Rows, y: Array) -> Moments:
    """One pass over the rows. `y` is (n, m): m outcomes on the same regressors."""
    k, m = len(rows.names), y.shape[1]
    cross, xy, yy, sums, y_sums = np.zeros((k, k)), np.zeros((k, m)), np.zeros(m), np.zeros(k), np.zeros(m)
    varying, ones = np.zeros(k, dtype=np.int64), np.zeros(k, dtype=np.int64)
    for start, stop in rows.spans():
        x, part = rows.block(start, stop), y[start:stop]
        cross += x.T @ x
        xy += x.T @ part
        yy += (part * part).sum(axis=0)
        sums += x.sum(axis=0)
        y_sums += part.sum(axis=0)
        varying += np.count_nonzero(x, axis=0)
        ones += (x == 1).sum(axis=0)
    return Moments(cross, xy, yy, sums, y_sums, varying, ones)


def _cluster_sums(scores: Array, rows: Rows, start: int, stop: int) -> tuple[Array, int]:
    if rows.clusters is None:
        return scores, len(scores)
    codes = rows.clusters[start:stop]
    first = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    return (scores if len(first) == len(codes) else np.add.reduceat(scores, first, axis=0)), len(first)


def small_sample(groups: int, n: int, k: int) -> float:
    """The CR1 factor G/(G-1) * (N-1)/(N-K)."""
    return groups / (groups - 1) * (n - 1) / (n - k) if groups > 1 and n > k else math.nan


@dataclass(frozen=True)
class Fit:
    """Coefficients (k) of one outcome with their covariance (k, k). `residual` is the sum of squared residuals."""

    beta: Array
    covariance: Array
    n: int
    clusters: int
    degrees: float
    residual: float


def least_squares(rows: Rows, y: Array, sums: Moments, clustered: bool = True) -> list[Fit]:
    """Ordinary least squares of each column of y (n, m), from `moments(rows, y)`.

    Clustered: CR1 over `rows.clusters` (each row its own cluster where None, which is HC1), t with G - 1 degrees of
    freedom. Otherwise classical errors with N - K degrees. Raises LinAlgError for a singular design.
    """
    rows = rows.held()
    inverse = np.linalg.inv(sums.cross)
    betas = np.linalg.solve(sums.cross, sums.xy)
    n, k = rows.n, len(rows.names)
    residual = np.zeros(y.shape[1])
    meat = np.zeros((y.shape[1], k, k))
    groups = 0
    for start, stop in rows.spans():
        x = rows.block(start, stop)
        errors = y[start:stop] - x @ betas
        residual += (errors * errors).sum(axis=0)
        if clustered:
            for j in range(y.shape[1]):
                summed, count = _cluster_sums(x * errors[:, j : j + 1], rows, start, stop)
                meat[j] += summed.T @ summed
            groups += count
    found = []
    for j in range(y.shape[1]):
        if clustered:
            covariance, degrees = small_sample(groups, n, k) * inverse @ meat[j] @ inverse, float(groups - 1)
        else:
            covariance, degrees = residual[j] / (n - k) * inverse, float(n - k)
        found.append(Fit(betas[:, j], covariance, n, groups if clustered else n, degrees, float(residual[j])))
    return found


@dataclass(frozen=True)
class Logit:
    """A logistic regression. `effects`: average marginal effects dP/dx over all rows, with their covariance.

    `positive` is the number of ones in y, `separated` whether Newton ran away (estimates are then meaningless).
    """

    beta: Array
    covariance: Array
    effects: Array
    effects_covariance: Array
    n: int
    clusters: int
    positive: int
    log_likelihood: float
    separated: bool


def _newton(rows: Rows, y: Array, beta: Array, spans: Sequence[tuple[int, int]], steps: int) -> tuple[Array, bool]:
    best = -math.inf
    step = np.zeros_like(beta)
    for _ in range(steps):
        gradient, hessian, likelihood = np.zeros_like(beta), np.zeros((len(beta), len(beta))), 0.0
        for start, stop in spans:
            x, part = rows.block(start, stop), y[start:stop]
            z = x @ beta
            likelihood -= float(np.logaddexp(0, np.where(part > 0, -z, z)).sum())
            p = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
            gradient += x.T @ (part - p)
            weight = np.sqrt(p * (1 - p))[:, None]
            weighted = x * weight
            hessian += weighted.T @ weighted
        if likelihood < best - 1e-9 * abs(best):  # overshot: go half the way back
            step /= 2
            beta = beta - step
            continue
        best = likelihood
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            return beta, True
        beta = beta + step
        decrement = float(gradient @ step)
        if decrement < 1e-10 * max(1.0, rows.n):  # the error left after this step is its square
            return beta, bool(np.abs(beta).max(initial=0) > 30)
    return beta, True


def logit(rows: Rows, y: Array, clustered: bool = True) -> Logit:
    """Maximum likelihood logit of y (n zeros and ones) on the rows (add an intercept yourself).

    Errors: sandwich over `rows.clusters` with the CR1 factor as statsmodels' cov_type="cluster", or the inverse
    information. Marginal effects are averages over rows of p(1-p) beta, errors by the delta method, as statsmodels'
    get_margeff(at="overall", method="dydx").
    """
    rows = rows.held()
    spans = list(rows.spans())
    beta, k = np.zeros(len(rows.names)), len(rows.names)
    if rows.n > 2 * WARM_ROWS:
        some = spans[:: max(1, len(spans) * (spans[0][1] - spans[0][0]) // WARM_ROWS)]
        warm, ran_away = _newton(rows, y, beta, some, 25)
        beta = beta if ran_away else warm
    beta, separated = _newton(rows, y, beta, spans, 60)
    hessian, meat, groups, likelihood = np.zeros((k, k)), np.zeros((k, k)), 0, 0.0
    weight_sum, tilt = 0.0, np.zeros(k)
    for start, stop in spans:
        x, part = rows.block(start, stop), y[start:stop]
        z = x @ beta
        likelihood -= float(np.logaddexp(0, np.where(part > 0, -z, z)).sum())
        p = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
        weight = p * (1 - p)
        hessian += (x * weight[:, None]).T @ x
        weight_sum += float(weight.sum())
        tilt += x.T @ (weight * (1 - 2 * p))
        summed, count = _cluster_sums(x * (part - p)[:, None], rows, start, stop)
        groups += count
        if clustered:
            meat += summed.T @ summed
    inverse = np.linalg.pinv(hessian)
    covariance = small_sample(groups, rows.n, k) * inverse @ meat @ inverse if clustered else inverse
    mean_weight = weight_sum / rows.n
    jacobian = mean_weight * np.eye(k) + np.outer(beta, tilt / rows.n)
    return Logit(
        beta, covariance, mean_weight * beta, jacobian @ covariance @ jacobian.T, rows.n, groups, int(y.sum()),
        likelihood, separated,
    )  # fmt: skip


def sign_logits(rows: Rows) -> tuple[Array, Array]:
    """For every column by itself the logit of ones on it without intercept: log-odds (k) and standard errors (k).

    For columns of -1, 0 and 1 that has a closed form, in one pass: the log of how often 1 over how often -1, with the
    sandwich over clusters that `logit` computes. NaN for a column with other values, or with only one of the signs.
    """
    rows = rows.held()
    k = len(rows.names)
    squares, products, groups = np.zeros(2 * k), np.zeros(k), 0
    counts, plain = np.zeros(2 * k), np.ones(k, dtype=bool)
    for start, stop in rows.spans():
        x = rows.block(start, stop)
        signs = np.hstack([x == 1, x == -1]).astype(float)
        plain &= ((x == 0) | (np.abs(x) == 1)).all(axis=0)
        summed, count = _cluster_sums(signs, rows, start, stop)
        groups += count
        counts += signs.sum(axis=0)
        squares += (summed**2).sum(axis=0)
        products += (summed[:, :k] * summed[:, k:]).sum(axis=0)
    more, less = counts[:k], counts[k:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = more / (more + less)
        meat = (1 - share) ** 2 * squares[:k] - 2 * share * (1 - share) * products + share**2 * squares[k:]
        variance = small_sample(groups, rows.n, 1) * meat / ((more + less) * share * (1 - share)) ** 2
        beta = np.log(more / less)
    known = plain & (more > 0) & (less > 0)
    return np.where(known, beta, np.nan), np.sqrt(np.where(known, variance, np.nan))


def bootstrap(rows: Rows, y: Array, replicates: int, seed: int) -> Array:
    """Least-squares coefficients (replicates, k) under resampled clusters: each gets a Poisson(1) weight."""
    rows = rows.held()
    rng = np.random.default_rng(seed)
    codes = rows.clusters if rows.clusters is not None else np.arange(rows.n)
    groups, k = int(codes[-1]) + 1, len(rows.names)
    found = np.empty((replicates, k))
    for b in range(replicates):
        weights = rng.poisson(1.0, groups).astype(float)
        cross, xy = np.zeros((k, k)), np.zeros(k)
        for start, stop in rows.spans():
            x = rows.block(start, stop)
            weighted = x * weights[codes[start:stop], None]
            cross += weighted.T @ x
            xy += weighted.T @ y[start:stop]
        found[b] = np.linalg.lstsq(cross, xy, rcond=None)[0]
    return found
