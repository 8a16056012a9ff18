"""Marks: what says that stored data are still what something was computed from.

Every kind of data in KINDS has a mark for each owner of its rows (rewards: the model, labels: the labeler, pairs: the
dataset) and one for the whole kind. A mark is drawn anew in the transaction that changes the data and is never used
twice, so two equal marks mean equal data, also after a rollback or when an older copy of the store comes back.

A writer says whose rows it changes with `rows_of`; what it changes without saying so moves the mark of the whole kind.
Being precise saves recomputing; forgetting to be costs time, never truth.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

import duckdb

# Texts and taxonomies have no marks: they never change under their id.
KINDS = ("pairs", "rewards", "labels", "rewrites", "reviews", "queues", "queue_items", "taxonomies", "labelers")
QUIET = frozenset({"claims", "ingested", "marks", "tallies", "spans"})  # nothing that a page caches comes from these
WHOLE_KIND = -1
_WRITES = re.compile(r"\b(?:insert\s+(?:or\s+\w+\s+)?into|delete\s+from|update|truncate)\s+\"?(\w+)", re.IGNORECASE)
State = dict[tuple[str, int], str]


class Writing:
    """A connection inside a transaction that notices which tables are written.

    Everything else is the connection's own. `loud`: whether anything outside QUIET was written.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con = con
        self.moved: set[tuple[str, int]] = set()
        self.loud = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def execute(self, sql: Any, *more: Any, **named: Any) -> duckdb.DuckDBPyConnection:
        """As the connection's; notes what is written."""
        self._note(sql)
        return self._con.execute(sql, *more, **named)

    def executemany(self, sql: Any, *more: Any, **named: Any) -> duckdb.DuckDBPyConnection:
        """As the connection's; notes what is written."""
        self._note(sql)
        return self._con.executemany(sql, *more, **named)

    def sql(self, sql: Any, *more: Any, **named: Any) -> Any:
        """As the connection's; notes what is written."""
        self._note(sql)
        return self._con.sql(sql, *more, **named)

    query = sql

    def append(self, table: str, *more: Any, **named: Any) -> duckdb.DuckDBPyConnection:
        """As the connection's; notes what is written."""
        self._note(f"INSERT INTO {table}")
        return self._con.append(table, *more, **named)

    def write(self, sql: str, parameters: Any, said: Sequence[tuple[str, int]]) -> duckdb.DuckDBPyConnection:
        """Execute a statement of which is known whose rows it writes."""
        self._note(sql, said)
        return self._con.execute(sql, parameters)

    def _note(self, sql: Any, said: Sequence[tuple[str, int]] = ()) -> None:
        for name in _WRITES.findall(str(sql)):
            table = name.lower()
            self.loud = self.loud or table not in QUIET
            if table in KINDS:
                self.moved.update([one for one in said if one[0] == table] or [(table, WHOLE_KIND)])

    def mark(self) -> None:
        """Draw the marks of what was moved anew, in the same transaction."""
        if self.moved:
            rows = [[kind, owner, uuid.uuid4().hex] for kind, owner in sorted(self.moved)]
            self._con.executemany("DELETE FROM marks WHERE kind = ? AND owner = ?", [row[:2] for row in rows])
            self._con.executemany("INSERT INTO marks VALUES (?, ?, ?)", rows)


class Rows:
    """Rows of a kind that belong to some owners: what is executed on it writes no others of that kind."""

    def __init__(self, con: duckdb.DuckDBPyConnection, kind: str, *owners: int) -> None:
        self._con, self._said = con, [(kind, int(owner)) for owner in owners]

    def execute(self, sql: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        """As the connection's."""
        if isinstance(self._con, Writing):
            return self._con.write(sql, parameters, self._said)
        return self._con.execute(sql, parameters)


def rows_of(con: duckdb.DuckDBPyConnection, kind: str, *owners: int) -> Rows:
    """`rows_of(con, "rewards", model_id).execute("INSERT INTO rewards ...")`: whose rows a statement writes."""
    return Rows(con, kind, *owners)


def state(con: duckdb.DuckDBPyConnection) -> State:
    """Every mark of the last committed state, by kind and owner."""
    return {(str(k), int(o)): str(m) for k, o, m in con.execute("SELECT kind, owner, mark FROM marks").fetchall()}


def of(found: State, kind: str, owner: int) -> str:
    """What identifies one owner's rows of a kind: equal texts, equal rows."""
    parts = (found.get(("store", 0), ""), found.get((kind, WHOLE_KIND), ""), found.get((kind, int(owner)), ""))
    return f"{kind} {owner} " + " ".join(parts)


def of_all(found: State, kind: str) -> str:
    """What identifies all rows of a kind."""
    every = [f"{owner}:{mark}" for (name, owner), mark in sorted(found.items()) if name == kind]
    return f"{kind} {found.get(('store', 0), '')} " + " ".join(every)
