"""Takes finished parts of jobs into the store, each in one transaction. Taking a part twice changes nothing."""

from __future__ import annotations

import json
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


def take_ready(store: Store, job: jobs.Job) -> int:
    """Ingest every waiting part of a job in one transaction, then remove the files; how many parts."""
    waiting = jobs.ready(job)[:200]
    if not waiting:
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
    return len(waiting)


def finish(store: Store, job: jobs.Job) -> dict[str, Any]:
    """Record an ended job's run; returns its counts. The ledger of its shards is no longer needed."""
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
        con.execute("""
            INSERT INTO prompts
            WITH named AS (
                SELECT prompt_hash AS h, prompt AS t, n_turns AS n FROM part
                UNION ALL SELECT chosen_prompt_hash, chosen_prompt, chosen_n_turns FROM part
                    WHERE chosen_prompt IS NOT NULL
                UNION ALL SELECT rejected_prompt_hash, rejected_prompt, rejected_n_turns FROM part
                    WHERE rejected_prompt IS NOT NULL),
            new AS (SELECT h::UUID AS h, any_value(t) AS t, any_value(n) AS n FROM named GROUP BY h)
            SELECT (SELECT coalesce(max(prompt_id), 0) FROM prompts) + row_number() OVER (), h, t, n
            FROM new ANTI JOIN prompts ON prompts.hash = new.h
        """)
        con.execute("""
            INSERT INTO entries
            WITH sides AS (
                SELECT row, chosen_hash AS h, coalesce(chosen_prompt_hash, prompt_hash) AS ph, chosen AS r FROM part
                UNION ALL
                SELECT row, rejected_hash, coalesce(rejected_prompt_hash, prompt_hash), rejected FROM part
                    WHERE rejected_hash IS NOT NULL),
            new AS (
                SELECT h::UUID AS h, any_value(ph)::UUID AS ph, any_value(r) AS r, min(row) AS row
                FROM sides GROUP BY h)
            SELECT (SELECT coalesce(max(entry_id), 0) FROM entries) + row_number() OVER (ORDER BY new.row, new.h),
                new.h, p.prompt_id, new.r, length(new.r)
            FROM new JOIN prompts p ON p.hash = new.ph ANTI JOIN entries ON entries.hash = new.h
            ORDER BY new.row, new.h
        """)
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


def _insert_pairs(con: duckdb.DuckDBPyConnection, dataset_id: int) -> None:
    bit = {name: value for name, (value, _) in FLAGS.items()}
    rows_of(con, "pairs", dataset_id).execute(f"""
        INSERT INTO pairs
        WITH joined AS (
            SELECT part.*, p.prompt_id, c.entry_id AS c, r.entry_id AS r,
                c.prompt_id AS cp, r.prompt_id AS rp
            FROM part JOIN prompts p ON p.hash = part.prompt_hash::UUID
            JOIN entries c ON c.hash = part.chosen_hash::UUID
            LEFT JOIN entries r ON r.hash = part.rejected_hash::UUID),
        flagged AS (
            SELECT *,
                count(*) OVER (PARTITION BY c, r) > 1 AS duplicate,
                min(split) OVER (PARTITION BY prompt_id) <> max(split) OVER (PARTITION BY prompt_id)
                    AND n_turns > 0 AS leak,
                r IS NOT NULL AND c <> r AND min(c) OVER (PARTITION BY least(c, r), greatest(c, r))
                    <> max(c) OVER (PARTITION BY least(c, r), greatest(c, r)) AS contradiction
            FROM joined)
        SELECT {dataset_id}, row_number() OVER (ORDER BY row, pair_id) - 1, pair_id, prompt_id, c, r, subset, split,
            row, strength,
            CASE WHEN c = r THEN {bit["identical_responses"]} ELSE 0 END
            | CASE WHEN trim(chosen) = '' OR trim(rejected) = '' THEN {bit["empty_response"]} ELSE 0 END
            | CASE WHEN cp <> rp THEN {bit["diverges_early"]} ELSE 0 END
            | CASE WHEN n_turns = 0 THEN {bit["no_shared_prompt"]} ELSE 0 END
            | CASE WHEN duplicate THEN {bit["duplicate"]} ELSE 0 END
            | CASE WHEN leak THEN {bit["prompt_leak"]} ELSE 0 END
            | CASE WHEN contradiction THEN {bit["contradiction"]} ELSE 0 END,
            extra
        FROM flagged ORDER BY row, pair_id
    """)
