"""From logits to labels: outputs of a classifier, thresholds, temperature, abstention. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """One logit of a classifier: evidence that `column` has `value` (1 or -1; for a choice, the index of the class)."""

    column: str
    kind: str  # boolean, signed, choice; of a reward model: reward, gate
    value: float
