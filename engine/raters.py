"""Agreement of several raters on one feature, missing ratings allowed: pure functions, frozen results.

Ratings are a table (units, raters): numbers with NaN where one did not rate, or for set-valued labels sets with None.
Where something cannot be worked out it is NaN and `reason` says why. Intervals are seeded bootstraps over units: they
speak of other units of the same kind, rated by the same people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from engine import agreement
from engine.alpha import SETS, Level, Statistic, alpha, bootstrap, check, coded, distances, nothing, patterns
from engine.intervals import Estimate, wilson


@dataclass(frozen=True, slots=True)
class Several:
    """Any number of raters on one feature. `units` have two ratings or more, `ratings` is how many those are.

    observed: pairs of ratings of a unit that are the same. fleiss, ac1: NaN for interval and set-valued labels; ac2: of
    ordinal labels only. `reason` says in one sentence why alpha is NaN, else it is empty.
    """

    feature: str
    level: Level
    raters: int
    units: int
    ratings: int
    observed: Estimate
    alpha: Estimate
    fleiss: Estimate
    ac1: Estimate
    ac2: Estimate
    reason: str


@dataclass(frozen=True, slots=True)
class OneClass:
    """One class against the rest. `share` of the ratings that name it; `specific`: where one rater names it, how often
    another does (specific agreement, Cicchetti and Feinstein 1990, J Clin Epidemiol 43:551)."""

    name: str
    share: float
    specific: Estimate
    agreement: Several


@dataclass(frozen=True, slots=True)
class Rater:
    """One rater among others. `n` units rated, `shared` with others.

    same: how like their ratings those of others are (the share that are equal; for sets, one less the distance), with
    Wilson's interval. without: alpha of the others. change: that less alpha of all, so above zero where the others
    agree better among themselves.
    """

    name: str
    n: int
    shared: int
    same: Estimate
    without: Estimate
    change: Estimate


@dataclass(frozen=True, slots=True)
class Pair:
    """Two raters on the units that both rated. Kappa is Cohen's, `weighted` with quadratic weights for ordinal labels;
    for sets kappa counts equal sets as the same class."""

    a: str
    b: str
    n: int
    observed: Estimate
    kappa: Estimate
    weighted: Estimate
    ac1: Estimate
    alpha: Estimate


def _observed(table: np.ndarray, weights: np.ndarray) -> Statistic:
    """Weighted agreement of pairs of ratings, averaged over units with two or more."""
    raters = table.sum(axis=1)
    pairable = raters >= 2
    same = (table * (table @ weights - 1)).sum(axis=1) / np.where(pairable, raters * (raters - 1), 1.0)
    same = np.where(pairable, same, 0.0)

    def statistic(drawn: np.ndarray) -> np.ndarray:
        units = drawn @ pairable.astype(float)
        return np.where(units > 0, drawn @ same / np.maximum(units, 1.0), math.nan)

    return statistic


def corrected(table: np.ndarray, weights: np.ndarray, how: str) -> Statistic:
    """A figure corrected for chance, from patterns (units, classes), by how chance is reckoned.

    fleiss: Fleiss' kappa (1971, Psychol Bull 76:378) as Gwet extends it to unequal numbers of ratings. gwet: AC1, with
    other than identity weights AC2 (Gwet 2008, Br J Math Stat Psychol 61:29; 2014, Handbook of Inter-Rater
    Reliability, ch. 2 and 3). Units with one rating count towards the classes' shares.
    """
    observed, size = _observed(table, weights), max(table.shape[1], 2)
    raters = table.sum(axis=1, keepdims=True)
    shares = table / np.maximum(raters, 1.0)
    rated = (raters[:, 0] > 0).astype(float)

    def statistic(drawn: np.ndarray) -> np.ndarray:
        share = drawn @ shares / np.maximum(drawn @ rated, 1.0)[:, None]
        if how == "gwet":
            chance = weights.sum() / (size * (size - 1)) * (share * (1 - share)).sum(axis=1)
            known = np.ones(len(drawn), dtype=bool)
        else:
            chance = ((share @ weights) * share).sum(axis=1)
            known = (share > 0).sum(axis=1) > 1
        found = (observed(drawn) - chance) / np.where(known, 1 - chance, 1.0)
        return np.where(known, np.minimum(found, 1.0), math.nan)

    return statistic


def quadratic(size: int) -> np.ndarray:
    """Quadratic weights of ordered classes, (size, size): 1 on the diagonal, 0 at the ends."""
    place = np.arange(size)
    return 1 - ((place[:, None] - place[None, :]) / max(size - 1, 1)) ** 2


def several(
    feature: str,
    ratings: Any,
    level: Level = "nominal",
    classes: Sequence[Any] | None = None,
    replicates: int = 500,
    seed: int = 0,
) -> Several:
    """Agreement of any number of raters from (units, raters).

    `classes`, lowest first, says which there could be (Gwet's figures depend on how many); without it they are those
    seen, two at least.
    """
    check(level)
    codes, seen = coded(ratings, level, classes)
    return _several(feature, codes, seen, level, replicates, seed)


def _several(feature: str, codes: np.ndarray, seen: list[Any], level: Level, replicates: int, seed: int) -> Several:
    codes = codes[(codes >= 0).any(axis=1)]
    people = int((codes >= 0).any(axis=0).sum())
    table, counts = patterns(codes, max(len(seen), 2))
    raters = table.sum(axis=1)
    single = raters < 2
    n, ratings = int(counts[~single].sum()), int((counts * raters)[~single].sum())
    if n == 0:
        reason = "Nobody has answered yet." if people == 0 else "No unit was answered by two annotators."
        reason = "Only one annotator has answered; agreement needs two." if people == 1 else reason
        none = nothing()
        return Several(feature, level, people, 0, 0, none, none, none, none, none, reason)
    same = np.eye(table.shape[1])
    wanted: dict[str, Statistic] = {"observed": _observed(table, same), "alpha": alpha(table, level, seen)}
    if level in ("nominal", "ordinal"):
        wanted |= {"fleiss": corrected(table, same, "fleiss"), "ac1": corrected(table, same, "gwet")}
    if level == "ordinal":
        wanted["ac2"] = corrected(table, quadratic(table.shape[1]), "gwet")
    apart = single if single.any() else None
    got = dict(zip(wanted, bootstrap(list(wanted.values()), counts, replicates, seed, n, apart)))
    if got["observed"].estimate in (0.0, 1.0):  # no resample differs; Wilson's interval still tells n
        got["observed"] = wilson(got["observed"].estimate * n, n)
    reason = ""
    if math.isnan(got["alpha"].estimate):
        only = seen[int(table[~single].sum(axis=0).argmax())]
        reason = f"Every answer is {_said(only)}, so there is nothing to tell agreement from chance by."
    fleiss, ac1, ac2 = (got.get(name, nothing(n)) for name in ("fleiss", "ac1", "ac2"))
    return Several(feature, level, people, n, ratings, got["observed"], got["alpha"], fleiss, ac1, ac2, reason)


def _said(one: Any) -> str:
    if isinstance(one, frozenset):
        return "“" + (", ".join(sorted(map(str, one))) or "none") + "”"
    return f"“{one:g}”" if isinstance(one, int | float | np.number) else f"“{one}”"


def by_class(
    ratings: Any, classes: Sequence[Any], names: Sequence[str] | None = None, replicates: int = 500, seed: int = 0
) -> list[OneClass]:
    """Each class against the rest, from (units, raters) of nominal labels; `names` is what to call the classes."""
    codes, seen = coded(ratings, "nominal", classes)
    found = []
    for place, one in enumerate(seen):
        name = names[place] if names else str(one)
        binary = np.where(codes < 0, -1, codes == place)
        rated = codes[(codes >= 0).any(axis=1)]
        table, counts = patterns(np.where(rated < 0, -1, rated == place), 2)
        share = float((codes == place).sum() / max((codes >= 0).sum(), 1)) if (codes >= 0).any() else math.nan
        pairable = table.sum(axis=1) >= 2
        n = int(counts[pairable & (table[:, 1] > 0)].sum())
        specific = bootstrap([_specific(table)], counts * pairable, replicates, seed, n)[0]
        if specific.estimate in (0.0, 1.0):
            specific = wilson(specific.estimate * n, n)
        against = _several(name, binary, ["another class", name], "nominal", replicates, seed)
        found.append(OneClass(name, share, specific, against))
    return found


def _specific(table: np.ndarray) -> Statistic:
    yes, raters = table[:, 1], table.sum(axis=1)
    others = np.maximum(raters - 1, 1)
    both, could = yes * (yes - 1) / others, yes * (raters - 1) / others

    def statistic(drawn: np.ndarray) -> np.ndarray:
        named = drawn @ could
        return np.where(named > 0, drawn @ both / np.where(named > 0, named, 1.0), math.nan)

    return statistic


def likeness(seen: Sequence[Any], level: Level) -> np.ndarray:
    """How like two classes are, (classes, classes): 1 for equal, 0 for others; of sets, one less the distance."""
    return 1 - distances(seen, level) if level in SETS else np.eye(len(seen))


def with_others(codes: np.ndarray, rater: int, alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The units that a rater shares with others, and for each how like the others' ratings theirs is, 0 to 1."""
    known = codes >= 0
    shared = known[:, rater] & (known.sum(axis=1) > 1)
    mine, theirs = codes[shared, rater], np.delete(codes[shared], rater, axis=1)
    if not len(mine):
        return np.flatnonzero(shared), np.zeros(0)
    like = np.where(theirs >= 0, alike[mine[:, None], np.maximum(theirs, 0)], 0.0)
    return np.flatnonzero(shared), like.sum(axis=1) / (theirs >= 0).sum(axis=1)


def by_rater(
    names: Sequence[str],
    ratings: Any,
    level: Level = "nominal",
    classes: Sequence[Any] | None = None,
    replicates: int = 500,
    seed: int = 0,
) -> list[Rater]:
    """Each rater with the others, and the others without them."""
    check(level)
    codes, seen = coded(ratings, level, classes)
    codes = codes[(codes >= 0).any(axis=1)]
    size, alike = max(len(seen), 2), likeness(seen, level)
    rows, counts = np.unique(codes, axis=0, return_counts=True) if codes.size else (codes, np.zeros(0, dtype=np.int64))
    everyone = alpha(_counted(rows, size), level, seen)
    found = []
    for place, name in enumerate(names):
        units, like = with_others(codes, place, alike)
        without = alpha(_counted(np.delete(rows, place, axis=1), size), level, seen)
        pairable = (np.delete(rows, place, axis=1) >= 0).sum(axis=1) >= 2
        left = int(counts[pairable].sum())

        def change(drawn: np.ndarray, without: Statistic = without) -> np.ndarray:
            return without(drawn) - everyone(drawn)

        either = counts * ((rows >= 0).sum(axis=1) >= 2)
        left_out = bootstrap([without], counts * pairable, replicates, seed, left)[0] if left else nothing()
        moved = bootstrap([change], either, replicates, seed, left)[0] if left else nothing()
        same = wilson(float(like.sum()), len(units))
        found.append(Rater(name, int((codes[:, place] >= 0).sum()), len(units), same, left_out, moved))
    return found


def _counted(codes: np.ndarray, size: int) -> np.ndarray:
    """Rows of codes as counts of each class, in their order."""
    found = np.zeros((len(codes), size))
    rows, raters = np.nonzero(codes >= 0)
    np.add.at(found, (rows, codes[rows, raters]), 1.0)
    return found


def pairs(
    names: Sequence[str],
    ratings: Any,
    level: Level = "nominal",
    classes: Sequence[Any] | None = None,
    replicates: int = 500,
    seed: int = 0,
) -> list[Pair]:
    """Every two raters who share a unit, those with the lowest kappa first."""
    check(level)
    codes, seen = coded(ratings, level, classes)
    found = []
    for a, b in combinations(range(len(names)), 2):
        both = codes[(codes[:, a] >= 0) & (codes[:, b] >= 0)][:, [a, b]]
        if not len(both):
            continue
        scale: agreement.Level = "ordinal" if level == "ordinal" else "nominal"
        whole = range(len(seen)) if classes is not None else None
        one = agreement.two("", both[:, 0], both[:, 1], scale, 0, seed, whole)
        more = _several("", both, seen, level, replicates, seed)
        kappa, ac1 = (nothing(one.n), nothing(one.n)) if level == "interval" else (one.kappa, one.ac1)
        found.append(Pair(names[a], names[b], one.n, one.observed, kappa, one.weighted, ac1, more.alpha))
    return sorted(found, key=lambda one: (math.isnan(one.kappa.estimate), one.kappa.estimate))
