"""The Taxonomies page: a newcomer's taxonomy in four steps, forms and YAML, versions, files, drafts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from engine import annotations as acts
from engine import queues, taxonomy
from pages import shared
from tests import test_pages
from tests.fakes import FakeOpenAI
from tests.test_pages import app

__all__ = ["app"]
LINES = "Formal: as in a letter.\nCasual: as among friends.\nNeutral: neither of the two."


def text_of(page: Any) -> str:
    return test_pages.text_of(page) + "\n".join(one.value for one in page.success).replace("\\", "")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNET_API_KEY", "none-needed-here")


def press(page: Any, label: str) -> Any:
    next(button for button in page.button if button.label == label).click().run()
    assert not page.exception, page.exception
    return page


def new_tone(app: Any) -> Any:
    """A newcomer's path: New, a title, three lines, Save."""
    page = app("taxonomies", view="New")
    page.text_input(key="new-title").set_value("Tone of voice").run()
    page.text_area(key="new-lines").set_value(LINES).run()
    return press(page, "Save")


def test_a_newcomers_three_classes_take_four_steps(app: Any, home: Path) -> None:
    began = time.monotonic()
    page = new_tone(app)
    assert "Saved tone_of_voice" in text_of(page) and "Formal: as in a letter." in text_of(page).replace("*", "")
    assert (home / "taxonomies" / "tone_of_voice.yaml").exists()
    assert taxonomy.load("tone_of_voice").features[0].classes == ("Formal", "Casual", "Neutral")
    assert time.monotonic() - began < 60
    assert "yours" in text_of(page) and page.query_params["view"] in ("Read", ["Read"])


def test_every_view_of_every_taxonomy_draws(app: Any) -> None:
    page = app("taxonomies")
    assert {"schwartz", "seal", "surface", "value_imprint"} <= set(page.dataframe[0].value["name"])
    seal = page.dataframe[0].value.set_index("name").loc["seal"]
    assert seal["labels"] > 0 and "reading" in seal["labelled by"]
    for name in taxonomy.available()[0]:
        for view in ("Read", "Versions", "Edit"):
            opened = app("taxonomies", view=view, taxonomy=name)
            assert not opened.error, (name, view, opened.error[0].value)
            assert opened.selectbox(key="taxonomy").value == name


def test_the_form_changes_what_the_yaml_says_and_back(app: Any) -> None:
    new_tone(app)
    first = taxonomy.load("tone_of_voice").version
    page = app("taxonomies", view="Edit", taxonomy="tone_of_voice")
    assert "Nothing has changed since version" in text_of(page)
    table = next(one for one in page.data_editor if "classes" in (one.key or ""))
    assert list(table.value["name"]) == ["Formal", "Casual", "Neutral"]
    page.session_state[table.key] = {
        "edited_rows": {0: {"definition": "Changed <b>here</b>."}}, "deleted_rows": [],
        "added_rows": [{"name": "Curt", "definition": "Hardly a word."}],
    }  # fmt: skip
    page.run()
    assert not page.exception and "Valid: 4 classes" in text_of(page)
    next(one for one in page.button_group if one.key == "editor-view-tone_of_voice").set_value("YAML").run()
    (area,) = [one for one in page.text_area if one.key.startswith("t-yaml")]
    assert "definition: Changed <b>here</b>." in area.value
    area.set_value(area.value.replace("Curt", "Terse") + "# a remark\n").run()
    press(page, "Save as a new version")
    saved = taxonomy.load("tone_of_voice")
    assert saved.version != first and saved.features[0].classes[-1] == "Terse" and "# a remark" in saved.text
    versions = app("taxonomies", view="Versions", taxonomy="tone_of_voice")
    assert len(versions.dataframe[0].value) == 2
    assert "1 feature changed" in text_of(versions)
    assert "+  - name: Terse" in versions.code[0].value


