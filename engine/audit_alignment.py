"""Alignment of two reward models with people and with a labeler on a dataset: from the store to results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pandas as pd

from engine import alignment, angles, catalog, columns, design_frames, imprint, predicates, slices
from engine.design import Column, Design
from engine.design_frames import WHOLE, Part
from engine.filters import Filter
from engine.imprint import Imprint
from engine.intervals import Estimate, McNemar, kappa, mcnemar, wilson
from engine.suspects import suspects

HEAT_BINS = 40


@dataclass(frozen=True)
class Preference:
    """The labeler's preference over its n judged pairs: counts, and agreement among the decisive ones.

    `conflicts`: pairs in which the order of the targets decides. `with_after`: agreement with the second model's
    preference (ties of the model left out), and Cohen's kappa of it; `test`: McNemar's, model against labeler, both
    against people.
    """

    order: tuple[str, ...]
    n: int
    chosen: int
    rejected: int
    indifferent: int
    conflicts: int
    with_people: Estimate
    with_after: Estimate
    kappa_with_after: Estimate
    after_with_people: Estimate
    test: McNemar


@dataclass(frozen=True)
class Alignment:
    """Two models on the n pairs that both have scored, of `total`; ties of the second model count as misaligned."""

    before: str
    after: str
    total: int
    n: int
    score_before: Estimate
    score_after: Estimate
    change: McNemar
    ties_before: int
    ties_after: int
    regimes: list[alignment.Regime]
    preference: Preference | None
    strata: pd.DataFrame
    heat: pd.DataFrame
    corners: pd.DataFrame
    angle: angles.Circular
    angles_by: pd.DataFrame
    angle_histogram: pd.DataFrame
    quadrants: pd.DataFrame


@dataclass(frozen=True)
class Judged:
    """A design with the labeler's verdict: `verdict` and `known` a row a pair; `order` names the targets.

    `total` counts the pairs, scored or not.
    """

    total: int
    design: Design
    labelers: tuple[catalog.Labeler, ...]
    verdict: alignment.Verdict | None
    known: alignment.Mask | None
    order: tuple[str, ...]
    conflicts: int


def _judged(
    con: duckdb.DuckDBPyConnection, dataset_id: int, models: Sequence[catalog.Model],
    labelers: tuple[catalog.Labeler, ...], order: tuple[str, ...], part: Part,
) -> Judged:  # fmt: skip
    """The pairs that every model has scored; the first labeler's targets decide its preference."""
    design = design_frames.load(con, dataset_id, [columns.source_of(one) for one in labelers], models, part)
    total = design.n
    design = design.where(np.all(np.isfinite(design.rewards), axis=(1, 2)))
    labelled = any(c.source == 0 for c in design.columns)  # the part of the dataset may hold no label at all
    targets = columns.targets(design, 0, order) if labelers and labelled else []
    if not targets:
        return Judged(total, design, labelers, None, None, (), 0)
    known = design.known[:, 0].copy()
    chosen, rejected = predicates.target_values(design, targets)
    verdict = alignment.preference(chosen, rejected)
    conflicts = alignment.conflicts(chosen[known], rejected[known])
    return Judged(total, design, labelers, verdict, known, tuple(c.feature for c in targets), conflicts)


def _all_predicates(judged: Judged) -> list[slices.Predicate]:
    design = judged.design
    found = predicates.of_subsets(design) + predicates.of_lengths(design)
    if judged.verdict is not None and judged.known is not None:
        found += predicates.of_preference(judged.verdict, judged.known, judged.labelers[0], judged.order)
    return found + predicates.of_labels(design, judged.labelers)


def _preference(judged: Judged, aligned: alignment.Mask, tied: alignment.Mask) -> Preference | None:
    verdict, known = judged.verdict, judged.known
    if verdict is None or known is None:
        return None
    counts = [int((known & (verdict == value)).sum()) for value in (1, -1, 0)]
    decisive = known & (verdict != 0)
    agrees = verdict == 1
    clear = decisive & ~tied
    same = (aligned == agrees) & clear
    n = int(decisive.sum())
    only_model, only_labeler = int((decisive & aligned & ~agrees).sum()), int((decisive & ~aligned & agrees).sum())
    return Preference(
        judged.order, int(known.sum()), counts[0], counts[1], counts[2], judged.conflicts, wilson(counts[0], n),
        wilson(int(same.sum()), int(clear.sum())),
        kappa([[int((clear & (aligned == a) & (agrees == b)).sum()) for b in (True, False)] for a in (True, False)]),
        wilson(int((decisive & aligned).sum()), n),
        mcnemar(only_model, only_labeler, n),
    )  # fmt: skip


