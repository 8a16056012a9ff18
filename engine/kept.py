"""Answers kept on disk: what took long to compute from the store is computed once for as long as its data stay.

An answer is a file `answers/<key>.json`; the key is made of the function, its arguments, the marks (engine.marks) of
all that it reads and the text of Signet's own modules. Nothing is ever invalidated: when data or code change, so does
the key, and the file that nobody asks for any more goes when space is short. Files hold plain data (numbers, texts,
frames, and records of Signet's own classes), never code: a store from elsewhere can be opened without trust.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib
import json
import math
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from engine import catalog, marks
from engine.design_frames import Part
from engine.settings import ROOT

MOST_BYTES = 500 << 20  # of all answers together
MOST_OF_ONE = 8 << 20  # a larger answer is no aggregate and not kept

# What the functions read besides the models, labelers and parts among their arguments, by positional argument: d
# dataset, m model, l labeler, . nothing; and kinds of which all rows count.
READS: dict[str, tuple[str, tuple[str, ...]]] = {
    "engine.reward_frames.alignment": ("dm", ()),
    "engine.reward_frames.length_baseline": ("d", ()),
    "engine.reward_frames.two_models": ("dmm", ()),
    "engine.reward_frames.calibration": ("dm", ()),
    "engine.reward_frames.histogram": ("dm", ()),
    "engine.reward_frames.heat": ("dm", ()),
    "engine.reward_frames.quadrants": ("dm", ()),
    "engine.reward_frames.most_disputed": ("dmm", ()),
    "engine.value_frames.prevalence": ("dl.", ()),
    "engine.value_frames.one_side": ("dl.", ()),
    "engine.value_frames.cooccurrence": ("dl.", ()),
    "engine.value_frames.subsets": ("d", ()),
    "engine.value_frames.splits": ("d", ()),
    "engine.vector_frames.groupings": ("d", ()),
    "engine.design_frames.rewriters": ("d", ("rewrites",)),
    "engine.design_frames.labelled_rewrites": ("d", ("rewrites", "labels")),
    "engine.audit_imprint.model_imprints": ("d", ()),
    "engine.audit_imprint.shift": ("d", ()),
    "engine.audit_imprint.angle_shift": ("d", ()),
    "engine.audit_imprint.bootstrap_check": ("d", ()),
    "engine.audit_alignment.audit": ("d", ()),
    "engine.audit_alignment.resistance": ("d", ()),
    "engine.audit_alignment.find_slices": ("d", ()),
    "engine.audit_alignment.find_suspects": ("d", ("reviews",)),
    "engine.audit_robustness.audit": ("d", ("rewrites",)),
    "engine.audit_agreement.compare": ("d", ()),
    "engine.audit_values.lessons": ("d", ()),
    "engine.audit_values.references": ("d", ("labels", "queues", "queue_items")),
    "engine.value_frames.prompts_of": ("d", ("pairs",)),
    "engine.audit_classifiers.class_counts": (".", ("labels", "labelers", "pairs")),
    "engine.example_frames.teachers": (".", ("labels", "labelers")),
    "engine.taxonomy_versions.versions": (".", ("labels", "labelers", "taxonomies")),
    "engine.audit_targets.side_vectors": ("d", ()),
    "engine.audit_targets.group_vectors": ("d", ()),
    "engine.audit_targets.directions": ("d", ()),
}
KINDS_OF = {"d": "pairs", "m": "rewards", "l": "labels"}


def name_of(function: Callable[..., Any]) -> str:
    """A function's place in Signet."""
    return f"{function.__module__}.{function.__qualname__}"


