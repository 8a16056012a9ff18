"""Scoring on this machine: Signet against a batch-1 loop (as SEAL's code scores) and a batch-8 unsorted loop (as
RewardBench's), same model, same texts, same outputs within 1e-4.

The model is the encoder that installs with Signet with one random logit: speed does not depend on the weights. Texts
are the hh-rlhf test split where SIGNET_DATA (or ../shared/data) has it, else the bundled demonstration.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.records import turns_from_json, turns_to_json
from engine.settings import BUILTIN, ROOT

ENTRIES = int(os.environ.get("BENCH_ENTRIES", "512"))
ROUNDS = 3


def texts() -> tuple[str, pa.Table]:
    """(source, a table of entry, prompt, response), ENTRIES of them drawn evenly over the source."""
    from engine.readers import dialogue_entry

    path = Path(os.environ.get("SIGNET_DATA", ROOT.parent / "shared" / "data")) / "hh_rlhf_test.jsonl.gz"
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found = [dialogue_entry(json.loads(line)[side]) for line in lines for side in ("chosen", "rejected")]
        step = len(found) // ENTRIES
        rows = [(e.hash, turns_to_json(e.prompt), e.response) for e in found[:: max(1, step)][:ENTRIES]]
        return "hh-rlhf test", pa.table(dict(zip(("entry", "prompt", "response"), map(list, zip(*rows)))))
    table = pq.read_table(BUILTIN / "demo" / "pairs.parquet").slice(0, ENTRIES)
    return "bundled demonstration", pa.table(
        {"entry": table.column("chosen_hash"), "prompt": table.column("prompt"), "response": table.column("chosen")}
    )


def model_folder(folder: Path) -> Path:
    """The bundled encoder as a reward model: one logit with seeded random weights."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from engine.embedder import model_folder as bundled_encoder

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(bundled_encoder(), num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled_encoder(), model_max_length=512).save_pretrained(folder)
    return folder


def _loop(folder: Path, table: pa.Table, batch: int, grad: bool) -> list[float]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from engine.models import pair_texts

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pairs = [
        pair_texts(turns_from_json(p), r, "seal_pair")
        for p, r in zip(table.column("prompt").to_pylist(), table.column("response").to_pylist())
    ]
    found: list[float] = []
    with torch.set_grad_enabled(grad):
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            inputs = tokenizer([p[0] for p in part], [p[1] for p in part], padding=True, truncation=True,
                               max_length=512, return_tensors="pt")  # fmt: skip
            found += model(**inputs).logits[:, 0].tolist()
    return found


def run() -> dict[str, Any]:
    """Entries a second of the three ways (median of ROUNDS, in turn), ratios, and the largest difference."""
    from engine import models
    from engine.scorers import open_scorer

    with tempfile.TemporaryDirectory() as name:
        folder = model_folder(Path(name))
        source, table = texts()
        spec = models.resolve(str(folder), {"format": "seal_pair", "max_length": 512})
        params = {"model": spec.name, "kind": spec.kind, "revision": spec.revision, **spec.params}

        def ours() -> list[float]:
            return open_scorer(params).run(table).column("reward").to_pylist()

        ways: dict[str, Callable[[], list[float]]] = {
            "signet": ours,
            "batch_1_loop": lambda: _loop(folder, table, 1, grad=True),
            "batch_8_unsorted": lambda: _loop(folder, table, 8, grad=False),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        outputs: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for way, call in ways.items():
                began = time.perf_counter()
                outputs[way] = call()
                seconds[way].append(time.perf_counter() - began)
        truncated = open_scorer(params).run(table).column("truncated").to_pylist()
    whole = [i for i, cut in enumerate(truncated) if not cut]  # truncation policies differ, so only whole texts compare
    rates = {way: table.num_rows / statistics.median(times) for way, times in seconds.items()}
    return {
        "texts": source, "entries": table.num_rows, "texts_per_second": {w: round(r, 2) for w, r in rates.items()},
        "ratio_to_batch_1": round(rates["signet"] / rates["batch_1_loop"], 2),
        "ratio_to_batch_8": round(rates["signet"] / rates["batch_8_unsorted"], 2),
        "largest_difference": max(
            abs(outputs["signet"][i] - outputs[way][i]) for i in whole for way in ("batch_1_loop", "batch_8_unsorted")
        ),
        "compared": len(whole),
    }  # fmt: skip
