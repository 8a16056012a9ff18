"""Workers side by side on one machine: GPUs found without torch, shards taken one at a time, a dead one's share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine import claims, jobs, settings, worker
from engine.client import Client
from engine.records import SignetError
from engine.settings import ROOT
from tests.conftest import wait_for
from tests.slow_models import slow_model
from tests.test_faults import pairs_file, rewards, worker_pids


@pytest.fixture
def job(home: Path) -> jobs.Job:
    """A job of five shards."""
    shards = [pa.table({"entry": [f"{n:032x}"], "prompt": ["[]"], "response": ["a"]}) for n in range(5)]
    return jobs.create(home, "score", "d", "Score d", {}, shards)


def test_no_shard_is_had_by_two_and_every_one_by_one(job: jobs.Job) -> None:
    first, second = deque[int](), deque[int]()
    held = [claims.take(job, first), claims.take(job, second), claims.take(job, first), claims.take(job, second)]
    last = claims.take(job, first)
    assert [claim.shard for claim in [*held, last] if claim] == [0, 1, 2, 3, 4]
    assert claims.take(job, first) is None and claims.take(job, second) is None
    assert held[1] is not None and last is not None
    held[1].release()
    again = claims.take(job, first)
    assert again is not None and again.shard == 1
    job.path("part-00004.parquet").touch()  # done: its lock is open, but it is not left
    last.release()
    assert claims.take(job, second) is None
    job.path("in-00004.parquet").unlink()  # taken in by the owner, seen by a worker that listed it before
    assert claims.take(job, deque([4])) is None


def test_what_a_dead_worker_had_is_free(job: jobs.Job) -> None:
    code = (
        "import sys, time; from pathlib import Path; from collections import deque; from engine import claims, jobs;"
        "held = claims.take(jobs.find(Path(sys.argv[1]), sys.argv[2]), deque()); print(held.shard, flush=True);"
        "time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(job.folder.parent.parent), job.id]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None and other.stdout.readline() == b"0\n"
        mine = claims.take(job, deque())
        assert mine is not None and mine.shard == 1
        other.kill()
        other.wait()
    freed = claims.take(job, deque())
    assert freed is not None and freed.shard == 0


def undisturbed(home: Path, source: Path, model: Path, options: dict[str, Any]) -> dict[str, float]:
    """The rewards of a run in this process."""
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(source), name="d")["job"])
        identity = client.call("score", dataset="d", model=str(model), options=options)["job"]
        worker.work_through(jobs.require(home, identity), 0, 1)
        wait_for(client, identity)
    return rewards(home)


def test_a_killed_worker_of_two_leaves_nothing_behind(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = slow_model(tmp_path / "model", seconds=0.02)
    source = pairs_file(tmp_path / "pairs.jsonl", 600)
    options = {"trust_remote_code": True}
    expected = undisturbed(tmp_path / "quiet", source, model, options)
    monkeypatch.setenv("SIGNET_WORKERS", "2")
    killed: list[int] = []
    most = 0
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(source), name="d")["job"])
        identity = client.call("score", dataset="d", model=str(model), options=options)["job"]

        def disturb(job: jobs.Job, state: jobs.State, progress: jobs.Progress) -> None:
            nonlocal most
            pids = worker_pids(job.folder)
            most = max(most, len(pids))
            if not killed and progress.done and len(pids) == 2:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        client.follow(identity, disturb)
        job = jobs.require(home, identity)
        assert jobs.read_json(job.path("environment.json"))["workers"] == 2
    assert killed and most == 2
    assert rewards(home) == pytest.approx(expected, abs=1e-6)


def test_progress_of_workers_adds_up() -> None:
    """Rates add up; counts of any kind do; a worker that is gone keeps its counts and not its rate."""
    one = {"seconds": 10.0, "entries": 100, "chars": 1000, "tokens": 7, "why": {"same": 1}}
    two = {"seconds": 5.0, "entries": 100, "chars": 900, "tokens": 5, "why": {"same": 2, "lost": 1}, "note": "x"}
    total = claims.summed([one, two])
    assert total["entries"] / total["seconds"] == pytest.approx(10 + 20)
    assert (total["chars"], total["tokens"], total["why"], total["note"]) == (1900, 12, {"same": 3, "lost": 1}, "x")
    gone = claims.summed([one, two | {"idle": True}])
    assert gone["entries"] == 200 and gone["entries"] / gone["seconds"] == pytest.approx(10)
    assert claims.summed([one]) == one


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with an nvidia-smi of ours and a torch that knows CUDA; the path of what nvidia-smi prints."""
    listing = tmp_path / "listing"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ntest -e {listing} || exit 9\ncat {listing}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(settings, "_torch_knows_cuda", lambda: True)
    for name in ("SIGNET_DEVICE", "SIGNET_WORKERS", "CUDA_VISIBLE_DEVICES", *settings.THREADS):
        monkeypatch.delenv(name, raising=False)
    settings.gpus.cache_clear()
    yield listing
    settings.gpus.cache_clear()


def test_a_worker_for_every_gpu(machine: Path) -> None:
    machine.write_text("GPU 0: NVIDIA H200 (UUID: GPU-aa-1)\nGPU 1: NVIDIA H200 (UUID: GPU-bb-2)\n")
    assert settings.gpus() == ("GPU-aa-1", "GPU-bb-2") and settings.worker_slots() == 2
    chosen = [settings.slot_environment(slot, 2) for slot in range(2)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in chosen] == ["GPU-aa-1", "GPU-bb-2"]
    assert chosen[0]["OMP_NUM_THREADS"] == str(settings.threads(2))
    assert settings.slot_environment(0, 1) == {}


def test_slices_of_a_gpu_count_as_gpus(machine: Path) -> None:
    machine.write_text(
        "GPU 0: NVIDIA A100 (UUID: GPU-aa)\n  MIG 3g.20gb     Device  0: (UUID: MIG-1)\n"
        "  MIG 3g.20gb     Device  1: (UUID: MIG-2)\nGPU 1: NVIDIA A100 (UUID: GPU-bb)\n"
    )
    assert settings.gpus() == ("MIG-1", "MIG-2", "GPU-bb")


def test_a_driver_that_fails_is_no_gpu(machine: Path) -> None:
    assert settings.gpus() == () and settings.worker_slots() == 1


@pytest.mark.parametrize(
    ("named", "found"), [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("1,-1,0", ("1",)), ("GPU-aa", ("GPU-aa",))]
)
def test_what_cuda_may_see_is_what_counts(
    machine: Path, monkeypatch: pytest.MonkeyPatch, named: str, found: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert settings.gpus() == found


def test_workers_can_be_chosen(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNET_DEVICE", "cpu")
    monkeypatch.setenv("SIGNET_WORKERS", "3")
    assert settings.gpus() == () and settings.worker_slots() == 3
    assert "CUDA_VISIBLE_DEVICES" not in settings.slot_environment(0, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert "OMP_NUM_THREADS" not in settings.slot_environment(0, 3), "what the user says stays"
    monkeypatch.setenv("SIGNET_WORKERS", "many")
    with pytest.raises(SignetError, match="SIGNET_WORKERS is 'many'"):
        settings.worker_slots()
