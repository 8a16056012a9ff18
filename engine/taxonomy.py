"""Taxonomies: YAML files of features or values, read, checked and addressed by content.

A file looks like this (every key shown; only name, and each feature's name and definition, must be there):

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
        group: virtues; care   # or a list: the groups it belongs to
        items: [...]           # words that belong to it, for readers only
        examples: {yes: [...], no: [...]}      # shown to annotators and language models; keys: EXAMPLES
      - name: topic
        definition: What it is about.
        kind: category         # or many_of: as many classes as hold
        classes:
          - {name: Law, definition: ..., examples: {yes: [...], no: [...]}}

A `choice` taxonomy has `classes` (and a `definition`) at its top instead of `features`; it is stored as one category
feature named as the taxonomy. The version is a hash of everything but `items`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine import plain_yaml
from engine.records import SignetError, content_hash
from engine.settings import TAXONOMIES, home

KINDS = ("boolean", "ternary", "signed", "numeric", "category", "many_of")
WITH_CLASSES = ("category", "many_of")
FEATURE_ROLES = ("target", "spoiler", "neutral")
SCOPES = ("response", "prompt", "dialogue")
# What examples of a feature can show, by its kind; a class, whatever its feature, has "yes" and "no".
EXAMPLES = {
    "boolean": ("yes", "no"),
    "ternary": ("positive", "neutral", "negative"),
    "signed": ("supported", "absent", "opposed"),
}
KEYS = {
    "features": ("name", "title", "source", "kind", "features"),
    "choice": ("name", "title", "source", "kind", "definition", "classes"),
    "feature": (*("name", "title", "definition", "kind", "role", "scope", "classes", "group", "items", "examples"),),
    "class": ("name", "definition", "examples"),
}
MOST_FEATURES, MOST_CLASSES, MOST_COLUMNS, MOST_EXAMPLES = 100, 100, 400, 10
MOST_WORDS = 300  # of a definition
LONGEST = {"title": 120, "source": 2_000, "definition": 3_000, "class": 100, "group": 80, "item": 200, "example": 1_500}
_NAME = re.compile(r"[a-z][a-z0-9_\-]{0,63}")
_JOINERS = "\u200c\u200d"  # invisible, but spelling in some scripts

Examples = tuple[tuple[str, str], ...]  # (what it shows, the text), in order


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
    examples: Examples = ()
    class_examples: tuple[Examples, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups it belongs to."""
        return tuple(self.group.split("; ")) if self.group else ()


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

    @property
    def is_choice(self) -> bool:
        """Whether every entry has exactly one of its classes."""
        return [(f.name, f.kind) for f in self.features] == [(self.name, "category")]

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
        shared = [f.title for f in self.features] + [c for f in self.features if f.kind == "many_of" for c in f.classes]
        for f in self.features:
            if f.kind == "many_of":
                for c in f.classes:
                    title = c if shared.count(c) == 1 else f"{f.title}: {c}"
                    found.append(Column(f"{f.name}: {c}", title, "boolean", f.role, f.scope, ()))
            else:
                found.append(Column(f.name, f.title, f.kind, f.role, f.scope, f.classes))
        return found


