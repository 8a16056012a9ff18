"""What the scoring benchmarks share: real texts, models of a known shape, and the loops that others score with.

Weights are random where they cannot be had: speed does not depend on them, verdicts do. The tokenizer is the bundled
encoder's for every encoder, so that all read the same tokens.
"""

from __future__ import annotations

import gc
import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.records import turns_from_json, turns_to_json
from engine.settings import BUILTIN, ROOT

LONGEST = 512
ALL_TEXTS = 321_600  # hh-rlhf's training split, both sides

ENCODERS: dict[str, dict[str, Any]] = {
    "roberta-base": {"kind": "roberta", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                     "intermediate_size": 3072},
    "deberta-v3-base": {"kind": "deberta", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                        "intermediate_size": 3072},
    "deberta-v3-large": {"kind": "deberta", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                         "intermediate_size": 4096},
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "small decoder": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
                      "intermediate_size": 1536},
    "decoder of 1 B": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
                       "num_key_value_heads": 8, "intermediate_size": 8192},
    "decoder of 8 B": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                       "num_key_value_heads": 8, "intermediate_size": 14336},
}  # fmt: skip


def _drawn(rows: int, n: int, without: int = 0) -> list[int]:
    """n places drawn evenly from `rows`, or from those that a draw of `without` leaves."""
    taken = set(_drawn(rows, without)) if without else set()
    left = [place for place in range(rows) if place not in taken]
    return left[:: max(1, len(left) // n)][:n]


def pairs(n: int, without: int = 0) -> tuple[str, pa.Table]:
    """(source, a table of entry, prompt, response): both sides of n pairs drawn evenly over the source.

    `without`: from the pairs that are not among the ones drawn by pairs(without).
    """
    from engine.readers import dialogue_entry

    path = Path(os.environ.get("SIGNET_DATA", ROOT.parent / "shared" / "data")) / "hh_rlhf_test.jsonl.gz"
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
        drawn = [found[place] for place in _drawn(len(found), n, without)]
        rows = [dialogue_entry(one[side]) for one in drawn for side in ("chosen", "rejected")]
        columns = [(e.hash, turns_to_json(e.prompt), e.response) for e in rows]
        return "hh-rlhf test", pa.table(dict(zip(("entry", "prompt", "response"), map(list, zip(*columns)))))
    table = pq.read_table(BUILTIN / "demo" / "pairs.parquet")
    table = table.take(_drawn(len(table), n, without))
    sides = [pa.table({"entry": table.column(f"{side}_hash"), "prompt": table.column("prompt"),
                       "response": table.column(side)}) for side in ("chosen", "rejected")]  # fmt: skip
    places = [place for i in range(len(table)) for place in (i, len(table) + i)]
    return "bundled demonstration", pa.concat_tables(sides).take(places)


def small_encoder(folder: Path) -> Path:
    """The bundled encoder (22 M parameters) as a reward model: its own weights, one logit with random ones."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from engine.embedder import model_folder

    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=1).save_pretrained(folder)
    return _with_tokenizer(folder)


def taught_encoder(folder: Path, n_pairs: int, scored: int) -> Path:
    """The same with a last layer that has learned from preferences: Bradley-Terry on n pairs, the encoder frozen.

    They are none of those that pairs(scored) draws.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file
    from sklearn.linear_model import LogisticRegression

    small_encoder(folder)
    loop = Loop(folder, 8)
    seen: list[Any] = []
    loop._model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    loop.run(pairs(n_pairs, without=scored)[1])
    states = torch.cat(seen).numpy()
    apart = states[0::2] - states[1::2]
    fit = LogisticRegression(fit_intercept=False, max_iter=1000)
    fit.fit(np.concatenate([apart, -apart]), np.repeat([1, 0], len(apart)))
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = torch.tensor(fit.coef_, dtype=torch.float32)
    weights["classifier.bias"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def encoder(name: str, folder: Path) -> Path:
    """A reward model of the named shape with random weights; they are drawn wider than usual, so that texts differ."""
    import torch
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    torch.manual_seed(0)
    shape = {key: value for key, value in ENCODERS[name].items() if key != "kind"}
    common = {**shape, "vocab_size": 30522, "num_labels": 1, "initializer_range": 0.04, "pad_token_id": 0}
    if ENCODERS[name]["kind"] == "roberta":
        config = RobertaConfig(**common, max_position_embeddings=514, type_vocab_size=2)
        RobertaForSequenceClassification(config).save_pretrained(folder)
    else:  # the shape of microsoft/deberta-v3: its configuration's values
        config = DebertaV2Config(
            **common, relative_attention=True, position_buckets=256, max_relative_positions=-1,
            norm_rel_ebd="layer_norm", pos_att_type=["p2c", "c2p"], share_att_key=True,
            position_biased_input=False, type_vocab_size=0, max_position_embeddings=512,
        )  # fmt: skip
        DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    return _with_tokenizer(folder)


def decoder(name: str, folder: Path, dtype: str = "float32") -> Path:
    """A Llama of the named shape with one logit and random weights; its template writes roles in words."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(**DECODERS[name], vocab_size=30522, num_labels=1, max_position_embeddings=4096,
                         pad_token_id=0, dtype=dtype)  # fmt: skip
    with _default_dtype(getattr(torch, dtype)):
        LlamaForSequenceClassification(config).save_pretrained(folder)
    template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }}\n{% endfor %}"
    return _with_tokenizer(folder, longest=4096, template=template)


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _with_tokenizer(folder: Path, longest: int = LONGEST, template: str | None = None) -> Path:
    from transformers import AutoTokenizer

    from engine.embedder import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder(), model_max_length=longest)
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def signet(folder: Path, table: pa.Table, **options: Any) -> Any:
    """Signet's scorer on a model folder: an opened scorer, and the job's parameters with it."""
    from engine import models
    from engine.scorers import open_scorer

    options = {"format": "seal_pair", "max_length": LONGEST} | options
    spec = models.resolve(str(folder), options)
    return open_scorer({"model": spec.name, "kind": spec.kind, "revision": spec.revision, **spec.params})


def tokenise(scorer: Any, table: pa.Table) -> None:
    """Let a scorer have its tokens of a table that it is to run, so that a clock sees the device alone."""
    scorer.expect(table)
    for chunk in scorer._expected[id(table)][1]:
        chunk.result()


class Loop:
    """How others score: `batch` texts at a time in the order they come, tokenised in between, one wait a batch.

    `seal`: as SEAL's code does it, one by one, with autograd on and the garbage collected after every pair.
    """

    def __init__(self, folder: Path, batch: int, seal: bool = False, style: str = "seal_pair", device: str = "cpu",
                 dtype: str = "float32") -> None:  # fmt: skip
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._model = model.to(device).eval()
        self._batch, self._seal, self._style, self._device = batch, seal, style, device

    def run(self, table: pa.Table) -> list[float]:
        """Rewards in the order given."""
        import torch

        from engine.models import messages, pair_texts

        rows = [(turns_from_json(prompt), response) for prompt, response in
                zip(table.column("prompt").to_pylist(), table.column("response").to_pylist())]  # fmt: skip
        found: list[float] = []
        with torch.set_grad_enabled(self._seal):
            for start in range(0, len(rows), self._batch):
                part = rows[start : start + self._batch]
                if self._style == "chat":
                    texts = [self._tokenizer.apply_chat_template(messages(*one), tokenize=False) for one in part]
                    given: tuple[Any, ...] = (texts,)
                else:
                    both = [pair_texts(*one, self._style) for one in part]
                    given = ([p[0] for p in both], [p[1] for p in both])
                inputs = self._tokenizer(*given, padding=True, truncation=True, return_tensors="pt",
                                         add_special_tokens=self._style != "chat").to(self._device)  # fmt: skip
                inputs.pop("token_type_ids" if self._style == "chat" else "", None)
                found += self._model(**inputs).logits[:, 0].float().tolist()
                if self._seal and start % 2:
                    gc.collect()
                    if self._device == "cuda":
                        torch.cuda.empty_cache()
        return found
