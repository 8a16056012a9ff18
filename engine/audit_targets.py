"""Value vectors of data, language models and reward models, and how far they are from a target: from the store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd

from engine import audit_imprint, audit_values, catalog, label_arrays, targets, vector_frames
from engine.design_frames import WHOLE, Part
from engine.intervals import Z95
from engine.targets import Distance, Target, Vector


@dataclass(frozen=True)
class SideVectors:
    """Mean value vectors of a dataset: `both` holds chosen and then rejected, with their joint covariance."""

    both: Vector
    size: int

    @property
    def chosen(self) -> Vector:
        """The chosen answers' (or single entries') vector."""
        return self.both.part(0, self.size, "chosen answers" if len(self.both.names) > self.size else "answers")

    @property
    def rejected(self) -> Vector | None:
        """The rejected answers' vector; None for single entries."""
        if len(self.both.names) == self.size:
            return None
        return self.both.part(self.size, 2 * self.size, "rejected answers")


def sides_frame(sides: SideVectors, titles: Mapping[str, str], groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Levels of both sides with 95% intervals, a row a value, or a row a group where `groups` are given.

    Columns: feature, title, chosen, chosen_low, chosen_high, rejected, rejected_low, rejected_high, n.
    """
    found: dict[str, dict[str, object]] = {}
    for name, vector in (("chosen", sides.chosen), ("rejected", sides.rejected)):
        if vector is None:
            continue
        shown = targets.grouped(vector, groups) if groups else vector
        errors = np.sqrt(np.clip(np.diag(shown.covariance), 0, None))
        for one, value, error in zip(shown.names, shown.values, errors):
            row = found.setdefault(one, {"feature": one, "title": titles.get(one, one.capitalize()), "n": shown.n})
            row |= {name: float(value), f"{name}_low": float(value - Z95 * error),
                    f"{name}_high": float(value + Z95 * error)}  # fmt: skip
    return pd.DataFrame(list(found.values()))


def _of_row(row: pd.Series, title: str, names: Sequence[str]) -> Vector:
    k = len(names)
    totals = np.array([row["n"], *(row[f"s{i}"] for i in range(k))], dtype=float)
    cross = np.array([[row[f"x{min(i, j)}_{max(i, j)}"] for j in range(k + 1)] for i in range(k + 1)], dtype=float)
    return Vector.of_sums(title, names, totals, cross, int(row["prompts"]))


def side_vectors(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, part: Part = WHOLE
) -> SideVectors | None:
    """Mean vectors of chosen and rejected answers over the signed values, clustered by prompt; None without labels."""
    axes = vector_frames.signed_features(con, labeler.taxonomy_id)
    of = label_arrays.pairs(con, dataset_id, part)
    if not axes or not of.n:
        return None
    given = label_arrays.labels(con, labeler.labeler_id, axes, of)
    values = [label_arrays.sides(of, given, axis) for axis in axes]
    rows = np.column_stack([*(c for c, _ in values), *(r for _, r in values if r is not None)])
    here = np.isfinite(rows).all(axis=1)
    if not here.any():
        return None
    names = [f.name for f in axes] * (rows.shape[1] // len(axes))
    return SideVectors(Vector.of_rows("both", names, rows[here], of.prompt[here]), len(axes))


@dataclass(frozen=True, slots=True)
class Group:
    """Answers of one source (a language model): their vector, and how often they were the chosen side (or NaN)."""

    vector: Vector
    wins: float


def group_vectors(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, grouping: vector_frames.Grouping,
    part: Part = WHOLE,
) -> list[Group]:  # fmt: skip
    """Mean vectors of answers by who gave them, most answers first."""
    axes = vector_frames.signed_features(con, labeler.taxonomy_id)
    if not axes:
        return []
    frame = vector_frames.group_vectors(con, dataset_id, labeler.labeler_id, axes, grouping, part)
    names = [f.name for f in axes]
    return [Group(_of_row(row, str(row["who"]), names), float(row["wins"])) for _, row in frame.iterrows()]


def directions(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, style: catalog.Labeler | None,
    models: Sequence[catalog.Model], part: Part = WHOLE,
) -> list[Vector]:  # fmt: skip
    """Which way each reward model pushes: its imprint over the signed values, in SDs of its margin, style held equal.

    And which way the preference itself pushes, by its log-odds. Directions: their length has no meaning for a target.
    """
    axes = tuple(f.name for f in vector_frames.signed_features(con, labeler.taxonomy_id))
    found = []
    learnt = audit_values.lessons(con, dataset_id, labeler, style, part)
    rows = [i for i, one in enumerate(learnt.fit.lessons) if one.feature in axes]
    if rows:
        found.append(Vector("the preference itself", tuple(learnt.fit.lessons[i].feature for i in rows),
                            np.array([learnt.fit.lessons[i].estimate for i in rows]),
                            learnt.fit.covariance[np.ix_(rows, rows)], learnt.fit.n))  # fmt: skip
    setting = audit_imprint.Setting(labeler, style, part, axes)
    for one in audit_imprint.model_imprints(con, dataset_id, setting, tuple(models)) if models else []:
        fit = one.controlled if one.controlled is not None else one.plain
        places = [i for i, c in enumerate(fit.coefficients) if c.feature in axes]
        if places:
            found.append(Vector(f"reward model {one.model}", tuple(fit.coefficients[i].feature for i in places),
                                np.array([fit.coefficients[i].estimate for i in places]),
                                fit.covariance[np.ix_(places, places)], fit.n))  # fmt: skip
    return found


def distances(
    sides: SideVectors | None, pushes: Sequence[Vector], target: Target, more: Sequence[Vector] = ()
) -> list[Distance]:
    """Of a dataset's two sides, of further vectors of levels, and of directions, to a target."""
    levels = [v for v in ([sides.chosen, sides.rejected] if sides is not None else []) if v is not None]
    return [*(targets.distance(v, target) for v in [*levels, *more]),
            *(targets.distance(v, target, direction=True) for v in pushes)]  # fmt: skip


def target_finding(sides: SideVectors | None, found: Sequence[Distance], target: Target) -> str:
    """The targets view's sentence: whether chosen answers are nearer the target than the rejected ones."""
    if sides is None or sides.rejected is None or target.ranked:
        first = next((one for one in found if not math.isnan(one.cosine.estimate)), None)
        if first is None:
            return f"Nothing here points clearly towards or away from “{target.title}”"
        word = "towards" if first.cosine.estimate > 0 else "away from"
        if first.cosine.conf_low < 0 < first.cosine.conf_high:
            return f"{first.title.capitalize()} point neither towards nor away from “{target.title}” beyond doubt"
        return (
            f"{first.title.capitalize()} point {word} “{target.title}”: cosine {first.cosine.estimate:+.2f} "
            f"[{first.cosine.conf_low:+.2f}, {first.cosine.conf_high:+.2f}]"
        )
    gain = targets.closer(sides.both, sides.size, target)
    if not gain.conf_low <= 0 <= gain.conf_high:
        nearer = "Chosen" if gain.estimate > 0 else "Rejected"
        low, high = sorted((abs(gain.conf_low), abs(gain.conf_high)))
        return (
            f"{nearer} answers are nearer to “{target.title}”: by {abs(gain.estimate):.3f} "
            f"[{low:.3f}, {high:.3f}], n = {gain.n:,}"
        )
    return f"Neither side is nearer to “{target.title}” beyond doubt (n = {gain.n:,} pairs)"


def vectors_frame(vectors: Sequence[Vector], titles: Mapping[str, str]) -> pd.DataFrame:
    """A long table of vectors: who, value, title, estimate with its 95% interval, n."""
    rows = []
    for vector in vectors:
        errors = np.sqrt(np.clip(np.diag(vector.covariance), 0, None))
        rows += [
            {"who": vector.title, "value": name, "title": titles.get(name, name), "estimate": float(v),
             "conf_low": float(v - Z95 * e), "conf_high": float(v + Z95 * e), "n": vector.n}
            for name, v, e in zip(vector.names, vector.values, errors)
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["who", "value", "title", "estimate", "conf_low", "conf_high", "n"])


def cosine_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `targets.table` whose cosine is known, as a chart of estimates reads them."""
    known = table.dropna(subset=["cosine"])
    return known.assign(estimate=known["cosine"], conf_low=known["cosine_low"], conf_high=known["cosine_high"])


def contributions(found: Sequence[Distance], titles: Mapping[str, str]) -> pd.DataFrame:
    """Share of every value in the squared distances: a row a value, a column a vector of levels."""
    columns = {one.title: one.contributions for one in found if one.contributions}
    frame = pd.DataFrame(columns)
    frame.insert(0, "value", [titles.get(name, name) for name in frame.index])
    return frame if columns else pd.DataFrame()


def as_matrix(long: pd.DataFrame, most: int) -> pd.DataFrame:
    """The first `most` vectors of `vectors_frame` as charts.matrix reads them: row, column, value, n."""
    first = list(dict.fromkeys(long["who"]))[:most]
    kept = long[long["who"].isin(first)]
    return kept[["who", "title", "estimate", "n"]].set_axis(["row", "column", "value", "n"], axis=1)


def group_table(found: Sequence[Group], target: Target) -> pd.DataFrame:
    """Distance and cosine of every group to a target, nearest first, with n and how often it was chosen."""
    table = targets.table([targets.distance(one.vector, target) for one in found])
    by = "cosine" if target.ranked else "distance"
    return table.assign(wins=[one.wins for one in found], n=[one.vector.n for one in found]).sort_values(
        by, ascending=not target.ranked, kind="stable", na_position="last"
    )
