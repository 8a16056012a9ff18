"""What the Values page says beyond plain counts, from the store to results: levels corrected for a labeler's errors,
and what a preference teaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
from scipy import stats

from engine import catalog, classifiers, columns, correction_frames, design_frames, label_arrays, prevalence
from engine.design import Array, Column
from engine.design_frames import WHOLE, Part
from engine.intervals import Z95, correct
from engine.prevalence import Corrected
from engine.settings import home
from engine.taught import Taught, taught

METHODS = {"By its errors": "confusion", "Prediction-powered": "prediction"}  # as the page names them
ASSUMES = {
    "confusion": "It errs on these texts as it does on the reference entries, value by value; those were not picked by "
    "what it says.",
    "prediction": "The reference entries are a random sample of these texts; nothing is assumed about the errors.",
}
RANKS = ("gold", "person", "reading", "lm", "classifier", "builtin")
SIGNED_CODES, SIGNED_NAMES = (-1.0, 0.0, 1.0), ("against", "absent", "shown")


@dataclass(frozen=True, slots=True)
class Reference:
    """Somebody whose labels can stand for the truth: `here` and `anywhere` count entries shared with the labeler.

    `drawn_otherwise`: those that people were given by a queue that was no random draw.
    """

    labeler: catalog.Labeler
    here: int
    anywhere: int
    drawn_otherwise: int


def references(con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler) -> list[Reference]:
    """Who else has labelled by the same taxonomy what `labeler` has: gold first, then people, readings, models.

    One that has labelled by several versions of the taxonomy comes once, by the labeler's own version if it can.
    """
    rows = correction_frames.shared_entries(con, dataset_id, labeler)
    rows = rows.assign(own=rows["taxonomy_id"] == labeler.taxonomy_id)
    rows = rows.sort_values(["own", "here", "anywhere"], ascending=False).drop_duplicates("labeler_id")
    twice = set(rows["name"][rows["name"].duplicated()])
    found = []
    for row in rows.itertuples():
        name = str(row.name)
        label = f"{name} #{row.labeler_id}" if name in twice else name
        one = catalog.Labeler(int(row.labeler_id), name, label, str(row.kind), "", labeler.taxonomy,
                              int(row.taxonomy_id), int(row.here), 0)  # fmt: skip
        found.append(Reference(one, int(row.here), int(row.anywhere), int(row.drawn_otherwise)))
    order = {kind: i for i, kind in enumerate(RANKS)}
    return sorted(found, key=lambda r: (order.get(r.labeler.kind, len(RANKS)), -r.here, -r.anywhere))


def _codes(feature: catalog.FeatureRow) -> tuple[tuple[float, ...], tuple[str, ...], Array]:
    """Label values of a feature, their names, and the functionals whose levels are wanted."""
    if feature.kind == "category":
        names = feature.classes
        return tuple(float(i) for i in range(len(names))), names, np.eye(len(names))
    if feature.kind == "boolean":
        return (0.0, 1.0), ("absent", "present"), np.array([[0.0, 1.0]])
    return SIGNED_CODES, SIGNED_NAMES, np.array([list(SIGNED_CODES)])


def _square(rows: pd.DataFrame, codes: tuple[float, ...]) -> Array:
    """Counts [truth, said] of a feature's rows of `correction_frames.confusion`."""
    found = np.zeros((len(codes), len(codes)))
    place = {code: i for i, code in enumerate(codes)}
    for truth, said, n in zip(rows["truth"], rows["said"], rows["n"]):
        if truth in place and said in place:
            found[place[truth], place[said]] += n
    return found


COLUMNS = ("feature", "class", "corrected_chosen", "corrected_chosen_low", "corrected_chosen_high",
           "corrected_rejected", "corrected_rejected_low", "corrected_rejected_high", "corrected_gap",
           "corrected_gap_low", "corrected_gap_high", "corrected_p", "corrected_p_adjusted", "gold", "weight",
           "why_not")  # fmt: skip


