"""How good a classifier is, from what it said of entries it had not seen: arrays in, frozen results out.

Values are floats, NaN where an entry has no label or the classifier abstained; both are left out. Intervals are 95%
percentile intervals of a bootstrap that draws whole groups (prompts), worked out on a table of counts a group, so that
a thousand draws are one matrix product (Efron and Tibshirani 1993, chapters 8 and 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.intervals import Estimate, wilson

DRAWS = 1000
PERMUTATIONS = 2000
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Judge = Callable[[Rows, Rows], Floats]


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class: `support` entries truly have it, `given` were said to; precision, recall and F1."""

    name: str
    value: float
    support: int
    given: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


@dataclass(frozen=True)
class Classification:
    """A column's figures on `n` judged entries of `groups` prompts; `abstained` more were labelled but not judged.

    `confusion` counts entries, truth by row, verdict by column, both in the order of `classes`. Macro-F1 is the mean
    over the classes that the truth has.
    """

    n: int
    groups: int
    abstained: int
    classes: tuple[ClassFigures, ...]
    macro_f1: Estimate
    accuracy: Estimate
    confusion: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Verdicts given with a confidence from `low` to `high`: their mean confidence, and the share that was right."""

    low: float
    high: float
    confidence: float
    accuracy: Estimate


@dataclass(frozen=True)
class Calibration:
    """Bins of confidence that hold verdicts, expected calibration error, and how many verdicts there are."""

    bins: tuple[Bin, ...]
    ece: float
    n: int


@dataclass(frozen=True, slots=True)
class Abstention:
    """Giving only verdicts of a confidence of `threshold` or more: share of entries still labelled, and accuracy."""

    threshold: float
    coverage: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain's figures; `n` is its judged entries."""

    name: str
    n: int
    macro_f1: Estimate
    accuracy: Estimate


