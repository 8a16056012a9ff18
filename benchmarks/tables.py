"""Markdown tables of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def cell(value: Any) -> str:
    """A value as it stands in a table: numbers with separators and no false digits, text that cannot break the row."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(one) for one in value)
    return " ".join(str(value).split()).replace("|", "&#124;")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A table of records; numbers to the right. `columns`: their order, by default as they first occur."""
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    numeric = {n: all(isinstance(row.get(n), int | float | None) for row in rows) for n in names}
    lines = [names, ["---:" if numeric[name] else "---" for name in names]]
    lines += [[cell(row.get(name)) for name in names] for row in rows]
    lines[0] = [cell(name) for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(result: Mapping[str, Any]) -> str:
    """Any result: its single figures as one table, each list of records as a table of its own."""
    figures: list[dict[str, Any]] = []
    lists: list[tuple[str, list[Any]]] = []

    def walk(found: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for key, value in found.items():
            here = (*path, str(key).replace("_", " "))
            if isinstance(value, Mapping):
                walk(value, here)
            elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
                lists.append((": ".join(here), [flat(one) for one in value]))
            else:
                figures.append({"what": ": ".join(here), "figure": value})

    walk(result, ())
    parts = [table(figures)] if figures else []
    parts += [f"{cell(name)}:\n\n{table(rows)}" for name, rows in lists]
    return "\n\n".join(parts)


def flat(record: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A record without nested ones: their fields are named `outer: inner`."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        name = before + str(key).replace("_", " ")
        found |= flat(value, f"{name}: ") if isinstance(value, Mapping) else {name: value}
    return found
