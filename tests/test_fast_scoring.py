"""The fast ways through a reward model give what transformers gives: DeBERTa, shared prompts, tokens ahead, int8."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import disentangled, jobs, models, precision, scorers, worker
from engine.entry_tokens import Encoded
from engine.records import SignetError, Turn, turns_to_json
from engine.reward_network import DoesNotFit
from engine.scorers import open_scorer
from engine.token_batches import TOKEN_BUDGET
from engine.units import SHARED_LEAST, shared_units
from tests.test_scorers import WORDS, decoder, encoder, entries, params, rewards  # noqa: F401 (fixtures)


def deberta(**changes: Any) -> Any:
    """A small random DeBERTa v3 reward model with weights large enough that positions matter."""
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    torch.manual_seed(3)
    shape: dict[str, Any] = {
        "vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 1,
        "intermediate_size": 96, "relative_attention": True, "position_buckets": 16, "max_relative_positions": -1,
        "max_position_embeddings": 128, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
        "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0,
    }  # fmt: skip
    model = DebertaV2ForSequenceClassification(DebertaV2Config(**(shape | changes))).eval()
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.2)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_att_key": False},
        {"pos_att_type": ["c2p"]},
        {"pos_att_type": ["p2c"]},
        {"pos_att_type": []},
        {"position_buckets": -1},
        {"norm_rel_ebd": "none", "conv_kernel_size": 3, "conv_act": "gelu"},
    ],
    ids=["v3", "own projections", "c2p", "p2c", "content only", "no buckets", "v2-xlarge's convolution"],
)
def test_disentangled_attention_equals_transformers(changes: dict[str, Any]) -> None:
    """Logits of padded and unpadded batches, shorter and longer than the buckets: 2e-5 of transformers' own."""
    import torch

    model = deberta(**changes)
    cases = []
    for rows, width in [(1, 1), (1, 7), (3, 16), (4, 61), (2, 128)]:
        ids = torch.randint(5, 100, (rows, width))
        mask = torch.ones_like(ids)
        for row in range(1, rows):
            mask[row, max(1, width - 5 * row) :] = 0
        with torch.inference_mode():
            cases.append((ids, mask, model(input_ids=ids, attention_mask=mask).logits))
    assert disentangled.usable(model)
    disentangled.accelerate(model)
    assert max(float(logits.std()) for _, _, logits in cases if len(logits) > 2) > 0.05  # not one constant
    for ids, mask, logits in cases:
        with torch.inference_mode():
            found = model(input_ids=ids, attention_mask=mask).logits
        assert torch.allclose(found, logits, atol=2e-5)


def test_only_debertas_with_relative_positions_are_changed(encoder: Path) -> None:  # noqa: F811
    from transformers import AutoModelForSequenceClassification

    assert not disentangled.usable(AutoModelForSequenceClassification.from_pretrained(encoder).eval())
    assert not disentangled.usable(deberta(relative_attention=False))
    assert not disentangled.usable(deberta().train())


def answers(prompts: int, each: int, seed: int = 5, longest: int = 60) -> pa.Table:
    """Several answers to each of some prompts, in random order."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(prompts):
        prompt = turns_to_json([Turn("user", " ".join(rng.choice(WORDS, int(rng.integers(1, longest)))))])
        rows += [(prompt, " ".join(rng.choice(WORDS, int(rng.integers(1, 30))))) for _ in range(each)]
    order = rng.permutation(len(rows))
    return pa.table(
        {
            "entry": [f"{i:032x}" for i in order],
            "prompt": [rows[i][0] for i in order],
            "response": [rows[i][1] for i in order],
        }
    )


@pytest.mark.parametrize("each", [1, 2, 5])
def test_answers_behind_a_shared_prompt_get_the_reward_they_get_alone(decoder: Path, each: int) -> None:  # noqa: F811
    """Within 1e-5, and the shared tokens are counted."""
    table = answers(12, each)
    scorer = open_scorer(params(decoder, format="chat"))
    assert scorer.network.shared
    together = rewards(scorer.run(table))
    assert (scorer.environment["progress"]["shared_tokens"] > 0) == (each > 1)
    scorer.network.shared = False
    alone = {
        entry: reward for i in range(table.num_rows) for entry, reward in rewards(scorer.run(table.slice(i, 1))).items()
    }
    assert np.std(list(alone.values())) > 1e-3
    for entry, reward in together.items():
        assert reward == pytest.approx(alone[entry], abs=1e-5)


def test_models_that_cannot_share_are_found_out(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A model that ignores position ids fails the trial at loading, and is scored entry by entry, rightly."""
    from transformers import LlamaModel

    honest = LlamaModel.forward
    table = answers(4, 2)
    expected = rewards(open_scorer(params(decoder, format="chat")).run(table))

    def deaf(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", deaf)
    scorer = open_scorer(params(decoder, format="chat"))
    assert not scorer.network.shared
    assert rewards(scorer.run(table)) == pytest.approx(expected, abs=1e-5)


token_rows = st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=60)), max_size=12)


