"""Jobs: folders of shards that any worker can fill and any owner can pick up again.

A job is `jobs/<id>/`:

    job.json            what to do: kind, parameters, inputs by name; never changes
    executor.json       where, if not on this machine; no part of what the job is, so that it can go on elsewhere
    manifest.json       shards with their number of entries and characters; never changes
    in-00007.parquet    entries of shard 7, until its results are in the store
    part-00007.parquet  results of shard 7, written whole and renamed into place
    state.json          queued, running, done, failed or cancelled, with the reason in a sentence (owner writes)
    progress.json       rate, tokens, cost ... of the running worker (worker writes)
    log.txt             what the worker printed

A shard is left to do exactly if its `in` file exists and its `part` file does not, so resuming is listing a
folder; who works on it holds a lock on its `in` file (engine.claims). The owner takes a part in one transaction that
also notes the shard as ingested, then removes `in`, then `part`: killed between any two steps, nothing is lost or
doubled.

Shards are a random partition of the pairs, both sides of a pair in one shard, sorted by length inside: partial
results are an unbiased sample and the rate is steady from the first shard on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from engine.records import SignetError, content_hash

LANES = {"import": "import", "score": "compute", "label": "compute", "rewrite": "compute", "train": "compute"}
ENDED = ("done", "failed", "cancelled")
MOVABLE = ("score", "label", "rewrite")  # what Ray can do for us
HERE = "local"


@dataclass(frozen=True, slots=True)
class Job:
    """What job.json holds. `params` is all a worker needs besides the entries."""

    id: str
    kind: str
    dataset: str
    title: str
    params: dict[str, Any]
    created: float
    folder: Path

    def path(self, name: str) -> Path:
        """A file of the job."""
        return self.folder / name


@dataclass(frozen=True, slots=True)
class State:
    """What state.json holds. `error` is one sentence when `state` is failed."""

    state: str = "queued"
    error: str = ""
    started: float = 0.0
    finished: float = 0.0
    attempts: int = 0
    counts: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job stands. Entries; characters weigh the ETA because they predict the time. `eta_s` None: unknown."""

    total: int
    done: int
    rate: float
    eta_s: float | None
    details: dict[str, Any]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole: a reader sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, ensure_ascii=False, default=str), encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None when it is absent."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a Parquet file whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def job_id(kind: str, dataset: str, params: dict[str, Any]) -> str:
    """Content-addressed: asking for the same thing again is the same job."""
    return f"{kind}-{content_hash([kind, dataset, params], 10)}"


def create(
    home: Path, kind: str, dataset: str, title: str, params: dict[str, Any], shards: Iterable[pa.Table] = (),
    on: str | None = None,
) -> Job:  # fmt: skip
    """Make a job's folder, whole or not at all. An ended job of the same id is replaced, a live one returned.

    Each shard is a table with columns entry (32 hex), prompt (JSON turns), response. `on`: where to run it (see
    `checked_place`), None: wherever it runs already, else what SIGNET_ON says, else here.
    """
    identity = job_id(kind, dataset, params)
    folder = home / "jobs" / identity
    existing = find(home, identity)
    if existing and read_state(existing).state not in ENDED:
        if on is not None and checked_place(on, kind, params) != place(existing):
            raise SignetError(
                f"Job {identity} is under way on {place(existing)}; cancel it, then "
                f"`python -m engine jobs --resume {identity} --on {on}` goes on with it there."
            )
        return existing
    if on is None and movable(kind, params):
        on = os.environ.get("SIGNET_ON")
    on = checked_place(on, kind, params) if on else HERE
    building = home / "jobs" / f".{identity}.{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    manifest = []
    for number, table in enumerate(shards):
        pq.write_table(table, building / f"in-{number:05d}.parquet", compression="zstd")
        lengths = table.column("response").combine_chunks()
        prompts = table.column("prompt").combine_chunks()
        chars = int(pa.compute.sum(pa.compute.utf8_length(lengths)).as_py() or 0)
        chars += int(pa.compute.sum(pa.compute.utf8_length(prompts)).as_py() or 0)
        manifest.append([number, table.num_rows, chars])
    job = Job(identity, kind, dataset, title, params, time.time(), folder)
    body = asdict(job)
    del body["folder"]
    write_json(building / "manifest.json", manifest)
    write_json(building / "state.json", asdict(State()))
    if on != HERE:
        write_json(building / "executor.json", {"on": on})
    write_json(building / "job.json", body)
    if folder.exists():
        for kept in (*folder.glob("spent.json"), *folder.glob("batch-*")):  # what was paid for stays on the bill
            os.replace(kept, building / kept.name)
        shutil.rmtree(folder)
    os.replace(building, folder)
    return job


