"""Annotating in a real headless Chromium: the keyboard, and two browsers at once with the server killed meanwhile.

The bar of 200 labels each with two kills is SIGNET_ANNOTATE_EACH=200 SIGNET_ANNOTATE_KILLS=2.
"""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from engine import annotations, bundle, gold, queues
from engine.settings import ROOT
from engine.store import Store
from tests.test_browser import browser, settled, shot

__all__ = ["browser"]
pytestmark = pytest.mark.browser
DEMO = bundle.DEMO_NAME
VALUE = "value_imprint"
EACH = int(os.environ.get("SIGNET_ANNOTATE_EACH", "12"))
KILLS = int(os.environ.get("SIGNET_ANNOTATE_KILLS", "1"))


class Server:
    """A dashboard that can be killed and started again on the same port."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home = home
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={self.port}",
             "--server.address=127.0.0.1"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"SIGNET_HOME": str(self.home)},
        )  # fmt: skip
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{self.address}/_stcore/health", timeout=1)
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError("the dashboard did not start")

    def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=30)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=40)


def prepared(home: Path, **queue: Any) -> queues.Queue:
    home.mkdir(exist_ok=True)
    with Store(home) as store:
        bundle.load_demo(store)
        return queues.create(store, DEMO, **{"taxonomy": VALUE, "name": "both", **queue})


class Person:
    """Somebody at a browser of their own, who reads what the page says and presses a key."""

    def __init__(self, browser: Any, address: str, name: str, seed: int) -> None:
        self.page = browser.new_context(viewport={"width": 1300, "height": 900}).new_page()
        self.name, self.random = name, random.Random(seed)
        self.url = f"{address}/annotate?dataset={DEMO.replace(' ', '+')}&queue=both&annotator={name}"
        self.confirmed: dict[str, str] = {}  # entry: class, once the page has counted it
        self.pressed: tuple[str, str, int] | None = None
        self.seconds: list[float] = []
        self.finished = False
        self.since = 0.0

    def open(self) -> None:
        self.page.goto(self.url)

    def _state(self) -> tuple[int, str | None]:
        """How many answers of mine the page counts, and the entry on show (None: at the end); -1 while it is busy."""
        return tuple(
            self.page.evaluate("""() => {
                const said = (document.body.innerText.match(/([\\d,]+) by you/) || [null, "-1"])[1];
                const found = document.querySelector('[class*="st-key-value-"]');
                const key = found && found.className.match(/st-key-value-(\\d+)-/);
                const done = document.body.innerText.includes("Every entry of this queue has its answers")
                    || document.body.innerText.includes("What is left is with other annotators");
                return [parseInt(said.replace(",", "")), key ? key[1] : (done ? null : "busy")];
            }""")
        )

    def step(self) -> None:
        """Look once: note what was confirmed, press a key if an entry waits for one."""
        mine, entry = self._state()
        if mine < 0 or entry == "busy":
            return
        if self.pressed:
            pressed, value, before = self.pressed
            if mine > before and entry != pressed:
                self.confirmed[pressed] = value
                self.seconds.append(time.monotonic() - self.since)
                self.pressed = None
            elif time.monotonic() - self.since > 8:  # nothing came of it: look again and press again
                self.pressed = None
            else:
                return
        self.finished = entry is None or mine >= EACH
        if entry is None or self.finished:
            return
        digit = self.random.randint(1, 7)
        label = self.page.locator(f".st-key-value-{entry}-{digit - 1} button p").first
        if label.count() == 0:
            return
        self.pressed = (entry, label.inner_text(), mine)
        self.since = time.monotonic()
        self.page.keyboard.press(str(digit))


def test_two_browsers_one_queue_and_a_killed_server(browser: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    of = prepared(home, n=2 * EACH + 2, overlap=1)  # who has done their share still has one entry before them
    kills = sorted(random.Random(7).sample(range(EACH // 2, 2 * EACH - EACH // 2), KILLS))
    people: list[Person] = []
    started, down = time.monotonic(), 0.0
    with Server(home) as server:
        people = [Person(browser, server.address, name, seed) for seed, name in enumerate(("Ann", "Bo"))]
        for one in people:
            one.open()
        deadline = time.monotonic() + 120 + 6 * EACH
        while not all(one.finished for one in people):
            assert time.monotonic() < deadline, [(one.name, len(one.confirmed), one.pressed) for one in people]
            for one in people:
                one.step()
            if kills and sum(len(one.confirmed) for one in people) >= kills[0]:
                kills.pop(0)
                for one in people:  # in the middle of an act
                    one.step()
                at = time.monotonic()
                server.kill()
                time.sleep(1)
                server.start()
                down += time.monotonic() - at
                for one in people:  # Streamlit connects again by itself; a person reloads if it takes too long
                    one.open()
            time.sleep(0.02)
        shot(people[0].page, "annotate-done")
        assert not kills
        took = time.monotonic() - started - down
    with Store(home) as store:
        rows = (
            store.read()
            .execute("""
            SELECT a.entry_id, a.annotator, json_extract_string(a.answer, '$.value_imprint') AS value,
                json_extract_string(f.classes, '$[' || l.value::INTEGER || ']') AS label
            FROM annotations a LEFT JOIN labelers b ON b.name = a.annotator AND b.kind = 'person'
            LEFT JOIN labels l ON l.entry_id = a.entry_id AND l.labeler_id = b.labeler_id
            LEFT JOIN features f USING (feature_id)""")
            .df()
        )
        counts = annotations.counts(store.read(), of)
        claims = store.read().execute("SELECT count(*) FROM claims").fetchone()
        persons = store.read().execute("SELECT count(*) FROM labels JOIN labelers USING (labeler_id) "
                                       "WHERE kind = 'person'").fetchone()  # fmt: skip
    confirmed = {(name, int(entry)): value for p in people for name in [p.name] for entry, value in p.confirmed.items()}
    stored = {(row.annotator, row.entry_id): row.value for row in rows.itertuples()}
    waits = sorted(second for one in people for second in one.seconds)
    print(
        f"\nqueue {of.n}, annotations {len(rows)} on {rows['entry_id'].nunique()} entries, labels {persons[0]}, "
        f"claims left {claims[0]}; by annotator {rows['annotator'].value_counts().to_dict()}; confirmed on the pages "
        f"{len(confirmed)}, of them in the store {sum(stored.get(k) == v for k, v in confirmed.items())}; kills {KILLS}"
        f"; {took:.0f} s of labelling; from key to next entry: median {waits[len(waits) // 2]:.2f} s, "
        f"95% {waits[int(0.95 * len(waits))]:.2f} s, with two browsers and the server on {os.cpu_count()} cores"
    )
    assert len(rows) == rows["entry_id"].nunique() == 2 * EACH == counts.finished, "an entry is missing or stands twice"
    assert (rows["value"] == rows["label"]).all() and persons[0] == 2 * EACH and claims[0] == 2
    assert all(stored.get(key) == value for key, value in confirmed.items()), (
        "what a page confirmed is not in the store"
    )
    assert rows["annotator"].value_counts().to_dict() == {"Ann": EACH, "Bo": EACH}


def still(page: Any) -> None:
    """Wait until the page stands still: a press in between reaches the entry that is going, and does nothing."""
    page.wait_for_function(
        """() => !document.querySelector('[data-testid=stStatusWidget]') && !document.querySelector('[data-stale=true]')
            && document.querySelectorAll('[class*="st-key-undo-"]').length == 1""",
        timeout=20_000,
    )
    page.wait_for_timeout(150)


def press(page: Any, key: str) -> None:
    still(page)
    page.keyboard.press(key)


def test_the_keyboard_does_it_all(browser: Any, tmp_path: Path) -> None:
    """One press saves a choice; letters toggle, Enter saves a form wherever the focus is; typing a note types."""
    home = tmp_path / "home"
    of = prepared(home, n=6)
    with Store(home) as store:
        queues.create(
            store, DEMO, "seal", "form", n=6, options={"features": ["helpful", "honest", "sentiment", "topics"]}
        )
        queues.create(store, DEMO, VALUE, "check", n=6, purpose="check", options={"labeler": "builtin"})
    with Server(home) as server:
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.goto(f"{server.address}/annotate?dataset={DEMO.replace(' ', '+')}&queue=both&annotator=Ann")
        page.get_by_text("0 by you").wait_for(timeout=90_000)
        settled(page)
        page.get_by_placeholder("A note (optional)").fill("12 s u")
        page.get_by_placeholder("A note (optional)").press("1")
        page.keyboard.press("Tab")
        page.wait_for_timeout(800)
        assert page.get_by_text("0 by you").count() == 1, "typing a note pressed a button"
        press(page, "2")
        page.get_by_text("1 by you").wait_for(timeout=20_000)
        press(page, "s")
        page.wait_for_timeout(1500)
        press(page, "u")
        page.get_by_text("Your last act is taken back").wait_for(timeout=20_000)
        page.wait_for_timeout(500)
        press(page, "u")
        page.get_by_text("0 by you").wait_for(timeout=20_000)
        press(page, "3")
        page.get_by_text("1 by you").wait_for(timeout=20_000)

        page.goto(f"{server.address}/annotate?dataset={DEMO.replace(' ', '+')}&queue=form&annotator=Ann")
        page.get_by_text("0 by you").wait_for(timeout=60_000)
        settled(page)
        press(page, "h")
        page.wait_for_timeout(800)
        still(page)
        page.locator(".stButton button", has_text=re.compile("^Law")).first.click()
        page.wait_for_timeout(800)
        press(page, "Enter")
        page.get_by_text("Choose something for Sentiment").wait_for(timeout=20_000)
        still(page)
        page.locator(".stButton button", has_text="+1").first.click()
        page.wait_for_timeout(800)
        press(page, "Enter")
        page.get_by_text("1 by you").wait_for(timeout=20_000)
        settled(page)

        page.goto(f"{server.address}/annotate?dataset={DEMO.replace(' ', '+')}&queue=check&annotator=Ann")
        page.get_by_text("0 by you").wait_for(timeout=60_000)
        settled(page)
        press(page, "2")
        page.get_by_text("What would be right?").wait_for(timeout=20_000)
        press(page, "Enter")
        page.get_by_text("1 by you").wait_for(timeout=20_000)
        press(page, "1")
        page.get_by_text("2 by you").wait_for(timeout=20_000)
        page.close()
    with Store(home) as store:
        found = store.read().execute(
            "SELECT q.name, c.answer, c.note FROM annotations c JOIN queues q USING (queue_id) "
            "WHERE undone_at IS NULL ORDER BY annotation_id").fetchall()  # fmt: skip
        assert gold.state(store.read(), of).gold == 0
    assert found[0][0] == "both" and "Civility/Tolerance" in found[0][1] and found[0][2] == "12 s u1"
    assert found[1][1] == '{"helpful":1,"honest":0,"sentiment":1,"topics":["Law"]}'
    assert ['"wrong"' in found[2][1], '"right"' in found[3][1]] == [True, True]


@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (400, "light"), (1300, "dark")])
def test_every_view_opens_cold_and_fits(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    home = tmp_path / "home"
    of = prepared(home, n=6, overlap=2)
    with Store(home) as store:
        queues.create(store, DEMO, "seal", "form", n=6)
        check = queues.create(store, DEMO, VALUE, "check", n=6, purpose="check", options={"labeler": "builtin"})
        for name, value in (("Ann", "Wisdom/Knowledge"), ("Bo", "Well-being/Peace")):
            task = annotations.next_task(store, of, name)
            assert task is not None
            annotations.save(store, of, task.entry_id, name, {VALUE: value}, "a note")
        task = annotations.next_task(store, check, "Bo")
        assert task is not None
        annotations.save(store, check, task.entry_id, "Bo", {"verdicts": {VALUE: "wrong"}})
    views = ("queue=both", "queue=both&view=Adjudicate", "queue=both&view=Progress", "queue=form", "queue=check",
             "queue=check&view=Result")  # fmt: skip
    with Server(home) as server:
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        for i, view in enumerate(views):
            page.goto(f"{server.address}/annotate?dataset={DEMO.replace(' ', '+')}&annotator=Ann&{view}")
            page.get_by_text("New queue").wait_for(timeout=90_000)
            settled(page)
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0, f"{view} scrolls sideways by {overflow} px"
            shot(page, f"annotate-{i}-{width}-{scheme}")
        page.close()
