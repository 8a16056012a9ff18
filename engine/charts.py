"""Charts: small frames in, Altair charts out. No arithmetic beyond layout, no colour but the ink of annotations.

The palette comes from `.streamlit/config.toml`: its first three colours are chosen, rejected and neutral, so a chart
names the side and never a colour. Every function says which columns its frame needs.
"""

from __future__ import annotations

import math
import re
import textwrap
from typing import Any

import altair as alt
import pandas as pd

from engine.drawn import once

INK = "#76808F"  # text and rules in a colour that reads on light and dark
AnyChart = Any  # Altair types a layered chart by what it may become
SIDES = alt.Scale(domain=["chosen", "rejected", "neutral", "effect"])
NAMES = alt.Axis(
    labelLimit=260, ticks=False, domain=False, labelOverlap=False, labelExpr="split(datum.label, '\\n')"
)  # fmt: skip
WRAP = 32  # characters a line of a row's name
ROW = 26  # pixels a row of a forest plot or a dumbbell

alt.data_transformers.disable_max_rows()
alt.theme.enable("none")  # the dashboard's own theme sets sizes and colours


def side_color(field: str = "side", legend: bool = False) -> alt.Color:
    """Colour by side: chosen blue, rejected vermilion, neutral grey; `effect` is any other estimate."""
    shown = alt.Legend(title=None, orient="top", values=["chosen", "rejected"]) if legend else None
    return alt.Color(f"{field}:N", scale=SIDES, legend=shown)


def _height(rows: int) -> int:
    return ROW * rows + 130  # the axis and the legend take their part of it


def _rule(value: float, axis: str) -> AnyChart:
    encoding = {axis: alt.datum(value)}
    return alt.Chart(pd.DataFrame({"at": [value]})).mark_rule(color=INK, strokeDash=[4, 3]).encode(**encoding)


@once
def dumbbell(frame: pd.DataFrame, unit: str, zero: bool = True) -> AnyChart:
    """Chosen against rejected, a row a feature, in the frame's order.

    Columns: title, chosen, rejected, gap_text, and chosen_low, chosen_high, rejected_low, rejected_high.
    """
    ends = ("chosen_high", "rejected_high", "chosen", "rejected", "chosen_raw", "rejected_raw")
    frame = frame.assign(right=frame[[name for name in ends if name in frame]].max(axis=1))
    order = frame["title"].tolist()
    y = alt.Y("title:N", sort=order, title=None, axis=NAMES)
    long = pd.concat(
        [
            frame[["title", side, f"{side}_low", f"{side}_high"]]
            .set_axis(["title", "value", "low", "high"], axis=1)
            .assign(side=side)
            for side in ("chosen", "rejected")
        ]
    )
    axis = alt.Axis(format="~%" if "share" in unit else "~g", tickCount=8)
    x = alt.X("value:Q", title=unit, scale=alt.Scale(zero=zero), axis=axis)
    tooltip = [
        alt.Tooltip("title:N", title="feature"),
        alt.Tooltip("side:N"),
        alt.Tooltip("value:Q", format=".3f"),
        alt.Tooltip("low:Q", format=".3f", title="95% from"),
        alt.Tooltip("high:Q", format=".3f", title="to"),
    ]
    color = side_color(legend=True)
    base = alt.Chart(frame).encode(y=y)
    sides = alt.Chart(long).encode(y=y, color=color)
    link = base.mark_rule(color=INK, strokeWidth=2, opacity=0.5).encode(
        x=alt.X("chosen:Q", title=unit), x2="rejected:Q"
    )
    whisker = sides.mark_rule(opacity=0.55).encode(x=alt.X("low:Q", title=unit), x2="high:Q")
    points = sides.mark_point(filled=True, size=75, opacity=1).encode(x=x, tooltip=tooltip)
    text = base.mark_text(align="left", dx=9, color=INK, fontSize=11).encode(x="right:Q", text="gap_text:N")
    return alt.layer(link, whisker, points, text).properties(height=_height(len(frame)))


def _named(frame: pd.DataFrame) -> tuple[pd.DataFrame, alt.Y]:
    """The frame with its titles wrapped, and the axis of them in the frame's order."""
    frame = frame.assign(label=["\n".join(textwrap.wrap(str(title), WRAP)) for title in frame["title"]])
    return frame, alt.Y("label:N", sort=list(dict.fromkeys(frame["label"])), title=None, axis=NAMES)


def _rows_height(frame: pd.DataFrame, groups: int) -> int:
    """Height for rows of wrapped names with so many groups dodged in each."""
    lines = int(frame["label"].str.count("\n").max() or 0) + 1 if len(frame) else 1
    return _height(round(frame["label"].nunique() * max(1, groups * 0.75, lines * 0.6)))


