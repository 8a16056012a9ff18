"""Versions of taxonomies in the store: which labels belong to which, what differs, and carrying labels over."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

import duckdb

from engine.records import SignetError
from engine.store import Store, ensure_taxonomy
from engine.taxonomy import Feature, Taxonomy, parse

PEOPLE = ("person", "gold")  # kinds of labelers whose labels are worth carrying over: a model can be asked again


@dataclass(frozen=True, slots=True)
class Version:
    """A version that the store has seen. `labelers`: (name, kind, labels), most labels first."""

    taxonomy_id: int
    name: str
    version: str
    text: str
    created_at: str
    labelers: tuple[tuple[str, str, int], ...]

    @property
    def n_labels(self) -> int:
        """Labels of all labelers."""
        return sum(n for _, _, n in self.labelers)

    @property
    def by_people(self) -> int:
        """Labels by people, and adjudicated ones."""
        return sum(n for _, kind, n in self.labelers if kind in PEOPLE)


def versions(con: duckdb.DuckDBPyConnection, name: str | None = None) -> list[Version]:
    """Every stored version (of one taxonomy), newest first, with its labels."""
    counted: dict[int, list[tuple[str, str, int]]] = {}
    rows = con.execute(
        """
        WITH counted AS (SELECT feature_id, labeler_id, count(*) AS n FROM labels GROUP BY ALL)
        SELECT f.taxonomy_id, b.name, b.kind, sum(n)::BIGINT AS total
        FROM counted JOIN features f USING (feature_id) JOIN labelers b USING (labeler_id)
        GROUP BY f.taxonomy_id, b.name, b.kind ORDER BY total DESC, b.name"""
    ).fetchall()
    for taxonomy_id, labeler, kind, n in rows:
        counted.setdefault(taxonomy_id, []).append((labeler, kind, n))
    found = con.execute(
        """
        SELECT taxonomy_id, name, version, text, strftime(created_at, '%Y-%m-%d %H:%M') FROM taxonomies
        WHERE $name IS NULL OR name = $name ORDER BY taxonomy_id DESC""",
        {"name": name},
    ).fetchall()
    return [Version(*(*row, tuple(counted.get(row[0], ())))) for row in found]


def remember(store: Store, taxonomy: Taxonomy) -> int:
    """Keep a version in the store, labels or not; returns its taxonomy_id."""
    with store.transaction() as con:
        return _id(con, taxonomy)


def _id(con: duckdb.DuckDBPyConnection, taxonomy: Taxonomy) -> int:
    ensure_taxonomy(con, taxonomy)
    row = con.execute(
        "SELECT min(taxonomy_id) FROM taxonomies WHERE name = ? AND version = ?", [taxonomy.name, taxonomy.version]
    ).fetchone()
    return int(row[0]) if row else 0


def stored(con: duckdb.DuckDBPyConnection, name: str, version: str) -> Taxonomy:
    """A stored version, read; SignetError where there is none."""
    row = con.execute("SELECT text FROM taxonomies WHERE name = ? AND version = ?", [name, version]).fetchone()
    if row is None:
        raise SignetError(f"The store has no version {version} of the taxonomy {name!r}.")
    return parse(row[0], f"{name}, version {version}")


def differences(old: str, new: str) -> str:
    """The two texts' unified diff, without its head; empty where they are the same."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=2)
    return "\n".join(list(lines)[2:])


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a feature from one version to another. `what`: same, changed, new, gone."""

    feature: str
    what: str
    detail: str = ""


def changes(old: Taxonomy, new: Taxonomy) -> list[Change]:
    """A row a feature. One counts as the same while it asks for the same judgement: kind, scope, definition and classes
    with their definitions, in order. Titles, roles, groups and examples may differ."""
    before = {feature.name: feature for feature in old.features}
    found = []
    for feature in new.features:
        was = before.pop(feature.name, None)
        differs = _differs(was, feature) if was else []
        what = "new" if was is None else "changed" if differs else "same"
        found.append(Change(feature.name, what, ", ".join(differs)))
    return found + [Change(name, "gone") for name in before]


def _differs(old: Feature, new: Feature) -> list[str]:
    parts = {"kind": "kind", "scope": "scope", "definition": "definition", "classes": "classes",
             "class_definitions": "classes' definitions"}  # fmt: skip
    return [said for key, said in parts.items() if getattr(old, key) != getattr(new, key)]


def carry_over(store: Store, old: Taxonomy, new: Taxonomy) -> dict[str, int]:
    """Give people's and gold labels by the old version to the new one, for the features that are the same.

    One transaction. Labels that the new version has already stay. Returns labels, labelers, features, and `already`:
    labels that were there.
    """
    same = {change.feature for change in changes(old, new) if change.what == "same"}
    if not same:
        raise SignetError(f"No feature of {new.name} is the same in both versions: no label can be carried over.")
    keep = [c.name for c in replace(new, features=tuple(f for f in new.features if f.name in same)).columns()]
    with store.transaction() as con:
        ids = [_id(con, one) for one in (old, new)]
        con.execute(
            """
            CREATE OR REPLACE TEMP TABLE carried AS
            SELECT l.entry_id, n.feature_id, l.labeler_id, l.value, l.confidence,
                EXISTS (SELECT 1 FROM labels x WHERE x.entry_id = l.entry_id AND x.feature_id = n.feature_id
                    AND x.labeler_id = l.labeler_id) AS already
            FROM labels l JOIN features o USING (feature_id)
            JOIN features n ON n.name = o.name AND n.taxonomy_id = $new
            JOIN labelers b ON b.labeler_id = l.labeler_id
            WHERE o.taxonomy_id = $old AND o.name IN (SELECT unnest($keep::VARCHAR[]))
                AND b.kind IN (SELECT unnest($kinds::VARCHAR[]))""",
            {"old": ids[0], "new": ids[1], "keep": keep, "kinds": list(PEOPLE)},
        )
        row = con.execute(
            """SELECT count(*) FILTER (NOT already), count(DISTINCT labeler_id) FILTER (NOT already),
                count(*) FILTER (already) FROM carried"""
        ).fetchone()
        con.execute(
            "INSERT INTO labels SELECT entry_id, feature_id, labeler_id, value, confidence FROM carried "
            "WHERE NOT already ORDER BY feature_id, entry_id"
        )
        con.execute("DROP TABLE carried")
    labels, labelers, already = row or (0, 0, 0)
    return {"labels": labels, "labelers": labelers, "already": already, "features": len(same)}
