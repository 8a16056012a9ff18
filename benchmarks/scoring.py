"""Scoring on a processor: Signet beside the loops of SEAL and RewardBench, same texts, same machine, in turn.

For a small encoder (the bundled one under a last layer taught by other pairs), RoBERTa-base, DeBERTa-v3-base and
-large, with Signet's optional int8 beside float32 and what it changes. BENCH_PAIRS_SMALL, _BASE, _LARGE are the pairs
for each size, BENCH_ROUNDS the rounds, of which the median counts.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpu, reward_models
from benchmarks.tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
PAIRS = {
    "small encoder": int(os.environ.get("BENCH_PAIRS_SMALL", "256")),
    "roberta-base": int(os.environ.get("BENCH_PAIRS_BASE", "32")),
    "deberta-v3-base": int(os.environ.get("BENCH_PAIRS_BASE", "32")),
    "deberta-v3-large": int(os.environ.get("BENCH_PAIRS_LARGE", "12")),
}
TAUGHT_BY = 512  # pairs
LOOPS = ("batch of 1, as SEAL", "batch of 8, as RewardBench")


def measure(folder: Path, n_pairs: int, rounds: int) -> dict[str, Any]:
    """Texts a second of every way, the largest difference of rewards, and what int8 changes."""
    from engine import precision

    source, texts = reward_models.pairs(n_pairs)
    exact, rough = reward_models.signet(folder, texts), reward_models.signet(folder, texts, dtype="int8")
    loops = {LOOPS[0]: reward_models.Loop(folder, 1, seal=True), LOOPS[1]: reward_models.Loop(folder, 8)}
    first = exact.run(texts)
    cut = np.array(first.column("truncated").to_pylist())
    lengths = np.minimum(np.array(first.column("n_tokens").to_pylist()), reward_models.LONGEST)
    work = gpu.operations(exact.model, lengths)
    ways: dict[str, Callable[[], Any]] = {
        "signet": lambda: exact.run(texts).column("reward").to_numpy(),
        "signet, int8": lambda: rough.run(texts).column("reward").to_numpy(),
        **{name: lambda loop=loop: np.array(loop.run(texts)) for name, loop in loops.items()},
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rewards: dict[str, Any] = {}
    for _ in range(rounds):
        for way, call in ways.items():
            began = time.perf_counter()
            rewards[way] = call()
            seconds[way].append(time.perf_counter() - began)
    rates = {way: len(cut) / statistics.median(times) for way, times in seconds.items()}
    margins = {way: rewards[way][0::2] - rewards[way][1::2] for way in ("signet", "signet, int8")}
    drift = precision.compare(margins["signet"], margins["signet, int8"])
    return {
        "source": source, "texts": len(cut), "rounds": rounds,
        "texts_per_second": {way: round(rate, 3) for way, rate in rates.items()},
        "share_of_peak": round(work / statistics.median(seconds["signet"]) / gpu.peak("cpu", "float32", 2048), 3),
        # What is too long is cut elsewhere by each, so only whole texts compare.
        "compared": int((~cut).sum()),
        "largest_difference": max(float(np.abs(rewards["signet"] - rewards[way])[~cut].max()) for way in LOOPS),
        "int8": {"pairs": drift["pairs"], "flips": drift["flips"], "mean_drift": drift["drift"] / drift["pairs"],
                 "typical_margin": (drift["margin_sq"] / drift["pairs"]) ** 0.5,
                 "agrees": {way: float((margin > 0).mean()) for way, margin in margins.items()}},
    }  # fmt: skip


def run() -> dict[str, Any]:
    """Every size in turn."""
    cases = {}
    for name, n_pairs in PAIRS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            small = name == "small encoder"
            made = (
                reward_models.taught_encoder(path, TAUGHT_BY, n_pairs) if small else reward_models.encoder(name, path)
            )
            cases[name] = measure(made, n_pairs, ROUNDS if name != "deberta-v3-large" else max(1, ROUNDS - 2))
            print(json.dumps({name: cases[name]}), file=sys.stderr, flush=True)
    return {"cases": cases}


def section(result: dict[str, Any]) -> str:
    """Rates and ratios by size, then what int8 changes."""
    speed, changes = [], []
    for name, case in result["cases"].items():
        rate = case["texts_per_second"]
        speed.append({
            "model": name, "texts": case["texts"], "Signet, texts/s": round(rate["signet"], 2),
            "of the fp32 peak": f"{case['share_of_peak']:.0%}", **{loop: round(rate[loop], 2) for loop in LOOPS},
            "ratio to 1": round(rate["signet"] / rate[LOOPS[0]], 2),
            "ratio to 8": round(rate["signet"] / rate[LOOPS[1]], 2),
            "int8, texts/s": round(rate["signet, int8"], 2),
            "int8 to 1": round(rate["signet, int8"] / rate[LOOPS[0]], 2),
            "int8 to 8": round(rate["signet, int8"] / rate[LOOPS[1]], 2),
            "largest difference": f"{case['largest_difference']:.1e}",
        })  # fmt: skip
        own = case["int8"]
        changes.append({
            "model": name, "pairs": own["pairs"], "signs changed by int8": own["flips"],
            "mean drift of a margin": round(own["mean_drift"], 4), "typical margin": round(own["typical_margin"], 4),
            "agrees with the people": f"{own['agrees']['signet']:.1%}",
            "in int8": f"{own['agrees']['signet, int8']:.1%}",
        })  # fmt: skip
    first = next(iter(result["cases"].values()))
    return (
        f"Texts of {first['source']} at their real lengths, at most {reward_models.LONGEST} tokens. Signet sorts them "
        "by length and fills batches by tokens; the loops take them in the dataset's order. The largest difference of "
        "rewards is over all texts that nobody cuts off; the peak is that of a large float32 matrix product, measured "
        f"in the same run.\n\n{table(speed)}\n\n"
        "What int8 changes against float32. The small encoder is a trained one whose last layer learned from "
        f"{TAUGHT_BY} other pairs; the others' weights are random, so their rows say nothing of a trained model. A run "
        f"in int8 tests itself on its own pairs, and ends when more than 1% of verdicts change.\n\n{table(changes)}"
    )
