"""Charts of angles: the polar histogram of SEAL's reward shift, and what a constant does to it."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from engine.charts import INK, AnyChart
from engine.drawn import once


@once
def polar(frame: pd.DataFrame, size: int = 300) -> AnyChart:
    """Sectors whose radius grows with the root of the share, so that areas compare; 0 degrees is up, positive left.

    Columns: low, high (degrees), n, share.
    """
    frame = frame.assign(start=-frame["high"].map(math.radians), end=-frame["low"].map(math.radians))
    half = size / 2
    sectors = (
        alt.Chart(frame)
        .mark_arc(stroke=INK, fill=INK, strokeWidth=0.4, fillOpacity=0.6)
        .encode(
            theta=alt.Theta("start:Q", scale=None, stack=None),
            theta2="end:Q",
            radius=alt.Radius("share:Q", scale=alt.Scale(type="sqrt", zero=True, range=[0, half])),
            radius2=alt.datum(0),
            tooltip=[alt.Tooltip("low:Q", title="above °"), alt.Tooltip("high:Q", title="up to °"),
                     alt.Tooltip("n:Q", format=",", title="pairs"), alt.Tooltip("share:Q", format=".1%")],
        )
    )  # fmt: skip
    marks = pd.DataFrame(
        [{"text": f"{a}°", "t": -math.radians(a)} for a in (0, 45, 90, 135, 180, -135, -90, -45)]
    )  # fmt: skip
    names = (
        alt.Chart(marks)
        .mark_text(radius=half + 16, color=INK, fontSize=11)
        .encode(theta=alt.Theta("t:Q", scale=None, stack=None), text="text:N")
    )
    return alt.layer(sectors, names).properties(width=size + 60, height=size + 60)


@once
def linear(frame: pd.DataFrame, size: int = 300) -> AnyChart:
    """The same sectors along a line. Columns: low, high, n, share."""
    return (
        alt.Chart(frame)
        .mark_bar(binSpacing=0)
        .encode(
            x=alt.X("low:Q", title="angle in degrees", bin="binned", axis=alt.Axis(values=list(range(-180, 181, 60)))),
            x2="high:Q",
            y=alt.Y("share:Q", title="share of pairs", axis=alt.Axis(format="~%")),
            color=alt.value(INK),
            tooltip=["low:Q", "high:Q", alt.Tooltip("n:Q", format=",", title="pairs")],
        )
        .add_params(alt.selection_point(name="picked", fields=["low", "high"]))
        .properties(height=size)
    )


@once
def constants(frame: pd.DataFrame) -> AnyChart:
    """A coefficient against the constant added to a model. Columns: title, constant, estimate, conf_low, conf_high."""
    base = alt.Chart().encode(x=alt.X("constant:Q", title="constant added (SD)"))
    zero = base.mark_line(color=INK, strokeDash=[4, 3]).encode(y=alt.Y("zero:Q", title="degrees"))
    lines = base.mark_line(color=INK).encode(y=alt.Y("estimate:Q", title="degrees"))
    bars = base.mark_rule(color=INK).encode(y="conf_low:Q", y2="conf_high:Q")
    return (
        alt.layer(zero, bars, lines, data=frame.assign(zero=0.0))
        .properties(width=150, height=110)
        .facet(facet=alt.Facet("title:N", title=None, sort=list(dict.fromkeys(frame["title"]))), columns=4)
    )