def _heat(before: np.ndarray, after: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Margins before (x) against after (y) in SDs, binned in a square around zero; shares of the four corners."""
    if not len(before):
        return pd.DataFrame(columns=["x", "x2", "y", "y2", "n"]), pd.DataFrame(columns=["regime", "n"])
    z = [v / (v.std() or 1.0) for v in (before, after)]
    reach = float(max(np.quantile(np.abs(v), 0.998) for v in z)) or 1.0
    edges = np.linspace(-reach, reach, HEAT_BINS + 1)
    i, j = (np.clip(np.searchsorted(edges, v, side="right") - 1, 0, HEAT_BINS - 1) for v in z)
    counts = np.bincount(i * HEAT_BINS + j, minlength=HEAT_BINS**2)
    at = np.flatnonzero(counts)
    x, y = at // HEAT_BINS, at % HEAT_BINS
    frame = pd.DataFrame(
        {"x": edges[x], "x2": edges[x + 1], "y": edges[y], "y2": edges[y + 1], "n": counts[at],
         "scale_x": before.std(), "scale_y": after.std(), "reach": reach}
    )  # fmt: skip
    was, now = before > 0, after > 0
    corners = pd.DataFrame(
        [
            {"regime": name, "x": sx * reach * 0.97, "y": reach * (0.97 if sy > 0 else -0.84),  # two lines hang from it
             "align": "right" if sx > 0 else "left", "n": int(((was == (sx > 0)) & (now == (sy > 0))).sum())}
            for name, sx, sy in (("stayed aligned", 1, 1), ("became aligned", -1, 1), ("stayed misaligned", -1, -1),
                                 ("reversed", 1, -1))
        ]
    )  # fmt: skip
    corners["text"] = [f"{r.regime}\n{r.n / len(before):.1%}" for r in corners.itertuples()]
    return frame, corners


def audit(
    con: duckdb.DuckDBPyConnection, dataset_id: int, before: catalog.Model, after: catalog.Model,
    labelers: tuple[catalog.Labeler, ...] = (), order: tuple[str, ...] = (), part: Part = WHOLE,
) -> Alignment:  # fmt: skip
    """Everything the alignment page shows but regressions and searches. The first labeler gives the preference."""
    judged = _judged(con, dataset_id, (before, after), labelers, order, part)
    design = judged.design
    margins = design.margins()
    was, now = margins[:, 0] > 0, margins[:, 1] > 0
    tied = margins[:, 1] == 0
    every = _all_predicates(judged)
    frame = alignment.strata(~now, tied, [(p.by, p.title, p.mask(0, design.n)) for p in every])
    frame["query"] = [p.query for p in every]
    angle = angles.shift_angle(design.rewards[:, :, 0], design.rewards[:, :, 1])
    by = []
    for name, (a, b) in alignment.REGIMES.items():
        one = angles.circular(angle[(was == a) & (now == b)])
        by.append({"regime": name, "n": one.mean.n, "estimate": one.mean.estimate, "conf_low": one.mean.conf_low,
                   "conf_high": one.mean.conf_high, "resultant": one.resultant, "spread": one.spread,
                   "linear_mean": one.linear_mean, "linear_median": one.linear_median})  # fmt: skip
    signs = [
        angles.quadrants(design.rewards[:, :, k]).assign(model=name)
        for k, name in enumerate((before.label, after.label))
    ]
    heat, corners = _heat(margins[:, 0], margins[:, 1])
    return Alignment(
        before.label, after.label, judged.total, design.n,
        wilson(int(was.sum()), design.n), wilson(int(now.sum()), design.n),
        mcnemar(int((~was & now).sum()), int((was & ~now).sum()), design.n),
        int((margins[:, 0] == 0).sum()), int(tied.sum()),
        alignment.regimes(was, now, judged.verdict, judged.known), _preference(judged, now, tied), frame, heat, corners,
        angles.circular(angle), pd.DataFrame(by), angles.histogram(angle), pd.concat(signs, ignore_index=True),
    )  # fmt: skip


@dataclass(frozen=True)
class Resistance:
    """Eq 3 for one model: the logit, and the linear probability model that SEAL's authors ran."""

    model: str
    logit: alignment.OddsModel
    authors: Imprint
    titles: dict[str, str]
    left_out: dict[str, str]


def resistance(
    con: duckdb.DuckDBPyConnection, dataset_id: int, model: catalog.Model, labels: catalog.Labeler,
    style: catalog.Labeler | None = None, controlled: bool = True, part: Part = WHOLE, correction: str = "holm",
) -> Resistance:  # fmt: skip
    """Eq 3: 1 where the model's reward(chosen) <= reward(rejected), on both sides' features, clustered by prompt."""
    surface = labels.taxonomy == columns.SURFACE
    sources = [columns.source_of(labels)]
    if controlled and style is not None and not surface:
        sources.append(columns.source_of(style, columns.STYLE))
    design = design_frames.load(con, dataset_id, sources, (model,), part)
    found, left_out = columns.features(design, 0, prompt_too=True)
    extra = columns.controls(design, 1 if len(sources) > 1 else None) if controlled and found and not surface else []
    here = design.where(design.complete([*found, *extra], [0]))
    misaligned = (here.margins()[:, 0] <= 0).astype(float)
    fitted = alignment.odds(
        here.joint([*found, *extra]), misaligned, correction, controls=frozenset(c.name for c in extra)
    )
    authors = imprint.joint(here.joint(found), misaligned[:, None], authors=True)[0]
    return Resistance(model.label, fitted, authors, {c.name: c.title for c in [*found, *extra]}, left_out)


def find_slices(
    con: duckdb.DuckDBPyConnection, dataset_id: int, model: catalog.Model, labelers: tuple[catalog.Labeler, ...],
    order: tuple[str, ...] = (), minimum: int = slices.MINIMUM_SLICE, correction: str = "holm",
    part: Part = WHOLE,
) -> slices.Search:  # fmt: skip
    """Where the model resists most, over everything that the labelers, subsets and lengths can say about a pair.

    On the pairs that all the labelers (with any label here) have labelled: else what is labelled, not what is in it,
    would make a slice.
    """
    judged = _judged(con, dataset_id, (model,), labelers, order, part)
    design = judged.design
    labelled = [s for s in range(design.known.shape[1]) if design.known[:, s].any()]
    known = np.all(design.known[:, labelled], axis=1)
    judged = replace(
        judged, design=design.where(known), verdict=None if judged.verdict is None else judged.verdict[known],
        known=None if judged.known is None else judged.known[known],
    )  # fmt: skip
    misaligned = judged.design.margins()[:, 0] <= 0
    return slices.search(
        _all_predicates(judged), misaligned, minimum, correction, clusters=judged.design.clusters
    )  # fmt: skip


def find_suspects(
    con: duckdb.DuckDBPyConnection, dataset_id: int, models: tuple[catalog.Model, ...],
    labels: catalog.Labeler | None = None, order: tuple[str, ...] = (), most: int | None = 500, part: Part = WHOLE,
) -> tuple[pd.DataFrame, int]:  # fmt: skip
    """Suspect pairs with their reasons and review, and how many there are in all.

    Columns: pair_no, pair_id, subset, score, a margin a model, reasons, review (keep, swap, drop or empty), prompt.
    """
    judged = _judged(con, dataset_id, models, (labels,) if labels else (), order, part)
    design = judged.design
    verdict = judged.verdict if labels is not None else None
    if labels is not None and verdict is None:
        return pd.DataFrame(), 0
    frame = suspects(design.pair_no, design.margins(), [m.label for m in models], verdict, judged.known)
    count = len(frame)
    frame = frame.head(most) if most is not None else frame
    targets = columns.targets(design, 0, order) if labels is not None else []
    return _with_texts(con, dataset_id, _with_reasons(frame, design, targets, labels, [m.label for m in models])), count


def _with_reasons(
    frame: pd.DataFrame, design: Design, targets: Sequence[Column], labels: catalog.Labeler | None,
    models: Sequence[str],
) -> pd.DataFrame:  # fmt: skip
    """In words: how far every model is against the choice, and the target that decided for the labeler."""
    place = {int(no): i for i, no in enumerate(design.pair_no)} if len(frame) else {}
    values = [(c, design.values(c, "chosen"), design.values(c, "rejected")) for c in targets]
    reasons = []
    for _, row in frame.iterrows():
        parts = [f"{name} prefers the rejected answer by {-row[f'margin, {name}']:.1f} SD" for name in models]
        i = place[int(row["pair_no"])]
        for column, c, r in values:
            if c[i] != r[i] and labels is not None:
                parts.append(f"{labels.label}: {column.title} {c[i]:g} for chosen, {r[i]:g} for rejected")
                break
        reasons.append("; ".join(parts))
    return frame.assign(reasons=reasons)


def _with_texts(con: duckdb.DuckDBPyConnection, dataset_id: int, frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        return frame
    texts = con.execute(
        """
        SELECT p.pair_no, p.pair_id, p.subset, coalesce(v.verdict, '') AS review,
            left(json_extract_string(q.turns, '$[#-1][1]'), 160) AS prompt
        FROM pairs p JOIN prompts q USING (prompt_id)
        LEFT JOIN reviews v ON v.dataset_id = p.dataset_id AND v.pair_no = p.pair_no
        WHERE p.dataset_id = $d AND p.pair_no IN (SELECT unnest($pairs))""",
        {"d": dataset_id, "pairs": [int(n) for n in frame["pair_no"]]},
    ).df()
    return frame.merge(texts, on="pair_no", how="left")


def margin_filters(row: pd.Series, before: str, after: str) -> list[Filter]:
    """The pairs of one cell of the heat."""
    found = []
    for name, low, high, scale in ((before, "x", "x2", "scale_x"), (after, "y", "y2", "scale_y")):
        first, last = row[low] <= -row["reach"] * 0.999, row[high] >= row["reach"] * 0.999  # edge bins hold the rest
        span = {"min": None if first else row[low] * row[scale], "max": None if last else row[high] * row[scale]}
        found.append(Filter.of("margin", model=name, **span))
    return found


def finding(found: Alignment) -> str:
    """The page's one sentence."""
    if found.n < 30:
        return f"Too few pairs scored by both models ({found.n}, fewer than 30) to say anything"
    resists = 1 - found.score_after.estimate
    low, high = 1 - found.score_after.conf_high, 1 - found.score_after.conf_low
    text = f"{found.after} resists the preference in {resists:.1%} [{low:.1%}, {high:.1%}] of {found.n:,} pairs"
    judged = found.preference
    if judged is not None and judged.rejected >= 30:
        rows = found.strata[found.strata["by"] == "preference"].set_index("stratum")
        against = next((r for name, r in rows.iterrows() if str(name).endswith("prefers rejected")), None)
        if against is not None and not math.isnan(against["estimate"]):
            text += f", and in {against['estimate']:.1%} of the {int(against['n']):,} where the labeler does too"
    return text


def why_finding(found: Resistance) -> str:
    """The regressor whose average marginal effect is farthest from zero by its interval."""
    clear = [one for one in found.logit.odds if one.p_adjusted < 0.05]
    if not clear:
        return f"No feature goes with resistance beyond doubt (n = {found.logit.n:,})"
    top = max(clear, key=lambda one: min(abs(one.effect_low), abs(one.effect_high)))
    word = "more" if top.effect > 0 else "less"
    return (
        f"{found.model} resists {word} where the {top.side} answer is “{found.titles.get(top.feature, top.feature)}”: "
        f"{100 * top.effect:+.1f} pp [{100 * top.effect_low:+.1f}, {100 * top.effect_high:+.1f}], "
        f"odds ratio {top.odds_ratio:.2f} [{top.odds_low:.2f}, {top.odds_high:.2f}]"
    )
