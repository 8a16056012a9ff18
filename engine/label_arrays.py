"""Labels of pairs as arrays, a place a pair: what counts over all pairs and all features are made of.

One pass over the long table of labels (engine.packing), then positions instead of joins: 160,800 pairs with 31 features
take a second, where joining labels to both sides takes ten. Features are labelled on their own here: a pair counts for
a feature when both sides have it, whatever else they lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
from numpy.typing import NDArray

from engine import catalog
from engine.design_frames import WHOLE, Part
from engine.packing import Packed, pack, width

Ids = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Pairs of a dataset by their entries. `prompt` holds codes 0, 1, ...; `repeated`: some prompt has several pairs.

    `rejected` is None for single entries.
    """

    prompt: Ids
    chosen: Ids
    rejected: Ids | None
    repeated: bool

    @property
    def n(self) -> int:
        """Number of pairs (or single entries)."""
        return len(self.chosen)


def pairs(con: duckdb.DuckDBPyConnection, dataset_id: int, part: Part = WHOLE) -> Pairs:
    """The pairs of a part of a dataset."""
    condition, parameters = part.condition()
    found = con.execute(
        f"SELECT p.prompt_id, p.chosen, p.rejected FROM pairs p WHERE p.dataset_id = $dataset {condition}",
        {"dataset": dataset_id, **parameters},
    ).fetchnumpy()
    return linked(found["prompt_id"], found["chosen"], found["rejected"])


def linked(prompt: Ids, one: Ids, other: Ids) -> Pairs:
    """Pairs of entries `one` (as chosen) and `other` (as rejected, masked or all missing for single entries)."""
    prompts, codes = np.unique(np.ma.filled(prompt), return_inverse=True)
    single = bool(np.ma.getmaskarray(other).all()) if len(other) else True
    return Pairs(codes, np.ma.filled(one), None if single else np.ma.filled(other, -1), len(prompts) < len(codes))


@dataclass(frozen=True)
class Labels:
    """One labeler's labels of entries from id `low` on. `instead`: values that stand in for those of some entries."""

    features: tuple[catalog.FeatureRow, ...]
    low: int
    packed: Packed
    places: dict[int, tuple[int, int]]
    instead: dict[int, tuple[Ids, Values]] = field(default_factory=dict)

    def of(self, feature: catalog.FeatureRow) -> Values:
        """The feature's value of every entry, NaN where there is none."""
        place, shift = self.places[feature.feature_id]
        if feature.kind == "numeric":
            found = self.packed.numbers[:, place].astype(np.float64)
        else:
            bits, low = width(feature.kind, len(feature.classes))
            word = self.packed.words[:, place] >> np.uint64(shift - 1)
            codes = ((word >> np.uint64(1)) & np.uint64((1 << bits) - 1)).astype(np.float64) + low
            found = np.where(word & np.uint64(1), codes, np.nan)
        at, values = self.instead.get(feature.feature_id, (None, None))
        if at is not None:
            found[at] = values
        return found


def labels(
    con: duckdb.DuckDBPyConnection, labeler_id: int, features: Sequence[catalog.FeatureRow], of: Pairs,
    held_out: str | None = None,
) -> Labels:  # fmt: skip
    """A labeler's labels of the pairs' entries.

    `held_out`: the Parquet file of a classifier's decisions on held-out entries (entry, column, value), which stand in
    for its labels of the same entries: it has learned from those, so its labels flatter it.
    """
    ends = [of.chosen] if of.rejected is None else [of.chosen, of.rejected]
    low = int(min((e.min() for e in ends if len(e)), default=0))
    high = int(max((e.max() for e in ends if len(e)), default=0))
    packed = pack(con, labeler_id, features, low, high)
    every = {feature.feature_id: (place, shift) for feature, place, shift in packed.all_places}
    instead = _held_out(con, held_out, features, low, high) if held_out is not None else {}
    return Labels(tuple(features), low, packed, every, instead)


def _held_out(
    con: duckdb.DuckDBPyConnection, path: str, features: Sequence[catalog.FeatureRow], low: int, high: int
) -> dict[int, tuple[Ids, Values]]:
    found = {}
    for feature in features:
        rows = con.execute(
            """
            SELECT e.entry_id - ? AS at, h.value FROM read_parquet(?) h JOIN entries e ON e.hash = h.entry::UUID
            WHERE h."column" = ? AND e.entry_id BETWEEN ? AND ? AND h.value IS NOT NULL""",
            [low, path, feature.name, low, high],
        ).fetchnumpy()
        found[feature.feature_id] = (np.ma.filled(rows["at"]), np.ma.filled(rows["value"]).astype(np.float64))
    return found


def sides(of: Pairs, given: Labels, feature: catalog.FeatureRow) -> tuple[Values, Values | None]:
    """A feature on chosen and on rejected, a place a pair, NaN where it is missing."""
    values = given.of(feature)
    return values[of.chosen - given.low], None if of.rejected is None else values[of.rejected - given.low]
