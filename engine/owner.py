"""The owner: the one process that has the store open, takes in results, and keeps workers running.

The dashboard's server is an owner for as long as it runs (a thread); a command is one for as long as it needs. What
another process wants it puts into `inbox/` as a request; the answer comes back as a file beside it.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from engine import commands, ingest, jobs, tallies, worker
from engine.records import SignetError
from engine.settings import ROOT, slot_environment, worker_slots
from engine.store import Store

ATTEMPTS = 3  # ends without a finished shard before a job is called failed
log = logging.getLogger("signet.owner")


class Owner:
    """Runs jobs over an open store. `tick` does one round; `run` and `start` loop over it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._processes: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        (store.home / "inbox").mkdir(exist_ok=True)
        for half_made in (store.home / "jobs").glob(".*"):  # only owners make jobs, and the one before is gone
            shutil.rmtree(half_made, ignore_errors=True)
        for job in jobs.all_jobs(store.home):
            if jobs.read_state(job).state == "running":
                jobs.set_state(job, attempts=0)  # what an earlier owner counted does not count for this one

    # --- loops ---
    def start(self) -> None:
        """Loop in a background thread until `close`."""
        self._thread = threading.Thread(target=self._loop, name="signet-owner", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        counted = -1
        while not self._stop.is_set():
            try:
                busy = self.tick()
                if not busy and self.store.version != counted:  # counting waits until no job writes
                    counted = self.store.version
                    tallies.refresh(self.store)
            except Exception:  # the loop must outlive any one job
                log.exception("owner round failed")
                busy = False
            self._stop.wait(0.2 if busy else 0.5)

    def close(self) -> None:
        """Stop looping and end the workers; their finished shards stay on disk for the next owner."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=30)
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()

    def release(self) -> None:
        """Give up the store but leave the workers to it: the next owner takes their shards in."""
        self.store.close()

    # --- one round ---
    def tick(self) -> bool:
        """Answer requests, ingest what is ready, start and watch workers; whether any job is live."""
        self._answer_requests()
        busy_lanes: set[str] = set()
        for job in jobs.all_jobs(self.store.home):
            state = jobs.read_state(job)
            if state.state in jobs.ENDED:
                continue
            lane = job.params.get("lane") or jobs.LANES.get(job.kind, "compute")
            if lane in busy_lanes:
                continue
            busy_lanes.add(lane)
            try:
                self._advance(job, state)
            except SignetError as error:
                self._fail(job, str(error))
            except Exception as error:
                log.exception("job %s failed", job.id)
                self._fail(job, f"Taking in the results failed: {type(error).__name__}: {error}")
        return bool(busy_lanes)

    def _advance(self, job: jobs.Job, state: jobs.State) -> None:
        if job.path("cancel").exists():
            self._end_workers(job)
            while job.kind in ingest.TAKE and ingest.take_ready(self.store, job):
                pass
            jobs.set_state(job, state="cancelled", finished=time.time())
            return
        if state.state == "queued":
            state = jobs.set_state(job, state="running", started=time.time(), error="", attempts=0)
        if job.kind == "import":
            if job.path("report.json").exists():
                counts = ingest.take_dataset(self.store, job)
                self._done(job, counts)
                return
        else:
            if ingest.take_ready(self.store, job, at_once=not jobs.left(job)):
                state = jobs.set_state(job, attempts=0)
            if not jobs.left(job) and not jobs.ready(job):
                self._end_workers(job)
                self._done(job, {})
                return
            if not jobs.left(job):
                return
        self._keep_workers(job, state)

    def _done(self, job: jobs.Job, counts: dict[str, Any]) -> None:
        counts = ingest.finish(self.store, job) | counts
        notes = commands.after(self.store, job)  # before the job counts as done: its jobs are made once, however often
        jobs.set_state(job, state="done", finished=time.time(), counts=counts | ({"then": notes} if notes else {}))

    def _fail(self, job: jobs.Job, sentence: str) -> None:
        self._end_workers(job)
        jobs.set_state(job, state="failed", error=sentence, finished=time.time())

    # --- workers ---
    def _keep_workers(self, job: jobs.Job, state: jobs.State) -> None:
        for key in [key for key in self._processes if key[0] == job.id]:
            code = self._processes[key].poll()
            if code is None:
                continue
            del self._processes[key]
            error = jobs.read_json(job.path("error.json"))
            if error:
                self._fail(job, error["error"])
                return
            if code == 0 and job.kind == "import" and job.path("report.json").exists():
                return
            state = jobs.set_state(job, attempts=state.attempts + 1)
            if code < 0 and state.attempts >= ATTEMPTS:
                name = signal.Signals(-code).name
                self._fail(
                    job,
                    f"The worker was killed {ATTEMPTS} times in a row by {name} without finishing a shard, most "
                    "likely for lack of memory; free some or choose a smaller model, then resume.",
                )
                return
            if state.attempts >= ATTEMPTS * 4:
                self._fail(job, "The worker keeps ending without a result; see the log, then resume.")
                return
        slots = self._slots(job)
        for slot in range(min(slots, max(1, len(jobs.left(job))))):
            # A worker may have outlived an earlier owner; it stops after its shard.
            if (job.id, slot) not in self._processes and not worker.running(job, slot):
                self._processes[(job.id, slot)] = self._spawn(job, slot, slots)

    def _slots(self, job: jobs.Job) -> int:
        """Workers side by side: one for what asks or drives many by itself, else what machine and shards allow."""
        alone = job.kind == "import" or job.params.get("lane") == "network" or jobs.place(job) != jobs.HERE
        return 1 if alone else max(1, min(worker_slots(), len(jobs.read_json(job.path("manifest.json")) or [])))

    def _spawn(self, job: jobs.Job, slot: int, slots: int) -> subprocess.Popen[bytes]:
        if not any(key[0] == job.id for key in self._processes):
            job.path("error.json").unlink(missing_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true"}
        with open(job.path("log.txt"), "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "engine.worker", str(job.folder), str(slot), str(slots)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | slot_environment(slot, slots),
                cwd=ROOT,
            )

    def _end_workers(self, job: jobs.Job) -> None:
        for key in [key for key in self._processes if key[0] == job.id]:
            process = self._processes.pop(key)
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()

    # --- requests of other processes ---
    def _answer_requests(self) -> None:
        for path in sorted((self.store.home / "inbox").glob("*.request.json")):
            body = jobs.read_json(path)
            if not body:
                continue
            answer = commands.answer(self.store, body["op"], body["args"])
            jobs.write_json(answer_path(path), answer)
            path.unlink(missing_ok=True)


def answer_path(request: Path) -> Path:
    """Where the answer to a request file is written."""
    return request.with_name(request.name.replace(".request.", ".answer."))