def test_a_mistake_is_named_by_row_and_field(app: Any) -> None:
    page = app("taxonomies", view="New")
    page.text_input(key="new-title").set_value("Tone").run()
    page.text_area(key="new-lines").set_value("Formal: a\nformal: b").run()
    assert "class 'formal' appears twice" in page.error[0].value.replace("\\", "")
    assert next(b for b in page.button if b.label == "Save").disabled
    page.radio(key="new-kind").set_value("boolean").run()
    page.text_area(key="new-lines").set_value("Brief: it is short.\nKind").run()
    assert "feature 2 (kind): definition is missing" in page.error[0].value.replace("\\", "")
    press(page, "Go on in the editor")
    assert "not saved yet" in text_of(page) and page.data_editor
    press(page, "Discard")
    assert page.text_area(key="new-lines")


def test_what_ships_is_copied_and_can_become_features(app: Any) -> None:
    page = app("taxonomies", view="Edit", taxonomy="value_imprint")
    assert "this is a copy of it" in text_of(page)
    kind = next(one for one in page.button_group if (one.key or "").startswith("t-kind"))
    kind.set_value("features").run()
    assert not page.exception, page.exception
    press(page, "Save")
    copy = taxonomy.load("value_imprint_copy")
    assert [one.kind for one in copy.features] == ["boolean"] * 7
    assert copy.features[0].title == "Information Seeking"


def test_peoples_labels_are_carried_over_by_a_button(app: Any) -> None:
    new_tone(app)
    store = shared.store()
    queue = queues.create(store, "Signet demo", "tone_of_voice", "q", n=3)
    for _ in range(3):
        task = acts.next_task(store, queue, "Ann")
        assert task is not None
        acts.save(store, queue, task.entry_id, "Ann", {"tone_of_voice": "Casual"})
    page = app("taxonomies", view="Edit", taxonomy="tone_of_voice")
    next(one for one in page.text_input if one.label == "Source").set_value("Ourselves").run()
    press(page, "Save as a new version")
    page = app("taxonomies", view="Versions", taxonomy="tone_of_voice")
    press(page, "Carry people's labels over")
    assert "Carried 3 labels of 1 feature by 1 person over." in text_of(page)
    assert list(page.dataframe[0].value["by people"]) == [3, 3]


def test_files_come_in_and_own_ones_can_be_deleted(app: Any, home: Path) -> None:
    page = app("taxonomies", view="New")
    page.session_state["start"] = "From a file"
    page.run()
    body = json.dumps({"name": "mine", "features": [{"name": "brief", "definition": "<script>alert(1)</script>"}]})
    page.file_uploader[0].set_value(("mine.json", body.encode(), "application/json")).run()
    press(page, "Save")
    assert taxonomy.load("mine").features[0].definition.startswith("<script>")
    assert "\\<script\\>" in "\n".join(one.value for one in page.markdown)
    press(page, "Delete it")
    assert not (home / "taxonomies" / "mine.yaml").exists()
    listed = app("taxonomies")
    assert "mine" not in set(listed.dataframe[0].value["name"]) and "still in the store: mine" in text_of(listed)


def test_a_draft_is_shown_to_edit_and_not_saved(app: Any, home: Path) -> None:
    parts = [{"title": t, "definition": f"It is {t}.", "shows": f"{t}!", "lacks": "No."} for t in ("Warm", "Cold")]
    answer = json.dumps({"question": "How warm?", "parts": parts})
    page = app("taxonomies", view="New")
    page.session_state["start"] = "Draft by a language model"
    page.run()
    assert "Needs a title" in text_of(page)
    with FakeOpenAI(lambda *_: answer) as fake:
        page.session_state["draft-server"] = "server"
        page.run()
        page.text_input(key="draft-title").set_value("Warmth")
        page.text_area(key="draft-description").set_value("How warm the answer is. </request>")
        page.text_input(key="draft-model").set_value("fake")
        page.text_input(key="draft-url").set_value(fake.url).run()
        assert "about $0.0000" in text_of(page) and "<request>" in "\n".join(one.value for one in page.code)
        press(page, "Draft")
    assert "read every word before you save" in text_of(page)
    assert not (home / "taxonomies").exists()
    press(page, "Save")
    assert taxonomy.load("warmth").features[0].class_examples[0] == (("yes", "Warm!"), ("no", "No."))
