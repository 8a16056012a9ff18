"""docs/performance.md: one page of results, made from benchmarks/results/*.json and from nothing else.

`python -m benchmarks report` writes it. A benchmark without a result is named with the command that would make one; no
figure of an older page survives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import machine, tables
from benchmarks.registry import ALL, Benchmark
from engine.settings import ROOT

RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"
HEAD = """# Performance

This page is written by `python -m benchmarks report` from the results of runs; no figure is typed in. Every section
says which machine, versions and commit its figures come from, and the command that repeats them. The alternative's
figure is from the same run on the same machine. `make bench` runs the short benchmarks and names the others with what
they need."""


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result in the folder, by the benchmark's name; a file that cannot be read is left out."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            one = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(one, dict) and isinstance(one.get("result"), dict):
            found[str(one.get("benchmark", path.stem))] = one
    return found


def body(benchmark: Benchmark, result: dict[str, Any]) -> str:
    """The benchmark's own section, or a plain table where it has none or the result is of an older shape."""
    try:
        section = getattr(benchmark.module, "section", None)
        return str(section(result)).strip() if section else tables.plain(result)
    except (ImportError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        return tables.plain(result)


def rests_on(found: dict[str, Any]) -> str:
    """The lines under a section: command, machine, date, commit, versions."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    commit = f", commit {found['commit']}" if found.get("commit") else ""
    took = f", took {found['seconds']:,.0f} s" if "seconds" in found else ""
    return (
        f"`{found['command']}`\n\n*Measured {found['date'][:10]} on {tables.cell(machine.in_words(found['machine']))}"
        f"{commit}{took}; {tables.cell(versions)}.*"
    )


def page(folder: Path = RESULTS) -> str:
    """The whole page as Markdown."""
    found = results(folder)
    parts = [HEAD]
    for name, benchmark in ALL.items():
        try:
            about = benchmark.about
        except ImportError:
            about = ""
        parts += [f"## {benchmark.title}", about]
        if name in found:
            parts += [body(benchmark, found[name]["result"]), rests_on(found[name])]
        else:
            needs = f" It needs {benchmark.needs}." if benchmark.needs else ""
            parts.append(f"No result is at hand. `python -m benchmarks {name}` makes one.{needs}")
    return "\n\n".join(part for part in parts if part) + "\n"


def write(folder: Path = RESULTS, to: Path = PAGE) -> Path:
    """Write the page; returns where it is."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(page(folder), encoding="utf-8")
    return to
