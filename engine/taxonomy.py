"""Taxonomies: YAML files of features or values, read, checked and addressed by content.

A file looks like this (every key shown; `classes` only for category and many_of, `groups` optional):

    name: my_values            # letters, digits, _
    title: My values
    source: where the definitions come from
    kind: features             # features: each labelled on its own; choice: exactly one class an entry
    features:
      - name: helpful
        title: Helpful
        definition: True if the last response ...
        kind: boolean          # boolean, ternary (-1, 0, 1), signed (-1, 0, 1), numeric, category, many_of
        role: target           # target, spoiler, neutral
        scope: response        # response (default), prompt, dialogue: what the judgement is about
        classes: [...]

A `choice` taxonomy has `classes` (name, definition) at its top instead of `features`; it is stored as one
category feature named as the taxonomy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from engine.records import SignetError, content_hash
from engine.settings import TAXONOMIES, home

KINDS = ("boolean", "ternary", "signed", "numeric", "category", "many_of")
FEATURE_ROLES = ("target", "spoiler", "neutral")
SCOPES = ("response", "prompt", "dialogue")
_NAME = re.compile(r"[a-z][a-z0-9_\-]{0,63}")


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing to judge of an entry."""

    name: str
    title: str
    definition: str
    kind: str
    role: str = "neutral"
    scope: str = "response"
    classes: tuple[str, ...] = ()
    class_definitions: tuple[str, ...] = ()
    group: str = ""
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One stored column of labels: a feature, or one class of a many_of feature (then boolean)."""

    name: str
    title: str
    kind: str
    role: str
    scope: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Taxonomy:
    """A checked taxonomy. `version` is a hash of its content: labels know which version made them."""

    name: str
    title: str
    source: str
    features: tuple[Feature, ...]
    version: str
    text: str

    def feature(self, name: str) -> Feature:
        """The feature of that name; SignetError names the known ones."""
        for feature in self.features:
            if feature.name == name:
                return feature
        known = ", ".join(feature.name for feature in self.features)
        raise SignetError(f"Taxonomy {self.name} has no feature {name!r}; it has {known}.")

    def columns(self) -> list[Column]:
        """What is stored: one column a feature; a many_of feature gives one boolean column a class."""
        found: list[Column] = []
        for f in self.features:
            if f.kind == "many_of":
                found += [Column(f"{f.name}: {c}", c, "boolean", f.role, f.scope, ()) for c in f.classes]
            else:
                found.append(Column(f.name, f.title, f.kind, f.role, f.scope, f.classes))
        return found


def _checked_choices(value: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(value, list) or len(value) < 2:
        raise SignetError(f"{where}: classes must be a list of at least two.")
    names, definitions = [], []
    for item in value:
        if isinstance(item, str):
            item = {"name": item}
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise SignetError(f"{where}: each class must be a string, or have a name and a definition.")
        names.append(item["name"])
        definitions.append(str(item.get("definition", "")))
    if len(set(names)) != len(names):
        raise SignetError(f"{where}: a class appears twice.")
    return tuple(names), tuple(definitions)


def _one_of(value: Any, allowed: Sequence[str], where: str, key: str) -> str:
    if value not in allowed:
        raise SignetError(f"{where}: {key} is {value!r}; it must be one of {', '.join(allowed)}.")
    return str(value)


def _feature(raw: Any, where: str) -> Feature:
    if not isinstance(raw, dict):
        raise SignetError(f"{where}: must be a mapping with name, definition and kind.")
    unknown = set(raw) - {"name", "title", "definition", "kind", "role", "scope", "classes", "group", "items"}
    if unknown:
        raise SignetError(f"{where}: unknown key {sorted(map(str, unknown))[0]!r}.")
    name = raw.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SignetError(f"{where}: name is {name!r}; use lower-case letters, digits, _ and -.")
    where = f"{where} ({name})"
    definition = raw.get("definition")
    if not isinstance(definition, str) or not definition.strip():
        raise SignetError(f"{where}: definition is missing; say when the feature is true.")
    kind = _one_of(raw.get("kind", "boolean"), KINDS, where, "kind")
    classes: tuple[str, ...] = ()
    class_definitions: tuple[str, ...] = ()
    if kind in ("category", "many_of"):
        classes, class_definitions = _checked_choices(raw.get("classes"), where)
    elif "classes" in raw:
        raise SignetError(f"{where}: classes belong to kind category or many_of, not to {kind}.")
    return Feature(
        name,
        str(raw.get("title", name.replace("_", " "))),
        " ".join(definition.split()),
        kind,
        _one_of(raw.get("role", "neutral"), FEATURE_ROLES, where, "role"),
        _one_of(raw.get("scope", "response"), SCOPES, where, "scope"),
        classes,
        class_definitions,
        str(raw.get("group", "")),
        tuple(map(str, raw.get("items", ()))),
    )


def parse(text: str, where: str) -> Taxonomy:
    """A taxonomy from YAML text; `where` (the file) begins every complaint."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SignetError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', 'unreadable')}).") from None
    if not isinstance(raw, dict):
        raise SignetError(f"{where}: must be a mapping with name and features.")
    name = raw.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SignetError(f"{where}: name is {name!r}; use lower-case letters, digits, _ and -.")
    title = str(raw.get("title", name))
    if _one_of(raw.get("kind", "features"), ("features", "choice"), where, "kind") == "choice":
        classes, definitions = _checked_choices(raw.get("classes"), where)
        definition = str(raw.get("definition", f"The one class of {title} that fits best."))
        features: tuple[Feature, ...] = (
            Feature(name, title, definition, "category", classes=classes, class_definitions=definitions),
        )
    else:
        listed = raw.get("features")
        if not isinstance(listed, list) or not listed:
            raise SignetError(f"{where}: features must be a list of at least one.")
        features = tuple(_feature(item, f"{where}: features[{i}]") for i, item in enumerate(listed))
        names = [feature.name for feature in features]
        for feature_name in names:
            if names.count(feature_name) > 1:
                raise SignetError(f"{where}: feature {feature_name!r} appears twice.")
    return Taxonomy(name, title, str(raw.get("source", "")), features, content_hash(raw), text)


def _read(path: Path) -> Taxonomy:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SignetError(f"{path.name}: cannot be read as UTF-8 text ({error.__class__.__name__}).") from None
    return parse(text, path.name)


@cache
def _read_cached(path: Path, mtime: float) -> Taxonomy:
    return _read(path)


def available() -> tuple[dict[str, Taxonomy], list[str]]:
    """Every taxonomy by name (shipped ones, then the store's own folder), and the complaints about wrong files."""
    found: dict[str, Taxonomy] = {}
    complaints: list[str] = []
    for path in [*sorted(TAXONOMIES.glob("*.yaml")), *sorted((home() / "taxonomies").glob("*.y*ml"))]:
        try:
            taxonomy = _read_cached(path, path.stat().st_mtime)
            if taxonomy.name in found:
                raise SignetError(f"{path.name}: the name {taxonomy.name!r} is taken by another taxonomy; rename it.")
            found[taxonomy.name] = taxonomy
        except SignetError as error:
            complaints.append(str(error))
    return found, complaints


def load(name: str) -> Taxonomy:
    """The taxonomy of that name, or from a YAML file's path; SignetError says which names there are."""
    found, complaints = available()
    if name in found:
        return found[name]
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return _read(Path(name))
    wrong = f" ({' '.join(complaints)})" if complaints else ""
    raise SignetError(f"No taxonomy {name!r}; there are {', '.join(sorted(found))}.{wrong}")
