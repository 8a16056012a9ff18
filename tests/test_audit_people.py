"""Agreement of annotators read from the store: queues, features of every kind, labelers, gold, links, label errors."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from engine import annotate_commands, annotations, audit_people, bundle, catalog, gold, label_quality, queues, search
from engine.audit_people import People
from engine.classifiers import About
from engine.decisions import Output, Tuning
from engine.filters import Filter
from engine.intervals import MINIMUM_N
from engine.queues import Queue
from engine.records import SignetError
from engine.store import Store

DEMO = bundle.DEMO_NAME
TAXONOMY = """
name: team
title: Team
source: written for this test
kind: features
features:
  - {name: kind, title: Kind, definition: It is kind., kind: boolean}
  - {name: tone, title: Tone, definition: How warm it is., kind: signed}
  - {name: topic, title: Topic, definition: What it is about., kind: category, classes: [work, home, play]}
  - {name: about, title: About, definition: All that it touches., kind: many_of, classes: [money, health, love]}
  - {name: length, title: Felt length, definition: How long it feels., kind: numeric}
"""
ANSWER: dict[str, Any] = {"kind": 1, "tone": 0, "topic": "work", "about": ["money"], "length": 3.0}
PEOPLE = ("ann", "ben", "cem")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the bundled audit, made once."""
    folder = tmp_path_factory.mktemp("template")
    with Store(folder) as store:
        bundle.load_demo(store)
    return folder


@pytest.fixture
def demo(template: Path, home: Path) -> Iterator[Store]:
    shutil.copyfile(template / "signet.duckdb", home / "signet.duckdb")
    (home / "taxonomies").mkdir()
    (home / "taxonomies" / "team.yaml").write_text(TAXONOMY, encoding="utf-8")
    with Store(home) as store:
        yield store


def fill(store: Store, of: Queue, rows: list[tuple[str, int, dict[str, Any]]]) -> None:
    """Answers as `annotations.save` keeps them, all at once: annotator, number of the entry in the queue, answer."""
    entries = [row[0] for row in store.read().execute(
        "SELECT entry_id FROM queue_items WHERE queue_id = ? ORDER BY position", [of.queue_id]).fetchall()]  # fmt: skip
    with store.transaction() as con:
        start = con.execute("SELECT coalesce(max(annotation_id), 0) FROM annotations").fetchone()
        for number, (who, place, answer) in enumerate(rows, (start or (0,))[0] + 1):
            con.execute(
                "INSERT INTO annotations VALUES (?, ?, ?, ?, ?, '', ?, "
                "TIMESTAMP '2026-03-01' + INTERVAL (?) MINUTE, NULL)",
                [number, of.queue_id, entries[place], who, json.dumps(answer), 5.0 + number % 7, number],
            )
        for who in {who for who, _, _ in rows}:
            annotations.write_labels(con, of, who, [entries[place] for name, place, _ in rows if name == who])


def answers(n: int, seed: int = 0, right: float = 0.8) -> list[tuple[str, int, dict[str, Any]]]:
    """Noisy answers of three annotators, each to two entries of three."""
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(n):
        truth = {"kind": int(rng.integers(2)), "tone": int(rng.integers(-1, 2)), "length": float(rng.integers(1, 6)),
                 "topic": ["work", "home", "play"][rng.integers(3)]}  # fmt: skip
        about = [one for one in ("money", "health", "love") if rng.random() < 0.4]
        for who in (PEOPLE[place % 3], PEOPLE[(place + 1) % 3]):
            sure = rng.random() < right
            rows.append((who, place, {
                "kind": truth["kind"] if sure else int(rng.integers(2)), "tone": truth["tone"] if sure else 0,
                "topic": truth["topic"] if sure else (None, "play")[place % 2], "about": about if sure else about[:1],
                "length": truth["length"] if sure else truth["length"] + 1,
            }))  # fmt: skip
    return rows


@pytest.fixture
def queue(demo: Store) -> Queue:
    of = queues.create(demo, DEMO, "team", "first", n=90, overlap=2)
    fill(demo, of, answers(90))
    return of