def _row(name: str, class_name: str | None, found: Corrected, i: int, weight: float = math.nan) -> dict[str, object]:
    row: dict[str, object] = {"feature": name, "class": class_name}
    for side in ("chosen", "rejected", "gap"):
        one = getattr(found, side)[i]
        row |= {f"corrected_{side}": one.estimate, f"corrected_{side}_low": one.conf_low,
                f"corrected_{side}_high": one.conf_high}  # fmt: skip
    gap = found.gap[i]
    towards_zero = gap.estimate - gap.conf_low if gap.estimate > 0 else gap.conf_high - gap.estimate
    error = towards_zero / Z95
    p = float(2 * stats.norm.sf(abs(gap.estimate) / error)) if error > 0 else math.nan
    return row | {"corrected_p": p, "gold": found.gold, "weight": weight, "why_not": found.reason}


@dataclass(frozen=True, slots=True)
class Topic:
    """A boolean label of the prompt or the dialogue by which pairs can be chosen; `place` is for design_frames.Part."""

    title: str
    place: tuple[int, int]
    taxonomy: str
    labeler: str
    feature: str


def topics(con: duckdb.DuckDBPyConnection, dataset_id: int) -> list[Topic]:
    """Topics (classes of many-of features) and booleans about prompt or dialogue, by everyone who labelled them."""
    found = []
    for labeler in catalog.labelers(con, dataset_id):
        for f in catalog.features(con, labeler.taxonomy_id):
            if f.kind == "boolean" and (":" in f.name or f.scope != "response"):
                title = f"{f.title} ({labeler.taxonomy} by {labeler.label})"
                place = (labeler.labeler_id, f.feature_id)
                found.append(Topic(title, place, labeler.taxonomy, labeler.label, f.name))
    return found


def held_out_of(labeler: catalog.Labeler) -> str | None:
    """The file of a trained classifier's held-out decisions, which stand in for its labels of what it learned from."""
    if labeler.kind != "classifier":
        return None
    name = labeler.name.removeprefix(classifiers.PREFIX).split(" (")[0]
    path = classifiers.folder_of(home(), name) / classifiers.HELD_OUT
    return str(path) if path.is_file() else None


def learned_from(labeler: catalog.Labeler, reference: catalog.Labeler) -> str:
    """What to know where a labeler has learned from the reference, or nothing."""
    if labeler.kind == "builtin" and reference.kind == "reading":
        return (
            "The built-in models learned from readings of hh-rlhf's split “train”: there they look better than they "
            "are. Take reference entries of another split or dataset."
        )
    if labeler.kind == "classifier":
        if held_out_of(labeler) is not None:
            return "On entries that this classifier learned from, its held-out decisions count instead of its labels."
        return "This classifier may have learned from the reference entries, and look better there than it is."
    return ""


def unseen_split(labeler: catalog.Labeler, reference: catalog.Labeler, splits: Sequence[str]) -> str:
    """The split whose reference entries the labeler has not learned from, where that is known; else nothing."""
    return (
        "test" if labeler.kind == "builtin" and reference.kind == "reading" and {"train", "test"} <= set(splits) else ""
    )


def cautions(
    labeler: catalog.Labeler, reference: Reference, how: How, found: pd.DataFrame, splits: Sequence[str] = ("train",)
) -> list[str]:
    """What the corrected figures rest on, in sentences: reference, n, assumption, and what may be wrong with them.

    `splits` are the dataset's.
    """
    gold = int(found["gold"].max()) if len(found) and found["gold"].notna().any() else 0
    unit = "pairs labelled on both sides" if how.method == "prediction" else "entries"
    said = [
        f"Corrected by the labels of {reference.labeler.label} ({reference.labeler.kind}), taken for the truth, on "
        f"{gold:,} {unit}. Assumed: {ASSUMES[how.method]}"
    ]
    learned = learned_from(labeler, reference.labeler)
    seen = how.gold is None or (how.gold.split == "train" if how.gold.split is not None else "train" in splits)
    if learned and (seen or labeler.kind != "builtin"):
        said.append(learned)
    if reference.drawn_otherwise:
        said.append(
            f"{reference.drawn_otherwise:,} reference entries came to people by a queue that was no random draw; what "
            "was picked by the labeler's own word distorts both methods."
        )
    without = int(found["why_not"].fillna("").ne("").sum()) if len(found) else 0
    if without:
        said.append(
            f"{without} of {len(found)} items cannot be corrected with these entries; the table says why."
            + (" Prediction-powered levels need no such errors." if how.method == "confusion" else "")
        )
    return said


