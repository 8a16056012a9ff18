"""Kill tests: worker and owner die at random moments; nothing is lost, doubled or half-written.

SIGNET_KILLS sets the number of kills (default 6), SIGNET_FAULT_MODEL a model for a longer run on the real test split.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import jobs, worker
from engine.client import Client
from engine.records import SignetError
from engine.settings import ROOT
from engine.store import Store, StoreBusy
from tests.conftest import DATA, wait_for
from tests.test_scorers import encoder  # noqa: F401 (a fixture)

KILLS = int(os.environ.get("SIGNET_KILLS", "6"))
MODEL = os.environ.get("SIGNET_FAULT_MODEL")


def command(home: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"SIGNET_HOME": str(home)}, start_new_session=True,
    )  # fmt: skip


def pairs_file(path: Path, n: int) -> Path:
    rng = random.Random(1)
    words = ["river", "light", "house", "never", "always", "green", "walk", "bread", "old", "quick"]
    with path.open("w") as out:
        for i in range(n):
            row = {
                name: " ".join(rng.choices(words, k=rng.randint(3, 60))) for name in ("prompt", "chosen", "rejected")
            }
            out.write(json.dumps(row | {"id": f"p{i}"}) + "\n")
    return path


def rewards(home: Path) -> dict[str, float]:
    with Store(home) as store:
        rows = (
            store.read()
            .execute("SELECT e.hash::VARCHAR, reward FROM rewards JOIN entries e USING (entry_id)")
            .fetchall()
        )
        count = store.read().execute("SELECT count(*) FROM rewards").fetchone()
    found = dict(rows)
    assert count == (len(found),), "an entry has two rewards"
    return found


def worker_pids(job_folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"engine.worker" in line and str(job_folder).encode() in line:
            found.append(int(path.parent.name))
    return found


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_every_entry_has_one_reward_after_kills_at_random_moments(encoder: Path, home: Path, tmp_path: Path) -> None:  # noqa: F811
    """Equal to an undisturbed run within 1e-5."""
    real = DATA / "hh_rlhf_test.jsonl.gz"
    source = real if MODEL and real.exists() else pairs_file(tmp_path / "pairs.jsonl", 1500)
    model = MODEL or str(encoder)
    quiet = tmp_path / "quiet"
    with Client(quiet) as client:
        wait_for(client, client.call("import", source=str(source), name="d")["job"])
        wait_for(client, client.call("score", dataset="d", model=model)["job"])
    expected = rewards(quiet)
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(source), name="d")["job"])
    rng = random.Random(int(os.environ.get("SIGNET_SEED", "7")))
    killed = {"worker": 0, "owner": 0}
    begun = time.monotonic()
    while sum(killed.values()) < KILLS and time.monotonic() - begun < 240 * max(1, KILLS // 6):
        running = command(home, "score", "d", "--model", model)
        time.sleep(rng.uniform(0.5, 9.0))
        if running.poll() is not None:
            break  # finished before this kill
        live = [j for j in jobs.all_jobs(home) if j.kind == "score"]
        pids = worker_pids(live[-1].folder) if live else []
        if pids and rng.random() < 0.5:
            kill(pids[0])
            killed["worker"] += 1
            time.sleep(rng.uniform(0.1, 2.0))
        kill(running.pid)
        killed["owner"] += 1
        running.wait()
    print(f"killed: {killed}")
    with Client(home) as client:
        started = client.call("score", dataset="d", model=model)
        wait_for(client, started["job"])
    found = rewards(home)
    assert found.keys() == expected.keys()
    values = np.array([[found[k], expected[k]] for k in found])
    print(f"entries: {len(found)}, largest difference: {np.abs(values[:, 0] - values[:, 1]).max():.2e}")
    assert np.abs(values[:, 0] - values[:, 1]).max() < 1e-5
    assert not any((home / "jobs").glob("*/in-*")) and not any((home / "jobs").glob("*/part-*"))


def test_a_part_taken_in_twice_changes_nothing(encoder: Path, home: Path, tmp_path: Path) -> None:  # noqa: F811
    """The plug is pulled after the commit and before the files are removed."""
    from engine import ingest

    with Client(home) as client:
        wait_for(client, client.call("import", source=str(pairs_file(tmp_path / "p.jsonl", 80)), name="d")["job"])
        started = client.call("score", dataset="d", model=str(encoder))
        job = jobs.require(home, started["job"])
        worker.work_through(job, 0, 1)
        saved = {p.name: p.read_bytes() for p in job.folder.glob("*.parquet")}
        assert client._owner is not None
        store = client._owner.store
        for _ in range(3):
            for name, content in saved.items():
                job.path(name).write_bytes(content)
            assert ingest.take_ready(store, job) > 0
            assert store.read().execute("SELECT count(*), count(DISTINCT entry_id) FROM rewards").fetchone() == (
                160,
                160,
            )
        wait_for(client, started["job"])


def test_a_job_half_made_by_a_killed_owner_is_cleared_away(home: Path, sample_file: Path) -> None:
    half = home / "jobs" / ".score-0123456789.4711"
    half.mkdir(parents=True)
    (half / "in-00000.parquet").write_bytes(b"half")
    with Client(home) as client:
        assert not half.exists()
        wait_for(client, client.call("import", source=str(sample_file), name="s")["job"])


def test_a_broken_worker_says_why_and_resumes(encoder: Path, home: Path, tmp_path: Path) -> None:  # noqa: F811
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(pairs_file(tmp_path / "p.jsonl", 40)), name="d")["job"])
        started = client.call("score", dataset="d", model=str(encoder))
        weights = encoder / "model.safetensors"
        content = weights.read_bytes()
        try:
            weights.write_bytes(content[:1000])
            with pytest.raises(SignetError, match="cannot be loaded"):
                wait_for(client, started["job"])
        finally:
            weights.write_bytes(content)
        assert jobs.read_state(jobs.require(home, started["job"])).state == "failed"
        client.call("resume", job=started["job"])
        wait_for(client, started["job"])
    assert len(rewards(home)) == 80


def test_cancel_keeps_what_is_done_and_resume_goes_on(encoder: Path, home: Path, tmp_path: Path) -> None:  # noqa: F811
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(pairs_file(tmp_path / "p.jsonl", 2500)), name="d")["job"])
        identity = client.call("score", dataset="d", model=str(encoder))["job"]
        cancelled = False

        def watch(job: jobs.Job, state: jobs.State, progress: jobs.Progress) -> None:
            nonlocal cancelled
            if progress.done and not cancelled:
                cancelled = True
                client.call("cancel", job=identity)

        state = client.follow(identity, watch)
        assert state.state == "cancelled"
        client.call("resume", job=identity)
        wait_for(client, identity)
    assert len(rewards(home)) == 5000


def test_the_store_has_one_owner_and_others_go_through_it(home: Path, sample_file: Path) -> None:
    with Client(home) as owner:
        with pytest.raises(StoreBusy):
            Store(home)
        other = Client(home)
        assert other._owner is None
        assert owner._owner is not None
        owner._owner.start()
        started = other.call("import", source=str(sample_file), name="s")
        wait_for(other, started["job"])
        assert other.call("info", dataset="s")["pairs"] == 6
        with pytest.raises(SignetError, match="No dataset"):
            other.call("info", dataset="nope")


def test_a_waiting_command_takes_over_when_the_owner_dies(home: Path, sample_file: Path) -> None:
    with Client(home) as owner:
        other = Client(home)
        (home / "inbox").mkdir(exist_ok=True)
        import threading

        answer: list[Any] = []
        thread = threading.Thread(target=lambda: answer.append(other.call("info")))
        thread.start()
        time.sleep(0.5)
        assert not answer
        del owner
    thread.join(timeout=20)
    assert answer and answer[0]["datasets"] == []
    other.__exit__()


def test_a_newer_store_is_refused_with_a_sentence(home: Path) -> None:
    with Store(home) as store, store.transaction() as con:
        con.execute("INSERT INTO migrations VALUES (9999, now()::TIMESTAMP)")
    with pytest.raises(SignetError, match="newer Signet"):
        Store(home)
