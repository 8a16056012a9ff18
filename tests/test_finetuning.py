"""Fine-tuning: tasks, texts, steps, kills and memory, on tiny random encoders of four architectures.

What is to be learned is written for these tests: a word in the response decides each label.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import decisions, finetune_inputs, finetune_loop, finetuning
from engine.examples import Examples, held_out
from engine.finetune_head import Head, rows_of
from engine.records import SignetError, Turn
from engine.settings import ROOT
from engine.taxonomy import Column

FILLER = ["the", "a", "of", "river", "light", "house", "because", "green", "seven", "walk", "bread", "old", "quick"]
SIGNAL = ["please", "sorry", "rule", "win", "lose", "rest", "toil"]
LONGEST = 64
OPTIONS = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16, "max_tokens": LONGEST, "patience": 0}
WARM = Column("warm", "Warm", "boolean", "neutral", "response", ())
KIND = Column("kind", "Kind", "category", "neutral", "response", ("plain", "rules", "apology"))
POWER = Column("power", "Power", "signed", "neutral", "response", ())
EASE = Column("ease", "Ease", "signed", "neutral", "response", ())
TAXONOMY = """name: tiny
features:
  - {name: power, definition: win, kind: signed}
  - {name: ease, definition: rest, kind: signed}
"""


def quiet(**told: Any) -> None:
    """Nobody listens."""


def examples(n: int, columns: tuple[Column, ...], seed: int = 0) -> Examples:
    """n entries, two a prompt; what their words say of each column."""
    random = np.random.default_rng(seed)
    prompts, responses, values = [], [], []
    for i in range(n):
        if i % 2 == 0:
            prompt = (Turn("user", " ".join(random.choice(FILLER, random.integers(2, 12)))),)
        shown = [word for word in SIGNAL if random.random() < 0.35]
        words = [*random.choice(FILLER, random.integers(1, 12)), *shown]
        random.shuffle(words)
        said = {
            "warm": float("please" in shown),
            "kind": 2.0 if "sorry" in shown else 1.0 if "rule" in shown else 0.0,
            "power": float("win" in shown) - float("lose" in shown),
            "ease": float("rest" in shown) - float("toil" in shown),
        }
        prompts.append(prompt)
        responses.append(" ".join(words))
        values.append([said[column.name] for column in columns])
    return Examples(
        columns, tuple(f"{seed}-{i}" for i in range(n)), tuple(prompts), tuple(responses),
        np.arange(n) // 2, ("here",) * n, np.array(values, float),
    )  # fmt: skip


def tokenizer(pairs: bool = True, types: bool = True, longest: int = LONGEST) -> Any:
    """A tokenizer of words, with or without a separator between the texts of a pair."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Human", "Assistant", ":", "Power", "Ease", *FILLER, *SIGNAL]
    raw = Tokenizer(tokenizer_models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if pairs:
        second = "$B:1 [SEP]:1" if types else "$B [SEP]"
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair=f"[CLS] $A [SEP] {second}", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=longest, model_input_names=names,
    )  # fmt: skip


