"""Slow questions on a large store: the page comes at once, computes once, and shows one state of the data."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from engine.settings import ROOT


@pytest.fixture
def large(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bundled audit counts as large, and one slow question waits for a signal."""
    import streamlit as st

    from engine import reward_frames
    from pages import waiting

    st.cache_data.clear()
    st.cache_resource.clear()
    monkeypatch.setattr(waiting, "LARGE", 10)
    monkeypatch.setattr(waiting, "PATIENCE_S", 5.0)
    gate, calls = threading.Event(), []
    real = reward_frames.alignment

    def slow(con: Any, dataset_id: int, model_id: int) -> Any:
        calls.append(model_id)
        gate.wait(20)
        return real(con, dataset_id, model_id)

    slow.__module__, slow.__qualname__ = real.__module__, real.__qualname__
    monkeypatch.setattr(reward_frames, "alignment", slow)
    yield gate, calls, waiting, monkeypatch
    gate.set()
    from pages import shared

    owner = shared._owner(str(home))
    owner.close()
    owner.store.close()
    st.cache_resource.clear()
    st.cache_data.clear()


def page() -> AppTest:
    return AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60).run().switch_page("reward_models.py")


def test_a_page_does_not_wait_for_a_slow_count_and_shows_it_once_it_is_there(large: Any) -> None:
    gate, calls, waiting, monkeypatch = large
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.1)
    app = page().run()
    assert not app.exception and not app.metric
    assert any("goes on by itself" in one.value for one in app.info)
    other = page().run()
    assert any("goes on by itself" in one.value for one in other.info)
    gate.set()
    monkeypatch.setattr(waiting, "PATIENCE_S", 30.0)
    app.run()
    assert not app.exception and app.metric
    other.run()
    assert other.metric and len(calls) == len(set(calls))
    from engine import kept
    from engine.settings import home

    assert list((home() / "answers").glob("*.json")) and kept.MOST_BYTES


def test_changed_data_are_counted_again_and_others_are_not(large: Any) -> None:
    from engine import marks
    from pages import shared

    gate, calls, *_ = large
    gate.set()
    app = page().run()
    before = list(calls)
    assert app.metric and len(before) == len(set(before)) >= 2
    store = shared.store()
    with store.transaction() as con:
        marks.rows_of(con, "rewards", before[0]).execute(
            "UPDATE rewards SET reward = -reward WHERE model_id = ?", [before[0]]
        )
    app.run()
    assert calls == [*before, before[0]]
    with store.transaction() as con:
        con.execute("INSERT INTO claims VALUES (1, 1, 'ann', now()::TIMESTAMP)")
    app.run()
    assert calls == [*before, before[0]]
