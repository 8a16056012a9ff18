"""Audits as plain JSON, by the names a user types: what the command line prints."""

from __future__ import annotations

import math
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from engine import alignment as regimes
from engine import audit_agreement, audit_alignment, audit_imprint, audit_robustness, catalog, columns, design_frames
from engine.design_frames import Part
from engine.intervals import Estimate
from engine.records import SignetError

Result = dict[str, Any]
TIDY = ["feature", "estimate", "std_error", "conf_low", "conf_high", "p_value", "p_adjusted", "n"]


def _plain(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return list(value) if isinstance(value, tuple) else value


def _rows(frame: pd.DataFrame, keep: list[str] | None = None) -> list[Result]:
    """A frame as a list of objects."""
    frame = frame[[c for c in keep if c in frame]] if keep else frame
    return [{str(k): _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _share(one: Estimate) -> list[float | None]:
    return [_plain(one.conf_low), _plain(one.conf_high)]


def _labels(con: duckdb.DuckDBPyConnection, dataset_id: int, name: str, taxonomy: str | None) -> catalog.Labeler:
    """The labeler of that name; without a taxonomy, the one whose taxonomy has target features."""
    if taxonomy is not None:
        return catalog.labeler(con, dataset_id, name, taxonomy)
    found = [b for b in catalog.labelers(con, dataset_id) if name in (b.label, b.name)]
    with_targets = [b for b in found if any(f.role == "target" for f in catalog.features(con, b.taxonomy_id))]
    if not found:
        known = ", ".join(sorted({b.label for b in catalog.labelers(con, dataset_id)})) or "none"
        raise SignetError(f"No labels by {name!r} for this dataset (there are: {known}); label it first.")
    if not with_targets:
        raise SignetError(f"No taxonomy that {name!r} labelled has target features; name one with --taxonomy.")
    return with_targets[-1]


def imprint(
    con: duckdb.DuckDBPyConnection, dataset: str, model: str, labeler: str, taxonomy: str, mode: str = "within",
    subset: str | None = None, split: str | None = None, correction: str = "holm", dummies: bool = False,
    standardised: bool = False,
) -> Result:  # fmt: skip
    """Eq 1 for one model: `coefficients` of the features alone, `controlled` with length and style held equal (within
    mode only). In units of the reward, or `standardised`: divided by `margin_sd`, so that models compare."""
    data = catalog.dataset(con, dataset)
    labels = catalog.labeler(con, data.dataset_id, labeler, taxonomy)
    one = catalog.model(con, data.dataset_id, model)
    setting = audit_imprint.Setting(
        labels, columns.style_labels(con, data.dataset_id), Part(subset, split), None, dummies, correction
    )
    found = audit_imprint.model_imprints(con, data.dataset_id, setting, (one,), mode)[0]
    if not found.plain.coefficients:
        raise SignetError(
            f"Nothing to regress: of {found.total:,} pairs {found.scored:,} are scored by {model} and "
            f"{found.labelled:,} labelled on both sides by {labeler}."
        )
    keep = [*TIDY[:1], "title", *TIDY[1:], "vif"]
    result: Result = {
        "dataset": data.name, "model": one.label, "labeler": labels.label, "taxonomy": labels.taxonomy, "mode": mode,
        "units": "SD of the margin" if standardised else "reward", "margin_sd": _plain(found.margin_sd),
        "n": found.plain.n, "clusters": found.plain.clusters,
        "total": found.total, "scored": found.scored, "labelled": found.labelled,
        "correction": "bonferroni" if mode == "pooled" else correction, "r_squared": _plain(found.plain.r_squared),
        "coefficients": _rows(found.table(controlled=False, raw=not standardised), keep), "left_out": found.left_out,
    }  # fmt: skip
    if found.controlled is not None:
        result["controls"] = list(found.control_names)
        result["controlled"] = _rows(found.table(controlled=True, raw=not standardised), keep)
    return result


def alignment(
    con: duckdb.DuckDBPyConnection, dataset: str, before: str, after: str, labeler: str | None = None,
    taxonomy: str | None = None, order: str = "", subset: str | None = None, split: str | None = None,
) -> Result:  # fmt: skip
    """Two models against people, and against a labeler where one is named: scores, ties, regimes, strata."""
    data = catalog.dataset(con, dataset)
    one, two = (catalog.model(con, data.dataset_id, name) for name in (before, after))
    labelers = (_labels(con, data.dataset_id, labeler, taxonomy),) if labeler else ()
    wanted = tuple(name.strip() for name in order.split(",") if name.strip())
    found = audit_alignment.audit(con, data.dataset_id, one, two, labelers, wanted, Part(subset, split))
    if found.n == 0:
        raise SignetError(f"No pair of {dataset} is scored by both {before} and {after}.")
    result: Result = {
        "dataset": data.name, "before": found.before, "after": found.after,
        "alignment_before": found.score_before.estimate, "alignment_before_interval": _share(found.score_before),
        "alignment_after": found.score_after.estimate, "alignment_after_interval": _share(found.score_after),
        "n": found.n, "total": found.total, "ties": found.ties_after, "ties_before": found.ties_before,
        "regimes": _rows(regimes.regime_table(found.regimes)), "strata": _rows(found.strata.drop(columns="query")),
        "angle": {"estimate": _plain(found.angle.mean.estimate), "conf_low": _plain(found.angle.mean.conf_low),
                  "conf_high": _plain(found.angle.mean.conf_high), "resultant": _plain(found.angle.resultant),
                  "linear_mean": _plain(found.angle.linear_mean), "linear_median": _plain(found.angle.linear_median)},
    }  # fmt: skip
    judged = found.preference
    if judged is not None:
        result["preference"] = {
            "order": list(judged.order), "n": judged.n, "chosen": judged.chosen, "rejected": judged.rejected,
            "indifferent": judged.indifferent, "conflicts": judged.conflicts,
            "agreement_with_people": _plain(judged.with_people.estimate),
            "agreement_with_people_interval": _share(judged.with_people),
            "agreement_with_after": _plain(judged.with_after.estimate),
            "agreement_with_after_interval": _share(judged.with_after),
            "kappa_with_after": _plain(judged.kappa_with_after.estimate),
            "kappa_with_after_interval": _share(judged.kappa_with_after),
        }  # fmt: skip
    elif labelers:
        raise SignetError(
            f"{labelers[0].taxonomy} has no target features labelled here, so {labeler} has no preference."
        )
    return result


def _every_labeler(
    con: duckdb.DuckDBPyConnection, dataset_id: int, first: catalog.Labeler | None
) -> tuple[catalog.Labeler, ...]:
    """The named labeler, then one labeler of every other taxonomy but the surface features."""
    found = [first] if first else []
    for one in sorted(catalog.labelers(con, dataset_id), key=lambda b: -b.n_entries):
        if one.taxonomy != columns.SURFACE and one.taxonomy not in {b.taxonomy for b in found}:
            found.append(one)
    return tuple(found)


def slices(
    con: duckdb.DuckDBPyConnection, dataset: str, model: str, labeler: str | None = None, taxonomy: str | None = None,
    minimum: int = 50, correction: str = "holm", subset: str | None = None, split: str | None = None,
) -> Result:  # fmt: skip
    """Where a model resists most; see engine.slices."""
    data = catalog.dataset(con, dataset)
    one = catalog.model(con, data.dataset_id, model)
    first = _labels(con, data.dataset_id, labeler, taxonomy) if labeler else None
    labelers = _every_labeler(con, data.dataset_id, first)
    found = audit_alignment.find_slices(
        con, data.dataset_id, one, labelers, (), minimum, correction, Part(subset, split)
    )
    return {
        "dataset": data.name, "model": one.label, "n": found.n, "misaligned": found.misaligned,
        "searched": found.searched, "minimum": found.minimum,
        "labelers": [f"{b.taxonomy} by {b.label}" for b in labelers], "slices": _rows(found.table()),
    }  # fmt: skip


def suspects(
    con: duckdb.DuckDBPyConnection, dataset: str, models: list[str], labeler: str | None = None,
    taxonomy: str | None = None, most: int = 100,
) -> Result:  # fmt: skip
    """Pairs that every model and the labeler would decide the other way, the most suspect first."""
    data = catalog.dataset(con, dataset)
    found = tuple(catalog.model(con, data.dataset_id, name) for name in models)
    labels = _labels(con, data.dataset_id, labeler, taxonomy) if labeler else None
    frame, count = audit_alignment.find_suspects(con, data.dataset_id, found, labels, (), most)
    return {"dataset": data.name, "models": [m.label for m in found], "labeler": labels.label if labels else None,
            "suspects": count, "pairs": _rows(frame)}  # fmt: skip


def suspect_pairs(
    con: duckdb.DuckDBPyConnection, dataset: str, models: list[str], labeler: str | None = None,
    taxonomy: str | None = None, min_score: float = 0.0, order: str = "",
) -> list[int]:  # fmt: skip
    """Numbers of the suspect pairs with at least that score: what a clean export can leave out."""
    data = catalog.dataset(con, dataset)
    found = tuple(catalog.model(con, data.dataset_id, name) for name in models)
    labels = _labels(con, data.dataset_id, labeler, taxonomy) if labeler else None
    wanted = tuple(name for name in order.split(",") if name)
    frame, _ = audit_alignment.find_suspects(con, data.dataset_id, found, labels, wanted, None)
    return [int(no) for no in frame.loc[frame["score"] >= min_score, "pair_no"]] if len(frame) else []


def agreement(
    con: duckdb.DuckDBPyConnection, dataset: str, labeler: str, other: str, taxonomy: str
) -> Result:  # fmt: skip
    """How far two labelers agree, feature by feature, joined on entries."""
    data = catalog.dataset(con, dataset)
    one, two = (catalog.labeler(con, data.dataset_id, name, taxonomy) for name in (labeler, other))
    found = audit_agreement.compare(con, data.dataset_id, one, two)
    if not found:
        raise SignetError(f"{labeler} and {other} have labelled no entry of {dataset} in common.")
    return {"dataset": data.name, "labeler": one.label, "other": two.label, "taxonomy": taxonomy,
            "features": _rows(audit_agreement.table(found))}  # fmt: skip


def sample(con: duckdb.DuckDBPyConnection, dataset: str, n: int = 5, seed: int = 0) -> Result:
    """A few entries of a dataset, drawn at random (the same ones for a seed), and how many there are."""
    data = catalog.dataset(con, dataset)
    rows = con.execute(
        f"""
        SELECT replace(x.hash::VARCHAR, '-', ''), p.turns, x.response
        FROM entries x SEMI JOIN {catalog.ENTRIES_OF} d ON d.entry_id = x.entry_id JOIN prompts p USING (prompt_id)
        ORDER BY hash(x.entry_id, $seed), x.entry_id LIMIT $n""",
        {"dataset": data.dataset_id, "seed": seed, "n": n},
    ).fetchall()
    return {"dataset": data.name, "entries": data.n_entries, "rows": [list(row) for row in rows]}


def robustness(
    con: duckdb.DuckDBPyConnection, dataset: str, models: list[str], rewriter: str | None = None,
    labeler: str | None = None, taxonomy: str | None = None, threshold: float = 0.0,
) -> Result:  # fmt: skip
    """What rewording changes: alignment a model before and after, flips of labels, Eq 4 for the first model."""
    data = catalog.dataset(con, dataset)
    known = design_frames.rewriters(con, data.dataset_id)
    if not known:
        raise SignetError(f"No answer of {dataset} has been reworded yet.")
    if rewriter is not None and rewriter not in known:
        raise SignetError(f"No rewrites by {rewriter!r}; there are: {', '.join(known)}.")
    found_models = tuple(catalog.model(con, data.dataset_id, name) for name in models)
    labels = _labels(con, data.dataset_id, labeler, taxonomy) if labeler else None
    by = rewriter or next(iter(known))
    found = audit_robustness.audit(con, data.dataset_id, by, found_models, labels, None, threshold)
    result: Result = {
        "dataset": data.name, "rewriter": by, "threshold": threshold, "reworded": found.reworded, "n": found.n,
        "labelled": found.labelled,
        "alignment": [
            {"model": a.model, "before": _plain(a.before.estimate), "after": _plain(a.after.estimate),
             "changed": _plain(a.changed.estimate), "changed_low": _plain(a.changed.conf_low),
             "changed_high": _plain(a.changed.conf_high), "became_misaligned": a.became_misaligned,
             "became_aligned": a.became_aligned, "p_value": a.test.p_value, "n": a.before.n} for a in found.changes],
    }  # fmt: skip
    if found.flips is not None:
        result["flips"] = _rows(found.flips)
    if found.logit is not None and found.margin is not None:
        result["odds"] = _rows(found.logit.table())
        result["margin_change"] = _rows(found.margin.table(), TIDY)
        result["left_out"] = found.logit.dropped
    return result
