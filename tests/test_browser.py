"""The dashboard in a real headless Chromium: upload to profile to pair, cold deep links, the gate, hostile text.

Screenshots go to SIGNET_SHOTS when that names a folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.settings import ROOT
from tests.conftest import SAMPLE

pytestmark = pytest.mark.browser
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        if os.environ.get("SIGNET_NEED_BROWSER"):
            pytest.fail("no Chromium on this machine, and SIGNET_NEED_BROWSER is set")
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@contextmanager
def server(home: Path, **environment: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}", "--server.address=127.0.0.1"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"SIGNET_HOME": str(home)} | environment,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=40)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a running dashboard, and its store's folder."""
    home = tmp_path_factory.mktemp("home")
    with server(home) as found:
        yield found, home


@pytest.fixture
def address(dashboard: tuple[str, Path]) -> str:
    return dashboard[0]


def shot(page: Any, name: str) -> None:
    folder = os.environ.get("SIGNET_SHOTS")
    if folder:
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def settled(page: Any) -> None:
    page.wait_for_selector("[data-testid=stAppViewContainer]", timeout=60_000)
    page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')", timeout=120_000)
    assert page.locator("[data-testid=stException]").count() == 0, page.locator(
        "[data-testid=stException]"
    ).inner_text()


def test_first_start_shows_a_real_audit(browser: Any, address: str) -> None:
    """No configuration: the bundled audit has charts on Values and Reward models, and says what it is."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(f"{address}/values")
    page.get_by_text("written by a language model").first.wait_for(timeout=90_000)
    page.wait_for_selector("[data-testid=stVegaLiteChart]", timeout=60_000)
    settled(page)
    shot(page, "values")
    page.goto(f"{address}/reward_models")
    page.wait_for_selector("[data-testid=stVegaLiteChart]", timeout=60_000)
    settled(page)
    assert page.get_by_text("builtin-post").count() > 0
    shot(page, "reward_models")
    page.close()


def test_upload_to_profile_to_pair_to_a_fresh_browser(browser: Any, address: str, tmp_path: Path) -> None:
    path = tmp_path / "upload-me.jsonl"
    rows = [{"id": f"{key}-{n}", "prompt": p, "chosen": f"{c} ({n})", "rejected": f"{r} ({n})"}
            for n in range(8) for key, p, c, r in SAMPLE]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = browser.new_page(viewport={"width": 1300, "height": 1100})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.get_by_text("Datasets").first.wait_for(timeout=60_000)
    settled(page)
    upload = page.get_by_test_id("stExpander").locator("input[type=file]").first
    upload.wait_for(state="attached", timeout=60_000)
    upload.set_input_files(str(path))
    page.get_by_role("button", name="Import", exact=True).click(timeout=60_000)
    page.get_by_text("See Datasets").first.wait_for(timeout=90_000)
    shot(page, "jobs")
    page.goto(f"{address}/values?dataset=upload-me")
    page.get_by_role("button", name="Label human values").click(timeout=60_000)
    page.get_by_text("See Values").first.wait_for(timeout=240_000)
    page.get_by_text("See Values").first.click()
    page.wait_for_selector("[data-testid=stVegaLiteChart]", timeout=60_000)
    settled(page)
    shot(page, "profile")
    page.goto(f"{address}/pairs?dataset=upload-me&q=Ucayali")
    page.get_by_text("8 filtered (48 total)").wait_for(timeout=60_000)
    page.goto(f"{address}/pairs?dataset=upload-me&pair=q5-3")
    page.get_by_text("alert('x')").first.wait_for(timeout=60_000)
    link = page.url
    shot(page, "pair")
    page.close()

    fresh = browser.new_context(viewport={"width": 1300, "height": 1000}).new_page()
    alerts: list[str] = []
    fresh.on("dialog", lambda dialog: alerts.append(dialog.message))
    fresh.on("request", lambda request: asked.append(request.url))
    fresh.goto(link)
    fresh.get_by_text("alert('x')").first.wait_for(timeout=60_000)
    settled(fresh)
    text = fresh.inner_text("[data-testid=stMain]")
    assert "=cmd|' /C calc'!A0" in text and "<script>alert('x')</script>" in text, "hostile text is not shown as it is"
    assert "U+001B" in text and "U+202E" in text and "\u202e" not in text
    assert not alerts and not any("x.invalid" in url for url in asked), "hostile text was run or fetched"
    fresh.close()


def test_commands_and_dashboard_share_the_store(browser: Any, dashboard: tuple[str, Path], sample_file: Path) -> None:
    """Import, label, score and export on the command line while the dashboard owns the store; it shows the results."""
    address, home = dashboard
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(f"{address}/values")
    page.wait_for_selector("h1", timeout=90_000)
    settled(page)
    out = sample_file.with_name("pairs.csv")
    for words in (
        ["import", str(sample_file), "--name", "by command"],
        ["label", "by command", "--labeler", "surface", "--taxonomy", "surface"],
        ["score", "by command", "--model", "builtin-pre"],
        ["export", "by command", "--what", "pairs", "--to", str(out)],
        ["info", "by command"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "engine", *words, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=240,
            env=os.environ | {"SIGNET_HOME": str(home)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["rewards"] == 11 and out.exists()
    page.goto(f"{address}/reward_models?dataset=by+command")
    page.get_by_text("builtin-pre").first.wait_for(timeout=60_000)
    settled(page)
    assert page.get_by_text("by command").count() > 0
    page.close()


@pytest.mark.parametrize("width", [1300, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_opens_cold_and_fits(browser: Any, address: str, width: int, scheme: str) -> None:
    """A deep link into a browser that has never been here: the router holds, nothing scrolls sideways."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    for name in ("", "values", "reward_models", "pairs", "jobs"):
        page.goto(f"{address}/{name}")
        page.wait_for_selector("h1", timeout=60_000)
        settled(page)
        assert page.locator("[data-testid=stSidebarNav]").count() <= 1
        assert page.get_by_text("Page not found").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, f"{name} scrolls sideways"
        shot(page, f"{name or 'datasets'}-{scheme}-{width}")
    context.close()


