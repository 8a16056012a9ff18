"""The Annotate page through Streamlit's own test harness: queues, labelling, undo, gold, checks, hostile text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import annotations, bundle, gold, queues
from engine.client import Client
from engine.store import Store
from engine.taxonomy import load
from pages import shared
from tests.conftest import SAMPLE, wait_for
from tests.test_pages import app, text_of

__all__ = ["app"]
DEMO = bundle.DEMO_NAME
VALUE = "value_imprint"


def held() -> Store:
    """The store that the page owns."""
    return shared.store()


def make(app: Any, taxonomy: str = VALUE, name: str = "q", **more: Any) -> queues.Queue:
    app("datasets")  # opens the store with the bundled audit
    return queues.create(held(), DEMO, taxonomy, name, **{"n": 6, **more})


def button(page: Any, label: str) -> Any:
    return next(b for b in page.button if b.label.replace("\\", "") == label)


def rows(sql: str) -> list[tuple[Any, ...]]:
    return held().read().execute(sql).fetchall()


def test_a_queue_is_made_on_the_page_and_labelled_with_one_press(app: Any) -> None:
    page = app("annotate", dataset=DEMO)
    assert "no queue yet" in text_of(page)
    page.text_input(key="new-name").set_value("first look")
    page.number_input(key="new-n").set_value(5).run()
    button(page, "Make the queue").click().run()
    assert not page.exception and "Queue “first look”: 5 entries" in page.success[0].value.replace("\\", "")
    assert "Say who you are first" in text_of(page)
    page.text_input(key="annotator").set_value("Ann").run()
    assert len([b for b in page.button if (b.key or "").startswith("value-")]) == 7
    page.text_input(key=next(t.key for t in page.text_input if t.key.startswith("note-"))).set_value("odd")
    button(page, "Wisdom/Knowledge").click().run()
    assert not page.exception
    assert rows("SELECT annotator, answer, note, seconds >= 0 FROM annotations") == [
        ("Ann", '{"value_imprint":"Wisdom/Knowledge"}', "odd", True)
    ]
    assert rows("SELECT b.name, b.kind, l.value FROM labels l JOIN labelers b USING (labeler_id) "
                "WHERE b.kind = 'person'") == [("Ann", "person", 1.0)]  # fmt: skip
    button(page, "Skip").click().run()
    assert rows("SELECT count(*) FROM annotations WHERE answer IS NULL") == [(1,)]
    button(page, "Undo").click().run()
    button(page, "Undo").click().run()
    assert rows("SELECT count(*) FROM labels JOIN labelers USING (labeler_id) WHERE kind = 'person'") == [(0,)]
    chosen = [b for b in page.button if (b.key or "").startswith("value-") and b.proto.type == "primary"]
    assert [b.label.replace("\\", "") for b in chosen] == ["Wisdom/Knowledge"], "the undone answer is shown again"
    for _ in range(5):
        button(page, "Cannot say").click().run()
    assert "Every entry of this queue has its answers" in text_of(page)


def test_the_text_is_judged_blind(app: Any) -> None:
    """Neither sides, labels, rewards, subset, nor what the dataset's note says of its pairs is on the page."""
    of = make(app, n=1, seed=5)
    entry = rows(f"SELECT entry_id FROM queue_items WHERE queue_id = {of.queue_id}")[0][0]
    subset = rows(f"SELECT subset FROM pairs WHERE chosen = {entry} OR rejected = {entry}")[0][0]
    page = app("annotate", dataset=DEMO, queue="q", annotator="Ann")
    html = "\n".join(one.proto.body for one in page.get("html"))
    everything = (text_of(page) + html).lower()
    for word in ("chosen", "rejected", "reward", "builtin", "longer answer", subset):
        assert word not in everything, word
    assert "signet-judged" in html


