"""How often are a labeler's predictions right? The figure of a check queue: people's verdicts on a random sample.

As Value Imprint (arXiv 2411.11937) judged its classifier: people read predictions and call 84% right. Verdicts are
given in sight of the prediction, so they flatter it; blind labels and agreement are the stricter measure.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import duckdb
import pandas as pd

from engine import answers, queues
from engine.answers import CURRENT
from engine.intervals import Estimate, wilson
from engine.queues import Queue
from engine.records import SignetError


@dataclass(frozen=True)
class Checked:
    """The result of a check. `right`: share of judged entries of which every label was judged right (Wilson, 95%).

    Where several people judge a label, the majority counts; a tie counts as unsure, and unsure as not judged.
    by_class: feature, predicted, n, right, share, conf_low, conf_high, unsure. by_annotator: annotator, n, right,
    share, conf_low, conf_high. wrong: entry_id, pair_id, feature, predicted, better, response (160 characters).
    """

    right: Estimate
    judged: int
    unsure: int
    total: int
    by_class: pd.DataFrame
    by_annotator: pd.DataFrame
    wrong: pd.DataFrame


def results(con: duckdb.DuckDBPyConnection, of: Queue) -> Checked:
    """What the verdicts so far say; SignetError for a queue that is no check."""
    if of.purpose != "check":
        raise SignetError(f"Queue {of.name!r} is for labelling; only a check queue ends in this figure.")
    rows = con.execute(
        f"""SELECT c.entry_id, i.shown, c.annotator, c.answer FROM {CURRENT} c
        JOIN queue_items i USING (queue_id, entry_id) WHERE c.queue_id = ? ORDER BY i.position, c.annotator""",
        [of.queue_id],
    ).fetchall()
    features = {one.name: one for one in queues.asked(con, of).features}
    shown: dict[int, dict[str, Any]] = {}
    votes: dict[tuple[int, str], list[str]] = defaultdict(list)
    better: dict[tuple[int, str], list[str]] = defaultdict(list)
    by_person: dict[str, list[str]] = defaultdict(list)
    for entry, labels, annotator, answer in rows:
        said = json.loads(answer)
        shown[entry] = json.loads(labels)
        for name, verdict in said["verdicts"].items():
            votes[entry, name].append(verdict)
            by_person[annotator].append(verdict)
        for name, one in said["values"].items():
            better[entry, name].append(answers.in_words(features[name], one))
    outcome = {key: _majority(cast) for key, cast in votes.items()}
    by_entry: dict[int, set[str]] = defaultdict(set)
    for (entry, _), verdict in outcome.items():
        by_entry[entry].add(verdict)
    judged = [found for found in by_entry.values() if "wrong" in found or found == {"right"}]
    classes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (entry, name), verdict in outcome.items():
        many = features[name].kind == "many_of"
        classes[name, "any" if many else answers.in_words(features[name], shown[entry][name])][verdict] += 1
    wrong = [
        {"entry_id": entry, "feature": features[name].title,
         "predicted": answers.in_words(features[name], shown[entry][name]),
         "better": ", ".join(dict.fromkeys(better[entry, name]))}
        for (entry, name), verdict in outcome.items() if verdict == "wrong"]  # fmt: skip
    return Checked(
        wilson(sum(found == {"right"} for found in judged), len(judged)),
        len(judged),
        len(by_entry) - len(judged),
        of.n,
        _shares([{"feature": features[name].title, "predicted": one, **_counted(count)}
                 for (name, one), count in classes.items()]),
        _shares([{"annotator": who, **_counted(Counter(cast))} for who, cast in by_person.items()]),
        _with_texts(con, of, wrong),
    )  # fmt: skip


def _majority(cast: list[str]) -> str:
    right, wrong = cast.count("right"), cast.count("wrong")
    return "unsure" if right == wrong else "right" if right > wrong else "wrong"


def _counted(count: Counter[str]) -> dict[str, int]:
    return {"n": count["right"] + count["wrong"], "right": count["right"], "unsure": count["unsure"]}


def _shares(rows: list[dict[str, Any]]) -> pd.DataFrame:
    for row in rows:
        share = wilson(row["right"], row["n"])
        row |= {"share": share.estimate, "conf_low": share.conf_low, "conf_high": share.conf_high}
    return pd.DataFrame(sorted(rows, key=lambda row: -row["n"]))


def _with_texts(con: duckdb.DuckDBPyConnection, of: Queue, wrong: list[dict[str, Any]]) -> pd.DataFrame:
    ids = [row["entry_id"] for row in wrong]
    texts = con.execute(
        """
        SELECT x.entry_id, left(x.response, 160), min(p.pair_id) FROM entries x
        LEFT JOIN (SELECT pair_id, unnest([chosen, rejected]) AS entry_id FROM pairs WHERE dataset_id = $dataset
            AND (chosen IN (SELECT unnest($ids::BIGINT[])) OR rejected IN (SELECT unnest($ids::BIGINT[])))) p
            ON p.entry_id = x.entry_id
        WHERE x.entry_id IN (SELECT unnest($ids::BIGINT[])) GROUP BY x.entry_id, x.response""",
        {"dataset": of.dataset_id, "ids": ids},
    ).fetchall()
    found = {entry: {"pair_id": pair, "response": text} for entry, text, pair in texts}
    return pd.DataFrame(
        [{**row, **found.get(row["entry_id"], {})} for row in wrong],
        columns=["entry_id", "pair_id", "feature", "predicted", "better", "response"],
    )
