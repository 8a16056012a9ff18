"""Charts of a classifier's held-out figures: reliability, learning curve, abstention. Frames in, Altair charts out."""

from __future__ import annotations

import altair as alt
import pandas as pd

from engine.charts import INK, AnyChart
from engine.drawn import once


@once
def reliability(frame: pd.DataFrame) -> AnyChart:
    """How often decisions are right by the confidence they carry. Columns: confidence, right, low, high, n."""
    low = min(0.5, float(frame["confidence"].min()))
    line = pd.DataFrame({"p": [low, 1.0]})
    diagonal = alt.Chart(line).mark_line(color=INK, strokeDash=[4, 3]).encode(x="p:Q", y="p:Q")
    x = alt.X("confidence:Q", title="confidence it gave", axis=alt.Axis(format="~%"),
              scale=alt.Scale(domain=[low, 1]))  # fmt: skip
    base = alt.Chart(frame).encode(x=x)
    scale = alt.Scale(domain=[min(low, float(frame["low"].min())), 1])
    y = alt.Y("right:Q", title="share that was right", axis=alt.Axis(format="~%"), scale=scale)
    bars = base.mark_rule(color=INK).encode(y=alt.Y("low:Q", title="share that was right", scale=scale), y2="high:Q")
    tooltip = [alt.Tooltip("confidence:Q", format=".2f"), alt.Tooltip("right:Q", format=".2f"), "n:Q"]
    points = base.mark_point(filled=True, size=60).encode(y=y, color=alt.value(INK), tooltip=tooltip)
    return alt.layer(diagonal, bars, points).properties(height=300)


@once
def learning_curve(points: pd.DataFrame, fitted: pd.DataFrame, baselines: pd.DataFrame) -> AnyChart:
    """Macro-F1 by labelled entries. Columns: points n, macro_f1; fitted n, macro_f1, seen (false: forecast);
    baselines name, macro_f1."""
    x = alt.X("n:Q", title="labelled entries learned from", axis=alt.Axis(format=",d"))
    y = alt.Y("macro_f1:Q", title="held-out macro-F1", scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip("n:Q", format=",.0f"), alt.Tooltip("macro_f1:Q", format=".3f")]
    dots = alt.Chart(points).mark_point(filled=True, size=45, opacity=0.8, color=INK).encode(
        x=x, y=y, tooltip=tooltip)  # fmt: skip
    flat = alt.Chart(baselines).mark_rule(color=INK, strokeDash=[2, 3]).encode(y=y)
    names = alt.Chart(baselines).mark_text(align="left", dx=4, dy=-6, color=INK).encode(
        x=alt.value(0), y=y, text="name:N")  # fmt: skip
    if fitted.empty:
        return alt.layer(flat, names, dots).properties(height=300)
    dash = alt.StrokeDash("seen:N", legend=None, scale=alt.Scale(domain=[True, False], range=[[1, 0], [5, 4]]))
    line = alt.Chart(fitted).mark_line(color=INK).encode(x=x, y=y, strokeDash=dash, tooltip=tooltip)
    return alt.layer(flat, names, line, dots).properties(height=300)


@once
def abstention(frame: pd.DataFrame) -> AnyChart:
    """Accuracy of the decisions kept by the share kept. Columns: coverage, accuracy, low, high, threshold, n."""
    x = alt.X("coverage:Q", title="share of entries it labels", axis=alt.Axis(format="~%"))
    scale = alt.Scale(zero=False)
    band = alt.Chart(frame).mark_area(opacity=0.2, color=INK).encode(
        x=x, y=alt.Y("low:Q", title="share of those that is right", scale=scale, axis=alt.Axis(format="~%")),
        y2="high:Q",
    )  # fmt: skip
    tooltip = [alt.Tooltip("threshold:Q", format=".2f"), alt.Tooltip("coverage:Q", format=".0%"),
               alt.Tooltip("accuracy:Q", format=".3f"), alt.Tooltip("n:Q", format=",")]  # fmt: skip
    line = alt.Chart(frame).mark_line(color=INK, point=True).encode(x=x, y="accuracy:Q", tooltip=tooltip)
    return alt.layer(band, line).properties(height=260)
