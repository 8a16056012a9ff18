"""Where rows come from: files, folders and globs, the Hugging Face hub (streamed), or hh-rlhf's test split by name."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import files
from engine.importing import load
from engine.readers import Row
from engine.records import SignetError

HH_HUB = "Anthropic/hh-rlhf"
HH_SUBSETS = ("harmless-base", "helpful-base")


@dataclass(frozen=True, slots=True)
class Located:
    """A raw row with where it came from, for messages."""

    where: str
    values: Row | None
    problem: str
    subset: str = ""


def is_local(source: str) -> bool:
    """Whether a source names something on this machine (there or not)."""
    return (
        Path(source).expanduser().exists()
        or any(sign in source for sign in "*?[")
        or source.startswith(("/", ".", "~"))
    )


def located(source: str, options: Mapping[str, Any]) -> Iterator[Located]:
    """Every raw row of a source, streamed. SignetError: one sentence when it cannot be read."""
    if source == "hh-rlhf-test":
        for subset in HH_SUBSETS:
            yield from _hub(HH_HUB, {"split": "test", "data_dir": subset}, subset)
    elif is_local(source):
        paths = files.paths_of(source)
        for path in paths:
            for row in files.rows(path):
                yield Located(f"{path.name}:{row.number}", row.values, row.problem)
    elif Path(source).suffix:
        raise SignetError(f"{source}: there is no such file.")
    else:
        yield from _hub(source, options, "")


def _hub(name: str, options: Mapping[str, Any], subset: str) -> Iterator[Located]:
    hub = load("datasets")
    try:
        stream = hub.load_dataset(
            name, options.get("config"), data_dir=options.get("data_dir"), split=options.get("split", "train"),
            revision=options.get("revision"), streaming=True,
        )  # fmt: skip
        for number, row in enumerate(stream, 1):
            yield Located(f"{name}:{number}", dict(row), "", subset)
    except SignetError:
        raise
    except Exception as error:  # the hub's client raises many kinds; each means the same to the user
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise SignetError(
            f"{name}: the Hugging Face hub did not give this dataset ({reason}). Check the name, split and network; "
            "or name a local file, folder or glob."
        ) from None


def grouped(rows: Iterator[Located], key: str) -> Iterator[Located]:
    """Consecutive rows with the same value of a field as one row, {"group": rows}; problems pass through."""

    def value(one: Located) -> Any:
        return one.values.get(key) if one.values else None

    for _, group in itertools.groupby(rows, value):
        listed = list(group)
        yield from (one for one in listed if one.values is None)
        members = [one.values for one in listed if one.values is not None]
        if members:
            yield Located(listed[0].where, {"group": members}, "")


def describe(source: str) -> list[dict[str, Any]]:
    """What was read, for the record: each file with its size and SHA-256, or the hub id."""
    if not is_local(source):
        return [{"hub": source}]
    found = []
    for path in files.paths_of(source)[:1000]:
        with path.open("rb") as file:
            found.append({"path": str(path), "bytes": path.stat().st_size,
                          "sha256": hashlib.file_digest(file, "sha256").hexdigest()})  # fmt: skip
    return found
