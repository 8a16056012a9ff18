"""Which texts go through a model together: sorted by length, cut by a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOKEN_BUDGET = {"cpu": 1024, "cuda": 65536, "mps": 16384}  # padded tokens a batch, by measurement on the first


def token_budget(device: str) -> int:
    """Padded tokens a batch may have on a device of torch's name (with or without a number)."""
    return TOKEN_BUDGET.get(device.split(":")[0], TOKEN_BUDGET["cpu"])


def token_batches(lengths: ArrayLike, budget: int) -> Iterator[NDArray[np.int64]]:
    """Places of texts of `lengths` tokens, longest first, in batches of at most `budget` padded tokens.

    A text longer than the budget is a batch of its own; among equals the order is the one given.
    """
    sizes: NDArray[Any] = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(sizes[order[start]])))
        yield order[start : start + size]
        start += size
