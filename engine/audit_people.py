"""How far do the people who annotate agree, with each other, with a labeler and with gold? Connection in, results out.

Answers come from the annotations themselves, of one queue or of all queues of a taxonomy's version on a dataset, the
latest of each annotator, feature by feature. Who cannot say has not answered that feature.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from engine import agreement, annotators, answers, catalog, decisions, queues, raters, scales
from engine.alpha import Level, coded
from engine.annotations import GOLD
from engine.intervals import MINIMUM_N, Estimate, wilson
from engine.queues import Queue
from engine.raters import Several
from engine.taxonomy import Column, Feature, Taxonomy

LEVEL: dict[str, Level] = {
    "boolean": "nominal", "category": "nominal", "ternary": "ordinal", "signed": "ordinal", "numeric": "interval",
    "many_of": "masi",
}  # fmt: skip
MEASURES = {"alpha": "alpha", "ac1": "ac1", "ac2": "ac2", "fleiss": "fleiss", "observed": "observed"}
MAJORITY = "most people"
REPLICATES = 400


@dataclass(frozen=True)
class People:
    """Who said what. `tables`: by feature a table (entries, annotators) of class names, numbers or sets; None or NaN
    where one did not say. `acts`: annotator, entry_id, at, seconds: the first answer of each to each entry.

    `unsure`: by feature how often somebody could not say. `sample`: why figures do not speak for the dataset, or empty.
    """

    taxonomy: Taxonomy
    names: tuple[str, ...]
    entries: np.ndarray
    tables: dict[str, np.ndarray]
    unsure: dict[str, int]
    acts: pd.DataFrame
    sample: str


def people(con: duckdb.DuckDBPyConnection, queue: str, everything: bool = False) -> People:
    """The answers in a queue, or in all queues of its taxonomy's version on its dataset."""
    of = queues.queue(con, queue)
    taxonomy = queues.whole(con, of.taxonomy_id) if everything else queues.asked(con, of)
    rows = con.execute(
        """
        SELECT a.entry_id, a.annotator, a.answer, a.created_at, a.seconds
        FROM annotations a JOIN queues q USING (queue_id)
        WHERE q.purpose = 'annotate' AND a.undone_at IS NULL AND a.answer IS NOT NULL AND a.annotator <> $gold
            AND (q.queue_id = $queue OR $everything AND q.taxonomy_id = $taxonomy AND q.dataset_id = $dataset)
        ORDER BY a.annotation_id""",
        {"queue": of.queue_id, "everything": everything, "taxonomy": of.taxonomy_id, "dataset": of.dataset_id,
         "gold": GOLD},
    ).fetchall()  # fmt: skip
    said: dict[tuple[int, str], dict[str, Any]] = {}
    first: dict[tuple[int, str], tuple[Any, float]] = {}
    for entry, annotator, answer, at, seconds in rows:
        said.setdefault((entry, annotator), {}).update(json.loads(answer))
        first.setdefault((entry, annotator), (at, math.nan if seconds is None else seconds))
    names = tuple(sorted({annotator for _, annotator in said}))
    entries = np.array(sorted({entry for entry, _ in said}), dtype=np.int64)
    place = {entry: i for i, entry in enumerate(entries.tolist())}
    column = {name: j for j, name in enumerate(names)}
    tables, unsure = {}, {}
    for feature in taxonomy.features:
        table = np.full((len(entries), len(names)), None, dtype=object)
        unsure[feature.name] = 0
        for (entry, annotator), answer in said.items():
            if feature.name in answer:
                unsure[feature.name] += answer[feature.name] is None
                table[place[entry], column[annotator]] = _named(feature, answer[feature.name])
        tables[feature.name] = table.astype(float) if feature.kind == "numeric" else table
    acts = pd.DataFrame(
        [(who, entry, at, seconds) for (entry, who), (at, seconds) in first.items()],
        columns=["annotator", "entry_id", "at", "seconds"],
    )
    drawn = [one for one in queues.every(con, of.dataset_id) if one.taxonomy_id == of.taxonomy_id] if everything else []
    return People(taxonomy, names, entries, tables, unsure, acts, _sample(drawn or [of]))