def read(store: Store, everything: bool = False) -> People:
    return audit_people.people(store.read(), "first", everything)


def theirs(found: People, name: str, level: str, value: Any = float) -> float:
    table = [[math.nan if one is None else value(one) for one in row] for row in found.tables[name]]
    return float(krippendorff.alpha(np.array(table, dtype=float).T, level_of_measurement=level))


def test_features_of_every_kind(demo: Store, queue: Queue) -> None:
    found = read(demo)
    assert found.names == PEOPLE and len(found.entries) == 90 and found.sample == ""
    figures = {one.feature: one for one in audit_people.features(found)}
    assert list(figures) == ["kind", "tone", "topic", "about", "length"]
    assert figures["kind"].alpha.estimate == pytest.approx(theirs(found, "kind", "nominal", ["no", "yes"].index))
    assert figures["tone"].alpha.estimate == pytest.approx(theirs(found, "tone", "ordinal"))
    topics = theirs(found, "topic", "nominal", ["work", "home", "play"].index)
    assert figures["topic"].alpha.estimate == pytest.approx(topics)
    assert figures["length"].alpha.estimate == pytest.approx(theirs(found, "length", "interval"))
    assert figures["about"].level == "masi" and 0.3 < figures["about"].alpha.estimate < 0.95
    assert figures["topic"].units < figures["kind"].units == 90  # who cannot say has not answered
    unsure = sum(answer["topic"] is None for _, _, answer in answers(90))
    frame = audit_people.table(found, list(figures.values()))
    assert frame.set_index("feature").loc["topic", "unsure"] == unsure > 0
    assert frame["alpha"].is_monotonic_increasing and (frame["n_raters"] == 3).all()
    for one in frame.itertuples():
        assert one.alpha_low < one.alpha < one.alpha_high
        assert "Krippendorff (2004" in one.means
    titles = {one.name: one.title for one in found.taxonomy.features}
    sentence = audit_people.finding(list(figures.values()), titles)
    assert "median alpha of" in sentence and titles[frame["feature"].iloc[0]] in sentence


def test_agreement_as_an_operation(demo: Store, queue: Queue) -> None:
    found = annotate_commands.OPERATIONS["queue_agreement"](demo, queue="first")
    assert json.loads(json.dumps(found)) == found and found["annotators"] == list(PEOPLE) and found["entries"] == 90
    assert found["not_a_random_sample"] is None and len(found["features"]) == 5 and len(found["by_annotator"]) == 3
    assert found["features"][0]["alpha_low"] < found["features"][0]["alpha"]


def test_by_class_by_rater_and_pairs(demo: Store, queue: Queue) -> None:
    found = read(demo)
    topics = audit_people.by_class(found, "topic")
    assert list(topics["title"]) == ["work", "home", "play"] and topics["share"].sum() == pytest.approx(1)
    said = [[math.nan if one is None else float(one == "home") for one in row] for row in found.tables["topic"]]
    expected = krippendorff.alpha(np.array(said).T, level_of_measurement="nominal")
    assert topics["alpha"].iloc[1] == pytest.approx(expected)
    about = audit_people.by_class(found, "about")
    assert list(about["title"]) == ["money", "health", "love"] and about["specific"].between(0, 1).all()
    assert audit_people.by_class(found, "length").empty
    each = audit_people.by_rater(found, "tone")
    assert list(each["annotator"]) == list(PEOPLE) and (each["n"] == 60).all() and (each["shared"] == 60).all()
    assert (each["same_low"] < each["same"]).all() and each["n_without"].tolist() == [30, 30, 30]
    both = audit_people.pairs(found, "kind")
    assert len(both) == 3 and both["n"].tolist() == [30, 30, 30]
    row = both.iloc[0]
    table = pd.DataFrame(found.tables["kind"], columns=list(PEOPLE)).dropna(subset=[row["a"], row["b"]])
    assert row["kappa"] == pytest.approx(cohen_kappa_score(table[row["a"]], table[row["b"]]))


