"""Ridge-penalised logistic regression for small, wide data: fitting, grouped cross-validation, decisions, intervals.

Everything works on rows of `engine.head_inputs`. With fewer rows than columns a rotation onto the rows' own span
changes nothing in a ridge fit, so fits run in at most as many dimensions as there are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # inverse penalty, as C elsewhere: larger trusts the data more
FOLDS = 5


@dataclass(frozen=True)
class Rotation:
    """Rows in the basis of their own span, and the way back for weights."""

    rows: np.ndarray
    basis: np.ndarray

    def back(self, weights: np.ndarray) -> np.ndarray:
        """Weights on the original columns: (columns, outputs) for (dimensions, outputs)."""
        return self.basis @ weights


def rotate(rows: np.ndarray) -> Rotation:
    """Rotate rows (n, p), p > n, onto their span by an eigendecomposition of the Gram matrix."""
    wide = rows.astype(np.float64)
    values, vectors = np.linalg.eigh(wide @ wide.T)
    keep = values > values[-1] * 1e-10
    size = np.sqrt(values[keep])
    return Rotation(vectors[:, keep] * size, (wide.T @ vectors[:, keep]) / size)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def fit_binary(
    rows: np.ndarray, truth: np.ndarray, strength: float, offset: np.ndarray | None = None, intercept: bool = True
) -> tuple[np.ndarray, float]:
    """Weights (columns,) and bias of a logistic regression; minimises sum of losses + |weights|^2 / (2 strength).

    `offset` is added to every logit and not fitted. The bias is not penalised; without `intercept` it is 0.
    """
    start = np.zeros(rows.shape[1] + 1)
    if intercept:
        share = np.clip(truth.mean(), 1e-3, 1 - 1e-3)
        start[-1] = np.log(share / (1 - share))
    base = 0.0 if offset is None else offset

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        logits = rows @ x[:-1] + x[-1] + base
        wrong = sigmoid(logits) - truth
        value = float(np.logaddexp(0, logits).sum() - truth @ logits + x[:-1] @ x[:-1] / (2 * strength))
        gradient = np.append(rows.T @ wrong + x[:-1] / strength, wrong.sum() if intercept else 0.0)
        return value, gradient

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-9}).x
    return found[:-1], float(found[-1])


def fit_choice(rows: np.ndarray, truth: np.ndarray, classes: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (columns, classes) and biases of a softmax regression with the same penalty."""
    target = np.eye(classes)[truth.astype(int)]
    shape = (rows.shape[1] + 1, classes)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        weights = x.reshape(shape)
        logits = rows @ weights[:-1] + weights[-1]
        top = logits.max(1, keepdims=True)
        normaliser = top[:, 0] + np.log(np.exp(logits - top).sum(1))
        wrong = np.exp(logits - normaliser[:, None]) - target
        value = float(normaliser.sum() - (logits * target).sum() + (weights[:-1] ** 2).sum() / (2 * strength))
        return value, np.vstack([rows.T @ wrong + weights[:-1] / strength, wrong.sum(0)]).ravel()

    start = np.zeros(shape)
    start[-1] = np.log(target.mean(0) + 1e-3)
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-9}).x
    return found.reshape(shape)[:-1], found.reshape(shape)[-1]


def folds(groups: np.ndarray, seed: int, count: int = FOLDS) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, validation) row numbers of `count` folds that never separate a group; sizes as even as groups allow."""
    numbers = np.unique(groups)
    fold_of = dict(zip(np.random.default_rng(seed).permutation(numbers).tolist(), np.arange(len(numbers)) % count))
    assigned = np.array([fold_of[group] for group in groups.tolist()])
    return [(np.flatnonzero(assigned != k), np.flatnonzero(assigned == k)) for k in range(count)]


def log_loss(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean loss of binary logits (n,), or of class logits (n, classes)."""
    if logits.ndim == 1:
        return float((np.logaddexp(0, logits) - truth * logits).mean())
    picked = _softmax(logits)[np.arange(len(truth)), truth.astype(int)]
    return float(-np.log(np.maximum(picked, 1e-12)).mean())


