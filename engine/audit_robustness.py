"""Robustness of reward models to rewording, on whatever rewrites the store holds: from the store to results."""

from __future__ import annotations

import math
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd

from engine import catalog, columns, design_frames, robustness
from engine.alignment import OddsModel
from engine.imprint import Imprint
from engine.intervals import interval_text, wilson

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)


@dataclass(frozen=True)
class Robustness:
    """Rewording by one rewriter. `reworded`: pairs of which a side was reworded; `similar`: of those, at or above the
    threshold; `n`: of those, scored before and after by every model; `labelled`: of those, labelled before and after.

    `changes`: alignment a model. The rest concern `model` and the labels, and are None without labels: `flips`,
    `cells`, `logit` (Eq 4), `margin` (its continuous companion), `authors`. `placebo`: flips between two labellings of
    the same unchanged texts.
    """

    rewriter: str
    threshold: float
    reworded: int
    similar: int
    n: int
    labelled: int
    changes: list[robustness.Alignment]
    by_threshold: pd.DataFrame
    similarity: pd.DataFrame
    model: str
    flips: pd.DataFrame | None
    cells: pd.DataFrame | None
    logit: OddsModel | None
    margin: Imprint | None
    authors: Imprint | None
    placebo: pd.DataFrame | None
    titles: dict[str, str]


def audit(
    con: duckdb.DuckDBPyConnection, dataset_id: int, rewriter: str, models: tuple[catalog.Model, ...],
    labels: catalog.Labeler | None = None, placebo: catalog.Labeler | None = None, threshold: float = 0.0,
    same_targets: bool = False, correction: str = "holm",
) -> Robustness:  # fmt: skip
    """What rewording does to every model, and to the first one by flips of the labels.

    `threshold`: least cosine similarity of a reworded side. `same_targets`: only pairs whose target features did not
    change, as in the paper.
    """
    sources = [columns.source_of(labels)] if labels is not None else []
    pairs = design_frames.load_reworded(con, dataset_id, rewriter, sources, models)
    similar = pairs.least_similar() >= threshold
    scored = np.all(np.isfinite(pairs.original.rewards), axis=(1, 2)) & np.isfinite(pairs.rewritten.rewards).all(
        axis=(1, 2)
    )
    here = pairs.where(similar & scored)
    changes = [
        robustness.alignment_change(m.label, here.original.rewards[:, :, k], here.rewritten.rewards[:, :, k])
        for k, m in enumerate(models)
    ]
    every = pairs.where(scored)
    curve = (
        robustness.by_threshold(every, every.original.rewards[:, :, 0], every.rewritten.rewards[:, :, 0], THRESHOLDS)
        if models else pd.DataFrame()
    )  # fmt: skip
    common = (rewriter, threshold, pairs.n, int(similar.sum()), here.n)
    model = models[0].label if models else ""
    likeness = _similarity(pairs.similarity)
    if labels is None:
        return Robustness(*common, 0, changes, curve, likeness, model, None, None, None, None, None, None, {})
    found, _ = columns.features(pairs.original, 0)
    labelled = pairs.where(similar & pairs.original.complete(found) & pairs.rewritten.complete(found))
    if same_targets:
        kept = np.ones(labelled.n, dtype=bool)
        for target in columns.targets(pairs.original, 0):
            for side in ("chosen", "rejected"):
                kept &= labelled.flip(target, side) == 0
        labelled = labelled.where(kept)
        found = [c for c in found if c.role != "target"]
    flip_table = robustness.flip_table(labelled, found)
    placebo_table = _placebo(con, dataset_id, labels, placebo) if placebo is not None else None
    titles = {c.name: c.title for c in found}
    if not models:
        return Robustness(*common, labelled.n, changes, curve, likeness, model, flip_table, None, None, None, None,
                          placebo_table, titles)  # fmt: skip
    both = labelled.where(labelled.original.complete([], [0]) & labelled.rewritten.complete([], [0]))
    before, after = both.original.rewards[:, :, 0], both.rewritten.rewards[:, :, 0]
    margins = before[:, 0] - before[:, 1]
    scale = float(margins.std(ddof=1)) if both.n > 1 else math.nan
    cells = pd.DataFrame(
        [
            {"feature": c.feature, "side": c.side, "direction": c.direction, "n": c.n, "misaligned": c.misaligned,
             "estimate": c.share.estimate, "conf_low": c.share.conf_low, "conf_high": c.share.conf_high,
             "odds_ratio": c.odds_ratio, "odds_low": c.odds_low, "odds_high": c.odds_high, "similarity": c.similarity}
            for c in robustness.cells(both, found, before, after)
        ]
    )  # fmt: skip
    return Robustness(
        *common, both.n, changes, curve, likeness, model, flip_table, cells,
        robustness.resistance_after_rewording(both, found, before, after, correction),
        robustness.margin_change(both, found, before, after, scale if scale > 0 else 1.0, correction),
        robustness.as_the_authors(both, found, before, after), placebo_table, titles,
    )  # fmt: skip


