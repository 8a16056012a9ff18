"""What the values page shows, aggregated in SQL: prevalence of every feature or class on chosen and rejected.

A label becomes an *item*: a boolean, ternary, signed or numeric feature is one item with its value; each class of a
category is one item that is 1 where the entry has that class. Means over items are shares for booleans and classes.
"""

from __future__ import annotations

import duckdb
import pandas as pd

from engine import catalog
from engine.design_frames import WHOLE, Part


def items_sql(labeler_id: int, taxonomy_id: int, labels: str = "labels") -> str:
    """SQL of (entry_id, feature_id, class_no, value): class_no is NULL except for classes of a category.

    `labels`: a table with the columns of labels."""
    return f"""(
        SELECT l.entry_id, l.feature_id, NULL::INTEGER AS class_no, l.value
        FROM {labels} l JOIN features f USING (feature_id)
        WHERE l.labeler_id = {int(labeler_id)} AND f.taxonomy_id = {int(taxonomy_id)} AND f.kind <> 'category'
        UNION ALL
        SELECT l.entry_id, l.feature_id, k::INTEGER, (l.value = k)::DOUBLE
        FROM {labels} l JOIN features f USING (feature_id),
            range(0, (SELECT coalesce(max(json_array_length(classes)), 0)::BIGINT FROM features
                WHERE taxonomy_id = {int(taxonomy_id)})) AS r(k)
        WHERE l.labeler_id = {int(labeler_id)} AND f.taxonomy_id = {int(taxonomy_id)} AND f.kind = 'category'
            AND k < json_array_length(f.classes))"""


# Features of two versions of a taxonomy that mean the same: by name, kind and classes.
SAME_FEATURES = """(
    SELECT a.feature_id AS a, b.feature_id AS b, a.name, a.kind, a.classes, a.position
    FROM features a JOIN features b ON b.name = a.name AND b.kind = a.kind AND b.classes = a.classes
    WHERE a.taxonomy_id = $mine AND b.taxonomy_id = $theirs AND a.kind <> 'numeric')"""

_NAMED = """
    SELECT s.*, f.name, f.kind, f.role, f.position,
        CASE WHEN s.class_no IS NULL THEN f.title ELSE json_extract_string(f.classes, '$[' || s.class_no || ']') END
            AS title,
        CASE WHEN s.class_no IS NULL THEN NULL ELSE json_extract_string(f.classes, '$[' || s.class_no || ']') END
            AS class_name
    FROM sums s JOIN features f USING (feature_id) ORDER BY f.position, s.class_no"""


def _clustered(side: str) -> str:
    """Design effect of prompts with several pairs on a mean: variance by prompt over variance by pair, at least 1.

    From sums over prompts: m pairs, s of the value, q of its square. Cameron and Miller 2015 with the G/(G-1) factor.
    """
    mean, n = f"(sum(s_{side}) / sum(m))", "sum(m)"
    prompts = f"(sum(s_{side} * s_{side}) - 2 * {mean} * sum(s_{side} * m) + {mean} * {mean} * sum(m * m))"
    pairs = f"nullif(sum(q_{side}) - {n} * {mean} * {mean}, 0)"
    factor = f"(count(*) / nullif(count(*) - 1.0, 0)) / ({n} / nullif({n} - 1.0, 0))"
    return f"greatest(1.0, coalesce({prompts} / {pairs} * {factor}, 1.0))"


_MEANS = ", ".join(
    f"sum(s_{i}) / sum(m) AS {name}, "
    f"greatest(0, sum(q_{i}) - sum(s_{i}) ** 2 / sum(m)) / nullif(sum(m) - 1, 0) AS {name}_var, "
    f"{_clustered(i)} AS {name}_effect"
    for name, i in (("chosen", "c"), ("rejected", "r"), ("gap", "g"))
)


def prevalence(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler_id: int, taxonomy_id: int, part: Part = WHOLE
) -> pd.DataFrame:
    """A row an item, over the pairs both of whose sides are labelled, so that the gap is a paired difference.

    Columns: feature_id, class_no, name, title, class_name, kind, role, position, n, prompts, chosen, rejected (means),
    chosen_var, rejected_var, gap, gap_var (sample variances), chosen_sum, rejected_sum, and chosen_effect,
    rejected_effect, gap_effect (by which several pairs of a prompt widen the mean's variance). For single entries the
    rejected columns are NULL.
    """
    condition, parameters = part.condition()
    return con.execute(
        f"""
        WITH items AS MATERIALIZED {items_sql(labeler_id, taxonomy_id)},
        by_prompt AS (
            SELECT c.feature_id, c.class_no, p.prompt_id, count(*)::DOUBLE AS m,
                sum(c.value) AS s_c, sum(c.value * c.value) AS q_c, sum(r.value) AS s_r, sum(r.value * r.value) AS q_r,
                sum(c.value - r.value) AS s_g, sum((c.value - r.value) ** 2) AS q_g
            FROM pairs p JOIN items c ON c.entry_id = p.chosen
            LEFT JOIN items r ON r.entry_id = p.rejected AND r.feature_id = c.feature_id
                AND r.class_no IS NOT DISTINCT FROM c.class_no
            WHERE p.dataset_id = $dataset {condition} AND (p.rejected IS NULL OR r.entry_id IS NOT NULL)
            GROUP BY c.feature_id, c.class_no, p.prompt_id),
        sums AS (
            SELECT feature_id, class_no, sum(m)::BIGINT AS n, count(*) AS prompts, sum(s_c) AS chosen_sum,
                sum(s_r) AS rejected_sum, {_MEANS}
            FROM by_prompt GROUP BY feature_id, class_no)
        {_NAMED}""",
        {"dataset": dataset_id, **parameters},
    ).df()


