"""How several processes share a job's shards: each shard is worked on by one at a time, and their progress is added up.

A claim is a lock on the shard's `in` file. It ends with the process that holds it, however that ends, so what a dead
worker had in hand is free at once and no worker's share waits for it.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from engine import jobs


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard that only this process works on, until `release` or the process's end."""

    shard: int
    path: Path
    file: IO[bytes]

    def release(self) -> None:
        """Let others have it; they find its part, if that was written."""
        self.file.close()


def take(job: jobs.Job, waiting: deque[int]) -> Claim | None:
    """The next shard that is left and that nobody works on, or None if there is none right now.

    `waiting` is what an earlier call found in the folder and did not look at yet; begin with an empty one.
    """
    for look_again in (False, True):
        if look_again:
            waiting.extend(jobs.left(job))
        while waiting:
            claim = _claimed(job, waiting.popleft())
            if claim is not None:
                return claim
    return None


def _claimed(job: jobs.Job, shard: int) -> Claim | None:
    path = job.path(f"in-{shard:05d}.parquet")
    try:
        file = open(path, "r+b")  # noqa: SIM115 (held by the claim; writable, for NFS locks no other)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # First its part, then itself: the owner removes `in` before `part`, so a shard with neither is done, too.
        done = job.path(f"part-{shard:05d}.parquet").exists()
        if not done and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return Claim(shard, path, file)
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def summed(workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One progress out of those of workers side by side: counts add up, and so do rates.

    Each has seconds, entries, chars, and counts of its own kind; `idle` true: its rate no longer counts. `seconds` of
    the result is what makes entries / seconds the sum of the rates.
    """
    total: dict[str, Any] = {}
    rate = 0.0
    for worker in workers:
        total = _added(total, {key: value for key, value in worker.items() if key not in ("seconds", "idle")})
        if worker["seconds"] and not worker.get("idle"):
            rate += worker["entries"] / worker["seconds"]
    entries = total.get("entries", 0)
    return {"seconds": entries / rate if rate else sum(w["seconds"] for w in workers), **total}


def _added(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(left)
    for key, value in right.items():
        if isinstance(value, Mapping):
            found[key] = _added(found.get(key) or {}, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = (found.get(key) or 0) + value
        else:
            found[key] = value
    return found
