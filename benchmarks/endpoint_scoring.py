"""Is scoring through an endpoint bounded by the endpoint? Signet against bare HTTP loops on the same fake server.

The server, in another process, works on at most `slots` requests at once, each for `latency` seconds, and queues the
rest: it cannot answer more than slots / latency requests a second. All send the same conversations at the same
concurrency and read the same JSON: a loop on httpx, one on httpx2 (what the openai client uses), one on aiohttp, and
Signet, whose time includes building the requests and checking every answer, shard by shard, as a job does. `ratio` is
against the fastest loop, `share_of_capacity` what is left of the server's own limit, `climbing` the same with the
concurrency that Signet finds by trial.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from typing import Any

import pyarrow as pa

from engine import models
from engine.records import Turn, turns_to_json
from engine.remote_scorers import RemoteScorer

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "8192"))
SHARD = 2048
MODEL = "acme/reward-8b"
SERVER = """
import sys
from tests.fake_scorers import FakeVllm
with FakeVllm(model=sys.argv[1], latency=float(sys.argv[2]), slots=int(sys.argv[3]), limit=4096) as fake:
    print(fake.url, flush=True)
    sys.stdin.read()
"""
CASES = ((0.25, 16), (0.25, 64), (0.1, 64))  # seconds, slots: 64, 256 and 640 requests a second
ANSWER = "An answer of some length, as answers are, to be scored. " * 8


LOOPS = ("httpx", "httpx2", "aiohttp")


async def _bare(package: str, url: str, concurrency: int, requests: int) -> None:
    library = importlib.import_module(package)
    waiting = iter(range(requests))
    client: Any
    if package == "aiohttp":
        client = library.ClientSession(url, connector=library.TCPConnector(limit=0))
    else:
        limits = library.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        client = library.AsyncClient(base_url=url, limits=limits, timeout=300)

    async def post(body: dict[str, Any]) -> Any:
        if package != "aiohttp":
            return (await client.post("/classify", json=body)).json()
        async with client.post("/classify", json=body) as answer:
            return await answer.json()

    async def work() -> None:
        for i in waiting:
            talk = [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": ANSWER}]
            body = {"model": MODEL, "messages": talk, "use_activation": False}
            float((await post(body))["data"][0]["probs"][0])

    await asyncio.gather(*(work() for _ in range(concurrency)))
    await (client.close() if package == "aiohttp" else client.aclose())


def _signet(url: str, concurrency: int | None, requests: int) -> tuple[float, float, int]:
    """Seconds, processor seconds and the requests at once that Signet ended with."""
    options = {"base_url": url} | ({"concurrency": concurrency} if concurrency else {})
    spec = models.resolve(f"vllm:{MODEL}", options)
    params = {"model": spec.name, "kind": spec.kind, "revision": spec.revision, **spec.params, **spec.route}
    scorer = RemoteScorer(params)
    began, processor = time.perf_counter(), time.process_time()
    for start in range(0, requests, SHARD):
        places = range(start, min(start + SHARD, requests))
        prompts = [turns_to_json([Turn("user", f"Question {i}?")]) for i in places]
        shard = pa.table(
            {"entry": [f"{i:032x}" for i in places], "prompt": prompts, "response": [ANSWER] * len(places)}
        )
        assert scorer.run(shard).num_rows == len(places)
    seconds, spent = time.perf_counter() - began, time.process_time() - processor
    scorer.close()
    return seconds, spent, scorer.throttle.limit


def _compare(latency: float, slots: int) -> dict[str, Any]:
    words = [sys.executable, "-c", SERVER, MODEL, str(latency), str(slots)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        most, concurrency = slots / latency, 2 * slots
        requests = min(REQUESTS, int(16 * most))
        loops = {}
        for package in LOOPS:
            asyncio.run(_bare(package, url, concurrency, concurrency))  # warm
            few = requests // 4  # enough for a rate; httpx takes long
            began, processor = time.perf_counter(), time.process_time()
            asyncio.run(_bare(package, url, concurrency, few))
            loops[package] = few / (time.perf_counter() - began), (time.process_time() - processor) / few
        ours, ours_spent, _ = _signet(url, concurrency, requests)
        found, _, limit = _signet(url, None, requests)
    finally:
        process.kill()
    return {
        "latency_s": latency, "slots": slots, "capacity_rps": round(most, 1), "concurrency": concurrency,
        "requests": requests, "signet_rps": round(requests / ours, 1),
        **{f"{package}_rps": round(rate, 1) for package, (rate, _) in loops.items()},
        "ratio": round(requests / ours / max(rate for rate, _ in loops.values()), 3),
        "share_of_capacity": round(requests / ours / most, 3),
        **{f"{package}_processor_ms": round(1000 * spent, 2) for package, (_, spent) in loops.items()},
        "signet_processor_ms": round(1000 * ours_spent / requests, 2),
        "climbing_rps": round(requests / found, 1), "climbing_share": round(requests / found / most, 3),
        "climbed_to": limit,
    }  # fmt: skip


def run() -> dict[str, Any]:
    """Requests a second of all at three capacities of the server."""
    return {"shard": SHARD, "cases": [_compare(*case) for case in CASES]}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