def movable(kind: str, params: dict[str, Any]) -> bool:
    """Whether a job computes by shards, so that other machines can do it."""
    return kind in MOVABLE and params.get("lane") != "network"


def checked_place(on: str, kind: str, params: dict[str, Any]) -> str:
    """Where to run a job, as executor.json holds it: local, ray, ray://HOST:PORT or HOST:PORT; SignetError if not."""
    on = on.strip()
    if not re.fullmatch(r"local|ray|(ray://)?[\w.\-]+:\d{1,5}|(ray://)?\[[0-9a-fA-F:]+\]:\d{1,5}", on):
        raise SignetError(f"--on {on!r}: say local, ray (this machine), ray://HOST:10001, or HOST:6379.")
    if on != HERE and not movable(kind, params):
        if params.get("lane") == "network":
            raise SignetError("Questions to a language model wait for its server, so they are asked from here; "
                              "leave --on out.")  # fmt: skip
        raise SignetError(f"A job of kind {kind!r} runs on this machine only; leave --on out.")
    return on


def place(job: Job) -> str:
    """Where a job runs: local, or an address of Ray."""
    return str((read_json(job.path("executor.json")) or {}).get("on", HERE))


def move(job: Job, on: str) -> None:
    """Let a job that does not run now go on elsewhere."""
    write_json(job.path("executor.json"), {"on": checked_place(on, job.kind, job.params)})


def find(home: Path, identity: str) -> Job | None:
    """The job of that id, or None."""
    folder = home / "jobs" / identity
    body = read_json(folder / "job.json")
    return Job(**body, folder=folder) if body else None


def require(home: Path, identity: str) -> Job:
    """The job of that id; SignetError when there is none."""
    job = find(home, identity)
    if job is None:
        raise SignetError(f"No job {identity!r}; `python -m engine jobs` lists them.")
    return job


def all_jobs(home: Path) -> list[Job]:
    """Every job, oldest first."""
    folders = (home / "jobs").glob("[!.]*/job.json")
    jobs = [find(home, path.parent.name) for path in folders]
    return sorted((job for job in jobs if job), key=lambda job: job.created)


def read_state(job: Job) -> State:
    """The state the owner last wrote."""
    body = read_json(job.path("state.json"))
    return State(**body) if body else State()


def set_state(job: Job, **changes: Any) -> State:
    """Change and write the state (owner only)."""
    state = replace(read_state(job), **changes)
    write_json(job.path("state.json"), asdict(state))
    return state


def _numbers(job: Job, prefix: str) -> set[int]:
    return {int(path.name[len(prefix) : -8]) for path in job.folder.glob(f"{prefix}*.parquet")}


def left(job: Job) -> list[int]:
    """Shards that have no result yet, in order."""
    return sorted(_numbers(job, "in-") - _numbers(job, "part-"))


def ready(job: Job) -> list[int]:
    """Shards whose results wait to be ingested."""
    return sorted(_numbers(job, "part-"))


