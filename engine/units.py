"""What goes through a reward model as one row: units, sorted by length.

A unit is one entry, or the entries of one prompt that share their first tokens (see engine.reward_network).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.entry_tokens import Encoded

SHARED_LEAST = 16  # tokens two entries must share before it pays to compute them once


@dataclass(frozen=True, slots=True)
class Unit:
    """Entries that are computed together. `length` in tokens: the shared ones once, then each entry's own."""

    places: tuple[int, ...]
    shared: int
    length: int


def single_units(encoded: Sequence[Encoded]) -> list[Unit]:
    """Every entry by itself, longest first."""
    units = [Unit((place,), 0, len(one.ids)) for place, one in enumerate(encoded)]
    return sorted(units, key=lambda unit: -unit.length)


def shared_units(encoded: Sequence[Encoded], most: int) -> list[Unit]:
    """Entries of one prompt with the tokens that they have in common, longest first.

    A unit is at most `most` tokens long, entries that share less than SHARED_LEAST tokens stay by themselves, and
    every entry keeps at least one token of its own, at which its reward is read.
    """
    units = []
    for open_places in by_prompt(encoded):
        while open_places:
            together, shared, length = [open_places[0]], 0, len(encoded[open_places[0]].ids)
            for place in open_places[1:]:
                common = _common(encoded[together[0]].ids, encoded[place].ids, shared if len(together) > 1 else None)
                own = sum(len(encoded[p].ids) - common for p in (*together, place))
                if common >= SHARED_LEAST and common + own <= most:
                    together.append(place)
                    shared, length = common, common + own
            units.append(Unit(tuple(together), shared, length))
            open_places = [place for place in open_places if place not in together]
    return sorted(units, key=lambda unit: -unit.length)


def by_prompt(encoded: Sequence[Encoded]) -> list[list[int]]:
    """Places of the entries of every prompt."""
    groups: dict[int, list[int]] = {}
    for place, one in enumerate(encoded):
        groups.setdefault(one.group, []).append(place)
    return list(groups.values())


def _common(one: Any, other: Any, most: int | None) -> int:
    """Length of the common beginning, less than either's length and at most `most`."""
    size = min(len(one), len(other)) - 1
    size = size if most is None else min(size, most)
    if size <= 0:
        return 0
    different = np.flatnonzero(one[:size] != other[:size])
    return int(different[0]) if len(different) else size


def padded(rows: Sequence[Any], fill: int, width: int) -> Any:
    """Rows of numbers as one tensor (n, width) of int64, filled up at the right."""
    import torch

    table = np.full((len(rows), width), fill, np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)
