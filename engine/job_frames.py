"""Past runs out of the store."""

from __future__ import annotations

import json

import duckdb
import pandas as pd


def runs(con: duckdb.DuckDBPyConnection, most: int = 200) -> pd.DataFrame:
    """The latest runs: kind, started, seconds, params, counts, environment (JSON texts)."""
    return con.execute(
        """
        SELECT kind, strftime(started_at, '%Y-%m-%d %H:%M') AS started,
            round(epoch(finished_at) - epoch(started_at), 1) AS seconds, params, counts, environment
        FROM runs ORDER BY started_at DESC LIMIT ?""",
        [most],
    ).df()


def drift(con: duckdb.DuckDBPyConnection, model_id: int) -> dict[str, float]:
    """The tests of a model's precision against float32, added up over its runs; empty where none was made."""
    rows = con.execute("SELECT params, counts FROM runs WHERE kind = 'score' AND counts LIKE '%\"drift\"%'").fetchall()
    total: dict[str, float] = {}
    for params, counts in rows:
        if json.loads(params).get("model_id") == model_id:
            for name, value in json.loads(counts)["drift"].items():
                total[name] = total.get(name, 0) + value
    return total
