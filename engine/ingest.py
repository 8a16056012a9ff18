"""Takes finished parts of jobs into the store, each in one transaction. Taking a part twice changes nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import duckdb

from engine import jobs
from engine.marks import rows_of
from engine.records import SignetError
from engine.store import FLAGS, Store, record_run


def _seen(con: duckdb.DuckDBPyConnection, job: jobs.Job, shard: str) -> bool:
    return bool(con.execute("SELECT 1 FROM ingested WHERE job_id = ? AND shard = ?", [job.id, shard]).fetchone())


def _rewards(con: duckdb.DuckDBPyConnection, job: jobs.Job, parts: list[str]) -> None:
    rows_of(con, "rewards", job.params["model_id"]).execute(
        """
        INSERT INTO rewards
        SELECT e.entry_id, $model, any_value(r.reward), any_value(r.n_tokens), any_value(r.truncated)
        FROM read_parquet($parts) r JOIN entries e ON e.hash = r.entry::UUID
        WHERE NOT EXISTS (SELECT 1 FROM rewards o WHERE o.entry_id = e.entry_id AND o.model_id = $model)
        GROUP BY e.entry_id ORDER BY e.entry_id
        """,
        {"model": job.params["model_id"], "parts": parts},
    )


def _labels(con: duckdb.DuckDBPyConnection, job: jobs.Job, parts: list[str]) -> None:
    rows_of(con, "labels", job.params["labeler_id"]).execute(
        """
        INSERT INTO labels
        SELECT e.entry_id, f.feature_id, $labeler, any_value(r.value), any_value(r.confidence)
        FROM read_parquet($parts) r JOIN entries e ON e.hash = r.entry::UUID
        JOIN features f ON f.name = r.feature AND f.feature_id IN (SELECT unnest($features))
        WHERE NOT EXISTS (SELECT 1 FROM labels o
            WHERE o.entry_id = e.entry_id AND o.feature_id = f.feature_id AND o.labeler_id = $labeler)
        GROUP BY e.entry_id, f.feature_id ORDER BY f.feature_id, e.entry_id
        """,
        {"labeler": job.params["labeler_id"], "parts": parts, "features": job.params["feature_ids"]},
    )


def _rewrites(con: duckdb.DuckDBPyConnection, job: jobs.Job, parts: list[str]) -> None:
    con.execute("CREATE OR REPLACE TEMP TABLE new_rewrites AS SELECT * FROM read_parquet(?)", [parts])
    add_rewrites(con, job.params["name"])


def add_rewrites(con: duckdb.DuckDBPyConnection, rewriter: str | None = None) -> None:
    """Rewrites in the temporary table new_rewrites (entry, rewritten, response, similarity; rewriter unless given) as
    entries of their own under the same prompt."""
    con.execute("""
        INSERT INTO entries
        SELECT (SELECT coalesce(max(entry_id), 0) FROM entries) + row_number() OVER (ORDER BY e.entry_id),
            r.rewritten::UUID, e.prompt_id, r.response, length(r.response)
        FROM (SELECT DISTINCT ON (rewritten) * FROM new_rewrites) r JOIN entries e ON e.hash = r.entry::UUID
        ANTI JOIN entries o ON o.hash = r.rewritten::UUID""")
    con.execute(
        f"""
        INSERT INTO rewrites
        SELECT e.entry_id, n.entry_id, {"$rewriter" if rewriter else "r.rewriter"}, r.similarity, now()::TIMESTAMP
        FROM new_rewrites r JOIN entries e ON e.hash = r.entry::UUID JOIN entries n ON n.hash = r.rewritten::UUID
        WHERE NOT EXISTS (SELECT 1 FROM rewrites o WHERE o.entry_id = e.entry_id
            AND o.rewriter = {"$rewriter" if rewriter else "r.rewriter"})""",
        {"rewriter": rewriter} if rewriter else {},
    )


def _nothing(con: duckdb.DuckDBPyConnection, job: jobs.Job, parts: list[str]) -> None:
    """A trained classifier is a folder beside the store, written whole by its worker."""


TAKE = {"score": _rewards, "label": _labels, "rewrite": _rewrites, "train": _nothing}


SHARE = 10  # of the time at most one part in so many goes into taking parts in, while workers have shards to do
_next: dict[tuple[Path, str], float] = {}


def take_ready(store: Store, job: jobs.Job, at_once: bool = True) -> int:
    """Ingest waiting parts of a job (at most 200) in one transaction, then remove the files; how many parts.

    Finding the entries of one part costs as much as finding those of many, and more in a larger store. Without
    `at_once` parts therefore wait until the last taking is SHARE times as long ago as it took.
    """
    waiting = jobs.ready(job)[:200]
    ledger = (store.home, job.id)
    began = time.monotonic()
    if not waiting or (not at_once and began < _next.get(ledger, 0.0)):
        return 0
    names = {shard: job.path(f"part-{shard:05d}.parquet") for shard in waiting}
    with store.transaction() as con:
        new = [shard for shard in waiting if not _seen(con, job, str(shard))]
        if new:
            TAKE[job.kind](con, job, [str(names[shard]) for shard in new])
            con.executemany("INSERT INTO ingested VALUES (?, ?)", [[job.id, str(shard)] for shard in new])
    for shard in waiting:
        job.path(f"in-{shard:05d}.parquet").unlink(missing_ok=True)
        names[shard].unlink(missing_ok=True)
    ended = time.monotonic()
    _next[ledger] = ended + (SHARE - 1) * (ended - began)
    return len(waiting)


def finish(store: Store, job: jobs.Job) -> dict[str, Any]:
    """Record an ended job's run; returns its counts. The ledger of its shards is no longer needed."""
    _next.pop((store.home, job.id), None)
    state = jobs.read_state(job)
    details = jobs.read_json(job.path("progress.json")) or {}
    manifest = jobs.read_json(job.path("manifest.json")) or []
    counts = {**details, "entries": sum(n for _, n, _ in manifest)}
    with store.transaction() as con:
        run_environment = jobs.read_json(job.path("environment.json")) or {}
        record_run(
            con,
            job.kind,
            {"job": job.id, "dataset": job.dataset, **job.params},
            state.started or job.created,
            counts,
            run_environment,
        )
        con.execute("DELETE FROM ingested WHERE job_id = ?", [job.id])
    return counts


