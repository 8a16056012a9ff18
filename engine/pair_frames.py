"""Single pairs out of the store: rows for a list, and everything known about one pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pandas as pd

from engine.records import SignetError, Turn, turns_from_json
from engine.store import FLAGS
from engine.tallies import listed, placed


@dataclass(frozen=True)
class PairDetail:
    """All that is stored about one pair. `prompt` is shared; `chosen_tail`, `rejected_tail` are a side's own turns
    between the shared prompt and its response (empty for most). `rejected` is None for a single entry.

    rewards: model, chosen, rejected, margin. labels: taxonomy, labeler, feature, chosen, rejected (as text).
    rewrites: side, rewriter, response, similarity.
    """

    pair_no: int
    pair_id: str
    subset: str
    split: str
    row: int
    strength: float | None
    flags: tuple[str, ...]
    extra: dict[str, Any]
    prompt: tuple[Turn, ...]
    chosen_tail: tuple[Turn, ...]
    rejected_tail: tuple[Turn, ...]
    chosen: str
    rejected: str | None
    rewards: pd.DataFrame
    labels: pd.DataFrame
    rewrites: pd.DataFrame


def rows(
    con: duckdb.DuckDBPyConnection, dataset_id: int, pair_nos: Sequence[int], models: Sequence[int]
) -> pd.DataFrame:
    """List rows in the given order: pair_no, pair_id, subset, prompt, chosen, rejected (first 200 characters), flags,
    and a margin column `m0`, `m1` ... for each model id."""
    if not pair_nos:
        return pd.DataFrame()
    names = ", ".join(f"CASE WHEN flags & {bit} > 0 THEN '{name}' END" for name, (bit, _) in FLAGS.items())
    # With ids written out, every table is read only where it holds them, and never joined as a whole.
    pairs = con.execute(
        f"""
        SELECT pair_no, pair_id, subset, prompt_id, chosen AS c, rejected AS r, concat_ws(', ', {names}) AS flags
        FROM pairs WHERE dataset_id = ? AND {placed("pairs", "pair_no", pair_nos)}""",
        [dataset_id],
    ).df()
    sides = [int(one) for one in pd.concat([pairs["c"], pairs["r"]]).dropna().unique()]
    prompts = con.execute(
        f"""
        SELECT prompt_id, left(json_extract_string(turns, '$[#-1][1]'), 200) AS text FROM prompts
        WHERE {placed("prompts", "prompt_id", pairs["prompt_id"])}"""
    ).fetchall()
    texts = con.execute(
        f"SELECT entry_id, left(response, 200) FROM entries WHERE {placed('entries', 'entry_id', sides)}"
    ).fetchall()
    frame = pairs[["pair_no", "pair_id", "subset"]].assign(
        prompt=pairs["prompt_id"].map(dict(prompts)), chosen=pairs["c"].map(dict(texts)),
        rejected=pairs["r"].map(dict(texts)), flags=pairs["flags"],
    )  # fmt: skip
    for i, model in enumerate(models):
        rewards = dict(
            con.execute(
                f"SELECT entry_id, reward FROM rewards WHERE model_id = ? AND entry_id IN ({listed(sides)})",
                [int(model)],
            ).fetchall()
        )
        frame[f"m{i}"] = pairs["c"].map(rewards).astype(float) - pairs["r"].map(rewards).astype(float)
    return frame.set_index("pair_no").loc[list(pair_nos)].reset_index()


def pair_no(con: duckdb.DuckDBPyConnection, dataset_id: int, pair_id: str) -> int:
    """The number of the pair of that id; SignetError when there is none."""
    row = con.execute(
        "SELECT pair_no FROM pairs WHERE dataset_id = ? AND pair_id = ?", [dataset_id, pair_id]
    ).fetchone()
    if row is None:
        raise SignetError(f"No pair {pair_id!r} in this dataset.")
    return int(row[0])


def detail(con: duckdb.DuckDBPyConnection, dataset_id: int, number: int) -> PairDetail:
    """Everything about one pair; SignetError when there is none of that number."""
    row = con.execute(
        """
        SELECT p.pair_id, p.subset, p.split, p.source_row, p.strength, p.flags, p.extra, q.turns, c.response,
            r.response, cq.turns, rq.turns, p.chosen, p.rejected
        FROM pairs p JOIN prompts q ON q.prompt_id = p.prompt_id JOIN entries c ON c.entry_id = p.chosen
        JOIN prompts cq ON cq.prompt_id = c.prompt_id LEFT JOIN entries r ON r.entry_id = p.rejected
        LEFT JOIN prompts rq ON rq.prompt_id = r.prompt_id
        WHERE p.dataset_id = ? AND p.pair_no = ?""",
        [dataset_id, number],
    ).fetchone()
    if row is None:
        raise SignetError(f"No pair number {number} in this dataset.")
    prompt = turns_from_json(row[7])
    tails = [turns_from_json(text)[len(prompt) :] if text else () for text in (row[10], row[11])]
    sides = [row[12], row[13]]
    return PairDetail(
        number, row[0], row[1], row[2], row[3], row[4],
        tuple(name for name, (bit, _) in FLAGS.items() if row[5] & bit),
        json.loads(row[6]) if row[6] else {}, prompt, tails[0], tails[1], row[8], row[9],
        _rewards(con, sides), _labels(con, sides), _rewrites(con, sides),
    )  # fmt: skip


def _rewards(con: duckdb.DuckDBPyConnection, sides: list[int | None]) -> pd.DataFrame:
    return con.execute(
        """
        SELECT m.model_id, m.name AS model, max(reward) FILTER (entry_id = $c) AS chosen,
            max(reward) FILTER (entry_id = $r) AS rejected,
            max(reward) FILTER (entry_id = $c) - max(reward) FILTER (entry_id = $r) AS margin,
            bool_or(truncated) AS truncated
        FROM rewards JOIN models m USING (model_id) WHERE entry_id IN ($c, $r)
        GROUP BY m.model_id, m.name ORDER BY m.model_id
        """,
        {"c": sides[0], "r": sides[1]},
    ).df()


def _labels(con: duckdb.DuckDBPyConnection, sides: list[int | None]) -> pd.DataFrame:
    return con.execute(
        """
        WITH said AS (
            SELECT l.*, f.position, f.title, f.kind, t.taxonomy_id, t.name AS taxonomy, b.name AS labeler,
                CASE WHEN f.kind = 'category' THEN json_extract_string(f.classes, '$[' || l.value::INTEGER || ']')
                    WHEN f.kind = 'boolean' THEN CASE WHEN l.value > 0 THEN 'yes' ELSE 'no' END
                    WHEN f.kind IN ('ternary', 'signed') THEN printf('%+d', l.value::INTEGER)
                    ELSE printf('%g', l.value) END AS shown
            FROM labels l JOIN features f USING (feature_id) JOIN taxonomies t USING (taxonomy_id)
            JOIN labelers b USING (labeler_id) WHERE l.entry_id IN ($c, $r))
        SELECT taxonomy, labeler, title AS feature, kind, any_value(shown) FILTER (entry_id = $c) AS chosen,
            any_value(shown) FILTER (entry_id = $r) AS rejected
        FROM said GROUP BY taxonomy_id, taxonomy, labeler, labeler_id, position, title, kind
        ORDER BY taxonomy_id, labeler_id, position""",
        {"c": sides[0], "r": sides[1]},
    ).df()


def _rewrites(con: duckdb.DuckDBPyConnection, sides: list[int | None]) -> pd.DataFrame:
    return con.execute(
        """
        SELECT CASE WHEN w.entry_id = $c THEN 'chosen' ELSE 'rejected' END AS side, w.rewriter, e.response, w.similarity
        FROM rewrites w JOIN entries e ON e.entry_id = w.rewritten_id WHERE w.entry_id IN ($c, $r) ORDER BY 1, 2""",
        {"c": sides[0], "r": sides[1]},
    ).df()