@dataclass(frozen=True, slots=True)
class How:
    """How to correct. `method`: confusion or prediction. `gold`: the part of the dataset whose reference labels count;
    None for the whole store (confusion only). `by_side`: the labeler may err differently on chosen and on rejected."""

    method: str = "confusion"
    gold: Part | None = WHOLE
    by_side: bool = False


def corrected(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, reference: catalog.Labeler,
    how: How, part: Part = WHOLE, correction: str = "holm", effects: tuple[tuple[str, float], ...] = (),
) -> pd.DataFrame:  # fmt: skip
    """Corrected levels and gaps of every item of a part (engine.prevalence), a row an item: columns COLUMNS.

    `effects` are features' design effects. p is normal, from the interval's reach towards zero (below 0.05 where the
    interval leaves zero out), corrected over items.
    """
    if how.method == "prediction":
        rows = _by_prediction(con, dataset_id, labeler, reference, how, part)
    else:
        rows = _by_confusion(con, dataset_id, labeler, reference, how, part, dict(effects))
    frame = pd.DataFrame(rows)
    if not frame.empty:
        frame["corrected_p_adjusted"] = correct(frame["corrected_p"].tolist(), correction)
    return frame.reindex(columns=list(COLUMNS))


def _by_confusion(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, reference: catalog.Labeler, how: How,
    part: Part, effects: dict[str, float],
) -> list[dict[str, object]]:  # fmt: skip
    errors = correction_frames.confusion(
        con, labeler, reference, None if how.gold is None else dataset_id, how.gold or WHOLE, held_out_of(labeler)
    )
    of = label_arrays.pairs(con, dataset_id, part)
    features = [f for f in catalog.features(con, labeler.taxonomy_id) if f.kind != "numeric"]
    given = label_arrays.labels(con, labeler.labeler_id, features, of)
    rows = []
    for feature in features:
        codes, names, weights = _codes(feature)
        said = correction_frames.joint(of, given, feature, codes)
        if not said.any():
            continue
        mine = errors[errors["name"] == feature.name]
        tables = [mine]
        if how.by_side and how.gold is not None:
            tables = [mine[mine["side"].isin([side, "both"])] for side in ("chosen", "rejected")]
        squares = [_square(table, codes) for table in tables]
        found = prevalence.by_confusion(
            said, squares[0], names, weights, squares[1] if len(squares) > 1 else None,
            effects.get(feature.name, 1.0),
        )  # fmt: skip
        items = names if feature.kind == "category" else (None,)
        rows += [_row(feature.name, item, found, i) for i, item in enumerate(items)]
    return rows


def _by_prediction(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, reference: catalog.Labeler, how: How,
    part: Part,
) -> list[dict[str, object]]:  # fmt: skip
    rows = []
    for one in correction_frames.gold_sums(
        con, dataset_id, labeler, reference, part, how.gold or WHOLE, held_out_of(labeler)
    ):
        share = one.feature.kind in ("boolean", "category")
        chosen = prevalence.by_prediction(one.chosen, share)
        rejected = prevalence.by_prediction(one.rejected, share) if one.rejected is not None else None
        gap = prevalence.by_prediction(one.gap, False) if one.gap is not None else None
        whole = gap or chosen
        levels = Corrected(
            (chosen.value,), (rejected.value if rejected else prevalence.NOTHING,),
            (gap.value if gap else prevalence.NOTHING,), whole.gold, whole.reason,
        )  # fmt: skip
        item = None if one.class_no is None else one.feature.classes[one.class_no]
        rows.append(_row(one.feature.name, item, levels, 0, whole.weight))
    return rows


