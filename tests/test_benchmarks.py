"""The page of results from synthetic results, the table writer, and fifty-sessions' visitors on a live server."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks import asking, audits, machine, pages, report, scale, sessions, tables
from benchmarks.dashboard import Visit, Visitor, serve
from benchmarks.registry import ALL

MACHINE = {"processor": "Imagined | 9000", "architecture": "x86_64", "cores": 2, "memory_gb": 24.0, "gpus": [],
           "system": "Linux"}  # fmt: skip
CASE = {"sessions": 3, "think_s": 2.0, "wall_s": 9.0, "pages_per_second": 1.5, "visitors_cpu_s": 0.1}


def visits() -> list[Visit]:
    return [Visit("Values", 0.2, 30.0, []), Visit("Values", 0.4, 30.0, []), Visit("Jobs", 9.0, 1.0, ["KeyError: 'x'"])]


def results() -> dict[str, dict[str, Any]]:
    """One invented result of every benchmark that has a section of its own here."""
    crowd = sessions.summary(visits()) | CASE
    cold = {"first_page_s": 4.2, "then": sessions.summary(visits()[:2])}
    return {
        "sessions": {
            "data": "the bundled audit", "seed": 7, "visits": 12, "server_starts_s": 1.5,
            "alone": {"cold": cold, "warm": sessions.summary(visits()[:2])},
            "with_thought": crowd | {"memory_before_mb": 300.0, "memory_with_all_open_mb": 330.0,
                                     "memory_per_session_mb": 10.0, "median_to_alone": 1.0},
            "without_thought": crowd | {"think_s": 0.0, "memory_with_all_open_mb": 330.0}, "memory_at_end_mb": 340.0,
            "chromium": {"first_chart_s": 5.1, "first_chart_warm_s": 1.1, "browser": "1",
                         "switch": {"n": 3, "errors": [], "median_ms": 321, "p95_ms": 400, "pages": {"Values": 321}}},
        },
        "pages": {"pairs": 160800, "import_seconds": 20.0, "owner_peak_gb": 0.7, "worker_peak_gb": 0.1,
                  "store_gb": 0.06, "pages": {"pairs: search": {"drawn_s": 1.1, "first_s": 1.234, "median_s": 0.05}}},
        "audits": {"data": "synthetic labels and rewards", "cases": [
            {"pairs": 1000, "features": 15, "signet": {"Eq 1, one model": 0.5, "peak_gb": 0.2},
             "reference": {"pyfixest, Eq 1": 2.0, "peak_gb": 1.0}},
            {"pairs": 9000, "features": 15, "signet": {"Eq 1, one model": 0.7, "slice search": 1.5, "peak_gb": 0.2}},
        ]},
        "asking": {"requests": 320, "concurrency": 64, "cases": [
            {"latency_s": 0.5, "bare_rps": 100.0, "signet_rps": 97.5, "overhead": 0.026}]},
        "scoring": {"a_figure": 0.125, "cases": [{"model": "a|b", "ratio": {"to_seal": 20}}]},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, result in results().items():
        found = {"benchmark": name, "date": "2031-02-03T04:05:06+00:00", "commit": "abc123", "seconds": 61.0,
                 "command": f"BENCH_X=1 python -m benchmarks {name}", "machine": MACHINE,
                 "versions": {"python": "3.11.7"}, "result": result}  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    (tmp_path / "torn.json").write_text('{"benchmark": "torn", ')
    return tmp_path


def well_formed(text: str) -> int:
    """How many tables a Markdown text holds; fails when the rows of one differ in their number of cells."""
    blocks: list[list[int]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|"):
            blocks = blocks if inside else [*blocks, []]
            blocks[-1].append(line.count("|"))
        inside = line.startswith("|")
    assert all(len(set(block)) == 1 and len(block) >= 3 for block in blocks), text
    return len(blocks)


def test_the_page_has_a_section_for_every_benchmark_and_says_what_is_absent(folder: Path) -> None:
    page = report.page(folder)
    assert well_formed(page) >= 6
    for name, one in ALL.items():
        section = page.split(f"## {one.title}\n")[1].split("\n## ")[0]
        if name in results():
            assert f"`BENCH_X=1 python -m benchmarks {name}`" in section and "2031-02-03" in section
            assert "Imagined &#124; 9000, 2 cores, 24 GB, no GPU" in section and "commit abc123" in section
        else:
            assert "No result is at hand" in section and f"`python -m benchmarks {name}`" in section
            assert one.needs in section


def test_a_result_that_goes_leaves_no_figure_behind(folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "docs" / "performance.md"
    report.write(folder, to)
    assert "5.1 s after the first request" in to.read_text()
    (folder / "sessions.json").unlink()
    report.write(folder, to)
    assert "5.1 s" not in to.read_text() and "`python -m benchmarks sessions`" in to.read_text()


def test_sections_give_both_figures_and_their_ratio() -> None:
    found = results()
    assert "| 1,000 | 15 | Eq 1, one model | 0.5 | pyfixest, Eq 1 | 2 | 4 |" in audits.section(found["audits"])
    assert "| slice search |  | 1.5 |" in audits.section(found["audits"])
    assert "| 0.5 | 97.5 | 100 | 0.975 | 128 |" in asking.section(found["asking"])
    assert "8,040 pairs/s" in pages.section(found["pages"]) and "| 1.1 | 1.234 | 0.05 |" in pages.section(
        found["pages"]
    )
    told = sessions.section(found["sessions"])
    assert "| one session, warm | 2 | 0 | 300 |" in told and "| 3 sessions, 2 s of thought | 3 | 1 | 300 |" in told
    assert "- Jobs: KeyError: 'x'" in told and "321 ms" in told
    assert all(well_formed(m.section(found[m.__name__.split(".")[1]])) for m in (audits, asking, pages, sessions))


def test_a_benchmark_without_a_section_or_with_an_older_result_is_a_plain_table() -> None:
    told = tables.plain(results()["scoring"])
    assert "| a figure | 0.125 |" in told and "| a&#124;b | 20 |" in told and well_formed(told) == 2
    assert "| pairs | 3 |" in report.body(ALL["audits"], {"pairs": 3})


CELLS = st.text() | st.integers() | st.floats() | st.none() | st.booleans()


@given(st.lists(st.dictionaries(st.text(max_size=8), CELLS, min_size=1), min_size=1))
def test_no_text_breaks_a_table(rows: list[dict[str, Any]]) -> None:
    lines = tables.table(rows).split("\n")
    assert len(lines) == len(rows) + 2
    names = list(dict.fromkeys(key for row in rows for key in row))
    for line in (lines[0], *lines[2:]):
        assert line.count("|") == len(names) + 1


def test_times_are_of_visits_without_error_and_errors_are_counted() -> None:
    found = sessions.summary(visits())
    assert (found["n"], found["errors"], found["median_ms"], found["p95_ms"], found["max_ms"]) == (3, 1, 300, 400, 400)
    assert found["pages"]["Jobs"] == {"n": 1, "errors": 1} and found["error_texts"] == ["Jobs: KeyError: 'x'"]


def test_every_result_says_what_it_rests_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_SESSIONS", "5")
    monkeypatch.setenv("BENCH_ENCODER", str(tmp_path))
    found = machine.provenance("sessions")
    assert found["command"] == "BENCH_ENCODER=FOLDER BENCH_SESSIONS=5 python -m benchmarks sessions"
    assert found["machine"]["cores"] >= 1 and found["machine"]["memory_gb"] > 0 and found["machine"]["processor"]
    assert found["versions"]["streamlit"] and found["date"].endswith("+00:00")
    assert found["machine"]["processor"] in report.rests_on(found)


def test_a_failed_benchmark_is_told_and_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("out of ideas")

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(asking, "run", broken)
    monkeypatch.setattr(audits, "run", lambda: results()["audits"])
    monkeypatch.setattr(sys, "argv", ["benchmarks", "asking", "audits"])
    assert command.main() == 1
    said = capsys.readouterr()
    assert "out of ideas" in said.err and "| Eq 1, one model |" in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["audits.json"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "no-such"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2


def test_every_registered_benchmark_is_there() -> None:
    assert all(find_spec(f"benchmarks.{name}") for name in ALL)
    assert {"finetuning", "judges"} <= {name for name, one in ALL.items() if one.needs}


def test_the_benchmark_of_scale_runs_through_and_uses_its_store_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The parts but the pages, on 300 pairs; the pages are those of other tests."""
    monkeypatch.setattr(scale, "PAIRS", 300)
    monkeypatch.setenv("BENCH_SCALE_HOME", str(tmp_path / "store"))
    asked: list[str] = []

    def apart(what: str, home: Path) -> dict[str, Any]:
        asked.append(what)
        if what == "visit":
            return {"pairs": {"first_s": 0.1, "longest_s": 0.1, "complete_s": 0.2, "again_s": 0.1, "peak_gb": 0.3}}
        return {"make": scale.make, "fill": scale.fill, "jobs": scale.jobs_at_scale}[what](home)

    monkeypatch.setattr(scale, "_apart", apart)
    first, again = scale.run(), scale.run()
    assert asked == ["make", "fill", "jobs", "visit", "visit", "jobs", "visit", "visit"]
    assert first["import"] == again["import"] and first["import"]["entries"] == 600
    assert first["job"]["take_8_entries"] == again["job"]["take_8_entries"] > 0
    assert "earlier run" in scale.section(again) and "earlier run" not in scale.section(first)
    assert "300 synthetic pairs" in scale.section(first) and "| pairs | 0.1 |" in scale.section(first)
    monkeypatch.setattr(scale, "PAIRS", 301)
    with pytest.raises(SystemExit, match="has 300 pairs, not 301"):
        scale.run()


def test_visitors_go_through_a_live_dashboard_without_error(tmp_path: Path) -> None:
    async def two_sessions(address: str) -> list[Visit]:
        async def one(first: str) -> list[Visit]:
            async with Visitor(address) as visitor:
                made = [await visitor.visit(path=first), await visitor.visit("Values")]
                return [*made, await visitor.visit("Jobs")]

        return [visit for some in await asyncio.gather(one("values"), one("")) for visit in some]

    async def nowhere(address: str) -> Visit:
        async with Visitor(address) as visitor:
            return await visitor.visit(path="no-such-page")

    with serve(tmp_path / "home") as server:
        made = asyncio.run(two_sessions(server.address))
        lost = asyncio.run(nowhere(server.address))
    assert [visit.errors for visit in made] == [[]] * 6
    assert {visit.page for visit in made} == {"values", "", "Values", "Jobs"}
    assert all(0 < visit.seconds < 60 and visit.kilobytes > 1 for visit in made)
    assert lost.errors == ["page not found"], "what a browser would be told counts as an error"
