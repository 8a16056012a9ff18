"""What a figure of agreement means in words: published scales, with their source and what to beware of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.intervals import MINIMUM_N, Estimate


@dataclass(frozen=True, slots=True)
class Scale:
    """Words for a figure: `steps` are (from, what it is called), lowest first. `source` and `caveat` are sentences."""

    title: str
    steps: tuple[tuple[float, str], ...]
    source: str
    caveat: str


_LANDIS = (
    (-math.inf, "poor"), (0.0, "slight"), (0.2, "fair"), (0.4, "moderate"), (0.6, "substantial"),
    (0.8, "almost perfect"),
)  # fmt: skip
_RARE = "Kappa is low for rare classes whatever the agreement; read it beside AC1 and the share of the class."
_BY_HAND = "Landis and Koch (1977, Biometrics 33:165), who call their steps arbitrary"
SCALES = {
    "alpha": Scale(
        "Krippendorff's alpha",
        ((-math.inf, "not to be relied on"), (0.667, "fit for tentative conclusions"), (0.8, "reliable")),
        "Krippendorff (2004, Content Analysis, p. 241)",
        "Alpha, like kappa, is low for rare classes whatever the agreement, and says nothing about whether people are "
        "right.",
    ),
    "kappa": Scale("Cohen's kappa", _LANDIS, _BY_HAND, _RARE),
    "weighted": Scale("Weighted kappa", _LANDIS, _BY_HAND, "Quadratic weights forgive near misses; kappa does not."),
    "fleiss": Scale("Fleiss' kappa", _LANDIS, _BY_HAND, _RARE),
    "ac1": Scale(
        "Gwet's AC1", _LANDIS, _BY_HAND, "AC1 stays high for rare classes: people mostly agree that there is none."
    ),
    "ac2": Scale("Gwet's AC2", _LANDIS, _BY_HAND, "Quadratic weights forgive near misses; AC1 does not."),
}  # fmt: skip


def word(measure: str, value: float) -> str:
    """The step of the measure's scale that a value lies on."""
    return [name for low, name in SCALES[measure].steps if value >= low][-1]


def meaning(measure: str, one: Estimate) -> str:
    """A figure in one or two sentences: its value, its place on the scale by both ends of its interval, the source.

    No verdict under 30 units, nor where the figure is not defined.
    """
    scale = SCALES[measure]
    if math.isnan(one.estimate):
        return f"{scale.title} is not defined here (n = {one.n:,})."
    known = not math.isnan(one.conf_low)
    span = f" [{one.conf_low:.2f}, {one.conf_high:.2f}]" if known else ""
    said = f"{scale.title} is {one.estimate:.2f}{span}, n = {one.n:,}"
    if one.n < MINIMUM_N:
        return f"{said}: too few for a verdict, which takes {MINIMUM_N} units answered by two annotators."
    if not known:
        return f"{said}: no interval, since too many resamples hold one class only; so no verdict."
    low, high = word(measure, one.conf_low), word(measure, one.conf_high)
    verdict = f"“{low}”" if low == high else f"between “{low}” and “{high}”"
    return f"{said}: {verdict} on the scale of {scale.source}. {scale.caveat}"
