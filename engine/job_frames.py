"""Past runs out of the store."""

from __future__ import annotations

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
