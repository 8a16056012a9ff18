"""What people answer: every act is one transaction in the store's owner, and stands in the labels at once.

An annotation is one act of one annotator on one entry of a queue: an answer, or a skip (no answer). It is never
changed: a later answer of the same annotator takes its place, undoing marks it undone, and the one before counts
again. A claim keeps an entry for one annotator for a while, so that people who work at once get different entries.
Names are what annotators say they are; whoever may open the dashboard may write under any name.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pandas as pd

from engine import answers, queues
from engine.answers import CURRENT, GOLD
from engine.marks import rows_of
from engine.queues import Queue
from engine.records import SignetError, Turn, turns_from_json
from engine.store import Store, ensure_labeler

CLAIM_MINUTES = 15
LONGEST_NAME, LONGEST_NOTE = 60, 4_000

_LIVE = f"claimed_at > now()::TIMESTAMP - INTERVAL {CLAIM_MINUTES} MINUTE"


@dataclass(frozen=True, slots=True)
class Task:
    """An entry to judge. `shown`: the labels that a check asks about, by feature; empty for blind labelling.

    `answer`, `note`: what this annotator said of it before (undone, or to be changed), None and empty at first.
    """

    entry_id: int
    entry: str
    prompt: tuple[Turn, ...]
    response: str
    shown: dict[str, Any]
    answer: dict[str, Any] | None
    note: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a queue is: entries, entries with all their answers, this annotator's answers, and those of today.

    `last`: the number of this annotator's last act, 0 when there is none to undo.
    """

    n: int
    finished: int
    mine: int
    today: int
    last: int


def annotator_name(raw: str) -> str:
    """An annotator's name as it is stored; SignetError for one that cannot be."""
    name = unicodedata.normalize("NFC", " ".join(raw.split()))
    if not name:
        raise SignetError("Say who you are first: an annotator needs a name.")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise SignetError(f"An annotator's name must be 1 to {LONGEST_NAME} printable characters.")
    if name.casefold() == GOLD:
        raise SignetError(f"The name {GOLD!r} stands for adjudicated labels; choose another.")
    return name


# --- what to do next ------------------------------------------------------------------------------------------------


def next_task(store: Store, of: Queue, annotator: str) -> Task | None:
    """The entry for this annotator to judge now, claimed for them; None when there is none (`why_none` says why).

    The same one until it is answered, skipped, or the claim has run out and others have done it. Entries that others
    have begun come before untouched ones, those that this annotator has skipped last.
    """
    name = annotator_name(annotator)
    held = store.read().execute(
        f"SELECT entry_id FROM claims WHERE queue_id = ? AND annotator = ? AND {_LIVE}", [of.queue_id, name]
    ).fetchone()  # fmt: skip
    if held:
        return task(store.read(), of, int(held[0]), name)
    with store.transaction() as con:
        row = con.execute(
            f"""
            SELECT i.entry_id FROM queue_items i
            LEFT JOIN (SELECT entry_id, count(*) AS n, bool_or(annotator = $me) AS mine FROM {CURRENT}
                WHERE queue_id = $queue GROUP BY entry_id) done ON done.entry_id = i.entry_id
            LEFT JOIN (SELECT entry_id, count(*) AS n FROM claims
                WHERE queue_id = $queue AND annotator <> $me AND {_LIVE} GROUP BY entry_id) held
                ON held.entry_id = i.entry_id
            LEFT JOIN (SELECT entry_id, max(annotation_id) AS last FROM annotations WHERE queue_id = $queue
                AND annotator = $me AND answer IS NULL AND undone_at IS NULL GROUP BY entry_id) skipped
                ON skipped.entry_id = i.entry_id
            WHERE i.queue_id = $queue AND NOT coalesce(mine, false)
                AND coalesce(done.n, 0) + coalesce(held.n, 0) < $overlap
            ORDER BY coalesce(skipped.last, 0), coalesce(done.n, 0) DESC, i.position LIMIT 1""",
            {"queue": of.queue_id, "me": name, "overlap": of.overlap},
        ).fetchone()  # fmt: skip
        if row is None:
            return None
        _claim(con, of, int(row[0]), name)
    return task(store.read(), of, int(row[0]), name)


def _claim(con: duckdb.DuckDBPyConnection, of: Queue, entry_id: int, name: str) -> None:
    """This entry, and no other of the queue, is this annotator's for a while."""
    con.execute(f"DELETE FROM claims WHERE queue_id = ? AND (annotator = ? OR NOT {_LIVE})", [of.queue_id, name])
    con.execute("INSERT INTO claims VALUES (?, ?, ?, now()::TIMESTAMP)", [of.queue_id, entry_id, name])