def encoder(folder: Path, kind: str = "bert", dropout: float = 0.1) -> Path:
    """A tiny encoder with seeded random weights and its tokenizer, as a folder."""
    import torch
    import transformers as tf

    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
            "vocab_size": 48, "pad_token_id": 0, "initializer_range": 0.1}  # fmt: skip
    torch.manual_seed(3)
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    if kind == "bert":
        model: Any = tf.BertModel(tf.BertConfig(**size, **drop, max_position_embeddings=LONGEST))
    elif kind == "roberta":
        model = tf.RobertaModel(
            tf.RobertaConfig(**size, **drop, max_position_embeddings=LONGEST + 2, type_vocab_size=1)
        )
    elif kind == "deberta":
        model = tf.DebertaV2Model(
            tf.DebertaV2Config(
                **size, **drop, max_position_embeddings=LONGEST, relative_attention=True, position_buckets=16,
                norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0,
                position_biased_input=False,
            )
        )  # fmt: skip
    else:
        special = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
        model = tf.ModernBertModel(tf.ModernBertConfig(**size, **special, max_position_embeddings=LONGEST))
    model.save_pretrained(folder)
    tokenizer(types=kind == "bert").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Encoders this small are slower on more threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout, so that how a batch is cut does not matter."""
    return encoder(tmp_path_factory.mktemp("still"), dropout=0.0)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNET_DEVICE", "cpu")
    finetuning.device.cache_clear()


def params(model: Path | str, **more: Any) -> dict[str, Any]:
    return {**finetuning.OPTIONS, **OPTIONS, "model": str(model), **more}


def fitted(some: Examples, given: dict[str, Any], folder: Path, seed: int = 0) -> finetuning.FineTuned:
    return finetuning.fit(some, decisions.outputs_of(some.columns), given, seed, quiet, folder)


def f1(some: Examples, logits: np.ndarray) -> dict[str, float]:
    """Macro-F1 a column, with thresholds tuned on the same entries."""
    from engine import fitting

    outputs = decisions.outputs_of(some.columns)
    tuning = decisions.tune(outputs, logits, decisions.targets(outputs, some.columns, some.values))
    return {
        name: fitting.macro_f1(some.values[:, k], values, decisions.classes_of(some.columns[k]))
        for k, (name, values, _) in enumerate(decisions.decide(outputs, logits, tuning))
    }


# --- what is trained, saved and read back ---
@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta", "modernbert"])
def test_every_architecture_trains_saves_and_reads_back(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    some = examples(32, (WARM, KIND))
    model = fitted(some, params(encoder(tmp_path / "encoder", kind), epochs=1), tmp_path / "work")
    before = model.logits(some.prompts, some.responses)
    model.save(tmp_path / "saved")
    assert not list((tmp_path / "work").glob("checkpoints-*"))
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert network.config.id2label == {0: "warm", 1: "kind: plain", 2: "kind: rules", 3: "kind: apology"}
    assert network.config.problem_type == "multi_label_classification"
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").model_max_length == LONGEST
    after = finetuning.load(tmp_path / "saved").logits(some.prompts, some.responses)
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert before.shape == (32, 4) and np.isfinite(before).all()
    assert json.dumps(model.environment) and model.environment["epochs"] == 1


def test_logits_do_not_depend_on_what_else_is_asked(bert: Path, tmp_path: Path) -> None:
    some = examples(40, (WARM,))
    model = fitted(some, params(bert, epochs=1), tmp_path)
    whole = model.logits(some.prompts, some.responses)
    alone = [model.logits(some.prompts[i : i + 1], some.responses[i : i + 1])[0] for i in range(0, 40, 7)]
    np.testing.assert_allclose(whole[::7], np.array(alone), atol=1e-5)
    assert model.logits([], []).shape == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "more"),
    [
        ((WARM, KIND, POWER), {"task": "labels"}),
        ((KIND,), {"class_weight": "balanced", "oversample": True}),
        ((POWER, EASE), {"task": "auto", "class_weight": "balanced", "oversample": True}),
        ((POWER, EASE), {"task": "regression"}),
    ],
    ids=["labels", "choice", "shared", "regression"],
)
def test_every_task_learns_what_the_words_say(
    columns: tuple[Column, ...], more: dict[str, Any], still: Path, tmp_path: Path, home: Path
) -> None:
    (home / "taxonomies").mkdir()
    (home / "taxonomies" / "tiny.yaml").write_text(TAXONOMY)
    train, test = examples(240, columns), examples(80, columns, seed=1)
    given = params(still, epochs=14, learning_rate=2e-3, taxonomy="tiny", **more)
    model = fitted(train, given, tmp_path / "work")
    scores = f1(test, model.logits(test.prompts, test.responses))
    assert min(scores.values()) > 0.75, scores
    model.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    names, problem = {
        "labels": (["warm", "kind: plain", "kind: rules", "kind: apology", "power +1", "power -1"], "multi_label"),
        "choice": (list(KIND.classes), "single_label"),
        "shared": (["-1", "0", "+1"], "single_label"),
        "regression": (["value"], "regression"),
    }["choice" if columns == (KIND,) else "shared" if more["task"] == "auto" else more["task"]]
    assert list(config["id2label"].values()) == names and config["problem_type"].startswith(problem)


def test_training_begins_with_the_labels_shares(still: Path, tmp_path: Path) -> None:
    from scipy.special import expit, softmax

    some = examples(100, (WARM, KIND))
    some = replace(some, values=np.stack([np.arange(100) < 5, np.arange(100) % 10 // 5 * 2.0], axis=1))
    model = fitted(some, params(still, epochs=1, learning_rate=1e-9), tmp_path)
    logits = model.logits(some.prompts, some.responses)
    assert expit(logits[:, 0]).mean() == pytest.approx(0.05, abs=0.05)
    np.testing.assert_allclose(softmax(logits[:, 1:], axis=1).mean(0), [0.5, 0.0, 0.5], atol=0.15)


def test_columns_are_masked_where_nobody_labelled(bert: Path, tmp_path: Path) -> None:
    some = examples(60, (WARM, POWER, KIND))
    values = some.values.copy()
    values[::3, 0] = np.nan
    values[:, 1] = np.nan
    values[1::3, 2] = np.nan
    model = fitted(replace(some, values=values), params(bert, epochs=1), tmp_path)
    logits = model.logits(some.prompts, some.responses)
    outputs = decisions.outputs_of(some.columns)
    assert [bool(np.isnan(logits[:, k]).all()) for k in range(6)] == [one.column == "power" for one in outputs]
    with pytest.raises(SignetError, match="Nobody has labelled"):
        fitted(replace(some, values=np.full_like(values, np.nan)), params(bert), tmp_path)


# --- losses and rows, against what others compute ---
def test_losses_equal_torch_and_the_encoders_own() -> None:
    import torch
    from sklearn.metrics import log_loss
    from transformers import BertConfig, BertForSequenceClassification

    random = np.random.default_rng(0)
    logits, truth = torch.tensor(random.normal(size=(12, 5))).float(), torch.zeros(12, 5)
    truth[:, 0] = torch.tensor(random.integers(0, 2, 12))
    picked = random.integers(0, 4, 12)
    truth[np.arange(12), 1 + picked] = 1.0
    blocks = [("binary", (0,)), ("choice", (1, 2, 3, 4))]
    found = finetune_loop.row_losses(blocks, logits, truth, torch.ones(12, 5))
    binary = log_loss(truth[:, 0], torch.sigmoid(logits[:, 0]).double())
    choice = log_loss(picked, torch.softmax(logits[:, 1:].double(), 1).numpy())
    assert float(found.mean()) == pytest.approx(binary + choice, abs=1e-6)
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                        num_labels=4, problem_type="single_label_classification")  # fmt: skip
    network = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        said = network(input_ids=torch.arange(12)[:, None], labels=torch.tensor(picked))
    ours = finetune_loop.row_losses([("choice", (0, 1, 2, 3))], said.logits, truth[:, 1:], torch.ones(12, 4))
    assert float(ours.mean()) == pytest.approx(float(said.loss), abs=1e-6)


def test_a_shared_heads_logits_are_its_log_odds() -> None:
    from scipy.special import expit, softmax

    outputs = decisions.outputs_of([POWER, EASE])
    head = Head("shared", outputs, (True,) * 4, {"power": "p", "ease": "e"}, 64, "fp32")
    raw = np.random.default_rng(0).normal(size=(6, 3))
    chances = softmax(raw, axis=1).reshape(3, 2, 3)
    wanted = np.stack([chances[:, 0, 2], chances[:, 0, 0], chances[:, 1, 2], chances[:, 1, 0]], axis=1)
    np.testing.assert_allclose(expit(head.logits(raw)), wanted, atol=1e-12)
    number = replace(head, task="regression").logits(np.array([[1.0], [-1.0], [0.0], [0.0]]))
    assert (number[0] > 0).tolist() == [True, False, False, True] and (number[1] < 0).all()


def test_zeros_are_drawn_less_often_and_count_as_much_in_all() -> None:
    some = examples(100, (POWER, EASE))
    some = replace(some, values=np.where(np.random.default_rng(0).random((100, 2)) < 0.8, 0.0, some.values))
    head = Head("shared", decisions.outputs_of(some.columns), (True,) * 4, {"power": "win", "ease": "rest"}, 64, "fp32")
    given = {"class_weight": "none", "oversample": False}
    rows, whole = (rows_of(some, head, tokenizer(), given, thin) for thin in (True, False))
    zero = rows.truth[:, 1] == 1
    assert rows.factor[zero].max() < 1 and rows.factor.sum() < whole.factor.sum() == 200
    np.testing.assert_allclose((rows.factor * rows.weight[:, 1])[zero].sum(), whole.weight[zero, 1].sum())
    drawn = finetune_inputs.drawn(rows.factor, np.random.default_rng(0))
    assert set(np.flatnonzero(~zero)) <= set(drawn.tolist()) and len(drawn) < 160


def test_rare_labels_weigh_more_and_are_seen_more_often() -> None:
    some = examples(200, (KIND,))
    values = np.zeros((200, 1))
    values[:4] = 2.0
    values[4:40] = 1.0
    some = replace(some, values=values)
    head = Head("labels", decisions.outputs_of([KIND]), (True,) * 3, {}, 64, "fp32")
    rows = rows_of(some, head, tokenizer(), {"class_weight": "balanced", "oversample": True}, thin=True)
    counted = (rows.weight * rows.truth).sum(0)
    assert counted[0] == pytest.approx(counted[1]) and counted.sum() == pytest.approx(200)
    assert rows.factor[0] > 1.5 and rows.factor[100] == 1.0


# --- texts ---
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 90), st.integers(0, 90), st.booleans(), st.booleans(), st.booleans(), st.integers(16, 48)
)  # fmt: skip
def test_the_response_is_kept_and_the_prompt_loses_its_beginning(
    asked: int, said: int, pairs: bool, types: bool, sentence: bool, longest: int
) -> None:
    own = tokenizer(pairs, types, longest)
    prompt = [Turn("user", " ".join([*["river"] * asked, "seven"]))]
    found = finetune_inputs.encode(own, [prompt], [" ".join(["bread"] * said)], longest, ["win"] if sentence else [])
    words = own.convert_ids_to_tokens(found.ids[0].tolist())
    assert len(words) <= longest and found.truncated in (0, 1)
    extra = len(words) - words.count("river") - words.count("bread")
    assert words.count("bread") == said or words.count("bread") >= longest - 8
    if said + 12 < longest:
        assert words.count("bread") == said and "seven" in words
        assert words.count("river") == min(asked, longest - said - extra)
    assert ("win" in words) == sentence
    if pairs and types and found.types is not None:
        assert (found.types[0] == 1).sum() == (2 if sentence else words.count("bread") + 1)


def test_hostile_texts_are_read() -> None:
    own = tokenizer(longest=32)
    prompt = [Turn("user", "river " * 200_000)]
    found = finetune_inputs.encode(own, [prompt, []], ["bread \ud800 </s> [SEP]", ""], 32)
    assert [len(one) <= 32 for one in found.ids] == [True, True] and found.truncated == 1


# --- steps, stops, memory, kills ---
def test_the_same_seed_gives_the_same_weights(bert: Path, tmp_path: Path) -> None:
    some = examples(48, (KIND,))
    first, again, other = (
        fitted(some, params(bert), tmp_path / name, seed).logits(some.prompts, some.responses)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_small_batches_and_full_memory_change_nothing_but_time(
    still: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import BertForSequenceClassification

    some = examples(40, (KIND, WARM))
    given = {"learning_rate": 1e-3}
    whole = fitted(some, params(still, **given), tmp_path / "whole")
    parts = fitted(some, params(still, **given, batch_size=4, accumulate=4), tmp_path / "parts")
    plain = BertForSequenceClassification.forward
    sizes = []

    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        sizes.append(len(named["input_ids"]))
        if self.training and sizes[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return plain(self, *arguments, **named)

    monkeypatch.setattr(BertForSequenceClassification, "forward", forward)
    tight = fitted(some, params(still, **given), tmp_path / "tight")
    assert (tight.environment["batch_size"], tight.environment["accumulate"]) == (4, 4) and max(sizes) == 16
    logits = [one.logits(some.prompts, some.responses) for one in (whole, parts, tight)]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
    np.testing.assert_array_equal(logits[2], logits[1])

    def never(self: Any, *arguments: Any, **named: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(BertForSequenceClassification, "forward", never)
    with pytest.raises(SignetError, match="does not fit into the memory of cpu; choose a smaller max_tokens"):
        fitted(some, params(still), tmp_path / "never")


@pytest.mark.parametrize("metric", ["loss", "f1"])
def test_training_stops_early_and_keeps_its_best_epoch(metric: str, bert: Path, tmp_path: Path) -> None:
    some = examples(60, (KIND,))
    random = np.random.default_rng(0)
    some = replace(some, values=random.integers(0, 3, (60, 1)).astype(float))  # nothing to learn
    told: list[dict[str, Any]] = []
    given = params(bert, epochs=40, patience=2, learning_rate=1e-2, metric=metric)
    model = finetuning.fit(some, decisions.outputs_of([KIND]), given, 0, lambda **one: told.append(one), tmp_path)
    found = model.environment
    history = found["history"]
    assert found["epochs"] == found["best_epoch"] + 2 < 40 and len(history) == found["epochs"]
    key = (lambda one: one["loss"]) if metric == "loss" else (lambda one: (-one["f1"], one["loss"]))
    assert min(history, key=key)["epoch"] == found["best_epoch"]
    _, out = held_out(some.groups, finetuning.STOPPING_SHARE, 0)
    stopping = some.take(out)
    loss = decisions.log_loss(model.logits(stopping.prompts, stopping.responses), stopping.values[:, 0])
    assert loss == pytest.approx(history[found["best_epoch"] - 1]["loss"], abs=1e-5)
    assert told[0]["share"] == 0 and {"step", "epoch", "epochs", "share", "loss", "f1"} <= set(told[-1])


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_result(bert: Path, tmp_path: Path) -> None:
    some, given = examples(48, (KIND,)), {"epochs": 4, "patience": 3}
    code = (
        "import os, signal, sys, json, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; from engine import decisions, finetuning\n"
        "from tests.test_finetuning import KIND, examples, params\n"
        "def say(**told):\n"
        "    if told.get('epoch') == 2 and 'f1' in told: os.kill(os.getpid(), signal.SIGKILL)\n"
        "finetuning.fit(examples(48, (KIND,)), decisions.outputs_of([KIND]),"
        "               params(sys.argv[1], **json.loads(sys.argv[3])), 0, say, Path(sys.argv[2]))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(bert), str(tmp_path / "killed"), json.dumps(given)], cwd=ROOT, check=False
    )
    assert killed.returncode == -9
    told: list[dict[str, Any]] = []
    outputs = decisions.outputs_of([KIND])
    resumed = finetuning.fit(
        some, outputs, params(bert, **given), 0, lambda **one: told.append(one), tmp_path / "killed"
    )
    assert {one["epoch"] for one in told[1:]} == {3, 4} and resumed.environment["epochs"] == 4
    straight = fitted(some, params(bert, **given), tmp_path / "straight")
    logits = [one.logits(some.prompts, some.responses) for one in (resumed, straight)]
    np.testing.assert_array_equal(logits[0], logits[1])


def test_folds_are_held_out_and_not_repeated_after_a_kill(bert: Path, tmp_path: Path) -> None:
    some = examples(60, (WARM,))
    outputs = decisions.outputs_of([WARM])
    parts = [(np.arange(20, 60), np.arange(0, 10)), (np.arange(0, 40), np.arange(50, 60))]
    given = params(bert, epochs=1)

    def stopped(**told: Any) -> None:
        if told["step"].startswith("held-out part 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetuning.out_of_fold(some, outputs, given, parts, 0, stopped, tmp_path)
    steps: set[str] = set()
    found = finetuning.out_of_fold(some, outputs, given, parts, 0, lambda **told: steps.add(told["step"]), tmp_path)
    assert steps == {"held-out part 2 of 2"}
    assert np.isnan(found[10:50]).all() and np.isfinite(found[:10]).all() and np.isfinite(found[50:]).all()
    alone = fitted(some.take(parts[0][0]), given, tmp_path / "alone")
    np.testing.assert_array_equal(found[:10], alone.logits(some.prompts[:10], some.responses[:10]))
    assert not list(tmp_path.glob("checkpoints-*"))


# --- refusals ---
def test_what_cannot_be_had_is_refused_in_a_sentence(bert: Path, tmp_path: Path) -> None:
    some = examples(20, (WARM, POWER))
    for model in ("nobody/no-such-encoder", str(tmp_path / "nowhere"), "not a name"):
        with pytest.raises(SignetError, match="cannot be loaded") as caught:
            fitted(some, params(model), tmp_path)
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    with pytest.raises(SignetError, match="which is for signed values alone, and warm is none"):
        fitted(some, params(bert, task="shared"), tmp_path)
    custom = tmp_path / "custom"
    custom.mkdir()
    (custom / "config.json").write_text(
        json.dumps({"model_type": "odd", "auto_map": {name: "run.Odd" for name in (
            "AutoConfig", "AutoModelForSequenceClassification")}})
    )  # fmt: skip
    (custom / "run.py").write_text("raise SystemExit('ran')")
    tokenizer().save_pretrained(custom)
    with pytest.raises(SignetError, match="brings code of its own"):
        fitted(some, params(custom), tmp_path)
    with pytest.raises(SignetError, match="holds no fine-tuned classifier"):
        finetuning.load(bert)


@pytest.mark.parametrize(
    ("name", "value"),
    [("task", "regress"), ("precision", "int8"), ("metric", "accuracy"), ("epochs", 0), ("epochs", 2.5),
     ("batch_size", 0), ("accumulate", 0), ("max_tokens", 4), ("patience", -1), ("learning_rate", 0.0),
     ("learning_rate", 1.0), ("warmup", 1.0), ("weight_decay", 2.0)],
)  # fmt: skip
def test_impossible_options_are_refused(name: str, value: Any) -> None:
    finetuning.check(finetuning.OPTIONS)
    with pytest.raises(SignetError, match=f"^{name} is {value!r}"):
        finetuning.check({**finetuning.OPTIONS, name: value})


def test_half_precision_needs_a_gpu(bert: Path, tmp_path: Path) -> None:
    some = examples(20, (WARM,))
    with pytest.raises(SignetError, match="precision is fp16, which needs a GPU"):
        fitted(some, params(bert, precision="fp16"), tmp_path)
    mixed = fitted(some, params(bert, precision="bf16", epochs=1), tmp_path)
    assert mixed.environment["dtype"] == "bf16" and np.isfinite(mixed.logits(some.prompts, some.responses)).all()
