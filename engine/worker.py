"""The worker process: `python -m engine.worker JOB_FOLDER [SLOT SLOTS]` fills a job's shards and exits.

It opens no store. Workers side by side (slots) take whatever shard is free (engine.claims); one that finds none waits
until the job's last is done, in case another dies. It stops by itself after the current shard when its parent is gone
or the job is cancelled, and never runs twice for the same slot (a file lock). Failures end in `error.json`: one
sentence. A job that is to run on Ray has one worker, which drives those on the cluster (engine.ray_executor).
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
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine import claims, jobs
from engine.records import SignetError

WAIT = 0.2  # seconds between two looks for a free shard


class Work(Protocol):
    """An opened model, labeler or rewriter: one shard of entries in, one table of results out.

    A work that has `expect(entries)` is told of a shard before `run` is called with the same table, and may prepare it.
    One that has `close()` is told when no more will come.
    """

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


def stopped(job: jobs.Job, parent: int) -> bool:
    """Whether a worker should go no further: the process that started it is gone, or the job is cancelled."""
    return os.getppid() != parent or job.path("cancel").exists()


def work_through(job: jobs.Job, slot: int, slots: int) -> None:
    """Fill shards that have no result yet, side by side with the workers of the other slots, until all are filled."""
    if job.kind == "import":
        from engine.datasets import import_parts

        import_parts(job)
        return
    with ExitStack() as end:
        _fill(job, slot, slots, end)


def _fill(job: jobs.Job, slot: int, slots: int, end: ExitStack) -> None:
    """`end` is given what is to be done when no more shards are filled."""
    parent = os.getppid()
    work: Work | None = None
    waiting: deque[int] = deque()
    done = {"seconds": 0.0, "entries": 0, "chars": 0}
    job.path(f"progress-{slot}.json").unlink(missing_ok=True)
    ahead: tuple[claims.Claim, pa.Table] | None = None  # the next shard, which the work prepares meanwhile
    while not stopped(job, parent):
        now, ahead = ahead or _next(job, waiting), None
        if now is None:
            if not jobs.left(job):
                return
            time.sleep(WAIT)
            continue
        if work is None:
            work = open_work(_of_one_worker(job, slots))
            if hasattr(work, "close"):
                end.callback(work.close)
            jobs.write_json(job.path("environment.json"), environment() | work.environment | {"workers": slots})
        claim, table = now
        if hasattr(work, "expect"):
            work.expect(table)
            # The last shards are for those that have none: what is claimed ahead, another cannot begin.
            ahead = _next(job, waiting) if slots == 1 or len(waiting) >= slots else None
            if ahead is not None:
                work.expect(ahead[1])
        began = time.perf_counter()
        result = work.run(table)
        done["seconds"] += time.perf_counter() - began
        done["entries"] += table.num_rows
        done["chars"] += sum(pc.sum(pc.utf8_length(table.column(c))).as_py() or 0 for c in ("prompt", "response"))
        jobs.write_parquet(job.path(f"part-{claim.shard:05d}.parquet"), result)
        claim.release()
        _report(job, slot, slots, {**done, **work.environment.get("progress", {})})


def _of_one_worker(job: jobs.Job, slots: int) -> jobs.Job:
    """The job as one of its workers sees it: its share of the pairs that test a precision."""
    if "drift_pairs" not in job.params:
        return job
    return replace(job, params={**job.params, "drift_pairs": -(-job.params["drift_pairs"] // slots)})


def _next(job: jobs.Job, waiting: deque[int]) -> tuple[claims.Claim, pa.Table] | None:
    """A free shard, claimed and read, or None if there is none right now."""
    claim = claims.take(job, waiting)
    return None if claim is None else (claim, pq.read_table(claim.path))


def _report(job: jobs.Job, slot: int, slots: int, mine: dict[str, Any]) -> None:
    """Write what this worker did into the job's progress, which is that of all slots together."""
    if slots == 1:
        jobs.write_json(job.path("progress.json"), mine)
        return
    with open(job.path("progress.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that the last to write has read all the others
        jobs.write_json(job.path(f"progress-{slot}.json"), mine)
        every = [jobs.read_json(job.path(f"progress-{number}.json")) for number in range(slots)]
        jobs.write_json(job.path("progress.json"), claims.summed([one for one in every if one]))


def sentence_of(error: Exception) -> str:
    """What a failure says to people; the traceback of an unforeseen one goes to the log."""
    if isinstance(error, SignetError):
        return str(error)
    if isinstance(error, MemoryError):
        return "The machine ran out of memory; close other programs or use a smaller model, then resume."
    traceback.print_exception(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'} (see the log)"


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
        if jobs.place(job) == jobs.HERE:
            work_through(job, slot, slots)
        else:
            from engine import ray_executor

            ray_executor.work_through(job, jobs.place(job))
        return 0
    except Exception as error:  # every failure must end in a sentence
        sentence = sentence_of(error)
    jobs.write_json(job.path("error.json"), {"error": sentence})
    print(json.dumps({"error": sentence}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:4])))
