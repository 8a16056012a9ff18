"""The store: one DuckDB file, opened by one process at a time, its schema grown by numbered migrations.

Everything that reads takes a connection; everything that writes goes through `Store.transaction`, so that a
killed process leaves either all of a change or nothing. Queries that build frames are in `engine.frames`.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import duckdb

from engine.marks import Writing
from engine.records import SignetError
from engine.taxonomy import Taxonomy

# Flags of a pair, a bit mask in pairs.flags; the text is what the dashboard says.
FLAGS = {
    "identical_responses": (1, "Chosen and rejected are the same text"),
    "empty_response": (2, "A side has an empty response"),
    "diverges_early": (4, "The sides differ before their last turn"),
    "no_shared_prompt": (8, "The sides share no prompt"),
    "duplicate": (16, "The same pair occurs again in this dataset"),
    "prompt_leak": (32, "The prompt occurs in another split"),
    "contradiction": (64, "The same two responses are preferred the other way elsewhere in this dataset"),
}

# What a person may say of a suspect pair; the text is what an export of clean pairs then does.
REVIEWS = {"keep": "kept as it is", "swap": "chosen and rejected change places", "drop": "left out"}


def _v1(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""
        CREATE TABLE prompts (prompt_id BIGINT, hash UUID, turns VARCHAR, n_turns INTEGER);
        CREATE TABLE entries (entry_id BIGINT, hash UUID, prompt_id BIGINT, response VARCHAR, n_chars INTEGER);
        CREATE TABLE datasets (
            dataset_id INTEGER, name VARCHAR UNIQUE, kind VARCHAR, source VARCHAR, shape VARCHAR, note VARCHAR,
            options VARCHAR, report VARCHAR, created_at TIMESTAMP, n_pairs BIGINT, n_entries BIGINT);
        CREATE TABLE pairs (
            dataset_id INTEGER, pair_no INTEGER, pair_id VARCHAR, prompt_id BIGINT, chosen BIGINT, rejected BIGINT,
            subset VARCHAR, split VARCHAR, source_row BIGINT, strength DOUBLE, flags INTEGER, extra VARCHAR);
        CREATE TABLE models (
            model_id INTEGER, name VARCHAR, kind VARCHAR, revision VARCHAR, params VARCHAR, created_at TIMESTAMP);
        CREATE TABLE rewards (entry_id BIGINT, model_id INTEGER, reward DOUBLE, n_tokens INTEGER, truncated BOOLEAN);
        CREATE TABLE taxonomies (
            taxonomy_id INTEGER, name VARCHAR, version VARCHAR, text VARCHAR, created_at TIMESTAMP);
        CREATE TABLE features (
            feature_id INTEGER, taxonomy_id INTEGER, position INTEGER, name VARCHAR, title VARCHAR, kind VARCHAR,
            role VARCHAR, scope VARCHAR, classes VARCHAR);
        CREATE TABLE labelers (
            labeler_id INTEGER, name VARCHAR, kind VARCHAR, revision VARCHAR, params VARCHAR, created_at TIMESTAMP);
        CREATE TABLE labels (
            entry_id BIGINT, feature_id INTEGER, labeler_id INTEGER, value DOUBLE, confidence FLOAT);
        CREATE TABLE rewrites (
            entry_id BIGINT, rewritten_id BIGINT, rewriter VARCHAR, similarity DOUBLE, created_at TIMESTAMP);
        CREATE TABLE runs (
            run_id VARCHAR, kind VARCHAR, params VARCHAR, started_at TIMESTAMP, finished_at TIMESTAMP,
            counts VARCHAR, environment VARCHAR);
        CREATE TABLE ingested (job_id VARCHAR, shard VARCHAR);
    """)


