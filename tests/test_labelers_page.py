"""The Labelers page and the reword form: set up, try, start, compare, consistency, against a fake server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.client import Client
from tests.conftest import wait_for
from tests.fakes import FakeOpenAI
from tests.test_pages import app, text_of

__all__ = ["app"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNET_API_KEY", "none-needed-here")


def test_set_up_tests_the_connection_and_tries_five_entries(app: Any) -> None:
    page = app("labelers")
    assert any("Name a model" in c.value for c in page.caption)
    with FakeOpenAI() as fake:
        page.session_state["server"] = "server"
        page.run()
        page.text_input(key="lm-model").set_value("fake-model")
        page.text_input(key="lm-url").set_value(fake.url).run()
        next(b for b in page.button if b.label == "Test the connection").click().run()
        assert not page.exception and "answers in" in page.success[0].value.replace("\\", "")
        next(b for b in page.button if b.label == "Try on five entries").click().run()
        assert not page.exception, page.exception
        assert "5 of 5 answers can be used" in text_of(page)
        assert {m.label for m in page.metric} >= {"Entries", "Cost", "Time"}
        assert next(m for m in page.metric if m.label == "Cost").value == "$0.00"
        assert "<dialogue>" in "\n".join(c.value for c in page.code)
    next(b for b in page.button if b.label == "Test the connection").click().run()
    assert "does not answer" in page.error[0].value.replace("\\", "")


def test_compare_and_consistency(app: Any, home: Path) -> None:
    app("datasets")  # makes the store with the bundled audit
    with FakeOpenAI() as fake, Client(home) as client:
        for sample in (1, 2):
            options = {"base_url": fake.url, "temperature": 1.0, "sample": sample}
            asked = {"labeler": "openai:fake-model", "taxonomy_name": "seal", "limit": 40, "options": options}
            wait_for(client, client.call("label", dataset="Signet demo", **asked)["job"])
    page = app("labelers", view="Compare", taxonomy="seal", one="reading", other="builtin")
    assert "agree with a median kappa of" in text_of(page)
    assert {"kappa", "ac1", "pabak", "alpha", "length_a"} <= set(page.dataframe[0].value.columns)
    page = app("labelers", view="Consistency")
    assert "2 samples" in text_of(page) and len(page.dataframe) == 2
    assert page.dataframe[0].value["n"].max() == 80


def test_reword_form_starts_a_chain(app: Any) -> None:
    page = app("robustness")
    assert any(b.label == "Reword" for b in page.button)
