"""Labels of one labeler as packed arrays: a place for every entry, a few bits for every discrete feature.

The long table is streamed once, in whatever order it lies, and never grouped: 300 million labels take seconds and the
memory of the result. A feature has its code's bits and, below them, one bit that says that there is a label at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
from numpy.typing import NDArray

from engine.catalog import FeatureRow

WORD_BITS = 64
BATCH = 1 << 20
Place = tuple[FeatureRow, int, int]  # the feature, its word (or number) and the shift of its code


@dataclass(frozen=True)
class Packed:
    """words (entries, W), numbers (entries, M; NaN where missing); `complete` entries have all features of `places`.

    `all_places` also names the features that were left out of `places` for want of labels.
    """

    words: NDArray[np.uint64]
    numbers: NDArray[np.float32]
    complete: NDArray[np.bool_]
    places: tuple[Place, ...]
    all_places: tuple[Place, ...] = ()


def width(kind: str, classes: int) -> tuple[int, int]:
    """Bits and lowest value of a discrete feature."""
    if kind == "boolean":
        return 1, 0
    if kind in ("ternary", "signed"):
        return 2, -1
    return max(1, (classes - 1).bit_length()), 0


def _places(features: Sequence[FeatureRow]) -> tuple[list[Place], int, int]:
    """Every feature's place, the number of words and of numbers."""
    places: list[Place] = []
    word = shift = number = 0
    for feature in features:
        if feature.kind == "numeric":
            places.append((feature, number, 0))
            number += 1
            continue
        bits, _ = width(feature.kind, len(feature.classes))
        if shift + bits + 1 > WORD_BITS:
            word, shift = word + 1, 0
        places.append((feature, word, shift + 1))
        shift += bits + 1
    return places, word + 1 if shift or word else 0, number


def pack(
    con: duckdb.DuckDBPyConnection, labeler_id: int, features: Sequence[FeatureRow], low: int, high: int
) -> Packed:  # fmt: skip
    """The labels of entries `low` to `high` (ids). Features that have labels for fewer than half as many entries as the
    best covered one are left out, so that a feature that was hardly labelled does not make every entry incomplete."""
    places, n_words, n_numbers = _places(features)
    size = high - low + 1
    words = np.zeros((size, n_words), dtype=np.uint64)
    numbers = np.full((size, n_numbers), np.nan, dtype=np.float32)
    if not features:
        return Packed(words, numbers, np.zeros(size, dtype=bool), ())
    ids = [f.feature_id for f in features]
    first, last = min(ids), max(ids)
    span = last - first + 1
    shifts, lows, homes = np.zeros(span, np.uint64), np.zeros(span), np.full(span, -1, np.int64)
    columns = np.full(span, -1, np.int64)
    for feature, place, shift in places:
        i = feature.feature_id - first
        if feature.kind == "numeric":
            columns[i] = place
        else:
            shifts[i], lows[i], homes[i] = shift, width(feature.kind, len(feature.classes))[1], place
    flat = words.reshape(-1)
    rows = con.sql(
        """
        SELECT entry_id - $low AS at, feature_id - $first AS which, value FROM labels WHERE labeler_id = $labeler
            AND feature_id BETWEEN $first AND $last AND entry_id BETWEEN $low AND $high""",
        params={"labeler": labeler_id, "first": first, "last": last, "low": low, "high": high},
    )
    for batch in rows.to_arrow_reader(BATCH):
        at, which = batch.column(0).to_numpy(), batch.column(1).to_numpy()
        values = batch.column(2).to_numpy()
        if n_numbers:
            number = columns[which]
            own = number >= 0
            numbers[at[own], number[own]] = values[own]
        home = homes[which]
        if (home < 0).any():
            own = home >= 0
            at, which, values, home = at[own], which[own], values[own], home[own]
        if len(at):
            codes = (values - lows[which]).astype(np.uint64)
            bits = ((codes << np.uint64(1)) | np.uint64(1)) << (shifts[which] - np.uint64(1))
            np.bitwise_or.at(flat, at * n_words + home, bits)
    return _covered(words, numbers, places)


def _covered(words: NDArray[np.uint64], numbers: NDArray[np.float32], places: list[Place]) -> Packed:
    """Keep the features that are labelled at all widely, and say which entries have all of them."""
    has = []
    for feature, place, shift in places:
        if feature.kind == "numeric":
            has.append(int(np.isfinite(numbers[:, place]).sum()))
        else:
            has.append(int(np.count_nonzero(words[:, place] & np.uint64(1 << (shift - 1)))))
    most = max(has, default=0)
    kept = tuple(place for place, n in zip(places, has) if most and n >= most / 2)
    complete = np.ones(len(words), dtype=bool)
    masks = np.zeros(words.shape[1], dtype=np.uint64)
    for feature, place, shift in kept:
        if feature.kind != "numeric":
            masks[place] |= np.uint64(1 << (shift - 1))
    for w, mask in enumerate(masks):
        complete &= (words[:, w] & mask) == mask
    discrete = any(feature.kind != "numeric" for feature, _, _ in kept)
    if not discrete:
        complete &= np.isfinite(numbers).any(axis=1) if numbers.shape[1] else False
    return Packed(words, numbers, complete, kept, tuple(places))