def test_by_annotator_shows_who_drifts(demo: Store) -> None:
    of = queues.create(demo, DEMO, "team", "first", n=120, overlap=3)
    rows = []
    for place in range(120):
        same = {**ANSWER, "kind": place % 2, "topic": ["work", "home"][place % 2]}
        tired = {**same, "kind": 1 - place % 2, "topic": "play"} if place >= 60 else same
        rows += [("ann", place, same), ("ben", place, same), ("cem", place, tired)]
    fill(demo, of, rows)
    frame = audit_people.by_annotator(read(demo)).set_index("annotator")
    assert frame.loc["cem", "first"] == 1 and frame.loc["cem", "second"] == pytest.approx(3 / 5)
    assert frame.loc["cem", "change_high"] < 0 and frame.loc["cem", "same_high"] < frame.loc["ann", "same"]
    assert (frame["answers"] == 120).all() and (frame["n_seconds"] == 120).all()
    assert ((frame["seconds_low"] <= frame["seconds"]) & (frame["seconds"] <= frame["seconds_high"])).all()


def test_a_targeted_queue_says_so_and_queues_go_together(demo: Store, queue: Queue) -> None:
    other = queues.create(
        demo, DEMO, "team", "second", "random", n=30, overlap=1, seed=9, options={"features": ["kind"]}
    )
    fill(demo, other, [("dan", place, {"kind": 1}) for place in range(30)])
    assert len(read(demo).names) == 3
    whole = read(demo, everything=True)
    assert whole.names == (*PEOPLE, "dan") and whole.sample == ""
    assert (whole.tables["topic"][:, 3] == None).all()  # noqa: E711 (elementwise)
    assert audit_people.people(demo.read(), "second").tables.keys() == {"kind"}
    aimed = queues.create(demo, DEMO, "value_imprint", "aimed", "low_confidence", n=20, options={"labeler": "builtin"})
    found = audit_people.people(demo.read(), aimed.name)
    assert found.sample.startswith("Not a random sample (“aimed”: where a labeler is least confident)")
    assert found.names == () and audit_people.features(found)[0].reason == "Nobody has answered yet."
    assert "Too few entries answered by two annotators (0 of 30)" in audit_people.finding(
        audit_people.features(found), {"value_imprint": "Value Imprint"}
    )
    assert audit_people.by_annotator(found).empty and audit_people.pairs(found, "value_imprint").empty


def test_undone_answers_and_gold_do_not_count(demo: Store) -> None:
    of = queues.create(demo, DEMO, "value_imprint", "first", n=3, overlap=2)
    for who in ("ann", "ben"):
        task = annotations.next_task(demo, of, who)
        assert task is not None
        annotations.save(demo, of, task.entry_id, who, {"value_imprint": "Wisdom/Knowledge"}, seconds=4.0)
    assert gold.settle_unanimous(demo, of, "ann") == 1
    found = read(demo)
    assert found.names == ("ann", "ben") and audit_people.features(found)[0].units == 1
    assert "“Wisdom/Knowledge”" in audit_people.features(found)[0].reason
    annotations.undo(demo, of, "ben")
    assert read(demo).names == ("ann",)