def _shape(groups: str | None, values: list[Any]) -> Any:
    """Shape by group with a legend that reads on light and dark and at any width."""
    if not groups:
        return alt.value("circle")
    legend = alt.Legend(
        title=None, orient="top", labelLimit=300, columns=1 if len(str(values)) > 44 else 3, symbolFillColor=INK,
        symbolStrokeColor=INK,
    )  # fmt: skip
    return alt.Shape(f"{groups}:N", sort=values, legend=legend)


def _pickable(layer: AnyChart, fields: list[str] | None) -> AnyChart:
    """A layer whose points can be clicked: the selection `picked` gives these fields."""
    return layer if not fields else layer.add_params(alt.selection_point(name="picked", fields=fields))


@once
def forest(
    frame: pd.DataFrame,
    unit: str,
    groups: str | None = None,
    pick: list[str] | None = None,
    by_side: bool = False,
    percent: bool = False,
    signed: bool = True,
) -> AnyChart:
    """Estimates with 95% intervals, a row a title, grey where the interval crosses zero.

    Columns: title, estimate, conf_low, conf_high, n; with `groups` a column of that name (at most three values), told
    apart by shape and dodge. `by_side`: groups are chosen and rejected, in their colours. `pick`: fields of a click.
    `signed`: numbers carry their sign, as effects do and scores do not.
    """
    sign = "+" if signed else ""
    clear = (frame["conf_low"] > 0) | (frame["conf_high"] < 0)
    tone = frame[groups] if by_side and groups else pd.Series("effect", index=frame.index)
    frame = frame.assign(tone=tone.where(clear, "neutral"))
    frame, y = _named(frame)
    number = f"{sign}.1%" if percent else f"{sign}.3f"
    tooltip = [
        "title:N",
        *([f"{groups}:N"] if groups else []),
        alt.Tooltip("estimate:Q", format=number),
        alt.Tooltip("conf_low:Q", format=number, title="95% from"),
        alt.Tooltip("conf_high:Q", format=number, title="to"),
        alt.Tooltip("n:Q", format=","),
    ]
    base = alt.Chart(frame).encode(y=y, color=side_color("tone"))
    values = list(dict.fromkeys(frame[groups])) if groups else []
    if groups:
        base = base.encode(yOffset=alt.YOffset(f"{groups}:N", sort=values))
    axis = alt.Axis(format=f"{sign}~%" if percent else f"{sign}.3~f", tickCount=8, titleAnchor="end")
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("conf_low:Q", title=unit, axis=axis), x2="conf_high:Q")
    shape = _shape(groups, values)
    points = base.mark_point(filled=True, size=65, opacity=1).encode(x="estimate:Q", shape=shape, tooltip=tooltip)
    return alt.layer(_rule(0, "x"), bars, _pickable(points, pick)).properties(height=_rows_height(frame, len(values)))


@once
def panels(frame: pd.DataFrame, unit: str, facet: str) -> AnyChart:
    """A forest a panel for more models than shapes can tell apart. Columns as `forest`, and `facet`'s."""
    clear = (frame["conf_low"] > 0) | (frame["conf_high"] < 0)
    frame = frame.assign(tone=clear.map({True: "effect", False: "neutral"}), zero=0.0)
    frame, y = _named(frame)
    base = alt.Chart(frame).encode(y=y)
    zero = base.mark_rule(color=INK, strokeDash=[4, 3]).encode(x="zero:Q")
    bars = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("conf_low:Q", title=unit), x2="conf_high:Q", color=side_color("tone")
    )
    points = base.mark_point(filled=True, size=55, opacity=1).encode(
        x="estimate:Q", color=side_color("tone"), tooltip=["title:N", f"{facet}:N", "estimate:Q", "n:Q"]
    )
    layered = alt.layer(zero, bars, points).properties(width=190, height=20 * frame["label"].nunique())
    return layered.facet(column=alt.Column(f"{facet}:N", title=None, sort=list(dict.fromkeys(frame[facet]))))


