"""A job's shards on every GPU of a Ray cluster: the same work as a local worker's, behind the same folder of shards.

One driver, here, sends each shard's Parquet bytes to an actor and writes the bytes that come back as its part: nodes
need neither the job's folder nor a shared disk, only Python, Ray and requirements.txt; Signet's code travels along. A
GPU is an actor; on a cluster without any, every SIGNET_RAY_CPUS cores are (default: up to 8 of a node's). A node that
appears is used; the shards of one that dies go to others. A shard is written once, by the driver, which holds its
claim. Each actor has at most AHEAD shards, so what is under way, and what the driver holds, is bounded.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import claims, jobs, settings, worker
from engine.records import SignetError

AHEAD = 2  # shards an actor has: one in work, the next already on its node
DEATHS = 3  # actors that may die on one shard, or on opening the model on one node
PATIENCE = 120.0  # seconds without any usable node
LOOK = 5.0  # seconds between two looks at the cluster
CORES = 8  # of a node without GPU, for one actor
BLOCK = 32 << 20  # bytes of a file sent at once
MATTERS = ("python", "torch", "transformers", "sentence-transformers", "device", "dtype")  # told where nodes differ
SHIPPED = ("engine", "taxonomies", "prompts", "targets")  # what a node needs of this repository


# --- on a node -------------------------------------------------------------------------------------------------------


class Node:
    """An actor: it opens the job's work where it finds itself and answers shards. Failures are answers, too."""

    def __init__(self, body: dict[str, Any], gpu: bool, cores: int) -> None:
        os.environ |= {name: str(cores) for name in settings.THREADS} | {"SIGNET_DEVICE": "cuda" if gpu else "cpu"}
        self._body = body
        self._work: Any = None

    def open(self, files: list[tuple[str, list[Any]]]) -> dict[str, Any]:
        """Load the model: {"environment": ...} or {"error": a sentence}. `files`: what the labeler's folder holds."""
        try:
            store = settings.home()
            if files:
                store = unpacked(files, store / "shipped" / str(self._body["params"]["revision"]))
            job = jobs.Job(**self._body, folder=store / "jobs" / self._body["id"])
            _same_model_here(job)
            self._work = worker.open_work(job)
            return {"environment": worker.environment() | self._work.environment | {"device": _device()}}
        except Exception as error:
            return {"error": worker.sentence_of(error)}

    def run(self, shard: bytes) -> dict[str, Any]:
        """The results of a shard, both as bytes of a Parquet file, with seconds and the counts so far."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(pa.BufferReader(shard))
            began = time.perf_counter()
            result = self._work.run(table)
            seconds = time.perf_counter() - began
            sink = io.BytesIO()
            pq.write_table(result, sink, compression="zstd")
            return {"part": sink.getvalue(), "seconds": seconds, "counts": self._work.environment.get("progress", {})}
        except Exception as error:
            return {"error": worker.sentence_of(error)}


def _same_model_here(job: jobs.Job) -> None:
    """A model folder is not sent (it may be any size): it must be on the node, and the same."""
    path = job.params.get("path")
    if job.kind != "score" or not path:
        return
    if not Path(path).is_dir():
        raise SignetError(f"The model folder {path} is not there; copy it there under the same path, or name a hub id.")
    from engine import models

    if models.resolve(path, {}).revision != job.params["revision"]:
        raise SignetError(f"The model folder {path} holds other files there than here; copy it again.")


def _device() -> str:
    if settings.device() != "cuda":
        return settings.device()
    import torch

    return f"cuda: {torch.cuda.get_device_name(0)}"


def unpacked(files: list[tuple[str, list[Any]]], store: Path) -> Path:
    """Write files sent as lists of blocks under `store`, once a node, however many actors ask for it."""
    import shutil
    import tempfile

    import ray

    if not store.exists():
        store.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=store.parent))
        for name, blocks in files:
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                for block in blocks:
                    out.write(ray.get(block))
        try:
            building.rename(store)
        except OSError:  # another actor was first
            shutil.rmtree(building, ignore_errors=True)
    return store


# --- the driver ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Hand:
    """An actor with its place and the shards it has, oldest first."""

    actor: Any
    node: str
    address: str
    opening: Any
    device: str = ""
    shards: deque[tuple[Any, claims.Claim]] = field(default_factory=deque)
    done: dict[str, Any] = field(default_factory=lambda: {"seconds": 0.0, "entries": 0, "chars": 0})

    def asked(self) -> list[Any]:
        """What it has not answered."""
        return [self.opening] if self.opening is not None else [ref for ref, _ in self.shards]


def work_through(job: jobs.Job, on: str) -> None:
    """Fill the job's shards on a Ray cluster; returns when none is left, or when asked to stop."""
    parent = os.getppid()
    with connected(on) as ray:
        try:
            Fleet(job, on, ray).run(parent)
        except ConnectionError as error:
            reason = " ".join(str(error).split())[:200]
            raise SignetError(f"The Ray cluster {on} was lost ({reason}); resume when it is back.") from None


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Ray, connected to a cluster (`ray`: one that runs on this machine, else one of this machine alone)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise SignetError("Ray is not installed here; run: pip install -r requirements-ray.txt") from None
    others = [f"/{path.name}" for path in settings.ROOT.iterdir() if path.name not in SHIPPED]
    runtime = {
        "working_dir": str(settings.ROOT),
        "excludes": [*others, "__pycache__"],
        # Without SIGNET_HOME a node's copy of the code holds its cache, which Ray clears away with it.
        "env_vars": {"SIGNET_HOME": "", "TOKENIZERS_PARALLELISM": "true"},
    }
    try:
        if on != "ray":  # ray.init would try for minutes
            host, _, port = on.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=None if on == "ray" else on, runtime_env=runtime, logging_level=logging.WARNING)
    except Exception as error:
        outside = "" if on.startswith("ray://") or on == "ray" else (
            " (this machine must be a node of it; from outside, name ray://HOST:10001)")  # fmt: skip
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SignetError(f"The Ray cluster {on} does not take this job{outside}: {reason}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


class Fleet:
    """The actors of a job and what each is doing."""

    def __init__(self, job: jobs.Job, on: str, ray: Any) -> None:
        self.job, self.on, self.ray = job, on, ray
        self.sizes = {shard: (entries, chars) for shard, entries, chars in jobs.read_json(job.path("manifest.json"))}
        self.hands: list[Hand] = []
        self.gone: list[dict[str, Any]] = []  # progress of actors that died
        self.again: deque[claims.Claim] = deque()  # shards whose actor died
        self.waiting: deque[int] = deque()
        self.deaths: dict[int | str, int] = {}  # by shard, and by node while opening
        self.nodes: dict[str, dict[str, Any]] = {}
        self.environment: dict[str, Any] = {}
        self.why = ""
        self.body = {name: getattr(job, name) for name in ("id", "kind", "dataset", "title", "params", "created")}
        self.files = self._files()
        self.looked = float("-inf")
        self.usable = time.monotonic()

    def run(self, parent: int) -> None:
        """Until no shard is left."""
        while not worker.stopped(self.job, parent):
            if time.monotonic() - self.looked > LOOK:
                self._look()
            for most in range(1, AHEAD + 1):  # first one for each, then the next for each
                for hand in self.hands:
                    self._feed(hand, most)
            if not self.again and not any(hand.shards for hand in self.hands) and not jobs.left(self.job):
                return
            asked = {ref: hand for hand in self.hands for ref in hand.asked()}
            if not asked:
                time.sleep(worker.WAIT)
            elif self.ray.wait(list(asked), timeout=0.5)[0]:
                for ref in self.ray.wait(list(asked), num_returns=len(asked), timeout=0)[0]:
                    if asked[ref] in self.hands:  # not lost by an answer before this one
                        self._take(asked[ref], ref)

    # --- who there is ---
    def _look(self) -> None:
        """Make the actors that the cluster has room for; let go those of nodes that are gone."""
        self.looked = time.monotonic()
        alive = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        for hand in [hand for hand in self.hands if hand.node not in alive]:
            self._lost(hand, "its node is gone")
        room, left = places(alive), len(jobs.left(self.job))
        for node, (count, needs, cores) in room.items():
            here = [hand for hand in self.hands if hand.node == node]
            for _ in range(count - len(here)):
                if self.deaths.get(node, 0) < DEATHS and len(self.hands) < left:
                    self._hire(node, alive[node]["NodeManagerAddress"], needs, cores)
        if self.hands or not left:
            self.usable = time.monotonic()
        elif room and all(self.deaths.get(node, 0) >= DEATHS for node in room):
            raise SignetError(
                f"On Ray ({self.on}) the worker died {DEATHS} times before it had the model ({self.why}); choose a "
                "smaller model or larger nodes, see the log, then resume."
            )
        elif time.monotonic() - self.usable > PATIENCE:
            raise SignetError(
                f"The Ray cluster {self.on} has had no node with a GPU or core for {PATIENCE:.0f} seconds; start some "
                "(ray start --address=...), then resume."
            )

    def _hire(self, node: str, address: str, needs: dict[str, float], cores: int) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        made = self.ray.remote(Node).options(scheduling_strategy=there, max_restarts=0, max_task_retries=0, **needs)
        actor = made.remote(self.body, "num_gpus" in needs, cores)
        self.hands.append(Hand(actor, node, address, actor.open.remote(self.files)))

    def _files(self) -> list[tuple[str, list[Any]]]:
        """A trained classifier's folder, in blocks in the object store."""
        name = self.job.params.get("classifier")
        if not name:
            return []
        home = self.job.folder.parent.parent
        found = []
        for path in sorted(path for path in (home / "classifiers" / name).rglob("*") if path.is_file()):
            with path.open("rb") as file:
                blocks = [self.ray.put(block) for block in iter(lambda: file.read(BLOCK), b"")]
            found.append((str(path.relative_to(home)), blocks))
        return found

    # --- what they do ---
    def _feed(self, hand: Hand, most: int) -> None:
        if hand.opening is not None or len(hand.shards) >= most:
            return
        claim = self.again.popleft() if self.again else claims.take(self.job, self.waiting)
        if claim is not None:
            hand.shards.append((hand.actor.run.remote(claim.path.read_bytes()), claim))

    def _take(self, hand: Hand, ref: Any) -> None:
        """An answer, or the news that there will be none."""
        try:
            answer = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self._lost(hand, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            return
        if "error" in answer:
            raise SignetError(f"On node {hand.address}: {answer['error']}")
        if ref == hand.opening:
            hand.opening = None
            self._opened(hand, answer["environment"])
            return
        place = next(i for i, (mine, _) in enumerate(hand.shards) if mine == ref)
        claim = hand.shards[place][1]
        del hand.shards[place]
        jobs.write_bytes(self.job.path(f"part-{claim.shard:05d}.parquet"), answer["part"])
        claim.release()
        entries, chars = self.sizes[claim.shard]
        hand.done |= {"seconds": hand.done["seconds"] + answer["seconds"], "entries": hand.done["entries"] + entries,
                      "chars": hand.done["chars"] + chars, **answer["counts"]}  # fmt: skip
        self._report()

    def _lost(self, hand: Hand, why: str) -> None:
        """An actor is gone: its shards are for others, and the one it was at is remembered."""
        self.hands.remove(hand)
        self.ray.kill(hand.actor, no_restart=True)
        self.gone.append(hand.done | {"idle": True})
        at: int | str = hand.shards[0][1].shard if hand.shards else hand.node
        self.deaths[at] = self.deaths.get(at, 0) + 1
        self.again.extend(claim for _, claim in hand.shards)
        self.why = why
        self.looked = min(self.looked, time.monotonic() - LOOK + 1)  # a second, for the cluster to learn of it
        print(f"Lost the worker on {hand.address} ({why}); {len(hand.shards)} shards go to others.", flush=True)
        if isinstance(at, int) and self.deaths[at] >= DEATHS:
            raise SignetError(
                f"Shard {at} ({self.sizes[at][0]} entries, {self.sizes[at][1]:,} characters) ended {DEATHS} workers on "
                "Ray one after the other, most likely for lack of memory; see the log, then resume."
            )

    # --- what is told ---
    def _opened(self, hand: Hand, environment: dict[str, Any]) -> None:
        self.environment = self.environment or environment
        hand.device = environment["device"]
        devices = [one.device for one in self.hands if one.node == hand.node and one.device]
        but = {name: environment.get(name) for name in MATTERS if environment.get(name) != self.environment.get(name)}
        self.nodes[hand.node] = {"address": hand.address, "devices": devices} | ({"but": but} if but else {})
        told = {"on": self.on, "ray": self.ray.__version__, "nodes": list(self.nodes.values())}
        jobs.write_json(self.job.path("environment.json"), self.environment | told)

    def _report(self) -> None:
        side_by_side = {"nodes": len({hand.node for hand in self.hands}), "workers": len(self.hands)}
        parts = [*self.gone, *(hand.done for hand in self.hands)]
        jobs.write_json(self.job.path("progress.json"), claims.summed(parts) | side_by_side)


def places(nodes: dict[str, dict[str, Any]]) -> dict[str, tuple[int, dict[str, float], int]]:
    """(actors, what each needs of Ray, cores each may use) by node: one a GPU, or, where no node has any, by cores."""
    found: dict[str, tuple[int, dict[str, float], int]] = {}
    wanted = os.environ.get("SIGNET_RAY_CPUS")
    if wanted and (not wanted.isdecimal() or int(wanted) < 1):
        raise SignetError(f"SIGNET_RAY_CPUS is {wanted!r}; it must be a whole number of at least 1.")
    allowed = os.environ.get("SIGNET_DEVICE", "cuda") == "cuda"
    any_gpu = allowed and any(node["Resources"].get("GPU") for node in nodes.values())
    for name, node in nodes.items():
        gpus, cores = int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("CPU", 0))
        if any_gpu and gpus:
            found[name] = (gpus, {"num_gpus": 1, "num_cpus": 1 if cores >= gpus else 0}, max(1, cores // gpus))
        elif not any_gpu and cores:
            each = int(wanted) if wanted else min(CORES, cores)
            found[name] = (cores // each, {"num_cpus": each}, each)
    return found
