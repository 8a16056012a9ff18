"""SEAL's reward shift as an angle (arXiv 2408.10270, section 2.2), with the statistics that an angle needs.

A pair's rewards by one model are a point (chosen, rejected); the angle between two models' points is signed, positive
counter-clockwise. Rewards have no identified zero, so the angle changes when a constant is added to a model:
`sensitivity` shows how far. The standardised margin change (engine.imprint) does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.design import Array
from engine.intervals import Z95, Estimate, wilson

CONSTANTS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def shift_angle(before: Array, after: Array) -> Array:
    """Signed angle in degrees, (-180, 180], from `before` to `after`, each (n, 2) rewards of chosen and rejected.

    Equals sign(u x v) * arccos of the cosine (the paper's form) without its rounding failures. NaN where a point is
    the origin or a reward is missing.
    """
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    dot = (before * after).sum(axis=1)
    found = np.degrees(np.arctan2(cross, dot))
    found[found == -180.0] = 180.0
    found[((before == 0).all(axis=1)) | ((after == 0).all(axis=1))] = math.nan
    return found


@dataclass(frozen=True, slots=True)
class Circular:
    """Angles in degrees. `mean` is the mean direction with its 95% interval, `resultant` the mean resultant length
    in [0, 1], `spread` the circular standard deviation; `linear_mean` and `linear_median` are what SEAL prints."""

    mean: Estimate
    resultant: float
    spread: float
    linear_mean: float
    linear_median: float
    missing: int


def circular(angles: Array) -> Circular:
    """Mean direction, spread and their interval by Fisher and Lewis (1983), as in Fisher 1993, section 4.4.4.

    The half-width is arcsin(z sqrt(d / n)) with the dispersion d = (1 - R2) / (2 R^2), R2 being the mean resultant of
    the doubled angles about the mean; NaN where that is no angle (no direction).
    """
    known = angles[np.isfinite(angles)]
    n = len(known)
    if n == 0:
        nan = math.nan
        return Circular(Estimate(nan, nan, nan, 0), nan, nan, nan, nan, len(angles))
    radians = np.radians(known)
    c, s = float(np.cos(radians).mean()), float(np.sin(radians).mean())
    resultant = math.hypot(c, s)
    mean = math.atan2(s, c)
    second = float(np.cos(2 * (radians - mean)).mean())
    sine = Z95 * math.sqrt(max(1 - second, 0.0) / (2 * resultant**2) / n) if resultant > 0 else math.inf
    half = math.degrees(math.asin(sine)) if sine <= 1 else math.nan
    degrees = math.degrees(mean)
    spread = math.degrees(math.sqrt(-2 * math.log(resultant))) if resultant > 0 else math.inf
    return Circular(
        Estimate(degrees, degrees - half, degrees + half, n), resultant, spread, float(known.mean()),
        float(np.median(known)), len(angles) - n,
    )  # fmt: skip


def histogram(angles: Array, sectors: int = 36) -> pd.DataFrame:
    """Angles by sector: low, high (degrees, high inclusive as 180 is), n, share of the known angles."""
    known = angles[np.isfinite(angles)]
    edges = np.linspace(-180, 180, sectors + 1)
    counts = np.bincount(np.searchsorted(edges, known, side="left") - 1, minlength=sectors)
    share = counts / max(len(known), 1)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": counts, "share": share})


def sensitivity(before: Array, after: Array, constants: Sequence[float] = CONSTANTS) -> pd.DataFrame:
    """The mean angle when a constant is added to the second model, in SDs of its rewards: constant, added (in reward
    units), estimate, conf_low, conf_high, resultant, positive (share of angles above 0), n."""
    spread = float(np.nanstd(after))
    rows = []
    for constant in constants:
        angles = shift_angle(before, after + constant * spread)
        one = circular(angles)
        known = one.mean.n
        positive = wilson(int((angles > 0).sum()), known)
        rows.append({"constant": constant, "added": constant * spread, "estimate": one.mean.estimate,
                     "conf_low": one.mean.conf_low, "conf_high": one.mean.conf_high, "resultant": one.resultant,
                     "positive": positive.estimate, "n": known})  # fmt: skip
    return pd.DataFrame(rows)


def quadrants(rewards: Array) -> pd.DataFrame:
    """Signs of (chosen, rejected) for one model: chosen, rejected ("+" above zero, else "-"), n, estimate, conf_low,
    conf_high. Zero is arbitrary for a reward model; the table is there to compare with SEAL's."""
    known = np.isfinite(rewards).all(axis=1)
    positive = rewards[known] > 0
    rows = []
    for c, r in ((True, True), (False, True), (True, False), (False, False)):
        n = int(((positive[:, 0] == c) & (positive[:, 1] == r)).sum())
        share = wilson(n, len(positive))
        rows.append({"chosen": "+" if c else "-", "rejected": "+" if r else "-", "n": n, "estimate": share.estimate,
                     "conf_low": share.conf_low, "conf_high": share.conf_high})  # fmt: skip
    return pd.DataFrame(rows)