@once
def shares(
    frame: pd.DataFrame,
    unit: str,
    reference: float | None = None,
    groups: str | None = None,
    pick: list[str] | None = None,
) -> AnyChart:
    """Shares with 95% intervals, a row a title; with `reference` a dashed line there, and grey what crosses it.

    Columns: title, estimate, conf_low, conf_high, n, and `groups`' (at most three values, by shape).
    """
    at = reference if reference is not None else -1.0
    clear = (frame["conf_low"] > at) | (frame["conf_high"] < at)
    frame = frame.assign(tone=clear.map({True: "effect", False: "neutral"}))
    frame, y = _named(frame)
    base = alt.Chart(frame).encode(y=y, color=side_color("tone"))
    values = list(dict.fromkeys(frame[groups])) if groups else []
    if groups:
        base = base.encode(yOffset=alt.YOffset(f"{groups}:N", sort=values))
    axis = alt.Axis(format="~%", tickCount=8, titleAnchor="end")
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("conf_low:Q", title=unit, axis=axis), x2="conf_high:Q")
    points = base.mark_point(filled=True, size=65, opacity=1).encode(
        x="estimate:Q",
        shape=_shape(groups, values),
        tooltip=["title:N", *([f"{groups}:N"] if groups else []), alt.Tooltip("estimate:Q", format=".1%"),
                 alt.Tooltip("conf_low:Q", format=".1%", title="95% from"),
                 alt.Tooltip("conf_high:Q", format=".1%", title="to"), alt.Tooltip("n:Q", format=",")],
    )  # fmt: skip
    layers = [bars, _pickable(points, pick)]
    if reference is not None:
        layers.insert(0, _rule(reference, "x"))
    return alt.layer(*layers).properties(height=_rows_height(frame, len(values)))


@once
def heat(
    frame: pd.DataFrame, corners: pd.DataFrame, x_title: str, y_title: str, size: int = 420,
    pick: list[str] | None = None,
) -> AnyChart:  # fmt: skip
    """A binned square with zero axes and its quadrants' names with shares in the corners.

    Columns: x, x2, y, y2 (bin edges), n; of corners: x, y, text, align (left or right).
    """
    low = float(min(frame["x"].min(), frame["y"].min()))
    high = float(max(frame["x2"].max(), frame["y2"].max()))
    scale = alt.Scale(domain=[low, high], nice=False)
    cells = (
        alt.Chart(frame)
        .mark_rect()
        .encode(
            x=alt.X("x:Q", title=x_title, scale=scale),
            x2="x2:Q",
            y=alt.Y("y:Q", title=y_title, scale=scale),
            y2="y2:Q",
            color=alt.Color("n:Q", scale=alt.Scale(type="log"), legend=alt.Legend(title="pairs", format=",")),
            tooltip=[alt.Tooltip("n:Q", format=",", title="pairs"), alt.Tooltip("x:Q"), alt.Tooltip("y:Q")],
        )
    )
    names = [
        alt.Chart(corners[corners["align"] == align])
        .mark_text(align=align, color=INK, fontSize=12, fontWeight="bold", lineBreak="\n")
        .encode(x="x:Q", y="y:Q", text="text:N")
        for align in corners["align"].unique()
    ]
    layered = alt.layer(_pickable(cells, pick), _rule(0, "x"), _rule(0, "y"), *names)
    return layered.properties(width=size + 125, height=size + 50)  # with axes and legend, so that the plot is square


@once
def histogram(frame: pd.DataFrame, x_title: str, group: str = "side", facet: str | None = None) -> AnyChart:
    """Small multiples of binned shares. Columns: x, x2, share, `group`, and `facet`'s column."""
    chart = (
        alt.Chart(frame)
        .mark_bar(opacity=0.55, binSpacing=0)
        .encode(
            x=alt.X("x:Q", title=x_title, bin="binned"),
            x2="x2:Q",
            y=alt.Y("share:Q", title="share", axis=alt.Axis(format="~%"), stack=None),
            color=side_color(group, legend=True),
            tooltip=[f"{group}:N", alt.Tooltip("share:Q", format=".1%"), alt.Tooltip("x:Q", format=".2f")],
        )
        .properties(height=150 if facet else 270)  # outside a facet, axis and legend are part of it
    )
    if facet:
        chart = chart.properties(width=270).facet(facet=alt.Facet(f"{facet}:N", title=None), columns=3)
    return chart