def progress(job: Job) -> Progress:
    """Entries done (ingested or waiting), rate in entries a second and the ETA, from the folder alone."""
    manifest = read_json(job.path("manifest.json")) or []
    details = read_json(job.path("progress.json")) or {}
    live = read_json(job.path("live.json")) or {}  # the shard that a language model is in the middle of
    details |= {key: value for key, value in live.items() if key not in ("entries", "seconds")}
    open_shards = set(left(job))
    total = sum(n for _, n, _ in manifest)
    todo = sum(n for shard, n, _ in manifest if shard in open_shards)
    chars_left = sum(c for shard, _, c in manifest if shard in open_shards)
    seconds, entries, chars = (details.get(key) or 0 for key in ("seconds", "entries", "chars"))
    rate = entries / seconds if seconds else 0.0
    eta = chars_left * seconds / chars if chars and seconds else None
    if live.get("entries") and todo:
        todo = max(todo - live["entries"], 0)
        if live.get("seconds"):
            rate = live["entries"] / live["seconds"]
            eta = todo / rate
    if job.kind == "import":
        total, todo = details.get("rows", 0), 0
    return Progress(total, total - todo, rate, eta, details)


def remove(job: Job) -> None:
    """Delete an ended job's folder (results stay in the store)."""
    if read_state(job).state not in ENDED:
        raise SignetError(f"Job {job.id} is {read_state(job).state}; cancel it before removing it.")
    shutil.rmtree(job.folder)


def shard_size(entries: int) -> int:
    """Entries a shard: small enough to lose little, few enough to list."""
    return min(4096, max(64, entries // 2000 // 2 * 2))


def entry_shards(
    con: duckdb.DuckDBPyConnection,
    dataset_id: int,
    missing: str,
    parameters: list[Any],
    limit: int | None = None,
    size: int | None = None,
    rewrites: bool = True,
) -> Iterator[pa.Table]:
    """Cut the entries of a dataset, and their rewrites, that satisfy the SQL condition `missing` (over entry_id) into
    shards.

    `limit` keeps that many pairs, drawn at random (the same ones every time); `size` is the entries a shard.
    """
    con.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE todo AS
        WITH drawn AS (
            SELECT pair_no, chosen, rejected, hash(pair_no, 17) AS draw FROM pairs WHERE dataset_id = ?
            ORDER BY draw, pair_no {"LIMIT " + str(int(limit)) if limit else ""}),
        sides AS (
            SELECT chosen AS entry_id, draw FROM drawn
            UNION ALL SELECT rejected, draw FROM drawn WHERE rejected IS NOT NULL),
        reworded AS (SELECT w.rewritten_id AS entry_id, draw FROM rewrites w JOIN sides USING (entry_id)),
        every AS (FROM sides {"UNION ALL FROM reworded" if rewrites else ""}),
        once AS (SELECT entry_id, min(draw) AS draw FROM every AS sides WHERE {missing} GROUP BY entry_id)
        SELECT entry_id, row_number() OVER (ORDER BY draw, entry_id) - 1 AS place FROM once
        """,
        [dataset_id, *parameters],
    )
    count = int(con.execute("SELECT count(*) FROM todo").fetchall()[0][0])
    size = size or shard_size(count)
    # One pass over the texts, sorted on disk where it must, cut as it streams: a query a shard would read every text
    # once a shard.
    rows = con.sql(
        f"""
        SELECT replace(e.hash::VARCHAR, '-', '') AS entry, p.turns AS prompt, e.response
        FROM todo JOIN entries e USING (entry_id) JOIN prompts p USING (prompt_id)
        ORDER BY place // {int(size)}, length(p.turns) + e.n_chars, e.entry_id
        """
    )
    yield from _cut(rows.to_arrow_reader(4096), int(size))


def _cut(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Tables of `size` rows (the last one less) from a stream of batches, of which no more than that is held."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        while held + batch.num_rows >= size:
            here = size - held
            yield pa.Table.from_batches([*waiting, batch.slice(0, here)])
            waiting, held, batch = [], 0, batch.slice(here)
        if batch.num_rows:
            waiting.append(batch)
            held += batch.num_rows
    if held:
        yield pa.Table.from_batches(waiting)
