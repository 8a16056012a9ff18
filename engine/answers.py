"""What a person's answer about an entry may say, and what it means as labels: plain values in, checked values out.

An answer is a mapping of feature to value: the class of a category, 0 or 1, -1, 0 or 1, a number, the list of classes
that hold of a many_of feature, and None where the person cannot say. A check's answer judges given labels instead:
{"verdicts": {feature: right, wrong or unsure}, "values": {feature: the value that would be right}}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from engine.records import SignetError
from engine.taxonomy import Feature, Taxonomy

VERDICTS = ("right", "wrong", "unsure")
SIGNS = (-1, 0, 1)
GOLD = "gold"  # whose "answers" are what was adjudicated; no person can have the name

# The current answer of every annotator on every entry of every queue, gold left out, as a table in a query.
CURRENT = f"""(
    SELECT queue_id, entry_id, annotator, max(annotation_id) AS annotation_id,
        arg_max(answer, annotation_id) AS answer, arg_max(note, annotation_id) AS note,
        arg_max(seconds, annotation_id) AS seconds, max(created_at) AS created_at
    FROM annotations WHERE undone_at IS NULL AND answer IS NOT NULL AND annotator <> '{GOLD}'
    GROUP BY queue_id, entry_id, annotator)"""


def checked(taxonomy: Taxonomy, raw: Any) -> dict[str, Any]:
    """An answer in its stored form: every feature in the taxonomy's order.

    Raises SignetError for a feature that the taxonomy does not have, one that is missing, and an impossible value.
    """
    if not isinstance(raw, Mapping):
        raise SignetError("An answer must map features to values.")
    for name in raw:
        taxonomy.feature(str(name))
    found = {}
    for feature in taxonomy.features:
        if feature.name not in raw:
            raise SignetError(f"The answer says nothing about {feature.name!r}; null stands for “cannot say”.")
        found[feature.name] = value(feature, raw[feature.name])
    return found


def value(feature: Feature, raw: Any) -> Any:
    """One value in its stored form; SignetError says what it may be."""
    if raw is None:
        return None
    if feature.kind == "category":
        if raw in feature.classes:
            return raw
        raise SignetError(f"{feature.name} has no class {raw!r}; it has {', '.join(feature.classes)}.")
    if feature.kind == "many_of":
        if not isinstance(raw, list | tuple):
            raise SignetError(f"{feature.name} takes a list of classes, not {raw!r}.")
        for one in raw:
            if one not in feature.classes:
                raise SignetError(f"{feature.name} has no class {one!r}; it has {', '.join(feature.classes)}.")
        return [one for one in feature.classes if one in raw]
    if not isinstance(raw, int | float) or not math.isfinite(raw):
        raise SignetError(f"{feature.name} takes a number, not {raw!r}.")
    if feature.kind == "numeric":
        return float(raw)
    allowed = (0, 1) if feature.kind == "boolean" else SIGNS
    if raw not in allowed:
        raise SignetError(f"{feature.name} is {' or '.join(map(str, allowed))}, not {raw!r}.")
    return int(raw)


def verdicts(taxonomy: Taxonomy, shown: Mapping[str, Any], raw: Any) -> dict[str, Any]:
    """A check's answer in its stored form: a verdict on every label shown, and right values where some were given."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("verdicts"), Mapping):
        raise SignetError("A check's answer must have verdicts: right, wrong or unsure for every feature shown.")
    given, better = raw["verdicts"], raw.get("values") or {}
    for name in (*given, *better):
        if name not in shown:
            raise SignetError(f"No label of {name!r} was shown; shown were {', '.join(shown)}.")
    found: dict[str, Any] = {"verdicts": {}, "values": {}}
    for name in shown:
        if given.get(name) not in VERDICTS:
            raise SignetError(f"The verdict on {name} is one of {', '.join(VERDICTS)}, not {given.get(name)!r}.")
        found["verdicts"][name] = given[name]
        if better.get(name) is None:
            continue
        right = value(taxonomy.feature(name), better[name])
        if given[name] != "wrong" or right == shown[name]:
            raise SignetError(f"A right value for {name} belongs to a label judged wrong, and differs from it.")
        found["values"][name] = right
    return found


def to_text(answer: Mapping[str, Any]) -> str:
    """The stored text; the same answer is the same text."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def as_labels(taxonomy: Taxonomy, answer: Mapping[str, Any]) -> dict[str, float]:
    """The answer as values by stored column (engine.taxonomy.Column); what cannot be said has none."""
    found: dict[str, float] = {}
    for feature in taxonomy.features:
        one = answer.get(feature.name)
        if one is None:
            continue
        if feature.kind == "many_of":
            found |= {f"{feature.name}: {name}": float(name in one) for name in feature.classes}
        elif feature.kind == "category":
            found[feature.name] = float(feature.classes.index(one))
        else:
            found[feature.name] = float(one)
    return found


def from_labels(taxonomy: Taxonomy, labels: Mapping[str, float]) -> dict[str, Any]:
    """Inverse of as_labels, for the features that have every one of their columns."""
    found: dict[str, Any] = {}
    for feature in taxonomy.features:
        if feature.kind == "many_of":
            held = [labels.get(f"{feature.name}: {name}") for name in feature.classes]
            if None not in held:
                found[feature.name] = [name for name, one in zip(feature.classes, held) if one]
        elif feature.name in labels:
            one = labels[feature.name]
            if feature.kind == "category":
                found[feature.name] = feature.classes[int(one)]
            else:
                found[feature.name] = one if feature.kind == "numeric" else int(one)
    return found


def in_words(feature: Feature, one: Any) -> str:
    """A value as a reader wants it: yes, no, +1, a class, a list of classes. Plain text: escape it where shown."""
    if one is None:
        return "cannot say"
    if feature.kind == "boolean":
        return "yes" if one else "no"
    if feature.kind in ("signed", "ternary"):
        return f"{one:+d}" if one else "0"
    if feature.kind == "many_of":
        return ", ".join(one) or "none"
    return f"{one:g}" if feature.kind == "numeric" else str(one)
