"""What correcting a labeler by gold labels needs, counted in SQL: what it says of pairs, how it errs, gold sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from engine import catalog, label_arrays
from engine.design import Array
from engine.design_frames import WHOLE, Part
from engine.label_arrays import Ids, Labels, Pairs, Values
from engine.prevalence import Sums
from engine.value_frames import SAME_FEATURES, as_items, same_feature


def joint(of: Pairs, given: Labels, feature: catalog.FeatureRow, codes: Sequence[float]) -> Array:
    """Pairs by what a labeler says of both sides: (K, K) counts [chosen, rejected] of codes; (K) of single entries."""
    c, r = label_arrays.sides(of, given, feature)
    k = len(codes)
    one = _places(c, codes)
    if r is None:
        return np.bincount(one[one >= 0], minlength=k).astype(float)
    other = _places(r, codes)
    both = (one >= 0) & (other >= 0)
    return np.bincount(one[both] * k + other[both], minlength=k * k).reshape(k, k).astype(float)


def _places(values: Values, codes: Sequence[float]) -> Ids:
    """Position of every value in `codes` (ascending by 1), -1 for what is missing or no code."""
    place = np.nan_to_num(values - codes[0], nan=-1.0).astype(np.int64)
    return np.where((place >= 0) & (place < len(codes)), place, -1)


def _both(labeler: catalog.Labeler, reference: catalog.Labeler) -> dict[str, Any]:
    return {"labeler": labeler.labeler_id, "mine": labeler.taxonomy_id, "reference": reference.labeler_id,
            "theirs": reference.taxonomy_id}  # fmt: skip


def _on_gold(held_out: str | None) -> str:
    """SQL of labels as a labeler would give them to entries it has not learned from.

    `held_out`: the Parquet file of a classifier's decisions on held-out entries (entry, column, value), which take the
    place of its labels of the same entries. A classifier has seen those, so its labels flatter it.
    """
    if held_out is None:
        return "labels"
    return """(
        WITH unseen AS (
            SELECT e.entry_id, f.feature_id, h.value FROM read_parquet($held_out) h
            JOIN entries e ON e.hash = h.entry::UUID
            JOIN features f ON f.name = h."column" AND f.taxonomy_id = $mine)
        SELECT entry_id, feature_id, $labeler AS labeler_id, value FROM unseen
        UNION ALL SELECT entry_id, feature_id, labeler_id, value FROM labels
        ANTI JOIN unseen USING (entry_id, feature_id) WHERE labeler_id = $labeler)"""


def confusion(
    con: duckdb.DuckDBPyConnection, labeler: catalog.Labeler, reference: catalog.Labeler,
    dataset_id: int | None = None, part: Part = WHOLE, held_out: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Entries that both have labelled, by what each says: name, kind, truth (the reference's), said, side, n.

    Of a part of a dataset: a row also by `side`, where an entry is chosen or rejected in its pairs ("both" where it is
    either). Without a dataset, over all of the store (side "any"). `held_out`: see `_on_gold`.
    """
    condition, parameters = part.condition()
    sides = f"""
        SELECT entry_id, CASE WHEN count(DISTINCT side) = 2 THEN 'both' ELSE any_value(side) END AS side FROM (
            SELECT p.chosen AS entry_id, 'chosen' AS side FROM pairs p WHERE p.dataset_id = $dataset {condition}
            UNION ALL SELECT p.rejected, 'rejected' FROM pairs p
            WHERE p.dataset_id = $dataset AND p.rejected IS NOT NULL {condition})
        GROUP BY entry_id"""
    here = f"JOIN ({sides}) d ON d.entry_id = l.entry_id" if dataset_id is not None else ""
    return con.execute(
        f"""
        WITH same AS {SAME_FEATURES}
        SELECT s.name, s.kind, r.value AS truth, l.value AS said, {"d.side" if here else "'any'"} AS side,
            count(*) AS n
        FROM same s JOIN {_on_gold(held_out)} l ON l.feature_id = s.a AND l.labeler_id = $labeler
        JOIN labels r ON r.feature_id = s.b AND r.labeler_id = $reference AND r.entry_id = l.entry_id {here}
        GROUP BY s.name, s.kind, r.value, l.value, side ORDER BY s.name, truth, said""",
        _both(labeler, reference)
        | ({"dataset": dataset_id, **parameters} if dataset_id is not None else {})
        | ({"held_out": held_out} if held_out is not None else {}),
    ).df()