# --- imports ---------------------------------------------------------------------------------------------------------


def take_dataset(store: Store, job: jobs.Job) -> dict[str, Any]:
    """Ingest an import job's parts as one dataset, in one transaction; returns the counts.

    `report.json` (written last by the worker) says kind, shape, source, note, skipped.
    """
    report = jobs.read_json(job.path("report.json"))
    if not report:
        raise SignetError("The import ended without a report; resume the job.")
    parts = [str(path) for path in sorted(job.folder.glob("pairs-*.parquet"))]
    if not parts:
        raise SignetError("Nothing could be read: no usable row; the report lists what was skipped and why.")
    with store.transaction() as con:
        if con.execute("SELECT 1 FROM datasets WHERE name = ?", [job.dataset]).fetchone():
            raise SignetError(f"A dataset named {job.dataset!r} exists; choose another name or delete it first.")
        row = con.execute("SELECT coalesce(max(dataset_id), 0) + 1 FROM datasets").fetchone()
        dataset_id = int(row[0]) if row else 1
        con.execute(f"CREATE OR REPLACE TEMP VIEW part AS SELECT * FROM read_parquet({parts!r})")
        _insert_prompts(con)
        _insert_entries(con)
        _insert_pairs(con, dataset_id)
        counted = con.execute(
            "SELECT count(*), count(DISTINCT chosen) + count(DISTINCT rejected) FROM pairs WHERE dataset_id = ?",
            [dataset_id],
        ).fetchone()
        n_pairs, n_entries = counted if counted else (0, 0)
        counts = {"pairs": n_pairs, "entries": n_entries}
        con.execute(
            "INSERT INTO datasets VALUES (?, ?, ?, ?, ?, ?, ?, ?, now()::TIMESTAMP, ?, ?)",
            [
                dataset_id,
                job.dataset,
                report["kind"],
                report["source"],
                report["shape"],
                report.get("note", ""),
                json.dumps(job.params, default=str),
                json.dumps(report, default=str),
                n_pairs,
                n_entries,
            ],
        )
    for path in parts:
        Path(path).unlink(missing_ok=True)
    return counts


# Texts are read from the parts when they are inserted and at no other time: what is grouped, joined and sorted are
# hashes and places, so that memory and spilled bytes do not grow with the length of the texts.