def _named(feature: Feature, value: Any) -> Any:
    """A value as its class is called: a set for many_of, the number itself for numeric, None where nothing was said."""
    if value is None or feature.kind == "numeric":
        return value
    if feature.kind == "many_of":
        return frozenset(value)
    return answers.in_words(feature, value)


def _sample(drawn: Sequence[Queue]) -> str:
    targeted = [one for one in drawn if one.purpose == "annotate" and not one.is_random_sample]
    if not targeted:
        return ""
    how = "; ".join(dict.fromkeys(f"“{one.name}”: {queues.STRATEGIES[one.params['strategy']]}" for one in targeted))
    return (
        f"Not a random sample ({how}): these figures speak of the entries annotated. Agreement in the dataset is "
        "likely to differ, and to be higher where a queue holds what labelers doubt or differ about."
    )


def classes(feature: Feature) -> tuple[str, ...] | None:
    """The classes' names, lowest first; None for numbers and sets."""
    if feature.kind in ("numeric", "many_of"):
        return None
    return decisions.class_names(_column(feature))


def _column(feature: Feature) -> Column:
    return Column(feature.name, feature.title, feature.kind, feature.role, feature.scope, feature.classes)


def _given(feature: Feature) -> tuple[str, ...] | None:
    """Classes that count whether seen or not: those of yes and no, and of signs."""
    return None if feature.kind == "category" else classes(feature)


# --- features -------------------------------------------------------------------------------------------------------


def features(found: People) -> list[Several]:
    """Agreement on every feature, in the taxonomy's order; `feature` is its name."""
    return [
        raters.several(one.name, found.tables[one.name], LEVEL[one.kind], _given(one), REPLICATES)
        for one in found.taxonomy.features
    ]


def table(found: People, figures: Sequence[Several]) -> pd.DataFrame:
    """A row a feature, lowest alpha first: feature, title, kind, n_raters, n_units, n_ratings, unsure, each measure
    with _low and _high, and means (what alpha means in words, or why there is none)."""
    rows = []
    for one in figures:
        feature = found.taxonomy.feature(one.feature)
        row: dict[str, Any] = {
            "feature": one.feature, "title": feature.title, "kind": feature.kind, "n_raters": one.raters,
            "n_units": one.units, "n_ratings": one.ratings, "unsure": found.unsure[one.feature],
        }  # fmt: skip
        for name in MEASURES:
            _put(row, name, getattr(one, name))
        rows.append({**row, "means": one.reason or scales.meaning("alpha", one.alpha)})
    return pd.DataFrame(rows).sort_values("alpha", na_position="last", kind="stable", ignore_index=True)


def _put(row: dict[str, Any], name: str, one: Estimate) -> None:
    row |= {name: one.estimate, f"{name}_low": one.conf_low, f"{name}_high": one.conf_high}


def finding(figures: Sequence[Several], title: dict[str, str]) -> str:
    """The page's one sentence."""
    known = [one for one in figures if one.units >= MINIMUM_N and not math.isnan(one.alpha.estimate)]
    if not known:
        most = max((one.units for one in figures), default=0)
        if most >= MINIMUM_N:
            return "Everybody gave the same answer throughout, so there is nothing to tell agreement from chance by"
        return (
            f"Too few entries answered by two annotators ({most} of {MINIMUM_N}) for a verdict on how far people agree"
        )
    worst = min(known, key=lambda one: one.alpha.estimate)
    least = f"{worst.alpha.estimate:.2f} [{worst.alpha.conf_low:.2f}, {worst.alpha.conf_high:.2f}], n = {worst.units:,}"
    if len(known) == 1:
        return f"On “{title[worst.feature]}” people agree with an alpha of {least}"
    middle = float(np.median([one.alpha.estimate for one in known]))
    return (
        f"People agree with a median alpha of {middle:.2f} over {len(known)} features; least on "
        f"“{title[worst.feature]}”: {least}"
    )


