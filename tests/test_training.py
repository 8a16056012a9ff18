"""Classifiers from labels in the store: trained as a job, held out by prompt, saved, read back, used as labelers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine import audit_classifiers, classifiers, example_frames, examples, taxonomy, training
from engine.baselines import keywords, majority
from engine.client import Client
from engine.records import SignetError
from tests.conftest import wait_for

DEMO = "Signet demo"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the bundled audit and a linear head trained on its readings of Value Imprint."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGNET_HOME", str(home))
        with Client(home) as client:
            client.call("demo")
            asked = {"name": "vi", "taxonomy_name": "value_imprint", "teachers": ["reading"], "options": {"folds": 3}}
            wait_for(client, client.call("train", **asked)["job"])
    return home


@pytest.fixture
def home(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGNET_HOME", str(trained))
    return trained


def test_a_head_beats_its_baselines_on_prompts_it_has_not_seen(home: Path) -> None:
    one = audit_classifiers.judged(home, "vi")
    scores = audit_classifiers.overall(one)
    best = max(scores["majority"].estimate, scores["keywords"].estimate)
    assert one.frame["entry"].nunique() == one.known.n == 600
    assert scores["value"].conf_low > best, scores
    # Against scikit-learn, to 1e-12: macro-F1 over the classes that occur.
    from sklearn.metrics import f1_score

    expected = f1_score(one.frame["truth"], one.frame["value"], average="macro")
    assert scores["value"].estimate == pytest.approx(expected, abs=1e-12)
    assert json.loads((home / "classifiers" / "vi" / "report.json").read_text())["figures"]["macro_f1"] == (
        pytest.approx(expected, abs=1e-12)
    )
    table = audit_classifiers.by_class(one)
    assert len(table) == 7 and table["n"].sum() == 600
    assert (table["conf_low"] <= table["estimate"]).all() and (table["estimate"] <= table["conf_high"]).all()
    square = audit_classifiers.confusion(one, "value_imprint")
    assert square["n"].sum() == 600
    assert "better than its baselines" in audit_classifiers.finding(table, scores)


def test_more_labels_help_and_the_curve_says_so(home: Path) -> None:
    one = audit_classifiers.judged(home, "vi")
    learned = audit_classifiers.curve(one)
    assert learned is not None
    means = learned.points.groupby("n")["macro_f1"].mean()
    assert means.iloc[-1] > means.iloc[0] + 0.05
    assert learned.gain.conf_low <= learned.gain.estimate <= learned.gain.conf_high
    assert "more labels would bring" in audit_classifiers.outlook(learned)


def test_it_labels_a_dataset_and_keeps_silent_where_it_is_unsure(home: Path) -> None:
    with Client(home) as client:
        asked: dict[str, Any] = {"dataset": DEMO, "labeler": "classifier:vi", "taxonomy_name": "value_imprint"}
        wait_for(client, client.call("label", **asked, limit=20)["job"])
        con = client._owner.store.read()  # type: ignore[union-attr]
        sure = "SELECT median(confidence), min(confidence) FROM labels JOIN labelers USING (labeler_id) WHERE name = ?"
        row = con.execute(sure, ["classifier:vi"]).fetchone()
        assert row is not None
        least = round(float(row[0]), 3)
        wait_for(client, client.call("label", **asked, limit=20, options={"abstain_below": least})["job"])
        found = {b["labeler"]: b["labels"] for b in client.call("info", dataset=DEMO)["labelers"]
                 if b["kind"] == "classifier"}  # fmt: skip
        assert 0 < found[f"classifier:vi ({least:g}+)"] < found["classifier:vi"]
        row = con.execute(sure, [f"classifier:vi ({least:g}+)"]).fetchone()
        assert row is not None and row[1] >= np.float32(least)
        for options, words in (({"abstain_below": 1}, "abstain_below is 1"), ({"depth": 3}, "no option 'depth'")):
            with pytest.raises(SignetError, match=words):
                client.call("label", **asked, options=options)
        with pytest.raises(SignetError, match="trained for 'value_imprint'"):
            client.call("label", dataset=DEMO, labeler="classifier:vi", taxonomy_name="schwartz")
        with pytest.raises(SignetError, match="No classifier 'none'; there are: vi"):
            client.call("label", **(asked | {"labeler": "classifier:none"}))


def test_the_same_head_comes_out_of_the_same_labels(home: Path) -> None:
    before = classifiers.about(home, "vi")
    with Client(home) as client:
        asked = {"name": "vi", "taxonomy_name": "value_imprint", "teachers": ["reading"], "options": {"folds": 3}}
        wait_for(client, client.call("train", **asked)["job"])
    after = classifiers.about(home, "vi")
    assert after.revision == before.revision and after.data == before.data
    head = classifiers.load(home, "vi")
    assert head.model.logits([()], ["Here is how to do it."]).shape == (1, 7)


def test_from_pretrained_reads_the_folder(home: Path) -> None:
    from engine.frozen import FrozenHead

    folder = home / "classifiers" / "vi"
    again = FrozenHead.from_pretrained(str(folder))
    texts = ["You should see a doctor about that.", "Paris is the capital of France."]
    ours = classifiers.load(home, "vi").model.logits([(), ()], texts)
    assert np.array_equal(again.logits([(), ()], texts), ours)
    card = (folder / "README.md").read_text()
    assert "Held-out figures" in card and "| Value Imprint | Information Seeking |" in card


def test_wrong_wishes_get_a_sentence(home: Path) -> None:
    with Client(home) as client:
        good: dict[str, Any] = {"name": "x", "taxonomy_name": "value_imprint", "teachers": ["reading"]}
        for wrong, words in [
            ({"name": "No Good"}, "A classifier's name is 'No Good'"),
            ({"name": "../x"}, "A classifier's name is"),
            ({"teachers": ["nobody"]}, "No entry has a label by nobody"),
            ({"teachers": []}, "Name at least one labeler"),
            ({"options": {"fold": 3}}, "has no option 'fold'"),
            ({"options": {"folds": 0}}, "folds is 0"),
            ({"options": {"class_weight": "some"}}, "class_weight is 'some'"),
            ({"options": {"oversample": 1}}, "oversample is 1; it must be true or false"),
            ({"taxonomy_name": "nothing"}, "No taxonomy 'nothing'"),
            ({"datasets": ["nowhere"]}, "No dataset 'nowhere'"),
        ]:
            with pytest.raises(SignetError, match=words):
                client.call("train", **(good | wrong))


def test_people_count_by_majority_and_ties_do_not_count(home: Path) -> None:
    """Three annotators on three entries: two against one, a tie of two, and one alone."""
    from engine.store import ensure_labeler, ensure_taxonomy

    chosen = taxonomy.load("value_imprint")
    with Client(home) as client:
        store = client._owner.store  # type: ignore[union-attr]
        with store.transaction() as con:
            feature = ensure_taxonomy(con, chosen)["value_imprint"]
            entries = [
                row[0] for row in con.execute("SELECT entry_id FROM entries ORDER BY entry_id LIMIT 3").fetchall()
            ]
            who = [ensure_labeler(con, name, "person", "1", {}) for name in ("ana", "ben", "cy")]
            said = {(0, 0): 1, (0, 1): 1, (0, 2): 4, (1, 0): 2, (1, 1): 3, (2, 1): 5}
            con.executemany(
                "INSERT INTO labels VALUES (?, ?, ?, ?, NULL)",
                [[entries[e], feature, who[w], float(v)] for (e, w), v in said.items()],
            )
        con = store.read()
        row = con.execute("SELECT taxonomy_id FROM features WHERE feature_id = ?", [feature]).fetchone()
        assert row is not None
        listed = {t.name: t.n_entries for t in example_frames.teachers(con, row[0])}
        assert listed["people"] == 3 and next(iter(listed)) == "people"
        table = example_frames.examples(con, row[0], ["people"])
        values = examples.from_table(table, chosen.columns()).values[:, 0].tolist()
        assert sorted(values) == [1.0, 5.0]
        table = example_frames.examples(con, row[0], ["cy", "ana"])
        values = examples.from_table(table, chosen.columns()).values[:, 0].tolist()
        assert sorted(values) == [2.0, 4.0]
        with store.transaction() as con:
            con.execute("DELETE FROM labels WHERE labeler_id IN (SELECT unnest(?))", [who])


def test_nothing_of_a_prompt_is_learned_from_and_judged_on(home: Path) -> None:
    with Client(home) as client:
        con = client._owner.store.read()  # type: ignore[union-attr]
        row = con.execute("SELECT taxonomy_id FROM taxonomies WHERE name = 'seal'").fetchone()
        assert row is not None
        table = example_frames.examples(con, row[0], ["reading"])
    found = examples.from_table(table, taxonomy.load("seal").columns())
    for count in (1, 5):
        for train, out in training.splits(found, count, 0):
            assert not set(found.groups[train]) & set(found.groups[out])
    prompts = pd.Series([str(p) for p in found.prompts])
    # the sides of a pair share a group although a dialogue may diverge before its last turn
    assert found.groups.size == 600 and len(set(found.groups)) <= prompts.nunique()


def test_baselines() -> None:
    texts = ["red red apple", "apple red", "blue sky", "sky is blue"]
    truth = np.array([0.0, 0.0, 1.0, 1.0])
    assert keywords(texts, truth, ["an apple", "the sky"]).tolist() == [0.0, 1.0]
    assert keywords(["a", "b"], np.array([1.0, 0.0]), ["c"]).tolist() == [0.0]
    assert keywords(texts, np.zeros(4), ["x", "y"]).tolist() == [0.0, 0.0]
    assert majority(np.array([2.0, np.nan, 2.0, 1.0])) == 2.0 and np.isnan(majority(np.array([np.nan])))


def test_a_killed_training_starts_again_and_leaves_one_classifier(home: Path) -> None:
    """The worker dies in the middle; the owner starts another, and only a whole folder ever stands there."""
    import os
    import signal
    import time

    from engine import jobs

    with Client(home) as client:
        asked = {"name": "killed", "taxonomy_name": "value_imprint", "teachers": ["reading"], "options": {"folds": 2}}
        identity = client.call("train", **asked)["job"]
        owner = client._owner
        assert owner is not None
        deadline, killed = time.time() + 60, False
        while not killed and time.time() < deadline:
            owner.tick()
            job = jobs.require(home, identity)
            if job.path("live.json").exists():
                for process in owner._processes.values():
                    os.kill(process.pid, signal.SIGKILL)
                    killed = True
            time.sleep(0.05)
        assert killed and "killed" not in classifiers.names(home)
        wait_for(client, identity)
    assert "killed" in classifiers.names(home)
    assert not [path for path in (home / "classifiers").iterdir() if path.name.startswith(".")]
