"""Where a model resists most: every slice of the data, and every two together, searched with a price for searching.

A slice is a set of pairs that share something: a feature in the chosen answer only, a topic, a value, a subset, a
length ratio, the labeler's preference. Each is tested against all other pairs by Fisher's exact test (one-sided: more
resistance; its normal limit above 20,000 pairs), with prompts as clusters where pairs share them, Holm-corrected over
everything that was looked at; a conjunction must also beat both its parts. Intervals
are widened over the whole search (Bonferroni), so that they hold for the slices that were found because they are high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from engine.design import BLOCK
from engine.intervals import correct

MINIMUM_SLICE = 50
OVERLAP = 0.8  # of two slices that share more than this (Jaccard), the clearer one is kept


@dataclass(frozen=True)
class Predicate:
    """A condition on pairs. `about` says what it is a condition on: two on the same thing are not combined.

    `by` groups predicates for tables by stratum. `mask(start, stop)` gives it for a range of rows; `query` are filters
    in text form that find the same pairs.
    """

    title: str
    by: str
    about: str
    mask: Callable[[int, int], NDArray[np.bool_]]
    query: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice with its resistance, the rest's, and their difference with its search-wide 95% interval."""

    title: str
    query: tuple[str, ...]
    n: int
    misaligned: int
    resistance: float
    elsewhere: float
    difference: float
    conf_low: float
    conf_high: float
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class Search:
    """What was found, and how much was looked at to find it."""

    slices: tuple[Slice, ...]
    searched: int
    n: int
    misaligned: int
    minimum: int

    def table(self) -> pd.DataFrame:
        """A tidy table, a row a slice."""
        columns = [name for name in Slice.__slots__ if name != "query"]
        return pd.DataFrame([{name: getattr(s, name) for name in columns} for s in self.slices], columns=columns)


