"""What values a preference teaches: how much likelier an answer that shows a value is to be the chosen one.

A preference is one choice out of two, so its model is the conditional logit of McFadden (1974), for pairs the model of
Bradley and Terry with covariates:

    P(chosen over rejected) = 1 / (1 + exp(-sum_f beta_f (f(chosen) - f(rejected))))

beta_f is the log-odds that the answer with one more of feature f is chosen, all other values, length and style held
equal. This is what a reward model trained on these pairs by the usual loss would learn if it saw nothing but these
features. Fitted as a logit without intercept on differences (y is 1 throughout), errors clustered by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from engine.design import Array, Rows
from engine.imprint import usable
from engine.intervals import MINIMUM_N, Z95, correct
from engine.regression import logit, moments, sign_logits

RAN_AWAY = 15.0  # log-odds past which a fit has found no maximum


@dataclass(frozen=True, slots=True)
class Lesson:
    """One feature's log-odds with its 95% interval; `odds_ratio` is its exponential.

    `alone` with its interval is the same without the other features and controls. `n` counts the discordant pairs
    (those whose sides differ in it), `towards` those in which chosen has more of it.
    """

    feature: str
    estimate: float
    std_error: float
    conf_low: float
    conf_high: float
    odds_ratio: float
    p_value: float
    p_adjusted: float
    alone: float
    alone_low: float
    alone_high: float
    n: int
    towards: int


@dataclass(frozen=True)
class Taught:
    """A fitted conditional logit. `covariance` is in the order of `lessons`; controls come last and are not tested.

    `dropped` maps a left-out feature to the reason. `accuracy` is the share of pairs in which the fit gives the chosen
    side more than half.
    """

    lessons: tuple[Lesson, ...]
    covariance: Array
    n: int
    clusters: int
    accuracy: float
    log_likelihood: float
    dropped: dict[str, str]

    def table(self) -> pd.DataFrame:
        """A tidy table, a row a feature."""
        names = list(Lesson.__slots__)
        return pd.DataFrame([{name: getattr(one, name) for name in names} for one in self.lessons], columns=names)


NOTHING_TO_FIT = Taught((), np.zeros((0, 0)), 0, 0, math.nan, math.nan, {})


def _directions(rows: Rows) -> tuple[Array, Array]:
    """How many pairs have more of each column in chosen, and in rejected."""
    more, less = np.zeros(len(rows.names), dtype=np.int64), np.zeros(len(rows.names), dtype=np.int64)
    for start, stop in rows.spans():
        x = rows.block(start, stop)
        more += (x > 0).sum(axis=0)
        less += (x < 0).sum(axis=0)
    return more, less


def _too_few(names: Sequence[str], more: Array, less: Array) -> dict[str, str]:
    """Columns from which nothing can be learnt: under MINIMUM_N discordant pairs, or all of them one way."""
    found = {}
    for name, a, b in zip(names, more, less):
        if a + b < MINIMUM_N:
            found[name] = f"the sides differ in {a + b} pairs only (at least {MINIMUM_N})"
        elif min(a, b) == 0:
            found[name] = f"in all {a + b} pairs that differ it is on the {'chosen' if a else 'rejected'} side"
    return found


def _hits(rows: Rows, beta: Array) -> float:
    right = 0.0
    for start, stop in rows.spans():
        z = rows.block(start, stop) @ beta
        right += float((z > 0).sum()) + 0.5 * float((z == 0).sum())
    return right / rows.n


def _alone(rows: Rows) -> list[tuple[float, float]]:
    """Every column's log-odds without the others, and half its 95% interval."""
    found = []
    for i, (beta, error) in enumerate(zip(*sign_logits(rows))):
        if math.isnan(beta):
            single = logit(rows.keep([i]), np.ones(rows.n))
            beta, error = float(single.beta[0]), math.sqrt(float(single.covariance[0, 0]))
        found.append((float(beta), Z95 * float(error)))
    return found


@dataclass(frozen=True)
class _Tests:
    names: tuple[str, ...]
    beta: Array
    covariance: Array