def beside(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """A profile's table (values.profile_frame) with corrected columns at its right; both keep all their items."""
    keys = ["feature", "class"]
    left = table.assign(**{"class": table["class"].fillna("")})
    right = found.assign(**{"class": found["class"].fillna("")})
    joined = left.merge(right, on=keys, how="left")
    return joined.assign(**{"class": joined["class"].replace("", None)})


@dataclass(frozen=True)
class Lessons:
    """A fitted conditional logit with titles. `total` pairs, `labelled` on both sides (and used: `fit.n`).

    `places` gives the stored feature and level of a column, `left_out` what did not enter, and why.
    """

    fit: Taught
    table: pd.DataFrame
    total: int
    left_out: dict[str, str]
    controls: tuple[str, ...]
    places: dict[str, tuple[str, str | None]]


def lessons(
    con: duckdb.DuckDBPyConnection, dataset_id: int, labeler: catalog.Labeler, style: catalog.Labeler | None = None,
    part: Part = WHOLE, correction: str = "holm",
) -> Lessons:  # fmt: skip
    """What the preference teaches of all of a labeler's features, length and (by `style`) surface style held equal."""
    sources = [columns.source_of(labeler)]
    surface = labeler.taxonomy == columns.SURFACE
    if style is not None and not surface:
        sources.append(columns.source_of(style, columns.STYLE))
    design = design_frames.load(con, dataset_id, sources, (), part)
    found, left_out = columns.features(design, 0)
    classes = [c for c in design.columns if c.source == 0 and c.kind == "class" and c.scope == "response"]
    found = [*(c for c in found if c.kind != "class"), *classes]
    left_out = {name: why for name, why in left_out.items() if name not in {c.name for c in classes}}
    extra = [] if surface or not found else columns.controls(design, 1 if len(sources) > 1 else None)
    used: list[Column] = [*found, *extra]
    here = design.where(design.complete(used))
    names = tuple(c.name for c in extra)
    fit = taught(here.differences(used), names, tuple(c.name for c in classes), correction)
    titles = {c.name: c.title for c in used}
    table = fit.table()
    table = table.assign(title=table["feature"].map(titles), control=table["feature"].isin(names))
    shown = {titles.get(name, name): why for name, why in (left_out | fit.dropped).items()}
    return Lessons(fit, table, design.n, shown, names, {c.name: (c.feature, c.level) for c in used})


def lesson_finding(found: Lessons) -> str:
    """The page's sentence: the feature whose odds stay farthest from even."""
    clear = found.table[~found.table["control"] & (found.table["p_adjusted"] < 0.05)]
    if clear.empty:
        return f"No value makes an answer likelier to be chosen beyond doubt (n = {found.fit.n:,} pairs)"
    top = clear.loc[clear[["conf_low", "conf_high"]].abs().min(axis=1).idxmax()]
    ratio, low, high = (math.exp(top[name]) for name in ("estimate", "conf_low", "conf_high"))
    return (
        f"An answer that shows “{top['title']}” has {ratio:.2f} times the odds of being chosen "
        f"[{low:.2f}, {high:.2f}], all else held equal"
    )


def lesson_rows(found: Lessons) -> pd.DataFrame:
    """The table as a chart reads it: every feature as fitted and alone (column `how`), highest first, controls last."""
    table = found.table.sort_values(["control", "estimate"], ascending=[True, False], kind="stable")
    table["title"] = table["title"].where(~table["control"], table["title"] + " (held equal)")
    alone = table[~table["control"]].assign(
        estimate=lambda t: t["alone"], conf_low=lambda t: t["alone_low"], conf_high=lambda t: t["alone_high"],
        how="alone",
    )  # fmt: skip
    return pd.concat([table.assign(how="all else held equal"), alone], ignore_index=True)
