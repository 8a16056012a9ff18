"""Heads on frozen embeddings against their baselines on real labels, held out by prompt, with the learning curve.

Reads a folder of training data (see engine/builtin/data.py), named by SIGNET_DATA, and nothing else: hh-rlhf by
reading (learned from `train`, judged on `test`), and Value FULCRA's dialogues in five folds.

    SIGNET_DATA=FOLDER python -m benchmarks judges
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.finetuning import examples_of
from engine import decisions, evaluation, frozen, heads, training
from engine.builtin import data
from engine.examples import Examples
from engine.intervals import Estimate

KINDS = frozen.KINDS


def _text(one: Estimate) -> str:
    return f"{one.estimate:.3f} [{one.conf_low:.3f}, {one.conf_high:.3f}]"


def _overall(frame: Any, examples: Examples, given: str) -> str:
    groups = {i: int(g) for i, g in enumerate(examples.groups)}
    rows = np.unique(frame["row"])
    wide = {name: frame.pivot(index="row", columns="column", values=name).reindex(rows) for name in ("truth", given)}
    return _text(
        evaluation.mean_macro_f1(
            [(wide["truth"][c].to_numpy(), wide[given][c].to_numpy()) for c in wide["truth"].columns],
            np.array([groups[i] for i in rows]),
        )
    )


def measure(examples: Examples, parts: list[Any], kind: str, rows: np.ndarray, curve: bool = False) -> dict[str, Any]:
    """Held-out figures of one kind of head: overall, by class, baselines, seconds; and its learning curve."""
    outputs, options = decisions.outputs_of(examples.columns), {"model": kind}
    began = time.perf_counter()
    logits = frozen.out_of_fold(examples, outputs, options, parts, 0, rows)
    seconds = time.perf_counter() - began
    frame = training.with_baselines(examples, training.judged(examples, outputs, logits, parts), parts)
    by_class = {}
    for column in examples.columns:
        part = frame[frame["column"] == column.name]
        found = evaluation.classification(
            part["truth"].to_numpy(), part["value"].to_numpy(), examples.groups[part["row"]],
            decisions.classes_of(column), decisions.class_names(column),
        )  # fmt: skip
        by_class |= {f"{column.title}: {c.name}": f"{_text(c.f1)}, n = {c.support}" for c in found.classes if c.support}
    result = {"macro_f1": _overall(frame, examples, "value"), "majority": _overall(frame, examples, "majority"),
              "keywords": _overall(frame, examples, "keywords"), "judged": int(frame["row"].nunique()),
              "seconds": round(seconds, 1), "f1_by_class": by_class}  # fmt: skip
    if curve:

        def quick(some: list[Any]) -> np.ndarray:
            fixed = options | {"strength": frozen.STRENGTHS[1]}
            return frozen.out_of_fold(examples, outputs, fixed, some, 0, rows)

        points = training.curve(examples, outputs, quick, 0, lambda **_: None)
        result["curve"] = [{"n": p["n"], "macro_f1": round(p["macro_f1"], 3)} for p in points]
    return result


def run() -> dict[str, Any]:
    """All figures; SystemExit with a sentence where the data is not there."""
    folder = data.checked_folder(Path(os.environ.get("SIGNET_DATA", "../shared/data")))
    pairs, entries, _ = data.hh_pairs(folder)
    labelled = [one for one in data.read_labels(folder, pairs, entries) if one.reading == 1]
    values, _ = data.fulcra(folder, 0)
    found: dict[str, Any] = {"test_data": str(folder.name), "heads": heads.available()}
    sets = [
        (f"hh-rlhf, {name}", examples_of(labelled, name), labelled) for name in ("value_imprint", "seal", "schwartz")
    ]
    sets.append(("FULCRA, schwartz, five folds", examples_of(values, "schwartz"), values))
    for title, examples, source in sets:
        rows = frozen.inputs(examples)
        if title.startswith("FULCRA"):
            parts = training.splits(examples, 5, 0)
        else:
            split = np.array([one.split for one in source])
            parts = [(np.flatnonzero(split == "train"), np.flatnonzero(split == "test"))]
        found[title] = {"entries": examples.n} | {
            kind: measure(examples, parts, kind, rows, curve=kind == "linear") for kind in KINDS
        }
    return found
