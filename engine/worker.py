"""The worker process: `python -m engine.worker JOB_FOLDER [SLOT SLOTS]` fills a job's shards and exits.

It opens no store. It stops by itself after the current shard when its parent is gone or the job is cancelled, and
never runs twice for the same slot (a file lock). Failures end in `error.json`: one sentence.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine import jobs
from engine.records import SignetError


class Work(Protocol):
    """An opened model, labeler or rewriter: one shard of entries in, one table of results out."""

    environment: dict[str, Any]

    def run(self, entries: pa.Table) -> pa.Table:
        """Results for a table of entry, prompt, response; each row keeps its `entry`."""
        ...


def open_work(job: jobs.Job) -> Work:
    """The work of a job by its kind. Imports what it needs and nothing else."""
    if job.kind == "score":
        from engine.scorers import open_scorer

        return open_scorer(job.params)
    if job.kind == "label":
        from engine.labelers import open_labeler

        return open_labeler(job.params, job.folder)
    if job.kind == "rewrite":
        from engine.rewriting import open_rewriter

        return open_rewriter(job.params, job.folder)
    if job.kind == "train":
        from engine.training import Trainer

        return Trainer(job.params, job.folder)
    raise SignetError(f"This Signet knows no job of kind {job.kind!r}.")


def environment() -> dict[str, Any]:
    """What a run depends on besides its inputs: versions and machine."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
    for package in ("torch", "transformers", "sentence-transformers", "duckdb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _locked(job: jobs.Job, slot: int) -> Any:
    handle = open(job.path(f"slot-{slot}.lock"), "a")  # noqa: SIM115 (held until exit)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def running(job: jobs.Job, slot: int) -> bool:
    """Whether some process works in that slot of the job (possibly one that outlived its owner)."""
    handle = _locked(job, slot)
    if handle is None:
        return True
    handle.close()
    return False


def work_through(job: jobs.Job, slot: int, slots: int) -> None:
    """Fill every shard of this slot that has no result yet."""
    if job.kind == "import":
        from engine.datasets import import_parts

        import_parts(job)
        return
    parent = os.getppid()
    work: Work | None = None
    seconds = entries = chars = 0.0
    for shard in jobs.left(job):
        if shard % slots != slot:
            continue
        if os.getppid() != parent or job.path("cancel").exists():
            return
        if work is None:
            work = open_work(job)
            jobs.write_json(job.path("environment.json"), environment() | work.environment)
        try:
            table = pq.read_table(job.path(f"in-{shard:05d}.parquet"))
        except FileNotFoundError:
            continue
        began = time.perf_counter()
        result = work.run(table)
        seconds += time.perf_counter() - began
        entries += table.num_rows
        chars += sum(pc.sum(pc.utf8_length(table.column(c))).as_py() or 0 for c in ("prompt", "response"))
        jobs.write_parquet(job.path(f"part-{shard:05d}.parquet"), result)
        jobs.write_json(
            job.path("progress.json"),
            {"seconds": seconds, "entries": entries, "chars": chars, **work.environment.get("progress", {})},
        )


def main(folder: str, slot: int = 0, slots: int = 1) -> int:
    """Run until nothing is left; 0 done or asked to stop, 1 failed with error.json written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command; it asks the job to stop
    path = Path(folder)
    job = jobs.find(path.parent.parent, path.name)
    if job is None:
        return 1
    handle = _locked(job, slot)
    if handle is None:
        return 0
    try:
        work_through(job, slot, slots)
        return 0
    except SignetError as error:
        sentence = str(error)
    except MemoryError:
        sentence = "The machine ran out of memory; close other programs or use a smaller model, then resume."
    except Exception as error:  # every failure must end in a sentence, the traceback goes to the log
        traceback.print_exc()
        sentence = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'} (see the log)"
    jobs.write_json(job.path("error.json"), {"error": sentence})
    print(json.dumps({"error": sentence}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:4])))
