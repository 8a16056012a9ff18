"""What a person waits in a browser: first paint of the bundled audit, and switching pages, in headless Chromium.

A page counts as drawn when its title stands there, the script has ended, and every chart has its marks. Times are
read inside the browser, from the click on.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.dashboard import PATIENCE, serve

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
ROUNDS = 3
# The toolbar of a chart has drawings of its own, so a chart is its marks, with some height.
MARKED = """const marked = chart => [...chart.querySelectorAll('canvas, svg.marks')]
    .some(one => one.getBoundingClientRect().height > 0);"""
FIRST = "() => {" + MARKED + "return [...document.querySelectorAll('[data-testid=stVegaLiteChart]')].some(marked);}"
SWITCH = (
    "async ([title, patience]) => {"
    + MARKED
    + """
    const link = [...document.querySelectorAll('[data-testid=stSidebarNavLink]')]
        .find(one => one.innerText.trim().endsWith(title));
    if (!link) return {error: 'no link in the sidebar'};
    const drawn = () => {
        const app = document.querySelector('[data-testid=stApp]');
        const main = document.querySelector('[data-testid=stMain]');
        const charts = [...main.querySelectorAll('[data-testid=stVegaLiteChart]')];
        return main.querySelector('h1')?.innerText.trim() === title
            && app.dataset.testScriptState === 'notRunning'
            && charts.every(marked);
    };
    const began = performance.now();
    link.click();
    while (performance.now() - began < patience) {
        await new Promise(requestAnimationFrame);
        if (drawn()) {
            const error = document.querySelector('[data-testid=stException]');
            return error ? {error: error.innerText} : {ms: performance.now() - began};
        }
    }
    return {error: 'never drawn'};
}"""
)


def chromium() -> str | None:
    """The Chromium of this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def run() -> dict[str, Any]:
    """First chart on a cold and on a warm server, seconds; switching to every page, milliseconds; or why not."""
    path = chromium()
    if path is None:
        return {"absent": "no Chromium on this machine"}
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {"absent": "playwright is not installed (requirements-dev.txt)"}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            with serve(Path(folder)) as server:
                cold = _first_chart(browser, server.address)[0]
                warm, page = _first_chart(browser, server.address)
                return {"browser": browser.version, "first_chart_s": cold, "first_chart_warm_s": warm,
                        "switch": _switching(page)}  # fmt: skip
        finally:
            browser.close()


def _first_chart(browser: Any, address: str) -> tuple[float, Any]:
    """Seconds from the first request of a fresh browser to a visible chart on Values; and the open page."""
    page = browser.new_context(viewport={"width": 1300, "height": 1000}).new_page()
    began = time.perf_counter()
    page.goto(f"{address}/values", wait_until="commit", timeout=1000 * PATIENCE)
    page.wait_for_function(FIRST, timeout=1000 * PATIENCE)
    seconds = time.perf_counter() - began
    page.wait_for_function("document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'",
                           timeout=1000 * PATIENCE)  # fmt: skip
    return round(seconds, 2), page


def _switching(page: Any) -> dict[str, Any]:
    """Milliseconds from a click in the sidebar to the drawn page: every page ROUNDS times after a first."""
    titles = [one.strip().splitlines()[-1] for one in page.locator("[data-testid=stSidebarNavLink]").all_inner_texts()]
    times: dict[str, list[float]] = {title: [] for title in titles}
    errors: list[str] = []
    for round_ in range(ROUNDS + 1):
        for title in [*titles[1:], titles[0]] if round_ % 2 else titles:
            done = page.evaluate(SWITCH, [title, 1000 * PATIENCE])
            if "error" in done:
                errors.append(f"{title}: {done['error']}")
            elif round_:
                times[title].append(done["ms"])
    every = sorted(ms for some in times.values() for ms in some)
    found: dict[str, Any] = {
        "n": len(every), "errors": errors, "pages": {t: round(statistics.median(ms)) for t, ms in times.items() if ms}
    }  # fmt: skip
    if every:
        found |= {"median_ms": round(statistics.median(every)),
                  "p95_ms": round(every[min(len(every) - 1, int(0.95 * len(every)))])}  # fmt: skip
    return found