@dataclass(frozen=True)
class Drift:
    """Figures by domain, and p of the hypothesis that domains are alike (NaN where there is one domain)."""

    domains: tuple[Domain, ...]
    p_value: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong verdict, by row number of the arrays given."""

    row: int
    truth: float
    decided: float
    confidence: float


def _codes(truth: Floats, decided: Floats, classes: Sequence[float] | None) -> tuple[Rows, Rows, Rows, Floats]:
    """Rows judged, truth and verdict of each as places in the classes, and the classes."""
    truth, decided = np.asarray(truth, float), np.asarray(decided, float)
    if truth.shape != decided.shape or truth.ndim != 1:
        raise ValueError(f"truth {truth.shape} and verdicts {decided.shape} must be two lists of the same length")
    rows = np.flatnonzero(np.isfinite(truth) & np.isfinite(decided))
    seen = np.union1d(truth[rows], decided[rows])
    known = seen if classes is None else np.array(sorted(classes), float)
    if len(np.setdiff1d(seen, known)):
        raise ValueError(f"value {np.setdiff1d(seen, known)[0]:g} is none of the classes")
    return rows, np.searchsorted(known, truth[rows]), np.searchsorted(known, decided[rows]), known


def _group_tables(truth: Rows, decided: Rows, groups: Sequence[int] | Rows, k: int) -> Floats:
    """Counts of (group, truth, verdict), (groups, k * k)."""
    numbers, place = np.unique(np.asarray(groups), return_inverse=True)
    size = len(numbers) * k * k
    flat = np.bincount((place * k + truth) * k + decided, minlength=size) if len(truth) else np.zeros(size)
    return flat.reshape(len(numbers), k * k).astype(float)


def _drawn(tables: Floats, seed: int, draws: int = DRAWS) -> Floats:
    """Sums of the groups' tables in each bootstrap draw, (draws, cells)."""
    count = len(tables)
    if count < 2:
        return np.zeros((0, tables.shape[1]))
    found = np.empty((draws, tables.shape[1]))
    random, step = np.random.default_rng(seed), max(1, 5_000_000 // count)
    for start in range(0, draws, step):
        some = min(step, draws - start)
        times = random.multinomial(count, np.full(count, 1 / count), size=some)
        found[start : start + some] = times.astype(float) @ tables
    return found


def _scores(tables: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Precision, recall, F1 by class (tables, k), macro-F1 and accuracy (tables,) of confusions (tables, k, k)."""
    hits = np.einsum("bkk->bk", tables)
    true, given = tables.sum(2), tables.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall, f1 = hits / given, hits / true, 2 * hits / (true + given)
        macro = np.where(true > 0, f1, 0).sum(1) / (true > 0).sum(1)
        accuracy = hits.sum(1) / true.sum(1)
    return precision, recall, f1, macro, accuracy


def _macro_draws(whole: Floats, drawn: Floats) -> Floats:
    """Macro-F1 (draws,) of drawn tables (draws, k, k). A class that a draw happens to lack keeps the F1 it has in
    `whole` (1, k, k): left out, rare and badly known classes would lift the draws above the figure itself."""
    there = whole[0].sum(1) > 0
    f1 = np.where(drawn.sum(2) > 0, _scores(drawn)[2], _scores(whole)[2])
    return f1[:, there].mean(1) if there.any() else np.full(len(drawn), math.nan)


def _estimate(value: float, draws: Floats, n: int) -> Estimate:
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(draws) < DRAWS // 2:
        return Estimate(float(value), math.nan, math.nan, n)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), n)


def classification(
    truth: Floats,
    decided: Floats,
    groups: Sequence[int] | Rows,
    classes: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Classification:
    """Figures of one column: `truth`, `decided` and `groups` are (n,); `classes` ascending (else those that occur) and
    their `names`.

    Precision is NaN for a class never given, recall for one that is never true, F1 for one that is neither. Intervals
    are NaN where fewer than half of the draws have the class, and with a single group. A class that a draw lacks
    counts in that draw's macro-F1 as it does in the figure.
    """
    rows, true, said, known = _codes(truth, decided, classes)
    k = len(known)
    tables = _group_tables(true, said, np.asarray(groups)[rows], k)
    whole = tables.sum(0).reshape(1, k, k)
    draws = _drawn(tables, seed).reshape(-1, k, k)
    drawn = _scores(draws)
    precision, recall, f1, macro, accuracy = _scores(whole)
    n_true, n_said = whole[0].sum(1).astype(int), whole[0].sum(0).astype(int)
    each = tuple(
        ClassFigures(
            names[c] if names else f"{value:g}", float(value), int(n_true[c]), int(n_said[c]),
            *(_estimate(float(own[0, c]), many[:, c], int(n))
              for own, many, n in zip((precision, recall, f1), drawn[:3], (n_said[c], n_true[c], n_true[c]))),
        )
        for c, value in enumerate(known)
    )  # fmt: skip
    abstained = int((np.isfinite(truth) & ~np.isfinite(decided)).sum())
    return Classification(
        len(rows), len(tables), abstained, each, _estimate(float(macro[0]), _macro_draws(whole, draws), len(rows)),
        _estimate(float(accuracy[0]), drawn[4], len(rows)), whole[0].astype(np.int64),
    )  # fmt: skip


def macro_f1(truth: Floats, decided: Floats) -> float:
    """Mean F1 over the classes that the truth has; NaN without judged entries."""
    _, true, said, known = _codes(truth, decided, None)
    if not len(true):
        return math.nan
    k = len(known)
    return float(_scores(np.bincount(true * k + said, minlength=k * k).reshape(1, k, k).astype(float))[3][0])


def mean_macro_f1(columns: Sequence[tuple[Floats, Floats]], groups: Sequence[int] | Rows, seed: int = 0) -> Estimate:
    """Macro-F1 averaged over columns, each (truth, decided), whose truth has two values at least; NaN without one.

    The same groups are drawn for all columns, so the interval allows for what they share.
    """
    numbers, place = np.unique(np.asarray(groups), return_inverse=True)
    parts: list[tuple[Floats, int]] = []
    for truth, decided in columns:
        rows, true, said, known = _codes(truth, decided, None)
        if len(np.unique(true)) < 2:
            continue
        tables = np.zeros((len(numbers), len(known) ** 2))
        np.add.at(tables, (place[rows], true * len(known) + said), 1)
        parts.append((tables, len(known)))
    if not parts:
        return Estimate(math.nan, math.nan, math.nan, 0)

    wide = np.concatenate([tables for tables, _ in parts], axis=1)
    drawn, values, draws, start = _drawn(wide, seed), [], [], 0
    for tables, k in parts:
        whole = tables.sum(0).reshape(1, k, k)
        values.append(float(_scores(whole)[3][0]))
        draws.append(_macro_draws(whole, drawn[:, start : start + k * k].reshape(-1, k, k)))
        start += k * k
    return _estimate(float(np.mean(values)), np.mean(draws, axis=0), len(numbers))


def brier(chances: Floats, truth: Floats, classes: Sequence[float]) -> float:
    """Half the mean squared distance of probabilities (n, classes) from the truth, 0 to 1 (Brier 1950).

    Halved, so that with two classes it is the mean of (probability of yes - yes) squared.
    """
    known = np.isfinite(truth) & np.isfinite(chances).all(1)
    if not known.any():
        return math.nan
    hot = truth[known, None] == np.array(classes, float)
    return float(((chances[known] - hot) ** 2).sum(1).mean() / 2)


def calibration(confidence: Floats, right: Floats, bins: int = 10) -> Calibration:
    """How often verdicts of each confidence are right, in bins of equal width (Guo et al. 2017, equations 3 to 5).

    `right` is 1 or 0, NaN where unknown. For a single class give its probability, and whether it is true.
    """
    known = np.isfinite(confidence) & np.isfinite(right)
    sure, hit = np.asarray(confidence, float)[known], np.asarray(right, float)[known]
    place = np.clip((sure * bins).astype(int), 0, bins - 1)
    found, gap = [], 0.0
    for k in range(bins):
        here = place == k
        n = int(here.sum())
        if n:
            found.append(Bin(k / bins, (k + 1) / bins, float(sure[here].mean()), wilson(round(hit[here].sum()), n)))
            gap += n * abs(found[-1].confidence - found[-1].accuracy.estimate)
    return Calibration(tuple(found), gap / len(sure) if len(sure) else math.nan, len(sure))


def abstention(
    truth: Floats, decided: Floats, confidence: Floats, groups: Sequence[int] | Rows, points: int = 20, seed: int = 0
) -> tuple[Abstention, ...]:
    """Coverage against accuracy as the confidence asked for grows (El-Yaniv and Wiener 2010), full coverage first."""
    rows = np.flatnonzero(np.isfinite(truth) & np.isfinite(decided) & np.isfinite(confidence))
    if not len(rows):
        return ()
    sure, hit = confidence[rows], (truth == decided)[rows]
    asked = np.unique(np.quantile(sure, np.arange(points) / points, method="lower"))
    numbers, place = np.unique(np.asarray(groups)[rows], return_inverse=True)
    tables = np.zeros((len(numbers), 2 * len(asked)))
    kept = sure[:, None] >= asked
    np.add.at(tables, place, np.concatenate([kept, kept & hit[:, None]], axis=1).astype(float))

    def accuracy(sums: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return sums[:, len(asked) :] / sums[:, : len(asked)]

    whole, drawn = accuracy(tables.sum(0)[None])[0], accuracy(_drawn(tables, seed))
    return tuple(
        Abstention(
            float(asked[k]), float(kept[:, k].mean()), _estimate(float(whole[k]), drawn[:, k], int(kept[:, k].sum()))
        )
        for k in range(len(asked))
    )


def mistakes(truth: Floats, decided: Floats, confidence: Floats, most: int = 50) -> tuple[Mistake, ...]:
    """The wrong verdicts, most confident first: classifier and label disagree, and either may be at fault."""
    wrong = np.flatnonzero(np.isfinite(truth) & np.isfinite(decided) & (truth != decided))
    order = wrong[np.argsort(-np.nan_to_num(confidence[wrong], nan=-1.0), kind="stable")][:most]
    return tuple(Mistake(int(i), float(truth[i]), float(decided[i]), float(confidence[i])) for i in order)


def drift(truth: Floats, decided: Floats, domains: Sequence[str], groups: Sequence[int] | Rows, seed: int = 0) -> Drift:
    """Figures by domain, and whether they differ by more than noise.

    p is a permutation test: prompts change domains at random, and the statistic is the variance of the domains'
    macro-F1 weighted by their entries (Good 2005; the observed order counts as one of the permutations). It is about
    the figures as they stand: domains may differ because they are harder or because rare values are rarer there.
    """
    rows, true, said, known = _codes(truth, decided, None)
    k, names = len(known), np.asarray(domains)[rows]
    # A prompt that occurs in two domains is a unit in each.
    _, unit = np.unique(np.stack([np.asarray(groups)[rows].astype(str), names]), axis=1, return_inverse=True)
    tables = _group_tables(true, said, unit.ravel(), k)
    every, domain = np.unique(names[np.unique(unit.ravel(), return_index=True)[1]], return_inverse=True)
    found = []
    for d, name in enumerate(every):
        own = tables[domain == d]
        whole, draws = own.sum(0).reshape(1, k, k), _drawn(own, seed).reshape(-1, k, k)
        *_, macro, accuracy = _scores(whole)
        macros, accuracies = _macro_draws(whole, draws), _scores(draws)[4]
        n = int(own.sum())
        found.append(
            Domain(str(name), n, _estimate(float(macro[0]), macros, n), _estimate(float(accuracy[0]), accuracies, n))
        )
    if len(every) < 2:
        return Drift(tuple(found), math.nan)

    def spread(assigned: Rows) -> Floats:
        """The statistic of each row of domain numbers, (rows,)."""
        sums = np.stack([(assigned == d).astype(float) @ tables for d in range(len(every))], axis=1)
        scores = np.stack([_scores(sums[:, d].reshape(-1, k, k))[3] for d in range(len(every))], axis=1)
        weight = sums.sum(2)
        centre = (weight * scores).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
        return (weight * (scores - centre) ** 2).sum(1)

    random, observed, above = np.random.default_rng(seed), float(spread(domain[None])[0]), 0
    step = max(1, 5_000_000 // len(domain))
    for start in range(0, PERMUTATIONS, step):
        some = np.tile(domain, (min(step, PERMUTATIONS - start), 1))
        above += int((spread(random.permuted(some, axis=1)) >= observed - 1e-12).sum())
    return Drift(tuple(found), (1 + above) / (1 + PERMUTATIONS))


def leave_one_domain_out(
    truth: Floats, domains: Sequence[str], groups: Sequence[int] | Rows, judge: Judge, seed: int = 0
) -> tuple[Domain, ...]:
    """Figures on each domain of a classifier that learned from the other domains only.

    `judge(train, out)` trains on row numbers and returns verdicts on others. A prompt that occurs in the domain held
    out is not trained on, wherever else it occurs.
    """
    names, numbers, found = np.asarray(domains), np.asarray(groups), []
    for name in np.unique(names):
        out = np.flatnonzero(names == name)
        train = np.flatnonzero((names != name) & ~np.isin(numbers, numbers[out]))
        if len(train):
            one = classification(truth[out], judge(train, out), numbers[out], seed=seed)
            found.append(Domain(str(name), one.n, one.macro_f1, one.accuracy))
    return tuple(found)