def alike(text: str) -> str:
    """What a name is compared by: letter case, width and invisible characters make no difference."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c not in _JOINERS)


def _twice(names: Sequence[str]) -> str | None:
    """The first name that is like an earlier one."""
    seen: set[str] = set()
    for name in names:
        if alike(name) in seen:
            return name
        seen.add(alike(name))
    return None


def _text(raw: Any, where: str, what: str, longest: str) -> str:
    """A text in one line, of printable characters, not too long; SignetError names place and field."""
    if not isinstance(raw, str):
        raise SignetError(f"{where}: {what} must be a text.")
    text = " ".join(raw.split())
    for character in text:
        if not character.isprintable() and character not in _JOINERS:
            raise SignetError(f"{where}: {what} holds the invisible character U+{ord(character):04X}; delete it.")
    if len(text) > LONGEST[longest]:
        raise SignetError(f"{where}: {what} has {len(text):,} characters; {LONGEST[longest]:,} are the most.")
    return text


def _definition(raw: Any, where: str) -> str:
    text = _text(raw, where, "definition", "definition")
    if len(text.split()) > MOST_WORDS:
        raise SignetError(f"{where}: definition has {len(text.split())} words; {MOST_WORDS} are the most.")
    return text


def _name(raw: Any, where: str) -> str:
    if not isinstance(raw, str) or not _NAME.fullmatch(raw):
        raise SignetError(f"{where}: name is {raw!r}; use lower-case letters, digits, _ and - (64 at most).")
    return raw


def _known(raw: dict[str, Any], kind: str, where: str) -> None:
    for key in raw:
        if key not in KEYS[kind]:
            raise SignetError(f"{where}: unknown key {key!r}; there are {', '.join(KEYS[kind])}.")


def _one_of(value: Any, allowed: Sequence[str], where: str, key: str) -> str:
    if value not in allowed:
        raise SignetError(f"{where}: {key} is {value!r}; it must be one of {', '.join(allowed)}.")
    return str(value)


def _examples(raw: Any, allowed: Sequence[str], where: str) -> Examples:
    if not isinstance(raw, dict):
        raise SignetError(f"{where}: examples must be a mapping with {' and '.join(allowed)}.")
    found: list[tuple[str, str]] = []
    for key, texts in raw.items():
        if key not in allowed:
            raise SignetError(f"{where}: examples of {key!r}; there can be examples of {', '.join(allowed)}.")
        for one in texts if isinstance(texts, list) else [texts]:
            text = _text(one, where, f"an example of {key!r}", "example")
            if text:
                found.append((key, text))
    if len(found) > MOST_EXAMPLES:
        raise SignetError(f"{where}: {len(found)} examples; {MOST_EXAMPLES} are the most.")
    return tuple(sorted(found, key=lambda pair: allowed.index(pair[0])))


def _classes(raw: Any, where: str) -> dict[str, Any]:
    """A feature's classes, class_definitions and class_examples."""
    if not isinstance(raw, list) or len(raw) < 2:
        raise SignetError(f"{where}: classes must be a list of at least two.")
    if len(raw) > MOST_CLASSES:
        raise SignetError(f"{where}: {len(raw)} classes; {MOST_CLASSES} are the most.")
    names, definitions, examples = [], [], []
    for i, item in enumerate(raw, 1):
        here = f"{where}: class {i}"
        if isinstance(item, str):
            item = {"name": item}
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise SignetError(f"{here} must be a text, or have a name and a definition.")
        name = _text(item["name"], here, "name", "class")
        if not name:
            raise SignetError(f"{here}: name is empty.")
        here = f"{here} ({name})"
        _known(item, "class", here)
        names.append(name)
        definitions.append(_definition(item.get("definition", ""), here))
        examples.append(_examples(item.get("examples", {}), EXAMPLES["boolean"], here))
    twice = _twice(names)
    if twice is not None:
        raise SignetError(f"{where}: the class {twice!r} appears twice (letter case makes no difference).")
    return {"classes": tuple(names), "class_definitions": tuple(definitions), "class_examples": tuple(examples)}


def _group(raw: Any, where: str) -> str:
    listed = raw if isinstance(raw, list) else str(raw).split(";")
    names = [_text(one, where, "group", "group") for one in listed]
    if any(";" in name for name in names):
        raise SignetError(f"{where}: a group's name may hold no semicolon.")
    return "; ".join(name for name in names if name)


