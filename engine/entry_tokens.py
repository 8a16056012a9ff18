"""Entries as a reward model reads them: text by its format, token ids, and what must go when a text is too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models import dialogue_text, messages, pair_texts
from engine.records import SignetError, Turn, turns_from_json


@dataclass(frozen=True, slots=True)
class Encoded:
    """One entry: token ids (and segment types where the tokenizer has them), and its length before truncation.

    `group` is the same for entries of the same prompt within a shard; whoever puts a shard together sets it.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None
    full_length: int
    group: int = 0


class EntryTokens:
    """Turns entries into tokens. `style`: one of models.FORMATS; `longest`: the most tokens the model takes.

    Raises SignetError when a chat template refuses a dialogue. Can be sent to another process.
    """

    def __init__(self, tokenizer: Any, style: str, longest: int) -> None:
        self.tokenizer = tokenizer
        self.style = style
        self.longest = longest

    def encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Encoded]:
        """Tokens of every entry (prompt as JSON turns), in the order given."""
        known = {prompt: turns_from_json(prompt) for prompt in set(prompts)}
        dialogues = [known[prompt] for prompt in prompts]
        if self.style in ("seal_pair", "qa_pair"):
            pairs = [pair_texts(turns, response, self.style) for turns, response in zip(dialogues, responses)]
            return self._tokenised([p[0] for p in pairs], [p[1] for p in pairs], True)
        return self._tokenised(self._texts(dialogues, responses), None, self.style == "dialogue")

    def _texts(self, dialogues: Sequence[tuple[Turn, ...]], responses: Sequence[str]) -> list[str]:
        if self.style == "dialogue":
            return [
                dialogue_text([*turns, Turn("assistant", response)]).lstrip("\n")
                for turns, response in zip(dialogues, responses)
            ]
        try:
            return [
                str(self.tokenizer.apply_chat_template(messages(turns, response), tokenize=False))
                for turns, response in zip(dialogues, responses)
            ]
        except Exception as error:
            raise SignetError(f"The chat template does not accept a dialogue of this dataset: {error}") from error

    def _tokenised(self, first: list[str], second: list[str] | None, special: bool) -> list[Encoded]:
        """Token ids; what is too long loses the oldest part of the prompt, and of the answer only what must go.

        A templated text has its special tokens already: none are added twice.
        """
        if not first:
            return []
        plain = {"add_special_tokens": special, "return_attention_mask": False}
        batch = self.tokenizer(first, second, verbose=False, **plain)
        types = batch.get("token_type_ids")
        found = []
        for i, ids in enumerate(batch["input_ids"]):
            kind = types[i] if types else None
            full = len(ids)
            if full > self.longest:
                ids, kind = self._shortened(first[i], second[i] if second else None, plain)
            segments = None if kind is None else np.asarray(kind, np.int32)
            found.append(Encoded(np.asarray(ids, np.int32), segments, full))
        return found

    def _shortened(self, first: str, second: str | None, plain: dict[str, Any]) -> tuple[list[int], list[int] | None]:
        side = self.tokenizer.truncation_side
        self.tokenizer.truncation_side = "left"
        try:
            room = len(self.tokenizer(second or "", add_special_tokens=False)["input_ids"]) + 8
            how = "only_first" if second is not None and room < self.longest else "longest_first"
            one = self.tokenizer(first, second, truncation=how, max_length=self.longest, **plain)
        finally:
            self.tokenizer.truncation_side = side
        return one["input_ids"], one.get("token_type_ids")


def longest_input(tokenizer: Any, config: Any) -> int:
    """The most tokens a model takes: the smaller of what tokenizer and positions say; 4096 where neither does."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 10**9
    if "roberta" in config.model_type:
        positions -= 2  # RoBERTa's positions start after the padding id
    most = min(tokenizer.model_max_length, positions)
    return int(most) if most < 10**6 else 4096