@settings(deadline=None, max_examples=150)
@given(rows=token_rows, most=st.integers(20, 200))
def test_units_hold_every_entry_once_with_a_beginning_that_all_share(rows: list[Any], most: int) -> None:
    prompt = np.arange(100, 140, dtype=np.int32)
    encoded = [
        Encoded(np.concatenate([prompt[: 20 * (group + 1)], np.array(own, np.int32)]), None, 0, group)
        for group, own in rows
    ]
    units = shared_units(encoded, most)
    assert sorted(place for unit in units for place in unit.places) == list(range(len(encoded)))
    assert [unit.length for unit in units] == sorted((unit.length for unit in units), reverse=True)
    for unit in units:
        first = encoded[unit.places[0]].ids[: unit.shared]
        assert unit.length == unit.shared + sum(len(encoded[place].ids) - unit.shared for place in unit.places)
        assert len(unit.places) == 1 or (unit.shared >= SHARED_LEAST and unit.length <= most)
        for place in unit.places:
            assert np.array_equal(encoded[place].ids[: unit.shared], first)
            assert encoded[place].group == encoded[unit.places[0]].group
            assert len(encoded[place].ids) > unit.shared


def test_tokens_made_ahead_and_in_other_processes_are_the_same(
    encoder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`expect` begins a later shard; processes, as beside a GPU, give what the thread gives."""
    first, second = entries(40), entries(40, seed=9)
    plain = open_scorer(params(encoder))
    expected = plain.run(first), plain.run(second)
    ahead = open_scorer(params(encoder))
    ahead.expect(first)
    ahead.expect(second)
    assert ahead.run(first).equals(expected[0])
    assert ahead.run(second).equals(expected[1])
    apart = open_scorer(params(encoder))
    with scorers._tokenisers(apart._tokens) as processes:
        monkeypatch.setattr(apart, "_ahead", processes)
        monkeypatch.setattr(apart, "_encode", scorers._encode)
        assert apart.run(first).equals(expected[0])


def test_without_its_processes_a_scorer_tokenises_by_itself(
    encoder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Processes that were killed, and those that cannot take the tokenizer, are done without."""
    first, second = entries(40), entries(40, seed=9)
    expected = rewards(open_scorer(params(encoder)).run(first)), rewards(open_scorer(params(encoder)).run(second))
    scorer = open_scorer(params(encoder))
    processes = scorers._tokenisers(scorer._tokens)
    monkeypatch.setattr(scorer, "_ahead", processes)
    monkeypatch.setattr(scorer, "_encode", scorers._encode)
    assert rewards(scorer.run(first)) == expected[0]
    assert isinstance(processes, ProcessPoolExecutor)
    for process in list(processes._processes.values()):
        process.kill()
        process.join()
    scorer.expect(second)
    assert rewards(scorer.run(second)) == expected[1]
    assert rewards(scorer.run(first)) == expected[0]
    scorer.close()


def test_running_out_of_memory_halves_the_batches(encoder: Path, decoder: Path) -> None:  # noqa: F811
    """A device that holds 300 tokens at a time gives the same rewards; one that holds none ends in a sentence."""
    import torch

    for folder in (encoder, decoder):
        table = answers(10, 2)
        expected = rewards(open_scorer(params(folder)).run(table))
        scorer = open_scorer(params(folder))
        real = scorer.network.logits

        def small(units: Any, encoded: Any, room: int = 300, real: Any = real) -> Any:
            if len(units) * units[0].length > room:
                raise torch.OutOfMemoryError("no memory left")
            return real(units, encoded)

        scorer.network.logits = small
        assert rewards(scorer.run(table)) == pytest.approx(expected, abs=1e-5)
        assert 300 // 2 <= scorer.network.budget < TOKEN_BUDGET["cpu"]  # not halved again for every half
        scorer.network.logits = lambda units, encoded, small=small: small(units, encoded, room=0)
        with pytest.raises(SignetError, match="does not fit into the device's memory"):
            scorer.run(table)


def test_int8_stays_near_float32_whatever_else_is_scored(encoder: Path) -> None:  # noqa: F811
    """Correlation above .9 with float32 on this small model of large weights; alone and together the very same."""
    table = entries(40)
    exact = np.array(list(rewards(open_scorer(params(encoder)).run(table)).values()))
    scorer = open_scorer(params(encoder, dtype="int8"))
    rough = np.array(list(rewards(scorer.run(table)).values()))
    assert np.ptp(exact) > 0.5
    assert np.corrcoef(exact, rough)[0, 1] > 0.9
    assert np.abs(exact - rough).max() > 0
    alone = [scorer.run(table.slice(i, 1)).column("reward")[0].as_py() for i in range(10)]
    assert alone == rough[:10].tolist()
    assert params(encoder, dtype="int8") != params(encoder)


def test_a_reward_that_is_no_number_is_refused(encoder: Path) -> None:  # noqa: F811
    import torch

    scorer = open_scorer(params(encoder))
    with torch.no_grad():
        scorer.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(SignetError, match=r"gives nan for 5 of 5 texts; choose --option dtype=float32"):
        scorer.run(entries(5))


# --- the test of a precision -----------------------------------------------------------------------------------------

margins = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), max_size=40)


