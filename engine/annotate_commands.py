"""Annotation by people as operations of the store: plain JSON in and out, entries by their hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from engine import annotations as acts
from engine import audit_people, catalog, gold, human_check, queues
from engine.intervals import Estimate
from engine.queues import Queue
from engine.store import Store

Result = dict[str, Any]


def queue_create(
    store: Store, dataset: str, taxonomy_name: str, name: str, strategy: str = "random", n: int = 200,
    overlap: int = 1, seed: int = 0, purpose: str = "annotate", options: dict[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Draw a queue; see engine.queues.create for strategies and options."""
    return _described(
        store, queues.create(store, dataset, taxonomy_name, name, strategy, n, overlap, seed, purpose, options)
    )


def queue_delete(store: Store, name: str, answered: bool = False) -> Result:
    """Delete a queue; with `answered` also one that holds answers, and them with it."""
    return {"deleted": name, **acts.delete_queue(store, name, answered)}


def queue_list(store: Store, dataset: str | None = None) -> Result:
    """The queues of a dataset, or all, with how far they are."""
    con = store.read()
    dataset_id = catalog.dataset(con, dataset).dataset_id if dataset else None
    return {"queues": [_described(store, one) for one in queues.every(con, dataset_id)]}


def _rows(frame: pd.DataFrame) -> list[Result]:
    return list(json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15)))


def _described(store: Store, of: Queue) -> Result:
    con = store.read()
    counts, gold_state = acts.counts(con, of), gold.state(con, of)
    return {
        "queue": of.name, "purpose": of.purpose, "dataset": of.dataset, "taxonomy": of.taxonomy, "entries": of.n,
        "overlap": of.overlap, "random_sample": of.is_random_sample, "params": of.params, "created_at": of.created_at,
        "finished": counts.finished, "gold": gold_state.gold, "conflicts": gold_state.open,
        "unanimous": gold_state.unanimous, "annotators": _rows(acts.progress(con, of)),
    }  # fmt: skip


def annotate_next(store: Store, queue: str, annotator: str) -> Result:
    """The next entry for an annotator, claimed for them; `entry` is null when there is none, and `reason` says why."""
    of = queues.queue(store.read(), queue)
    task = acts.next_task(store, of, annotator)
    if task is None:
        return {"entry": None, "reason": acts.why_none(store.read(), of, annotator)}
    return _task(store, of, task)


def _task(store: Store, of: Queue, task: acts.Task) -> Result:
    features = queues.asked(store.read(), of).features
    return {
        "entry": task.entry, "prompt": [[turn.role, turn.content] for turn in task.prompt], "response": task.response,
        "shown": task.shown, "answer": task.answer, "note": task.note,
        "asked": [{"feature": f.name, "kind": f.kind, "scope": f.scope, "definition": f.definition,
                   "classes": list(f.classes)} for f in features],
    }  # fmt: skip


def annotate_save(
    store: Store, queue: str, annotator: str, entry: str, answer: Any, note: str = "", seconds: float | None = None,
    edit: bool = False,
) -> Result:  # fmt: skip
    """Keep an answer; see engine.answers for its form. `edit` replaces the answer given before."""
    con = store.read()
    of, entry_id = queues.queue(con, queue), acts.entry_id(con, entry)
    acts.save(store, of, entry_id, annotator, answer, note, seconds, edit)
    return {"entry": entry, **_counts(store, of, annotator)}


def annotate_skip(store: Store, queue: str, annotator: str, entry: str, note: str = "") -> Result:
    """Put an entry at the end for this annotator."""
    con = store.read()
    of = queues.queue(con, queue)
    acts.skip(store, of, acts.entry_id(con, entry), annotator, note)
    return {"entry": entry, **_counts(store, of, annotator)}


def annotate_undo(store: Store, queue: str, annotator: str) -> Result:
    """Take back the annotator's last act; `entry` is null when there was none."""
    of = queues.queue(store.read(), queue)
    task = acts.undo(store, of, annotator)
    return {"entry": task.entry if task else None, **_counts(store, of, annotator)}


