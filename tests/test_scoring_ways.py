"""Every architecture gets the rewards that transformers gives one text at a time, by the fastest way that it allows.

The models are tiny, with random weights large enough that positions, windows and neighbours matter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import reward_network
from engine.entry_tokens import Encoded
from engine.records import SignetError
from engine.reward_network import RewardNetwork
from engine.settings import ROOT

TINY: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
DECODER = {**TINY, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
GEMMA = {**DECODER, "query_pre_attn_scalar": 8, "sliding_window": 64}
DEBERTA = {**TINY, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 70}  # fmt: skip
OTHER = {"vocab_size": 120, "num_labels": 1, "initializer_range": 0.3}

# name: (configuration, its values, the way, whether prompts are shared, whether every text goes alone)
MODELS: dict[str, tuple[str, dict[str, Any], str, bool, bool]] = {
    "llama": ("LlamaConfig", DECODER, "decoder", True, False),
    "llama without a padding id": ("LlamaConfig", {**DECODER, "pad_token_id": None}, "decoder", True, False),
    "qwen3": ("Qwen3Config", DECODER, "decoder", True, False),
    "mistral, window shorter than some texts": (
        "MistralConfig", {**DECODER, "sliding_window": 64}, "decoder", True, False),
    "phi3, positions that depend on the longest text of a batch": (
        "Phi3Config", {**DECODER, "rope_parameters": LONG, "original_max_position_embeddings": 70},
        "decoder", True, False),
    "phi": ("PhiConfig", DECODER, "decoder", True, False),
    "gemma2, capped attention": ("Gemma2Config", GEMMA, "decoder", False, False),
    "gemma3": ("Gemma3TextConfig", GEMMA, "decoder", True, False),
    "gemma3 that sees both ways": (
        "Gemma3TextConfig", {**GEMMA, "use_bidirectional_attention": True}, "other", False, False),
    "jamba, state spaces": (
        "JambaConfig", {**DECODER, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
                        "mamba_d_state": 4, "mamba_d_conv": 2, "use_mamba_kernels": False}, "decoder", False, False),
    "gpt-neox": ("GPTNeoXConfig", TINY, "other", False, False),
    "gpt2 without a padding id": (
        "GPT2Config", {**OTHER, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, "other", False, False),
    "xlnet, read at the last column": (
        "XLNetConfig", {**OTHER, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}, "other", False, True),
    "convbert, convolutions over padding": (
        "ConvBertConfig", {**TINY, "embedding_size": 32, "conv_kernel_size": 5}, "other", False, True),
    "modernbert": ("ModernBertConfig", {**TINY, "local_attention": 32}, "encoder", False, False),
    "xlm-roberta": ("XLMRobertaConfig", {**TINY, "pad_token_id": 1}, "encoder", False, False),
    "electra": ("ElectraConfig", {**TINY, "embedding_size": 32}, "encoder", False, False),
    "deberta": ("DebertaConfig", DEBERTA, "encoder", False, False),
    "deberta v3": (
        "DebertaV2Config", {**DEBERTA, "position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
        "encoder", False, False),
}  # fmt: skip


def saved(folder: Path, config: str, values: dict[str, Any]) -> Path:
    """A reward model of that configuration."""
    import torch
    import transformers

    torch.manual_seed(1)
    made = transformers.AutoModelForSequenceClassification.from_config(
        getattr(transformers, config)(**values, num_labels=1) if "num_labels" not in values
        else getattr(transformers, config)(**values)
    ).float()  # fmt: skip
    for weights in made.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.2)
    made.save_pretrained(folder)
    return folder


def network(folder: Path, dtype: str = "float32") -> RewardNetwork:
    params = {"kind": "folder", "path": str(folder), "model": folder.name, "trust_remote_code": False, "dtype": dtype}
    return RewardNetwork(params, "cpu")


def texts(prompts: int) -> list[Encoded]:
    """Two answers to each prompt, as tokens, of 5 to 130 tokens in all."""
    rng = np.random.default_rng(4)
    rows = []
    for group in range(prompts):
        prompt = rng.integers(5, 100, int(rng.integers(5, 90)))
        for _ in range(2):
            ids = np.concatenate([prompt, rng.integers(5, 100, int(rng.integers(1, 40)))]).astype(np.int32)
            rows.append(Encoded(ids, None, len(ids), group))
    return rows


@pytest.mark.parametrize("name", MODELS)
def test_rewards_are_those_of_transformers_one_by_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1e-4, shared and not, in several batches whose widths are rounded up as on a GPU."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config, values, way, shared, alone = MODELS[name]
    folder = saved(tmp_path, config, values)
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    rows = texts(12)
    with torch.inference_mode():
        expected = np.array([float(plain(input_ids=torch.tensor(row.ids[None]).long()).logits[0, 0]) for row in rows])
    assert expected.std() > 0.1
    monkeypatch.setattr(reward_network, "STEP", {})
    found = network(folder)
    assert (found.way, found.shared, found.alone) == (way, shared, alone)
    found.budget = 1500
    assert found.rewards(rows) == pytest.approx(expected, abs=1e-4)
    assert (found.shared_tokens > 0) == shared
    found.shared = False
    assert found.rewards(rows) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_deaf_to_position_ids_does_not_share_in_any_precision(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaModel

    folder = saved(tmp_path, "LlamaConfig", DECODER)
    assert network(folder, dtype).shared
    honest = LlamaModel.forward

    def deaf(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", deaf)
    found = network(folder, dtype)
    assert (found.way, found.shared) == ("decoder", False)


def test_a_model_that_cannot_run_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForSequenceClassification, LlamaModel

    folder = saved(tmp_path, "LlamaConfig", DECODER)

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no kernel for this type")

    monkeypatch.setattr(LlamaModel, "forward", broken)
    monkeypatch.setattr(LlamaForSequenceClassification, "forward", broken)
    with pytest.raises(SignetError, match=r"cannot score in float16: no kernel for this type; .* dtype=float32"):
        network(folder, "float16")


KILLED = """
import os, signal
from engine import scorers
from engine.entry_tokens import EntryTokens
if __name__ == "__main__":
    pool = scorers._tokenisers(EntryTokens(None, "chat", 8))
    assert pool.submit(scorers._encode, [], []).result() == []
    print(*pool._processes, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_tokenising_processes_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    children = [int(pid) for pid in done.stdout.split()]
    assert children
    until = time.monotonic() + 10
    while time.monotonic() < until and any(_alive(pid) for pid in children):
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in children)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
