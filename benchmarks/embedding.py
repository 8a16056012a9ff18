"""The bundled embedder through Signet against sentence-transformers on the same weights: texts a second, same vectors.

Responses of real pairs, each cut at the same number of tokens by both; without Signet's cache. sentence-transformers
sorts by length too and takes batches of 32.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import numpy as np

from benchmarks import reward_models
from benchmarks.tables import table

PAIRS = int(os.environ.get("BENCH_PAIRS", "512"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))


def run() -> dict[str, Any]:
    """Texts a second of both, in turn, the median of ROUNDS; and the largest difference of a component."""
    from sentence_transformers import SentenceTransformer

    from engine import embedder
    from engine.settings import device

    source, pairs = reward_models.pairs(PAIRS)
    texts = pairs.column("response").to_pylist()
    other = SentenceTransformer(str(embedder.model_folder()), device=device())
    other.max_seq_length = embedder.MAX_TOKENS
    ways = {
        "signet": lambda: embedder.embed(texts, use_cache=False),
        "sentence-transformers": lambda: other.encode(texts, normalize_embeddings=True, show_progress_bar=False),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(ROUNDS):
        for way, call in ways.items():
            began = time.perf_counter()
            vectors[way] = np.asarray(call())
            seconds[way].append(time.perf_counter() - began)
    rates = {way: len(texts) / statistics.median(times) for way, times in seconds.items()}
    apart = np.abs(vectors["signet"] - vectors["sentence-transformers"])
    return {
        "source": source, "texts": len(texts), "device": device(), "rounds": ROUNDS,
        "texts_per_second": {way: round(rate, 1) for way, rate in rates.items()},
        "ratio": round(rates["signet"] / rates["sentence-transformers"], 2), "largest_difference": float(apart.max()),
    }  # fmt: skip


def section(result: dict[str, Any]) -> str:
    """One row."""
    rates = result["texts_per_second"]
    row = {"texts": result["texts"], "device": result["device"], "Signet, texts/s": rates["signet"],
           "sentence-transformers, texts/s": rates["sentence-transformers"], "ratio": result["ratio"],
           "largest difference": f"{result['largest_difference']:.1e}"}  # fmt: skip
    return table([row])