def by_class(found: People, feature: str) -> pd.DataFrame:
    """One class against the rest: title, share (of the answers), specific agreement, alpha, fleiss, ac1, each with its
    interval and n. Of a many_of feature every class, of a number nothing."""
    one = found.taxonomy.feature(feature)
    answered, parts = found.tables[feature], []
    if one.kind == "many_of":
        for name in one.classes:
            held = np.array(
                [None if said is None else ("no", "yes")[name in said] for said in answered.ravel()], object
            )
            yes = raters.by_class(held.reshape(answered.shape), ["no", "yes"], ["no", name], REPLICATES)[1]
            parts.append(yes)
    elif (names := classes(one)) is not None:
        parts = raters.by_class(answered, names, names, REPLICATES)
    rows = []
    for part in parts:
        row: dict[str, Any] = {"title": part.name, "n": part.agreement.units, "share": part.share}
        row["n_specific"] = part.specific.n
        _put(row, "specific", part.specific)
        for measure in ("alpha", "fleiss", "ac1"):
            _put(row, measure, getattr(part.agreement, measure))
        rows.append(row)
    return pd.DataFrame(rows)


def by_rater(found: People, feature: str) -> pd.DataFrame:
    """Each annotator on one feature: annotator, n, shared, same (with the others), without (alpha of the others),
    change (that less alpha of all), with intervals."""
    one = found.taxonomy.feature(feature)
    rows = []
    for part in raters.by_rater(found.names, found.tables[feature], LEVEL[one.kind], _given(one), REPLICATES):
        row: dict[str, Any] = {"annotator": part.name, "n": part.n, "shared": part.shared}
        for measure in ("same", "without", "change"):
            _put(row, measure, getattr(part, measure))
        rows.append({**row, "n_without": part.without.n})
    return pd.DataFrame(rows)


def pairs(found: People, feature: str) -> pd.DataFrame:
    """Every two annotators on one feature: a, b, n, observed, kappa, weighted, ac1, alpha, with intervals."""
    one = found.taxonomy.feature(feature)
    rows = []
    for part in raters.pairs(found.names, found.tables[feature], LEVEL[one.kind], _given(one), REPLICATES):
        row: dict[str, Any] = {"a": part.a, "b": part.b, "n": part.n}
        for measure in ("observed", "kappa", "weighted", "ac1", "alpha"):
            _put(row, measure, getattr(part, measure))
        rows.append(row)
    return pd.DataFrame(rows)


# --- annotators -----------------------------------------------------------------------------------------------------


def by_annotator(found: People) -> pd.DataFrame:
    """Each annotator over all features: annotator, answers, shared (entries that others answered too), same (how like
    theirs the others' answers are, averaged over the features of an entry), seconds (median), first and second (same in
    the first and second half of their work, in their order) and change, with intervals."""
    likes = {name: _likes(found, place) for place, name in enumerate(found.names)}
    rows = []
    for name, like in likes.items():
        mine = found.acts[found.acts["annotator"] == name].sort_values("at", kind="stable")
        order = [like[entry] for entry in mine["entry_id"] if entry in like]
        moved = annotators.halves(order)
        row: dict[str, Any] = {"annotator": name, "answers": len(mine), "shared": len(order)}
        seconds = annotators.median(mine["seconds"])
        for measure, one in (("same", wilson(float(sum(order)), len(order))), ("seconds", seconds),
                             ("first", moved.first), ("second", moved.second), ("change", moved.change)):  # fmt: skip
            _put(row, measure, one)
        rows.append({**row, "n_seconds": seconds.n})
    return pd.DataFrame(rows)


def _likes(found: People, place: int) -> dict[int, float]:
    """How like an annotator's answers those of others are, by entry: the mean over the features both answered."""
    every: dict[int, list[float]] = {}
    for one in found.taxonomy.features:
        codes, seen = coded(found.tables[one.name], LEVEL[one.kind], _given(one))
        units, like = raters.with_others(codes, place, raters.likeness(seen, LEVEL[one.kind]))
        for unit, share in zip(found.entries[units].tolist(), like.tolist()):
            every.setdefault(unit, []).append(share)
    return {entry: float(np.mean(shares)) for entry, shares in every.items()}


# --- against others -------------------------------------------------------------------------------------------------


