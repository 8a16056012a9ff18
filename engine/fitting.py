"""Ridge-penalised logistic regression for small, wide data: fitting, grouped cross-validation, decisions, intervals.

Everything works on rows of `engine.head_inputs`, which have more columns than there are rows. A ridge fit's weights lie
in the span of the rows, so it is found from the rows' products with each other alone, by Newton's method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.decisions import Output, sigmoid

STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2)  # inverse penalty, as C elsewhere: larger trusts the data more
FOLDS = 5
BIAS_VARIANCE = 100.0
TOLERANCE = 1e-5  # of a Newton step
MOST = 20.0  # the weight a rare value can get
RARE = 0.1  # frequency below which entries with a label are repeated


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


def _solve(apply: Callable[[np.ndarray], np.ndarray], root: np.ndarray, right: np.ndarray) -> np.ndarray:
    """x of (I + R K R) x = right for all targets at once, by conjugate gradients; `apply` multiplies by K."""
    found, rest = np.zeros_like(right), right.copy()
    direction, left = rest.copy(), (rest**2).sum(0)
    aim = left * TOLERANCE**2
    for _ in range(200):
        if (left <= aim).all():
            break
        moved = direction + root * apply(root * direction)
        size = left / np.maximum((direction * moved).sum(0), 1e-30)
        found += size * direction
        rest -= size * moved
        now = (rest**2).sum(0)
        direction = rest + now / np.maximum(left, 1e-30) * direction
        left = now
    return found


def fit_binary(
    gram: np.ndarray,
    truth: np.ndarray,
    strength: np.ndarray | float,
    intercept: bool = True,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge logistic regressions of several targets from the products of all rows with each other.

    `gram` is rows @ rows.T, `truth` (rows, targets) of 0 and 1, `strength` one number or one a target, `weights` (rows,
    targets) how much each case counts: 1, or 0 where the truth is NaN. Each target minimises the weighted sum of its
    losses + |its weights on columns|^2 / (2 strength). Returns shares (rows, targets) and biases (targets,): weights on
    columns are rows.T @ shares, logits of other rows their products with these rows @ shares + bias. The bias has a
    penalty too, so weak (BIAS_VARIANCE) that it hardly counts; without `intercept` it is 0.

    Newton's method in the numerically stable form of Rasmussen and Williams 2006, algorithm 3.1, its linear systems
    solved for all targets together by conjugate gradients. In single precision, which is exact enough: see the tests.
    """
    gram = gram.astype(np.float32)
    strengths = np.broadcast_to(np.asarray(strength, np.float32), truth.shape[1:])
    constant = np.float32(BIAS_VARIANCE if intercept else 0)
    known = np.isfinite(truth)
    counts = known.astype(np.float32) if weights is None else np.where(known, weights, 0).astype(np.float32)
    aims = np.where(known, truth, 0).astype(np.float32)

    def apply(vectors: np.ndarray) -> np.ndarray:
        return strengths * (gram @ vectors) + constant * vectors.sum(0)

    mean = np.clip((counts * aims).sum(0) / np.maximum(counts.sum(0), 1e-9), 1e-3, 1 - 1e-3)
    start = np.log(mean / (1 - mean)) if intercept else np.zeros_like(mean)
    logits = np.broadcast_to(start.astype(np.float32), aims.shape)
    dual, last = np.zeros_like(aims), np.full(aims.shape[1], 1e30)
    for _ in range(30):
        chance = sigmoid(logits).astype(np.float32)
        root = np.sqrt(counts * chance * (1 - chance))
        right = root**2 * logits + counts * (aims - chance)
        step = right - root * _solve(apply, root, root * apply(right)) - dual
        here, there, size = apply(dual), apply(step), np.ones_like(strengths)
        for _ in range(8):  # a step too far is halved
            logits, ahead = here + size * there, dual + size * step
            losses = counts * (np.logaddexp(0, logits) - aims * logits) + ahead * logits / 2
            loss = losses.sum(0, dtype=np.float64)
            fine = loss <= last + 1e-6 * np.abs(last)
            if fine.all():
                break
            size = np.where(fine, size, size / 2).astype(np.float32)
        dual = ahead
        if (last - loss < 1e-5 * (1 + np.abs(loss))).all():
            break
        last = loss
    return (strengths * dual).astype(np.float64), (constant * dual.sum(0)).astype(np.float64)


def balance(truth: np.ndarray) -> np.ndarray:
    """Weights under which both values of each target count the same (n / (2 n_value), at most MOST), NaN counting 0."""
    known = np.isfinite(truth)
    found = np.zeros(truth.shape)
    for value in (0.0, 1.0):
        hit = truth == value
        found += np.where(hit, np.minimum(known.sum(0) / np.maximum(2 * hit.sum(0), 1), MOST), 0.0)
    return found


def repeats(truth: np.ndarray) -> np.ndarray:
    """How often an entry is to be seen so that rare labels are not drowned, at least 1, (n,).

    Repeat factors of Gupta et al. 2019 (LVIS, section 5): the largest, over the entry's labels, of
    sqrt(RARE / frequency of the label).
    """
    hits = truth == 1
    frequency = hits.sum(0) / np.maximum(np.isfinite(truth).sum(0), 1)
    factor = np.sqrt(RARE / np.maximum(frequency, 1 / max(len(truth), 1)))
    return np.maximum(1.0, np.where(hits, factor, 0.0).max(1, initial=0.0))


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
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """For each binary target the strength with the least out-of-fold log-loss, and its out-of-fold logits.

    Rows past those that `splits` know are always trained on and never judged. `weights` as in `fit_binary`.
    Returns (targets,) and (judged, targets).
    """
    judged = sum(len(validation) for _, validation in splits)
    extra = np.arange(judged, len(gram))
    counts = np.isfinite(truth).astype(float) if weights is None else np.where(np.isfinite(truth), weights, 0.0)
    aims = np.where(np.isfinite(truth), truth, 0.0)[:judged]
    best = np.full(truth.shape[1], np.inf)
    chosen = np.full(truth.shape[1], strengths[0])
    kept = np.zeros((judged, truth.shape[1]))
    for strength in strengths:
        logits = np.zeros_like(kept)
        for train, validation in splits:
            used = np.concatenate([train, extra])
            shares, bias = fit_binary(gram[np.ix_(used, used)], truth[used], strength, intercept, counts[used])
            logits[validation] = gram[np.ix_(validation, used)] @ shares + bias
        losses = (counts[:judged] * (np.logaddexp(0, logits) - aims * logits)).sum(0)
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
