"""What annotators say together, how good each is, and which labels look wrong, with a trained classifier or without.

A classifier's chances are out of fold (held_out.parquet): it never learned from the entry it speaks of.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from engine import annotators, audit_classifiers, classifiers, decisions
from engine.annotators import Consensus, LabelErrors
from engine.audit_classifiers import Judged
from engine.audit_people import People, columns_of
from engine.records import SignetError
from engine.taxonomy import Column

FOUND = ["title", "given", "suggested", "quality", "chance", "dataset", "pair_id", "response", "entry", "column"]


def trained(home: Path, taxonomy: str) -> list[str]:
    """Classifiers of a taxonomy (any version), newest last; damaged ones left out."""
    found = []
    for name in classifiers.names(home):
        try:
            if classifiers.about(home, name).taxonomy == taxonomy:
                found.append(name)
        except SignetError:
            continue
    return found


def columns(found: People) -> list[Column]:
    """The stored columns that people were asked about and a consensus can be had of."""
    return [column for column, _ in columns_of(found) if column.kind in decisions.KINDS]


def consensus(
    con: duckdb.DuckDBPyConnection, found: People, column: str, home: Path, classifier: str | None = None
) -> Consensus:
    """What annotators say together on a stored column; labels gain entry_id, said (class name) and response, and the
    annotators' worst class its name. SignetError for a classifier that has no such column."""
    known, said = next((one, table) for one, table in columns_of(found) if one.name == column)
    names = decisions.class_names(known)
    place: dict[object, float] = {name: float(i) for i, name in enumerate(names)}
    codes = np.array([place.get(one, np.nan) for one in said.ravel()]).reshape(said.shape)
    chances = _chances(con, found, known, audit_classifiers.judged(home, classifier)) if classifier else None
    one = annotators.consensus(found.names, codes, len(names), chances)
    labels = one.labels.assign(
        entry_id=found.entries[one.labels["unit"].to_numpy(dtype=np.int64)],
        said=[names[int(label)] for label in one.labels["label"]],
    )
    texts = _texts(con, labels["entry_id"].tolist())
    worst = [None if pd.isna(place) else names[int(place)] for place in one.annotators["worst"]]
    people = one.annotators.assign(worst=worst)
    return Consensus(one.method, one.n, labels.merge(texts, on="entry_id", how="left"), people, one.reason)


def _chances(con: duckdb.DuckDBPyConnection, found: People, column: Column, judged: Judged) -> np.ndarray:
    theirs = next((one for one in judged.columns if one.name == column.name), None)
    if theirs is None or decisions.class_names(theirs) != decisions.class_names(column):
        raise SignetError(
            f"The classifier {judged.known.name!r} learned another version of {column.title!r}; choose another one."
        )
    part = judged.frame[judged.frame["column"] == column.name]
    rows = con.execute(
        "SELECT replace(hash::VARCHAR, '-', ''), entry_id FROM entries WHERE entry_id IN (SELECT unnest($e::BIGINT[]))",
        {"e": found.entries.tolist()},
    ).fetchall()
    by_hash = dict(zip(part["entry"], part["chances"]))
    given = {entry_id: by_hash[entry] for entry, entry_id in rows if entry in by_hash}
    nothing = np.full(len(decisions.class_names(column)), np.nan)
    return np.array([given.get(entry, nothing) for entry in found.entries.tolist()]).reshape(-1, len(nothing))


def _texts(con: duckdb.DuckDBPyConnection, entries: list[int]) -> pd.DataFrame:
    return con.execute(
        "SELECT entry_id, left(response, 160) AS response FROM entries WHERE entry_id IN (SELECT unnest($e::BIGINT[]))",
        {"e": entries},
    ).df()


def label_errors(con: duckdb.DuckDBPyConnection, home: Path, classifier: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels that a classifier was taught and, when it had not seen them, finds unlikely.

    Two frames. A row a column: title, n, found, share, conf_low, conf_high, reason (why not judged). A row a label,
    least likely first: title, given, suggested, quality (chance of the label), chance (of the suggestion), dataset and
    pair_id (where the entry stands), response (160 characters), entry, column.
    """
    judged = audit_classifiers.judged(home, classifier)
    summary, every = [], []
    for column in judged.columns:
        part = judged.frame[judged.frame["column"] == column.name].reset_index(drop=True)
        names, values = decisions.class_names(column), decisions.classes_of(column)
        truth = part["truth"].map({value: i for i, value in enumerate(values)}).to_numpy(dtype=float)
        one: LabelErrors = annotators.label_errors(truth, np.stack(part["chances"].to_list()))
        summary.append({
            "title": column.title, "n": one.n, "found": len(one.found), "share": one.share.estimate,
            "conf_low": one.share.conf_low, "conf_high": one.share.conf_high, "reason": one.reason,
        })  # fmt: skip
        every.append(pd.DataFrame({
            "title": column.title, "given": [names[i] for i in one.found["given"]],
            "suggested": [names[i] for i in one.found["suggested"]], "quality": one.found["quality"].astype(float),
            "chance": one.found["chance"].astype(float), "entry": part["entry"].iloc[one.found["unit"]].to_numpy(),
            "column": column.name,
        }))  # fmt: skip
    wrong = pd.concat(every, ignore_index=True) if every else pd.DataFrame(columns=FOUND)
    places = con.execute(
        """
        SELECT replace(x.hash::VARCHAR, '-', '') AS entry, left(any_value(x.response), 160) AS response,
            arg_min(d.name, (d.dataset_id, p.pair_no)) AS dataset,
            arg_min(p.pair_id, (d.dataset_id, p.pair_no)) AS pair_id
        FROM entries x LEFT JOIN (
            SELECT chosen AS entry_id, * EXCLUDE (chosen, rejected) FROM pairs UNION ALL
            SELECT rejected, * EXCLUDE (chosen, rejected) FROM pairs WHERE rejected IS NOT NULL) p USING (entry_id)
        LEFT JOIN datasets d USING (dataset_id) WHERE x.hash IN (SELECT unnest($e::VARCHAR[])::UUID) GROUP BY x.hash""",
        {"e": wrong["entry"].tolist()},
    ).df()
    wrong = wrong.merge(places, on="entry", how="left")[FOUND]
    return pd.DataFrame(summary), wrong.sort_values("quality", kind="stable", ignore_index=True)
