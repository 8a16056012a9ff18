"""What Signet adds to a request: labelling through it against the bare openai client, on a fake server.

Both send the same bodies at concurrency 64 and read the same JSON; the server sleeps a while before each answer, in
another process. Signet's time includes building the prompts, checking every answer and the journal on disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from engine import endpoints, prompts
from engine.asks import Asker, Question
from engine.journal import Journal
from engine.records import Turn
from engine.taxonomy import load

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "2000"))
CONCURRENCY = 64
SERVER = """
import sys, time
from tests.fakes import FakeOpenAI
with FakeOpenAI(latency=float(sys.argv[1])) as fake:
    print(fake.url, flush=True)
    sys.stdin.read()
"""


async def _bare(url: str, bodies: list[dict[str, Any]]) -> None:
    import openai

    client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
    waiting = iter(bodies)

    async def work() -> None:
        for body in waiting:
            answer = await client.chat.completions.create(**body)
            json.loads(answer.choices[0].message.content or "")

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    await client.close()


def _compare(latency: float) -> dict[str, Any]:
    task = prompts.label_task(load("seal"))
    entries = [
        ([Turn("user", f"Question {i}?")], f"Answer {i}, at some length, to be judged. " * 8) for i in range(REQUESTS)
    ]
    os.environ["SIGNET_API_KEY"] = "none"
    words = [sys.executable, "-c", SERVER, str(latency)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        bodies = [
            endpoints.chat_body("m", prompts.messages(task, *entry), task.schema, "schema", {"temperature": 0.0})
            for entry in entries
        ]
        asyncio.run(_bare(url, bodies[:CONCURRENCY]))  # warm
        times: dict[str, list[float]] = {"bare": [], "signet": []}
        for round_ in range(3):
            began = time.perf_counter()
            asyncio.run(_bare(url, bodies))
            times["bare"].append(time.perf_counter() - began)
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                questions = [
                    Question(f"{round_}-{i}", prompts.messages(task, *entry), lambda text: prompts.labels(task, text))
                    for i, entry in enumerate(entries)
                ]
                asker = Asker(lambda: endpoints.open_endpoint("openai:m", url), Journal(Path(folder), "bench"),
                              task.schema, {"temperature": 0.0}, CONCURRENCY)  # fmt: skip
                assert len(asker.ask_all(questions)) == REQUESTS
                times["signet"].append(time.perf_counter() - began)
    finally:
        process.kill()
    bare, signet = min(times["bare"]), min(times["signet"])
    return {"latency_s": latency, "bare_rps": round(REQUESTS / bare, 1), "signet_rps": round(REQUESTS / signet, 1),
            "overhead": round(signet / bare - 1, 3)}  # fmt: skip


def run() -> dict[str, Any]:
    """Requests a second of both, best of three, at two server latencies; `overhead` is Signet's extra time."""
    return {"requests": REQUESTS, "concurrency": CONCURRENCY, "cases": [_compare(0.5), _compare(2.0)]}


def section(result: dict[str, Any]) -> str:
    """Requests a second of Signet and of the bare client, and their ratio, by the server's latency."""
    rows = [
        {"server's latency, s": one["latency_s"], "Signet, requests/s": one["signet_rps"],
         "bare openai client, requests/s": one["bare_rps"], "ratio": round(one["signet_rps"] / one["bare_rps"], 3),
         "bound (concurrency / latency), requests/s": round(result["concurrency"] / one["latency_s"], 1)}
        for one in result["cases"]
    ]  # fmt: skip
    return (
        f"{result['requests']:,} requests at concurrency {result['concurrency']} on a server that only waits, best of "
        f"three rounds. Signet also builds the prompts, checks every answer and writes its journal.\n\n{table(rows)}"
    )