def _v2(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""
        CREATE TABLE reviews (
            dataset_id INTEGER, pair_no INTEGER, verdict VARCHAR, reason VARCHAR, created_at TIMESTAMP)""")


def _v3(con: duckdb.DuckDBPyConnection) -> None:
    # A queue is what people are asked to judge; an annotation is one act of one of them, never changed, only undone. A
    # claim keeps an entry for one annotator for a while, so that two who work at the same time get different ones.
    con.execute("""
        CREATE TABLE queues (
            queue_id INTEGER, name VARCHAR UNIQUE, purpose VARCHAR, dataset_id INTEGER, taxonomy_id INTEGER,
            overlap INTEGER, params VARCHAR, created_at TIMESTAMP);
        CREATE TABLE queue_items (queue_id INTEGER, position INTEGER, entry_id BIGINT, shown VARCHAR);
        CREATE TABLE annotations (
            annotation_id BIGINT, queue_id INTEGER, entry_id BIGINT, annotator VARCHAR, answer VARCHAR, note VARCHAR,
            seconds DOUBLE, created_at TIMESTAMP, undone_at TIMESTAMP);
        CREATE TABLE claims (queue_id INTEGER, entry_id BIGINT, annotator VARCHAR, claimed_at TIMESTAMP);
    """)


def _v4(con: duckdb.DuckDBPyConnection) -> None:
    # Marks say what has changed (engine.marks); tallies and spans are counts that hold as long as the marks they carry
    # are current (engine.tallies).
    con.execute("""
        CREATE TABLE marks (kind VARCHAR, owner BIGINT, mark VARCHAR);
        CREATE TABLE tallies (
            dataset_id INTEGER, kind VARCHAR, owner INTEGER, feature_id INTEGER, n BIGINT, n_truncated BIGINT,
            state VARCHAR);
        CREATE TABLE spans (dataset_id INTEGER, first_entry BIGINT, last_entry BIGINT, state VARCHAR);
    """)
    con.execute("INSERT INTO marks VALUES ('store', 0, ?)", [uuid.uuid4().hex])


MIGRATIONS: list[Callable[[duckdb.DuckDBPyConnection], None]] = [_v1, _v2, _v3, _v4]


def migrate(con: duckdb.DuckDBPyConnection) -> None:
    """Bring the schema to this Signet's version; each step in its own transaction.

    Raises SignetError when the store was made by a newer Signet.
    """
    con.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER, applied_at TIMESTAMP)")
    row = con.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    done = int(row[0]) if row else 0
    if done > len(MIGRATIONS):
        raise SignetError(
            f"This store was made by a newer Signet (schema {done}, this one knows {len(MIGRATIONS)}): "
            "update Signet, or point SIGNET_HOME at another folder."
        )
    for version, step in enumerate(MIGRATIONS[done:], done + 1):
        con.execute("BEGIN")
        try:
            step(con)
            con.execute("INSERT INTO migrations VALUES (?, now()::TIMESTAMP)", [version])
            con.execute("COMMIT")
        except BaseException:
            con.execute("ROLLBACK")
            raise


class StoreBusy(SignetError):
    """Another process owns the store."""


def memory_limit() -> int:
    """MiB that DuckDB may use before it spills to disk: SIGNET_MEMORY_MB, else a quarter of the memory, at most 2048.

    Enough for every query at 10 million pairs; the arrays of an audit come on top.
    """
    wanted = os.environ.get("SIGNET_MEMORY_MB")
    if wanted:
        return max(256, int(wanted))
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return max(512, min(2048, machine // 4))


RELEASE = "release"  # a file in the store's folder: a dashboard asks the command that owns the store to let go


def ask_to_release(home: Path) -> None:
    """Ask the process that owns the store to give it up at its next chance (commands do, dashboards do not)."""
    (home / RELEASE).touch()


class Store:
    """An owned, open store. One process owns it at a time (a file lock the system drops when the process dies).

    `read()` gives a cursor for the calling thread; `transaction()` serialises writers. Close it, or use `with`.
    Raises StoreBusy when another process owns it, SignetError when it is newer than this Signet.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = open(home / "owner.lock", "a+")  # noqa: SIM115 (held until close)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StoreBusy(f"The store in {home} is in use by another Signet process.") from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._writer = threading.RLock()
        self.version = 0  # grows with every committed change that a page could show: the key of what is cached
        (home / RELEASE).unlink(missing_ok=True)
        try:
            spill = home / "spill"
            self._con = duckdb.connect(
                str(home / "signet.duckdb"),
                config={
                    "temp_directory": str(spill),
                    "preserve_insertion_order": "false",
                    "memory_limit": f"{memory_limit()}MiB",
                },
            )
            migrate(self._con)
        except BaseException as error:
            self._lock.close()
            if isinstance(error, duckdb.Error):
                raise SignetError(f"The store {home / 'signet.duckdb'} cannot be opened: {error}") from None
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write everything to the file and give up ownership."""
        with self._writer:
            self._con.close()
            self._lock.close()

    def read(self) -> duckdb.DuckDBPyConnection:
        """A cursor of its own for reading; sees the last committed state."""
        return self._con.cursor()

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor inside BEGIN ... COMMIT; rolled back on any exception. Writers wait for each other.

        What was written gets new marks (engine.marks) in the same transaction.
        """
        with self._writer:
            con = self._con.cursor()
            con.execute("BEGIN")
            writing = Writing(con)
            try:
                yield cast(duckdb.DuckDBPyConnection, writing)
                writing.mark()
                con.execute("COMMIT")
                self.version += writing.loud
            except BaseException:
                con.execute("ROLLBACK")
                raise
            finally:
                con.close()


def _next_id(con: duckdb.DuckDBPyConnection, table: str, column: str) -> int:
    row = con.execute(f"SELECT coalesce(max({column}), 0) + 1 FROM {table}").fetchone()
    return int(row[0]) if row else 1


def _ensure(con: duckdb.DuckDBPyConnection, table: str, key: str, fields: dict[str, Any]) -> int:
    where = " AND ".join(f"{name} = ?" for name in fields)
    row = con.execute(f"SELECT {key} FROM {table} WHERE {where}", list(fields.values())).fetchone()
    if row:
        return int(row[0])
    new = _next_id(con, table, key)
    names = ", ".join([key, *fields, "created_at"])
    marks = ", ".join("?" * (len(fields) + 1))
    con.execute(f"INSERT INTO {table} ({names}) VALUES ({marks}, now()::TIMESTAMP)", [new, *fields.values()])
    return new


def ensure_model(con: duckdb.DuckDBPyConnection, name: str, kind: str, revision: str, params: dict[str, Any]) -> int:
    """The id of a reward model; it is the same model only if name, revision and parameters are the same."""
    fields = {"name": name, "kind": kind, "revision": revision, "params": json.dumps(params, sort_keys=True)}
    return _ensure(con, "models", "model_id", fields)


def ensure_labeler(con: duckdb.DuckDBPyConnection, name: str, kind: str, revision: str, params: dict[str, Any]) -> int:
    """The id of a labeler. `kind`: builtin, rule, lm, person, file."""
    fields = {"name": name, "kind": kind, "revision": revision, "params": json.dumps(params, sort_keys=True)}
    return _ensure(con, "labelers", "labeler_id", fields)


def ensure_taxonomy(con: duckdb.DuckDBPyConnection, taxonomy: Taxonomy) -> dict[str, int]:
    """Store a taxonomy's version if it is new; returns feature_id by column name."""
    taxonomy_id = _ensure(con, "taxonomies", "taxonomy_id", {"name": taxonomy.name, "version": taxonomy.version})
    con.execute(
        "UPDATE taxonomies SET text = ? WHERE taxonomy_id = ? AND text IS NULL", [taxonomy.text, taxonomy_id]
    )  # a version may be written in several ways: the first one stays
    known = con.execute("SELECT name, feature_id FROM features WHERE taxonomy_id = ?", [taxonomy_id]).fetchall()
    if known:
        return {str(name): int(feature_id) for name, feature_id in known}
    first = _next_id(con, "features", "feature_id")
    found = {}
    for i, column in enumerate(taxonomy.columns()):
        classes = json.dumps(list(column.classes), ensure_ascii=False)
        con.execute(
            "INSERT INTO features VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [first + i, taxonomy_id, i, column.name, column.title, column.kind, column.role, column.scope, classes],
        )
        found[column.name] = first + i
    return found


def record_run(
    con: duckdb.DuckDBPyConnection,
    kind: str,
    params: dict[str, Any],
    started: float,
    counts: dict[str, Any],
    environment: dict[str, Any],
) -> str:
    """Keep what is needed to repeat a run; returns its id."""
    run_id = uuid.uuid4().hex[:12]
    con.execute(
        "INSERT INTO runs VALUES (?, ?, ?, to_timestamp(?)::TIMESTAMP, to_timestamp(?)::TIMESTAMP, ?, ?)",
        [
            run_id,
            kind,
            json.dumps(params, default=str),
            started,
            time.time(),
            json.dumps(counts, default=str),
            json.dumps(environment, default=str),
        ],
    )
    return run_id
