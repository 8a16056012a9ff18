"""Labelled entries of the store as a table to train on, see `engine.examples`; and where labels to learn from are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from engine import catalog, tallies
from engine.examples import LABEL
from engine.records import SignetError

PEOPLE = "people"  # the majority of all persons who labelled an entry


@dataclass(frozen=True, slots=True)
class Teacher:
    """Whose labels of a taxonomy version could be learned from, over the whole store."""

    name: str
    kind: str
    n_entries: int


def teachers(con: duckdb.DuckDBPyConnection, taxonomy_id: int) -> list[Teacher]:
    """Labelers with labels of a taxonomy version, people and gold before models; `people` where there is a person."""
    rows = con.execute(
        """
        WITH counted AS (SELECT l.labeler_id, l.feature_id, count(*) AS n FROM labels l
            JOIN features f USING (feature_id) WHERE f.taxonomy_id = ? GROUP BY ALL),
        entries AS (SELECT labeler_id, max(n) AS n FROM counted GROUP BY labeler_id)
        SELECT b.name, b.kind, sum(n)::BIGINT FROM entries JOIN labelers b USING (labeler_id)
        GROUP BY b.name, b.kind
        ORDER BY CASE b.kind WHEN 'gold' THEN 0 WHEN 'person' THEN 1 WHEN 'reading' THEN 2 ELSE 3 END, b.name""",
        [taxonomy_id],
    ).fetchall()
    found = [Teacher(*row) for row in rows]
    persons = [one for one in found if one.kind == "person"]
    if not persons:
        return found
    row = con.execute(
        """SELECT count(DISTINCT entry_id) FROM labels l JOIN features f USING (feature_id)
            JOIN labelers b USING (labeler_id) WHERE f.taxonomy_id = ? AND b.kind = 'person'""",
        [taxonomy_id],
    ).fetchone()
    together = Teacher(PEOPLE, "people", int(row[0]) if row else 0)
    gold = [one for one in found if one.kind == "gold"]
    return [*gold, together, *[one for one in found if one.kind != "gold"]]


# What each entry's label counts as: by the first labeler in $names that judged it, or by most persons.
_FIRST = f"""
    given AS (
        SELECT l.entry_id, l.feature_id, l.value, b.name, b.kind FROM labels l JOIN labelers b USING (labeler_id)
        JOIN features f USING (feature_id) WHERE f.taxonomy_id = $taxonomy),
    votes AS (SELECT entry_id, feature_id, value, count(*) AS n FROM given WHERE kind = 'person' GROUP BY ALL),
    people AS (
        SELECT entry_id, feature_id, arg_max(value, n) AS value FROM votes v
        WHERE n = (SELECT max(n) FROM votes o WHERE o.entry_id = v.entry_id AND o.feature_id = v.feature_id)
        GROUP BY ALL HAVING count(*) = 1),
    every AS (
        SELECT entry_id, feature_id, value, list_position($names, name) AS place FROM given
        WHERE list_contains($names, name)
        UNION ALL SELECT entry_id, feature_id, value, list_position($names, '{PEOPLE}') FROM people
        WHERE list_contains($names, '{PEOPLE}')),
    first AS (SELECT entry_id, feature_id, arg_min(value, place) AS value FROM every GROUP BY ALL)"""


def examples(
    con: duckdb.DuckDBPyConnection, taxonomy_id: int, names: Sequence[str], dataset_ids: Sequence[int] = ()
) -> pa.Table:
    """Entries with labels of a taxonomy version by these labelers, in datasets (all where none is named).

    Columns as `examples.from_table` reads them, rows in a stable order. Where several labelers judged one thing, the
    first in `names` counts; `people` is the majority of all persons, nothing where they tie. The group is the prompt
    that the sides of a pair share. SignetError where nothing is found.
    """
    features = con.execute(
        "SELECT feature_id, name FROM features WHERE taxonomy_id = ? ORDER BY position", [taxonomy_id]
    ).fetchall()
    if not names:
        raise SignetError("Name at least one labeler to learn from.")
    chosen = ", ".join(
        f"max(value) FILTER (WHERE feature_id = {int(feature_id)}) AS c{i}"
        for i, (feature_id, _) in enumerate(features)
    )
    table = con.sql(
        f"""
        WITH {_FIRST},
        wide AS (SELECT entry_id, {chosen} FROM first GROUP BY entry_id),
        places AS (
            SELECT entry_id, min(prompt_id) AS prompt_id,
                arg_min(dataset || CASE WHEN subset = '' THEN '' ELSE ' / ' || subset END, dataset_id) AS domain
            FROM (
                SELECT chosen AS entry_id, p.prompt_id, d.name AS dataset, coalesce(subset, '') AS subset, d.dataset_id
                FROM pairs p JOIN datasets d USING (dataset_id)
                WHERE len($datasets) = 0 OR list_contains($datasets, d.dataset_id)
                UNION ALL
                SELECT rejected, p.prompt_id, d.name, coalesce(subset, ''), d.dataset_id
                FROM pairs p JOIN datasets d USING (dataset_id)
                WHERE rejected IS NOT NULL AND (len($datasets) = 0 OR list_contains($datasets, d.dataset_id)))
            GROUP BY entry_id)
        SELECT replace(e.hash::VARCHAR, '-', '') AS entry, q.turns AS prompt, e.response, s.prompt_id AS "group",
            s.domain, wide.* EXCLUDE (entry_id)
        FROM wide JOIN places s USING (entry_id) JOIN entries e USING (entry_id) JOIN prompts q
            ON q.prompt_id = e.prompt_id
        ORDER BY e.hash""",
        params={"taxonomy": taxonomy_id, "names": list(names), "datasets": [int(one) for one in dataset_ids]},
    ).to_arrow_table()
    if not table.num_rows:
        raise SignetError(f"No entry has a label by {', '.join(names)}; label some first (Annotate, or a labeler).")
    fixed = ["entry", "prompt", "response", "group", "domain"]
    return table.rename_columns([*fixed, *[LABEL + name for _, name in features]])


def value_counts(
    con: duckdb.DuckDBPyConnection, taxonomy_id: int, names: Sequence[str], dataset_ids: Sequence[int] = ()
) -> dict[tuple[str, float], int]:
    """Entries of `examples` by feature and value, counted in the store: no text and no entry is loaded."""
    if not names:
        return {}
    ids = [int(one) for one in dataset_ids] or [one.dataset_id for one in catalog.datasets(con)]
    here = " OR ".join(f"({tallies.within(con, one)})" for one in ids) or "false"
    labelers = con.execute(
        "SELECT labeler_id FROM labelers WHERE name IN (SELECT unnest(?::VARCHAR[]))", [list(names)]
    ).fetchall()
    parameters: dict[str, object] = {"taxonomy": taxonomy_id}
    if len(names) == 1 and names[0] != PEOPLE and len(labelers) == 1:  # nobody to choose between, nothing to group
        first = f"""first AS (
            SELECT entry_id, feature_id, value FROM labels WHERE labeler_id = {int(labelers[0][0])} AND feature_id IN (
                SELECT feature_id FROM features WHERE taxonomy_id = $taxonomy))"""
    else:
        first = _FIRST
        parameters["names"] = list(names)
    rows = con.execute(
        f"""
        WITH {first} SELECT f.name, value, count(*) FROM first JOIN features f USING (feature_id)
        WHERE {here} GROUP BY ALL""",
        parameters,
    ).fetchall()
    return {(str(name), float(value)): int(n) for name, value, n in rows if value is not None}
