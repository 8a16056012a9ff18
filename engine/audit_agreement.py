"""Do two labelers agree? Their labels of the same entries, joined on keys, feature by feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd

from engine import agreement, catalog
from engine.agreement import Agreement
from engine.intervals import MINIMUM_N


def compare(
    con: duckdb.DuckDBPyConnection, dataset_id: int, one: catalog.Labeler, other: catalog.Labeler
) -> list[Compared]:  # fmt: skip
    """Agreement of two labelers of one taxonomy on the entries of a dataset that both have labelled, by feature.

    Joined on entry and feature, never by row order. Ternary and signed features count as ordinal. Numeric features are
    left out. Features by name, so that two versions of a taxonomy compare where their features have the same name.
    """
    rows = con.execute(
        f"""
        WITH here AS {catalog.ENTRIES_OF},
        a AS (SELECT l.entry_id, f.name, f.kind, f.position, l.value FROM labels l JOIN features f USING (feature_id)
            SEMI JOIN here ON here.entry_id = l.entry_id WHERE l.labeler_id = $a AND f.taxonomy_id = $ta),
        b AS (SELECT l.entry_id, f.name, l.value FROM labels l JOIN features f USING (feature_id)
            SEMI JOIN here ON here.entry_id = l.entry_id WHERE l.labeler_id = $b AND f.taxonomy_id = $tb)
        SELECT a.name, a.kind, min(a.position) AS place, a.value AS x, b.value AS y, count(*) AS n,
            sum(ln(1 + e.n_chars)) AS s, sum(ln(1 + e.n_chars) ** 2) AS ss
        FROM a JOIN b ON b.entry_id = a.entry_id AND b.name = a.name JOIN entries e ON e.entry_id = a.entry_id
        WHERE a.kind <> 'numeric' GROUP BY a.name, a.kind, a.value, b.value ORDER BY place, x, y""",
        {
            "dataset": dataset_id,
            "a": one.labeler_id,
            "ta": one.taxonomy_id,
            "b": other.labeler_id,
            "tb": other.taxonomy_id,
        },
    ).df()
    found = []
    for name, part in rows.groupby("name", sort=False):
        counts = part["n"].to_numpy()
        x, y = np.repeat(part["x"].to_numpy(), counts), np.repeat(part["y"].to_numpy(), counts)
        kind = part["kind"].iloc[0]
        classes = {"boolean": [0.0, 1.0], "ternary": [-1.0, 0.0, 1.0], "signed": [-1.0, 0.0, 1.0]}.get(kind)
        level: agreement.Level = "ordinal" if kind in ("ternary", "signed") else "nominal"
        both = agreement.two(str(name), x, y, level, classes=classes)
        found.append(Compared(both, _with_length(part, "x", kind), _with_length(part, "y", kind)))
    return found


def _with_length(part: pd.DataFrame, column: str, kind: str) -> float:
    """Correlation of a label with log length, from sums by value; NaN for classes and where nothing varies."""
    n, total = part["n"], part["n"].sum()
    mean, length = (n * part[column]).sum() / total, part["s"].sum() / total
    spread = (n * part[column] ** 2).sum() / total - mean**2
    length_spread = part["ss"].sum() / total - length**2
    if kind == "category" or spread <= 1e-12 or length_spread <= 1e-12:
        return math.nan
    return float(((part[column] * part["s"]).sum() / total - mean * length) / math.sqrt(spread * length_spread))


@dataclass(frozen=True)
class Compared:
    """Two labelers on one feature, and how far each one's label goes with the length of the answer (Pearson's r)."""

    agreement: Agreement
    length_a: float
    length_b: float


def table(found: list[Compared]) -> pd.DataFrame:
    """The tidy table, lowest kappa first."""
    frame = agreement.table([one.agreement for one in found])
    frame["length_a"], frame["length_b"] = [one.length_a for one in found], [one.length_b for one in found]
    return frame.sort_values("kappa", na_position="last", kind="stable").reset_index(drop=True)


def finding(one: str, other: str, found: list[Compared]) -> str:
    """The page's one sentence: the median kappa and the worst feature."""
    known = [c.agreement for c in found if not math.isnan(c.agreement.kappa.estimate) and c.agreement.n >= MINIMUM_N]
    if not known:
        return f"Too few entries labelled by both {one} and {other} to say how far they agree"
    middle = float(np.median([a.kappa.estimate for a in known]))
    worst = min(known, key=lambda a: a.kappa.estimate)
    return (
        f"{one} and {other} agree with a median kappa of {middle:.2f} over {len(known)} features; least on "
        f"“{worst.feature}”: {worst.kappa.estimate:.2f} [{worst.kappa.conf_low:.2f}, {worst.kappa.conf_high:.2f}], "
        f"n = {worst.n:,}"
    )


def samples(found: Sequence[catalog.Labeler]) -> dict[str, list[catalog.Labeler]]:
    """Language models that have labelled with two samples or more, by name and taxonomy."""
    groups: dict[str, list[catalog.Labeler]] = {}
    for one in found:
        if one.kind == "lm":
            groups.setdefault(f"{one.name.split(' (sample')[0]}, {one.taxonomy}", []).append(one)
    return {name: labelers for name, labelers in groups.items() if len(labelers) > 1}


def consistency(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labelers: Sequence[catalog.Labeler], most: int = 100
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How far samples of one labeler agree: a row a feature (feature, n, share, entropy), and the `most` entries with
    the lowest mean share (pair_id, side, share, entropy, response)."""
    ids = [one.labeler_id for one in labelers]
    rows = con.execute(
        """
        WITH sides AS (
            SELECT pair_id, 'chosen' AS side, chosen AS entry_id FROM pairs WHERE dataset_id = $d UNION ALL
            SELECT pair_id, 'rejected', rejected FROM pairs WHERE dataset_id = $d AND rejected IS NOT NULL)
        SELECT l.entry_id, any_value(s.pair_id) AS pair_id, any_value(s.side) AS side, f.name, l.labeler_id,
            any_value(l.value) AS value, any_value(left(e.response, 160)) AS response
        FROM labels l JOIN sides s USING (entry_id) JOIN features f USING (feature_id) JOIN entries e USING (entry_id)
        WHERE l.labeler_id IN (SELECT unnest($ids)) AND f.taxonomy_id = $t GROUP BY l.entry_id, f.name, l.labeler_id""",
        {"d": dataset_id, "ids": ids, "t": labelers[0].taxonomy_id},
    ).df()
    parts = []
    for name, part in rows.groupby("name", sort=True):
        square = part.pivot(index="entry_id", columns="labeler_id", values="value")
        square = square[square.notna().sum(axis=1) >= 2]
        if len(square):
            scored = agreement.self_consistency(square.to_numpy())
            parts.append(scored[["share", "entropy"]].assign(entry_id=square.index.to_numpy(), feature=name))
    if not parts:
        empty = pd.DataFrame(columns=["feature", "n", "share", "entropy"])
        return empty, pd.DataFrame(columns=["pair_id", "side", "share", "entropy", "response"])
    every = pd.concat(parts)
    by_feature = every.groupby("feature").agg(n=("share", "size"), share=("share", "mean"), entropy=("entropy", "mean"))
    by_entry = (
        every.groupby("entry_id").agg(share=("share", "mean"), entropy=("entropy", "mean")).nsmallest(most, "share")
    )
    texts = rows.drop_duplicates("entry_id").set_index("entry_id")[["pair_id", "side", "response"]]
    listed = by_entry.join(texts)[["pair_id", "side", "share", "entropy", "response"]].reset_index(drop=True)
    return by_feature.sort_values("share").reset_index(), listed
