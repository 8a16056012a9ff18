"""From entries to what an encoder reads: text pairs, tokens, batches. Training and prediction share every line.

An entry is the pair (dialogue before the response, response). Where an encoder judges one value at a time (Value
FULCRA, arXiv 2311.10766), it is the pair (dialogue with the response, a sentence that defines the value). What is too
long loses the oldest part of the prompt first; of the response, only its end, and only where it alone does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.models import dialogue_text
from engine.records import Turn

CHARS = 20  # characters a token that are read at most: far more than any text has, and a bound on hostile ones
POOL = 32  # batches drawn together and sorted by length, so that they pad little and still differ every epoch
CHUNK = 512  # rows tokenised at a time


@dataclass(frozen=True)
class Encoded:
    """Tokens of rows; `types` says of which text of the pair each is, None where the encoder does not ask."""

    ids: list[np.ndarray]
    types: list[np.ndarray] | None
    truncated: int

    def lengths(self) -> np.ndarray:
        """Tokens a row, (rows,)."""
        return np.array([len(one) for one in self.ids], dtype=np.int64)


def _readable(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, become a question mark."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class _Row:
    first: str
    second: str
    response: str  # the part that is kept longest
    separate: bool  # whether the response is the second text

    def shortened(self, tokenizer: Any, longest: int, special: int) -> Any:
        """The row in at most `longest` tokens."""

        def count(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

        fits = count(self.second) + (0 if self.separate else count(self.response)) + special < longest
        first, how, side = self.first, "only_first", "left"
        if not fits and self.separate:
            first, how, side = "", "only_second", "right"
        elif not fits:
            roomy = count(self.second) + special < longest
            first, how, side = self.response, "only_first" if roomy else "longest_first", "right"
        before = tokenizer.truncation_side
        tokenizer.truncation_side = side
        try:
            return tokenizer(
                first, self.second, truncation=how, max_length=longest, return_attention_mask=False, verbose=False
            )
        finally:
            tokenizer.truncation_side = before


def encode(
    tokenizer: Any,
    prompts: Sequence[Sequence[Turn]],
    responses: Sequence[str],
    longest: int,
    sentences: Sequence[str] = (),
) -> Encoded:
    """Tokens of entries, at most `longest` a row: a row an entry, or with `sentences` one an entry and sentence.

    Rows stand by entry, then by sentence. A tokenizer that puts nothing between the two texts of a pair gets the
    speaker's tag between them.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    gap = "" if special > tokenizer.num_special_tokens_to_add(pair=False) else "\n\n"
    rows = []
    for turns, response in zip(prompts, responses):
        asked = _readable(dialogue_text(turns).strip())[-CHARS * longest :]
        said = _readable(response)[: CHARS * longest]
        tagged = f"Assistant: {said}"
        if sentences:
            rows += [_Row(f"{asked}\n\n{tagged}", gap + one, tagged, False) for one in sentences]
        else:
            rows.append(_Row(asked, gap + tagged if gap else said, said, True))
    ids: list[np.ndarray] = []
    types: list[np.ndarray] | None = None
    truncated = 0
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        found = tokenizer(
            [row.first for row in some], [row.second for row in some], return_attention_mask=False, verbose=False
        )
        kinds = found.get("token_type_ids")
        if kinds is not None and types is None:
            types = []
        for place, row in enumerate(some):
            own, kind = found["input_ids"][place], kinds[place] if kinds is not None else None
            if len(own) > longest:
                truncated += 1
                short = row.shortened(tokenizer, longest, special)
                own, kind = short["input_ids"], short.get("token_type_ids")
            ids.append(np.array(own, np.int32))
            if types is not None:
                types.append(np.array(kind, np.int32))
    return Encoded(ids, types, truncated)


def padded(encoded: Encoded, places: Sequence[int], padding: int, device: str) -> dict[str, Any]:
    """The tensors of some rows, padded at the right to the longest of them."""
    import torch

    width = max(1, *(len(encoded.ids[place]) for place in places), 1)
    ids = torch.full((len(places), width), padding, dtype=torch.long)
    mask = torch.zeros((len(places), width), dtype=torch.long)
    types = torch.zeros((len(places), width), dtype=torch.long)
    for row, place in enumerate(places):
        own = encoded.ids[place]
        ids[row, : len(own)] = torch.from_numpy(own)
        mask[row, : len(own)] = 1
        if encoded.types is not None:
            types[row, : len(own)] = torch.from_numpy(encoded.types[place])
    found = {"input_ids": ids, "attention_mask": mask} | ({} if encoded.types is None else {"token_type_ids": types})
    return {name: value.to(device) for name, value in found.items()}


def drawn(factor: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Row numbers of an epoch: each row as often as its factor says on average, floor(factor) times at least."""
    times = np.floor(factor + random.random(len(factor))).astype(np.int64)
    return np.repeat(np.arange(len(factor)), times)


def batches(rows: np.ndarray, lengths: np.ndarray, size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """The rows in random batches of `size`, each of rows of like length, from long to short."""
    rows = random.permutation(rows)
    found = []
    for start in range(0, len(rows), POOL * size):
        pool = rows[start : start + POOL * size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        found += [pool[k : k + size] for k in range(0, len(pool), size)]
    for place in random.permutation(len(found)):
        yield found[place]