def test_a_form_has_a_control_for_every_kind_and_says_what_is_missing(app: Any) -> None:
    make(app, "seal")
    page = app("annotate", dataset=DEMO, queue="q", annotator="Ann")
    button(page, "Save and next").click().run()
    assert "Choose something for Sentiment" in page.error[0].value.replace("\\", "")
    button(page, "Helpful").click().run()
    button(page, "Coherent").click().run()
    button(page, "Coherent").click().run()
    button(page, "−1").click().run()
    button(page, "Law").click().run()
    button(page, "Save and next").click().run()
    assert not page.exception and not page.error
    said = json.loads(rows("SELECT answer FROM annotations")[0][0])
    assert (said["helpful"], said["coherent"], said["sentiment"], said["topics"]) == (1, 0, -1, ["Law"])
    assert rows("SELECT count(*) FROM labels JOIN labelers USING (labeler_id) WHERE kind = 'person'") == [
        (len(load("seal").columns()),)
    ]


def test_signed_values_step_through_their_signs(app: Any) -> None:
    make(app, "schwartz")
    page = app("annotate", dataset=DEMO, queue="q", annotator="Ann")
    for presses, title in ((1, "Power"), (2, "Security"), (3, "Tradition")):
        for _ in range(presses):
            button(page, title).click().run()
    button(page, "Save and next").click().run()
    said = json.loads(rows("SELECT answer FROM annotations")[0][0])
    assert (said["power"], said["security"], said["tradition"], said["hedonism"]) == (1, -1, 0, 0)


def test_an_earlier_answer_can_be_changed(app: Any) -> None:
    of = make(app)
    task = annotations.next_task(held(), of, "Ann")
    assert task is not None
    annotations.save(held(), of, task.entry_id, "Ann", {VALUE: "Wisdom/Knowledge"})
    page = app("annotate", dataset=DEMO, queue="q", annotator="Ann", view="Progress")
    assert page.dataframe[0].value["answers"].tolist() == [1]
    assert page.dataframe[1].value["answer"].tolist() == ["Wisdom/Knowledge"]
    page = app("annotate", dataset=DEMO, queue="q", annotator="Ann")
    page.session_state["annotate-edit"] = (of.queue_id, "Ann", task.entry_id)  # what the button beside the history does
    page.run()
    assert next(b.label for b in page.button if b.proto.type == "primary") == "Wisdom/Knowledge"
    page.text_input(key="annotator").set_value("Bo").run()
    assert not [b for b in page.button if (b.key or "").startswith("value-") and b.proto.type == "primary"]
    page.text_input(key="annotator").set_value("Ann").run()
    button(page, "Well-being/Peace").click().run()
    assert annotations.history(held().read(), of, "Ann")["answer"].tolist() == ['{"value_imprint":"Well-being/Peace"}']


def test_adjudication_hides_names_and_makes_gold(app: Any) -> None:
    of = make(app, n=3, overlap=2)
    picks = {"Ann": ["Wisdom/Knowledge"] * 3, "Bo": ["Wisdom/Knowledge", "Well-being/Peace", "Civility/Tolerance"]}
    for name, values in picks.items():
        for value in values:
            task = annotations.next_task(held(), of, name)
            assert task is not None
            annotations.save(held(), of, task.entry_id, name, {VALUE: value})
    page = app("annotate", dataset=DEMO, queue="q", annotator="Cy", view="Adjudicate")
    assert [m.value for m in page.metric] == ["0", "2", "1"]
    assert "Annotator A" in text_of(page) and "Bo" not in text_of(page)
    page.toggle(key="gold-names").set_value(True).run()
    assert "Bo: " in text_of(page)
    button(page, "Make the 1 unanimous entries gold").click().run()
    button(page, "Later").click().run()
    button(page, "Empathy/Helpfulness").click().run()
    assert gold.state(held().read(), of) == gold.State(2, 1, 0)
    button(page, "Undo the last decision").click().run()
    assert gold.state(held().read(), of) == gold.State(1, 2, 0)
    seal = queues.create(held(), DEMO, "seal", "s", n=1, overlap=2, options={"features": ["helpful", "topics"]})
    entry = rows(f"SELECT entry_id FROM queue_items WHERE queue_id = {seal.queue_id}")[0][0]
    annotations.save(held(), seal, entry, "Ann", {"helpful": 1, "topics": ["Law", "Education"]})
    annotations.save(held(), seal, entry, "Bo", {"helpful": 0, "topics": ["Law"]})
    page = app("annotate", dataset=DEMO, queue="s", annotator="Cy", view="Adjudicate")
    button(page, "Decide").click().run()
    assert "Choose something for Helpful" in page.error[0].value
    button(page, "Helpful").click().run()
    button(page, "Decide").click().run()
    assert not page.error
    said = json.loads(rows("SELECT answer FROM annotations WHERE annotator = 'gold' AND undone_at IS NULL "
                           "ORDER BY annotation_id DESC")[0][0])  # fmt: skip
    assert said == {"helpful": 1, "topics": ["Law"]}


