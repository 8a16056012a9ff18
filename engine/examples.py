"""Labelled entries to learn from: texts, labels a column, and groups that no split ever separates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.records import Turn, turns_from_json
from engine.taxonomy import Column

LABEL = "label: "  # how a column of labels is named in a table of examples
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """n entries with labels. `values` is (n, columns): booleans 0 or 1, classes by index, signed -1, 0, 1, NaN where
    nobody labelled. `groups` numbers the prompts; `domains` says where an entry comes from (dataset and subset)."""

    columns: tuple[Column, ...]
    entries: tuple[str, ...]
    prompts: tuple[tuple[Turn, ...], ...]
    responses: tuple[str, ...]
    groups: NDArray[np.int64]
    domains: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def n(self) -> int:
        """Entries."""
        return len(self.entries)

    def take(self, rows: Rows) -> Examples:
        """The examples of those row numbers, in that order."""
        return replace(
            self,
            entries=tuple(self.entries[i] for i in rows),
            prompts=tuple(self.prompts[i] for i in rows),
            responses=tuple(self.responses[i] for i in rows),
            groups=self.groups[rows],
            domains=tuple(self.domains[i] for i in rows),
            values=self.values[rows],
        )

    def known(self, column: str) -> NDArray[np.bool_]:
        """Which entries have a label of that column, (n,)."""
        return np.isfinite(self.values[:, [one.name for one in self.columns].index(column)])


def from_table(table: pa.Table, columns: Sequence[Column]) -> Examples:
    """Examples from a table of entry, prompt (JSON turns), response, group (int), domain and one float column
    `label: NAME` a column."""
    found = [table.column(LABEL + one.name).to_numpy(zero_copy_only=False).astype(float) for one in columns]
    return Examples(
        tuple(columns),
        tuple(table.column("entry").to_pylist()),
        tuple(turns_from_json(text) for text in table.column("prompt").to_pylist()),
        tuple(table.column("response").to_pylist()),
        table.column("group").to_numpy(zero_copy_only=False).astype(np.int64),
        tuple(table.column("domain").to_pylist()),
        np.stack(found, axis=1) if found else np.zeros((table.num_rows, 0)),
    )


def folds(groups: NDArray[np.int64], count: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """(train, validation) row numbers of `count` folds that never separate a group, as even as groups allow.

    Fewer folds come out where there are fewer groups; none where there is one.
    """
    numbers = np.unique(groups)
    count = min(count, len(numbers))
    order = np.random.default_rng(seed).permutation(numbers)
    fold_of = dict(zip(order.tolist(), (np.arange(len(numbers)) % max(count, 1)).tolist()))
    assigned = np.array([fold_of[one] for one in groups.tolist()], dtype=np.int64)
    for k in range(count if count > 1 else 0):
        yield np.flatnonzero(assigned != k), np.flatnonzero(assigned == k)


def held_out(groups: NDArray[np.int64], share: float, seed: int) -> tuple[Rows, Rows]:
    """(train, held out) row numbers: about that share of the groups, drawn at random, is held out, one at least."""
    numbers = np.unique(groups)
    count = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    drawn = np.random.default_rng(seed).permutation(numbers)[: max(count, 0)]
    out = np.isin(groups, drawn)
    return np.flatnonzero(~out), np.flatnonzero(out)
