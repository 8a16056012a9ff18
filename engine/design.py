"""The wide table behind every audit: a row a pair, both sides' features, rewards and lengths, held in packed arrays.

Discrete features of an entry are bit fields of 64-bit words (packed in SQL, `design_frames`), numeric ones are
float32, so 10 million pairs with 40 features take some 600 MB. Regressions unpack a block of rows at a time. Rows are
sorted by prompt, so that a prompt's pairs (a cluster) lie together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16
IN_MEMORY = 20_000_000  # numbers of a matrix that is worth holding (160 MB)
COMPACT = 1 << 30  # bytes of a larger one that is worth holding by columns, small whole numbers in a byte each
Array = NDArray[Any]
SIDE = {"chosen": 0, "rejected": 1}


@dataclass(frozen=True, slots=True)
class Column:
    """One regressor and where it lies: bits `shift`..`shift + bits` of word `word`, or number `word` if bits is 0.

    `kind`: boolean, ternary, signed, class, numeric. `equals`: the column is 1 where the stored code is this (a class,
    or one level of a ternary as a dummy). `low` is added to the code. `source` is the label source's position in
    `Design.known`, or -1 for what every entry has (length). `feature` and `level` name what a filter asks for.
    """

    name: str
    title: str
    kind: str
    role: str
    scope: str
    feature: str
    source: int
    word: int
    shift: int = 0
    bits: int = 0
    low: int = 0
    equals: int | None = None
    level: str | None = None
    unit: float = 1.0


@dataclass(frozen=True)
class Rows:
    """A matrix of n rows that exists a block at a time. `clusters`: nondecreasing codes, or None (rows alone).

    `columns` holds them where they are held by columns (see `held`).
    """

    names: tuple[str, ...]
    n: int
    block: Callable[[int, int], Array]
    clusters: NDArray[np.int64] | None = None
    columns: tuple[Array, ...] | None = None

    @classmethod
    def of_columns(
        cls, names: Sequence[str], n: int, columns: tuple[Array, ...], clusters: NDArray[np.int64] | None
    ) -> Rows:
        """Rows of columns in memory, of whatever numbers."""

        def block(start: int, stop: int) -> Array:
            found = np.empty((stop - start, len(columns)), order="F")
            for j, column in enumerate(columns):
                found[:, j] = column[start:stop]
            return found

        return cls(tuple(names), n, block, clusters, columns)

    @classmethod
    def of(cls, names: Sequence[str], x: Array, clusters: NDArray[np.int64] | None = None) -> Rows:
        """Rows of an array in memory; `clusters` must be sorted."""
        return cls(tuple(names), len(x), lambda start, stop: x[start:stop], clusters)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Row ranges of about BLOCK rows that never cut a cluster in two."""
        start = 0
        while start < self.n:
            stop = min(start + BLOCK, self.n)
            if self.clusters is not None and stop < self.n:
                stop = int(np.searchsorted(self.clusters, self.clusters[stop - 1], side="right"))
            yield start, stop
            start = stop

    def held(self) -> Rows:
        """The same rows in memory, so that many passes unpack them once: as they are where they are few enough for
        that, else by columns, of which a flag or a difference of flags takes a byte a row; not at all beyond COMPACT.
        """
        if self.columns is not None:
            return self
        if self.n * len(self.names) <= IN_MEMORY:
            return Rows.of(self.names, self.block(0, self.n), self.clusters)
        columns: list[Array] = [np.empty(self.n, np.int8) for _ in self.names]
        for start, stop in self.spans():
            x = self.block(start, stop)
            for j, column in enumerate(columns):
                if column.dtype == np.int8:
                    with np.errstate(invalid="ignore"):
                        whole = x[:, j].astype(np.int8)
                    if not np.array_equal(whole, x[:, j]):
                        columns[j] = column = np.concatenate([column[:start].astype(float), np.empty(self.n - start)])
                column[start:stop] = x[:, j]
            if sum(column.nbytes for column in columns) > COMPACT:
                return self
        return Rows.of_columns(self.names, self.n, tuple(columns), self.clusters)

    def keep(self, positions: Sequence[int]) -> Rows:
        """The same rows with these columns only."""
        order = list(positions)
        if self.columns is not None:
            picked = tuple(self.columns[i] for i in order)
            return Rows.of_columns([self.names[i] for i in order], self.n, picked, self.clusters)
        return replace(
            self, names=tuple(self.names[i] for i in order), block=lambda start, stop: self.block(start, stop)[:, order]
        )

    def with_intercept(self) -> Rows:
        """The same rows with a first column of ones."""
        return replace(
            self,
            columns=None,
            names=("(intercept)", *self.names),
            block=lambda start, stop: np.hstack([np.ones((stop - start, 1)), self.block(start, stop)]),
        )


def stack(columns: Sequence[Array], rows: int) -> Array:
    """Columns side by side; a matrix of `rows` without columns where there are none."""
    return np.column_stack(columns) if columns else np.empty((rows, 0))


