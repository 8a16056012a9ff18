"""Prevalence corrected for a labeler's errors, by what gold labels say of them. Counts in, frozen results out.

A labeler that finds a value in 20% of entries may be right about 10% and see things in another 10%. Two ways to say how
common the value really is:

`by_confusion` inverts the confusion matrix M[t, k] = P(labeler says k | truth is t): q = p M, so p = q M^-1 (Rogan and
Gladen 1978, Am. J. Epidemiol. 107:71, for two classes; its form for K classes is Buonaccorsi 2010, section 3.3). It
assumes that the labeler errs here as it did on the gold entries, class by class (label shift: prevalences may differ
between the two, errors given the truth may not), so that gold of another dataset serves. Gold drawn by what the labeler
said (only its positives, say) breaks this.

`by_prediction` adds to the labeler's mean how far gold and labeler differ where both exist (prediction-powered
inference, Angelopoulos et al. 2023, Science 382:669; PPI++, arXiv 2311.01453, chooses how much to lean on the labeler).
It assumes nothing about errors, but that the gold entries are a random sample of this very dataset.

Both take the gold labels for the truth. Intervals are checked by simulation in tests/test_prevalence.py: 93 to 97% of
500 draws cover, with 100 to 300 gold entries, 5% classes and seven classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from engine.design import Array
from engine.intervals import Estimate

DRAWS = 4000
TAIL = 0.025
NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True, slots=True)
class Corrected:
    """Corrected levels, one a functional asked for (a class's share, or a mean of class scores).

    `estimate` of a level is shown on the simplex, intervals are cut to the range of what they estimate. A gap is chosen
    minus rejected and is not cut. NaN where `reason` says why. `n` of an Estimate counts pairs; `gold` the entries (or
    pairs) with gold labels.
    """

    chosen: tuple[Estimate, ...]
    rejected: tuple[Estimate, ...]
    gap: tuple[Estimate, ...]
    gold: int
    reason: str = ""


def _nothing(functionals: int, gold: int, reason: str) -> Corrected:
    nan = (NOTHING,) * functionals
    return Corrected(nan, nan, nan, gold, reason)


def simplex(p: Array) -> Array:
    """The nearest point of the probability simplex (Duchi et al. 2008), row by row."""
    p = np.atleast_2d(p)
    ordered = -np.sort(-p, axis=1)
    excess = (np.cumsum(ordered, axis=1) - 1) / np.arange(1, p.shape[1] + 1)
    last = (ordered > excess).sum(axis=1)
    return np.maximum(p - excess[np.arange(len(p)), last - 1][:, None], 0)


def rows_of(confusion: Array) -> Array:
    """M[t, k] = P(says k | truth t) from counts; NaN rows for classes without gold."""
    with np.errstate(invalid="ignore"):
        return np.asarray(confusion / confusion.sum(axis=1, keepdims=True))


def delta(shares: Array, n: float, confusion: Array) -> tuple[Array, Array]:
    """p = q M^-1 with its delta-method covariance (K, K) from both multinomials.

    `shares` (K) of n entries, `confusion` (K, K) counts of gold entries [truth, said]. Good with a thousand gold
    entries; with a hundred its intervals are off by what `by_confusion` repairs. Raises LinAlgError for a singular M.
    """
    m = rows_of(confusion)
    inverse = np.linalg.inv(m)
    p = shares @ inverse
    middle = (np.diag(shares) - np.outer(shares, shares)) / n
    for t, row in enumerate(m):
        middle = middle + p[t] ** 2 * (np.diag(row) - np.outer(row, row)) / confusion[t].sum()
    return p, inverse.T @ middle @ inverse


def mass(classes: int) -> float:
    """Pseudo-counts of a row of the confusion matrix: 1 for two classes (Jeffreys' prior), less for many.

    Half a count in each of seven cells would drown the five gold entries of a rare class.
    """
    return min(1.0, 3 / classes)


def _dirichlet(rng: np.random.Generator, counts: Array, draws: int) -> Array:
    drawn = np.maximum(rng.standard_gamma(counts, (draws, *counts.shape)), 1e-300)
    return np.asarray(drawn / drawn.sum(axis=-1, keepdims=True))


def _drawn_rows(rng: np.random.Generator, confusion: Array, draws: int) -> Array:
    classes = len(confusion)
    return _dirichlet(rng, confusion + mass(classes) / classes, draws)


def _interval(draws: Array, point: float, n: int, low: float, high: float) -> Estimate:
    bounds = np.clip(np.quantile(draws, [TAIL, 1 - TAIL]), low, high)
    return Estimate(float(min(max(point, bounds[0]), bounds[1])), float(bounds[0]), float(bounds[1]), n)


def _unusable(confusion: Array, drawn: Array, names: tuple[str, ...]) -> str:
    """Why a confusion matrix cannot be inverted, or nothing."""
    gold = confusion.sum(axis=1)
    empty = np.flatnonzero(gold == 0)
    if len(empty):
        return f"no gold entry is {names[empty[0]]}, so how often the labeler misses it is unknown"
    if np.mean(np.linalg.det(drawn) <= 0) > TAIL:  # Fieller's condition: zero must be out of the divisor's interval
        rows = rows_of(confusion)
        edge = [rows[t, t] - np.delete(rows[:, t], t).max() for t in range(len(names))]
        worst = int(np.argmin(edge))
        return (
            f"the labeler says {names[worst]} hardly more often where it is true ({rows[worst, worst]:.0%} of "
            f"{int(gold[worst])} gold entries) than where it is not"
        )
    return ""


def by_confusion(
    said: Array,
    confusion: Array,
    names: tuple[str, ...],
    weights: Array | None = None,
    rejected_confusion: Array | None = None,
    effect: float = 1.0,
    seed: int = 0,
) -> Corrected:
    """Levels of classes (or of scores of classes) and their gap between the sides, corrected by confusion.

    `said`: (K, K) counts of pairs by what the labeler says of chosen (rows) and rejected, or (K) of single entries.
    `confusion`: (K, K) counts of gold entries [truth, said]; on both sides unless `rejected_confusion` is given.
    `weights` (S, K) are the functionals, one a class by default. `effect`: design effect of prompts with several pairs,
    by which pairs count less.

    Intervals are percentiles of q* M*^-1 over draws of q* and the rows of M* from Dirichlet distributions around their
    counts: the same M* on both sides of a pair, so that its error cancels from the gap as far as it does; skewed where
    the delta method's are symmetric. For two classes that is close to Lang and Reiczigel (2014, Prev. Vet. Med.
    113:13). A class that neither gold nor labeler ever gives is left out (NaN).
    """
    paired = said.ndim == 2
    gold = int(confusion.sum() + (0 if rejected_confusion is None else rejected_confusion.sum()))
    weights = np.eye(len(names)) if weights is None else np.asarray(weights, dtype=float)
    n = int(said.sum())
    if n == 0 or gold == 0:
        return _nothing(len(weights), gold, "nothing is labelled" if n == 0 else "there are no gold labels")
    margins = [said.sum(axis=1), said.sum(axis=0)] if paired else [said]
    tables = [confusion] if rejected_confusion is None else [confusion, rejected_confusion]
    seen = sum(margins) + sum(t.sum(axis=0) + t.sum(axis=1) for t in tables)
    keep = np.flatnonzero(seen)
    if len(keep) < 2:
        return _nothing(len(weights), gold, "only one class occurs")
    square = np.ix_(keep, keep)
    tables = [np.asarray(t[square], dtype=float) for t in tables]
    kept_names = tuple(names[i] for i in keep)
    rng = np.random.default_rng(seed)
    drawn = [_drawn_rows(rng, t, DRAWS) for t in tables]
    for table, rows in zip(tables, drawn):
        reason = _unusable(table, rows, kept_names)
        if reason:
            return _nothing(len(weights), gold, reason)
    counts = (said[square] if paired else said[keep]).astype(float) / max(effect, 1.0)
    flat = counts.ravel() + mass(len(keep)) / counts.size
    q = _dirichlet(rng, flat, DRAWS).reshape(DRAWS, *counts.shape)
    sides = [(q.sum(axis=2), counts.sum(axis=1)), (q.sum(axis=1), counts.sum(axis=0))] if paired else [(q, counts)]
    functional = weights[:, keep]
    drawn_p, points = [], []
    for i, (side, count) in enumerate(sides):
        rows, table = drawn[min(i, len(drawn) - 1)], tables[min(i, len(tables) - 1)]
        drawn_p.append(np.linalg.solve(np.swapaxes(rows, 1, 2), side[:, :, None])[:, :, 0] @ functional.T)
        points.append(np.linalg.lstsq(rows_of(table).T, count / count.sum(), rcond=None)[0])
    absent = [not np.any(row[keep]) and bool(np.any(row)) for row in weights]
    found = [
        tuple(
            NOTHING if absent[s] else _interval(p[:, s], float(shown[s]), n, *_range(weights[s]))
            for s in range(len(weights))
        )
        for p, shown in zip(drawn_p, (functional @ simplex(point)[0] for point in points))
    ]
    if not paired:
        nan = (NOTHING,) * len(weights)
        return Corrected(found[0], nan, nan, gold)
    gap = functional @ (points[0] - points[1])
    spans = [_range(row) for row in weights]
    gaps = tuple(
        NOTHING
        if absent[s]
        else _interval(drawn_p[0][:, s] - drawn_p[1][:, s], float(gap[s]), n, low - high, high - low)
        for s, (low, high) in enumerate(spans)
    )
    return Corrected(found[0], found[1], gaps, gold)


def _range(weights: Array) -> tuple[float, float]:
    return float(min(0.0, weights.min())), float(max(0.0, weights.max()))


@dataclass(frozen=True)
class Sums:
    """All that `by_prediction` needs of a dataset, for one quantity: sums over prompts (clusters).

    A prompt's vector is (gold n, gold truth, gold said, rest n, rest said): how many of its entries (or pairs) have
    gold labels, the sum of those labels, the sum of what the labeler says there, and the same for the others. `total`
    (5) and `cross` (5, 5) are the vectors' sum and sum of outer products; `prompts` counts those with gold.
    """

    total: Array
    cross: Array
    prompts: int

    @classmethod
    def of(cls, truth: Array, said: Array, clusters: Array) -> Sums:
        """From arrays: `truth` is NaN where there is no gold label, `clusters` holds codes 0, 1, ... of prompts."""
        gold = np.isfinite(truth)
        columns = [gold, np.where(gold, truth, 0), np.where(gold, said, 0), ~gold, np.where(gold, 0, said)]
        vectors = np.column_stack([np.bincount(clusters, np.asarray(c, dtype=float)) for c in columns])
        return cls(vectors.sum(axis=0), vectors.T @ vectors, int((vectors[:, 0] > 0).sum()))


@dataclass(frozen=True, slots=True)
class Powered:
    """A mean with its 95% interval, and how much it leans on the labeler: `weight` from 0 (gold only) to 1."""

    value: Estimate
    weight: float
    gold: int
    reason: str = ""


MINIMUM_GOLD = 20  # prompts; no interval from a handful of gold labels
FEW = 10  # informative gold prompts at which the labeler is leant on half as much as would be best


def by_prediction(sums: Sums, share: bool) -> Powered:
    """Mean of the truth over a dataset: gold mean + weight * (mean said by the labeler elsewhere - on gold).

    The weight minimises the variance (PPI++, section 6), cut to [0, 1]. Chosen on few informative gold prompts it
    flatters itself and intervals get too short, so it shrinks by m / (m + FEW), where m counts the prompts on the
    rarer side of a share, or with a gap: any weight is unbiased. Variances are sums over prompts of squared
    influences, so that several entries of one prompt count as they should.

    `share`: the truth is 0 or 1, and the interval Wilson's with the effective n that the variance implies (Korn and
    Graubard 1998), which holds for rare classes. Otherwise estimate plus or minus. Student's t with 2m + 2 degrees of
    freedom (at most prompts - 1).
    """
    n, y, f, rest, g = (float(v) for v in sums.total)
    gold, groups = int(n), sums.prompts
    if groups < MINIMUM_GOLD:
        return Powered(
            NOTHING, math.nan, gold, f"{groups} prompts with gold labels are too few (at least {MINIMUM_GOLD})"
        )
    mean_y, mean_f = y / n, f / n
    plain = np.array([-mean_y / n, 1 / n, 0, 0, 0])
    lean = np.array([mean_f / n, 0, -1 / n, -g / rest / rest, 1 / rest]) if rest else np.zeros(5)
    curvature = float(lean @ sums.cross @ lean)
    weight = min(max(-float(plain @ sums.cross @ lean) / curvature, 0.0), 1.0) if curvature > 0 else 0.0
    informative = (min(y, n - y) if share else float(sums.cross[1, 1])) * groups / n
    weight *= informative / (informative + FEW)
    value = mean_y + weight * (g / rest - mean_f) if rest else mean_y
    influence = plain + weight * lean
    variance = float(influence @ sums.cross @ influence) * groups / (groups - 1)
    variance = max(variance, 1 / groups**2)  # gold that never varies is no proof that the truth does not
    total = int(n + rest)
    critical = float(stats.t.ppf(1 - TAIL, min(groups - 1, 2 * informative + 2)))
    if share:
        return Powered(_score_interval(value, variance, n, total, critical), weight, gold)
    half = critical * math.sqrt(max(variance, 0.0))
    return Powered(Estimate(value, value - half, value + half, total), weight, gold)


def _score_interval(share: float, variance: float, n: float, total: int, critical: float) -> Estimate:
    """Wilson's interval with the sample size that the variance implies; n where there is none to speak of."""
    inside = min(max(share, 0.0), 1.0)
    spread = inside * (1 - inside)
    size = spread / variance if spread > 0 and variance > 0 else n
    z2 = critical**2
    centre = (inside + z2 / (2 * size)) / (1 + z2 / size)
    half = critical / (1 + z2 / size) * math.sqrt(spread / size + z2 / (4 * size * size))
    return Estimate(inside, max(0.0, centre - half), min(1.0, centre + half), total)
