"""What takes long on a large store is computed beside the page, which says so and goes on when it is there.

One thread computes, one question after the other, so that many visitors cannot fill the memory; who asks the same
waits for the same answer. A page load sees one state of the data: an answer that was asked for at its beginning is not
asked for again because a job has added something meanwhile.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import streamlit as st

from engine import kept
from engine.store import Store

LARGE = 100_000  # pairs of a dataset, from which on nothing slow is computed while a page is drawn
PATIENCE_S = 1.0  # that a page waits in all before it says that something is being computed
REMEMBERED = 64  # finished questions that a page may still come to fetch
# Slow too, but not kept on disk: they read what has no marks (files, queues), or are asked in too many ways.
BESIDE = {
    "engine.search.find", "engine.value_frames.against_prompts", "engine.audit_values.corrected",
    "engine.audit_agreement.consistency",
}  # fmt: skip


class Pending(Exception):
    """The answer is not there yet."""


class Questions:
    """Questions under way by their key, each asked once."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="signet-answers")
        self._asked: OrderedDict[str, concurrent.futures.Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, key: str, work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
        """The question's future; work begins when its turn comes."""
        with self._lock:
            future = self._asked.get(key)
            if future is None:
                future = self._asked[key] = self._pool.submit(work)
                for old in [k for k, f in self._asked.items() if f.done()][: max(0, len(self._asked) - REMEMBERED)]:
                    del self._asked[old]
            return future

    def forget(self, key: str) -> None:
        """Drop a question whose answer was fetched."""
        with self._lock:
            self._asked.pop(key, None)


@st.cache_resource(show_spinner=False)
def _questions() -> Questions:
    return Questions()


def handles(function: Callable[..., Any]) -> bool:
    """Whether a read is slow on a large store."""
    return kept.name_of(function) in kept.READS or kept.name_of(function) in BESIDE


def begin() -> None:
    """Start the clock of a page run. Unless the one before broke off to wait, it sees the data of its own time."""
    st.session_state["_deadline"] = time.monotonic() + PATIENCE_S
    if not st.session_state.pop("_waits", False):
        st.session_state.pop("_asked_for", None)
        st.session_state.pop("_waiting_since", None)


@st.cache_data(show_spinner=False, max_entries=1000)
def _fetched(key: str, _work: Callable[[], Any]) -> Any:
    return _work()


def key_of(opened: Store, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """What an answer is cached by: all it reads where that is known, else the store's version."""
    if kept.name_of(function) in kept.READS:
        return kept.key(opened.read(), function, arguments)
    return f"{opened.home} {opened.version} {kept.identity(function, arguments)}"


def at_once(opened: Store, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The answer of a small store: computed here and now, unless it is cached."""
    return _fetched(key_of(opened, function, arguments), lambda: function(opened.read(), *arguments))


def answer(opened: Store, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The answer of a large store; stops the page, which comes back by itself, when it takes longer than patience."""
    asked: dict[str, str] = st.session_state.setdefault("_asked_for", {})
    who = kept.identity(function, arguments)
    key = asked.setdefault(who, key_of(opened, function, arguments))
    future: concurrent.futures.Future[Any] | None = None

    def work() -> Any:
        nonlocal future
        future = _questions().ask(key, lambda: kept.answer(opened.read(), opened.home, function, arguments))
        left = st.session_state.get("_deadline", 0.0) - time.monotonic()
        try:
            value = future.result(timeout=max(0.05, left))
        except concurrent.futures.TimeoutError:
            raise Pending from None
        except BaseException:
            _questions().forget(key)  # asking again tries again
            asked.pop(who, None)
            raise
        _questions().forget(key)
        return value

    try:
        return _fetched(key, work)
    except Pending:
        assert future is not None
        st.session_state["_waits"] = True
        _wait(future)
        st.stop()


def _wait(future: concurrent.futures.Future[Any]) -> None:
    began = st.session_state.setdefault("_waiting_since", time.monotonic())

    @st.fragment(run_every=1.0)
    def watch() -> None:
        if future.done():
            st.rerun()
        seconds = int(time.monotonic() - began)
        st.info(
            "Counting over all pairs of a large dataset. This is done once and kept until the data change; the page "
            f"goes on by itself ({seconds} s so far).",
            icon=":material/hourglass_top:",
        )

    watch()
