"""Ray: two workers against one, one on Ray against a plain local worker, and a node killed in the middle of a run.

Every worker has one core and one thread; the two nodes, the driver and the benchmark share this machine, so on two
cores the efficiency of two workers is a lower bound. Rates are taken from when the last worker has begun to deliver to
the end, without the seconds in which processes start and load the model: those are told beside them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import reward_models
from benchmarks.tables import table as printed
from engine import jobs, models
from engine.settings import ROOT

PAIRS = int(os.environ.get("BENCH_RAY_PAIRS", "256"))
SHARD = int(os.environ.get("BENCH_RAY_SHARD", "16"))
KILL_AT = 0.4  # of the shards done


def _job(home: Path, table: pa.Table, params: dict[str, Any], name: str) -> jobs.Job:
    """Shards as the owner would cut them: evenly mixed lengths, sorted inside."""
    pieces = [table.take(list(range(start, table.num_rows, -(-table.num_rows // SHARD))))
              for start in range(-(-table.num_rows // SHARD))]  # fmt: skip
    return jobs.create(home, "score", name, name, params, pieces)


def _run(job: jobs.Job, on: str, meanwhile: Callable[[int], None] = lambda done: None) -> dict[str, float]:
    """Seconds of the whole and texts a second once all workers deliver, of a job's own worker process."""
    jobs.move(job, on)
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    began = time.time()
    total = len(jobs.left(job))
    with open(job.path("log.txt"), "ab") as log:
        words = [sys.executable, "-m", "engine.worker", str(job.folder)]
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=os.environ | one_thread)
        while process.poll() is None:
            meanwhile(total - len(jobs.left(job)))
            time.sleep(0.05)
    if process.returncode or jobs.left(job):
        raise RuntimeError(jobs.read_json(job.path("error.json")) or job.path("log.txt").read_text()[-2000:])
    written = sorted(job.path(f"part-{shard:05d}.parquet").stat().st_mtime for shard in range(total))
    warm = total // 4  # both workers deliver by then
    rows = sum(pq.read_metadata(job.path(f"part-{shard:05d}.parquet")).num_rows for shard in range(total))
    return {
        "texts_per_second": rows / total * (total - 1 - warm) / (written[-1] - written[warm]),
        "seconds": time.time() - began, "until_first_shard": written[0] - began,
    }  # fmt: skip


def _rewards(job: jobs.Job) -> list[tuple[str, float]]:
    parts = pa.concat_tables([pq.read_table(path) for path in sorted(job.folder.glob("part-*.parquet"))])
    return sorted(zip(parts.column("entry").to_pylist(), parts.column("reward").to_pylist()))


def run() -> dict[str, Any]:
    """Texts a second of each way, the efficiency of two workers, what Ray costs, and what a killed node did."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folder = reward_models.small_encoder(home / "model")
        source, table = reward_models.pairs(PAIRS)
        table = table.group_by("entry").aggregate([("prompt", "min"), ("response", "min")])
        table = table.rename_columns(["entry", "prompt", "response"])
        spec = models.resolve(str(folder), {"format": "seal_pair", "max_length": 256})
        params = {"model": spec.name, "kind": spec.kind, "revision": spec.revision, **spec.params}
        made = {way: _job(home, table, params, way) for way in ("local", "ray_one", "ray_two", "ray_killed")}
        found = {"local": _run(made["local"], jobs.HERE)}
        quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "health_check_initial_delay_ms": 0}
        size = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 << 20}
        cluster = Cluster(initialize_head=True, head_node_args={**size, "_system_config": quick})
        try:
            found["ray_one"] = _run(made["ray_one"], cluster.address)
            second = cluster.add_node(**size)
            found["ray_two"] = _run(made["ray_two"], cluster.address)
            killed: list[int] = []

            def kill(done: int) -> None:
                nodes = (jobs.read_json(made["ray_killed"].path("environment.json")) or {}).get("nodes", [])
                if not killed and len(nodes) == 2 and done >= KILL_AT * len(table) / SHARD:
                    killed.append(done)
                    cluster.remove_node(second, allow_graceful=False)

            found["ray_killed"] = _run(made["ray_killed"], cluster.address, kill)
        finally:
            cluster.shutdown()
        rewards = {way: _rewards(job) for way, job in made.items()}
        entries = sorted(set(table.column("entry").to_pylist()))
        rate = {way: one["texts_per_second"] for way, one in found.items()}
        return {
            "texts": source, "entries": table.num_rows, "shards": -(-table.num_rows // SHARD),
            "cores": os.cpu_count(),
            "texts_per_second": {way: round(rate[way], 2) for way in ("local", "ray_one", "ray_two")},
            "seconds": {way: round(one["seconds"], 1) for way, one in found.items()},
            "until_first_shard": {way: round(one["until_first_shard"], 1) for way, one in found.items()},
            "two_workers_to_one": round(rate["ray_two"] / rate["ray_one"], 2),
            "efficiency_of_two": round(rate["ray_two"] / rate["ray_one"] / 2, 2),
            "ray_to_local": round(rate["ray_one"] / rate["local"], 2),
            "node_killed_after_shards": killed,
            "every_entry_once": all([entry for entry, _ in one] == entries for one in rewards.values()),
            "largest_difference": max(
                abs(a - b) for way in rewards for (_, a), (_, b) in zip(rewards[way], rewards["local"])
            ),
        }  # fmt: skip


def section(result: dict[str, Any]) -> str:
    """The three runs side by side, and what the killed node did, in a sentence."""
    named = {"local": "a plain local worker", "ray_one": "one worker on Ray", "ray_two": "two workers on two nodes",
             "ray_killed": "the same, one node killed"}  # fmt: skip
    rows = [
        {"": text, "texts/s": result["texts_per_second"].get(way), "seconds in all": result["seconds"][way],
         "of them until the first shard": result["until_first_shard"][way]}
        for way, text in named.items()
    ]  # fmt: skip
    once = "every entry was scored exactly once" if result["every_entry_once"] else "ENTRIES WERE LOST OR DOUBLED"
    return (
        f"{result['entries']:,} texts ({result['texts']}) in {result['shards']} shards, one core and one thread a "
        f"worker, everything on this machine ({result['cores']} cores).\n\n{printed(rows)}\n\n"
        f"Two workers do {result['two_workers_to_one']} times what one does (efficiency "
        f"{result['efficiency_of_two']:.0%}); one on Ray {result['ray_to_local']} times what a local worker does. "
        f"A node was killed after {result['node_killed_after_shards'][0]} shards: {once}, and no reward differs from "
        f"the local run's by more than {result['largest_difference']:.1e}."
    )