def _insert_prompts(con: duckdb.DuckDBPyConnection) -> None:
    """Every new prompt once, from the first place (`place`) where it stands."""
    named = """
        SELECT row * 3 AS place, prompt_hash AS h, {0} FROM part
        UNION ALL SELECT row * 3 + 1, chosen_prompt_hash, {1} FROM part WHERE chosen_prompt IS NOT NULL
        UNION ALL SELECT row * 3 + 2, rejected_prompt_hash, {2} FROM part WHERE rejected_prompt IS NOT NULL"""
    texts = [f"{side}prompt AS t, {side}n_turns AS n" for side in ("", "chosen_", "rejected_")]
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE fresh AS
        WITH first AS (SELECT h::UUID AS h, min(place) AS place FROM ({named.format(1, 1, 1)}) GROUP BY 1)
        SELECT h, place, (SELECT coalesce(max(prompt_id), 0) FROM prompts) + row_number() OVER (ORDER BY place) AS id
        FROM first ANTI JOIN prompts ON prompts.hash = first.h
    """)
    con.execute(f"""
        INSERT INTO prompts SELECT fresh.id, fresh.h, named.t, named.n
        FROM ({named.format(*texts)}) named JOIN fresh USING (place)
    """)


def _insert_entries(con: duckdb.DuckDBPyConnection) -> None:
    """Every new entry once; leaves the temporary table `sided` (place = 2 row, + 1 if rejected; h, ph, empty)."""
    con.execute("""
        CREATE OR REPLACE TEMP TABLE sided AS
        SELECT row * 2 AS place, chosen_hash::UUID AS h, coalesce(chosen_prompt_hash, prompt_hash)::UUID AS ph,
            trim(chosen) = '' AS empty FROM part
        UNION ALL
        SELECT row * 2 + 1, rejected_hash::UUID, coalesce(rejected_prompt_hash, prompt_hash)::UUID, trim(rejected) = ''
        FROM part WHERE rejected_hash IS NOT NULL
    """)
    con.execute("""
        CREATE OR REPLACE TEMP TABLE fresh AS
        WITH first AS (SELECT h, any_value(ph) AS ph, min(place) AS place FROM sided GROUP BY h),
        new AS (SELECT * FROM first ANTI JOIN entries ON entries.hash = first.h)
        SELECT new.h, new.place, p.prompt_id,
            (SELECT coalesce(max(entry_id), 0) FROM entries) + row_number() OVER (ORDER BY new.place) AS id
        FROM new JOIN prompts p ON p.hash = new.ph
    """)
    con.execute("""
        INSERT INTO entries SELECT fresh.id, fresh.h, fresh.prompt_id, texts.r, length(texts.r)
        FROM (
            SELECT row * 2 AS place, chosen AS r FROM part
            UNION ALL SELECT row * 2 + 1, rejected FROM part WHERE rejected_hash IS NOT NULL) texts
        JOIN fresh USING (place)
    """)
    con.execute("DROP TABLE fresh")


def _insert_pairs(con: duckdb.DuckDBPyConnection, dataset_id: int) -> None:
    bit = {name: value for name, (value, _) in FLAGS.items()}
    con.execute("""
        CREATE OR REPLACE TEMP TABLE sides AS
        SELECT place // 2 AS row,
            max(e.entry_id) FILTER (place % 2 = 0) AS c, max(e.entry_id) FILTER (place % 2 = 1) AS r,
            max(e.prompt_id) FILTER (place % 2 = 0) AS cp, max(e.prompt_id) FILTER (place % 2 = 1) AS rp,
            bool_or(sided.empty) AS empty
        FROM sided JOIN entries e ON e.hash = sided.h GROUP BY 1
    """)
    con.execute("DROP TABLE sided")
    rows_of(con, "pairs", dataset_id).execute(f"""
        INSERT INTO pairs
        WITH slim AS (
            SELECT part.row, pair_id, subset, split, strength, extra, part.n_turns, p.prompt_id, c, r, cp, rp, empty
            FROM part JOIN sides ON sides.row = part.row JOIN prompts p ON p.hash = part.prompt_hash::UUID),
        again AS (SELECT c, r FROM sides GROUP BY c, r HAVING count(*) > 1),
        leaks AS (SELECT prompt_id FROM slim GROUP BY prompt_id HAVING min(split) <> max(split)),
        turned AS (
            SELECT least(c, r) AS low, greatest(c, r) AS high FROM sides WHERE r IS NOT NULL AND c <> r
            GROUP BY ALL HAVING min(c) <> max(c))
        SELECT {dataset_id}, row_number() OVER (ORDER BY row, pair_id) - 1, pair_id, slim.prompt_id, slim.c, slim.r,
            subset, split, row, strength,
            CASE WHEN slim.c = slim.r THEN {bit["identical_responses"]} ELSE 0 END
            | CASE WHEN empty THEN {bit["empty_response"]} ELSE 0 END
            | CASE WHEN cp <> rp THEN {bit["diverges_early"]} ELSE 0 END
            | CASE WHEN n_turns = 0 THEN {bit["no_shared_prompt"]} ELSE 0 END
            | CASE WHEN again.c IS NOT NULL THEN {bit["duplicate"]} ELSE 0 END
            | CASE WHEN leaks.prompt_id IS NOT NULL AND n_turns > 0 THEN {bit["prompt_leak"]} ELSE 0 END
            | CASE WHEN turned.low IS NOT NULL THEN {bit["contradiction"]} ELSE 0 END,
            extra
        FROM slim LEFT JOIN again ON again.c = slim.c AND again.r IS NOT DISTINCT FROM slim.r
        LEFT JOIN leaks USING (prompt_id)
        LEFT JOIN turned ON turned.low = least(slim.c, slim.r) AND turned.high = greatest(slim.c, slim.r)
            AND slim.r IS NOT NULL
        ORDER BY row, pair_id
    """)
    con.execute("DROP TABLE sides")
