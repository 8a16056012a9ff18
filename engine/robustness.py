"""Robustness: what changes when an answer is reworded (SEAL, arXiv 2408.10270, section 2.4, Eq 4).

A flip is rewritten minus original: a feature gained (+1) or lost (-1) on one side of a pair. (SEAL's code had it the
other way round and so named its findings.) Eq 4 asks whether flips go with pairs that the model had right and, after
rewording, has wrong. Pairs that were wrong before cannot become so: they are left out, not counted as steadfast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from engine.alignment import OddsModel, odds
from engine.design import Array, Column, Reworded, Rows, stack
from engine.imprint import Imprint, estimate
from engine.intervals import Estimate, McNemar, mcnemar, wilson

DIRECTIONS = ("gained", "lost")


@dataclass(frozen=True, slots=True)
class Alignment:
    """A model on the same pairs before and after rewording; the test is McNemar's exact one.

    `changed` is the share of pairs whose verdict is another after rewording, whichever way: falls and rises may cancel
    out in the alignment score, but not here.
    """

    model: str
    before: Estimate
    after: Estimate
    changed: Estimate
    became_misaligned: int
    became_aligned: int
    test: McNemar
    correlation: float


def alignment_change(model: str, before: Array, after: Array) -> Alignment:
    """`before`, `after` (n, 2) rewards of the pairs as they were and as reworded. Ties count as misaligned."""
    was, now = before[:, 0] > before[:, 1], after[:, 0] > after[:, 1]
    n, lost, won = len(was), int((was & ~now).sum()), int((~was & now).sum())
    varies = n > 1 and before.std() > 0 and after.std() > 0
    correlation = float(np.corrcoef(before.ravel(), after.ravel())[0, 1]) if varies else math.nan
    return Alignment(
        model, wilson(int(was.sum()), n), wilson(int(now.sum()), n), wilson(lost + won, n), lost, won,
        mcnemar(won, lost, n), correlation,
    )  # fmt: skip


def flip_table(pairs: Reworded, columns: Sequence[Column]) -> pd.DataFrame:
    """How often rewording changes a feature (D.6): feature, title, side, gained, lost, n, and shares with Wilson 95%.

    Only reworded sides count. Columns: gained_share, gained_low, gained_high, lost_share, lost_low, lost_high.
    """
    rows = []
    for c in columns:
        for s, side in enumerate(("chosen", "rejected")):
            here = np.isfinite(pairs.similarity[:, s])
            rows.append({"feature": c.name, "title": c.title, "side": side, **flips(pairs.flip(c, side)[here])})
    return pd.DataFrame(rows)


def flips(change: Array) -> dict[str, float]:
    """Counts and shares of gained (above zero) and lost (below) among known changes."""
    known = change[np.isfinite(change)]
    found: dict[str, float] = {"n": len(known)}
    for direction, mask in (("gained", known > 0), ("lost", known < 0)):
        share = wilson(int(mask.sum()), len(known))
        found |= {direction: int(mask.sum()), f"{direction}_share": share.estimate,
                  f"{direction}_low": share.conf_low, f"{direction}_high": share.conf_high}  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Cell:
    """Pairs that were aligned, by what happened to a feature on one side: how many the model then has wrong.

    `odds_ratio` compares with the pairs in which the feature stayed, unadjusted, with Woolf's 95% interval.
    """

    feature: str
    side: str
    direction: str
    n: int
    misaligned: int
    share: Estimate
    odds_ratio: float
    odds_low: float
    odds_high: float
    similarity: float


def odds_ratio(a: int, b: int, c: int, d: int) -> tuple[float, float, float]:
    """(a / b) / (c / d) with Woolf's 95% interval (1955); NaN where a cell is empty."""
    if min(a, b, c, d) == 0:
        return math.nan, math.nan, math.nan
    ratio = (a / b) / (c / d)
    half = float(stats.norm.ppf(0.975)) * math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    return ratio, ratio * math.exp(-half), ratio * math.exp(half)