def _counts(store: Store, of: Queue, annotator: str) -> Result:
    counts = acts.counts(store.read(), of, acts.annotator_name(annotator))
    return {"entries": counts.n, "finished": counts.finished, "mine": counts.mine, "today": counts.today}


def annotate_answers(store: Store, queue: str) -> Result:
    """Every current answer, a row a feature."""
    con = store.read()
    return {"queue": queue, "answers": _rows(acts.table(con, queues.queue(con, queue)))}


def adjudicate(
    store: Store, queue: str, by: str, entry: str | None = None, answer: Any = None, unanimous: bool = False,
    undo: bool = False,
) -> Result:  # fmt: skip
    """Decide an entry's gold answer; with `unanimous` take in what all agree on; with `undo` take the last decision
    (or the entry's) back; with none of these list what waits for a decision."""
    con = store.read()
    of = queues.queue(con, queue)
    entry_id = acts.entry_id(con, entry) if entry else None
    taken = 0
    if undo:
        taken = int(gold.take_back(store, of, entry_id) is not None)
    elif entry_id is not None:
        gold.decide(store, of, entry_id, answer, by)
    elif unanimous:
        taken = gold.settle_unanimous(store, of, by)
    con = store.read()
    now = gold.state(con, of)
    result: Result = {"queue": queue, "gold": now.gold, "conflicts": now.open, "unanimous": now.unanimous}
    if undo or unanimous:
        return result | {"taken": taken}
    if entry_id is None:
        result["open"] = [_conflict(store, of, one) for one in gold.open_conflicts(con, of)]
    return result


def _conflict(store: Store, of: Queue, entry_id: int) -> Result:
    con = store.read()
    found = gold.conflict(con, of, entry_id)
    return {
        "entry": acts.task(con, of, entry_id, "").entry, "agreed": found.agreed(),
        "answers": [{"annotator": who, "answer": said, "note": note} for who, said, note in found.given],
    }  # fmt: skip


def check_results(store: Store, queue: str) -> Result:
    """The figure of a check queue: the share of predictions judged right, with its interval, in all and by class."""
    con = store.read()
    of = queues.queue(con, queue)
    found = human_check.results(con, of)
    return {
        "queue": queue, "labeler": of.params["labeler"], "taxonomy": of.taxonomy, **_estimate(found.right),
        "judged": found.judged, "unsure": found.unsure, "entries": found.total, "by_class": _rows(found.by_class),
        "by_annotator": _rows(found.by_annotator), "wrong": _rows(found.wrong.drop(columns="entry_id")),
    }  # fmt: skip


def queue_agreement(store: Store, queue: str, everything: bool = False) -> Result:
    """How far the annotators of a queue (or of all queues of its taxonomy on its dataset) agree: by feature with what
    alpha means in words, and by annotator with seconds and drift."""
    con = store.read()
    of, found = queues.queue(con, queue), audit_people.people(con, queue, everything)
    return {
        "queue": queue, "dataset": of.dataset, "taxonomy": of.taxonomy, "annotators": list(found.names),
        "entries": len(found.entries), "not_a_random_sample": found.sample or None,
        "features": _rows(audit_people.table(found, audit_people.features(found))),
        "by_annotator": _rows(audit_people.by_annotator(found)),
    }  # fmt: skip


def _estimate(one: Estimate) -> Result:
    known = one.n > 0
    return {"right": one.estimate if known else None, "conf_low": one.conf_low if known else None,
            "conf_high": one.conf_high if known else None, "n": one.n}  # fmt: skip


OPERATIONS: dict[str, Callable[..., Result]] = {
    "queue_create": queue_create,
    "queue_delete": queue_delete,
    "queues": queue_list,
    "annotate_next": annotate_next,
    "annotate_save": annotate_save,
    "annotate_skip": annotate_skip,
    "annotate_undo": annotate_undo,
    "annotate_answers": annotate_answers,
    "adjudicate": adjudicate,
    "check_results": check_results,
    "queue_agreement": queue_agreement,
}