def test_a_check_asks_right_or_wrong_and_shows_its_figure(app: Any) -> None:
    make(app, n=4, purpose="check", options={"labeler": "builtin"})
    page = app("annotate", dataset=DEMO, queue="q", annotator="Ann")
    button(page, "Right").click().run()
    button(page, "Wrong").click().run()
    assert "What would be right?" in text_of(page)
    next(b for b in page.button if (b.key or "").startswith("better-")).click().run()
    button(page, "Wrong").click().run()
    button(page, "Just wrong").click().run()
    button(page, "Cannot say").click().run()
    assert not page.exception
    answers = [json.loads(row[0]) for row in rows("SELECT answer FROM annotations ORDER BY annotation_id")]
    assert [one["verdicts"][VALUE] for one in answers] == ["right", "wrong", "wrong", "unsure"]
    assert [len(one["values"]) for one in answers] == [0, 1, 0, 0]
    page = app("annotate", dataset=DEMO, queue="q", annotator="Ann", view="Result")
    assert page.metric[0].value == "33.3%" and "Too few judged so far (3 of 30)" in text_of(page)
    assert page.metric[2].value == "3 of 4"


@pytest.mark.parametrize("name", ["Gold", "gold", "a\u202eb"])
def test_a_name_that_cannot_be_is_a_sentence(app: Any, name: str) -> None:
    make(app)
    page = app("annotate", dataset=DEMO, queue="q", annotator=name)
    assert "name" in page.error[0].value and not page.exception


def test_deleting_a_queue_in_use_is_a_sentence(app: Any) -> None:
    make(app)
    page = app("annotate", dataset=DEMO, queue="q", annotator="Ann")
    annotations.delete_queue(held(), "q")
    next(b for b in page.button if (b.key or "").startswith("value-")).click().run()
    assert not page.exception
    other = make(app, name="other")
    page = app("annotate", dataset=DEMO, queue="other", annotator="Ann", view="Progress")
    button(page, "Delete").click().run()
    assert not page.exception and not queues.every(held().read(), other.dataset_id)


def test_hostile_text_stays_text(app: Any, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "hostile.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "chosen": c, "rejected": r}) + "\n" for _, p, c, r in SAMPLE))
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(path), name="<b>sample</b>")["job"])
    app("datasets")
    queues.create(held(), "<b>sample</b>", VALUE, "<i>queue</i>", n=20)
    page = app("annotate", dataset="<b>sample</b>", queue="<i>queue</i>", annotator="<img src=x>")
    seen = ""
    for _ in range(11):
        assert not page.exception, page.exception
        seen += "\n".join(one.proto.body for one in page.get("html"))
        next(b for b in page.button if (b.key or "").startswith("value-")).click().run()
    assert "&lt;script&gt;" in seen and "<script>" not in seen and "U+202E" in seen and "\u202e" not in seen
    assert "Every entry of this queue" in text_of(page)
    page = app("annotate", dataset="<b>sample</b>", queue="<i>queue</i>", annotator="<img src=x>", view="Progress")
    assert not page.exception and page.dataframe[0].value["annotator"].tolist() == ["<img src=x>"]
