"""Shards on a real Ray cluster of two nodes on this machine: a node is killed, one appears, a shard kills its workers.

The nodes get Signet's code and a classifier's folder from the driver; they see no job folder of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import jobs, ray_executor
from engine.client import Client
from engine.records import SignetError
from engine.settings import ROOT
from tests.conftest import wait_for
from tests.slow_models import slow_model
from tests.test_faults import pairs_file, rewards, worker_pids
from tests.test_slots import undisturbed

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray (requirements-ray.txt)")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node with one core; tests add others."""
    from ray.cluster_utils import Cluster

    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "health_check_initial_delay_ms": 0}
    head = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False,
            "_system_config": quick}  # fmt: skip
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def another_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=80 << 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_model(tmp_path_factory.mktemp("slow"))


def environment(job: jobs.Job) -> dict[str, Any]:
    return jobs.read_json(job.path("environment.json")) or {}


@needs_ray
@pytest.mark.slow
def test_a_killed_node_and_a_killed_driver_lose_and_double_nothing(
    cluster: Any, model: Path, home: Path, tmp_path: Path
) -> None:
    """Equal to the run on this machine, reward by reward."""
    source = pairs_file(tmp_path / "pairs.jsonl", 1000)
    options = {"trust_remote_code": True}
    expected = undisturbed(tmp_path / "quiet", source, model, options)
    killed: dict[str, float] = {}
    second = another_node(cluster)
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(source), name="d")["job"])
        asked = {"dataset": "d", "model": str(model), "options": options}
        identity = client.call("score", **asked, on=cluster.address)["job"]
        with pytest.raises(SignetError, match=r"under way on .*--on ray"):
            client.call("score", **asked, on="ray")
        assert client.call("score", **asked)["job"] == identity

        def disturb(job: jobs.Job, state: jobs.State, progress: jobs.Progress) -> None:
            if not killed and len(environment(job).get("nodes", [])) == 2 and progress.done:
                killed["node"] = progress.done / progress.total
                cluster.remove_node(second, allow_graceful=False)
            elif len(killed) == 1 and progress.done / progress.total > killed["node"] + 0.1:
                killed["driver"] = progress.done / progress.total
                os.kill(worker_pids(job.folder)[0], signal.SIGKILL)
                another_node(cluster)

        state = client.follow(identity, disturb)
        assert set(killed) == {"node", "driver"} and max(killed.values()) < 1
        job = jobs.require(home, identity)
        found = environment(job)
        assert found["on"] == cluster.address and found["ray"] and found["model"] == model.name
        assert len(found["nodes"]) == 2, "the node that appeared was used"
        assert all(node["devices"] == ["cpu"] for node in found["nodes"])
        assert (state.counts or {})["entries"] == 2000
        assert jobs.progress(job).details["workers"] == 2
    assert rewards(home) == pytest.approx(expected, abs=1e-6)
    assert len(rewards(home)) == 2000
    assert not any((home / "jobs").glob("*/in-*")) and not any((home / "jobs").glob("*/part-*"))


@needs_ray
def test_a_shard_that_kills_every_worker_ends_in_a_sentence(cluster: Any, home: Path, tmp_path: Path) -> None:
    model = slow_model(tmp_path / "poison", seconds=0, poison=True)
    source = pairs_file(tmp_path / "pairs.jsonl", 150)
    with source.open("a") as more:
        more.write(json.dumps({"id": "deadly", "prompt": "river", "chosen": "zzz", "rejected": "green"}) + "\n")
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(source), name="d")["job"])
        asked = {"dataset": "d", "model": str(model), "options": {"trust_remote_code": True}, "on": cluster.address}
        identity = client.call("score", **asked)["job"]
        with pytest.raises(SignetError, match=r"Shard \d+ \(\d+ entries, [\d,]+ characters\) ended 3 workers on Ray"):
            wait_for(client, identity)
        assert jobs.progress(jobs.require(home, identity)).done >= 64, "what others finished is kept"


@needs_ray
def test_a_model_that_is_not_on_the_node_is_said_so_and_the_job_goes_on_here(
    cluster: Any, home: Path, tmp_path: Path
) -> None:
    model = slow_model(tmp_path / "model", seconds=0)
    with Client(home) as client:
        source = pairs_file(tmp_path / "pairs.jsonl", 20)
        wait_for(client, client.call("import", source=str(source), name="d")["job"])
        options = {"trust_remote_code": True}
        identity = client.call("score", dataset="d", model=str(model), options=options, on=cluster.address)["job"]
        model.rename(tmp_path / "away")
        with pytest.raises(SignetError, match=r"On node [\d.]+: The model folder .* is not there; copy it there"):
            wait_for(client, identity)
        (tmp_path / "away").rename(model)
        client.call("resume", job=identity, on="local")
        wait_for(client, identity)
        assert "ray" not in environment(jobs.require(home, identity))
    assert len(rewards(home)) == 40


