"""What a lower precision costs: drift of margins and flips of their sign against float32, on pairs of the job itself.

A job in bfloat16, float16 or int8 also scores its first pairs (a random sample: shards are) in float32. Flips of sign
are verdicts that would have been others. The job ends when it is certain, at 95%, that more than MOST of them are
(unless `allow_drift`); the counts go with the run, and add up over workers. Where the model does not fit into the
device's memory a second time, in float32, the test ends with the pairs that it has.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.entry_tokens import Encoded
from engine.intervals import interval_text, wilson
from engine.records import SignetError
from engine.reward_network import DoesNotFit, RewardNetwork
from engine.units import by_prompt

MOST = 0.01  # share of verdicts that a precision may change


def couples(encoded: Sequence[Encoded]) -> NDArray[np.int64]:
    """Places (n, 2) of the first two entries of every prompt that has two: the sides of a pair."""
    return np.array([places[:2] for places in by_prompt(encoded) if len(places) > 1], np.int64).reshape(-1, 2)


def compare(exact: NDArray[np.float64], rough: NDArray[np.float64]) -> dict[str, float]:
    """Counts over pairs, from margins (n,) in float32 and in the other precision; they add up over samples.

    pairs; flips: margins of another sign; drift: the sum of |difference|; margin_sq: that of squares.
    """
    return {
        "pairs": len(exact),
        "flips": int((np.sign(exact) != np.sign(rough)).sum()),
        "drift": float(np.abs(rough - exact).sum()),
        "margin_sq": float((exact**2).sum()),
    }


def verdict(counts: dict[str, float]) -> tuple[str, bool]:
    """The test's result in a sentence, and whether the precision is certainly worse than MOST."""
    n = int(counts["pairs"])
    if not n:
        return "no pair could be compared with float32", False
    flips = wilson(counts["flips"], n)
    size = (counts["margin_sq"] / n) ** 0.5
    text = (
        f"{int(counts['flips'])} of {n:,} margins change sign against float32 "
        f"({interval_text(flips)}); mean drift {counts['drift'] / n:.2g}, "
        f"{counts['drift'] / n / size if size else 0:.1%} of a typical margin ({size:.2g})"
    )
    return text, flips.conf_low > MOST


class DriftCheck:
    """Scores a job's first couples in float32, too. `params`: the job's; drift_pairs of them, allow_drift or not."""

    def __init__(self, params: dict[str, Any], device: str) -> None:
        self._params, self._device = params, device
        self._wanted = int(params["drift_pairs"])
        self._exact: RewardNetwork | None = None
        self.counts: dict[str, float] = compare(np.zeros(0), np.zeros(0))

    def look(self, encoded: Sequence[Encoded], rewards: NDArray[np.float64]) -> None:
        """Compare what is still wanted of a shard. Raises SignetError when the precision changes too many verdicts."""
        places = couples(encoded)[: self._wanted - int(self.counts["pairs"])]
        if not len(places):
            return
        try:
            if self._exact is None:
                self._exact = RewardNetwork({**self._params, "dtype": "float32"}, self._device)
            exact = self._exact.rewards([encoded[int(place)] for place in places.ravel()]).reshape(-1, 2)
        except DoesNotFit:
            self._wanted = 0
            self._drop()
            return
        rough = rewards[places]
        found = compare(exact[:, 0] - exact[:, 1], rough[:, 0] - rough[:, 1])
        self.counts = {name: self.counts[name] + found[name] for name in found}
        text, too_many = verdict(self.counts)
        if too_many and not self._params.get("allow_drift"):
            raise SignetError(
                f"In {self._params['dtype']}, {text}: more than {MOST:.0%} of verdicts. Choose --option dtype=float32, "
                "another precision, or --option allow_drift=true."
            )
        if self.counts["pairs"] >= self._wanted:
            self._drop()

    def _drop(self) -> None:
        """Give its memory to the batches; the parts of a model refer to each other, so it is collected."""
        self._exact = None
        gc.collect()
