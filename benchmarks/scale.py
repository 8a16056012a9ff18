"""Import, jobs and every page at up to 10 million pairs: time, store size, peak memory, each part in its own process.

    BENCH_SCALE_PAIRS=10000000 python -m benchmarks scale

Pairs are synthetic, made here and named so: words drawn at random, lengths spread as in real preference data (median
about 50 words, a few hundred at the far end), one prompt in eight with two pairs. They go through the real import job.
Rewards of two models, labels of 15 features and rewrites of 1% are drawn in SQL; a page's time depends on how many
there are, not on what they say.

A page has five times. `first`: nothing is cached or kept, until the server has drawn the page once (it says that it
counts, where counting takes longer than its patience). `complete`: until every number was there. `longest`: of all
times that the page was drawn until then, while the same process counted. `kept`:
a new server, what was counted before is kept in the store's folder. `again`: the same server, the same page.
BENCH_SCALE_HOME keeps the store there and uses it again: import and filling are then told as they were measured.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from engine.settings import ROOT

PAIRS = int(os.environ.get("BENCH_SCALE_PAIRS", "1000000"))
FEATURES = 15
SHARDS_TAKEN = (1, 8)
VISITS: dict[str, tuple[str, dict[str, str]]] = {
    # name: page, address
    "datasets": ("datasets", {}), "pairs": ("pairs", {}), "jobs": ("jobs", {}),
    "values": ("values", {"labels": "synthetic by synthetic"}), "reward models": ("reward_models", {}),
    "imprint": ("imprint", {}), "alignment": ("alignment", {}), "robustness": ("robustness", {}),
    "labelers": ("labelers", {}), "annotate": ("annotate", {}), "classifiers": ("classifiers", {}),
    "taxonomies": ("taxonomies", {}), "pairs, searched": ("pairs", {"q": "recipe"}),
    "pairs, by margin": ("pairs", {"sort": "lowest margin", "margin": "synthetic-a"}),
    "a pair": ("pairs", {"pair": f"p{PAIRS // 2}"}),
}  # fmt: skip
WAITS = "goes on by itself"


def write_pairs(path: Path, pairs: int, seed: int = 17) -> None:
    """JSON lines of synthetic pairs: id, subset, prompt, chosen, rejected, about 0.9 KB a pair."""
    draw = random.Random(seed)
    syllables = ("ba", "co", "di", "gra", "he", "jo", "ki", "lo", "mu", "ne", "po", "qua", "sto", "tu", "wi", "za")
    words = ["".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3)))) for _ in range(5000)] + ["recipe"]
    text = " ".join(draw.choices(words, k=400_000))
    starts = [i + 1 for i, letter in enumerate(text[:-4000]) if letter == " "]
    lengths = [min(3500, max(12, int(draw.lognormvariate(5.4, 0.8)))) for _ in range(10_000)]
    choose = draw.choice
    with open(path, "w", encoding="utf-8", buffering=1 << 20) as out:
        prompt = ""
        for i in range(pairs):
            if i % 8 != 7:  # one prompt in eight comes twice
                start = choose(starts)
                prompt = f"{i} {text[start : start + choose(lengths)]}"
            a, b = choose(starts), choose(starts)
            one, other = text[a : a + choose(lengths)], text[b : b + choose(lengths)]
            out.write(
                f'{{"id":"p{i}","subset":"synthetic","prompt":"{prompt}","chosen":"{one}.","rejected":"{other}"}}\n'
            )


def _peak(who: int = resource.RUSAGE_SELF) -> float:
    return round(resource.getrusage(who).ru_maxrss / 1e6, 2)


def make(home: Path) -> dict[str, Any]:
    """The import job through its own worker; seconds of reading and of taking in, memory of both."""
    from engine.client import Client

    path = home.parent / "synthetic.jsonl"
    began = time.perf_counter()
    write_pairs(path, PAIRS)
    written = time.perf_counter() - began
    found: dict[str, Any] = {"source_gb": round(path.stat().st_size / 1e9, 2), "writing_s": round(written, 1)}
    with Client(home) as client:
        began = time.perf_counter()
        job = client.call("import", source=str(path), name="scale")["job"]
        client.follow(job, lambda *_: None)
        found["import_s"] = round(time.perf_counter() - began, 1)
        counts = client.call("info", dataset="scale")
    report = {"pairs": counts["pairs"], "entries": counts["entries"]}
    path.unlink()
    return found | report | {"owner_peak_gb": _peak(), "worker_peak_gb": _peak(resource.RUSAGE_CHILDREN)}


def fill(home: Path) -> dict[str, Any]:
    """Synthetic rewards and labels in SQL, and the tallies that a store's owner makes of them."""
    from engine import tallies
    from engine.store import Store, ensure_labeler, ensure_model

    found: dict[str, Any] = {}
    began = time.perf_counter()
    with Store(home) as store:
        with store.transaction() as con:
            con.execute(
                """
                CREATE TEMP TABLE reworded AS
                SELECT e.*, (SELECT max(entry_id) FROM entries) + row_number() OVER (ORDER BY e.entry_id) AS new_id
                FROM entries e
                WHERE e.entry_id IN (SELECT unnest([chosen, rejected]) FROM pairs WHERE pair_no % 100 = 0)
                """
            )
            con.execute(
                "INSERT INTO entries "
                "SELECT new_id, uuid(), prompt_id, response || ' Indeed.', n_chars + 8 FROM reworded"
            )
            con.execute(
                "INSERT INTO rewrites SELECT entry_id, new_id, 'synthetic', 0.9, now()::TIMESTAMP FROM reworded"
            )
            for name in ("synthetic-a", "synthetic-b"):
                model_id = ensure_model(con, name, "file", "synthetic", {})
                con.execute(
                    """
                    INSERT INTO rewards SELECT entry_id, ?, (hash(entry_id * 64) % 100 < 10)::INT
                        - 0.5 * (hash(entry_id * 64 + 1) % 100 < 12)::INT + 2 * random(), NULL, NULL FROM entries""",
                    [model_id],
                )
            con.execute("INSERT INTO taxonomies VALUES (1, 'synthetic', '1', '', now()::TIMESTAMP)")
            for f in range(FEATURES):
                con.execute("INSERT INTO features VALUES (?, 1, ?, ?, ?, 'boolean', ?, 'response', '[]')",
                            [f + 1, f, f"f{f}", f"f{f}", "target" if f < 2 else "spoiler"])  # fmt: skip
            labeler_id = ensure_labeler(con, "synthetic", "rule", "1", {})
            con.execute(
                """
                INSERT INTO labels SELECT e.entry_id, f.i + 1, ?,
                    (hash(e.entry_id * 64 + f.i) % 100 < 10 + 2 * f.i)::INT, NULL
                FROM entries e, range(?) f(i)""",
                [labeler_id, FEATURES],
            )
        found["filling_s"] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()
        tallies.refresh(store)
        found["tallies_s"] = round(time.perf_counter() - began, 1)
    return found | {"store_gb": round((home / "signet.duckdb").stat().st_size / 1e9, 2), "peak_gb": _peak()}


