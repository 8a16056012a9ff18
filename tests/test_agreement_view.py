"""The Agreement view of Annotate through Streamlit: empty, filled, drifting people, targeted, hostile names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import annotations, bundle, queues
from engine.queues import Queue
from engine.store import Store
from tests.test_audit_people import ANSWER, TAXONOMY, fill, train
from tests.test_pages import app, text_of

__all__ = ["app"]
DEMO = bundle.DEMO_NAME
HOSTILE = "<b>eve</b> $x$ :red[y]"


@pytest.fixture
def team(home: Path) -> None:
    (home / "taxonomies").mkdir()
    (home / "taxonomies" / "team.yaml").write_text(TAXONOMY, encoding="utf-8")


def opened(app: Any) -> Store:
    from pages import shared

    app("datasets")  # makes the store with the bundled audit
    return shared.store()


def three_people(store: Store) -> Queue:
    of = queues.create(store, DEMO, "team", "first", n=70, overlap=3)
    rng = np.random.default_rng(0)
    rows = []
    for place in range(70):
        truth = {**ANSWER, "kind": place % 2, "topic": ["work", "home", "play"][place % 3], "tone": place % 3 - 1,
                 "length": float(place % 5), "about": [["money"], ["love", "health"], []][place % 3]}  # fmt: skip
        for who, right in (("ann", 0.95), ("ben", 0.8), (HOSTILE, 0.8)):
            tired = who == HOSTILE and place >= 35
            wrong = {**ANSWER, "topic": "play", "kind": 1 - place % 2, "about": ["love"], "tone": 1}
            rows.append((who, place, truth if rng.random() < (0.1 if tired else right) else wrong))
    fill(store, of, rows)
    return of


def test_agreement_of_three_people(app: Any, team: None, home: Path) -> None:
    store = opened(app)
    three_people(store)
    page = app("annotate", view="Agreement", queue="first")
    said = text_of(page)
    assert "People agree with a median alpha of" in page.subheader[0].value
    assert {m.label: m.value for m in page.metric} == {
        "Annotators": "3", "Entries answered": "70", "By two or more": "70", "Cannot say": "0"
    }  # fmt: skip
    features = page.dataframe[0].value
    assert len(features) == 5 and {"alpha_low", "ac1", "n_units", "means"} <= set(features.columns)
    assert "Krippendorff (2004" in said and "Not a random sample" not in said
    assert any("Two by two" in m.value for m in page.markdown)
    page.selectbox(key="agreement-feature").set_value("about").run()
    assert not page.exception and "one class against the rest" not in text_of(page)
    page = app("annotate", view="Agreement", queue="first", look="Annotators")
    assert "less like the others' in the second half" in page.subheader[0].value.replace("\\", "")
    assert "<b>" not in page.subheader[0].value.replace("\\<b\\>", "")
    assert len(page.dataframe[0].value) == 3
    page = app("annotate", view="Agreement", queue="first", look="Consensus")
    assert "consensus labels have a chance below 80%" in page.subheader[0].value
    assert list(page.dataframe[0].value["n"]) == [70, 70, 70]


def test_against_gold_and_suspect_labels(app: Any, team: None, home: Path) -> None:
    from engine import gold

    store = opened(app)
    of = three_people(store)
    page = app("annotate", view="Agreement", queue="first", look="Against a labeler")
    assert "Nobody but people has labelled" in text_of(page)
    page = app("annotate", view="Agreement", queue="first", look="Suspect labels")
    assert "Train a classifier on these labels first" in text_of(page)
    gold.settle_unanimous(store, of, "ann")
    train(home, store, of, [["work", "home", "play"][place % 3] for place in range(70)], wrong=6)
    page = app("annotate", view="Agreement", queue="first", look="Against a labeler")
    assert "Gold is made of these people's answers" in text_of(page) and not page.error
    page = app("annotate", view="Agreement", queue="first", look="Suspect labels")
    assert "of 70 labels that the classifier learned from look wrong" in page.subheader[0].value
    assert {"given", "suggested", "pair_id"} <= set(page.dataframe[1].value.columns)
    page = app("annotate", view="Agreement", queue="first", look="Consensus")
    page.selectbox(key="consensus-column").set_value("topic")
    page.selectbox(key="consensus-by").set_value("topics").run()
    assert not page.exception and not page.error and "CROWDLAB" in text_of(page)
    page.selectbox(key="consensus-column").set_value("kind").run()
    assert "learned another version" in text_of(page)


def test_empty_and_targeted_queues(app: Any) -> None:
    store = opened(app)
    queues.create(
        store, DEMO, "value_imprint", "aimed", "low_confidence", n=4, overlap=2, options={"labeler": "builtin"}
    )
    page = app("annotate", view="Agreement", queue="aimed")
    assert "Not a random sample" in text_of(page) and "Nobody has answered yet" in text_of(page)
    of = queues.queue(store.read(), "aimed")
    for who in ("ann", "ben"):
        task = annotations.next_task(store, of, who)
        assert task is not None
        annotations.save(store, of, task.entry_id, who, {"value_imprint": "Wisdom/Knowledge"})
    for look in ("Features", "Annotators", "Against a labeler", "Consensus"):
        page = app("annotate", view="Agreement", queue="aimed", look=look)
        assert not page.exception and not page.error
        if look == "Features":
            assert "Too few entries answered by two annotators (1 of 30)" in page.subheader[0].value.replace("\\", "")
            assert "nothing to tell agreement from chance by" in text_of(page)
        if look == "Consensus":
            assert "Two annotators" in text_of(page)
    assert json.dumps(queues.every(store.read())[0].params)