def task(con: duckdb.DuckDBPyConnection, of: Queue, entry_id: int, annotator: str) -> Task:
    """One entry of a queue, as this annotator may see it; SignetError when the queue does not hold it."""
    row = con.execute(
        """
        SELECT replace(x.hash::VARCHAR, '-', ''), p.turns, x.response, i.shown FROM queue_items i
        JOIN entries x ON x.entry_id = i.entry_id JOIN prompts p USING (prompt_id)
        WHERE i.queue_id = ? AND i.entry_id = ?""",
        [of.queue_id, entry_id],
    ).fetchone()
    if row is None:
        raise SignetError(f"Queue {of.name!r} does not hold this entry.")
    said = con.execute(
        "SELECT answer, note FROM annotations WHERE queue_id = ? AND entry_id = ? AND annotator = ? "
        "AND answer IS NOT NULL ORDER BY undone_at IS NULL DESC, coalesce(undone_at, created_at) DESC, "
        "annotation_id DESC LIMIT 1",
        [of.queue_id, entry_id, annotator],
    ).fetchone()
    prompt = turns_from_json(row[1])
    shown = json.loads(row[3]) if row[3] else {}
    return Task(entry_id, row[0], prompt, row[2], shown, json.loads(said[0]) if said else None, said[1] if said else "")


def why_none(con: duckdb.DuckDBPyConnection, of: Queue, annotator: str) -> str:
    """Why there is nothing to do for this annotator, in one sentence."""
    state = counts(con, of, annotator)
    if state.finished >= state.n:
        return "Every entry of this queue has its answers."
    if state.mine >= state.n:
        return f"You have answered all {state.n:,}; the queue waits for others."
    return "What is left is with other annotators just now, or needs others than you; look again in a while."


def entry_id(con: duckdb.DuckDBPyConnection, entry: str) -> int:
    """The id of the entry of that hash (32 hex digits)."""
    row = con.execute("SELECT entry_id FROM entries WHERE hash = TRY_CAST(? AS UUID)", [entry]).fetchone()
    if row is None:
        raise SignetError(f"No entry {entry!r} in the store.")
    return int(row[0])


# --- acts -----------------------------------------------------------------------------------------------------------


def save(
    store: Store, of: Queue, entry_id: int, annotator: str, answer: Any, note: str = "", seconds: float | None = None,
    edit: bool = False,
) -> int:  # fmt: skip
    """Keep an answer and the labels it gives, and free the claim; returns the annotation's id.

    The same answer sent twice (a double click) is kept once. Raises SignetError for an impossible answer, an entry
    that has all its answers from others, and another answer than the one given before, unless `edit` says to change it.
    """
    name = annotator_name(annotator)
    note = note.strip()
    if len(note) > LONGEST_NOTE:
        raise SignetError(f"A note has {LONGEST_NOTE:,} characters at most; this one has {len(note):,}.")
    with store.transaction() as con:
        one = task(con, of, entry_id, name)
        taxonomy = queues.asked(con, of)
        if of.purpose == "check":
            text = answers.to_text(answers.verdicts(taxonomy, one.shown, answer))
        else:
            text = answers.to_text(answers.checked(taxonomy, answer))
        given = con.execute(
            f"SELECT annotator, annotation_id, answer FROM {CURRENT} WHERE queue_id = ? AND entry_id = ?",
            [of.queue_id, entry_id],
        ).fetchall()
        mine = next(((number, said) for who, number, said in given if who == name), None)
        if mine and not edit:
            if mine[1] == text:
                return int(mine[0])
            raise SignetError("You have answered this entry already; change your answer in the history.")
        if not mine and len(given) >= of.overlap:
            con.execute("DELETE FROM claims WHERE queue_id = ? AND entry_id = ?", [of.queue_id, entry_id])
            finished = True
        else:
            finished = False
            number = _append(con, of, entry_id, name, text, note, seconds)
            write_labels(con, of, name, [entry_id])
    if finished:
        raise SignetError("Others have given this entry all the answers it needs meanwhile; go on with the next one.")
    return number


def skip(store: Store, of: Queue, entry_id: int, annotator: str, note: str = "") -> int:
    """Put an entry at the end for this annotator, and free the claim."""
    name = annotator_name(annotator)
    with store.transaction() as con:
        task(con, of, entry_id, name)
        last = _last(con, of, name)
        if last and last[1:] == (entry_id, None):  # a double click
            return last[0]
        return _append(con, of, entry_id, name, None, note.strip()[:LONGEST_NOTE], None)


def _last(con: duckdb.DuckDBPyConnection, of: Queue, name: str) -> tuple[int, int, str | None] | None:
    """This annotator's last act that is not undone: its number, its entry, the answer (None: skipped)."""
    return con.execute(
        "SELECT annotation_id, entry_id, answer FROM annotations WHERE queue_id = ? AND annotator = ? "
        "AND undone_at IS NULL ORDER BY annotation_id DESC LIMIT 1",
        [of.queue_id, name],
    ).fetchone()


