"""Ridge-penalised logistic regression for small, wide data: fitting, grouped cross-validation, decisions, intervals.

Everything works on rows of `engine.head_inputs`, which have more columns than there are rows. A ridge fit's weights lie
in the span of the rows, so it is found from the rows' products with each other alone, by Newton's method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from engine.decisions import Output, log_loss, sigmoid

STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2)  # inverse penalty, as C elsewhere: larger trusts the data more
FOLDS = 5
BIAS_VARIANCE = 100.0


@dataclass(frozen=True)
class Fitted:
    """One output, ready to be stored: weights on scaled rows, bias, threshold, and how it came about."""

    output: Output
    weight: np.ndarray
    bias: float
    threshold: float
    note: dict[str, Any]


def products(rows: np.ndarray) -> np.ndarray:
    """Products of all rows with each other, float64."""
    wide = rows.astype(np.float64)
    return wide @ wide.T


def fit_binary(
    gram: np.ndarray, truth: np.ndarray, strength: np.ndarray | float, intercept: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge logistic regressions of several targets from the products of all rows with each other.

    `gram` is rows @ rows.T, `truth` (rows, targets) of 0 and 1, `strength` one number or one a target. Each target
    minimises the sum of its losses + |weights|^2 / (2 strength). Returns shares (rows, targets) and biases (targets,):
    weights are rows.T @ shares, logits of other rows their products with these rows @ shares + bias. The bias has a
    penalty too, so weak (BIAS_VARIANCE) that it hardly counts; without `intercept` it is 0.

    Newton's method in the numerically stable form of Rasmussen and Williams 2006, algorithm 3.1.
    """
    strengths = np.broadcast_to(np.asarray(strength, np.float64), truth.shape[1:])
    constant = BIAS_VARIANCE if intercept else 0.0
    shares, biases = np.zeros(truth.shape), np.zeros(truth.shape[1])
    ones = np.eye(len(gram), dtype=np.float32)
    for k, target in enumerate(truth.T):
        kernel = (strengths[k] * gram + constant).astype(np.float32)  # twice as fast, and exact enough: see the tests
        mean = np.clip(target.mean(), 1e-3, 1 - 1e-3)
        logits = np.full(len(target), np.log(mean / (1 - mean)) if intercept else 0.0, np.float32)
        dual, last = np.zeros(len(target), np.float32), np.inf
        for _ in range(30):
            chance = sigmoid(logits).astype(np.float32)
            root = np.sqrt(chance * (1 - chance))
            aim = root**2 * logits + target.astype(np.float32) - chance
            factor = cho_factor(ones + root[:, None] * kernel * root, lower=True, check_finite=False, overwrite_a=True)
            step = aim - root * cho_solve(factor, root * (kernel @ aim), check_finite=False) - dual
            for _ in range(8):  # a step too far is halved
                logits = kernel @ (dual + step)
                loss = float(np.logaddexp(0, logits).sum() - target @ logits + (dual + step) @ logits / 2)
                if loss <= last:
                    break
                step /= 2
            dual = dual + step
            if last - loss < 1e-4 * (1 + abs(loss)):
                break
            last = loss
        shares[:, k], biases[k] = strengths[k] * dual, constant * dual.sum()
    return shares, biases


def folds(groups: np.ndarray, seed: int, count: int = FOLDS) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, validation) row numbers of `count` folds that never separate a group; sizes as even as groups allow."""
    numbers = np.unique(groups)
    fold_of = dict(zip(np.random.default_rng(seed).permutation(numbers).tolist(), np.arange(len(numbers)) % count))
    assigned = np.array([fold_of[group] for group in groups.tolist()])
    return [(np.flatnonzero(assigned != k), np.flatnonzero(assigned == k)) for k in range(count)]


def cross_validate(
    gram: np.ndarray,
    truth: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    intercept: bool = True,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[np.ndarray, np.ndarray]:
    """For each binary target the strength with the least out-of-fold log-loss, and its out-of-fold logits.

    Rows past those that `splits` know are always trained on and never judged. Returns (targets,) and (judged, targets).
    """
    judged = sum(len(validation) for _, validation in splits)
    extra = np.arange(judged, len(gram))
    best = np.full(truth.shape[1], np.inf)
    chosen = np.zeros(truth.shape[1])
    kept = np.zeros((judged, truth.shape[1]))
    for strength in strengths:
        logits = np.zeros_like(kept)
        for train, validation in splits:
            used = np.concatenate([train, extra])
            shares, bias = fit_binary(gram[np.ix_(used, used)], truth[used], strength, intercept)
            logits[validation] = gram[np.ix_(validation, used)] @ shares + bias
        losses = np.array([log_loss(logits[:, k], truth[:judged, k]) for k in range(truth.shape[1])])
        better = losses < best
        best[better], chosen[better] = losses[better], strength
        kept[:, better] = logits[:, better]
    return chosen, kept


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
