"""Vectors of signed values of answers by who gave them, summed in SQL.

A vector has a place for every signed feature of a taxonomy; only entries that the labeler has labelled completely
count. Sums are by prompt, so that `engine.targets.Vector.of_sums` can cluster them.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pandas as pd

from engine import catalog
from engine.design_frames import WHOLE, Part


def signed_features(con: duckdb.DuckDBPyConnection, taxonomy_id: int) -> list[catalog.FeatureRow]:
    """The signed features of a taxonomy that judge the response: the axes of its value vectors."""
    return [f for f in catalog.features(con, taxonomy_id) if f.kind == "signed" and f.scope == "response"]


def _wide(features: list[catalog.FeatureRow]) -> str:
    """SQL of (entry_id, v0, v1, ...): the vector of every entry that the labeler ($labeler) has labelled completely."""
    ids = ", ".join(str(f.feature_id) for f in features)
    columns = ", ".join(f"max(value) FILTER (feature_id = {f.feature_id}) AS v{i}" for i, f in enumerate(features))
    return f"""(
        SELECT entry_id, {columns} FROM labels WHERE labeler_id = $labeler AND feature_id IN ({ids})
        GROUP BY entry_id HAVING count(DISTINCT feature_id) = {len(features)})"""


def _sums_by_prompt(rows: str, names: list[str], by: str) -> str:
    """SQL of sums over prompts of rows (`by`, prompt_id, names): n, prompts, s0.., the products x0_0.. of (m, s)."""
    inner = ", ".join(f"sum({name}) AS s{i}" for i, name in enumerate(names))
    outer = [f"sum(s{i}) AS s{i}" for i in range(len(names))]
    parts = ["m", *(f"s{i}" for i in range(len(names)))]
    outer += [f"sum({a} * {b}) AS x{i}_{j}" for i, a in enumerate(parts) for j, b in enumerate(parts) if i <= j]
    return f"""
        SELECT {by}, sum(m)::BIGINT AS n, count(*) AS prompts, {", ".join(outer)} FROM (
            SELECT {by}, prompt_id, count(*)::DOUBLE AS m, {inner} FROM {rows} GROUP BY {by}, prompt_id)
        GROUP BY {by}"""


@dataclass(frozen=True, slots=True)
class Grouping:
    """A field of the source that tells answers apart: the JSON keys of `pairs.extra` for chosen and for rejected."""

    title: str
    chosen: str
    rejected: str


def _path(key: str) -> str:
    return '$."' + key + '"'


def groupings(con: duckdb.DuckDBPyConnection, dataset_id: int, most: int = 200) -> list[Grouping]:
    """Fields that may name who answered: short texts with 2 to `most` different values among the first 20,000 pairs.

    chosen_x and rejected_x make one field of its own value on each side; they come first, model-like names before.
    """
    rows = con.execute(
        """
        WITH first AS (SELECT extra FROM pairs WHERE dataset_id = ? AND extra IS NOT NULL LIMIT 20000),
        keys AS (SELECT extra, unnest(json_keys(extra)) AS key FROM first),
        texts AS (SELECT key, json_extract_string(extra, '$."' || key || '"') AS text,
            json_type(extra, '$."' || key || '"') AS type FROM keys WHERE NOT contains(key, '"'))
        SELECT key, count(DISTINCT text) FROM texts WHERE type = 'VARCHAR' GROUP BY key
        HAVING max(length(text)) <= 100 ORDER BY key""",
        [dataset_id],
    ).fetchall()
    counts = {str(key): int(n) for key, n in rows}
    found, used = [], set()
    for key in counts:
        for one, other, title in ((f"chosen{key[6:]}", f"rejected{key[6:]}", key[6:]),
                                  (f"{key[:-6]}chosen", f"{key[:-6]}rejected", key[:-6])):  # fmt: skip
            if key == one and other in counts and title.strip("_- "):
                found.append(Grouping(title.strip("_- "), one, other))
                used |= {one, other}
    found += [Grouping(key, key, key) for key, n in counts.items() if key not in used and 2 <= n <= most]
    return sorted(found, key=lambda g: (g.chosen == g.rejected, not _names_a_model(g.title), g.title))


def _names_a_model(title: str) -> bool:
    return any(word in title.lower() for word in ("model", "source", "generator", "policy"))


def group_vectors(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler_id: int, features: list[catalog.FeatureRow],
    grouping: Grouping, part: Part = WHOLE, most: int = 50,
) -> pd.DataFrame:  # fmt: skip
    """Sums over prompts of answers' value vectors, each answer once, by what a field says of who answered.

    A row a group, the `most` groups with the most answers: who, n, prompts, wins (share of the group's sides in pairs
    that are chosen; NaN for single entries), s0.., x0_0.. as `targets.Vector.of_sums` reads them.
    """
    condition, parameters = part.condition()
    names = [f"v{i}" for i in range(len(features))]
    return con.execute(
        f"""
        WITH wide AS MATERIALIZED {_wide(features)},
        sides AS MATERIALIZED (
            SELECT json_extract_string(p.extra, $chosen) AS who, p.prompt_id, p.chosen AS entry_id, true AS won,
                p.rejected IS NOT NULL AS paired
            FROM pairs p WHERE p.dataset_id = $dataset {condition}
            UNION ALL SELECT json_extract_string(p.extra, $rejected), p.prompt_id, p.rejected, false, true
            FROM pairs p WHERE p.dataset_id = $dataset AND p.rejected IS NOT NULL {condition}),
        answers AS (
            SELECT DISTINCT ON (who, entry_id) who, prompt_id, wide.* FROM sides JOIN wide USING (entry_id)
            WHERE who IS NOT NULL),
        summed AS ({_sums_by_prompt("answers", names, "who")}),
        won AS (SELECT who, avg(won::INTEGER) FILTER (paired) AS wins FROM sides GROUP BY who)
        SELECT summed.*, won.wins FROM summed JOIN won USING (who) ORDER BY n DESC, who LIMIT {int(most)}""",
        {"dataset": dataset_id, "labeler": labeler_id, "chosen": _path(grouping.chosen),
         "rejected": _path(grouping.rejected), **parameters},
    ).df()  # fmt: skip
