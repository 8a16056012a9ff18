"""Imprint of any number of reward models on a dataset: from the store to results (Eq 1 and Eq 2 of SEAL)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pandas as pd

from engine import angles, catalog, columns, design_frames, imprint
from engine.alignment import split_side
from engine.design import Array, Column, Design
from engine.design_frames import WHOLE, Part
from engine.imprint import VIF_LIMIT, Imprint
from engine.intervals import MINIMUM_N, correct


@dataclass(frozen=True)
class Setting:
    """What an imprint is asked about. `features`: stored names, None for all; `dummies`: ternaries by level."""

    labeler: catalog.Labeler
    style: catalog.Labeler | None = None
    part: Part = WHOLE
    features: tuple[str, ...] | None = None
    dummies: bool = False
    correction: str = "holm"


@dataclass(frozen=True)
class ModelImprint:
    """One model's imprint with and without controls, in SDs of its margin (`margin_sd`) over the n pairs used.

    `scored`: pairs with both rewards; `labelled`: pairs labelled on both sides; `total`: all pairs. `titles` by column
    name; `places` gives the stored feature and level of a column; `left_out` names what did not enter, and why.
    `controlled` is None in pooled mode.
    """

    model: str
    plain: Imprint
    controlled: Imprint | None
    margin_sd: float
    total: int
    scored: int
    labelled: int
    titles: dict[str, str]
    left_out: dict[str, str]
    control_names: tuple[str, ...]
    places: dict[str, tuple[str, str | None]]

    def table(self, controlled: bool = True, raw: bool = False) -> pd.DataFrame:
        """Coefficients with titles; controls last. `raw`: in units of the reward."""
        found = self.controlled if controlled and self.controlled is not None else self.plain
        frame = found.table()
        if raw:
            numbers = ["estimate", "std_error", "conf_low", "conf_high"]
            frame[numbers] = frame[numbers] * found.scale
        frame = frame.assign(title=frame["feature"].map(self.titles), model=self.model)
        frame["control"] = frame["feature"].isin(self.control_names)
        return frame


def _load(
    con: duckdb.DuckDBPyConnection, dataset_id: int, setting: Setting, models: Sequence[catalog.Model],
    prompt_too: bool = False,
) -> tuple[Design, list[Column], list[Column], dict[str, str]]:  # fmt: skip
    """The design, its feature columns, its control columns, and what was left out."""
    sources = [columns.source_of(setting.labeler)]
    surface = setting.labeler.taxonomy == columns.SURFACE
    style = None if surface else setting.style
    if style is not None:
        sources.append(columns.source_of(style, columns.STYLE))
    design = design_frames.load(con, dataset_id, sources, models, setting.part)
    found, left_out = columns.features(design, 0, setting.features, setting.dummies, prompt_too)
    extra = columns.controls(design, 1 if style is not None else None)
    if surface or not found:  # its own length features are the controls already; controls alone explain no feature
        extra = []
    return design, found, extra, left_out


def model_imprints(
    con: duckdb.DuckDBPyConnection, dataset_id: int, setting: Setting, models: tuple[catalog.Model, ...],
    mode: str = "within",
) -> list[ModelImprint]:  # fmt: skip
    """Eq 1 for every model, each over the pairs that it has scored and the labeler has labelled on both sides.

    `mode`: within (pair effect, clustered by prompt) or pooled (what SEAL's authors ran).
    """
    design, found, extra, left_out = _load(con, dataset_id, setting, models, mode == "pooled")
    labelled = int(design.complete(found).sum())
    results = []
    for k, model in enumerate(models):
        here = design.where(design.complete([*found, *extra], [k]))
        scored = int(np.all(np.isfinite(design.rewards[:, :, k]), axis=1).sum())
        rewards = here.rewards[:, :, k]
        margins = rewards[:, 0] - rewards[:, 1]
        spread = float(margins.std(ddof=1)) if here.n > 1 else math.nan
        scale = spread if spread > 0 else 1.0
        controlled = None
        if mode == "pooled":
            plain = imprint.pooled(here.stacked(found), rewards.ravel(), scale)
        else:
            plain = imprint.within(here.differences(found), margins, scale, setting.correction)
            if extra:
                rows = here.differences([*found, *extra])
                controlled = _without_controls_in_family(
                    imprint.within(rows, margins, scale, setting.correction),
                    {c.name for c in extra},
                    setting.correction,
                )
        titles = {c.name: c.title for c in [*found, *extra]}
        held = controlled.dropped if controlled is not None else {}
        dropped = left_out | {f"{name} (with length and style)": why for name, why in held.items()} | plain.dropped
        results.append(
            ModelImprint(model.label, plain, controlled, spread, design.n, scored, labelled, titles, dropped,
                         tuple(c.name for c in extra), {c.name: (c.feature, c.level) for c in [*found, *extra]})
        )  # fmt: skip
    return results


def _without_controls_in_family(found: Imprint, controls: set[str], correction: str) -> Imprint:
    """Corrected p over the features alone: controls are not hypotheses."""
    tests = [c.p_value if c.feature not in controls and c.n >= MINIMUM_N else math.nan for c in found.coefficients]
    adjusted = correct(tests, correction)
    return replace(
        found, coefficients=tuple(replace(c, p_adjusted=p) for c, p in zip(found.coefficients, adjusted))
    )  # fmt: skip


@dataclass(frozen=True)
class Shift:
    """Two models on the pairs both have scored: the difference of their imprints (Eq 2, primary).

    `table`: as imprint.difference, with titles.
    """

    one: str
    other: str
    n: int
    table: pd.DataFrame


@dataclass(frozen=True)
class AngleShift:
    """Eq 2 as SEAL has it, on the angle between two models' points.

    `angle`: circular summary; `joint`: least squares by feature and side, clustered; `authors`: the same with classical
    errors and Bonferroni; `constants`: the joint coefficients with a constant added to the second model (long:
    constant, feature, estimate, conf_low, conf_high); `sensitivity`: the mean angle likewise.
    """

    angle: angles.Circular
    sensitivity: pd.DataFrame
    joint: Imprint
    authors: Imprint
    constants: pd.DataFrame


def shift(
    con: duckdb.DuckDBPyConnection, dataset_id: int, setting: Setting, before: catalog.Model, after: catalog.Model,
    controlled: bool = True,
) -> Shift:  # fmt: skip
    """Eq 2 from `before` to `after`; margins are standardised by each model's own SD over the shared pairs."""
    design, found, extra, _ = _load(con, dataset_id, setting, (before, after))
    used = [*found, *extra] if controlled else found
    here = design.where(design.complete(used, [0, 1]))
    margins = here.margins()
    scales = margins.std(axis=0, ddof=1) if here.n > 1 else np.ones(2)
    z = margins / np.where(scales > 0, scales, 1.0)
    rows = here.differences(used)
    fits = imprint.estimate(
        rows, np.column_stack([z[:, 1], z[:, 0], z[:, 1] - z[:, 0]]), "within", [1.0] * 3, True, False,
        setting.correction, VIF_LIMIT,
    )  # fmt: skip
    names = {c.name for c in extra}
    frame = imprint.difference(fits[0], fits[1], fits[2], setting.correction)
    frame = frame[~frame["feature"].isin(names)].reset_index(drop=True)
    tests = frame["p_value"].where(frame["n"] >= MINIMUM_N, math.nan)
    frame["p_adjusted"] = correct(tests.tolist(), setting.correction)
    frame = frame.assign(title=frame["feature"].map({c.name: c.title for c in used}))
    return Shift(before.label, after.label, here.n, frame)


def angle_shift(
    con: duckdb.DuckDBPyConnection, dataset_id: int, setting: Setting, before: catalog.Model, after: catalog.Model
) -> AngleShift:  # fmt: skip
    """SEAL's Eq 2 from `before` to `after`, with what a constant added to the second model does to it."""
    design, found, _, _ = _load(con, dataset_id, replace(setting, style=None), (before, after), True)
    here = design.where(design.complete(found, [0, 1]))
    return _by_angle(here, found, setting.correction)


def _by_angle(here: Design, found: Sequence[Column], correction: str) -> AngleShift:
    before, after = here.rewards[:, :, 0], here.rewards[:, :, 1]
    spread = float(after.std()) if here.n else 1.0
    outcomes: Array = np.column_stack(
        [angles.shift_angle(before, after + constant * spread) for constant in angles.CONSTANTS]
    )
    summary = angles.circular(outcomes[:, angles.CONSTANTS.index(0.0)])
    known = np.all(np.isfinite(outcomes), axis=1)
    rows = here.where(known).joint(found).held()
    fits = imprint.joint(rows, outcomes[known], correction)
    plain = fits[angles.CONSTANTS.index(0.0)]
    authors = imprint.joint(rows, outcomes[known][:, [angles.CONSTANTS.index(0.0)]], authors=True)[0]
    long = pd.concat(
        [
            fit.table()[["feature", "estimate", "conf_low", "conf_high"]].assign(constant=constant)
            for constant, fit in zip(angles.CONSTANTS, fits)
        ]
    )
    return AngleShift(summary, angles.sensitivity(before, after), plain, authors, long)


def by_side(found: Imprint, titles: dict[str, str]) -> pd.DataFrame:
    """A joint fit's table with feature and side apart, titled, features in the order of their largest effect."""
    frame = found.table()
    if frame.empty:
        return frame.assign(side="", title="")
    parts = [split_side(name) for name in frame["feature"]]
    frame = frame.assign(feature=[feature for feature, _ in parts], side=[side for _, side in parts])
    frame["title"] = frame["feature"].map(lambda name: titles.get(name, name))
    largest = frame.groupby("feature")["estimate"].transform(lambda v: v.abs().max())
    return (
        frame.assign(largest=largest)
        .sort_values(["largest", "feature", "side"], ascending=[False, True, True])
        .drop(columns="largest")
    )


def _clearest(table: pd.DataFrame) -> pd.Series:
    """The row whose interval stays farthest from zero."""
    return table.loc[table[["conf_low", "conf_high"]].abs().min(axis=1).idxmax()]


def finding(found: Sequence[ModelImprint], controlled: bool = True) -> str:
    """The page's sentence: what each of the first two models rewards or punishes most clearly."""
    parts = []
    for one in found[:2]:
        table = one.table(controlled)
        clear = table[~table["control"] & (table["p_adjusted"] < 0.05)]
        if clear.empty:
            parts.append(f"{one.model} rewards no feature beyond doubt (n = {one.plain.n:,})")
            continue
        top = _clearest(clear)
        verb = "rewards" if top["estimate"] > 0 else "punishes"
        parts.append(
            f"{one.model} {verb} “{top['title']}” most clearly: {top['estimate']:+.2f} SD "
            f"[{top['conf_low']:+.2f}, {top['conf_high']:+.2f}], n = {one.plain.n:,}"
        )
    return "; ".join(parts)


def shift_finding(moved: Shift) -> str:
    """What the second model rewards more than the first, most clearly."""
    clear = moved.table[moved.table["p_adjusted"] < 0.05]
    if clear.empty:
        return f"No difference between {moved.one} and {moved.other} beyond doubt (n = {moved.n:,})"
    top = _clearest(clear)
    word = "more" if top["estimate"] > 0 else "less"
    return (
        f"{moved.other} rewards “{top['title']}” {word} than {moved.one}: {top['estimate']:+.2f} SD "
        f"[{top['conf_low']:+.2f}, {top['conf_high']:+.2f}]; {len(clear)} of {len(moved.table)} features differ"
    )


def bootstrap_check(
    con: duckdb.DuckDBPyConnection, dataset_id: int, setting: Setting, model: catalog.Model, replicates: int = 400
) -> pd.DataFrame:
    """Analytic intervals of the headline beside those of a cluster bootstrap (imprint.bootstrapped), with titles."""
    design, found, extra, _ = _load(con, dataset_id, setting, (model,))
    used = [*found, *extra]
    here = design.where(design.complete(used, [0]))
    if here.n <= len(used) + 2:
        return pd.DataFrame(columns=["feature", "estimate", "conf_low", "conf_high", "boot_low", "boot_high", "title"])
    margins = here.margins()[:, 0]
    spread = float(margins.std(ddof=1))
    rows = here.differences(used)
    fitted = imprint.within(rows, margins, spread or 1.0, setting.correction)
    frame = imprint.bootstrapped(fitted, rows, margins, replicates)
    return frame.assign(title=frame["feature"].map({c.name: c.title for c in used}))
