"""A decoder on pairs whose prompt is most of the text: the prompt computed once for both answers, against twice.

The same scorer with sharing on and off, on real pairs in which the prompt is at least PROMPT of the tokens, and on
tokens made before: what is measured is the model. Beside the measured ratio stands what arithmetic allows, tokens of
both texts over tokens of the shared row.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import reward_models
from benchmarks.tables import table

PAIRS = int(os.environ.get("BENCH_PAIRS", "48"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
PROMPTS = (0.6, 0.8)
MODEL = "small decoder"


def long_prompts(share: float, n_pairs: int, longest: int = 1024) -> pa.Table:
    """Pairs of the real texts whose prompt is at least `share` of the characters, and not longer than `longest` tokens
    or so."""
    _, texts = reward_models.pairs(10**6)
    prompts, responses = texts.column("prompt").to_pylist(), texts.column("response").to_pylist()
    kept = []
    for i in range(0, len(prompts) - 1, 2):
        own = len(responses[i]) + len(responses[i + 1])
        if (
            prompts[i] == prompts[i + 1]
            and len(prompts[i]) < 4 * longest
            and 2 * len(prompts[i]) >= share * (2 * len(prompts[i]) + own)
        ):
            kept.append(i)
    drawn = kept[:: max(1, len(kept) // n_pairs)][:n_pairs]
    return texts.take([place for i in drawn for place in (i, i + 1)])


def measure(folder: Path, texts: pa.Table, rounds: int = ROUNDS, **options: Any) -> dict[str, Any]:
    """Texts a second with prompts shared and not, the ratio, and the largest difference of rewards."""
    scorer = reward_models.signet(folder, texts, format="chat", max_length=4096, **options)
    if not scorer.network.shared:
        raise RuntimeError("this model does not share prompts")
    seconds: dict[bool, list[float]] = {True: [], False: []}
    rewards: dict[bool, Any] = {}
    tokens = 0
    for _ in range(rounds):
        for shared in (True, False):
            scorer.network.shared, scorer.network.shared_tokens = shared, 0
            before = scorer.environment["progress"]["tokens"]
            reward_models.tokenise(scorer, texts)
            began = time.perf_counter()
            rewards[shared] = scorer.run(texts).column("reward").to_numpy()
            seconds[shared].append(time.perf_counter() - began)
            if shared:
                tokens = scorer.environment["progress"]["tokens"] - before
                saved = scorer.network.shared_tokens
    rates = {shared: texts.num_rows / statistics.median(times) for shared, times in seconds.items()}
    return {
        "texts": texts.num_rows, "tokens_a_text": round(tokens / texts.num_rows),
        "prompt_share": round(2 * saved / tokens, 3), "shared_texts_per_second": round(rates[True], 2),
        "alone_texts_per_second": round(rates[False], 2), "ratio": round(rates[True] / rates[False], 2),
        "by_tokens": round(tokens / (tokens - saved), 2),
        "largest_difference": float(np.abs(rewards[True] - rewards[False]).max()),
        "typical_reward": float(np.std(rewards[False])),
    }  # fmt: skip


def run() -> dict[str, Any]:
    """One small decoder, at every least share of the prompt."""
    with tempfile.TemporaryDirectory() as name:
        folder = reward_models.decoder(MODEL, Path(name))
        cases = {str(share): measure(folder, long_prompts(share, PAIRS)) for share in PROMPTS}
    return {"model": MODEL, "shape": reward_models.DECODERS[MODEL], "cases": cases}


def section(result: dict[str, Any]) -> str:
    """Rates and ratio by share of the prompt."""
    rows = [
        {"prompt is at least": f"{float(share):.0%}", "texts": case["texts"], "tokens a text": case["tokens_a_text"],
         "prompt's share": case["prompt_share"], "shared, texts/s": case["shared_texts_per_second"],
         "alone, texts/s": case["alone_texts_per_second"], "ratio": case["ratio"], "ratio by tokens": case["by_tokens"],
         "largest difference": f"{case['largest_difference']:.1e}"}
        for share, case in result["cases"].items()
    ]  # fmt: skip
    return f"A Llama with random weights ({result['model']}: {result['shape']}), float32.\n\n{table(rows)}"
