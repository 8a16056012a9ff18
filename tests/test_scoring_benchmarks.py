"""The scoring benchmarks on tiny models: every figure is there, rewards agree, and the page's section is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, reward_models, scoring, shared_prompts

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGNET_DATA", raising=False)
    monkeypatch.setitem(reward_models.ENCODERS, "roberta-tiny", {"kind": "roberta", **TINY})
    monkeypatch.setitem(reward_models.ENCODERS, "deberta-tiny", {"kind": "deberta", **TINY})
    monkeypatch.setitem(reward_models.DECODERS, "decoder tiny", {**TINY, "num_key_value_heads": 2})
    monkeypatch.setattr(gpu, "PAIRS", 6)


@pytest.mark.parametrize("name", ["roberta-tiny", "deberta-tiny"])
def test_signet_and_the_loops_give_the_same_rewards(name: str, tmp_path: Path) -> None:
    case = scoring.measure(reward_models.encoder(name, tmp_path), 6, 1)
    assert case["texts"] == 12
    assert case["compared"] > 6
    assert case["largest_difference"] < 1e-5
    assert set(case["texts_per_second"]) == {"signet", "signet, int8", *scoring.LOOPS}
    assert f"| {name} | 12 |" in scoring.section({"cases": {name: case}})


def test_a_last_layer_is_taught_by_pairs_that_are_not_scored(tmp_path: Path) -> None:
    """On what it learned from it agrees with the people more often than on those kept apart."""
    scored, learned = (reward_models.pairs(*one)[1].column("entry").to_pylist() for one in ((20,), (60, 20)))
    assert len(learned) == 120 and not set(scored) & set(learned)
    scorer = reward_models.signet(reward_models.taught_encoder(tmp_path, 60, 20), None)

    def agrees(*which: int) -> float:
        rewards = scorer.run(reward_models.pairs(*which)[1]).column("reward").to_numpy()
        return float((rewards[0::2] > rewards[1::2]).mean())

    assert agrees(60, 20) > max(0.8, agrees(20))


def test_sharing_saves_what_the_tokens_say(tmp_path: Path) -> None:
    texts = shared_prompts.long_prompts(0.6, 6)
    assert texts.column("prompt").to_pylist()[0::2] == texts.column("prompt").to_pylist()[1::2]
    case = shared_prompts.measure(reward_models.decoder("decoder tiny", tmp_path), texts, 1)
    assert case["by_tokens"] == pytest.approx(1 / (1 - case["prompt_share"] / 2), abs=0.01)
    assert case["prompt_share"] > 0.5
    assert case["largest_difference"] < 1e-5
    assert "| 60% | 12 |" in shared_prompts.section({"model": "m", "shape": {}, "cases": {"0.6": case}})


@pytest.mark.parametrize("name", ["deberta-tiny", "decoder tiny"])
def test_the_gpu_benchmark_runs_through(name: str, tmp_path: Path) -> None:
    """On the CPU, where only that it runs and how it counts can be seen, not its figures."""
    made = (reward_models.decoder if "decoder" in name else reward_models.encoder)(name, tmp_path)
    case = gpu.measure(name, made, "cpu", 1e9, 1e9)
    assert case["drift"]["pairs"] == 6
    assert all(one["share_of_peak"] > 0 for one in case["precisions"].values())
    text = gpu.section({"gpu": "none", "bf16_peak_tflops": 1, "bandwidth_gb_s": 100, "cases": {name: case}})
    assert f"| {name} | {case['half']} |" in text


def test_operations_are_those_of_the_layers(tmp_path: Path) -> None:
    """A closed form: 12 h^2 parameters a layer (here with an inner layer of 2h: 8 h^2) and 4 h L attention a token."""
    scorer = reward_models.signet(reward_models.encoder("roberta-tiny", tmp_path), None)
    lengths = np.array([10, 30])
    linear = 2 * (4 * 32 * 32 + 2 * 32 * 64) * 2 * 40
    assert gpu.operations(scorer.model, lengths) == linear + 4 * 32 * 2 * (10**2 + 30**2)


def test_the_peak_and_the_bandwidth_are_of_this_machine() -> None:
    assert 1e8 < gpu.peak("cpu", "float32", 256) < 1e14
    assert 1e7 < gpu.bandwidth("cpu", 1 << 22) < 1e13


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.settings.device", lambda: "cpu")
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu.run()
