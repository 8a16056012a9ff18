"""What is in the store: datasets, models, labelers, taxonomies, and names resolved to ids.

Every function takes a DuckDB connection from `Store.read()` and reads the last committed state.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import duckdb

from engine import tallies
from engine.records import SignetError, short_revision


@dataclass(frozen=True, slots=True)
class Dataset:
    """A row of the datasets table. `kind`: pairs or entries. `report` is what the import said."""

    dataset_id: int
    name: str
    kind: str
    source: str
    shape: str
    note: str
    created_at: str
    n_pairs: int
    n_entries: int
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """A reward model with the number of entries of the dataset asked about that it has scored.

    `label` is the name, made unique by the revision where two models share a name.
    """

    model_id: int
    name: str
    label: str
    kind: str
    revision: str
    params: dict[str, Any]
    n_rewards: int
    n_truncated: int

    @property
    def short_revision(self) -> str:
        """The revision as captions tell it."""
        return short_revision(self.revision)


@dataclass(frozen=True, slots=True)
class Labeler:
    """A labeler of one taxonomy version, with how many entries of the dataset asked about it has labelled."""

    labeler_id: int
    name: str
    label: str
    kind: str
    revision: str
    taxonomy: str
    taxonomy_id: int
    n_entries: int
    n_labels: int


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A stored feature (column) of a taxonomy version."""

    feature_id: int
    name: str
    title: str
    kind: str
    role: str
    scope: str
    classes: tuple[str, ...]


def datasets(con: duckdb.DuckDBPyConnection) -> list[Dataset]:
    """Every dataset, newest last."""
    rows = con.execute("""
        SELECT dataset_id, name, kind, source, shape, note, strftime(created_at, '%Y-%m-%d %H:%M'), n_pairs, n_entries,
            report
        FROM datasets ORDER BY dataset_id
    """).fetchall()
    return [Dataset(*(*row[:9], json.loads(row[9]))) for row in rows]


def dataset(con: duckdb.DuckDBPyConnection, name: str) -> Dataset:
    """The dataset of that name; SignetError lists the ones there are."""
    found = datasets(con)
    for one in found:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in found) or "none yet (import one first)"
    raise SignetError(f"No dataset {name!r}; there are: {known}.")


# The entries of a dataset ($dataset), and a rewriter's (?) latest rewrite of every entry, as tables in a query.
ENTRIES_OF = tallies.ENTRIES_OF
LATEST_REWRITES = """(
    SELECT entry_id, arg_max(rewritten_id, (created_at, rewritten_id)) AS rewritten_id,
        arg_max(similarity, (created_at, rewritten_id)) AS similarity
    FROM rewrites WHERE rewriter = ? GROUP BY entry_id)"""


def models(con: duckdb.DuckDBPyConnection, dataset_id: int) -> list[Model]:
    """Reward models with at least one reward for an entry of the dataset, oldest first."""
    counted = tallies.rewards(con, dataset_id)
    rows = con.execute(
        "SELECT model_id, name, kind, revision, params FROM models WHERE model_id IN (SELECT unnest(?::INTEGER[])) "
        "ORDER BY model_id",
        [list(counted)],
    ).fetchall()
    names = Counter(str(row[1]) for row in rows)
    return [
        Model(i, name, name if names[name] == 1 else f"{name} #{i}", kind, revision, json.loads(params), *counted[i])
        for i, name, kind, revision, params in rows
    ]


def model(con: duckdb.DuckDBPyConnection, dataset_id: int, name: str) -> Model:
    """The model of that label or name (the newest of the name) with rewards in the dataset."""
    found = models(con, dataset_id)
    for one in reversed(found):
        if name in (one.label, one.name):
            return one
    known = ", ".join(one.label for one in found) or "none"
    raise SignetError(f"No rewards by {name!r} for this dataset (there are: {known}); score it first.")


def labelers(con: duckdb.DuckDBPyConnection, dataset_id: int) -> list[Labeler]:
    """Labelers, one a taxonomy version, with at least one label for an entry of the dataset."""
    counted = tallies.labels(con, dataset_id)
    rows = con.execute(
        """
        WITH counted AS (
            SELECT unnest($labelers::INTEGER[]) AS labeler_id, unnest($features::INTEGER[]) AS feature_id,
                unnest($counts::BIGINT[]) AS n)
        SELECT b.labeler_id, b.name, b.kind, b.revision, t.name, t.taxonomy_id, max(n), sum(n)::BIGINT,
            count(*) OVER (PARTITION BY b.name, t.name)
        FROM counted c JOIN features f USING (feature_id) JOIN labelers b USING (labeler_id)
        JOIN taxonomies t USING (taxonomy_id)
        GROUP BY b.labeler_id, b.name, b.kind, b.revision, t.name, t.taxonomy_id
        ORDER BY t.taxonomy_id, b.labeler_id
        """,
        {
            "labelers": [labeler for labeler, _ in counted],
            "features": [feature for _, feature in counted],
            "counts": list(counted.values()),
        },
    ).fetchall()
    return [
        Labeler(i, name, name if same == 1 else f"{name} #{i}.{t}", kind, revision, taxonomy, t, n, total)
        for i, name, kind, revision, taxonomy, t, n, total, same in rows
    ]


def labeler(con: duckdb.DuckDBPyConnection, dataset_id: int, name: str, taxonomy: str) -> Labeler:
    """The labeler of that label or name with labels of that taxonomy in the dataset (the newest)."""
    found = [one for one in labelers(con, dataset_id) if one.taxonomy == taxonomy]
    for one in reversed(found):
        if name in (one.label, one.name):
            return one
    known = ", ".join(one.label for one in found) or "none"
    raise SignetError(f"No labels of {taxonomy} by {name!r} for this dataset (there are: {known}); label it first.")


def features(con: duckdb.DuckDBPyConnection, taxonomy_id: int) -> list[FeatureRow]:
    """The stored features of a taxonomy version, in its order."""
    rows = con.execute(
        "SELECT feature_id, name, title, kind, role, scope, classes FROM features WHERE taxonomy_id = ? "
        "ORDER BY position",
        [taxonomy_id],
    ).fetchall()
    return [FeatureRow(*(*row[:6], tuple(json.loads(row[6])))) for row in rows]


def taxonomy_id(con: duckdb.DuckDBPyConnection, name: str, version: str) -> int:
    """The id of a taxonomy version in the store; SignetError when nothing was labelled by it yet."""
    row = con.execute("SELECT taxonomy_id FROM taxonomies WHERE name = ? AND version = ?", [name, version]).fetchone()
    if row is None:
        raise SignetError(f"Nothing has been labelled by this version of the taxonomy {name!r} yet.")
    return int(row[0])