def test_against_a_labeler_and_gold_and_the_pairs_on_which_they_differ(demo: Store) -> None:
    of = queues.create(demo, DEMO, "value_imprint", "first", n=80, overlap=2)
    con = demo.read()
    data = catalog.dataset(con, DEMO)
    builtin = catalog.labeler(con, data.dataset_id, "builtin", "value_imprint")
    names = queues.asked(con, of).features[0].classes
    given = con.execute(
        "SELECT l.value FROM queue_items i JOIN labels l USING (entry_id) JOIN features f USING (feature_id) "
        "WHERE i.queue_id = ? AND l.labeler_id = ? AND f.name = 'value_imprint' ORDER BY i.position",
        [of.queue_id, builtin.labeler_id],
    ).fetchall()
    theirs = [names[int(value)] for (value,) in given]
    rng = np.random.default_rng(0)
    rows = []
    for place, label in enumerate(theirs):
        rows.append(("ann", place, {"value_imprint": label if rng.random() < 0.7 else names[rng.integers(7)]}))
        rows.append(("ben", place, {"value_imprint": label if rng.random() < 0.5 else names[rng.integers(7)]}))
    fill(demo, of, rows)
    gold.settle_unanimous(demo, of, "ann")
    con = demo.read()
    found = read(demo)
    known = audit_people.others(con, "first")
    assert known[0].kind == "gold" and builtin.labeler_id in [one.labeler_id for one in known]
    assert not any(one.kind == "person" for one in known)
    frame = audit_people.against(con, found, builtin).set_index("who")
    said = {who: [answer["value_imprint"] for name, _, answer in rows if name == who] for who in ("ann", "ben")}
    for who in ("ann", "ben"):
        assert frame.loc[who, "kappa"] == pytest.approx(cohen_kappa_score(said[who], theirs), abs=1e-10)
        assert frame.loc[who, "n"] == 80 and frame.loc[who, "ac1_low"] < frame.loc[who, "ac1"]
    same = [(a, b) for a, b, c in zip(said["ann"], theirs, said["ben"]) if a == c]
    assert frame.loc[audit_people.MAJORITY, "n"] == len(same)
    assert frame.loc[audit_people.MAJORITY, "ties"] == 80 - len(same)
    by_gold = audit_people.against(con, found, known[0]).set_index("who")
    assert by_gold.loc["ann", "agreement"] == 1 and by_gold.loc["ann", "n"] == len(same)
    who = audit_people.persons(con, "first")
    link = Filter.of(
        "disagree", taxonomy="value_imprint", labeler=who["ann"], other=who["ben"], feature="value_imprint"
    )
    differ = {e for e, (a, b) in zip(found.entries.tolist(), found.tables["value_imprint"]) if a != b}
    sides = con.execute(
        "SELECT pair_no, chosen, rejected FROM pairs WHERE dataset_id = ?", [data.dataset_id]
    ).fetchall()
    expected = {number for number, *both in sides if differ & set(both)}
    assert set(search.find(con, data.dataset_id, [link], size=500).pair_nos) == expected != set()


# --- consensus and label errors -------------------------------------------------------------------------------------


def train(home: Path, store: Store, of: Queue, truth: list[str], wrong: int = 0, version: str = "v") -> None:
    """A classifier's folder with out-of-fold chances for the queue's entries, as training writes it."""
    folder = home / "classifiers" / "topics"
    folder.mkdir(parents=True)
    names = ["work", "home", "play"]
    outputs = tuple(Output("topic", "choice", float(i)) for i in range(3))
    tuning = Tuning((1.0,) * 3, (0.0,) * 3, (0.0,) * 3)
    known = About("topics", "team", version, "linear", {}, outputs, tuning, ("ann",), (DEMO,), len(truth), "d", "", "r")
    (folder / "signet.json").write_text(json.dumps(asdict(known)), encoding="utf-8")
    (folder / "taxonomy.yaml").write_text(TAXONOMY, encoding="utf-8")
    hashes = [row[0] for row in store.read().execute(
        "SELECT replace(hash::VARCHAR, '-', '') FROM queue_items JOIN entries USING (entry_id) WHERE queue_id = ? "
        "ORDER BY position", [of.queue_id]).fetchall()]  # fmt: skip
    rng = np.random.default_rng(0)
    rows = []
    for place, (entry, label) in enumerate(zip(hashes, truth)):
        chances = rng.dirichlet(np.ones(3)) * 0.3
        chances[names.index(label)] += 0.7
        taught = (names.index(label) + (place < wrong)) % 3
        rows.append({
            "entry": entry, "column": "topic", "truth": float(taught), "value": float(names.index(label)),
            "confidence": float(chances.max()), "chances": list(chances), "group": place, "domain": DEMO,
        })  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "held_out.parquet", index=False)