@given(first=margins, second=margins)
def test_counts_of_drift_add_up(first: list[Any], second: list[Any]) -> None:
    def counts(rows: list[Any]) -> dict[str, float]:
        both = np.array(rows, float).reshape(-1, 2)
        return precision.compare(both[:, 0], both[:, 1])

    whole, parts = counts(first + second), (counts(first), counts(second))
    for name, value in whole.items():
        assert value == pytest.approx(parts[0][name] + parts[1][name])
    assert whole["flips"] == sum(np.sign(a) != np.sign(b) for a, b in first + second)


def test_a_run_tells_what_its_precision_costs(encoder: Path) -> None:  # noqa: F811
    """The run's counts against both precisions scored apart: same flips, same drift."""
    table = answers(60, 2).sort_by("prompt")  # a shard holds both sides of a pair
    scorer = open_scorer(params(encoder, dtype="bfloat16") | {"drift_pairs": 50, "allow_drift": True})
    rough = dict(zip(table.column("entry").to_pylist(), [0.0] * table.num_rows))
    for start in range(0, 120, 40):
        rough |= rewards(scorer.run(table.slice(start, 40)))
    exact = rewards(open_scorer(params(encoder)).run(table))
    found = scorer.environment["progress"]["drift"]
    assert found["pairs"] == 50
    seen, apart, flips = 0, 0.0, 0
    for start in range(0, 120, 40):
        shard = table.slice(start, 40)
        groups: dict[str, list[str]] = {}
        for prompt, entry in zip(shard.column("prompt").to_pylist(), shard.column("entry").to_pylist()):
            groups.setdefault(prompt, []).append(entry)
        for one, other in [pair for pair in groups.values() if len(pair) == 2][: 50 - seen]:
            seen += 1
            a, b = exact[one] - exact[other], rough[one] - rough[other]
            apart, flips = apart + abs(a - b), flips + (np.sign(a) != np.sign(b))
    assert seen == 50
    assert found["drift"] == pytest.approx(apart, abs=1e-4)
    assert found["flips"] == flips
    assert "of 50 margins change sign against float32" in precision.verdict(found)[0]


def test_a_precision_that_changes_verdicts_is_refused(encoder: Path) -> None:  # noqa: F811
    """This model of large random weights does not bear int8: the sentence says how much, and how to go on."""
    table = answers(100, 2)
    rough = params(encoder, dtype="int8") | {"drift_pairs": 100, "allow_drift": False}
    with pytest.raises(SignetError, match=r"In int8, \d+ of 100 margins change sign .* more than 1% of verdicts"):
        open_scorer(rough).run(table)
    assert open_scorer(rough | {"allow_drift": True}).run(table).num_rows == 200


def test_no_room_for_the_model_in_float32_ends_the_test_and_not_the_job(
    encoder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> Any:
        raise DoesNotFit("no room")

    monkeypatch.setattr(precision, "RewardNetwork", full)
    scorer = open_scorer(params(encoder, dtype="bfloat16") | {"drift_pairs": 50, "allow_drift": False})
    for seed in (0, 1):
        assert scorer.run(answers(5, 2, seed=seed)).num_rows == 10
    assert precision.verdict(scorer.environment["progress"]["drift"])[0] == "no pair could be compared with float32"


def test_workers_side_by_side_share_the_test_and_the_last_shards(
    encoder: Path,  # noqa: F811
    home: Path,
) -> None:
    """Two workers in turn: each tests its share of the pairs, and the job's counts are those of both."""
    shards = [answers(12, 2, seed=seed).sort_by("prompt") for seed in range(4)]
    rough = params(encoder, dtype="bfloat16") | {"drift_pairs": 21, "allow_drift": True}
    job = jobs.create(home, "score", "d", "Score d", rough, shards)
    worker.work_through(job, 0, 2)
    first = jobs.read_json(job.path("progress.json"))
    assert first is not None
    assert first["drift"]["pairs"] == 11
    job.path("part-00003.parquet").unlink()
    worker.work_through(job, 1, 2)
    progress = jobs.read_json(job.path("progress.json"))
    assert progress is not None
    assert progress["drift"]["pairs"] == 22
    assert progress["entries"] == 5 * 24


def test_what_a_job_carries_for_the_test(encoder: Path) -> None:  # noqa: F811
    exact = models.resolve(str(encoder), {})
    rough = models.resolve(str(encoder), {"dtype": "bfloat16"})
    assert models.drift_test(exact, {}, 160_800) == {}
    assert models.drift_test(rough, {}, 160_800) == {"drift_pairs": 2000, "allow_drift": False}
    assert models.drift_test(rough, {}, 8_552)["drift_pairs"] == 171
    options = {"drift_pairs": 300, "allow_drift": True, "dtype": "int8"}
    assert models.drift_test(rough, models.take_test_options(options), 8_552) == {
        "drift_pairs": 300,
        "allow_drift": True,
    }
    assert options == {"dtype": "int8"}
    with pytest.raises(SignetError, match="drift_pairs=0 must be a whole number"):
        models.take_test_options({"drift_pairs": 0})
