"""Scoring on a GPU: DeBERTa-v3-large and decoders beside the loops, and how much of the hardware that uses.

For every model and precision: texts a second, the share of this GPU's own measured bf16 peak, and the time that all
321,600 hh-rlhf texts take at the lengths of the sample: that of the model, or of the tokenisers beside it where they
are slower. Beside them the floors: the arithmetic at the measured peak,
and the bytes of weights read once a batch at the measured bandwidth. BENCH_GPU_PAIRS (default 2048) pairs;
BENCH_GPU_MODELS names the models. Needs a GPU.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import reward_models, shared_prompts
from benchmarks.tables import table
from engine import precision

PAIRS = int(os.environ.get("BENCH_GPU_PAIRS", "2048"))
LOOP_TEXTS = 256  # the loops are slow: they run on this many
MODELS = os.environ.get("BENCH_GPU_MODELS", "roberta-base,deberta-v3-base,deberta-v3-large,decoder of 1 B").split(",")


def peak(device: str, dtype: str = "bfloat16", size: int = 8192) -> float:
    """Floating point operations a second of a large matrix product, the best of ten."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    return 2 * size**3 / min(_seconds(device, lambda: a @ b) for _ in range(10))


def bandwidth(device: str, size: int = 1 << 30) -> float:
    """Bytes a second read and written by a copy, the best of ten."""
    import torch

    one = torch.empty(size, dtype=torch.uint8, device=device)
    other = torch.empty_like(one)
    return 2 * size / min(_seconds(device, lambda: other.copy_(one)) for _ in range(10))


def _seconds(device: str, call: Callable[[], Any]) -> float:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def operations(model: Any, lengths: np.ndarray) -> float:
    """Multiplications and additions of a forward pass over texts of these lengths: linear layers and attention (half of
    it where a token sees only those before it), and for DeBERTa the two products with positions, of which its buckets
    need 2 x 256 at most."""
    import torch

    linear = sum(
        2 * module.in_features * module.out_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith(("classifier", "score", "pooler"))
    )
    config = model.config
    width, layers = config.hidden_size, config.num_hidden_layers
    attention = (2 if hasattr(model, "score") else 4) * width * layers * lengths.astype(float) ** 2
    if config.model_type == "deberta-v2":
        attention += 4 * width * layers * lengths * np.minimum(2 * lengths, 512)
    return float((linear * lengths + attention).sum())


