"""Scoring: batch composition, truncation, formats, refusals, against plain transformers calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine import models, records
from engine.records import Entry, SignetError, Turn, turns_to_json
from engine.scorers import open_scorer
from engine.token_batches import token_batches

WORDS = [
    "the",
    "a",
    "of",
    "river",
    "light",
    "house",
    "never",
    "always",
    "because",
    "green",
    "seven",
    "walk",
    "bread",
    "old",
    "quick",
    "slow",
    "sound",
]


def entries(n: int, seed: int = 0, longest: int = 90) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        turns = []
        for k in range(int(rng.integers(1, 4)) * 2 - 1):
            turns.append(Turn(("user", "assistant")[k % 2], " ".join(rng.choice(WORDS, int(rng.integers(1, longest))))))
        rows.append(Entry(tuple(turns), " ".join(rng.choice(WORDS, int(rng.integers(0, longest))))))
    return pa.table(
        {
            "entry": [row.hash for row in rows],
            "prompt": [turns_to_json(row.prompt) for row in rows],
            "response": [row.response for row in rows],
        }
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT reward model with a word tokenizer, saved as a folder."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as tokenizer_models
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, "Human", "Assistant", ":", *WORDS])}
    raw = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=128, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(7)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=96, max_position_embeddings=128, num_labels=1,
                        initializer_range=0.3)  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama reward model with a chat template and no padding token."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as tokenizer_models
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("decoder")
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", "user", "assistant", *WORDS])}
    raw = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=256
    )
    tokenizer.chat_template = "<s> {% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}</s>"
    torch.manual_seed(8)
    config = LlamaConfig(vocab_size=len(vocabulary), hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=96, max_position_embeddings=256, num_labels=1,
                         pad_token_id=None, initializer_range=0.3)  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def params(folder: Path, **options: Any) -> dict[str, Any]:
    spec = models.resolve(str(folder), options)
    return {"model": spec.name, "kind": spec.kind, "revision": spec.revision, **spec.params}


def rewards(table: pa.Table) -> dict[str, float]:
    return dict(zip(table.column("entry").to_pylist(), table.column("reward").to_pylist()))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_scores_do_not_depend_on_batch_composition(kind: str, request: pytest.FixtureRequest) -> None:
    """Alone or in shuffled batches: equal within 1e-5."""
    scorer = open_scorer(params(request.getfixturevalue(kind)))
    table = entries(60)
    together = rewards(scorer.run(table))
    shuffled = rewards(scorer.run(table.take(np.random.default_rng(1).permutation(60))))
    alone = {}
    for i in range(60):
        alone |= rewards(scorer.run(table.slice(i, 1)))
    assert together.keys() == shuffled.keys() == alone.keys()
    for entry, reward in together.items():
        assert reward == pytest.approx(alone[entry], abs=1e-5)
        assert reward == pytest.approx(shuffled[entry], abs=1e-5)


def test_encoder_rewards_equal_plain_transformers(encoder: Path) -> None:
    """The seal_pair and dialogue formats against a batch-1 loop written out: 1e-5."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
    table = entries(12, seed=3, longest=15)
    for style in ("seal_pair", "dialogue"):
        found = open_scorer(params(encoder, format=style)).run(table).column("reward").to_pylist()
        for reward, prompt, response in zip(
            found, table.column("prompt").to_pylist(), table.column("response").to_pylist()
        ):
            from engine.records import turns_from_json

            turns = turns_from_json(prompt)
            text = models.dialogue_text([*turns, Turn("assistant", response)])
            if style == "seal_pair":
                cut = text.rindex("Assistant:")
                inputs = tokenizer(text[:cut], text[cut:], return_tensors="pt")
            else:
                inputs = tokenizer(text.lstrip("\n"), return_tensors="pt")
            with torch.no_grad():
                expected = model(**inputs).logits[0][0].item()
            assert reward == pytest.approx(expected, abs=1e-5)