def test_consensus_with_and_without_a_classifier(demo: Store, home: Path) -> None:
    of = queues.create(demo, DEMO, "team", "first", n=90, overlap=3)
    rng = np.random.default_rng(1)
    truth = [["work", "home", "play"][rng.integers(3)] for _ in range(90)]
    wrong = {"ann": 0.05, "ben": 0.25, "cem": 0.5}
    fill(demo, of, [
        (who, place, {**ANSWER, "topic": label if rng.random() > wrong[who] else "play"})
        for place, label in enumerate(truth) for who in PEOPLE
    ])  # fmt: skip
    train(home, demo, of, truth)
    con, found = demo.read(), read(demo)
    assert label_quality.trained(home, "team") == ["topics"] and label_quality.trained(home, "seal") == []
    assert [one.name for one in label_quality.columns(found)] == [
        *("kind", "tone", "topic", "about: money", "about: health", "about: love")
    ]
    entries = [row[0] for row in con.execute(
        "SELECT entry_id FROM queue_items WHERE queue_id = ? ORDER BY position", [of.queue_id]).fetchall()]  # fmt: skip
    right = dict(zip(entries, truth))
    for classifier, method in ((None, "dawid-skene"), ("topics", "crowdlab")):
        one = label_quality.consensus(con, found, "topic", home, classifier)
        assert (one.method, one.n, one.reason) == (method, 90, "")
        assert np.mean([right[e] == said for e, said in zip(one.labels["entry_id"], one.labels["said"])]) > 0.85
        people = one.annotators.set_index("annotator")
        assert min(people.loc[["ann", "ben"], "quality"]) > people.loc["cem", "quality"]
        assert people.loc["cem", "worst"] in ("work", "home") and one.labels["response"].notna().all()
    with pytest.raises(SignetError, match="learned another version"):
        label_quality.consensus(con, found, "kind", home, "topics")


def test_labels_that_look_wrong(demo: Store, home: Path) -> None:
    of = queues.create(demo, DEMO, "team", "first", n=90, overlap=1)
    truth = [["work", "home", "play"][place % 3] for place in range(90)]
    train(home, demo, of, truth, wrong=6)
    summary, found = label_quality.label_errors(demo.read(), home, "topics")
    assert summary[["title", "n", "reason"]].iloc[0].tolist() == ["Topic", 90, ""]
    assert summary["found"].iloc[0] == len(found) >= 5 and set(_places(demo, of, found["entry"])) <= set(range(6))
    assert summary["conf_low"].iloc[0] < len(found) / 90 < summary["conf_high"].iloc[0]
    assert list(found["suggested"]) == [truth[place] for place in _places(demo, of, found["entry"])]
    assert found["pair_id"].notna().all() and (found["dataset"] == DEMO).all() and (found["quality"] < 0.3).all()
    with pytest.raises(SignetError, match="No classifier"):
        label_quality.label_errors(demo.read(), home, "none")


def _places(store: Store, of: Queue, entries: pd.Series) -> list[int]:
    rows = store.read().execute(
        "SELECT replace(hash::VARCHAR, '-', ''), position FROM queue_items JOIN entries USING (entry_id) "
        "WHERE queue_id = ?", [of.queue_id]).fetchall()  # fmt: skip
    first = min(position for _, position in rows)
    place = {entry: position - first for entry, position in rows}
    return [place[entry] for entry in entries]


def test_a_queue_of_a_thousand_with_five_annotators_is_read_in_seconds(demo: Store) -> None:
    import time

    of = queues.create(demo, DEMO, "value_imprint", "first", n=500, overlap=5)
    names = queues.asked(demo.read(), of).features[0].classes
    rng = np.random.default_rng(0)
    with demo.transaction() as con:
        con.execute(
            "INSERT INTO annotations SELECT row_number() OVER (), i.queue_id, i.entry_id, 'p' || a, v.answer, '', 3, "
            "TIMESTAMP '2026-01-01', NULL FROM queue_items i, range(5) r(a), "
            "(SELECT unnest($answers) AS answer, unnest(range(500)) AS place) v "
            "WHERE i.queue_id = $queue AND v.place = (i.position + a * (i.position % 4 = 0)::INTEGER) % 500",
            {
                "queue": of.queue_id,
                "answers": [json.dumps({"value_imprint": names[rng.integers(7)]}) for _ in range(500)],
            },
        )
    start = time.process_time()
    found = read(demo)
    audit_people.features(found)
    audit_people.by_annotator(found)
    audit_people.by_class(found, "value_imprint")
    assert len(found.entries) == 500 >= MINIMUM_N
    assert time.process_time() - start < 10