def one_precision(scorer: Any, texts: Any, longest: int, device: str, flops: float, moved: float) -> tuple[Any, Any]:
    """(figures of a warm scorer on the texts, rewards). `flops` and `moved`: the peak and the bandwidth measured."""
    scorer.run(texts.slice(0, max(256, texts.num_rows // 4)))
    tokenising = _seconds(device, lambda: reward_models.tokenise(scorer, texts))
    results: list[Any] = []
    seconds = _seconds(device, lambda: results.append(scorer.run(texts)))
    lengths = np.minimum(np.array(results[0].column("n_tokens").to_pylist()), longest)
    work = operations(scorer.model, lengths)
    weights = sum(p.numel() * p.element_size() for p in scorer.model.parameters())
    passes = lengths.sum() / scorer.network.budget
    every = reward_models.ALL_TEXTS / texts.num_rows
    return {
        "texts_per_second": round(texts.num_rows / seconds, 1), "mean_tokens": round(float(lengths.mean()), 1),
        "tokenising_seconds": round(tokenising, 2), "share_of_peak": round(work / seconds / flops, 3),
        "all_texts_seconds": round(every * max(seconds, tokenising), 1),
        "floor_arithmetic_seconds": round(every * work / flops, 1),
        "floor_bytes_seconds": round(every * weights * passes / moved, 1),
    }, results[0].column("reward").to_numpy()  # fmt: skip


def measure(name: str, folder: Path, device: str, flops: float, moved: float) -> dict[str, Any]:
    """One model in every precision, and the two loops: SEAL's in float32, RewardBench's in half precision."""
    source, texts = reward_models.pairs(PAIRS)
    style = "chat" if "decoder" in name else "seal_pair"
    half = "float16" if "deberta" in name else "bfloat16"
    longest = 4096 if style == "chat" else reward_models.LONGEST
    found: dict[str, Any] = {"source": source, "texts": texts.num_rows, "half": half, "precisions": {}}
    rewards = {}
    for dtype in ("float32", half):
        if dtype == "float32" and "8 B" in name:
            continue
        scorer = reward_models.signet(folder, texts, dtype=dtype, format=style, max_length=longest)
        found["precisions"][dtype], rewards[dtype] = one_precision(scorer, texts, longest, device, flops, moved)
        del scorer
    if "float32" in rewards:
        margins = [rewards[dtype][0::2] - rewards[dtype][1::2] for dtype in ("float32", half)]
        found["drift"] = precision.compare(*margins)
    few = texts.slice(0, LOOP_TEXTS)
    kinds = {"batch of 1, as SEAL": (1, True, "float32"), "batch of 8, as RewardBench": (8, False, half)}
    for way, (batch, seal, dtype) in kinds.items():
        loop = reward_models.Loop(folder, batch, seal, style, device, dtype)
        loop.run(few.slice(0, 16))
        found[way] = round(few.num_rows / _seconds(device, lambda loop=loop: loop.run(few)), 1)
        del loop
    if "decoder" in name:
        long = shared_prompts.long_prompts(0.6, max(8, PAIRS // 4))
        found["shared_prompts"] = shared_prompts.measure(folder, long, rounds=3, dtype=half)
    return found


def run() -> dict[str, Any]:
    """Every model; SystemExit without a GPU."""
    from engine.settings import device

    if device() != "cuda":
        raise SystemExit("no GPU here, so nothing was measured")
    import torch

    flops, moved = peak("cuda"), bandwidth("cuda")
    cases = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            made = (reward_models.decoder(name, path, "bfloat16") if "decoder" in name
                    else reward_models.encoder(name, path))  # fmt: skip
            cases[name] = measure(name, made, "cuda", flops, moved)
            gc.collect()
            torch.cuda.empty_cache()
    return {"gpu": torch.cuda.get_device_name(0), "bf16_peak_tflops": round(flops / 1e12, 1),
            "bandwidth_gb_s": round(moved / 1e9), "cases": cases}  # fmt: skip


def section(result: dict[str, Any]) -> str:
    """Rates, share of the peak, floors; then ratios to the loops and what half precision changes."""
    speed, ratios = [], []
    for name, case in result["cases"].items():
        for dtype, one in case["precisions"].items():
            speed.append({"model": name, "precision": dtype, "texts/s": one["texts_per_second"],
                          "of the bf16 peak": f"{one['share_of_peak']:.1%}",
                          "all 321,600 texts, s": one["all_texts_seconds"],
                          "floor by arithmetic, s": one["floor_arithmetic_seconds"],
                          "floor by bytes, s": one["floor_bytes_seconds"]})  # fmt: skip
        best = case["precisions"][case["half"]]["texts_per_second"]
        seal, bench = case["batch of 1, as SEAL"], case["batch of 8, as RewardBench"]
        drift, shared = case.get("drift"), case.get("shared_prompts")
        ratios.append({"model": name, "SEAL's loop, texts/s": seal, "ratio": round(best / seal, 1),
                       "RewardBench's, texts/s": bench, "ratio ": round(best / bench, 1),
                       "signs changed": f"{drift['flips']} of {drift['pairs']:,}" if drift else "",
                       "shared prompts": shared["ratio"] if shared else None})  # fmt: skip
    return (
        f"{result['gpu']}: {result['bf16_peak_tflops']} TFLOP/s measured in bf16, {result['bandwidth_gb_s']:,} GB/s. "
        f"Random weights.\n\n{table(speed)}\n\nRatios are of half precision to SEAL's loop (float32, one by one) and "
        f"RewardBench's (half precision, eight unsorted); changed signs are against float32.\n\n{table(ratios)}"
    )