def _append(
    con: duckdb.DuckDBPyConnection, of: Queue, entry_id: int, name: str, answer: str | None, note: str,
    seconds: float | None,
) -> int:  # fmt: skip
    row = con.execute("SELECT coalesce(max(annotation_id), 0) + 1 FROM annotations").fetchone()
    number = int(row[0]) if row else 1
    con.execute(
        "INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?, now()::TIMESTAMP, NULL)",
        [number, of.queue_id, entry_id, name, answer, note, seconds],
    )
    con.execute(
        "DELETE FROM claims WHERE queue_id = ? AND entry_id = ? AND annotator = ?", [of.queue_id, entry_id, name]
    )
    return number


def undo(store: Store, of: Queue, annotator: str, act: int | None = None) -> Task | None:
    """Take back this annotator's last act in the queue; its entry is theirs to judge again. None: nothing to undo.

    `act`: do so only if that is the last act (so that a double click undoes one).
    """
    name = annotator_name(annotator)
    with store.transaction() as con:
        last = _last(con, of, name)
        if last is None or act not in (None, last[0]):
            return None
        con.execute("UPDATE annotations SET undone_at = now()::TIMESTAMP WHERE annotation_id = ?", [last[0]])
        write_labels(con, of, name, [last[1]])
        if not con.execute(f"SELECT 1 FROM {CURRENT} WHERE queue_id = ? AND entry_id = ? AND annotator = ?",
                           [of.queue_id, last[1], name]).fetchone():  # fmt: skip
            _claim(con, of, last[1], name)
    return task(store.read(), of, last[1], name)


def write_labels(con: duckdb.DuckDBPyConnection, of: Queue, annotator: str, entry_ids: Sequence[int]) -> None:
    """Make the labels of these entries by this annotator what their current answers say, inside a transaction.

    Answers in all queues of the taxonomy's version count, feature by feature the latest; labels of features that this
    queue does not ask for stay, those carried over from an earlier version among them. Verdicts of a check are given in
    sight of the label they judge, so they are no labels.
    """
    if of.purpose == "check" or not entry_ids:
        return
    kind = "gold" if annotator == GOLD else "person"
    taxonomy = queues.asked(con, of)
    asked = [column.name for column in taxonomy.columns()]
    columns = dict(con.execute(
        "SELECT name, feature_id FROM features WHERE taxonomy_id = ? AND name IN (SELECT unnest(?::VARCHAR[]))",
        [of.taxonomy_id, asked]).fetchall())  # fmt: skip
    labeler = ensure_labeler(con, annotator, kind, "1", {})
    rows = con.execute(
        """
        SELECT a.entry_id, a.answer FROM annotations a JOIN queues q USING (queue_id)
        WHERE a.annotator = $me AND a.undone_at IS NULL AND a.answer IS NOT NULL AND q.purpose = 'annotate'
            AND q.taxonomy_id = $taxonomy AND a.entry_id IN (SELECT unnest($entries::BIGINT[]))
        ORDER BY a.annotation_id""",
        {"me": annotator, "taxonomy": of.taxonomy_id, "entries": list(entry_ids)},
    ).fetchall()
    merged: dict[int, dict[str, Any]] = {}
    for entry, answer in rows:
        merged.setdefault(entry, {}).update(json.loads(answer))
    labels = [(entry, columns[column], value) for entry, answer in merged.items()
              for column, value in answers.as_labels(taxonomy, answer).items()]  # fmt: skip
    rows_of(con, "labels", labeler).execute(
        "DELETE FROM labels WHERE labeler_id = $by AND entry_id IN (SELECT unnest($entries::BIGINT[])) "
        "AND feature_id IN (SELECT unnest($columns::INTEGER[]))",
        {"by": labeler, "entries": list(entry_ids), "columns": list(columns.values())},
    )
    rows_of(con, "labels", labeler).execute(
        "INSERT INTO labels SELECT unnest($entries::BIGINT[]), unnest($columns::INTEGER[]), $by, "
        "unnest($values::DOUBLE[]), NULL",
        {"entries": [a for a, _, _ in labels], "columns": [b for _, b, _ in labels], "by": labeler,
         "values": [c for _, _, c in labels]},
    )  # fmt: skip


