"""Which columns of a design an audit regresses on: a labeler's features, the length and style controls, the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import duckdb
import numpy as np

from engine import catalog
from engine.design import Column, Design
from engine.design_frames import LENGTH, Source
from engine.records import SignetError

STYLE = ("has_list", "has_markdown", "asks_question")  # features of the surface taxonomy
SURFACE = "surface"


def source_of(labels: catalog.Labeler, features: tuple[str, ...] | None = None) -> Source:
    """A labeler as a source of a design."""
    return Source(labels.labeler_id, labels.taxonomy_id, f"{labels.taxonomy} by {labels.label}", features)


def style_labels(con: duckdb.DuckDBPyConnection, dataset_id: int) -> catalog.Labeler | None:
    """The rule labeler of surface features, if it has labelled this dataset."""
    found = [one for one in catalog.labelers(con, dataset_id) if one.taxonomy == SURFACE and one.kind == "rule"]
    return found[-1] if found else None


def features(
    design: Design, source: int, wanted: Sequence[str] | None = None, dummies: bool = False, prompt_too: bool = False
) -> tuple[list[Column], dict[str, str]]:
    """A source's regressors, and what was left out with the reason.

    Left out: what describes the shared prompt or the whole dialogue (within a pair it varies only by noise; kept with
    `prompt_too`), classes of many-of features, and the most frequent class of a category, to which the other classes
    then compare. `dummies` puts a ternary's two levels in place of its number. Numbers are in standard deviations.
    """
    left_out: dict[str, str] = {}
    kept: list[Column] = []
    for column in design.columns:
        if column.source != source or (wanted is not None and column.feature not in wanted):
            continue
        if ":" in column.feature:
            continue
        graded = column.kind in ("ternary", "signed")
        if (column.kind == "level" and not dummies) or (graded and dummies):
            continue
        if column.scope != "response" and not prompt_too:
            left_out[column.name] = f"is about the {column.scope}, which both sides share"
            continue
        if column.kind == "numeric":
            spread = float(np.nanstd(design.numbers[:, :, column.word]))
            column = replace(column, unit=spread or 1.0, title=f"{column.title} (per SD)")
        kept.append(column)
    classes = [c for c in kept if c.kind == "class"]
    if classes:
        rows = np.flatnonzero(design.known[:, source])[:200_000]
        sample = design.where(np.isin(np.arange(design.n), rows)) if len(rows) < design.n else design
        counts = [sample.values(c, "chosen").sum() + sample.values(c, "rejected").sum() for c in classes]
        reference = classes[int(np.argmax(counts))]
        kept.remove(reference)
        left_out[reference.name] = "is the class that the others compare with (the most frequent one)"
    return kept, left_out


def controls(design: Design, style: int | None) -> list[Column]:
    """Length, and list, Markdown and question marks where the surface labeler is source number `style`."""
    found = [design.column(LENGTH)]
    if style is not None:
        found += [c for c in design.columns if c.source == style and c.feature in STYLE]
    return found


def targets(design: Design, source: int, order: Sequence[str] = ()) -> list[Column]:
    """The source's target features, the deciding one first. By default harmless before helpful (SEAL's code), then the
    taxonomy's order. SignetError for an order that names what is no target."""
    found = {c.feature: c for c in design.columns if c.source == source and c.role == "target" and c.kind != "level"}
    default = sorted(found, key=lambda name: (name != "harmless", list(found).index(name)))
    for name in order:
        if name not in found:
            raise SignetError(f"{name!r} is no target feature; there are {', '.join(default) or 'none'}.")
    return [found[name] for name in (*order, *(n for n in default if n not in order))]
