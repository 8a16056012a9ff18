"""Fine-tuning an encoder against a head on its frozen embeddings: held-out macro-F1, gain, seconds and memory.

Both learn from the same four fifths of the training prompts, have their thresholds tuned on the remaining fifth, and
are asked about the test part once. The encoder is the one that installs with Signet, or BENCH_ENCODER (hub id or
folder). On a CPU the budget is small, BENCH_EPOCHS epochs and short texts; on a GPU it trains in full. Each training
runs in a process of its own, so that its memory is its own. Needs the real data (--data FOLDER, or SIGNET_DATA).
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from engine import decisions, evaluation, fitting, taxonomy
from engine.builtin.data import Labelled, checked_folder, fulcra, hh_pairs, read_labels
from engine.examples import Examples, held_out
from engine.settings import ROOT, device, home

SEED = 0
TUNING_SHARE = 0.2
EPOCHS = int(os.environ.get("BENCH_EPOCHS", "4"))
SMALL = {"epochs": EPOCHS, "max_tokens": 96, "learning_rate": 1e-4, "batch_size": 16}  # a rate for a small encoder
FULL = {"epochs": 8, "max_tokens": 512, "learning_rate": 5e-5, "batch_size": 32}
# A shared head reads each entry once a value: ten times the work, so fewer epochs on the small budget.
TASKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "value_imprint": ("hh-rlhf labels", {"task": "labels"}, {}),
    "seal": ("hh-rlhf labels", {"task": "labels"}, {}),
    "schwartz, one output a sign": ("fulcra", {"task": "labels"}, {}),
    "schwartz, shared head": ("fulcra", {"task": "shared"}, {"epochs": max(1, EPOCHS // 4)}),
}


def examples_of(labelled: Sequence[Labelled], name: str) -> Examples:
    """Labelled entries as examples of a taxonomy."""
    columns = tuple(one for one in taxonomy.load(name).columns() if (name, one.name) in labelled[0].values)
    return Examples(
        columns,
        tuple(one.entry.hash for one in labelled),
        tuple(one.entry.prompt for one in labelled),
        tuple(one.entry.response for one in labelled),
        np.array([one.group for one in labelled], np.int64),
        tuple(one.subset for one in labelled),
        np.array([[one.values[name, column.name] for column in columns] for one in labelled], float),
    )


def parts(folder: Path) -> dict[str, list[Labelled]]:
    """First readings of our labels, and FULCRA's."""
    pairs, entries, _ = hh_pairs(folder)
    ours = [one for one in read_labels(folder, pairs, entries) if one.reading == 1]
    return {"hh-rlhf labels": ours, "fulcra": fulcra(folder, SEED)[0]}


def trained(way: str, learn: Examples, asked: list[Examples], params: dict[str, Any]) -> dict[str, Any]:
    """Train one way, in this process: logits of the sets asked about, seconds by the clock and of processor, memory."""
    outputs = decisions.outputs_of(learn.columns)
    began, busy = time.perf_counter(), time.process_time()
    details: dict[str, Any] = {}
    if way == "fine-tuned":
        from engine import finetuning

        def say(**told: Any) -> None:
            print(f"{params['taxonomy']}: {told}", file=sys.stderr)

        # In the store's folder: a benchmark that is killed goes on at its last epoch.
        model: Any = finetuning.fit(learn, outputs, params, SEED, say, home() / "benchmarks")
        details = model.environment
    else:
        from engine import frozen

        model = frozen.fit(learn, outputs, {"model": way}, SEED)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    began = time.perf_counter()
    logits = [model.logits(one.prompts, one.responses) for one in asked]
    spent = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "logits": logits, "seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), **details,
        "entries_per_second": round(sum(one.n for one in asked) / spent, 1), "memory_gb": round(memory / 1e9, 2),
    }  # fmt: skip


def decided(tune: Examples, test: Examples, logits: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What a classifier says of the test part, by column, with thresholds from the tuning part."""
    outputs = decisions.outputs_of(test.columns)
    tuning = decisions.tune(outputs, logits[0], decisions.targets(outputs, tune.columns, tune.values))
    return {name: values for name, values, _ in decisions.decide(outputs, logits[1], tuning)}


def measured(labelled: Sequence[Labelled], name: str, params: dict[str, Any], workers: ProcessPoolExecutor) -> Any:
    """Figures of one taxonomy: frozen linear head, fine-tuned encoder, commonest class, and the gain."""
    whole = examples_of([one for one in labelled if one.split == "train"], name)
    test = examples_of([one for one in labelled if one.split == "test"], name)
    learn, tune = (whole.take(rows) for rows in held_out(whole.groups, TUNING_SHARE, SEED))
    common = {
        one.name: np.bincount((whole.values[:, k] + 1).astype(int)).argmax() - 1.0
        for k, one in enumerate(whole.columns)
    }
    said = {"commonest class": {one: np.full(test.n, value) for one, value in common.items()}}
    found: dict[str, Any] = {"train": learn.n, "tune": tune.n, "test": test.n, "columns": len(test.columns)}
    for way in ("linear", "fine-tuned"):
        result = workers.submit(trained, way, learn, [tune, test], params).result()
        said[way] = decided(tune, test, result.pop("logits"))
        found[way] = result
    truth = {one.name: test.values[:, k] for k, one in enumerate(test.columns)}

    def mean(way: str, rows: np.ndarray) -> float:
        scores = [
            evaluation.macro_f1(truth[c][rows], said[way][c][rows]) for c in truth if len(np.unique(truth[c])) > 1
        ]
        return float(np.nanmean(scores))

    everything = np.arange(test.n)
    for way in said:
        low, high = fitting.group_bootstrap(test.groups, lambda rows, way=way: mean(way, rows), SEED)  # type: ignore[misc]
        found.setdefault(way, {})["macro_f1"] = [round(one, 3) for one in (mean(way, everything), low, high)]

    def gain(rows: np.ndarray) -> float:
        return mean("fine-tuned", rows) - mean("linear", rows)

    low, high = fitting.group_bootstrap(test.groups, gain, SEED)
    found["gain"] = [round(one, 3) for one in (gain(everything), low, high)]
    return found


def run() -> dict[str, Any]:
    """Figures by task; each macro-F1 and gain with its 95% interval, drawn by prompt."""
    from engine.embedder import model_folder

    folder = checked_folder(Path(os.environ.get("SIGNET_DATA", ROOT.parent / "shared" / "data")))
    labelled = parts(folder)
    full = device().startswith("cuda")
    found: dict[str, Any] = {"encoder": os.environ.get("BENCH_ENCODER", "all-MiniLM-L6-v2"), "device": device()}
    for title, (source, task, less) in TASKS.items():
        name = title.split(",")[0]
        params = {
            "model": os.environ.get("BENCH_ENCODER") or str(model_folder()), "taxonomy": name, "patience": 0,
            "class_weight": "none", "oversample": False, **task, **(FULL if full else {**SMALL, **less}),
        }  # fmt: skip
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as workers:
            found[title] = {"data": source, **measured(labelled[source], name, params, workers)}
        found[title]["fine-tuned"].pop("model")
        print(title, found[title], file=sys.stderr)
    shutil.rmtree(home() / "benchmarks", ignore_errors=True)
    return found
