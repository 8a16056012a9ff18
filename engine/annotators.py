"""How good is each annotator, what do they say together, and which labels look wrong? Pure functions, frozen results.

Labels are tables (units, annotators) of class numbers 0, 1, ... with NaN where one did not answer. With a classifier's
out-of-fold chances the consensus is CROWDLAB's (cleanlab); cleanlab needs chances, so without them it is Dawid and
Skene's. Set-valued labels are judged one class at a time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from engine.alpha import nothing
from engine.importing import load
from engine.intervals import MINIMUM_N, Z95, Estimate, wilson

TWO = (
    "Two annotators: who of them is right cannot be told from their answers alone. A third annotator, gold labels or a "
    "classifier's chances would tell."
)
METHODS = {
    "crowdlab": "CROWDLAB (Goh, Tkachenko and Mueller 2022): annotators and a classifier weighed together",
    "dawid-skene": "Dawid and Skene (1979): each annotator's errors, estimated from the others' answers",
}
PRIOR_ANSWERS, PRIOR_RIGHT = 2.0, 0.6  # each class of an annotator begins as two answers, 60% right
ANNOTATOR_COLUMNS = [
    *("annotator", "n", "quality", "conf_low", "conf_high", "agrees", "agrees_low", "agrees_high", "worst"),
]


@dataclass(frozen=True)
class Consensus:
    """What annotators say together, and how good each is. `n` units.

    labels: a row a unit: unit (row of the table), label, quality (the chance that it is right), agree (share of its
    answers that say so), n. annotators: a row an annotator: annotator, n, quality (how often they are right, as the
    method has it; interval by bootstrap over units), agrees (with the consensus, on units that others answered too;
    Wilson), worst (class they miss most; None where they miss none). `reason` says why both are empty, or why quality
    is NaN.
    """

    method: str
    n: int
    labels: pd.DataFrame
    annotators: pd.DataFrame
    reason: str


@dataclass(frozen=True)
class LabelErrors:
    """Labels that a classifier which never saw them finds unlikely. `n` judged; `share` found (Wilson).

    found: unit, given, suggested, quality (chance of the given label), chance (of the suggested one); worst first.
    """

    n: int
    share: Estimate
    found: pd.DataFrame
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """A share in the first and the second half of a sequence, and how it changed (second less first)."""

    first: Estimate
    second: Estimate
    change: Estimate


def consensus(
    names: Sequence[str], labels: Any, classes: int, chances: Any = None, replicates: int = 40, seed: int = 0
) -> Consensus:
    """What annotators say together. `chances` (units, classes) are a classifier's for entries it never learned from.

    With chances, units without (NaN) are left out. Never raises: `reason` says why nothing can be said.
    """
    table = np.asarray(labels, dtype=float)
    if table.ndim != 2 or table.shape[1] != len(names):
        raise ValueError(f"labels need units and {len(names)} annotators: {table.shape}")
    kept = np.flatnonzero((~np.isnan(table)).any(axis=1))
    given = None if chances is None else np.asarray(chances, dtype=float)
    if given is not None:
        kept = kept[np.isfinite(given[kept]).all(axis=1) & (given[kept].sum(axis=1) > 0)]
    used, known = table[kept], ~np.isnan(table[kept])
    people = known.any(axis=0)
    method = "dawid-skene" if given is None else "crowdlab"
    if reason := _lacking(known, classes, given is not None):
        empty = pd.DataFrame(columns=["unit", "label", "quality", "agree", "n"])
        return Consensus(method, len(kept), empty, pd.DataFrame(columns=ANNOTATOR_COLUMNS), reason)
    shares = np.zeros(0) if given is None else _ordered(given[kept])
    if given is not None and not _agree_somewhere(used):
        method = "dawid-skene"  # CROWDLAB weighs annotators by the units on which two say the same
    if method == "crowdlab":
        label, quality, ability = _crowdlab(used[:, people], shares)
    else:
        label, quality, ability, start = _dawid_skene(used[:, people], classes)
    rng = np.random.default_rng(seed)
    drawn = np.full((replicates, int(people.sum())), math.nan)
    for k in range(replicates):
        units = rng.integers(0, len(used), len(used))
        if method == "crowdlab":
            drawn[k] = _crowdlab_again(used[units][:, people], shares[units])
        else:
            times = np.bincount(units, minlength=len(used))
            drawn[k] = _dawid_skene(used[:, people], classes, times, start, tolerance=1e-4)[2]
    reason = ""
    if method == "dawid-skene" and people.sum() == 2:
        ability, reason = np.full(2, math.nan), TWO
    same = used == label[:, None]
    frame = pd.DataFrame({
        "unit": kept, "label": label, "quality": quality, "agree": same.sum(axis=1) / known.sum(axis=1),
        "n": known.sum(axis=1),
    })  # fmt: skip
    shared = known.sum(axis=1) > 1
    rows = []
    for column, place in enumerate(np.flatnonzero(people)):
        with_others = known[:, place] & shared
        agrees = wilson(int(same[with_others, place].sum()), int(with_others.sum()))
        low, high = _span(float(ability[column]), drawn[:, column])
        rows.append([
            names[int(place)], int(known[:, place].sum()), ability[column], low, high, agrees.estimate, agrees.conf_low,
            agrees.conf_high, _worst(label[with_others], used[with_others, place]),
        ])  # fmt: skip
    found = pd.DataFrame(rows, columns=ANNOTATOR_COLUMNS)
    return Consensus(method, len(kept), frame, found.sort_values("quality", kind="stable", ignore_index=True), reason)


def _lacking(known: np.ndarray, classes: int, chances: bool) -> str:
    if not len(known):
        return "No entry that anybody answered has a classifier's chances." if chances else "Nobody has answered yet."
    if classes < 2:
        return "There is one class only."
    if known.any(axis=0).sum() < 2:
        return "Only one annotator has answered; quality is judged by the others' answers."
    if not (known.sum(axis=1) > 1).any():
        return "No unit was answered by two annotators, so there is nothing to judge them by."
    return ""


def _agree_somewhere(table: np.ndarray) -> bool:
    ordered = np.sort(table, axis=1)
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())


def _ordered(chances: np.ndarray) -> np.ndarray:
    """Chances that sum to 1 and are never exactly equal, so that no tie is broken by cleanlab's dice."""
    shares = np.clip(chances, 0.0, 1.0) + 1e-9 * (1 - np.arange(chances.shape[1]) / chances.shape[1])
    return shares / shares.sum(axis=1, keepdims=True)