def shared_entries(con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler) -> pd.DataFrame:
    """Others who labelled by the same taxonomy what a labeler has: labeler_id, name, kind, taxonomy_id, here, anywhere.

    `here`, `anywhere`: entries that both have labelled, of the dataset and of all. `drawn_otherwise`: those of them
    that came to people by a queue that was no random draw (engine.queues), and by none that was.
    """
    others = con.execute(
        """
        SELECT DISTINCT labeler_id FROM labels WHERE labeler_id <> $labeler AND feature_id IN (
            SELECT feature_id FROM features JOIN taxonomies t USING (taxonomy_id) WHERE t.name = $name)""",
        {"labeler": labeler.labeler_id, "name": labeler.taxonomy},
    ).fetchall()
    if not others:  # nobody else: then there is nothing to join its labels with
        names = ("labeler_id", "name", "kind", "taxonomy_id", "anywhere", "here", "drawn_otherwise")
        return pd.DataFrame({name: [] for name in names})
    return con.execute(
        f"""
        WITH one AS (
            SELECT f.feature_id, f.name FROM features f WHERE f.taxonomy_id = $mine ORDER BY f.position LIMIT 1),
        mine AS (SELECT l.entry_id FROM labels l JOIN one USING (feature_id) WHERE l.labeler_id = $labeler),
        theirs AS (
            SELECT l.labeler_id, t.taxonomy_id, l.entry_id FROM labels l JOIN features f USING (feature_id)
            JOIN taxonomies t USING (taxonomy_id) JOIN one ON one.name = f.name
            WHERE t.name = $name AND l.labeler_id <> $labeler),
        queued AS (
            SELECT i.entry_id, bool_or(coalesce((q.params ->> 'random_sample')::BOOLEAN, false)) AS at_random
            FROM queue_items i JOIN queues q USING (queue_id) GROUP BY i.entry_id)
        SELECT theirs.labeler_id, b.name, b.kind, theirs.taxonomy_id, count(*) AS anywhere,
            count(*) FILTER (theirs.entry_id IN (FROM {catalog.ENTRIES_OF})) AS here,
            count(*) FILTER (b.kind IN ('gold', 'person') AND NOT q.at_random) AS drawn_otherwise
        FROM theirs SEMI JOIN mine USING (entry_id) JOIN labelers b USING (labeler_id)
        LEFT JOIN queued q ON q.entry_id = theirs.entry_id
        GROUP BY theirs.labeler_id, b.name, b.kind, theirs.taxonomy_id""",
        {"dataset": dataset_id, "mine": labeler.taxonomy_id, "labeler": labeler.labeler_id, "name": labeler.taxonomy},
    ).df()


@dataclass(frozen=True, slots=True)
class GoldSums:
    """Sums over prompts for one item (a feature, or class number `class_no` of one) on chosen, rejected and the gap."""

    feature: catalog.FeatureRow
    class_no: int | None
    chosen: Sums
    rejected: Sums | None
    gap: Sums | None


def gold_sums(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, reference: catalog.Labeler,
    part: Part = WHOLE, gold: Part = WHOLE, held_out: str | None = None,
) -> Iterator[GoldSums]:  # fmt: skip
    """What `prevalence.by_prediction` needs for every item, in the taxonomy's order.

    Over the part's pairs that `labeler` has labelled on both sides (or single entries); the reference's labels count in
    the pairs of `gold` only. `held_out`: see `label_arrays.labels`.
    """
    of = label_arrays.pairs(con, dataset_id, part)
    mine, theirs = catalog.features(con, labeler.taxonomy_id), catalog.features(con, reference.taxonomy_id)
    same = [(a, b) for a in mine for b in theirs if same_feature(a, b)]
    said = label_arrays.labels(con, labeler.labeler_id, [a for a, _ in same], of, held_out)
    truth = label_arrays.labels(con, reference.labeler_id, [b for _, b in same], of)
    allowed = None
    if gold != part:
        some = label_arrays.pairs(con, dataset_id, gold)
        allowed = np.unique(some.chosen if some.rejected is None else np.r_[some.chosen, some.rejected])
    for a, b in same:
        fc, fr = label_arrays.sides(of, said, a)
        yc, yr = label_arrays.sides(of, truth, b)
        if allowed is not None:
            yc = np.where(np.isin(of.chosen, allowed), yc, np.nan)
            yr = None if yr is None or of.rejected is None else np.where(np.isin(of.rejected, allowed), yr, np.nan)
        here = np.isfinite(fc) if fr is None else np.isfinite(fc) & np.isfinite(fr)
        if not here.any():
            continue
        codes = of.prompt[here]
        for (k, one), (_, other), (_, y), (_, z) in zip(
            *(as_items(a, values if values is None else values[here]) for values in (fc, fr, yc, yr))
        ):
            assert one is not None and y is not None
            paired = other is not None and z is not None
            yield GoldSums(
                a, k, Sums.of(y, one, codes), Sums.of(z, other, codes) if paired else None,
                Sums.of(y - z, one - other, codes) if paired else None,
            )  # fmt: skip