def test_decoder_reads_the_last_token_and_one_bos(decoder: Path) -> None:
    """The chat format against the unpadded sequence, its score read at the true last token: 1e-5."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from engine.records import turns_from_json

    tokenizer = AutoTokenizer.from_pretrained(decoder)
    model = AutoModelForSequenceClassification.from_pretrained(decoder).eval()
    table = entries(10, seed=4, longest=20)
    found = open_scorer(params(decoder)).run(table)
    for reward, n, prompt, response in zip(
        found.column("reward").to_pylist(), found.column("n_tokens").to_pylist(),
        table.column("prompt").to_pylist(), table.column("response").to_pylist(),
    ):  # fmt: skip
        text = tokenizer.apply_chat_template(models.messages(turns_from_json(prompt), response), tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert ids.shape[1] == n and (ids == tokenizer.bos_token_id).sum() == 1
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state[:, -1]
            expected = model.score(hidden)[0, 0].item()
        assert reward == pytest.approx(expected, abs=1e-5)


def test_truncation_is_counted_and_keeps_the_answer(encoder: Path) -> None:
    scorer = open_scorer(params(encoder, max_length=32, format="seal_pair"))
    long_prompt = turns_to_json([Turn("user", " ".join(WORDS * 6))])
    table = pa.table(
        {
            "entry": ["0" * 32, "1" * 32, "2" * 32],
            "prompt": [long_prompt, long_prompt, turns_to_json([Turn("user", "river")])],
            "response": ["bread", "never", "bread"],
        }
    )
    result = scorer.run(table)
    assert result.column("truncated").to_pylist() == [True, True, False]
    assert result.column("n_tokens").to_pylist()[0] > 100
    first, second, _ = result.column("reward").to_pylist()
    assert first != second, "the answer was cut away"
    assert scorer.environment["progress"]["truncated"] == 2


def test_models_that_are_no_reward_models_are_refused(encoder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=3, ignore_mismatched_sizes=True
    ).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    with pytest.raises(SignetError, match="3 outputs"):
        open_scorer(params(tmp_path))
    assert len(open_scorer(params(tmp_path, output=1)).run(entries(3))) == 3
    with pytest.raises(SignetError, match="no chat template"):
        open_scorer(params(encoder, format="chat"))


def test_pickles_load_through_weights_only(encoder: Path, tmp_path: Path) -> None:
    """A pickle that runs code on loading is refused, and the code does not run."""
    import pickle

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((encoder / name).read_bytes())
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (trap,)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap()}))
    with pytest.raises(SignetError, match="cannot be loaded"):
        open_scorer(params(tmp_path))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("no such model", {}, "No reward model"),
        ("owner/model", {"formt": "chat"}, "Unknown option"),
        ("owner/model", {"format": "xml"}, "format='xml'"),
        ("owner/model", {"max_length": 2}, "max_length"),
        ("owner/does-not-exist-here", {}, "hub"),
    ],
)
def test_wrong_names_and_options_get_one_sentence(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(SignetError, match=match):
        models.resolve(name, options)


def test_known_models_get_their_format() -> None:
    assert models.default_format("OpenAssistant/reward-model-deberta-v3-large-v2") == "seal_pair"
    assert models.default_format("Skywork/Skywork-Reward-V2-Llama-3.1-8B") == "chat"


def test_token_batches_cover_all_within_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 1200, 400)
    batches = list(token_batches(lengths, 1000))
    assert sorted(place for batch in batches for place in batch) == list(range(400))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= 1000 for batch in batches)
    in_order = lengths[np.concatenate(batches)]
    assert (np.diff(in_order) <= 0).all() and list(token_batches([], 1000)) == []


@pytest.mark.parametrize(
    ("revision", "told"),
    [("0123456789abcdef", "0123456"), ("not told", "not told"), ("1.2", "1.2"), ("main", "main")],
)
def test_only_a_commit_is_shortened(revision: str, told: str) -> None:
    assert records.short_revision(revision) == told
