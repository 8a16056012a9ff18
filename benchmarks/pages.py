"""Import and pages at 160,800 pairs: time and memory of the import, server time of every page, text search.

Pairs are the hh-rlhf test split repeated under new ids with a distinct suffix (BENCH_PAIRS of them), or the bundled
demonstration repeated where that is absent. Rewards and labels are synthetic, drawn at random in SQL and named so:
only the time to read them is measured.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.scale import draw, fresh
from benchmarks.tables import table
from engine.settings import BUILTIN, ROOT

PAIRS = int(os.environ.get("BENCH_PAIRS", "160800"))
ROUNDS = 10


def _lines(path: Path) -> list[dict[str, str]]:
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    table = pq.read_table(BUILTIN / "demo" / "pairs.parquet", columns=["prompt", "chosen", "rejected"])
    tags = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": "\n\nHuman: "}
    rows = []
    for row in table.to_pylist():
        prompt = "".join(tags[role] + text for role, text in json.loads(row["prompt"]))
        rows.append({s: prompt + "\n\nAssistant: " + row[s] for s in ("chosen", "rejected")})
    return rows


def write_pairs(path: Path) -> None:
    """PAIRS lines of hh-rlhf dialogues, each repetition with a suffix of its own on both responses."""
    source = Path(os.environ.get("SIGNET_DATA", ROOT.parent / "shared" / "data")) / "hh_rlhf_test.jsonl.gz"
    rows = _lines(source)
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as out:
        for i in range(PAIRS):
            suffix = f" ({i // len(rows)})" if i >= len(rows) else ""
            one = rows[i % len(rows)]
            record = {"id": f"p{i}", "subset": one.get("subset", "demo"), "chosen": one["chosen"] + suffix,
                      "rejected": one["rejected"] + suffix}  # fmt: skip
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def fill(store: Any) -> None:
    """Synthetic rewards of two models and labels of the SEAL features and of one value a text, at random."""
    from engine import taxonomy
    from engine.store import ensure_labeler, ensure_model, ensure_taxonomy

    with store.transaction() as con:
        for name in ("synthetic-a", "synthetic-b"):
            model_id = ensure_model(con, name, "file", "synthetic", {})
            con.execute("INSERT INTO rewards SELECT entry_id, ?, random() + n_chars / 9e3, NULL, NULL FROM entries",
                        [model_id])  # fmt: skip
        labeler_id = ensure_labeler(con, "synthetic", "rule", "synthetic", {})
        for name, kinds in (("seal", "floor(random() * 2)"), ("value_imprint", "floor(random() * 7)")):
            for column, feature_id in ensure_taxonomy(con, taxonomy.load(name)).items():
                if ":" not in column:
                    con.execute(f"INSERT INTO labels SELECT entry_id, ?, ?, {kinds}, NULL FROM entries",
                                [feature_id, labeler_id])  # fmt: skip


def _pages(home: Path) -> dict[str, dict[str, float]]:
    import streamlit as st

    from engine import drawn

    found = {}
    visits = {
        "datasets": {}, "values": {"labels": "seal by synthetic"}, "reward_models": {}, "jobs": {}, "pairs": {},
        "pairs: search": {"q": "recipe"}, "pairs: sorted": {"sort": "lowest margin", "margin": "synthetic-a"},
    }  # fmt: skip
    for name, query in visits.items():
        times, first = [], []
        for _ in range(ROUNDS + 1):
            app = fresh(name.split(":")[0], query)
            st.cache_data.clear()  # what a first visitor waits, not what the caches give back
            drawn.forget()
            shutil.rmtree(home / "answers", ignore_errors=True)
            began = time.perf_counter()
            seconds, waits = draw(app)
            first.append(seconds)
            while waits:  # it goes on until every number is there
                _, waits = draw(app)
            times.append(time.perf_counter() - began)
        found[name] = {"drawn_s": round(max(first), 3), "first_s": round(times[0], 3),
                       "median_s": round(statistics.median(times[1:]), 3)}  # fmt: skip
    return found


def run() -> dict[str, Any]:
    """Import seconds and peak memory (of worker and owner), then first and median server seconds of every page."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "store"
        os.environ["SIGNET_HOME"] = str(home)
        from engine.client import Client

        path = Path(name) / "pairs.jsonl.gz"
        write_pairs(path)
        with Client(home) as client:
            began = time.perf_counter()
            job = client.call("import", source=str(path), name="scale")["job"]
            client.follow(job, lambda *_: None)
            import_s = time.perf_counter() - began
            counts = client.call("info", dataset="scale")
            assert client._owner is not None
            fill(client._owner.store)
        memory = {
            "owner_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            "worker_peak_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6,
        }
        size = (home / "signet.duckdb").stat().st_size
        pages = _pages(home)
    return {
        "pairs": counts["pairs"], "import_seconds": round(import_s, 1),
        **{k: round(v, 2) for k, v in memory.items()}, "store_gb": round(size / 1e9, 3), "pages": pages,
    }  # fmt: skip


def section(result: dict[str, Any]) -> str:
    """The import, and every page: a first visitor after the server's start, and later ones with nothing cached."""
    rows = [{"page": name, "drawn at the latest, s": one["drawn_s"], "all numbers, first visit, s": one["first_s"],
             "median of later ones, s": one["median_s"]} for name, one in result["pages"].items()]  # fmt: skip
    rate = result["pairs"] / result["import_seconds"]
    return (
        f"{result['pairs']:,} pairs are imported in {result['import_seconds']:,} s ({rate:,.0f} pairs/s), with at most "
        f"{result['owner_peak_gb']} GB in the dashboard's process and {result['worker_peak_gb']} GB in the worker; the "
        f"store then takes {result['store_gb']} GB on disk. Seconds of the server for a page, with caches, "
        f"kept answers and charts emptied before each of {ROUNDS + 1} visits: until it is drawn (without numbers that "
        f"take longer, which then follow), and until every number is there.\n\n{table(rows)}"
    )