def _placebo(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labels: catalog.Labeler, again: catalog.Labeler
) -> pd.DataFrame:  # fmt: skip
    """Flips between two labellings of the same texts, both sides together: what labelling alone makes of flips."""
    design = design_frames.load(con, dataset_id, [columns.source_of(labels), columns.source_of(again)], ())
    first, _ = columns.features(design, 0)
    second = {c.feature + (c.level or ""): c for c in columns.features(design, 1)[0]}
    here = design.where(np.all(design.known, axis=1))
    rows = []
    for c in first:
        other = second.get(c.feature + (c.level or ""))
        if other is not None:
            change = np.concatenate([here.values(other, s) - here.values(c, s) for s in ("chosen", "rejected")])
            rows.append({"feature": c.name, "title": c.title, **robustness.flips(change)})
    return pd.DataFrame(rows)


def _similarity(similarity: np.ndarray, bins: int = 25) -> pd.DataFrame:
    """Histogram of cosines of reworded sides: x, x2, n, share, side."""
    known = similarity[np.isfinite(similarity)]
    if not len(known):
        return pd.DataFrame(columns=["x", "x2", "n", "share", "side"])
    low = min(float(known.min()), 0.9)
    counts, edges = np.histogram(known, bins=bins, range=(low, 1.0 + 1e-9))
    return pd.DataFrame(
        {"x": edges[:-1], "x2": edges[1:], "n": counts, "share": counts / len(known), "side": "neutral"}
    )


def placebo_labelers(found: list[catalog.Labeler], labels: catalog.Labeler) -> list[catalog.Labeler]:
    """Labelers that labelled the same taxonomy version again."""
    return [one for one in found if one.taxonomy_id == labels.taxonomy_id and one.labeler_id != labels.labeler_id]


def flip_chart(found: Robustness) -> pd.DataFrame:
    """Both sides together, a row a feature and direction, and the placebo's: feature, title, what, estimate, ..., n."""
    rows = []
    if found.flips is None:
        return pd.DataFrame()
    for feature, part in found.flips.groupby("feature", sort=False):
        n = int(part["n"].sum())
        for what in ("gained", "lost"):
            share = wilson(int(part[what].sum()), n)
            rows.append({"feature": feature, "title": part["title"].iloc[0], "what": what, "estimate": share.estimate,
                         "conf_low": share.conf_low, "conf_high": share.conf_high, "n": n})  # fmt: skip
        if found.placebo is not None and feature in set(found.placebo["feature"]):
            one = found.placebo[found.placebo["feature"] == feature].iloc[0]
            share = wilson(int(one["gained"] + one["lost"]), int(one["n"]))
            rows.append({"feature": feature, "title": one["title"], "what": "placebo, either way",
                         "estimate": share.estimate, "conf_low": share.conf_low, "conf_high": share.conf_high,
                         "n": int(one["n"])})  # fmt: skip
    frame = pd.DataFrame(rows)
    total = frame[frame["what"] != "placebo, either way"].groupby("feature")["estimate"].sum()
    order = frame["feature"].map(total).sort_values(ascending=False, kind="stable").index
    return frame.reindex(order)


def finding(found: Robustness) -> str:
    """The page's one sentence."""
    if found.n < 30:
        return f"Too few reworded pairs ({found.n}, fewer than 30) to say anything"
    parts = [
        f"{c.model}'s verdict in {interval_text(c.changed)} ({c.became_misaligned:,} fall, {c.became_aligned:,} rise)"
        for c in sorted(found.changes, key=lambda c: -c.changed.estimate)
    ]
    return f"Rewording changes {'; '.join(parts)}"
