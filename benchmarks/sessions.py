"""50 browsers' worth of sessions at once on the bundled audit, and what one of them waits when it is alone.

A real server (`streamlit run app.py`) with the bundled audit as a newcomer gets it; visitors speak Streamlit's own
websocket protocol (benchmarks/dashboard.py) and go through the pages in a random order, with about two seconds of
thought between pages and then without. Beside it the same visits by one session alone, so that the ratio says what
company costs. Then a headless Chromium, where one is installed, which also draws (benchmarks/browsing.py).

    BENCH_SESSIONS=50 BENCH_VISITS=12 BENCH_THINK=2 python -m benchmarks sessions

A page's time is from asking for it to the end of its script. An exception, an error message, a missing title, a lost
connection and silence for two minutes each count as an error. Visitors run on the same machine as the server.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.dashboard import Server, Visit, Visitor, serve
from benchmarks.tables import cell

SESSIONS = int(os.environ.get("BENCH_SESSIONS", "50"))
VISITS = int(os.environ.get("BENCH_VISITS", "12"))
THINK = float(os.environ.get("BENCH_THINK", "2"))
FIRST = "values"  # the address at which every session begins
SEED = 7


async def _session(server: Server, number: int, visits: int, think: float, ready: asyncio.Barrier) -> list[Visit]:
    """One session: it opens, waits until all have, visits pages in its own random order, and stays until all end.

    Sessions with thought begin spread over it, as people do; without, all at once.
    """
    dice = random.Random(SEED * 1000 + number)
    async with Visitor(server.address) as visitor:
        made = []
        if think:
            await asyncio.sleep(dice.uniform(0, think))
        made.append(await visitor.visit(path=FIRST))
        if visitor.pages:
            order: list[str] = []
            while len(order) < visits:
                order += dice.sample(visitor.pages, len(visitor.pages))
            for page in order[:visits]:
                if think:
                    await asyncio.sleep(dice.uniform(0.5 * think, 1.5 * think))
                made.append(await visitor.visit(page))
        await ready.wait()
        return made


async def _crowd(server: Server, sessions: int, visits: int, think: float) -> dict[str, Any]:
    """That many sessions at once: times, errors, and memory while all of them are open."""
    ready = asyncio.Barrier(sessions + 1)
    memory, used, began, own = server.memory_mb(), server.cpu_s(), time.perf_counter(), time.process_time()
    tasks = [asyncio.create_task(_session(server, n, visits, think, ready)) for n in range(sessions)]
    await asyncio.wait([asyncio.create_task(ready.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
    seconds, after, used_after = time.perf_counter() - began, server.memory_mb(), server.cpu_s()
    made = [visit for one in await asyncio.gather(*tasks) for visit in one]
    found = summary(made) | {
        "sessions": sessions, "think_s": think, "wall_s": round(seconds, 1),
        "pages_per_second": round(len(made) / seconds, 1), "visitors_cpu_s": round(time.process_time() - own, 1),
    }  # fmt: skip
    if memory is not None and after is not None and used is not None and used_after is not None:
        found["memory_before_mb"], found["memory_with_all_open_mb"] = memory, after
        found["memory_per_session_mb"] = round((after - memory) / sessions, 2)
        found["server_cpu_ms_per_page"] = round(1000 * (used_after - used) / len(made), 1)
    return found


async def _alone(server: Server, visits: int) -> dict[str, Any]:
    """One session: the first visit to every page of a server just started, then the same pages warm."""
    async with Visitor(server.address) as visitor:
        first = await visitor.visit(path=FIRST)
        cold = [await visitor.visit(page) for page in visitor.pages]
        dice = random.Random(SEED)
        rounds = max(3, -(-visits // max(1, len(visitor.pages))))
        warm = [await visitor.visit(page) for _ in range(rounds) for page in dice.sample(visitor.pages, len(cold))]
    return {"cold": {"first_page_s": round(first.seconds, 2), "then": summary(cold)}, "warm": summary(warm)}


def summary(visits: Sequence[Visit]) -> dict[str, Any]:
    """n, errors, median, 95th percentile and longest milliseconds, and kilobytes, of all visits and of every page.

    Times are of the visits without an error; errors are counted and the first of each text is kept.
    """

    def figures(some: Sequence[Visit]) -> dict[str, Any]:
        times = sorted(1000 * one.seconds for one in some if not one.errors)
        found: dict[str, Any] = {"n": len(some), "errors": sum(bool(one.errors) for one in some)}
        if times:
            p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
            found |= {"median_ms": round(statistics.median(times)), "p95_ms": round(p95), "max_ms": round(times[-1]),
                      "kilobytes": round(statistics.median(one.kilobytes for one in some))}  # fmt: skip
        return found

    told = {error: f"{one.page}: {error}" for one in visits for error in one.errors}
    pages = {page: figures([one for one in visits if one.page == page]) for page in sorted({v.page for v in visits})}
    return figures(visits) | {"pages": pages} | ({"error_texts": list(told.values())[:10]} if told else {})


def run() -> dict[str, Any]:
    """Cold and warm by one session; all at once with thought and without; Chromium; the ratio of company to alone."""
    from benchmarks import browsing

    found: dict[str, Any] = {"data": "the bundled audit", "seed": SEED, "visits": VISITS}
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as server:
        found["server_starts_s"] = server.started_s
        found["alone"] = asyncio.run(_alone(server, VISITS))
        found["with_thought"] = asyncio.run(_crowd(server, SESSIONS, VISITS, THINK))
        found["without_thought"] = asyncio.run(_crowd(server, SESSIONS, VISITS, 0.0))
        found["memory_at_end_mb"] = server.memory_mb()
    alone = found["alone"]["warm"].get("median_ms")
    for crowd in (found["with_thought"], found["without_thought"]):
        if alone and "median_ms" in crowd:
            crowd["median_to_alone"] = round(crowd["median_ms"] / alone, 1)
    found["chromium"] = browsing.run()
    return found


def section(result: dict[str, Any]) -> str:
    """The result as Markdown: crowd beside one session, memory, cold start, Chromium, and the pages one by one."""
    alone, crowds = result["alone"], [result["with_thought"], result["without_thought"]]
    n = crowds[0]["sessions"]
    lines = [
        f"{n} sessions at once on {result['data']}, each opening one page and then {result['visits']} more in random "
        "order over Streamlit's own protocol, the visitors on the same machine. A page's time is from asking for it to "
        "the end of its script on the server.", "",
        "| | pages | errors | median ms | p95 ms | longest ms | median, to one session alone | pages/s | "
        "server CPU ms a page | memory a session, MB |", "|---|" + "---:|" * 9,
    ]  # fmt: skip

    def row(name: str, one: dict[str, Any]) -> str:
        keys = ("n", "errors", "median_ms", "p95_ms", "max_ms", "median_to_alone", "pages_per_second",
                "server_cpu_ms_per_page", "memory_per_session_mb")  # fmt: skip
        return f"| {name} | " + " | ".join(str(one.get(key, "")) for key in keys) + " |"

    lines += [row("one session, warm", alone["warm"] | {"median_to_alone": 1})]
    lines += [row(f"{n} sessions, {one['think_s']:g} s of thought" if one["think_s"] else f"{n} sessions, no thought",
                  one) for one in crowds]  # fmt: skip
    lines += [
        "", f"Cold: the server answers after {result['server_starts_s']} s; the first session's first page (with the "
        f"store made and the audit loaded) takes {alone['cold']['first_page_s']} s, its first visit to every other "
        f"page {alone['cold']['then'].get('median_ms')} ms (median).",
    ]  # fmt: skip
    if "memory_with_all_open_mb" in crowds[0]:
        lines[-1] += (f" Resident memory of the server: {crowds[0]['memory_before_mb']} MB after one session, "
                      f"{crowds[-1]['memory_with_all_open_mb']} MB at the end with {n} open.")  # fmt: skip
    chromium = result.get("chromium", {})
    if "switch" in chromium:
        switch = chromium["switch"]
        lines += [
            "", f"In headless Chromium, everything drawn: first chart of the bundled audit {chromium['first_chart_s']} "
            f"s after the first request to a server just started, {chromium['first_chart_warm_s']} s in a fresh "
            f"browser on a warm one; from a click in the sidebar to the drawn page {switch['median_ms']} ms (median of "
            f"{switch['n']}, p95 {switch['p95_ms']} ms).",
        ]  # fmt: skip
    elif "absent" in chromium:
        lines += ["", f"Chromium: not measured ({chromium['absent']})."]
    lines += ["", "| page | one session, warm: median ms | " + " | ".join(
        f"{n}, {'thought' if one['think_s'] else 'no thought'}: median ms | p95 ms" for one in crowds)
        + " | Chromium, drawn: median ms |", "|---|" + "---:|" * 6]  # fmt: skip
    for page, figures in alone["warm"]["pages"].items():
        cells = [figures.get("median_ms", "")]
        for one in crowds:
            here = one["pages"].get(page, {})
            cells += [here.get("median_ms", ""), here.get("p95_ms", "")]
        cells.append(chromium.get("switch", {}).get("pages", {}).get(page, ""))
        lines.append(f"| {page} | " + " | ".join(map(str, cells)) + " |")
    errors = [text for one in (alone["cold"]["then"], alone["warm"], *crowds) for text in one.get("error_texts", [])]
    if errors:
        lines += ["", "Errors:", ""] + [f"- {cell(text)}" for text in errors]
    return "\n".join(lines)