def cross_validate(
    fit: Callable[[np.ndarray, float], Callable[[np.ndarray], np.ndarray]],
    truth: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[float, np.ndarray]:
    """The strength with the least out-of-fold log-loss, and the out-of-fold logits it gave.

    `fit(train rows, strength)` returns a function from row numbers to logits.
    """
    best: tuple[float, float, np.ndarray] | None = None
    for strength in strengths:
        logits: np.ndarray | None = None
        for train, validation in splits:
            found = fit(train, strength)(validation)
            if logits is None:
                logits = np.zeros((len(truth), *found.shape[1:]))
            logits[validation] = found
        assert logits is not None
        loss = log_loss(logits, truth)
        if best is None or loss < best[0]:
            best = (loss, strength, logits)
    assert best is not None
    return best[1], best[2]


def calibration(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Scale and shift (Platt) that bring out-of-fold binary logits closest to the truth.

    Drawn towards no change, so that a few cases do not swing it.
    """

    def loss(x: np.ndarray) -> float:
        return len(truth) * log_loss(x[0] * logits + x[1], truth) + 4 * np.log(max(x[0], 1e-3)) ** 2 + x[1] ** 2

    scale, shift = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return float(np.clip(scale, 0.25, 4)), float(shift)


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """One factor on class logits, or on margins, that brings them closest to the truth out of fold."""
    scales = np.geomspace(0.25, 4, 81)
    return float(scales[int(np.argmin([log_loss(scale * logits, truth) for scale in scales]))])


def share_threshold(logits: np.ndarray, truth: np.ndarray) -> float:
    """The logit above which as many out-of-fold cases lie as are true.

    At that point precision equals recall, so prevalence is not distorted and F1 is near its best, without the
    variance of searching for the best F1 among few cases.
    """
    ordered = np.sort(logits)[::-1]
    count = int(truth.sum())
    if not 0 < count < len(ordered):
        return 0.0
    return float((ordered[count - 1] + ordered[count]) / 2)


def share_biases(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Additions to class logits under which out-of-fold decisions have the classes' true shares (about)."""
    classes = logits.shape[1]
    wanted = np.bincount(truth.astype(int), minlength=classes) / len(truth)
    bias = np.zeros(classes)
    best, least = bias.copy(), np.inf
    for step in range(400):
        got = np.bincount((logits + bias).argmax(1), minlength=classes) / len(truth)
        gap = np.abs(got - wanted).sum()
        if gap < least:
            best, least = bias.copy(), gap
        bias += 2.0 / (1 + step / 20) * (wanted - got)
    return best - best.mean()


def class_f1(truth: np.ndarray, decided: np.ndarray, classes: Sequence[float]) -> np.ndarray:
    """F1 of each class; nan for a class that neither the truth nor the decisions have."""
    found = []
    for one in classes:
        hits = float(((truth == one) & (decided == one)).sum())
        total = float((truth == one).sum() + (decided == one).sum())
        found.append(2 * hits / total if total else np.nan)
    return np.array(found)


def macro_f1(truth: np.ndarray, decided: np.ndarray, classes: Sequence[float]) -> float:
    """Mean F1 over the classes that occur in the truth."""
    scores = class_f1(truth, decided, classes)
    there = [bool((truth == one).any()) for one in classes]
    return float(scores[there].mean())


def group_bootstrap(
    groups: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int, draws: int = 1000
) -> tuple[float, float]:
    """95% percentile interval of a statistic of row numbers, drawing whole groups with replacement."""
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        drawn = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        value = statistic(drawn)
        if not np.isnan(value):
            found.append(value)
    if not found:
        return float("nan"), float("nan")
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error with bins of equal width (Guo et al. 2017)."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(probability[place == k].mean() - truth[place == k].mean()) * (place == k).mean()
        for k in range(bins)
        if (place == k).any()
    ]
    return float(sum(gaps))


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two readings; nan where both always say the same single thing."""
    agreed = float((one == other).mean())
    values = np.union1d(one, other)
    chance = float(sum((one == v).mean() * (other == v).mean() for v in values))
    return (agreed - chance) / (1 - chance) if chance < 1 else float("nan")