@once
def calibration(frame: pd.DataFrame) -> AnyChart:
    """Agreement against sigma(margin). Columns: predicted, agreement, low, high, n, model (at most three)."""
    line = pd.DataFrame({"p": [0.5, 1.0]})
    diagonal = alt.Chart(line).mark_line(color=INK, strokeDash=[4, 3]).encode(x="p:Q", y="p:Q")
    base = alt.Chart(frame).encode(
        x=alt.X("predicted:Q", title="σ(margin): probability the model gives to its own preference",
                axis=alt.Axis(format="~%"), scale=alt.Scale(domain=[0.5, 1])),
    )  # fmt: skip
    y = alt.Y(
        "agreement:Q", title="share in which people agree", axis=alt.Axis(format="~%"), scale=alt.Scale(zero=False)
    )
    bars = base.mark_rule(color=INK).encode(y=alt.Y("low:Q", title="share in which people agree"), y2="high:Q")
    points = base.mark_point(filled=True, size=60).encode(
        y=y,
        shape=_shape("model", list(dict.fromkeys(frame["model"]))),
        color=alt.value(INK),
        tooltip=["model:N", alt.Tooltip("predicted:Q", format=".3f"), alt.Tooltip("agreement:Q", format=".3f"), "n:Q"],
    )
    lines = base.mark_line(color=INK, opacity=0.5).encode(y=y, detail="model:N")
    return alt.layer(diagonal, bars, lines, points).properties(height=300)


@once
def matrix(frame: pd.DataFrame, value_title: str, text_format: str = ".2f") -> AnyChart:
    """A labelled square matrix. Columns: row, column, value, n."""
    order = list(dict.fromkeys(frame["row"]))
    columns = list(dict.fromkeys(frame["column"]))
    base = alt.Chart(frame).encode(
        x=alt.X("column:N", sort=columns, title=None, axis=alt.Axis(labelAngle=-35, labelLimit=200)),
        y=alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=240)),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", legend=alt.Legend(title=value_title)),
        tooltip=["row:N", "column:N", alt.Tooltip("value:Q", format=text_format), alt.Tooltip("n:Q", format=",")],
    )
    if len(columns) > 12:
        return alt.layer(cells).properties(height=_height(len(order)))
    text = base.mark_text(fontSize=11, color=INK).encode(text=alt.Text("value:Q", format=text_format))
    return alt.layer(cells, text).properties(height=_height(len(order)) + 60)


@once
def circumplex(frame: pd.DataFrame, size: int = 340) -> AnyChart:
    """Unfilled spokes in circumplex order, radius linear in the value, rings named.

    Columns: title, chosen, rejected (NaN for single entries), in the order of the circle. Values in [-1, 1]; the dashed
    ring is zero.
    """
    top = max(0.05, float(frame[["chosen", "rejected"]].abs().max().max()))
    rows = []
    for i, row in enumerate(frame.itertuples()):
        for shift, side in ((-0.06, "chosen"), (0.06, "rejected")):
            if pd.isna(getattr(row, side)):
                continue
            angle = 2 * math.pi * i / len(frame) + shift
            radius = (float(getattr(row, side)) + top) / (2 * top)
            rows.append(
                {"title": row.title, "side": side, "value": float(getattr(row, side)), "x0": 0.5 * math.sin(angle),
                 "y0": 0.5 * math.cos(angle), "x": radius * math.sin(angle), "y": radius * math.cos(angle)}
            )  # fmt: skip
    spokes = pd.DataFrame(rows)
    names = pd.DataFrame(
        [
            {"title": re.sub(r"(?<=-)| ", "\n", t, count=1) if len(t) > 14 else t,
             "x": 1.3 * math.sin(2 * math.pi * i / len(frame)), "y": 1.12 * math.cos(2 * math.pi * i / len(frame))}
            for i, t in enumerate(frame["title"])
        ]
    )  # fmt: skip
    turn = [2 * math.pi * k / 120 for k in range(121)]
    ring = pd.DataFrame(
        {"x": [0.5 * math.sin(a) for a in turn], "y": [0.5 * math.cos(a) for a in turn], "k": range(121)}
    )
    scale = alt.Scale(domain=[-1.65, 1.65])
    x, y = alt.X("x:Q", scale=scale, axis=None), alt.Y("y:Q", scale=scale, axis=None)
    zero = alt.Chart(ring).mark_line(color=INK, strokeDash=[4, 3], opacity=0.7).encode(x=x, y=y, order="k:Q")
    lines = alt.Chart(spokes).mark_rule(strokeWidth=3).encode(
        x=alt.X("x0:Q", scale=scale, axis=None), y=alt.Y("y0:Q", scale=scale, axis=None), x2="x:Q", y2="y:Q",
        color=side_color(),
    )  # fmt: skip
    points = (
        alt.Chart(spokes)
        .mark_point(filled=True, size=60, opacity=1)
        .encode(
            x=x,
            y=y,
            color=side_color(legend=True),
            tooltip=["title:N", "side:N", alt.Tooltip("value:Q", format="+.3f")],
        )
    )
    labels = alt.Chart(names).mark_text(color=INK, fontSize=11, lineBreak="\n").encode(x=x, y=y, text="title:N")
    return alt.layer(zero, lines, points, labels).properties(width=size, height=size)