def _crowdlab(table: np.ndarray, chances: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    multiannotator = load("cleanlab.multiannotator")  # slow to import, so only where it is used
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = multiannotator.get_label_quality_multiannotator(
            pd.DataFrame(table), chances, consensus_method="best_quality", return_detailed_quality=False, verbose=False
        )
    label = found["label_quality"]
    ability = found["annotator_stats"]["annotator_quality"].reindex(range(table.shape[1]))
    return (
        label["consensus_label"].to_numpy(dtype=float),
        label["consensus_quality_score"].to_numpy(dtype=float),
        ability.to_numpy(dtype=float),
    )


def _crowdlab_again(table: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Annotators' quality in a resample; NaN for who is not in it, and for all where nobody agrees."""
    found = np.full(table.shape[1], math.nan)
    there = (~np.isnan(table)).any(axis=0)
    if there.sum() > 1 and _agree_somewhere(table[:, there]):
        found[there] = _crowdlab(table[:, there], chances)[2]
    return found


def _dawid_skene(
    table: np.ndarray,
    classes: int,
    weights: np.ndarray | None = None,
    start: np.ndarray | None = None,
    steps: int = 500,
    tolerance: float = 1e-7,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Dawid and Skene's EM (1979, Applied Statistics 28:20): labels, their chances, annotators' accuracy, all chances.

    Prior answers keep an annotator with few answers near 60% right. `weights` counts each unit that often; `start`
    are the chances to begin from, else the shares of the answers.
    """
    units, people = table.shape
    said = (table[:, :, None] == np.arange(classes)).astype(float).reshape(units, people * classes)
    count = np.ones(units) if weights is None else weights.astype(float)
    chances = start
    if chances is None:
        votes = said.reshape(units, people, classes).sum(axis=1)
        chances = votes / votes.sum(axis=1, keepdims=True)
    prior = np.full((classes, classes), PRIOR_ANSWERS * (1 - PRIOR_RIGHT) / (classes - 1))
    np.fill_diagonal(prior, PRIOR_ANSWERS * PRIOR_RIGHT)
    for _ in range(steps):
        weighed = chances * count[:, None]
        share = (weighed.sum(axis=0) + 1) / (count.sum() + classes)
        errors = (said.T @ weighed).reshape(people, classes, classes) + prior.T  # (annotator, said, true)
        errors /= errors.sum(axis=1, keepdims=True)
        logs = np.log(share) + said @ np.log(errors).reshape(people * classes, classes)
        fresh = np.exp(logs - logs.max(axis=1, keepdims=True))
        fresh /= fresh.sum(axis=1, keepdims=True)
        moved = float(np.abs(fresh - chances).max())
        chances = fresh
        if moved < tolerance:
            break
    ability = np.einsum("k,akk->a", share, errors)
    return chances.argmax(axis=1).astype(float), chances.max(axis=1), ability, chances


def _span(estimate: float, drawn: np.ndarray) -> tuple[float, float]:
    """The normal interval by the bootstrap's standard error, within 0 and 1; few resamples are enough for that."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < 0.95 * len(drawn) or len(known) < 2 or math.isnan(estimate):
        return math.nan, math.nan
    half = Z95 * float(known.std(ddof=1))
    return max(0.0, estimate - half), min(1.0, estimate + half)


def _worst(right: np.ndarray, said: np.ndarray) -> int | None:
    """The class that an annotator misses most often, by share, of equals the one missed more often."""
    missed = [(float((said[right == k] != k).mean()), int((said[right == k] != k).sum()), -int(k))
              for k in np.unique(right)]  # fmt: skip
    worst = max(missed, default=(0.0, 0, 0))
    return -worst[2] if worst[1] else None


def label_errors(given: Any, chances: Any) -> LabelErrors:
    """Labels that are probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021, JAIR 70; cleanlab).

    `given` (n,) class numbers, `chances` (n, classes) of a classifier that never learned from that label. Rows with NaN
    are left out. Empty under 30 labels, and where they show one class only.
    """
    labels, shares = np.asarray(given, dtype=float), np.asarray(chances, dtype=float)
    if shares.ndim != 2 or labels.shape != (len(shares),):
        raise ValueError(f"chances need a row a label: {labels.shape} and {shares.shape}")
    rows = np.flatnonzero(np.isfinite(labels) & np.isfinite(shares).all(axis=1) & (shares.sum(axis=1) > 0))
    n, seen = len(rows), np.unique(labels[rows])
    empty = pd.DataFrame(columns=["unit", "given", "suggested", "quality", "chance"])
    if n < MINIMUM_N:
        return LabelErrors(n, nothing(n), empty, f"{n} labels have a classifier's chances; it takes {MINIMUM_N}.")
    if len(seen) < 2:
        return LabelErrors(n, nothing(n), empty, "Every label is the same, so none can be told to be wrong.")
    cleanlab = load("cleanlab.filter")
    truth, sure = labels[rows].astype(int), shares[rows] / shares[rows].sum(axis=1, keepdims=True)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        wrong = cleanlab.find_label_issues(truth, sure, return_indices_ranked_by="self_confidence", n_jobs=1)
    wrong = np.asarray(wrong, dtype=np.int64)
    suggested = sure[wrong].argmax(axis=1)
    found = pd.DataFrame({
        "unit": rows[wrong], "given": truth[wrong], "suggested": suggested,
        "quality": sure[wrong, truth[wrong]], "chance": sure[wrong, suggested],
    })  # fmt: skip
    return LabelErrors(n, wilson(len(found), n), found, "")


def median(values: Any) -> Estimate:
    """Median with the 95% interval of order statistics, which supposes nothing of the distribution (Conover 1999).

    No interval where there are too few values for one (under 6).
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    ordered = ordered[np.isfinite(ordered)]
    n = len(ordered)
    if not n:
        return nothing()
    low = int(stats.binom.ppf(0.025, n, 0.5))
    if low < 1:
        return Estimate(float(np.median(ordered)), math.nan, math.nan, n)
    return Estimate(float(np.median(ordered)), float(ordered[low - 1]), float(ordered[n - low]), n)


def halves(shares: Any) -> Change:
    """How a share changed from the first half of a sequence (n,) of values from 0 to 1 to the second.

    Newcombe's interval for the difference (1998, Stat Med 17:873, method 10), which has width also where all are equal.
    """
    values = np.asarray(shares, dtype=float)
    cut = (len(values) + 1) // 2
    first, second = (wilson(float(part.sum()), len(part)) for part in (values[:cut], values[cut:]))
    if not first.n or not second.n:
        return Change(first, second, nothing(len(values)))
    moved = second.estimate - first.estimate
    down = math.hypot(second.estimate - second.conf_low, first.conf_high - first.estimate)
    up = math.hypot(second.conf_high - second.estimate, first.estimate - first.conf_low)
    return Change(first, second, Estimate(moved, moved - down, moved + up, len(values)))


def pace(acts: pd.DataFrame) -> pd.DataFrame:
    """Answers and seconds over time, from a row an answer: annotator, at (timestamp), seconds (NaN: not measured).

    A row an annotator and hour, or day where the answers span more than three days: annotator, start, answers, seconds
    (median), conf_low, conf_high, n (answers with seconds).
    """
    columns = ["annotator", "start", "answers", "seconds", "conf_low", "conf_high", "n"]
    if acts.empty:
        return pd.DataFrame(columns=columns)
    at = pd.to_datetime(acts["at"])
    unit = "D" if at.max() - at.min() > pd.Timedelta(days=3) else "h"
    rows = []
    for (who, start), part in acts.assign(start=at.dt.floor(unit)).groupby(["annotator", "start"]):
        one = median(part["seconds"])
        rows.append([who, start, len(part), one.estimate, one.conf_low, one.conf_high, one.n])
    return pd.DataFrame(rows, columns=columns)
