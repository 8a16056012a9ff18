"""Charts of the Values page that no other page has: raw beside corrected, and values against a target."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from engine.charts import INK, NAMES, AnyChart, _height, _rule, dumbbell, side_color
from engine.drawn import once


@once
def corrected_dumbbell(frame: pd.DataFrame, unit: str) -> AnyChart:
    """Corrected levels of both sides as `charts.dumbbell`, with the raw ones as hollow marks.

    Columns as `dumbbell`, and chosen_raw, rejected_raw.
    """
    order = frame["title"].tolist()
    long = frame.melt(["title"], ["chosen_raw", "rejected_raw"], "side", "raw")
    long["side"] = long["side"].str.removesuffix("_raw")
    hollow = (
        alt.Chart(long)
        .mark_point(filled=False, size=60, strokeWidth=1.5, opacity=0.9)
        .encode(
            y=alt.Y("title:N", sort=order, title=None, axis=NAMES),
            x=alt.X("raw:Q", title=unit),
            color=side_color(),
            tooltip=["title:N", "side:N", alt.Tooltip("raw:Q", format=".3f")],
        )
    )
    drawn = dumbbell(frame, unit)
    return alt.layer(*drawn.layer, hollow).properties(height=_height(len(frame)))


@once
def against_target(frame: pd.DataFrame) -> AnyChart:
    """Levels of both sides beside a target, a row a value, on one scale from -1 to 1.

    Columns: title, chosen, rejected (may be missing), target (NaN where the target says nothing), in the order of rows.
    """
    order = frame["title"].tolist()
    y = alt.Y("title:N", sort=order, title=None, axis=NAMES)
    scale = alt.Scale(domain=[-1, 1])
    x = alt.X("value:Q", title="mean of the value, from -1 (goes against) to 1 (supports)", scale=scale,
              axis=alt.Axis(format="+~g", tickCount=8, titleAnchor="end"))  # fmt: skip
    sides = [side for side in ("chosen", "rejected") if side in frame.columns]
    long = frame.melt(["title"], sides, "side", "value").dropna(subset=["value"])
    tooltip = ["title:N", "side:N", alt.Tooltip("value:Q", format="+.3f")]
    points = alt.Chart(long).mark_point(filled=True, size=70, opacity=1).encode(
        x=x, y=y, color=side_color(legend=True), tooltip=tooltip
    )  # fmt: skip
    wanted = frame.dropna(subset=["target"])
    links = alt.Chart(wanted).mark_rule(color=INK, opacity=0.45).encode(
        x=alt.X("target:Q", scale=scale), x2="chosen:Q", y=y
    )  # fmt: skip
    marks: Any = alt.Chart(wanted).mark_point(shape="diamond", filled=False, size=110, strokeWidth=2, color=INK).encode(
        x=alt.X("target:Q", scale=scale), y=y, tooltip=["title:N", alt.Tooltip("target:Q", format="+.2f")]
    )  # fmt: skip
    return alt.layer(_rule(0, "x"), links, points, marks).properties(height=_height(len(frame)))