def delete_queue(store: Store, name: str, answered: bool = False) -> dict[str, int]:
    """Delete a queue. One that people have answered only with `answered`: their answers and labels then go too, except
    what another queue's answers still say. Returns how many entries and answers went."""
    with store.transaction() as con:
        of = queues.queue(con, name)
        acts = con.execute(
            "SELECT annotator, list(DISTINCT entry_id) FROM annotations "
            "WHERE queue_id = ? AND answer IS NOT NULL GROUP BY annotator",
            [of.queue_id],
        ).fetchall()
        counted = con.execute(f"SELECT count(*) FROM {CURRENT} WHERE queue_id = ?", [of.queue_id]).fetchone()
        total = int(counted[0]) if counted else 0
        if total and not answered:
            raise SignetError(f"Queue {name!r} holds {total:,} answers; say that they may be deleted with it.")
        queues.forget(con, [of.queue_id])
        for annotator, entries in acts:
            write_labels(con, of, annotator, entries)
    return {"entries": of.n, "answers": total}


# --- what was done --------------------------------------------------------------------------------------------------


def counts(con: duckdb.DuckDBPyConnection, of: Queue, annotator: str = "") -> Counts:
    """How far the queue is, and how much of it is this annotator's."""
    row = con.execute(
        f"""
        SELECT count(*) FILTER (n >= $overlap), coalesce(sum(mine), 0)::BIGINT, coalesce(sum(today), 0)::BIGINT FROM (
            SELECT count(*) AS n, count(*) FILTER (annotator = $me) AS mine,
                count(*) FILTER (annotator = $me AND created_at::DATE = now()::TIMESTAMP::DATE) AS today
            FROM {CURRENT} WHERE queue_id = $queue GROUP BY entry_id)""",
        {"queue": of.queue_id, "me": annotator, "overlap": of.overlap},
    ).fetchone()
    last = _last(con, of, annotator)
    finished, mine, today = row or (0, 0, 0)
    return Counts(of.n, finished, mine, today, last[0] if last else 0)


def history(con: duckdb.DuckDBPyConnection, of: Queue, annotator: str, most: int = 200) -> pd.DataFrame:
    """This annotator's current answers, newest first: entry_id, response (160 characters), answer (stored text), note,
    seconds, at."""
    return con.execute(
        f"""
        SELECT c.entry_id, left(x.response, 160) AS response, c.answer, c.note, c.seconds, c.created_at AS at
        FROM {CURRENT} c JOIN entries x USING (entry_id) WHERE c.queue_id = ? AND c.annotator = ?
        ORDER BY c.annotation_id DESC LIMIT ?""",
        [of.queue_id, annotator, most],
    ).df()


def progress(con: duckdb.DuckDBPyConnection, of: Queue) -> pd.DataFrame:
    """A row an annotator: annotator, answers, today, skipped, notes, seconds (median), last."""
    return con.execute(
        f"""
        SELECT c.annotator, count(*) AS answers, count(*) FILTER (c.created_at::DATE = now()::TIMESTAMP::DATE) AS today,
            any_value(coalesce(s.n, 0)) AS skipped, count(*) FILTER (c.note <> '') AS notes,
            median(c.seconds) AS seconds, max(c.created_at) AS last
        FROM {CURRENT} c LEFT JOIN (
            SELECT annotator, count(DISTINCT entry_id) AS n FROM annotations
            WHERE queue_id = $queue AND answer IS NULL AND undone_at IS NULL GROUP BY annotator) s
            ON s.annotator = c.annotator
        WHERE c.queue_id = $queue GROUP BY c.annotator ORDER BY answers DESC, c.annotator""",
        {"queue": of.queue_id},
    ).df()


def table(con: duckdb.DuckDBPyConnection, of: Queue) -> pd.DataFrame:
    """Every current answer as a long table: entry (hash), annotator, feature, value (text; null: cannot say), note,
    seconds, at. Of a check: feature, predicted, verdict, value (the right one, where given)."""
    rows = con.execute(
        f"""SELECT replace(x.hash::VARCHAR, '-', ''), c.annotator, c.answer, i.shown, c.note, c.seconds, c.created_at
        FROM {CURRENT} c JOIN entries x USING (entry_id) JOIN queue_items i USING (queue_id, entry_id)
        WHERE c.queue_id = ? ORDER BY i.position, c.annotation_id""",
        [of.queue_id],
    ).fetchall()
    features = {one.name: one for one in queues.asked(con, of).features}
    found: list[dict[str, Any]] = []
    for entry, annotator, answer, shown, note, seconds, at in rows:
        said = json.loads(answer)
        check = of.purpose == "check"
        given, predicted = (said["values"], json.loads(shown)) if check else (said, {})
        for name in said["verdicts"] if check else said:
            one: dict[str, Any] = {"entry": entry, "annotator": annotator, "feature": name}
            if check:
                one |= {
                    "predicted": answers.in_words(features[name], predicted[name]),
                    "verdict": said["verdicts"][name],
                }
            one["value"] = None if given.get(name) is None else answers.in_words(features[name], given[name])
            found.append(one | {"note": note, "seconds": seconds, "at": at})
    return pd.DataFrame(found)
