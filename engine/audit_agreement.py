"""Do two labelers agree? Their labels of the same entries, joined on keys, feature by feature."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd

from engine import agreement, catalog
from engine.agreement import Agreement


def compare(
    con: duckdb.DuckDBPyConnection, dataset_id: int, one: catalog.Labeler, other: catalog.Labeler
) -> list[Agreement]:  # fmt: skip
    """Agreement of two labelers of one taxonomy on the entries of a dataset that both have labelled, by feature.

    Joined on entry and feature, never by row order. Ternary and signed features count as ordinal. Numeric features are
    left out. Features by name, so that two versions of a taxonomy compare where their features have the same name.
    """
    rows = con.execute(
        """
        WITH here AS (SELECT chosen AS e FROM pairs WHERE dataset_id = $d UNION
            SELECT rejected FROM pairs WHERE dataset_id = $d AND rejected IS NOT NULL),
        a AS (SELECT l.entry_id, f.name, f.kind, f.position, l.value FROM labels l JOIN features f USING (feature_id)
            SEMI JOIN here ON here.e = l.entry_id WHERE l.labeler_id = $a AND f.taxonomy_id = $ta),
        b AS (SELECT l.entry_id, f.name, l.value FROM labels l JOIN features f USING (feature_id)
            SEMI JOIN here ON here.e = l.entry_id WHERE l.labeler_id = $b AND f.taxonomy_id = $tb)
        SELECT a.name, a.kind, min(a.position) AS place, a.value AS x, b.value AS y, count(*) AS n
        FROM a JOIN b ON b.entry_id = a.entry_id AND b.name = a.name WHERE a.kind <> 'numeric'
        GROUP BY a.name, a.kind, a.value, b.value ORDER BY place, x, y""",
        {"d": dataset_id, "a": one.labeler_id, "ta": one.taxonomy_id, "b": other.labeler_id, "tb": other.taxonomy_id},
    ).df()
    found = []
    for name, part in rows.groupby("name", sort=False):
        counts = part["n"].to_numpy()
        x, y = np.repeat(part["x"].to_numpy(), counts), np.repeat(part["y"].to_numpy(), counts)
        kind = part["kind"].iloc[0]
        classes = {"boolean": [0.0, 1.0], "ternary": [-1.0, 0.0, 1.0], "signed": [-1.0, 0.0, 1.0]}.get(kind)
        level: agreement.Level = "ordinal" if kind in ("ternary", "signed") else "nominal"
        found.append(agreement.two(str(name), x, y, level, classes=classes))
    return found


def table(found: list[Agreement]) -> pd.DataFrame:
    """The tidy table, lowest kappa first."""
    frame = agreement.table(found)
    return frame.sort_values("kappa", na_position="last", kind="stable").reset_index(drop=True)
