"""Reward models with code of their own, so that a test can kill something in the middle of a shard."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ["river", "light", "house", "never", "always", "green", "walk", "bread", "old", "quick"]
CODE = '''
import os, signal, time
from transformers import BertForSequenceClassification


class Slow(BertForSequenceClassification):
    """Takes SECONDS more for a batch; the last word of its vocabulary kills the process, if POISON."""

    def __init__(self, config):
        super().__init__(config)
        self.bert.embeddings.word_embeddings.register_forward_pre_hook(self.before)

    def before(self, module, inputs):
        time.sleep(SECONDS)
        if POISON and (inputs[0] == module.num_embeddings - 1).any():
            os.kill(os.getpid(), signal.SIGKILL)
'''


def slow_model(folder: Path, seconds: float = 0.05, poison: bool = False) -> Path:
    """A small random BERT with a word tokenizer that sleeps in every batch; needs trust_remote_code."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder.mkdir(exist_ok=True)
    more = [f"word{i}" for i in range(1000)]  # loading tries a model on random tokens, not on ones as late as zzz
    words = ["[PAD]", "[UNK]", "Human", "Assistant", ":", *WORDS, *more, "zzz"]
    vocabulary = {word: i for i, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(3)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=64, max_position_embeddings=128, num_labels=1)  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoModelForSequenceClassification": "slow.Slow"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "slow.py").write_text(CODE.replace("SECONDS)", f"{seconds})").replace("POISON", str(poison)))
    return folder
