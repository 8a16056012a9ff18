"""Shards on a real Ray cluster of two nodes on this machine: a node is killed, one appears, a shard kills its workers.

The nodes get Signet's code and a classifier's folder from the driver; they see no job folder of their own.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
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

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray (requirements-ray.txt)"
)


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
def test_a_killed_node_and_a_killed_driver_lose_and_double_nothing(
    cluster: Any, model: Path, home: Path, tmp_path: Path
) -> None:
    """Equal to the run on this machine, reward by reward."""
    source = pairs_file(tmp_path / "pairs.jsonl", 1000)
    options = {"trust_remote_code": True}
    with Client(tmp_path / "quiet") as client:
        wait_for(client, client.call("import", source=str(source), name="d")["job"])
        wait_for(client, client.call("score", dataset="d", model=str(model), options=options)["job"])
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
    assert rewards(home) == pytest.approx(rewards(tmp_path / "quiet"), abs=1e-6)
    assert len(rewards(home)) == 2000
    assert not any((home / "jobs").glob("*/in-*")) and not any((home / "jobs").glob("*/part-*"))