def _counts(predicates: Sequence[Predicate], misaligned: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """For every two predicates (a predicate with itself on the diagonal): pairs in both, and misaligned ones."""
    k = len(predicates)
    n, bad = np.zeros((k, k)), np.zeros((k, k))
    for start in range(0, len(misaligned), BLOCK):
        stop = min(start + BLOCK, len(misaligned))
        on = np.stack([p.mask(start, stop) for p in predicates], axis=1).astype(np.float32)
        n += on.T @ on
        hit = on[misaligned[start:stop]]
        bad += hit.T @ hit
    return np.rint(n).astype(np.int64), np.rint(bad).astype(np.int64)


def _fisher(bad: NDArray[np.int64], n: NDArray[np.int64], total_bad: int, total: int) -> NDArray[np.float64]:
    """P(at least `bad` of n | total_bad of total): Fisher's exact test, one-sided.

    Where more than 20,000 pairs are in the slice the normal limit of the hypergeometric is used, continuity-corrected.
    """
    p = np.ones(len(n))
    large = n > 20_000
    small = ~large
    p[small] = stats.hypergeom.sf(bad[small] - 1, total, total_bad, n[small])
    rate = total_bad / total
    spread = np.sqrt(n[large] * rate * (1 - rate) * (total - n[large]) / max(total - 1, 1))
    p[large] = stats.norm.sf((bad[large] - 0.5 - n[large] * rate) / np.maximum(spread, 1e-12))
    return p


def _difference(bad: int, n: int, total_bad: int, total: int, level: float) -> tuple[float, float, float, float]:
    """Resistance elsewhere, and the difference with Newcombe's interval (1998, method 10) at a two-sided level."""
    z = float(stats.norm.isf(level / 2))

    def score(k: int, m: int) -> tuple[float, float, float]:
        share = k / m
        centre = (share + z * z / (2 * m)) / (1 + z * z / m)
        half = z / (1 + z * z / m) * math.sqrt(share * (1 - share) / m + z * z / (4 * m * m))
        return share, centre - half, centre + half

    here, low, high = score(bad, n)
    there, there_low, there_high = score(total_bad - bad, total - n)
    return (
        there, here - there, here - there - math.sqrt((here - low) ** 2 + (there_high - there) ** 2),
        here - there + math.sqrt((high - here) ** 2 + (there - there_low) ** 2),
    )  # fmt: skip


def search(
    predicates: Sequence[Predicate], misaligned: NDArray[np.bool_], minimum: int = MINIMUM_SLICE,
    correction: str = "holm", most: int = 25, clusters: NDArray[np.int64] | None = None,
) -> Search:  # fmt: skip
    """The clearest slices, highest lower bound first. `misaligned`: a row a pair, every one of which all predicates
    must know. Slices smaller than `minimum`, or whose complement is, are not looked at and cost nothing.

    `clusters`: nondecreasing codes of the prompts. Where pairs share prompts, p is the larger of Fisher's and that of
    a z-test with errors clustered by prompt, and the interval the wider of Newcombe's and the clustered one.
    """
    total, total_bad = len(misaligned), int(misaligned.sum())
    none = Search((), 0, total, total_bad, minimum)
    if not predicates or not 0 < total_bad < total:
        return none
    n, bad = _counts(predicates, misaligned)
    first, second = np.triu_indices(len(predicates))
    about = np.array([p.about for p in predicates])
    single = first == second
    allowed = single | (about[first] != about[second])
    size = n[first, second]
    smaller_than_parts = single | ((size < n[first, first]) & (size < n[second, second]))
    allowed &= smaller_than_parts & (size >= minimum) & (total - size >= minimum)
    first, second, size, single = first[allowed], second[allowed], size[allowed], single[allowed]
    if len(size) == 0:
        return none
    hits = bad[first, second]
    p = _fisher(hits, size, total_bad, total)
    adjusted = np.array(correct([float(one) for one in p], correction))
    errors: dict[int, float] = {}
    if clusters is not None and len(clusters) and int(clusters[-1]) + 1 < total:
        for i in map(int, np.flatnonzero(adjusted < 0.05)):
            both_parts = [predicates[k] for k in dict.fromkeys((first[i], second[i]))]
            gap, errors[i] = _clustered(_mask(both_parts, total), misaligned, clusters)
            p[i] = max(p[i], float(stats.norm.sf(gap / errors[i])) if errors[i] > 0 else 1.0)
        adjusted = np.array(correct([float(one) for one in p], correction))
    clear = np.flatnonzero(adjusted < 0.05)
    both = clear[~single[clear]]
    for part in (first, second):  # a conjunction must resist more than the rest of either part
        if len(both):
            parent_n, parent_bad = np.diag(n)[part[both]], np.diag(bad)[part[both]]
            against = np.array(
                [stats.hypergeom.sf(k - 1, m, b, s) for k, m, b, s in zip(hits[both], parent_n, parent_bad, size[both])]
            )
            both = both[against < 0.05 / (2 * max(len(clear), 1))]
    kept = np.concatenate([clear[single[clear]], both])
    level = 0.05 / len(size)
    found: list[tuple[Slice, tuple[Predicate, ...]]] = []
    for i in kept:
        a, b = predicates[first[i]], predicates[second[i]]
        there, gap, low, high = _difference(int(hits[i]), int(size[i]), total_bad, total, level)
        if i in errors:
            half = float(stats.norm.isf(level / 2)) * errors[i]
            low, high = min(low, gap - half), max(high, gap + half)
        parts = (a,) if single[i] else (a, b)
        found.append(
            (Slice(" and ".join(part.title for part in parts), tuple(q for part in parts for q in part.query),
                   int(size[i]), int(hits[i]), float(hits[i] / size[i]), there, gap, low, high, float(p[i]),
                   float(adjusted[i])), parts)
        )  # fmt: skip
    found.sort(key=lambda one: (-one[0].conf_low, one[0].n))
    return Search(tuple(_distinct(found, total, most)), len(size), total, total_bad, minimum)


def _mask(parts: Sequence[Predicate], total: int) -> NDArray[np.bool_]:
    """Which pairs satisfy every part."""
    return np.concatenate(
        [
            np.logical_and.reduce([part.mask(start, min(start + BLOCK, total)) for part in parts])
            for start in range(0, total, BLOCK)
        ]
    )


def _clustered(
    inside: NDArray[np.bool_], misaligned: NDArray[np.bool_], clusters: NDArray[np.int64]
) -> tuple[float, float]:  # fmt: skip
    """Difference of the two rates, and its error with pairs of one prompt taken together (CR1)."""
    n, m = int(inside.sum()), int((~inside).sum())
    here, there = misaligned[inside].mean(), misaligned[~inside].mean()
    influence = np.where(inside, (misaligned - here) / n, -(misaligned - there) / m)
    sums = np.bincount(clusters, influence)
    groups = len(sums)
    return float(here - there), float(np.sqrt((sums**2).sum() * groups / max(groups - 1, 1)))


def _distinct(found: list[tuple[Slice, tuple[Predicate, ...]]], total: int, most: int) -> list[Slice]:
    """The first `most` slices of which no two are nearly the same pairs."""
    kept: list[tuple[Slice, NDArray[np.bool_]]] = []
    for one, parts in found[: 4 * most]:
        mask = _mask(parts, total)
        if all(int((mask & other).sum()) < OVERLAP * int((mask | other).sum()) for _, other in kept):
            kept.append((one, mask))
        if len(kept) == most:
            break
    return [one for one, _ in kept]