def one_side(con: duckdb.DuckDBPyConnection, dataset_id: int, labeler_id: int, taxonomy_id: int) -> pd.DataFrame:
    """Means over all labelled entries of a dataset, side by side with nothing: columns as `prevalence`, n entries.

    For labelers that saw only one side of most pairs (`chosen` holds the mean over all entries).
    """
    return con.execute(
        f"""
        WITH items AS MATERIALIZED {items_sql(labeler_id, taxonomy_id)},
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


PROMPT_ID = "prompt-"  # how a pair_id of a dataset of prompts begins; the prompt's hash follows


def prompts_of(con: duckdb.DuckDBPyConnection, dataset_id: int) -> list[str]:
    """Names of datasets that hold this dataset's prompts as entries (made by `derive_prompts`)."""
    rows = con.execute(
        """
        SELECT d.name FROM datasets d WHERE d.kind = 'entries' AND EXISTS (
            SELECT 1 FROM pairs q JOIN prompts o ON q.pair_id = $begin || replace(o.hash::VARCHAR, '-', '')
            JOIN pairs p ON p.prompt_id = o.prompt_id
            WHERE q.dataset_id = d.dataset_id AND p.dataset_id = $dataset)
        ORDER BY d.dataset_id""",
        {"begin": PROMPT_ID, "dataset": dataset_id},
    ).fetchall()
    return [str(row[0]) for row in rows]


def against_prompts(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, prompts: int,
    of_prompts: catalog.Labeler, side: str = "chosen", part: Part = WHOLE,
) -> pd.DataFrame:  # fmt: skip
    """Columns as `prevalence`, with the answers of one side as chosen and their own prompts as rejected.

    `prompts` is the dataset that `derive_prompts` made, `of_prompts` who labelled it. Over pairs with both labels; more
    columns: `shown` and `base`, the share of answers that have the item where the prompt has it, and where not.
    """
    condition, parameters = part.condition()
    return con.execute(
        f"""
        WITH same AS {SAME_FEATURES},
        items AS MATERIALIZED {items_sql(labeler.labeler_id, labeler.taxonomy_id)},
        asked AS MATERIALIZED (
            SELECT i.entry_id, same.a AS feature_id, i.class_no, i.value
            FROM {items_sql(of_prompts.labeler_id, of_prompts.taxonomy_id)} i JOIN same ON same.b = i.feature_id),
        linked AS (
            SELECT o.prompt_id, q.chosen AS entry_id FROM pairs q
            JOIN prompts o ON q.pair_id = $begin || replace(o.hash::VARCHAR, '-', '') WHERE q.dataset_id = $prompts),
        by_prompt AS (
            SELECT c.feature_id, c.class_no, p.prompt_id, count(*)::DOUBLE AS m,
                sum(c.value) AS s_c, sum(c.value * c.value) AS q_c, sum(r.value) AS s_r, sum(r.value * r.value) AS q_r,
                sum(c.value - r.value) AS s_g, sum((c.value - r.value) ** 2) AS q_g,
                count(*) FILTER (r.value > 0) AS m_1, count(*) FILTER (r.value > 0 AND c.value > 0) AS s_1,
                count(*) FILTER (r.value <= 0 AND c.value > 0) AS s_0
            FROM pairs p JOIN items c ON c.entry_id = p.{"rejected" if side == "rejected" else "chosen"}
            JOIN linked USING (prompt_id)
            JOIN asked r ON r.entry_id = linked.entry_id AND r.feature_id = c.feature_id
                AND r.class_no IS NOT DISTINCT FROM c.class_no
            WHERE p.dataset_id = $dataset {condition}
            GROUP BY c.feature_id, c.class_no, p.prompt_id),
        sums AS (
            SELECT feature_id, class_no, sum(m)::BIGINT AS n, count(*) AS prompts, sum(s_c) AS chosen_sum,
                sum(s_r) AS rejected_sum, {_MEANS}, sum(s_1) / nullif(sum(m_1), 0) AS shown,
                sum(s_0) / nullif(sum(m) - sum(m_1), 0) AS base
            FROM by_prompt GROUP BY feature_id, class_no)
        {_NAMED}""",
        {"dataset": dataset_id, "prompts": prompts, "begin": PROMPT_ID, "mine": labeler.taxonomy_id,
         "theirs": of_prompts.taxonomy_id, **parameters},
    ).df()  # fmt: skip


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
            FROM {items_sql(labeler_id, taxonomy_id)} i SEMI JOIN here USING (entry_id)),
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