def _against_average(fitted: _Tests, classes: Sequence[str], reference: str) -> _Tests:
    """The same fit with every class of a category, `reference` too, against the mean of them all (sum-to-zero)."""
    mine = [i for i, name in enumerate(fitted.names) if name in classes]
    rest = [i for i in range(len(fitted.names)) if i not in mine]
    contrast = np.zeros((len(mine) + 1, len(fitted.names)))
    contrast[np.arange(len(mine)), mine] = 1.0
    contrast[:, mine] -= 1 / (len(mine) + 1)
    whole = np.vstack([contrast, np.eye(len(fitted.names))[rest]])
    names = (*(fitted.names[i] for i in mine), reference, *(fitted.names[i] for i in rest))
    return _Tests(names, whole @ fitted.beta, whole @ fitted.covariance @ whole.T)


def taught(rows: Rows, controls: Sequence[str] = (), classes: Sequence[str] = (), correction: str = "holm") -> Taught:
    """Conditional logit on within-pair differences, chosen minus rejected (`Design.differences`).

    `controls` name columns that are held equal and not tested. `classes` name the dummies of all classes of a category:
    their estimates are against the average class (sum-to-zero contrasts), so they hang on no choice of a reference; the
    class that differs in most pairs is the one left out of the fit, and rare classes that are left out count as it.

    Features with fewer than MINIMUM_N discordant pairs, with all of them one way, without variation, with a VIF above
    10, or that separate the choices are left out with the reason. p-values of features are corrected together.
    Intervals are normal, as statsmodels' for a logit.
    """
    if rows.n <= len(rows.names) + 1:
        return NOTHING_TO_FIT
    rows = rows.held()
    more, less = _directions(rows)
    dropped = _too_few(rows.names, more, less)
    present = [i for i, name in enumerate(rows.names) if name in classes and name not in dropped]
    reference = max(present, key=lambda i: int(more[i] + less[i])) if len(present) > 1 else None
    wanted = [i for i, name in enumerate(rows.names) if name not in dropped and i != reference]
    cross = moments(rows, np.zeros((rows.n, 1))).cross
    at, reasons = usable(cross[np.ix_(wanted, wanted)], [rows.names[i] for i in wanted])
    dropped |= reasons
    keep = [wanted[i] for i in at]
    ones = np.ones(rows.n)
    kept, fit = rows.keep(keep).held(), None
    while keep:
        kept = rows.keep(keep).held()
        fit = logit(kept, ones)
        worst = int(np.argmax(np.abs(fit.beta)))
        if not fit.separated and abs(fit.beta[worst]) < RAN_AWAY and fit.log_likelihood < -1e-6 * rows.n:
            break
        dropped[kept.names[worst]] = "with the other features it predicts every choice it speaks about"
        del keep[worst]
    if fit is None or not keep:
        return Taught((), np.zeros((0, 0)), rows.n, 0, math.nan, math.nan, dropped)
    tests = _Tests(kept.names, fit.beta, fit.covariance)
    if reference is not None:
        tests = _against_average(tests, classes, rows.names[reference])
    order = [*(n for n in tests.names if n not in controls), *(n for n in tests.names if n in controls)]
    place = [tests.names.index(name) for name in order]
    beta, covariance = tests.beta[place], tests.covariance[np.ix_(place, place)]
    errors = np.sqrt(np.diag(covariance))
    p = 2 * stats.norm.sf(np.abs(beta / errors))
    adjusted = correct([math.nan if name in controls else float(v) for name, v in zip(order, p)], correction)
    lessons = []
    singles = _alone(rows.keep([rows.names.index(name) for name in order]))
    for j, (name, (alone, spread)) in enumerate(zip(order, singles)):
        i = rows.names.index(name)
        b, se = float(beta[j]), float(errors[j])
        lessons.append(
            Lesson(name, b, se, b - Z95 * se, b + Z95 * se, math.exp(b), float(p[j]), adjusted[j], alone,
                   alone - spread, alone + spread, int(more[i] + less[i]), int(more[i]))
        )  # fmt: skip
    return Taught(tuple(lessons), covariance, rows.n, fit.clusters, _hits(kept, fit.beta), fit.log_likelihood, dropped)
