"""Rewards from a file: a table of pair_id, side and reward that somebody computed elsewhere, matched by key."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import duckdb

from engine.catalog import Dataset
from engine.marks import rows_of
from engine.records import SignetError
from engine.store import Store, ensure_model, record_run

READERS = {
    ".csv": "read_csv(?, header = true, all_varchar = true)",
    ".tsv": "read_csv(?, header = true, all_varchar = true, delim = '\t')",
    ".jsonl": "read_json(?, format = 'newline_delimited')",
    ".parquet": "read_parquet(?)",
}
EXAMPLES = 20


def looks_like(model: str) -> bool:
    """Whether a model's name is a path to a file of scores."""
    return Path(model).suffix.lower() in READERS


def _load(con: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    try:
        con.execute(f"CREATE OR REPLACE TEMP TABLE given AS SELECT * FROM {READERS[path.suffix.lower()]}", [str(path)])
    except duckdb.Error as error:
        raise SignetError(f"{path.name}: cannot be read as {path.suffix[1:]} ({str(error).splitlines()[0]}).") from None
    return [str(row[0]) for row in con.execute("DESCRIBE given").fetchall()]


def _check_columns(path: Path, columns: list[str], kind: str) -> None:
    needed = ["pair_id", "reward"] + (["side"] if kind == "pairs" else [])
    missing = [name for name in needed if name not in columns]
    if missing:
        raise SignetError(
            f"{path.name}: column {missing[0]} is missing (found: {', '.join(columns[:12])}); "
            f"a file of scores needs {', '.join(needed)}, and may have model."
        )


def take(store: Store, data: Dataset, path: Path, name: str | None = None) -> dict[str, Any]:
    """Match a file of scores to a dataset and keep them as rewards of one model a name; all or nothing.

    Columns: pair_id, side (chosen or rejected; not for single entries), reward (a finite number), optionally model
    (else `name`, else the file's name). Returns counts: matched entries, rows that matched nothing with examples,
    rows that are no finite number, entries of the dataset that got no reward. An entry scored twice by the file with
    different numbers is refused. Raises SignetError naming file and column.
    """
    began = time.time()
    if not path.is_file():
        raise SignetError(f"{path}: there is no such file.")
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    first = "chosen" if data.kind == "pairs" else "entry"
    with store.transaction() as con:
        columns = _load(con, path)
        _check_columns(path, columns, data.kind)
        model = "model::VARCHAR" if "model" in columns else "NULL"
        side = "lower(trim(side::VARCHAR))" if "side" in columns else f"'{first}'"
        con.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE matched AS
            WITH g AS (
                SELECT pair_id::VARCHAR AS pair_id, {side} AS side, TRY_CAST(reward AS DOUBLE) AS reward,
                    coalesce({model}, $name) AS model, row_number() OVER () AS row FROM given),
            sides AS (
                SELECT pair_id, '{first}' AS side, chosen AS entry_id FROM pairs WHERE dataset_id = $dataset
                UNION ALL SELECT pair_id, 'rejected', rejected FROM pairs
                WHERE dataset_id = $dataset AND rejected IS NOT NULL)
            SELECT g.*, s.entry_id FROM g LEFT JOIN sides s USING (pair_id, side)
            """,
            {"name": name or path.stem, "dataset": data.dataset_id},
        )
        good = "entry_id IS NOT NULL AND reward IS NOT NULL AND isfinite(reward)"
        clash = con.execute(f"""
            SELECT model, pair_id, side FROM matched m JOIN (
                SELECT model, entry_id FROM matched WHERE {good} GROUP BY ALL HAVING max(reward) - min(reward) > 1e-9)
            USING (model, entry_id) LIMIT 1""").fetchone()
        if clash:
            raise SignetError(
                f"{path.name}: {clash[0]} gives the text of pair {clash[1]!r}, side {clash[2]}, two different rewards; "
                "keep one row a text."
            )
        counts = con.execute(f"""
            SELECT count(*), count(DISTINCT (model, entry_id)) FILTER ({good}), count_if(entry_id IS NULL),
                count_if(entry_id IS NOT NULL AND NOT coalesce(isfinite(reward), false)) FROM matched""").fetchone()
        rows, matched, unmatched, not_numbers = counts or (0, 0, 0, 0)
        if not matched:
            raise SignetError(
                f"{path.name}: none of its {rows} rows matches a pair_id and side of {data.name} with a number; "
                "export the pairs to see the ids."
            )
        unknown = con.execute(
            "SELECT row, pair_id, side FROM matched WHERE entry_id IS NULL ORDER BY row LIMIT ?", [EXAMPLES]
        ).fetchall()
        names = [str(row[0]) for row in con.execute(f"SELECT DISTINCT model FROM matched WHERE {good}").fetchall()]
        for one in sorted(names):
            model_id = ensure_model(con, one, "file", digest, {"file": path.name})
            rows_of(con, "rewards", model_id).execute(
                f"""
                INSERT INTO rewards SELECT entry_id, $id, any_value(reward), NULL, NULL FROM matched m
                WHERE {good} AND model = $model AND NOT EXISTS (
                    SELECT 1 FROM rewards o WHERE o.entry_id = m.entry_id AND o.model_id = $id)
                GROUP BY entry_id ORDER BY entry_id
                """,
                {"id": model_id, "model": one},
            )
        report = {
            "models": sorted(names), "rows": rows, "matched": matched, "unmatched": unmatched,
            "not_numbers": not_numbers, "entries_without": max(0, data.n_entries * len(names) - matched),
            "unmatched_examples": [{"row": r, "pair_id": p, "side": s} for r, p, s in unknown],
        }  # fmt: skip
        record_run(con, "scores_file", {"dataset": data.name, "file": path.name, "digest": digest}, began, report, {})
    return report
