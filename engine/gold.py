"""The gold set: what annotators agree on, and what was decided where they differ.

Gold is kept as annotations in the name of "gold", so that it is stored, undone and shown as labels like every answer;
their note says who decided and how. An entry is open while its answers differ and nobody has decided; an entry taken
in because all agreed opens again when a later answer differs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import duckdb

from engine import answers, queues
from engine.annotations import annotator_name, write_labels
from engine.answers import CURRENT, GOLD
from engine.queues import Queue
from engine.records import SignetError
from engine.store import Store

# Entries of a queue ($queue) with two answers or more, how many different ones, and how gold came about, if it did.
_JUDGED = f"""(
    SELECT c.entry_id, count(*) AS n, count(DISTINCT c.answer) AS kinds, any_value(c.answer) AS answer,
        any_value(g.how) AS how
    FROM {CURRENT} c LEFT JOIN (
        SELECT entry_id, json_extract_string(arg_max(note, annotation_id), '$.how') AS how FROM annotations
        WHERE queue_id = $queue AND annotator = '{GOLD}' AND undone_at IS NULL GROUP BY entry_id) g
        ON g.entry_id = c.entry_id
    WHERE c.queue_id = $queue GROUP BY c.entry_id HAVING count(*) > 1)"""


@dataclass(frozen=True, slots=True)
class State:
    """How many entries are gold, differ and wait for a decision, or are unanimous and could be taken in."""

    gold: int
    open: int
    unanimous: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """An entry on which annotators differ. `given`: annotator, answer, note; in an order that tells nothing of who."""

    entry_id: int
    given: tuple[tuple[str, dict[str, Any], str], ...]

    def agreed(self) -> dict[str, Any]:
        """The values on which all agree, by feature."""
        first = self.given[0][1]
        return {name: one for name, one in first.items() if all(said.get(name) == one for _, said, _ in self.given)}


def state(con: duckdb.DuckDBPyConnection, of: Queue) -> State:
    """The queue's gold set and what could join it."""
    row = con.execute(
        f"""
        SELECT (SELECT count(DISTINCT entry_id) FROM annotations
                WHERE queue_id = $queue AND annotator = '{GOLD}' AND undone_at IS NULL),
            count(*) FILTER (kinds > 1 AND how IS DISTINCT FROM 'decided'),
            count(*) FILTER (kinds = 1 AND how IS NULL) FROM {_JUDGED}""",
        {"queue": of.queue_id},
    ).fetchone()
    return State(*(row or (0, 0, 0)))


def open_conflicts(con: duckdb.DuckDBPyConnection, of: Queue) -> list[int]:
    """The entries that wait for a decision, in the queue's order."""
    rows = con.execute(
        f"""SELECT entry_id FROM {_JUDGED} JOIN queue_items i USING (entry_id)
        WHERE i.queue_id = $queue AND kinds > 1 AND how IS DISTINCT FROM 'decided' ORDER BY i.position""",
        {"queue": of.queue_id},
    ).fetchall()
    return [int(row[0]) for row in rows]


def conflict(con: duckdb.DuckDBPyConnection, of: Queue, entry_id: int) -> Conflict:
    """The answers to one entry."""
    rows = con.execute(
        f"""SELECT annotator, answer, note FROM {CURRENT} WHERE queue_id = ? AND entry_id = ?
        ORDER BY md5(annotator || entry_id::VARCHAR)""",
        [of.queue_id, entry_id],
    ).fetchall()
    if len(rows) < 2:
        raise SignetError("This entry has fewer than two answers; there is nothing to decide.")
    return Conflict(entry_id, tuple((who, json.loads(said), note) for who, said, note in rows))


def decide(store: Store, of: Queue, entry_id: int, answer: Any, by: str) -> None:
    """Make an answer the gold one of an entry; a later decision takes its place."""
    name = _decider(of, by)
    with store.transaction() as con:
        conflict(con, of, entry_id)
        text = answers.to_text(answers.checked(queues.asked(con, of), answer))
        _insert(con, of, [(entry_id, text)], {"by": name, "how": "decided"})


def settle_unanimous(store: Store, of: Queue, by: str) -> int:
    """Take into gold every entry to which two annotators or more gave the same answer and no other; how many."""
    name = _decider(of, by)
    with store.transaction() as con:
        rows = con.execute(
            f"SELECT entry_id, answer FROM {_JUDGED} WHERE kinds = 1 AND how IS NULL ORDER BY entry_id",
            {"queue": of.queue_id},
        ).fetchall()
        _insert(con, of, rows, {"by": name, "how": "unanimous"})
    return len(rows)


def take_back(store: Store, of: Queue, entry_id: int | None = None) -> int | None:
    """Undo the last decision (not a unanimous one), or everything gold about one entry; the entry's id, if any."""
    with store.transaction() as con:
        row = con.execute(
            """SELECT annotation_id, entry_id FROM annotations WHERE queue_id = $queue AND annotator = $gold
            AND undone_at IS NULL AND ($entry IS NULL AND json_extract_string(note, '$.how') = 'decided'
                OR entry_id = $entry) ORDER BY annotation_id DESC LIMIT 1""",
            {"queue": of.queue_id, "gold": GOLD, "entry": entry_id},
        ).fetchone()
        if row is None:
            return None
        con.execute(
            "UPDATE annotations SET undone_at = now()::TIMESTAMP WHERE undone_at IS NULL AND annotator = ? "
            "AND queue_id = ? AND (annotation_id = ? OR entry_id = ?)",
            [GOLD, of.queue_id, row[0], entry_id],
        )
        write_labels(con, of, GOLD, [int(row[1])])
    return int(row[1])


def _decider(of: Queue, by: str) -> str:
    if of.purpose != "annotate":
        raise SignetError(f"Queue {of.name!r} is a check; only answers to label queues become gold.")
    return annotator_name(by)


def _insert(con: duckdb.DuckDBPyConnection, of: Queue, rows: list[tuple[int, str]], note: dict[str, str]) -> None:
    if not rows:
        return
    con.execute(
        """INSERT INTO annotations SELECT (SELECT coalesce(max(annotation_id), 0) FROM annotations)
            + unnest(range(1, $n + 1)), $queue, unnest($entries::BIGINT[]), $gold, unnest($answers::VARCHAR[]), $note,
            NULL, now()::TIMESTAMP, NULL""",
        {"n": len(rows), "queue": of.queue_id, "entries": [e for e, _ in rows], "gold": GOLD,
         "answers": [a for _, a in rows], "note": json.dumps(note, ensure_ascii=False)},
    )  # fmt: skip
    write_labels(con, of, GOLD, [entry for entry, _ in rows])