@needs_ray
def test_a_classifier_and_the_code_travel_to_the_node(cluster: Any, store: Any, tmp_path: Path) -> None:
    """Files in blocks, unpacked once a node; the node's Signet is a copy that holds no store of ours."""
    folder = store.home / "classifiers" / "tone" / "encoder"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"0123456789" * 10)
    (folder.parent / "empty").touch()
    params = {"labeler": "classifier:tone", "classifier": "tone", "revision": "r1"}
    job = jobs.create(store.home, "label", "d", "Label d", params)
    with pytest.MonkeyPatch.context() as patch, ray_executor.connected(cluster.address) as ray:
        patch.setattr(ray_executor, "BLOCK", 7)
        files = ray_executor.Fleet(job, cluster.address, ray)._files()
        assert {name: len(blocks) for name, blocks in files} == {
            "classifiers/tone/empty": 0, "classifiers/tone/encoder/weights": 15
        }  # fmt: skip
        for _ in range(2):
            there = ray_executor.unpacked(files, tmp_path / "shipped" / "r1")
        assert (there / "classifiers/tone/encoder/weights").read_bytes() == b"0123456789" * 10
        assert [path.name for path in (tmp_path / "shipped").iterdir()] == ["r1"]

        @ray.remote
        def where() -> list[str]:
            from engine import settings

            return [str(settings.ROOT), *sorted(path.name for path in settings.ROOT.iterdir()), str(settings.home())]

        root, *names, cache = ray.get(where.remote())
        assert root != str(ROOT) and set(names) - {"cache"} == set(ray_executor.SHIPPED)
        assert cache == f"{root}/cache"


@needs_ray
def test_no_cluster_is_a_sentence() -> None:
    with pytest.raises(SignetError, match=r"The Ray cluster 127.0.0.1:9 does not take this job .*ray://HOST:10001"):
        ray_executor.connected("127.0.0.1:9").__enter__()


def test_without_ray_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SignetError, match=r"pip install -r requirements-ray.txt"):
        ray_executor.connected("ray").__enter__()


def node(cores: float, gpus: float = 0) -> dict[str, Any]:
    return {"Resources": {"CPU": cores} | ({"GPU": gpus} if gpus else {})}


def test_an_actor_for_every_gpu_and_cores_only_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGNET_DEVICE", raising=False)
    mixed = {"head": node(8), "big": node(64, 8), "few": node(2, 4)}
    assert ray_executor.places(mixed) == {
        "big": (8, {"num_gpus": 1, "num_cpus": 1}, 8), "few": (4, {"num_gpus": 1, "num_cpus": 0}, 1)
    }  # fmt: skip
    plain = {"empty": node(0), "small": node(2), "large": node(20)}
    assert ray_executor.places(plain) == {"small": (1, {"num_cpus": 2}, 2), "large": (2, {"num_cpus": 8}, 8)}
    monkeypatch.setenv("SIGNET_RAY_CPUS", "4")
    assert ray_executor.places(plain) == {"small": (0, {"num_cpus": 4}, 4), "large": (5, {"num_cpus": 4}, 4)}
    monkeypatch.setenv("SIGNET_DEVICE", "cpu")
    assert ray_executor.places({"big": node(64, 8)}) == {"big": (16, {"num_cpus": 4}, 4)}
    monkeypatch.setenv("SIGNET_RAY_CPUS", "half")
    with pytest.raises(SignetError, match="SIGNET_RAY_CPUS"):
        ray_executor.places(plain)


@pytest.mark.parametrize("on", ["ray", "ray://10.0.0.1:10001", "head.example.org:6379", "[fe80::1]:6379", "local"])
def test_places_that_can_be_named(on: str) -> None:
    assert jobs.checked_place(on, "score", {}) == on


@pytest.mark.parametrize(
    ("on", "kind", "params", "sentence"),
    [
        ("cluster", "score", {}, "say local, ray"),
        ("ray://nowhere", "score", {}, "say local, ray"),
        ("http://10.0.0.1:8265", "score", {}, "say local, ray"),
        ("ray", "label", {"lane": "network"}, "asked from here; leave --on out"),
        ("ray", "train", {}, "runs on this machine only"),
    ],
)
def test_places_that_cannot(on: str, kind: str, params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SignetError, match=sentence):
        jobs.checked_place(on, kind, params)


def test_where_a_job_runs_is_no_part_of_what_it_is(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = jobs.create(store.home, "score", "d", "Score d", {"model": "m"})
    assert jobs.place(here) == "local"
    jobs.set_state(here, state="cancelled")
    there = jobs.create(store.home, "score", "d", "Score d", {"model": "m"}, on="ray://head:10001")
    assert there.id == here.id and jobs.place(there) == "ray://head:10001"
    monkeypatch.setenv("SIGNET_ON", "ray")
    assert jobs.place(jobs.create(store.home, "score", "d", "Score d", {"model": "n"})) == "ray"
    assert jobs.place(jobs.create(store.home, "score", "d", "Score d", {"model": "o"}, on="local")) == "local"
    assert jobs.place(jobs.create(store.home, "label", "d", "Label d", {"lane": "network"})) == "local"
