"""What the values page shows, aggregated in SQL: prevalence of every feature or class on chosen and rejected.

A label becomes an *item*: a boolean, ternary, signed or numeric feature is one item with its value; each class of a
category is one item that is 1 where the entry has that class. Means over items are shares for booleans and classes.
"""

from __future__ import annotations

import math
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from engine import catalog, label_arrays
from engine.design_frames import WHOLE, Part
from engine.label_arrays import Ids, Pairs, Values


def items_sql(labeler_id: int, taxonomy_id: int) -> str:
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


# Features of two versions of a taxonomy that mean the same: by name, kind and classes.
SAME_FEATURES = """(
    SELECT a.feature_id AS a, b.feature_id AS b, a.name, a.kind, a.classes, a.position
    FROM features a JOIN features b ON b.name = a.name AND b.kind = a.kind AND b.classes = a.classes
    WHERE a.taxonomy_id = $mine AND b.taxonomy_id = $theirs AND a.kind <> 'numeric')"""


def same_feature(a: catalog.FeatureRow, b: catalog.FeatureRow) -> bool:
    """Whether features of two versions of a taxonomy mean the same; numbers are left out."""
    return (a.name, a.kind, a.classes) == (b.name, b.kind, b.classes) and a.kind != "numeric"


_NAMED = """
    SELECT s.*, f.name, f.kind, f.role, f.position,
        CASE WHEN s.class_no IS NULL THEN f.title ELSE json_extract_string(f.classes, '$[' || s.class_no || ']') END
            AS title,
        CASE WHEN s.class_no IS NULL THEN NULL ELSE json_extract_string(f.classes, '$[' || s.class_no || ']') END
            AS class_name
    FROM sums s JOIN features f USING (feature_id) ORDER BY f.position, s.class_no"""


def _effect(values: Values, mean: float, spread: float, codes: Ids) -> float:
    """Design effect of prompts with several pairs on a mean: variance by prompt over variance by pair, at least 1."""
    n, groups = len(values), int(np.count_nonzero(np.bincount(codes)))
    if n < 2 or groups < 2 or spread <= 0:
        return 1.0
    by_prompt = np.bincount(codes, values - mean)
    return max(1.0, float(by_prompt @ by_prompt) * groups / (groups - 1) / n / spread)


def _item(feature: catalog.FeatureRow, class_no: int | None, c: Values, r: Values | None, of: Pairs) -> dict[str, Any]:
    """One row of `prevalence` from the values of one item on both sides (NaN where missing)."""
    here = np.isfinite(c) if r is None else np.isfinite(c) & np.isfinite(r)
    codes = of.prompt[here] if of.repeated else of.prompt[:0]
    n = int(here.sum())
    name = feature.classes[class_no] if class_no is not None else None
    row: dict[str, Any] = {
        "feature_id": feature.feature_id, "class_no": class_no, "name": feature.name, "title": name or feature.title,
        "class_name": name, "kind": feature.kind, "role": feature.role, "n": n,
        "prompts": int(np.count_nonzero(np.bincount(codes))) if of.repeated else n,
    }  # fmt: skip
    quantities = {"chosen": c[here]} if r is None else {"chosen": c[here], "rejected": r[here], "gap": (c - r)[here]}
    for quantity in ("chosen", "rejected", "gap"):
        values = quantities.get(quantity)
        if values is None or not n:
            row |= {quantity: None, f"{quantity}_var": None, f"{quantity}_effect": None, f"{quantity}_sum": None}
            continue
        mean = float(values.mean())
        spread = float(values.var(ddof=1)) if n > 1 else math.nan
        effect = _effect(values, mean, spread, codes) if of.repeated else 1.0
        row |= {quantity: mean, f"{quantity}_var": spread, f"{quantity}_effect": effect,
                f"{quantity}_sum": float(values.sum())}  # fmt: skip
    return row


def as_items(feature: catalog.FeatureRow, values: Values | None) -> list[tuple[int | None, Values | None]]:
    """A feature's items: itself, or for a category a share (0, 1; NaN where missing) a class."""
    if feature.kind != "category":
        return [(None, values)]
    if values is None:
        return [(k, None) for k in range(len(feature.classes))]
    return [(k, np.where(np.isfinite(values), values == k, np.nan)) for k in range(len(feature.classes))]


def prevalence(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler_id: int, taxonomy_id: int, part: Part = WHOLE
) -> pd.DataFrame:
    """A row an item, over the pairs both of whose sides are labelled, so that the gap is a paired difference.

    Columns: feature_id, class_no, name, title, class_name, kind, role, n, prompts, chosen, rejected (means),
    chosen_var, rejected_var, gap, gap_var (sample variances), chosen_sum, rejected_sum, and chosen_effect,
    rejected_effect, gap_effect (by which several pairs of a prompt widen the mean's variance). For single entries the
    columns of rejected and gap are missing values.
    """
    of = label_arrays.pairs(con, dataset_id, part)
    features = catalog.features(con, taxonomy_id)
    given = label_arrays.labels(con, labeler_id, features, of)
    rows = []
    for feature in features:
        c, r = label_arrays.sides(of, given, feature)
        rows += [_item(feature, k, one, other, of)  # type: ignore[arg-type]
                 for (k, one), (_, other) in zip(as_items(feature, c), as_items(feature, r))]  # fmt: skip
    return _framed(rows)


def _framed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame([row for row in rows if row["n"]])
    return frame.astype({name: float for name in frame.columns if name.split("_")[0] in ("rejected", "gap")})


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
    found = con.execute(
        f"""
        WITH linked AS (
            SELECT o.prompt_id, q.chosen AS asked FROM pairs q
            JOIN prompts o ON q.pair_id = $begin || replace(o.hash::VARCHAR, '-', '') WHERE q.dataset_id = $prompts)
        SELECT p.prompt_id, p.{"rejected" if side == "rejected" else "chosen"} AS answer, linked.asked
        FROM pairs p JOIN linked USING (prompt_id) WHERE p.dataset_id = $dataset {condition}""",
        {"dataset": dataset_id, "prompts": prompts, "begin": PROMPT_ID, **parameters},
    ).fetchnumpy()
    of = label_arrays.linked(found["prompt_id"], found["answer"], found["asked"])
    if of.rejected is None:
        return pd.DataFrame()
    mine, theirs = catalog.features(con, labeler.taxonomy_id), catalog.features(con, of_prompts.taxonomy_id)
    same = [(a, b) for a in mine for b in theirs if same_feature(a, b)]
    answers = label_arrays.labels(con, labeler.labeler_id, [a for a, _ in same], of)
    asked = label_arrays.labels(con, of_prompts.labeler_id, [b for _, b in same], of)
    rows = []
    for a, b in same:
        one, other = answers.of(a)[of.chosen - answers.low], asked.of(b)[of.rejected - asked.low]
        for (k, c), (_, r) in zip(as_items(a, one), as_items(b, other)):
            assert c is not None and r is not None
            row = _item(a, k, c, r, of)
            here = np.isfinite(c) & np.isfinite(r)
            for name, which in (("shown", here & (r > 0)), ("base", here & (r <= 0))):
                row[name] = float((c[which] > 0).mean()) if which.any() else math.nan
            rows.append(row)
    return _framed(rows)


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