@dataclass(frozen=True)
class Design:
    """Pairs with everything an audit regresses on, sorted by `prompt`; all arrays have a row a pair.

    words (n, 2, W) uint64 and numbers (n, 2, M) float32, side 0 chosen; known (n, S): both sides labelled completely by
    source s; rewards (n, 2, K), NaN where a model has none; chars (n, 2) characters of the responses; `subset` codes
    into `subsets`.
    """

    pair_no: NDArray[np.int64]
    prompt: NDArray[np.int64]
    subset: NDArray[np.int16]
    subsets: tuple[str, ...]
    chars: NDArray[np.int32]
    words: NDArray[np.uint64]
    numbers: NDArray[np.float32]
    known: NDArray[np.bool_]
    rewards: Array
    models: tuple[str, ...]
    columns: tuple[Column, ...]
    sources: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.pair_no)

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """Code of the prompt of every row, 0, 0, 1, 2, ..."""
        new = np.ones(self.n, dtype=np.int64)
        new[1:] = self.prompt[1:] != self.prompt[:-1]
        return np.cumsum(new) - 1

    def where(self, mask: Array) -> Design:
        """The pairs of a mask; the design itself when that is all of them."""
        if mask.all():
            return self
        names = ("pair_no", "prompt", "subset", "chars", "words", "numbers", "known", "rewards")
        return replace(self, **{name: getattr(self, name)[mask] for name in names})

    def column(self, name: str) -> Column:
        """The column of that name; KeyError if there is none."""
        for one in self.columns:
            if one.name == name:
                return one
        raise KeyError(name)

    def values(self, column: Column, side: str, start: int = 0, stop: int | None = None) -> Array:
        """A column's values on one side: float64, a row a pair."""
        s, stop = SIDE[side], self.n if stop is None else stop
        if column.bits == 0:
            return self.numbers[start:stop, s, column.word].astype(np.float64) / column.unit
        codes = self.words[start:stop, s, column.word] >> np.uint64(column.shift)
        codes &= np.uint64((1 << column.bits) - 1)
        found = codes.astype(np.float64) + column.low
        return (found == column.equals).astype(np.float64) if column.equals is not None else found

    def difference(self, column: Column, start: int = 0, stop: int | None = None) -> Array:
        """chosen minus rejected."""
        return self.values(column, "chosen", start, stop) - self.values(column, "rejected", start, stop)

    def margins(self) -> Array:
        """reward(chosen) - reward(rejected), (n, K), NaN where a reward is missing."""
        return self.rewards[:, 0] - self.rewards[:, 1]

    def complete(self, columns: Sequence[Column], models: Sequence[int] = ()) -> NDArray[np.bool_]:
        """Pairs that have every one of these columns on both sides and both rewards by these models."""
        mask = np.ones(self.n, dtype=bool)
        for source in sorted({c.source for c in columns if c.source >= 0}):
            mask &= self.known[:, source]
        for column in columns:
            if column.bits == 0:
                mask &= np.isfinite(self.numbers[:, :, column.word]).all(axis=1)
        for model in models:
            mask &= np.isfinite(self.rewards[:, :, model]).all(axis=1)
        return mask

    def differences(self, columns: Sequence[Column]) -> Rows:
        """Within-pair differences of columns, clustered by prompt: Eq 1."""

        def block(start: int, stop: int) -> Array:
            return stack([self.difference(c, start, stop) for c in columns], stop - start)

        return Rows(tuple(c.name for c in columns), self.n, block, self.clusters)

    def joint(self, columns: Sequence[Column]) -> Rows:
        """Columns of the chosen and then of the rejected side, named "name (chosen)", "name (rejected)": Eq 2, Eq 3."""

        def block(start: int, stop: int) -> Array:
            return stack([self.values(c, side, start, stop) for side in SIDE for c in columns], stop - start)

        names = tuple(f"{c.name} ({side})" for side in SIDE for c in columns)
        return Rows(names, self.n, block, self.clusters)

    def stacked(self, columns: Sequence[Column]) -> Rows:
        """All entries, each pair's chosen and then its rejected one: 2n rows clustered by prompt (pooled mode)."""

        def block(start: int, stop: int) -> Array:
            first, last = start // 2, (stop + 1) // 2
            both = np.empty((2 * (last - first), len(columns)))
            for i, c in enumerate(columns):
                both[0::2, i] = self.values(c, "chosen", first, last)
                both[1::2, i] = self.values(c, "rejected", first, last)
            return both[start - 2 * first : stop - 2 * first]

        return Rows(tuple(c.name for c in columns), 2 * self.n, block, np.repeat(self.clusters, 2))


@dataclass(frozen=True)
class Reworded:
    """Pairs before and after rewording, row by row. `similarity` (n, 2) is NaN on a side that was not reworded."""

    original: Design
    rewritten: Design
    similarity: Array

    @property
    def n(self) -> int:
        """Number of pairs of which at least one side was reworded."""
        return self.original.n

    def where(self, mask: Array) -> Reworded:
        """The pairs of a mask."""
        return Reworded(self.original.where(mask), self.rewritten.where(mask), self.similarity[mask])

    def least_similar(self) -> Array:
        """Cosine of the less similar of a pair's reworded sides."""
        return np.nanmin(self.similarity, axis=1) if self.n else np.zeros(0)

    def flip(self, column: Column, side: str, start: int = 0, stop: int | None = None) -> Array:
        """rewritten minus original on one side."""
        return self.rewritten.values(column, side, start, stop) - self.original.values(column, side, start, stop)
