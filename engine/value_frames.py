"""What the values page shows, aggregated in SQL: prevalence of every feature or class on chosen and rejected.

A label becomes an *item*: a boolean, ternary, signed or numeric feature is one item with its value; each class of a
category is one item that is 1 where the entry has that class. Means over items are shares for booleans and classes.
"""

from __future__ import annotations

import duckdb
import pandas as pd


def _items(labeler_id: int, taxonomy_id: int) -> str:
    """SQL of (entry_id, feature_id, class_no, value): class_no is NULL except for classes of a category."""
    return f"""(
        SELECT l.entry_id, l.feature_id, NULL::INTEGER AS class_no, l.value
        FROM labels l JOIN features f USING (feature_id)
        WHERE l.labeler_id = {int(labeler_id)} AND f.taxonomy_id = {int(taxonomy_id)} AND f.kind <> 'category'
        UNION ALL
        SELECT l.entry_id, l.feature_id, k::INTEGER, (l.value = k)::DOUBLE
        FROM labels l JOIN features f USING (feature_id),
            range(0, (SELECT coalesce(max(json_array_length(classes)), 0)::BIGINT FROM features
                WHERE taxonomy_id = {int(taxonomy_id)})) AS r(k)
        WHERE l.labeler_id = {int(labeler_id)} AND f.taxonomy_id = {int(taxonomy_id)} AND f.kind = 'category'
            AND k < json_array_length(f.classes))"""


_NAMED = """
    SELECT s.*, f.name, f.kind, f.role, f.position,
        CASE WHEN s.class_no IS NULL THEN f.title ELSE json_extract_string(f.classes, '$[' || s.class_no || ']') END
            AS title,
        CASE WHEN s.class_no IS NULL THEN NULL ELSE json_extract_string(f.classes, '$[' || s.class_no || ']') END
            AS class_name
    FROM sums s JOIN features f USING (feature_id) ORDER BY f.position, s.class_no"""


def prevalence(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler_id: int, taxonomy_id: int, subset: str | None = None
) -> pd.DataFrame:
    """A row an item, over the pairs both of whose sides are labelled, so that the gap is a paired difference.

    Columns: feature_id, class_no, name, title, class_name, kind, role, position, n, chosen, rejected (means),
    chosen_var, rejected_var, gap, gap_var (sample variances), chosen_sum, rejected_sum. For single entries the
    rejected columns are NULL.
    """
    condition = "AND p.subset = $subset" if subset is not None else ""
    parameters: dict[str, object] = {"dataset": dataset_id} | ({"subset": subset} if subset is not None else {})
    return con.execute(
        f"""
        WITH items AS MATERIALIZED {_items(labeler_id, taxonomy_id)},
        sums AS (
            SELECT c.feature_id, c.class_no, count(*) AS n, avg(c.value) AS chosen, avg(r.value) AS rejected,
                var_samp(c.value) AS chosen_var, var_samp(r.value) AS rejected_var,
                avg(c.value - r.value) AS gap, var_samp(c.value - r.value) AS gap_var,
                sum(c.value) AS chosen_sum, sum(r.value) AS rejected_sum
            FROM pairs p JOIN items c ON c.entry_id = p.chosen
            LEFT JOIN items r ON r.entry_id = p.rejected AND r.feature_id = c.feature_id
                AND r.class_no IS NOT DISTINCT FROM c.class_no
            WHERE p.dataset_id = $dataset {condition} AND (p.rejected IS NULL OR r.entry_id IS NOT NULL)
            GROUP BY c.feature_id, c.class_no)
        {_NAMED}""",
        parameters,
    ).df()


def one_side(con: duckdb.DuckDBPyConnection, dataset_id: int, labeler_id: int, taxonomy_id: int) -> pd.DataFrame:
    """Means over all labelled entries of a dataset, side by side with nothing: columns as `prevalence`, n entries.

    For labelers that saw only one side of most pairs (`chosen` holds the mean over all entries).
    """
    return con.execute(
        f"""
        WITH items AS MATERIALIZED {_items(labeler_id, taxonomy_id)},
        here AS (
            SELECT chosen AS entry_id FROM pairs WHERE dataset_id = $dataset
            UNION SELECT rejected FROM pairs WHERE dataset_id = $dataset AND rejected IS NOT NULL),
        sums AS (
            SELECT feature_id, class_no, count(*) AS n, avg(value) AS chosen, var_samp(value) AS chosen_var,
                sum(value) AS chosen_sum
            FROM items SEMI JOIN here USING (entry_id) GROUP BY feature_id, class_no)
        {_NAMED}""",
        {"dataset": dataset_id},
    ).df()


def cooccurrence(con: duckdb.DuckDBPyConnection, dataset_id: int, labeler_id: int, taxonomy_id: int) -> pd.DataFrame:
    """Correlation (phi for booleans) of every two items over the dataset's labelled entries: a, b, phi, both, n.

    `both` counts the entries in which both items are above zero. `a`, `b` are item titles; each pair comes both ways.
    """
    return con.execute(
        f"""
        WITH here AS (
            SELECT chosen AS entry_id FROM pairs WHERE dataset_id = $dataset
            UNION SELECT rejected FROM pairs WHERE dataset_id = $dataset AND rejected IS NOT NULL),
        items AS MATERIALIZED (
            SELECT entry_id, feature_id * 1000 + coalesce(class_no, 0) AS item, feature_id, class_no, value
            FROM {_items(labeler_id, taxonomy_id)} i SEMI JOIN here USING (entry_id)),
        alone AS (
            SELECT item, feature_id, class_no, count(*) AS n, sum(value) AS s, sum(value * value) AS ss
            FROM items GROUP BY ALL),
        crossed AS (
            SELECT x.item AS i, y.item AS j, sum(x.value * y.value) AS sxy, count_if(y.value > 0) AS both
            FROM (SELECT * FROM items WHERE value <> 0) x JOIN (SELECT * FROM items WHERE value <> 0) y
            ON y.entry_id = x.entry_id AND x.item <> y.item GROUP BY ALL),
        named AS (
            SELECT alone.*, CASE WHEN class_no IS NULL THEN f.title
                ELSE json_extract_string(f.classes, '$[' || class_no || ']') END AS title, f.position
            FROM alone JOIN features f USING (feature_id))
        SELECT a.title AS a, b.title AS b, a.n, coalesce(c.both, 0) AS both,
            (coalesce(c.sxy, 0) / a.n - (a.s / a.n) * (b.s / b.n)) / nullif(
                sqrt(greatest(a.ss / a.n - (a.s / a.n) ** 2, 0) * greatest(b.ss / b.n - (b.s / b.n) ** 2, 0)), 0) AS phi
        FROM named a JOIN named b ON a.item <> b.item LEFT JOIN crossed c ON c.i = a.item AND c.j = b.item
        ORDER BY a.position, a.class_no, b.position, b.class_no""",
        {"dataset": dataset_id},
    ).df()


def _groups(con: duckdb.DuckDBPyConnection, dataset_id: int, column: str) -> list[str]:
    rows = con.execute(
        f"SELECT {column} FROM pairs WHERE dataset_id = ? GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT 200",
        [dataset_id],
    ).fetchall()
    return [str(row[0] or "") for row in rows]


def subsets(con: duckdb.DuckDBPyConnection, dataset_id: int) -> list[str]:
    """The dataset's subsets by size, at most 200."""
    return _groups(con, dataset_id, "subset")


def splits(con: duckdb.DuckDBPyConnection, dataset_id: int) -> list[str]:
    """The dataset's splits by size, at most 200."""
    return _groups(con, dataset_id, "split")