def majority(table: np.ndarray) -> tuple[np.ndarray, int]:
    """What most annotators say of each entry, (entries,) of class names, None in a tie or without an answer; ties."""
    found, ties = np.full(len(table), None, dtype=object), 0
    for unit, row in enumerate(table):
        said = pd.Series([one for one in row if one is not None], dtype=object).value_counts()
        if len(said) and (len(said) == 1 or said.iloc[0] > said.iloc[1]):
            found[unit] = said.index[0]
        else:
            ties += bool(len(said))
    return found, ties


def against(con: duckdb.DuckDBPyConnection, found: People, labeler: catalog.Labeler) -> pd.DataFrame:
    """People against a labeler (of any version of the taxonomy that has features of the same name) on stored columns.

    A row a column and who (`most people`, where a tie is left out, and each annotator): feature (column), title, who,
    n, ties, and agreement's measures with intervals. Numbers are left out.
    """
    rows = con.execute(
        """SELECT f.name, l.entry_id, l.value FROM labels l JOIN features f USING (feature_id)
        WHERE l.labeler_id = $by AND f.taxonomy_id = $taxonomy AND l.entry_id IN (SELECT unnest($entries::BIGINT[]))""",
        {"by": labeler.labeler_id, "taxonomy": labeler.taxonomy_id, "entries": found.entries.tolist()},
    ).fetchall()
    theirs: dict[str, dict[int, float]] = {}
    for name, entry, value in rows:
        theirs.setdefault(name, {})[entry] = value
    seen = {one.name: one for one in catalog.features(con, labeler.taxonomy_id)}
    compared = []
    for column, said in columns_of(found):
        given = theirs.get(column.name, {})
        if column.name not in seen or column.kind == "numeric":
            continue
        names = decisions.class_names(column)
        values = dict(zip(decisions.classes_of(column), names))
        if column.kind == "category":  # by name: another version may have them in another order
            values = dict(enumerate(seen[column.name].classes))
        labels = np.array([values.get(given.get(entry, math.nan)) for entry in found.entries.tolist()], dtype=object)
        most, ties = majority(said)
        for who, mine in ((MAJORITY, most), *((name, said[:, j]) for j, name in enumerate(found.names))):
            both = np.array([a is not None and b in names for a, b in zip(mine, labels)], dtype=bool)
            level: agreement.Level = "ordinal" if LEVEL[column.kind] == "ordinal" else "nominal"
            fixed = None if column.kind == "category" else names
            one = agreement.two(column.title, mine[both], labels[both], level, REPLICATES, classes=fixed)
            row = {"feature": column.name, "title": column.title, "who": who, "n": one.n}
            row["ties"] = ties if who == MAJORITY else 0
            for measure, name in agreement.MEASURES.items():
                _put(row, measure, getattr(one, name))
            compared.append(row)
    return pd.DataFrame(compared)


def columns_of(found: People) -> list[tuple[Column, np.ndarray]]:
    """Stored columns with what people said of them, by class names; a many_of feature gives one a class."""
    columns = []
    for one in found.taxonomy.features:
        answered = found.tables[one.name]
        if one.kind != "many_of":
            columns.append((_column(one), answered))
            continue
        for name in one.classes:
            held = [None if said is None else ("no", "yes")[name in said] for said in answered.ravel()]
            column = Column(f"{one.name}: {name}", name, "boolean", one.role, one.scope, ())
            columns.append((column, np.array(held, dtype=object).reshape(answered.shape)))
    return columns


def others(con: duckdb.DuckDBPyConnection, queue: str) -> list[catalog.Labeler]:
    """Labelers with labels of the queue's taxonomy (any version) in its dataset, gold first, people left out."""
    of = queues.queue(con, queue)
    found = [
        one for one in catalog.labelers(con, of.dataset_id) if one.taxonomy == of.taxonomy and one.kind != "person"
    ]
    return sorted(found, key=lambda one: one.kind != "gold")


def persons(con: duckdb.DuckDBPyConnection, queue: str) -> dict[str, str]:
    """By annotator the label of their labeler, for links to the pairs on which two differ."""
    of = queues.queue(con, queue)
    found = catalog.labelers(con, of.dataset_id)
    return {one.name: one.label for one in found if one.kind == "person" and one.taxonomy_id == of.taxonomy_id}