def _feature(raw: Any, where: str) -> Feature:
    if not isinstance(raw, dict):
        raise SignetError(f"{where}: must be a mapping with name, definition and kind.")
    _known(raw, "feature", where)
    name = _name(raw.get("name"), where)
    where = f"{where} ({name})"
    definition = _definition(raw.get("definition", ""), where)
    if not definition:
        raise SignetError(f"{where}: definition is missing; say when the feature is true.")
    kind = _one_of(raw.get("kind", "boolean"), KINDS, where, "kind")
    more: dict[str, Any] = {}
    if kind in WITH_CLASSES:
        more = _classes(raw.get("classes"), where)
    elif "classes" in raw:
        raise SignetError(f"{where}: classes belong to kind category or many_of, not to {kind}.")
    if "examples" in raw and kind not in EXAMPLES:
        there = "stand with its classes" if kind in WITH_CLASSES else "are not taken"
        raise SignetError(f"{where}: examples of a feature of kind {kind} {there}.")
    items = raw.get("items", [])
    if not isinstance(items, list) or len(items) > MOST_CLASSES:
        raise SignetError(f"{where}: items must be a list of at most {MOST_CLASSES} texts.")
    return Feature(
        name,
        _text(raw.get("title", ""), where, "title", "title") or name.replace("_", " "),
        definition,
        kind,
        _one_of(raw.get("role", "neutral"), FEATURE_ROLES, where, "role"),
        _one_of(raw.get("scope", "response"), SCOPES, where, "scope"),
        group=_group(raw.get("group", ""), where),
        items=tuple(_text(one, where, "an item", "item") for one in items),
        examples=_examples(raw.get("examples", {}), EXAMPLES.get(kind, ()), where),
        **more,
    )


def _features(listed: Any, where: str) -> tuple[Feature, ...]:
    if not isinstance(listed, list) or not listed:
        raise SignetError(f"{where}: features must be a list of at least one.")
    if len(listed) > MOST_FEATURES:
        raise SignetError(f"{where}: {len(listed)} features; {MOST_FEATURES} are the most.")
    features = tuple(_feature(item, f"{where}: feature {i}") for i, item in enumerate(listed, 1))
    twice = _twice([feature.name for feature in features])
    if twice is not None:
        raise SignetError(f"{where}: the feature {twice!r} appears twice.")
    twice = _twice([feature.title for feature in features])
    if twice is not None:
        raise SignetError(f"{where}: the title {twice!r} stands for two features.")
    return features


def parse(text: str, where: str) -> Taxonomy:
    """A taxonomy from YAML text; `where` (the file) begins every complaint."""
    raw = plain_yaml.load(text, where)
    if not isinstance(raw, dict):
        raise SignetError(f"{where}: must be a mapping with name and features.")
    name = _name(raw.get("name"), where)
    title = _text(raw.get("title", ""), where, "title", "title") or name
    source = _text(raw.get("source", ""), where, "source", "source")
    kind = _one_of(raw.get("kind", "features"), ("features", "choice"), where, "kind")
    _known(raw, kind, where)
    if kind == "choice":
        classes = _classes(raw.get("classes"), where)
        definition = _definition(raw.get("definition", ""), where) or f"The one class of {title} that fits best."
        features: tuple[Feature, ...] = (Feature(name, title, definition, "category", **classes),)
    else:
        features = _features(raw.get("features"), where)
    found = Taxonomy(name, title, source, features, _version(raw), text)
    columns = [column.name for column in found.columns()]
    if len(columns) > MOST_COLUMNS:
        raise SignetError(f"{where}: features and classes make {len(columns)} columns; {MOST_COLUMNS} are the most.")
    twice = _twice(columns)
    if twice is not None:
        raise SignetError(f"{where}: {twice!r} would be stored for two things; rename a feature or a class.")
    return found


def _version(raw: dict[str, Any]) -> str:
    if "features" in raw:
        without = [{key: one for key, one in feature.items() if key != "items"} for feature in raw["features"]]
        raw = {**raw, "features": without}
    return content_hash(raw)


def read(path: Path) -> Taxonomy:
    """The taxonomy of a file; SignetError where it is not valid."""
    try:
        if path.stat().st_size > 4 * plain_yaml.LONGEST:
            raise SignetError(f"{path.name}: is too large for a taxonomy ({path.stat().st_size:,} bytes).")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SignetError(f"{path.name}: cannot be read as UTF-8 text ({error.__class__.__name__}).") from None
    return parse(text, path.name)


@cache
def _read_cached(path: Path, mtime: float) -> Taxonomy:
    return read(path)


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
        return read(Path(name))
    wrong = f" ({' '.join(complaints)})" if complaints else ""
    raise SignetError(f"No taxonomy {name!r}; there are {', '.join(sorted(found))}.{wrong}")