@cache
def _code() -> str:
    """Identifies the text of Signet's modules, so that another version's answers are not taken for this one's."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted((ROOT / "engine").glob("*.py")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def _named(value: Any, found: set[tuple[str, int]]) -> None:
    """Models, labelers and topics anywhere in an argument."""
    if isinstance(value, catalog.Model):
        found.add(("rewards", value.model_id))
    elif isinstance(value, catalog.Labeler):
        found.add(("labels", value.labeler_id))
    elif isinstance(value, Part):
        if value.topic is not None:
            found.add(("labels", value.topic[0]))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _named(getattr(value, field.name), found)
    elif isinstance(value, (tuple, list)):
        for one in value:
            _named(one, found)


def identity(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """What is asked, whatever the data: counts that a model or labeler carries along do not tell questions apart."""
    return hashlib.blake2b(f"{name_of(function)} {_told(arguments)!r}".encode(), digest_size=16).hexdigest()


def _told(value: Any) -> Any:
    if isinstance(value, catalog.Model):
        return ("model", value.model_id, value.label)
    if isinstance(value, catalog.Labeler):
        return ("labeler", value.labeler_id, value.label, value.taxonomy_id)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (type(value).__name__, *(_told(getattr(value, field.name)) for field in dataclasses.fields(value)))
    if isinstance(value, (tuple, list)):
        return tuple(_told(one) for one in value)
    return value


def key(con: duckdb.DuckDBPyConnection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """The name of an answer: another one as soon as anything that it rests on is another."""
    letters, kinds = READS[name_of(function)]
    state = marks.state(con)
    read: set[tuple[str, int]] = {
        (KINDS_OF[letter], int(value)) for letter, value in zip(letters, arguments) if letter != "."
    }
    _named(arguments, read)
    parts = [marks.of(state, kind, owner) for kind, owner in sorted(read)]
    parts += [marks.of_all(state, kind) for kind in kinds]
    text = "\n".join([_code(), identity(function, arguments), *parts])
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def find(home: Path, name: str) -> tuple[bool, Any]:
    """Whether there is an answer of that name, and the answer."""
    path = home / "answers" / f"{name}.json"
    try:
        text = path.read_text(encoding="utf-8")
        os.utime(path)
        return True, decode(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return False, None  # not there, cut short or of another making: it is computed


def keep(home: Path, name: str, value: Any) -> bool:
    """Keep an answer, whole or not at all; False for one that is too large or holds what cannot be kept."""
    try:
        text = json.dumps(encode(value), ensure_ascii=False)
    except TypeError:
        return False
    if len(text) > MOST_OF_ONE:
        return False
    folder = home / "answers"
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / f"{name}.json")
    _make_room(folder)
    return True


def _make_room(folder: Path) -> None:
    """Remove the answers that were asked for longest ago, once all take more than MOST_BYTES."""
    files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.json")]
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size


def answer(con: duckdb.DuckDBPyConnection, home: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """`function(con, *arguments)`, from its file where there is one.

    It is kept only if nothing that it reads has changed while it was computed.
    """
    if name_of(function) not in READS:
        return function(con, *arguments)
    name = key(con, function, arguments)
    there, value = find(home, name)
    if there:
        return value
    value = function(con, *arguments)
    if key(con, function, arguments) == name:
        keep(home, name, value)
    return value


# --- values as plain data --------------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """A value as JSON types; TypeError for what is no plain data."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, list):
        return [encode(one) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(one) for one in value]}
    if isinstance(value, (set, frozenset)):
        return {type(value).__name__: [encode(one) for one in sorted(value, key=repr)]}
    if isinstance(value, Mapping):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, pd.DataFrame):
        return _frame(value)
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("engine."):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"record": f"{type(value).__module__}:{type(value).__qualname__}", "fields": fields}
    raise TypeError(f"{type(value).__name__} is no plain data")


def _array(value: np.ndarray) -> dict[str, Any]:
    if value.dtype.kind not in "biuf":
        raise TypeError(f"An array of {value.dtype} is no plain data")
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"array": data, "dtype": value.dtype.str, "shape": list(value.shape)}


def _frame(value: pd.DataFrame) -> dict[str, Any]:
    index = value.index
    plain = isinstance(index, pd.RangeIndex)
    if not plain and (isinstance(index, pd.MultiIndex) or index.dtype.kind not in "iufO"):
        raise TypeError("A frame with such an index is no plain data")
    columns = []
    for position, name in enumerate(value.columns):
        column = value.iloc[:, position]
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
            columns.append([encode(name), column.dtype.str, _array(column.to_numpy())])
        elif column.dtype == object or isinstance(column.dtype, pd.StringDtype):
            kind = "object" if column.dtype == object else "str"
            values = [None if one is pd.NA else encode(one) for one in column.tolist()]
            columns.append([encode(name), kind, values])
        else:
            raise TypeError(f"A column of {column.dtype} is no plain data")
    where = [index.start, index.stop, index.step] if plain else _array(index.to_numpy())
    return {"frame": columns, "index": where, "rows": len(value), "attrs": encode(value.attrs)}


def decode(value: Any) -> Any:
    """Inverse of encode. Arrays, frames and mappings are new; only Signet's own records are made, from their fields."""
    if isinstance(value, list):
        return [decode(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(decode(one) for one in value["tuple"])
    if "set" in value or "frozenset" in value:
        made = set if "set" in value else frozenset
        return made(decode(one) for one in next(iter(value.values())))
    if "dict" in value:
        return {decode(k): decode(v) for k, v in value["dict"]}
    if "array" in value:
        return _as_array(value)
    if "frame" in value:
        return _as_frame(value)
    module, _, name = value["record"].partition(":")
    if not module.startswith("engine."):
        raise ValueError(f"{module} is none of Signet's modules")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ValueError(f"{name} is no record")
    return kind(**{field: decode(one) for field, one in value["fields"].items()})


def _as_array(value: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"{dtype} is no number")
    return np.frombuffer(base64.b64decode(value["array"]), dtype=dtype).reshape(value["shape"]).copy()


def _as_frame(value: dict[str, Any]) -> pd.DataFrame:
    where = value["index"]
    index = pd.RangeIndex(*where) if isinstance(where, list) else pd.Index(_as_array(where))
    columns = []
    for _, kind, data in value["frame"]:
        if kind == "object":
            column = pd.Series(np.empty(value["rows"], dtype=object), index=index)
            column.array[:] = np.fromiter((decode(one) for one in data), dtype=object, count=len(data))
        elif kind == "str":
            column = pd.Series([math.nan if one is None else decode(one) for one in data], index=index, dtype="str")
        else:
            column = pd.Series(_as_array(data), index=index)
        columns.append(column)
    names = [decode(name) for name, _, _ in value["frame"]]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=index)
    frame.columns = pd.Index(names)
    frame.attrs = decode(value["attrs"])
    return frame