def jobs_at_scale(home: Path) -> dict[str, Any]:
    """Making a scoring job of all entries, then taking in one shard and several: seconds each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from engine import commands, ingest, jobs
    from engine.marks import rows_of
    from engine.store import Store

    found: dict[str, Any] = {}
    with Store(home) as store:
        began = time.perf_counter()
        job = jobs.require(home, commands.OPERATIONS["score"](store, dataset="scale", model="builtin-pre")["job"])
        found["create_s"] = round(time.perf_counter() - began, 1)
        found["shards"] = len(jobs.left(job))
        found["job_gb"] = round(sum(path.stat().st_size for path in job.folder.glob("in-*")) / 1e9, 2)
        for n in SHARDS_TAKEN:
            entries = 0
            for shard in jobs.left(job)[:n]:
                entry = pq.read_table(job.path(f"in-{shard:05d}.parquet"), columns=["entry"]).column("entry")
                size, entries = len(entry), entries + len(entry)
                part = pa.table({"entry": entry, "reward": pa.array([0.5] * size), "n_tokens": pa.array([9] * size),
                                 "truncated": pa.array([False] * size)})  # fmt: skip
                jobs.write_parquet(job.path(f"part-{shard:05d}.parquet"), part)
            began = time.perf_counter()
            ingest.take_ready(store, job)
            found[f"take_{n}_s"] = round(time.perf_counter() - began, 2)
            found[f"take_{n}_entries"] = entries
        with store.transaction() as con:
            model_id = job.params["model_id"]
            rows_of(con, "rewards", model_id).execute("DELETE FROM rewards WHERE model_id = ?", [model_id])
        shutil.rmtree(job.folder)
    return found | {"peak_gb": _peak()}


def fresh(page: str, query: dict[str, str]) -> Any:
    """A new session at a page of the dataset `scale`, not drawn yet."""
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=600).run()
    app.switch_page(f"{page}.py")
    app.query_params["dataset"] = "scale"
    for key, value in query.items():
        app.query_params[key] = value
    return app


def draw(app: Any) -> tuple[float, bool]:
    """Seconds that the server takes to draw it, and whether it goes on when something is counted."""
    began = time.perf_counter()
    app.run()
    if app.exception:
        raise RuntimeError(app.exception[0].value)
    return time.perf_counter() - began, any(WAITS in one.value for one in app.info)


def visit(home: Path) -> dict[str, Any]:
    """Every page, as a new visitor finds it and then again: server seconds, and this process's peak memory so far."""
    logging.disable(logging.WARNING)
    os.environ["SIGNET_HOME"] = str(home)
    import streamlit as st

    fresh("jobs", {}).run()  # the store is open, and Streamlit's own modules are loaded
    found: dict[str, Any] = {}
    for name, (page, query) in VISITS.items():
        app = fresh(page, query)
        st.cache_data.clear()
        began = time.perf_counter()
        first, waits = draw(app)
        longest = first
        while waits:
            time.sleep(1.0)
            seconds, waits = draw(app)
            longest = max(longest, seconds)
        complete = time.perf_counter() - began
        again, _ = draw(app)
        found[name] = {"first_s": round(first, 2), "longest_s": round(longest, 2), "complete_s": round(complete, 1),
                       "again_s": round(again, 3), "peak_gb": _peak()}  # fmt: skip
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def _apart(what: str, home: Path) -> dict[str, Any]:
    """One part in its own process."""
    words = [sys.executable, "-m", "benchmarks.scale", what, str(home)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if done.returncode:
        return {"failed": f"exit {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(what, json.dumps(result), file=sys.stderr, flush=True)
    return result


def run() -> dict[str, Any]:
    """All parts in turn; pages as the first server finds them, and a second one that starts with what it kept."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(os.environ.get("BENCH_SCALE_HOME") or Path(folder) / "store")
        result: dict[str, Any] = {"data": "synthetic pairs, rewards and labels", "pairs": PAIRS, "features": FEATURES}
        made = home / "made.json"  # how the store was made, for later runs on it
        result["store_made_before"] = made.exists()
        if not made.exists():
            home.parent.mkdir(parents=True, exist_ok=True)
            parts = {"import": _apart("make", home), "fill": _apart("fill", home)}
            made.write_text(json.dumps({"pairs": PAIRS, "made": parts}))
        told = json.loads(made.read_text())
        if told["pairs"] != PAIRS:
            raise SystemExit(f"The store in {home} has {told['pairs']:,} pairs, not {PAIRS:,}; name another folder.")
        result |= told["made"] | {"job": _apart("jobs", home)}
        shutil.rmtree(home / "answers", ignore_errors=True)
        pages = _apart("visit", home)
        kept = _apart("visit", home)
        for name, one in pages.items():
            if isinstance(one, dict) and isinstance(kept.get(name), dict):
                one["kept_s"] = kept[name]["first_s"]
        return result | {"pages": pages}


def section(result: dict[str, Any]) -> str:
    """Import, store and jobs in a sentence each, then a row a page."""
    got, fill, job = result["import"], result["fill"], result["job"]
    rows = [
        {"page": name, "first drawn, s": one["first_s"], "all numbers there, s": one["complete_s"],
         "slowest drawing meanwhile, s": one["longest_s"], "from kept answers, s": one["kept_s"],
         "again, s": one["again_s"]}
        for name, one in result["pages"].items()
    ]  # fmt: skip
    before = " (both measured when the store was made, by an earlier run)" if result.get("store_made_before") else ""
    peak = max(one["peak_gb"] for one in result["pages"].values())
    return (
        f"{result['pairs']:,} synthetic pairs ({got['source_gb']} GB of JSON lines). The import took "
        f"{got['import_s']:,.0f} s ({result['pairs'] / got['import_s']:,.0f} pairs/s); peak memory "
        f"{got['owner_peak_gb']} GB in the process that owns the store, {got['worker_peak_gb']} GB in the worker. "
        f"With rewards of two models, {result['features']} features labelled on every answer and 1% reworded the store "
        f"has {fill['store_gb']} GB; counting it takes {fill['tallies_s']} s{before}. Cutting a scoring job of all "
        f"{got['entries']:,} answers takes {job['create_s']:,.0f} s ({job['shards']:,} shards, {job['job_gb']} GB, "
        f"peak {job['peak_gb']} GB), taking in {job['take_8_entries']:,} results {job['take_8_s']} s.\n\n"
        "Server seconds of every page. A first drawing counts nothing long: it says that counting goes on, and the "
        "page fills when it is done. Kept answers are those that a restarted server finds. Peak memory of the server "
        f"over all pages: {peak} GB.\n\n{table(rows)}"
    )


def main() -> None:
    """One part, for its own process: prints what it found as JSON."""
    what, home = sys.argv[1], Path(sys.argv[2])
    parts = {"make": make, "fill": fill, "jobs": jobs_at_scale, "visit": visit}
    print(json.dumps(parts[what](home)))


if __name__ == "__main__":
    main()
