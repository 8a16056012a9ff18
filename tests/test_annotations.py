"""Queues, answers, labels, gold and the human check: what people say is kept once, at once, and undone whole."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from engine import annotate_commands, annotations, answers, audit_agreement, bundle, catalog, gold, human_check, queues
from engine.queues import Queue
from engine.records import SignetError
from engine.store import Store, ensure_labeler
from engine.taxonomy import load

DEMO = bundle.DEMO_NAME
VALUE = "value_imprint"


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
    with Store(home) as store:
        yield store


def ask(store: Store, operation: str, **arguments: Any) -> dict[str, Any]:
    return annotate_commands.OPERATIONS[operation](store, **arguments)


def entries(store: Store, of: Queue) -> list[int]:
    rows = store.read().execute("SELECT entry_id FROM queue_items WHERE queue_id = ? ORDER BY position", [of.queue_id])
    return [row[0] for row in rows.fetchall()]


def labels(store: Store, annotator: str, taxonomy: str = VALUE) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for entry, name, value in (
        store.read().execute(
            "SELECT l.entry_id, f.name, l.value FROM labels l JOIN features f USING (feature_id) JOIN taxonomies t "
            "USING (taxonomy_id) JOIN labelers b USING (labeler_id) WHERE b.name = ? AND t.name = ? "
            "AND b.kind IN ('person', 'gold')",
            [annotator, taxonomy],
        )
    ).fetchall():
        assert name not in found.setdefault(entry, {}), "a label stands twice"
        found[entry][name] = value
    return found


def say(store: Store, of: Queue, annotator: str, value: str = "Wisdom/Knowledge", **more: Any) -> int:
    task = annotations.next_task(store, of, annotator)
    assert task is not None
    annotations.save(store, of, task.entry_id, annotator, {VALUE: value}, **more)
    return task.entry_id


# --- drawing --------------------------------------------------------------------------------------------------------


def test_a_random_queue_is_seeded_and_holds_every_entry_once(demo: Store) -> None:
    one = queues.create(demo, DEMO, VALUE, "one", n=80, seed=3)
    two = queues.create(demo, DEMO, VALUE, "two", n=80, seed=3)
    three = queues.create(demo, DEMO, VALUE, "three", n=80, seed=4)
    assert entries(demo, one) == entries(demo, two) != entries(demo, three)
    assert len(set(entries(demo, one))) == 80 == one.n and one.is_random_sample
    rest = queues.create(demo, DEMO, VALUE, "rest", n=1000, options={"fresh": True})
    assert not set(entries(demo, rest)) & {*entries(demo, one), *entries(demo, three)} and rest.is_random_sample
    part = queues.create(demo, DEMO, VALUE, "part", n=1000, options={"subset": "daily"})
    assert 0 < part.n < 600


def test_a_stratified_queue_is_even_and_knows_its_weights(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "even", "stratified", 70, options={"labeler": "reading"})
    strata = of.params["strata"]
    assert {one["drawn"] for one in strata.values()} == {10} and not of.is_random_sample
    assert sum(one["population"] for one in strata.values()) == 600
    with pytest.raises(SignetError, match="one feature"):
        queues.create(demo, DEMO, "seal", "many", "stratified", 10, options={"labeler": "reading"})
    of = queues.create(
        demo, DEMO, "seal", "some", "stratified", 20, options={"labeler": "reading", "feature": "insult"}
    )
    assert {key: one["drawn"] for key, one in of.params["strata"].items()} == {"0": 10, "1": 10}


def test_targeted_queues_hold_what_they_promise(demo: Store) -> None:
    con = demo.read()
    low = queues.create(demo, DEMO, VALUE, "low", "low_confidence", 30, options={"labeler": "builtin"})
    data = catalog.dataset(con, DEMO)
    by, other = (catalog.labeler(con, data.dataset_id, name, VALUE) for name in ("builtin", "reading"))
    rows = con.execute(
        "SELECT entry_id, value, confidence FROM labels JOIN features USING (feature_id) "
        "WHERE labeler_id = ? AND taxonomy_id = ? AND entry_id IN (SELECT chosen FROM pairs UNION "
        "SELECT rejected FROM pairs)",  # rewrites have labels too
        [by.labeler_id, by.taxonomy_id],
    ).df()
    sure = rows.set_index("entry_id")["confidence"]
    assert [sure[entry] for entry in entries(demo, low)] == sorted(sure)[:30]
    read = con.execute(
        "SELECT entry_id, value FROM labels JOIN features USING (feature_id) WHERE labeler_id = ? AND taxonomy_id = ?",
        [other.labeler_id, other.taxonomy_id],
    ).df()
    both = rows.merge(read, on="entry_id")
    conflict = queues.create(
        demo, DEMO, VALUE, "conflict", "conflict", 1000, options={"labeler": "builtin", "other": "reading"}
    )
    assert set(entries(demo, conflict)) == set(both.loc[both["value_x"] != both["value_y"], "entry_id"])
    options = {"models": ["builtin-pre", "builtin-post"]}
    suspects = queues.create(demo, DEMO, VALUE, "suspects", "suspects", 20, options=options)
    pairs = con.execute("SELECT chosen, rejected FROM pairs").fetchall()
    held = set(entries(demo, suspects))
    assert suspects.n == 20 and all((c in held) == (r in held) for c, r in pairs), "a suspect pair lacks a side"
    with pytest.raises(SignetError, match="no confidence"):
        queues.create(demo, DEMO, VALUE, "none", "low_confidence", 5, options={"labeler": "reading"})


def test_low_consistency_orders_as_the_consistency_table_does(demo: Store) -> None:
    """Three samples of a language model, drawn from the reading with noise; shares as in audit_agreement."""
    con = demo.read()
    data = catalog.dataset(con, DEMO)
    reading = catalog.labeler(con, data.dataset_id, "reading", VALUE)
    with demo.transaction() as writing:
        for k in (1, 2, 3):
            number = ensure_labeler(writing, f"test-lm (sample {k})", "lm", "1", {"sample": k})
            writing.execute(
                "INSERT INTO labels SELECT entry_id, feature_id, $new, "
                "(value + (hash(entry_id, $new) % 4 = 0)::INT) % 7, "
                "NULL FROM labels JOIN features USING (feature_id) WHERE labeler_id = $old AND taxonomy_id = $t",
                {"new": number, "old": reading.labeler_id, "t": reading.taxonomy_id},
            )
    options = {"labeler": "test-lm (sample 2)"}
    of = queues.create(demo, DEMO, VALUE, "shaky", "low_consistency", 60, options=options)
    group = next(iter(audit_agreement.samples(catalog.labelers(demo.read(), data.dataset_id)).values()))
    _, table = audit_agreement.consistency(demo.read(), data.dataset_id, group, 600)
    ids = {
        pair: {"chosen": c, "rejected": r}
        for pair, c, r in con.execute("SELECT pair_id, chosen, rejected FROM pairs").fetchall()
    }
    shares = {ids[row.pair_id][row.side]: row.share for row in table.itertuples()}
    drawn = [shares[entry] for entry in entries(demo, of)]
    assert drawn == sorted(shares.values())[:60] and max(drawn) < 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "  "}, "1 to 100 printable"),
        ({"strategy": "best"}, "No strategy 'best'"),
        ({"purpose": "play"}, "purpose is one of"),
        ({"n": 0}, "1 to 100,000 entries"),
        ({"overlap": 99}, "annotators an entry"),
        ({"options": {"colour": "red"}}, "no option 'colour'"),
        ({"options": {"features": ["nope"]}}, "no feature 'nope'"),
        ({"options": {"subset": "nowhere"}}, "Nothing to draw"),
        ({"strategy": "conflict", "options": {"labeler": "reading"}}, "needs the option 'other'"),
        ({"strategy": "suspects"}, "'models'"),
        ({"purpose": "check"}, "needs the labeler"),
        ({"purpose": "check", "strategy": "conflict"}, "at random"),
        ({"strategy": "low_consistency", "options": {"labeler": "reading"}}, "once only"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(demo: Store, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SignetError, match=sentence):
        queues.create(demo, DEMO, VALUE, **{"name": "q", **change})
    queues.create(demo, DEMO, VALUE, "q", n=2)
    with pytest.raises(SignetError, match="exists"):
        queues.create(demo, DEMO, VALUE, "q", n=2)


# --- answering ------------------------------------------------------------------------------------------------------


def test_an_answer_is_labels_at_once_and_undoing_takes_them_away(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "q", n=5)
    classes = load(VALUE).features[0].classes
    first = say(demo, of, "Ann", classes[3], note=" hm ", seconds=2.5)
    second = say(demo, of, "Ann", classes[1])
    assert labels(demo, "Ann") == {first: {VALUE: 3.0}, second: {VALUE: 1.0}}
    assert [one.name for one in catalog.labelers(demo.read(), of.dataset_id) if one.kind == "person"] == ["Ann"]
    annotations.save(demo, of, first, "Ann", {VALUE: classes[5]}, edit=True)
    assert labels(demo, "Ann")[first] == {VALUE: 5.0}
    task = annotations.undo(demo, of, "Ann")
    assert task is not None and task.entry_id == first and labels(demo, "Ann")[first] == {VALUE: 3.0}
    task = annotations.undo(demo, of, "Ann")
    assert task is not None and task.entry_id == second and task.answer == {VALUE: classes[1]}
    assert labels(demo, "Ann") == {first: {VALUE: 3.0}}
    again = annotations.next_task(demo, of, "Ann")
    assert again is not None and again.entry_id == second, "what was undone comes next"
    counts = annotations.counts(demo.read(), of, "Ann")
    assert (counts.n, counts.finished, counts.mine, counts.today) == (5, 1, 1, 1)
    history = annotations.history(demo.read(), of, "Ann")
    assert history["entry_id"].tolist() == [first] and history["note"].tolist() == ["hm"]
    assert annotations.undo(demo, of, "Ann", act=12345) is None, "a second click on Undo undoes nothing more"
    annotations.undo(demo, of, "Ann")
    assert annotations.undo(demo, of, "Ann") is None and labels(demo, "Ann") == {}


def test_a_double_click_counts_once_and_a_change_needs_edit(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "q", n=5)
    entry = say(demo, of, "Ann")
    one = annotations.save(demo, of, entry, "Ann", {VALUE: "Wisdom/Knowledge"})
    assert one == annotations.save(demo, of, entry, "Ann", {VALUE: "Wisdom/Knowledge"})
    with pytest.raises(SignetError, match="already"):
        annotations.save(demo, of, entry, "Ann", {VALUE: "Well-being/Peace"})
    assert demo.read().execute("SELECT count(*) FROM annotations").fetchone() == (1,)
    task = annotations.next_task(demo, of, "Ann")
    assert task is not None
    assert annotations.skip(demo, of, task.entry_id, "Ann") == annotations.skip(demo, of, task.entry_id, "Ann")


def test_what_was_skipped_comes_last_and_can_be_undone(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "q", n=3)
    order = entries(demo, of)
    task = annotations.next_task(demo, of, "Ann")
    assert task is not None and task.entry_id == order[0]
    annotations.skip(demo, of, order[0], "Ann", "unclear")
    assert [say(demo, of, "Ann") for _ in range(3)] == [order[1], order[2], order[0]]
    assert annotations.next_task(demo, of, "Ann") is None
    assert annotations.why_none(demo.read(), of, "Ann") == "Every entry of this queue has its answers."
    annotations.undo(demo, of, "Ann")
    assert annotations.progress(demo.read(), of).iloc[0][["answers", "skipped"]].tolist() == [2, 1]


def test_overlap_claims_and_a_finished_entry(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "q", n=4, overlap=2)
    order = entries(demo, of)
    assert say(demo, of, "Ann") == order[0]
    bo = annotations.next_task(demo, of, "Bo")
    assert bo is not None and bo.entry_id == order[0], "entries begun come first"
    cy = annotations.next_task(demo, of, "Cy")
    assert cy is not None and cy.entry_id == order[1], "the second answer of the first entry is with Bo"
    with demo.transaction() as con:  # Bo leaves for half an hour
        con.execute("UPDATE claims SET claimed_at = claimed_at - INTERVAL 30 MINUTE WHERE annotator = 'Bo'")
    annotations.skip(demo, of, order[1], "Cy")
    assert say(demo, of, "Cy") == order[0]
    with pytest.raises(SignetError, match="meanwhile"):
        annotations.save(demo, of, order[0], "Bo", {VALUE: "Wisdom/Knowledge"})
    assert labels(demo, "Bo") == {}
    # An earlier annotator may still change what they said of a finished entry.
    annotations.save(demo, of, order[0], "Ann", {VALUE: "Well-being/Peace"}, edit=True)


def test_one_claim_each_and_nobody_waits_for_a_claim_of_their_own(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "q", n=2)
    first, second = (annotations.next_task(demo, of, name) for name in ("Ann", "Bo"))
    assert first and second and first.entry_id != second.entry_id
    assert annotations.next_task(demo, of, "Cy") is None
    assert "with other annotators" in annotations.why_none(demo.read(), of, "Cy")
    again = annotations.next_task(demo, of, "Ann")
    assert again and again.entry_id == first.entry_id
    assert demo.read().execute("SELECT count(*) FROM claims").fetchone() == (2,)


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\x00b", "new\u202ename", "Gold"])
def test_names_that_cannot_be(demo: Store, name: str) -> None:
    of = queues.create(demo, DEMO, VALUE, "q", n=2)
    with pytest.raises(SignetError, match="name"):
        annotations.next_task(demo, of, name)


def test_impossible_answers_leave_nothing_behind(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "q", n=2)
    task = annotations.next_task(demo, of, "Ann")
    assert task is not None
    for wrong in ({VALUE: "Greed"}, {}, {VALUE: "Wisdom/Knowledge", "other": 1}, "Wisdom/Knowledge", {VALUE: 1}):
        with pytest.raises(SignetError):
            annotations.save(demo, of, task.entry_id, "Ann", wrong)
    outside = next(e for e in range(1, 600) if e not in entries(demo, of))
    with pytest.raises(SignetError, match="does not hold"):
        annotations.save(demo, of, outside, "Ann", {VALUE: "Wisdom/Knowledge"})
    with pytest.raises(SignetError, match="note"):
        annotations.save(demo, of, task.entry_id, "Ann", {VALUE: "Wisdom/Knowledge"}, note="x" * 5000)
    assert demo.read().execute("SELECT count(*) FROM annotations").fetchone() == (0,) and labels(demo, "Ann") == {}


def test_answers_of_every_kind_become_labels_and_come_back() -> None:
    seal, schwartz = load("seal"), load("schwartz")
    raw: dict[str, Any] = {f.name: 0 for f in seal.features}
    raw |= {
        "helpful": True,
        "sentiment": -1,
        "topics": ["Law", "Education"],
        "discrimination_types": [],
        "honest": None,
    }
    said = answers.checked(seal, raw)
    found = answers.as_labels(seal, said)
    assert found["helpful"] == 1 and found["sentiment"] == -1 and "honest" not in found
    assert [name for name, value in found.items() if name.startswith("topics: ") and value] == [
        "topics: Law", "topics: Education"]  # fmt: skip
    assert answers.from_labels(seal, found) == {name: one for name, one in said.items() if name != "honest"}
    assert answers.to_text(said) == answers.to_text(answers.checked(seal, dict(reversed(said.items()))))
    for wrong in ({"helpful": 2}, {"helpful": "yes"}, {"sentiment": 0.5}, {"topics": "Law"}, {"topics": ["Cats"]}):
        with pytest.raises(SignetError):
            answers.checked(seal, raw | wrong)
    assert set(answers.as_labels(schwartz, dict.fromkeys((f.name for f in schwartz.features), -1)).values()) == {-1.0}


def test_two_queues_of_a_taxonomy_merge_feature_by_feature(demo: Store) -> None:
    """Asked for one feature in one queue and for two in another: the latest answer to each stands."""
    a = queues.create(demo, DEMO, "seal", "a", n=600, options={"features": ["helpful"]})
    b = queues.create(demo, DEMO, "seal", "b", n=600, options={"features": ["helpful", "honest"]})
    entry = entries(demo, a)[0]
    annotations.save(demo, a, entry, "Ann", {"helpful": 1})
    annotations.save(demo, b, entry, "Ann", {"helpful": 0, "honest": 1})
    assert labels(demo, "Ann", "seal") == {entry: {"helpful": 0, "honest": 1}}
    annotations.undo(demo, b, "Ann")
    assert labels(demo, "Ann", "seal") == {entry: {"helpful": 1}}
    annotations.save(demo, b, entry, "Ann", {"helpful": None, "honest": 1})
    assert labels(demo, "Ann", "seal") == {entry: {"honest": 1}}
    with pytest.raises(SignetError, match="holds 1 answers"):
        annotations.delete_queue(demo, "b")
    annotations.delete_queue(demo, "b", answered=True)
    assert labels(demo, "Ann", "seal") == {entry: {"helpful": 1}}
    assert [one.name for one in queues.every(demo.read())] == ["a"]


def test_many_at_once_lose_and_double_nothing(demo: Store) -> None:
    """Four annotators in threads on one queue of 30 with overlap 2: 60 answers, two each, no annotator twice."""
    of = queues.create(demo, DEMO, VALUE, "q", n=30, overlap=2)
    classes = load(VALUE).features[0].classes
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            while task := annotations.next_task(demo, of, name):
                annotations.save(demo, of, task.entry_id, name, {VALUE: classes[task.entry_id % 7]})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"person {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    rows = demo.read().execute("SELECT entry_id, annotator, annotation_id FROM annotations").df()
    assert len(rows) == 60 and rows["annotation_id"].is_unique
    assert (rows.groupby("entry_id")["annotator"].nunique() == 2).all() and len(rows.groupby("entry_id")) == 30
    assert sum(len(labels(demo, f"person {i}")) for i in range(4)) == 60
    assert annotations.counts(demo.read(), of).finished == 30
    assert demo.read().execute("SELECT count(*) FROM claims").fetchone() == (0,)


def test_deleting_the_dataset_deletes_its_queues(demo: Store) -> None:
    from engine import commands

    of = queues.create(demo, DEMO, VALUE, "q", n=5)
    say(demo, of, "Ann")
    commands.delete_dataset(demo, DEMO)
    for table in ("queues", "queue_items", "annotations", "claims", "labels"):
        assert demo.read().execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


# --- gold -----------------------------------------------------------------------------------------------------------


def test_unanimous_and_decided_entries_become_gold(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "q", n=4, overlap=2)
    classes = load(VALUE).features[0].classes
    order = entries(demo, of)
    for name, picks in (("Ann", (0, 1, 2, 3)), ("Bo", (0, 1, 5))):
        for pick in picks:
            say(demo, of, name, classes[pick])
    assert gold.state(demo.read(), of) == gold.State(0, 1, 2)
    assert gold.settle_unanimous(demo, of, "Ann") == 2 and gold.settle_unanimous(demo, of, "Ann") == 0
    assert gold.open_conflicts(demo.read(), of) == [order[2]]
    given = gold.conflict(demo.read(), of, order[2])
    assert {who: said[VALUE] for who, said, _ in given.given} == {"Ann": classes[2], "Bo": classes[5]}
    gold.decide(demo, of, order[2], {VALUE: classes[6]}, "Cy")
    assert labels(demo, "gold") == {order[0]: {VALUE: 0}, order[1]: {VALUE: 1}, order[2]: {VALUE: 6}}
    kinds = {one.name: one.kind for one in catalog.labelers(demo.read(), of.dataset_id)}
    assert kinds["gold"] == "gold" and kinds["Ann"] == "person"
    assert gold.state(demo.read(), of) == gold.State(3, 0, 0)
    # A later change of mind opens an entry that was gold because all agreed, and only that one.
    annotations.save(demo, of, order[0], "Ann", {VALUE: classes[4]}, edit=True)
    annotations.save(demo, of, order[2], "Ann", {VALUE: classes[4]}, edit=True)
    assert gold.open_conflicts(demo.read(), of) == [order[0]]
    gold.decide(demo, of, order[0], {VALUE: classes[4]}, "Cy")
    assert labels(demo, "gold")[order[0]] == {VALUE: 4}
    assert gold.take_back(demo, of) == order[0] and labels(demo, "gold")[order[0]] == {VALUE: 0}
    assert gold.take_back(demo, of, order[2]) == order[2] and order[2] not in labels(demo, "gold")
    assert len(annotations.progress(demo.read(), of)) == 2, "gold is nobody's answer"
    with pytest.raises(SignetError, match="fewer than two"):
        gold.decide(demo, of, order[3], {VALUE: classes[0]}, "Cy")


# --- the human check ------------------------------------------------------------------------------------------------


def test_a_check_ends_in_its_figure(demo: Store) -> None:
    of = queues.create(demo, DEMO, VALUE, "c", n=40, purpose="check", options={"labeler": "builtin"})
    expected: dict[str, list[bool]] = {}
    for i in range(40):
        task = annotations.next_task(demo, of, "Ann")
        assert task is not None and set(task.shown) == {VALUE}
        verdict = "unsure" if i < 4 else "wrong" if i < 10 else "right"
        other = "Well-being/Peace" if task.shown[VALUE] != "Well-being/Peace" else "Wisdom/Knowledge"
        values = {VALUE: other} if verdict == "wrong" and i % 2 else {}
        annotations.save(demo, of, task.entry_id, "Ann", {"verdicts": {VALUE: verdict}, "values": values})
        if verdict != "unsure":
            expected.setdefault(task.shown[VALUE], []).append(verdict == "right")
    found = human_check.results(demo.read(), of)
    low, high = proportion_confint(30, 36, method="wilson")
    assert found.right.estimate == 30 / 36 and abs(found.right.conf_low - low) < 1e-12
    assert abs(found.right.conf_high - high) < 1e-12 and (found.judged, found.unsure, found.total) == (36, 4, 40)
    table = found.by_class.set_index("predicted")
    for name, judged in expected.items():
        assert table.loc[name, ["n", "right"]].tolist() == [len(judged), sum(judged)]
    assert len(found.wrong) == 6 and (found.wrong["better"] != "").sum() == 3
    assert labels(demo, "Ann") == {}, "verdicts given in sight of a label are no labels"
    from engine import search
    from engine.filters import Filter

    pairs = search.find(demo.read(), of.dataset_id, (Filter.of("judged", queue="c", value="wrong"),), "", "as imported",
                        None, 0, 100)  # fmt: skip
    assert pairs.filtered == found.wrong["pair_id"].nunique()
    shown = ask(demo, "check_results", queue="c")
    assert shown["right"] == 30 / 36 and len(shown["wrong"]) == 6
    with pytest.raises(SignetError, match="for labelling"):
        human_check.results(demo.read(), queues.create(demo, DEMO, VALUE, "l", n=2))


def test_a_check_of_several_features_by_several_people(demo: Store) -> None:
    options = {"labeler": "reading", "features": ["helpful", "sentiment"]}
    of = queues.create(demo, DEMO, "seal", "c", n=2, overlap=3, purpose="check", options=options)
    first, second = entries(demo, of)
    verdicts = {"Ann": ("right", "wrong"), "Bo": ("right", "wrong"), "Cy": ("right", "right")}
    for name, (helpful, sentiment) in verdicts.items():
        for entry in (first, second):
            tone = sentiment if entry == first else "right"
            annotations.save(demo, of, entry, name, {"verdicts": {"helpful": helpful, "sentiment": tone}})
    found = human_check.results(demo.read(), of)
    assert (found.right.estimate, found.judged) == (0.5, 2)
    assert found.wrong[["entry_id", "feature"]].values.tolist() == [[first, "Sentiment"]]
    assert found.by_annotator.set_index("annotator")["right"].to_dict() == {"Ann": 3, "Bo": 3, "Cy": 4}
    for wrong in (
        {"verdicts": {"helpful": "right"}},
        {"verdicts": {"helpful": "right", "sentiment": "maybe"}},
        {"verdicts": {"helpful": "right", "sentiment": "right"}, "values": {"sentiment": 1}},
        {"verdicts": {"helpful": "right", "sentiment": "right", "honest": "right"}},
    ):
        with pytest.raises(SignetError):
            annotations.save(demo, of, first, "Ann", wrong, edit=True)


# --- operations -----------------------------------------------------------------------------------------------------


def test_operations_speak_plain_json(demo: Store) -> None:
    made = ask(demo, "queue_create", dataset=DEMO, taxonomy_name=VALUE, name="q", n=2, overlap=2)
    assert made["entries"] == 2 and made["random_sample"] is True
    for name, value in (("Ann", "Wisdom/Knowledge"), ("Bo", "Well-being/Peace")):
        for _ in range(2):
            task = ask(demo, "annotate_next", queue="q", annotator=name)
            assert task["answer"] is None and len(task["asked"][0]["classes"]) == 7
            ask(demo, "annotate_save", queue="q", annotator=name, entry=task["entry"], answer={VALUE: value})
    done = ask(demo, "annotate_next", queue="q", annotator="Ann")
    assert done["entry"] is None and done["reason"]
    waiting = ask(demo, "adjudicate", queue="q", by="Cy")["open"]
    assert len(waiting) == 2 and {one["annotator"] for one in waiting[0]["answers"]} == {"Ann", "Bo"}
    now = ask(demo, "adjudicate", queue="q", by="Cy", entry=waiting[0]["entry"], answer={VALUE: "Wisdom/Knowledge"})
    assert (now["gold"], now["conflicts"]) == (1, 1)
    assert ask(demo, "adjudicate", queue="q", by="Cy", unanimous=True)["taken"] == 0
    assert ask(demo, "adjudicate", queue="q", by="Cy", undo=True) == {
        "queue": "q", "gold": 0, "conflicts": 2, "unanimous": 0, "taken": 1}  # fmt: skip
    assert ask(demo, "annotate_undo", queue="q", annotator="Bo")["mine"] == 1
    rows = ask(demo, "annotate_answers", queue="q")["answers"]
    assert pd.DataFrame(rows)["annotator"].value_counts().to_dict() == {"Ann": 2, "Bo": 1}
    listed = ask(demo, "queues", dataset=DEMO)["queues"]
    assert [one["queue"] for one in listed] == ["q"] and listed[0]["annotators"][0]["annotator"] == "Ann"
    assert ask(demo, "queue_delete", name="q", answered=True) == {"deleted": "q", "entries": 2, "answers": 3}
    with pytest.raises(SignetError, match="No queue"):
        ask(demo, "annotate_next", queue="q", annotator="Ann")
