"""Alignment resistance: where a reward model disagrees with people, and with whom it then agrees (SEAL, section 2.3).

A pair is aligned when reward(chosen) > reward(rejected); a tie is misaligned, as in SEAL, and counted beside it.
Comparing two models gives four regimes. They are two models, not one before and after: nothing here is an effect of
training unless the two were.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from engine.design import Array, Rows
from engine.imprint import VIF_LIMIT, usable
from engine.intervals import Z95, Estimate, correct, wilson
from engine.regression import logit, moments

REGIMES = {  # aligned by the first model, by the second
    "stayed_aligned": (True, True),
    "became_aligned": (False, True),
    "stayed_misaligned": (False, False),
    "reversed": (True, False),
}
MINIMUM_EVENTS = 10  # a regressor enters a logit with at least so many pairs of either outcome among its own
Mask = NDArray[np.bool_]
Verdict = NDArray[np.int8]
CHOSEN, INDIFFERENT, REJECTED = 1, 0, -1


def preference(chosen: Array, rejected: Array, authors: bool = False) -> Verdict:
    """The labeler's preference: 1 chosen, -1 rejected, 0 indifferent (SEAL, section 2.3 and D.4).

    `chosen`, `rejected` are (n, T) target features, the most important first (SEAL's code: harmless, helpful): the
    first target on which the sides differ decides. `authors` repeats a string comparison of theirs that never
    matched: with targets (harmless, helpful), chosen (0, 1) against rejected (1, 1) or (1, 0) counts as chosen.
    """
    signs = np.sign(chosen - rejected).astype(np.int8)
    found = np.zeros(len(chosen), dtype=np.int8)
    for target in range(signs.shape[1] - 1, -1, -1):
        found = np.where(signs[:, target] != 0, signs[:, target], found).astype(np.int8)
    if authors:
        missed = (chosen[:, 0] == 0) & (chosen[:, 1] == 1) & (rejected[:, 0] == 1)
        found[missed] = CHOSEN
    return found


def conflicts(chosen: Array, rejected: Array) -> int:
    """Pairs in which two targets point to different sides: only there does the order of targets decide."""
    signs = np.sign(chosen - rejected)
    return int(((signs > 0).any(axis=1) & (signs < 0).any(axis=1)).sum())


@dataclass(frozen=True, slots=True)
class Regime:
    """One regime: its share of the pairs, and the labeler's preference in it. `agreement` is agree / (agree +
    disagree): the indifferent are left out of the rate, never out of the counts."""

    regime: str
    share: Estimate
    n: int
    agree: int
    disagree: int
    indifferent: int
    unlabelled: int
    agreement: Estimate


def regimes(before: Mask, after: Mask, verdict: Verdict | None = None, known: Mask | None = None) -> list[Regime]:
    """The four regimes from which pairs each model is aligned on; `known` marks pairs the labeler has judged."""
    found = []
    for name, (was, now) in REGIMES.items():
        here = (before == was) & (after == now)
        judged = here & known if known is not None else here
        counts = {v: int((judged & (verdict == v)).sum()) if verdict is not None else 0 for v in (1, -1, 0)}
        n = int(here.sum())
        found.append(
            Regime(name, wilson(n, len(before)), n, counts[1], counts[-1], counts[0], n - sum(counts.values()),
                   wilson(counts[1], counts[1] + counts[-1]))
        )  # fmt: skip
    return found


def regime_table(every: Sequence[Regime]) -> pd.DataFrame:
    """Regimes as a tidy table: `share` and `agreement` with their intervals, and the counts."""
    return pd.DataFrame(
        [
            {"regime": r.regime, "n": r.n, "share": r.share.estimate, "conf_low": r.share.conf_low,
             "conf_high": r.share.conf_high, "agree": r.agree, "disagree": r.disagree, "indifferent": r.indifferent,
             "unlabelled": r.unlabelled, "agreement": r.agreement.estimate, "agreement_low": r.agreement.conf_low,
             "agreement_high": r.agreement.conf_high}
            for r in every
        ]
    )  # fmt: skip


def strata(misaligned: Mask, ties: Mask, groups: Sequence[tuple[str, str, Mask]]) -> pd.DataFrame:
    """Resistance by stratum: by, stratum, n, misaligned, ties, estimate, conf_low, conf_high (Wilson 95%)."""
    rows = []
    for by, name, mask in groups:
        n, bad = int(mask.sum()), int((misaligned & mask).sum())
        share = wilson(bad, n)
        rows.append({"by": by, "stratum": name, "n": n, "misaligned": bad, "ties": int((ties & mask).sum()),
                     "estimate": share.estimate, "conf_low": share.conf_low, "conf_high": share.conf_high})  # fmt: skip
    columns = ["by", "stratum", "n", "misaligned", "ties", "estimate", "conf_low", "conf_high"]
    return pd.DataFrame(rows, columns=columns)


RATIOS = (0.0, 0.5, 0.8, 1.25, 2.0, math.inf)


def ratio_groups(chars: NDArray[np.int32]) -> list[tuple[str, float, float, Mask]]:
    """Groups by length of the chosen response over that of the rejected one: name, min, max (exclusive), mask."""
    ratio = (chars[:, 0] + 1.0) / (chars[:, 1] + 1.0)
    names = ("less than half as long", "0.5 to 0.8 times as long", "0.8 to 1.25 times as long",
             "1.25 to 2 times as long", "at least twice as long")  # fmt: skip
    return [
        (f"chosen {name}", low, high, (ratio >= low) & (ratio < high))
        for name, low, high in zip(names, RATIOS, RATIOS[1:])
    ]


@dataclass(frozen=True, slots=True)
class Odds:
    """One regressor of a logit: log odds with 95% interval, odds ratio, and average marginal effect (a probability).

    `n` counts the pairs in which it is not zero.
    """

    feature: str
    side: str
    estimate: float
    std_error: float
    conf_low: float
    conf_high: float
    odds_ratio: float
    odds_low: float
    odds_high: float
    effect: float
    effect_low: float
    effect_high: float
    p_value: float
    p_adjusted: float
    n: int


@dataclass(frozen=True)
class OddsModel:
    """A fitted logit. `events` is the number of ones; `dropped` maps a left-out regressor to the reason."""

    odds: tuple[Odds, ...]
    n: int
    events: int
    clusters: int
    log_likelihood: float
    pseudo_r_squared: float
    separated: bool
    dropped: dict[str, str]

    def table(self) -> pd.DataFrame:
        """A tidy table, a row a regressor."""
        columns = list(Odds.__slots__)
        return pd.DataFrame([{name: getattr(o, name) for name in columns} for o in self.odds], columns=columns)


def _enough(rows: Rows, y: Array, minimum: int) -> dict[str, str]:
    """Regressors with too few pairs of one outcome for a logit, with the reason; booleans are counted off as on."""
    k = len(rows.names)
    on, on_events, unit = np.zeros(k), np.zeros(k), np.zeros(k)
    for start, stop in rows.spans():
        x, part = rows.block(start, stop), y[start:stop]
        nonzero = x != 0
        on += nonzero.sum(axis=0)
        on_events += part @ nonzero
        unit += (x == 1).sum(axis=0)
    off, off_events = rows.n - on, y.sum() - on_events
    fewest = np.minimum(on_events, on - on_events)
    fewest = np.where(unit == on, np.minimum(fewest, np.minimum(off_events, off - off_events)), fewest)
    return {
        name: f"only {int(few)} pairs of one outcome, fewer than {minimum}"
        for name, few in zip(rows.names, fewest)
        if few < minimum
    }


def odds(
    rows: Rows, y: Array, correction: str = "holm", minimum: int = MINIMUM_EVENTS, controls: Collection[str] = ()
) -> OddsModel:  # fmt: skip
    """Eq 3 (and Eq 4) as the logit they say they are: y (n zeros and ones) on the rows and an intercept.

    Errors are clustered by prompt. Regressors that do not vary, are collinear (VIF above 10) or have fewer than
    `minimum` pairs of either outcome are left out and named. `controls` (features) are not counted as tests.
    """
    dropped = _enough(rows, y, minimum)
    kept = rows.keep([i for i, name in enumerate(rows.names) if name not in dropped])
    events = int(y.sum())
    if kept.names:
        sums = moments(kept, y[:, None])
        centred = sums.cross - np.outer(sums.sums, sums.sums) / rows.n
        positions, more = usable(centred, kept.names, VIF_LIMIT)
        dropped |= more
        kept, varying = kept.keep(positions), sums.varying[positions]
    if not kept.names or min(events, rows.n - events) < minimum:
        return OddsModel((), rows.n, events, 0, math.nan, math.nan, False, dropped)
    fit = logit(kept.with_intercept(), y)
    se, effect_se = np.sqrt(np.diag(fit.covariance)), np.sqrt(np.diag(fit.effects_covariance))
    p = 2 * stats.norm.sf(np.abs(fit.beta / se))
    tests = [math.nan if split_side(name)[0] in controls else float(one) for name, one in zip(kept.names, p[1:])]
    adjusted = correct(tests, correction)
    found = []
    for i, name in enumerate(kept.names, 1):
        feature, side = split_side(name)
        b, e, f, g = float(fit.beta[i]), float(se[i]), float(fit.effects[i]), float(effect_se[i])
        found.append(
            Odds(feature, side, b, e, b - Z95 * e, b + Z95 * e, _exp(b), _exp(b - Z95 * e), _exp(b + Z95 * e), f,
                 f - Z95 * g, f + Z95 * g, float(p[i]), adjusted[i - 1], int(varying[i - 1]))
        )  # fmt: skip
    rate = events / rows.n
    null = rows.n * (rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    return OddsModel(
        tuple(found), rows.n, events, fit.clusters, fit.log_likelihood, 1 - fit.log_likelihood / null, fit.separated,
        dropped,
    )  # fmt: skip


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def split_side(name: str) -> tuple[str, str]:
    """("helpful", "chosen") of "helpful (chosen)"; side is empty where the name has none."""
    for side in ("chosen", "rejected"):
        if name.endswith(f" ({side})"):
            return name.removesuffix(f" ({side})"), side
    return name, ""
