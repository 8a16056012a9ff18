"""Which sentences of a response earn its reward: what the reward loses when a sentence is left out.

For the built-in reward models, which answer at once; a larger model belongs into a job.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.records import Turn

MOST = 40  # sentences; the rest of a longer response is one piece
_END = re.compile(r"(?<=[.!?…])\s+|\n+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence and its worth: reward of the whole response minus reward without it. None where it is all there is."""

    text: str
    worth: float | None


def sentences(text: str) -> list[str]:
    """A text cut after sentence ends and at line breaks; joined, the pieces give the text back."""
    cuts = [found.end() for found in _END.finditer(text)][: MOST - 1]
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)]) if text[a:b]]


def by_sentence(model: str, prompt: Sequence[Turn], response: str) -> tuple[float, list[Piece]]:
    """The reward of a response by a built-in model, and every sentence's leave-one-out worth."""
    from engine import heads

    pieces = sentences(response)
    variants = ["".join(pieces[:i] + pieces[i + 1 :]) for i in range(len(pieces))] if len(pieces) > 1 else []
    rewards = heads.reward_model(model).score([prompt] * (len(variants) + 1), [response, *variants])
    whole = float(rewards[0])
    if not variants:
        return whole, [Piece(text, None) for text in pieces]
    return whole, [Piece(text, whole - float(r)) for text, r in zip(pieces, rewards[1:])]
