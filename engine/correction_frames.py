"""What correcting a labeler by gold labels needs, counted in SQL: what it says of pairs, how it errs, gold sums."""

from __future__ import annotations

from typing import Any

import duckdb
import pandas as pd

from engine import catalog
from engine.design_frames import WHOLE, Part
from engine.value_frames import SAME_FEATURES, items_sql


def joint(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler_id: int, taxonomy_id: int, part: Part = WHOLE
) -> pd.DataFrame:
    """Pairs by what a labeler says of both sides: name, kind, classes, chosen, rejected (label values), n.

    `rejected` is NULL for single entries; numeric features are left out.
    """
    condition, parameters = part.condition()
    return con.execute(
        f"""
        WITH here AS (
            SELECT entry_id, feature_id, value FROM labels WHERE labeler_id = $labeler AND feature_id IN (
                SELECT feature_id FROM features WHERE taxonomy_id = $taxonomy AND kind <> 'numeric')),
        counted AS (
            SELECT c.feature_id, c.value AS chosen, r.value AS rejected, count(*) AS n
            FROM pairs p JOIN here c ON c.entry_id = p.chosen
            LEFT JOIN here r ON r.entry_id = p.rejected AND r.feature_id = c.feature_id
            WHERE p.dataset_id = $dataset {condition} AND (p.rejected IS NULL OR r.entry_id IS NOT NULL)
            GROUP BY ALL)
        SELECT f.name, f.kind, f.classes, c.chosen, c.rejected, c.n
        FROM counted c JOIN features f USING (feature_id) ORDER BY f.position, c.chosen, c.rejected""",
        {"labeler": labeler_id, "taxonomy": taxonomy_id, "dataset": dataset_id, **parameters},
    ).df()


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


_VECTOR = ("gold", "truth", "said", "rest", "rest_said")


def gold_sums(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, reference: catalog.Labeler,
    part: Part = WHOLE, gold: Part = WHOLE, held_out: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """What `prevalence.Sums` holds, for every item on chosen, on rejected and for the gap: sums over prompts.

    Columns: name, class_no, kind, quantity (chosen, rejected, gap), the five sums t0..t4, their products x00..x44, and
    prompts with gold. Over the part's pairs that `labeler` has labelled on both sides (or single entries); the
    reference's labels count in the pairs of `gold` only. `held_out`: see `_on_gold`.
    """
    condition, parameters = part.condition()
    of_gold, gold_parameters = gold.condition("gold_")
    totals = ", ".join(f"sum({name}) AS t{i}" for i, name in enumerate(_VECTOR))
    products = ", ".join(f"sum({_VECTOR[i]} * {_VECTOR[j]}) AS x{i}{j}" for i in range(5) for j in range(i, 5))
    quantities = {"chosen": ("yc", "fc"), "rejected": ("yr", "fr"), "gap": ("yc - yr", "fc - fr")}
    each = " UNION ALL ".join(
        f"""SELECT feature_id, class_no, prompt_id, '{name}' AS quantity, count({y})::DOUBLE AS gold,
            coalesce(sum({y}), 0) AS truth, coalesce(sum({f}) FILTER (({y}) IS NOT NULL), 0) AS said,
            count({f}) FILTER (({y}) IS NULL)::DOUBLE AS rest, coalesce(sum({f}) FILTER (({y}) IS NULL), 0) AS rest_said
            FROM wide WHERE ({f}) IS NOT NULL GROUP BY ALL"""
        for name, (y, f) in quantities.items()
    )
    return con.execute(
        f"""
        WITH same AS {SAME_FEATURES},
        seen AS MATERIALIZED (SELECT * FROM {_on_gold(held_out)} WHERE labeler_id = {int(labeler.labeler_id)}),
        said AS MATERIALIZED (
            SELECT i.* FROM {items_sql(labeler.labeler_id, labeler.taxonomy_id, "seen")} i
            JOIN same ON same.a = i.feature_id),
        golden AS MATERIALIZED (
            SELECT p.chosen AS entry_id FROM pairs p WHERE p.dataset_id = $dataset {of_gold}
            UNION SELECT p.rejected FROM pairs p WHERE p.dataset_id = $dataset {of_gold}),
        truth AS MATERIALIZED (
            SELECT i.entry_id, same.a AS feature_id, i.class_no, i.value
            FROM {items_sql(reference.labeler_id, reference.taxonomy_id)} i JOIN same ON same.b = i.feature_id
            SEMI JOIN golden ON golden.entry_id = i.entry_id),
        wide AS MATERIALIZED (
            SELECT p.prompt_id, c.feature_id, c.class_no, c.value AS fc, r.value AS fr, tc.value AS yc, tr.value AS yr
            FROM pairs p JOIN said c ON c.entry_id = p.chosen
            LEFT JOIN said r ON r.entry_id = p.rejected AND r.feature_id = c.feature_id
                AND r.class_no IS NOT DISTINCT FROM c.class_no
            LEFT JOIN truth tc ON tc.entry_id = p.chosen AND tc.feature_id = c.feature_id
                AND tc.class_no IS NOT DISTINCT FROM c.class_no
            LEFT JOIN truth tr ON tr.entry_id = p.rejected AND tr.feature_id = c.feature_id
                AND tr.class_no IS NOT DISTINCT FROM c.class_no
            WHERE p.dataset_id = $dataset {condition} AND (p.rejected IS NULL OR r.entry_id IS NOT NULL)),
        by_prompt AS ({each})
        SELECT f.name, b.class_no, f.kind, b.quantity, count(*) FILTER (b.gold > 0) AS prompts, {totals}, {products}
        FROM by_prompt b JOIN features f USING (feature_id)
        GROUP BY f.name, b.class_no, f.kind, b.quantity, f.position ORDER BY f.position, b.class_no, b.quantity""",
        {"dataset": dataset_id, "mine": labeler.taxonomy_id, "theirs": reference.taxonomy_id, **parameters,
         **gold_parameters, **({"held_out": held_out, "labeler": labeler.labeler_id} if held_out is not None else {})},
    ).df()  # fmt: skip