def cells(pairs: Reworded, columns: Sequence[Column], before: Array, after: Array) -> list[Cell]:
    """D.7: for every feature and side, pairs that were aligned by flip (gained, stayed, lost) and how many fell."""
    was, now = before[:, 0] > before[:, 1], after[:, 0] > after[:, 1]
    similar = pairs.least_similar()
    found = []
    for c in columns:
        for side in ("chosen", "rejected"):
            change = pairs.flip(c, side)
            stayed = was & (change == 0)
            fell, held = int((stayed & ~now).sum()), int((stayed & now).sum())
            for direction, mask in (("gained", was & (change > 0)), ("stayed", stayed), ("lost", was & (change < 0))):
                n, bad = int(mask.sum()), int((mask & ~now).sum())
                ratio = (math.nan,) * 3 if direction == "stayed" else odds_ratio(bad, n - bad, fell, held)
                likeness = float(np.mean(similar[mask])) if n else math.nan
                found.append(Cell(c.name, side, direction, n, bad, wilson(bad, n), *ratio, likeness))
    return found


def _flip_rows(pairs: Reworded, columns: Sequence[Column]) -> Rows:
    """0/1 columns "FEATURE gained (SIDE)", "FEATURE lost (SIDE)"."""

    def block(start: int, stop: int) -> Array:
        parts = []
        for side in ("chosen", "rejected"):
            for c in columns:
                change = pairs.flip(c, side, start, stop)
                parts += [(change > 0).astype(float), (change < 0).astype(float)]
        return stack(parts, stop - start)

    names = [f"{c.name} {d} ({side})" for side in ("chosen", "rejected") for c in columns for d in DIRECTIONS]
    return Rows(tuple(names), pairs.n, block, pairs.original.clusters)


def resistance_after_rewording(
    pairs: Reworded, columns: Sequence[Column], before: Array, after: Array, correction: str = "holm"
) -> OddsModel:
    """Eq 4 as a logit on the pairs that were aligned: 1 where the reworded pair is misaligned, on flips of each
    feature, side and direction; errors clustered by prompt."""
    was = before[:, 0] > before[:, 1]
    here = pairs.where(was)
    fell = ~(after[was, 0] > after[was, 1])
    return odds(_flip_rows(here, columns), fell.astype(float), correction)


def margin_change(
    pairs: Reworded, columns: Sequence[Column], before: Array, after: Array, scale: float, correction: str = "holm"
) -> Imprint:
    """The continuous companion of Eq 4 on all pairs: change of the margin (reworded minus original, divided by
    `scale`, the SD of margins) on the change of each feature on each side, with an intercept; clustered errors."""
    change = (after[:, 0] - after[:, 1]) - (before[:, 0] - before[:, 1])

    def block(start: int, stop: int) -> Array:
        return stack([pairs.flip(c, side, start, stop) for side in ("chosen", "rejected") for c in columns],
                     stop - start)  # fmt: skip

    names = tuple(f"{c.name} ({side})" for side in ("chosen", "rejected") for c in columns)
    rows = Rows(names, pairs.n, block, pairs.original.clusters)
    return estimate(rows, change[:, None], "margin change", [scale], True, True, correction, 10.0)[0]


def as_the_authors(pairs: Reworded, columns: Sequence[Column], before: Array, after: Array) -> Imprint:
    """Eq 4 as SEAL ran it: a linear probability model on all pairs (those wrong before count as steadfast), 1 where a
    pair that was aligned is no longer, classical errors, raw p. Directions are named as here, not as theirs."""
    fell = (before[:, 0] > before[:, 1]) & ~(after[:, 0] > after[:, 1])
    rows = _flip_rows(pairs, columns)
    return estimate(rows, fell.astype(float)[:, None], "authors", [1.0], False, True, "holm", math.inf)[0]


def by_threshold(pairs: Reworded, before: Array, after: Array, thresholds: Sequence[float]) -> pd.DataFrame:
    """Alignment before and after on pairs at least so similar: threshold, n, before, after, each with Wilson 95%."""
    similar = pairs.least_similar()
    was, now = before[:, 0] > before[:, 1], after[:, 0] > after[:, 1]
    rows = []
    for threshold in thresholds:
        mask = similar >= threshold
        n = int(mask.sum())
        for when, aligned in (("original", was), ("reworded", now)):
            share = wilson(int(aligned[mask].sum()), n)
            rows.append({"threshold": threshold, "when": when, "n": n, "estimate": share.estimate,
                         "conf_low": share.conf_low, "conf_high": share.conf_high})  # fmt: skip
    return pd.DataFrame(rows)
