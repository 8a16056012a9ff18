"""The Values page as plain JSON: profile (raw beside corrected), what a preference teaches, distances to targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from engine import audit_targets, audit_values, catalog, columns, targets, value_frames, values
from engine.audit_reports import TIDY, _rows
from engine.audit_values import How
from engine.design_frames import WHOLE, Part
from engine.records import SignetError

Result = dict[str, Any]


def profile(
    con: duckdb.DuckDBPyConnection, dataset: str, labeler: str, taxonomy: str, reference: str | None = None,
    method: str = "confusion", gold_split: str | None = None, subset: str | None = None, split: str | None = None,
    correction: str = "holm",
) -> Result:  # fmt: skip
    """Levels of every value on chosen and rejected answers; with `reference`, corrected for the labeler's errors.

    `gold_split`: only reference labels of that split count as the truth.
    """
    if method not in audit_values.METHODS.values():
        raise SignetError(f"No method {method!r}; there are {', '.join(audit_values.METHODS.values())}.")
    data, part = catalog.dataset(con, dataset), Part(subset, split)
    one = catalog.labeler(con, data.dataset_id, labeler, taxonomy)
    frame = value_frames.prevalence(con, data.dataset_id, one.labeler_id, one.taxonomy_id, part)
    if frame.empty:
        raise SignetError(f"{one.label} has labelled no pair of this part of {dataset} on both sides.")
    table = values.profile_frame(values.profile(frame, correction))
    found: Result = {"dataset": dataset, "labeler": one.label, "taxonomy": taxonomy, "pairs": int(table["n"].max())}
    if reference is None:
        return found | {"values": _rows(table)}
    known = audit_values.references(con, data.dataset_id, one)
    truth = next((r for r in known if reference in (r.labeler.label, r.labeler.name)), None)
    if truth is None:
        names = ", ".join(r.labeler.name for r in known) or "none"
        raise SignetError(f"{reference!r} has labelled nothing that {one.label} has; there are: {names}.")
    how = How(method, WHOLE if gold_split is None else Part(split=gold_split))
    corrected = audit_values.corrected(con, data.dataset_id, one, truth.labeler, how, part, correction)
    return found | {
        "reference": truth.labeler.name, "method": method,
        "cautions": audit_values.cautions(one, truth, how, corrected),
        "values": _rows(audit_values.beside(table, corrected)),
    }  # fmt: skip


def taught(
    con: duckdb.DuckDBPyConnection, dataset: str, labeler: str, taxonomy: str, subset: str | None = None,
    split: str | None = None, correction: str = "holm",
) -> Result:  # fmt: skip
    """Log-odds that an answer is chosen by the values it shows, other values, length and style held equal."""
    data = catalog.dataset(con, dataset)
    one = catalog.labeler(con, data.dataset_id, labeler, taxonomy)
    style = columns.style_labels(con, data.dataset_id)
    found = audit_values.lessons(con, data.dataset_id, one, style, Part(subset, split), correction)
    table = found.table
    return {
        "dataset": dataset, "labeler": one.label, "taxonomy": taxonomy, "pairs": found.total, "n": found.fit.n,
        "controls": list(found.controls), "coefficients": _rows(table, [*TIDY, "odds_ratio", "title"]),
        "left_out": found.left_out, "finding": audit_values.lesson_finding(found),
    }  # fmt: skip


def distances(
    con: duckdb.DuckDBPyConnection, dataset: str, labeler: str, taxonomy: str, target: str,
    subset: str | None = None, split: str | None = None,
) -> Result:  # fmt: skip
    """How far both sides, the preference and the reward models are from a target vector, by name or YAML file."""
    data, part = catalog.dataset(con, dataset), Part(subset, split)
    one = catalog.labeler(con, data.dataset_id, labeler, taxonomy)
    known, _ = targets.available(taxonomy)
    wanted = next((t for t in known if t.name == target), None)
    if wanted is None and Path(target).is_file():
        wanted = targets.parse(Path(target).read_text(encoding="utf-8"), Path(target).name)
    if wanted is None:
        names = ", ".join(t.name for t in known) or "none for this taxonomy"
        raise SignetError(f"No target {target!r}; there are {names}, or name a YAML file.")
    sides = audit_targets.side_vectors(con, data.dataset_id, one, part)
    if sides is None:
        raise SignetError(f"{taxonomy} has no signed values labelled by {one.label} here; targets need those.")
    style = columns.style_labels(con, data.dataset_id)
    models = catalog.models(con, data.dataset_id)
    pushes = audit_targets.directions(con, data.dataset_id, one, style, models, part)
    found = audit_targets.distances(sides, pushes, wanted)
    return {
        "dataset": dataset, "labeler": one.label, "target": wanted.name, "source": wanted.source,
        "distances": _rows(targets.table(found)), "finding": audit_targets.target_finding(sides, found, wanted),
    }  # fmt: skip
