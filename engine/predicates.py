"""Conditions on pairs that tables by stratum and the slice search share, each with the filters that find its pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.alignment import CHOSEN, INDIFFERENT, REJECTED, Verdict, ratio_groups
from engine.catalog import Labeler
from engine.design import Array, Column, Design
from engine.filters import Filter
from engine.slices import Predicate

Mask = NDArray[np.bool_]
VERDICTS = {CHOSEN: "chosen", REJECTED: "rejected", INDIFFERENT: "indifferent"}


def _fixed(title: str, by: str, about: str, mask: Mask, *query: Filter) -> Predicate:
    return Predicate(title, by, about, lambda start, stop: mask[start:stop], tuple(one.to_text() for one in query))


def _of_sides(design: Design, column: Column, title: str, by: str, test: str, query: Filter) -> Predicate:
    known = design.known[:, column.source]

    def mask(start: int, stop: int) -> Mask:
        c, r = design.values(column, "chosen", start, stop), design.values(column, "rejected", start, stop)
        found: Mask = {
            "more": c > r, "less": c < r, "both": (c > 0) & (r > 0), "either": (c > 0) | (r > 0), "chosen": c > 0,
            "rejected": r > 0,
        }[test] & known[start:stop]  # fmt: skip
        return found

    return Predicate(title, by, f"{column.source}:{column.feature}", mask, (query.to_text(),))


def _of_column(design: Design, column: Column, labels: Labeler) -> list[Predicate]:
    base = {"taxonomy": labels.taxonomy, "labeler": labels.label, "feature": column.feature}
    if ":" in column.feature or column.scope != "response":  # a topic, or what the shared prompt is like
        by = "topic" if column.feature.startswith("topics") else "prompt"
        query = Filter.of("label", **base, side="either", value=1)
        return [_of_sides(design, column, column.title, by, "either", query)]
    if column.kind == "class":
        return [
            _of_sides(design, column, f"{side} shows {column.title}", "value", side,
                      Filter.of("label", **base, side=side, value=column.level))
            for side in ("chosen", "rejected")
        ]  # fmt: skip
    by = "value" if column.kind == "signed" else "feature"
    if column.kind != "boolean":
        words = {"more": f"{column.title} higher in chosen", "less": f"{column.title} higher in rejected"}
    else:
        words = {"more": f"{column.title} in chosen only", "less": f"{column.title} in rejected only"}
    found = [_of_sides(design, column, title, by, test, Filter.of("gap", **base, value=test))
             for test, title in words.items()]  # fmt: skip
    if column.kind == "boolean":
        query = Filter.of("label", **base, side="both", value=1)
        found.append(_of_sides(design, column, f"{column.title} in both", by, "both", query))
    return found


def of_subsets(design: Design) -> list[Predicate]:
    """One predicate a subset, where there are two or more; the 50 largest."""
    present = [code for code in range(min(len(design.subsets), 50)) if (design.subset == code).any()]
    if len(present) < 2:
        return []
    return [
        _fixed(f"subset {design.subsets[code] or '(none)'}", "subset", "subset", design.subset == code,
               Filter.of("subset", value=design.subsets[code]))
        for code in present
    ]  # fmt: skip


def of_lengths(design: Design) -> list[Predicate]:
    """By the ratio of the responses' lengths."""
    return [
        _fixed(name, "length", "length", mask, Filter.of("ratio", min=low or None, max=high if high < 1e9 else None))
        for name, low, high, mask in ratio_groups(design.chars)
    ]


def of_preference(verdict: Verdict, known: Mask, labels: Labeler, order: Sequence[str]) -> list[Predicate]:
    """By what the labeler would have chosen."""
    return [
        _fixed(f"{labels.label} prefers {name}" if value else f"{labels.label} is indifferent", "preference",
               "preference", (verdict == value) & known,
               Filter.of("verdict", taxonomy=labels.taxonomy, labeler=labels.label, order=",".join(order), value=name))
        for value, name in VERDICTS.items()
    ]  # fmt: skip


def of_labels(design: Design, labelers: Sequence[Labeler]) -> list[Predicate]:
    """Features, values and topics of every label source; numbers are left to the length groups."""
    return [
        one
        for column in design.columns
        if column.source >= 0 and column.kind not in ("numeric", "level")
        for one in _of_column(design, column, labelers[column.source])
    ]


def target_values(design: Design, targets: Sequence[Column]) -> tuple[Array, Array]:
    """(n, T) values of the targets on the chosen and on the rejected side."""
    sides = [np.column_stack([design.values(c, side) for c in targets]) for side in ("chosen", "rejected")]
    return sides[0], sides[1]