def test_the_gate_holds_on_every_address(browser: Any, tmp_path: Path) -> None:
    with server(tmp_path, SIGNET_PASSWORD="open sesame") as address:
        for name in ("", "values", "pairs?pair=daily-001", "jobs"):
            page = browser.new_page()
            page.goto(f"{address}/{name}")
            page.get_by_test_id("stTextInputField").wait_for(timeout=60_000)
            assert page.locator("[data-testid=stSidebarNav]").count() == 0
            assert page.locator("h1").inner_text() == "Signet"
            page.close()
        page = browser.new_page()
        page.goto(f"{address}/values")
        for word in ("wrong", "open sesame"):
            page.get_by_test_id("stTextInputField").fill(word, timeout=60_000)
            page.get_by_role("button", name="Enter").click()
            if word == "wrong":
                page.get_by_text("That is not the password.").wait_for(timeout=30_000)
        page.get_by_role("heading", name="Values").wait_for(timeout=90_000)
        page.close()


def test_a_point_of_a_chart_leads_to_its_pairs(browser: Any, address: str) -> None:
    """Click the middle of the regimes square: the page names the cell's pairs, and the link opens exactly those."""
    page = browser.new_page(viewport={"width": 1300, "height": 1300})
    page.goto(f"{address}/alignment?dataset=Signet+demo&judge=seal+by+reading")
    chart = page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first
    chart.wait_for(timeout=90_000)
    settled(page)
    page.wait_for_timeout(1500)
    box = chart.bounding_box()
    link = page.get_by_text(re.compile(r"The \d+ pairs of this cell"))
    for dx, dy in ((0, 0), (8, 8), (-8, 8), (8, -8), (-20, 0), (20, 0), (0, 20), (0, -20)):
        page.mouse.click(box["x"] + 0.42 * box["width"] + dx, box["y"] + 0.45 * box["height"] + dy)
        page.wait_for_timeout(1500)
        if link.count():
            break
    shot(page, "alignment")
    count = re.search(r"\d+", link.first.inner_text()).group()
    link.first.click()
    page.get_by_text(f"of {count} filtered (300 total)").wait_for(timeout=60_000)
    settled(page)
    page.close()


# By how much the page, or the part of it that scrolls by itself, is wider than it shows.
WIDER = """Math.max(...["html", "[data-testid=stMain]"].map((where) => {
    const part = document.querySelector(where);
    return part.scrollWidth - part.clientWidth;
}))"""


@pytest.mark.parametrize("name", ["imprint", "alignment", "robustness"])
def test_audit_pages_open_cold_at_any_width(browser: Any, address: str, name: str) -> None:
    for width, scheme in ((1300, "light"), (400, "light"), (1300, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 1400}, color_scheme=scheme)
        page.goto(f"{address}/{name}?dataset=Signet+demo")
        page.wait_for_selector("[data-testid=stVegaLiteChart]", timeout=90_000)
        settled(page)
        assert page.get_by_role("heading", level=1).inner_text().lower() == name
        overflow = page.evaluate(WIDER)
        assert overflow <= 0, f"{name} scrolls sideways by {overflow} px at {width}"
        shot(page, f"{name}-{width}-{scheme}")
        page.close()
