"""A taxonomy as tables of rows that a form can edit, and back. What nobody touched stays word for word as it was.

Works on the content before it is checked (mappings, lists, texts), so that unfinished work has a form too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine import plain_yaml
from engine.records import SignetError
from engine.taxonomy import EXAMPLES, KEYS

HEAD = ("name", "title", "source", "definition")
DEFAULTS = {"kind": "boolean", "role": "neutral", "scope": "response"}
FEATURE = ("was", "title", "name", "definition", "kind", "role", "scope", "group")
CLASS = ("of", "name", "definition")
EXAMPLE = ("of", "shows", "text")

Row = dict[str, str]


@dataclass(frozen=True)
class Form:
    """The rows, every cell a text. `kind`: choice or features; head has the keys of HEAD, rows those of their table.

    was: the feature's name before the edit, empty in a new row. of: a feature's name (empty for the classes of a
    choice); for the examples of a class FEATURE: CLASS, or the class of a choice.
    """

    kind: str = "choice"
    head: Row = field(default_factory=lambda: dict.fromkeys(HEAD, ""))
    features: list[Row] = field(default_factory=list)
    classes: list[Row] = field(default_factory=list)
    examples: list[Row] = field(default_factory=list)


def slug(text: str) -> str:
    """A name for a title: lower-case ASCII letters, digits and underscores; empty where nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).lstrip("0123456789_")[:64].rstrip("_")


def read(text: str) -> dict[str, Any]:
    """The content of a taxonomy's text, unchecked; SignetError where it is none."""
    raw = plain_yaml.load(text, "The taxonomy")
    if not isinstance(raw, dict):
        raise SignetError("The taxonomy: must be a mapping with name and features.")
    return raw


# --- content to rows ------------------------------------------------------------------------------------------------


def _unfit(reason: str) -> SignetError:
    return SignetError(f"This YAML cannot be shown as a form: {reason}.")


def _shown(value: Any, key: str = "") -> str:
    if key == "group" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "; ".join(value)
    if not isinstance(value, str):
        raise _unfit("a text is expected where there is a list or a mapping")
    return " ".join(value.split())


def _mappings(raw: Mapping[str, Any], key: str, known: str) -> Iterable[dict[str, Any]]:
    listed = raw.get(key, [])
    if not isinstance(listed, list):
        raise _unfit(f"{key} must be a list")
    for i, one in enumerate(listed, 1):
        one = {"name": one} if isinstance(one, str) else one
        if not isinstance(one, dict):
            raise _unfit(f"number {i} of {key} must be a mapping")
        if unknown := [name for name in one if name not in KEYS[known]]:
            raise _unfit(f"number {i} of {key} has the unknown key {unknown[0]!r}")
        yield one


def _examples(of: str, raw: Any) -> Iterable[Row]:
    if not isinstance(raw, dict):
        raise _unfit("examples must be a mapping")
    for shows, texts in raw.items():
        for text in texts if isinstance(texts, list) else [texts]:
            yield {"of": of, "shows": shows, "text": _shown(text)}


def form_of(raw: Mapping[str, Any]) -> Form:
    """The rows of a taxonomy's content; SignetError where its shape is not a taxonomy's."""
    form = Form("choice" if raw.get("kind") == "choice" else "features", {k: _shown(raw.get(k, "")) for k in HEAD})
    if unknown := [key for key in raw if key not in KEYS[form.kind]]:
        raise _unfit(f"it has the unknown key {unknown[0]!r}")
    for feature in _mappings(raw, "features", "feature"):
        row = {key: _shown(feature.get(key, DEFAULTS.get(key, "")), key) for key in FEATURE}
        form.features.append(row | {"was": row["name"]})
        form.examples.extend(_examples(row["name"], feature.get("examples", {})))
        _add_classes(form, row["name"], feature)
    _add_classes(form, "", raw)
    return form


def _add_classes(form: Form, of: str, raw: Mapping[str, Any]) -> None:
    for item in _mappings(raw, "classes", "class"):
        row = {"of": of} | {key: _shown(item.get(key, "")) for key in ("name", "definition")}
        form.classes.append(row)
        form.examples.extend(_examples(f"{of}: {row['name']}" if of else row["name"], item.get("examples", {})))


# --- rows to content ------------------------------------------------------------------------------------------------


def _rows(raw: Iterable[Mapping[str, Any]], keys: tuple[str, ...], needed: tuple[str, ...]) -> list[Row]:
    """Rows in which something needed was written, every cell a text on one line."""
    rows = [{key: " ".join(r[key].split()) if isinstance(r.get(key), str) else "" for key in keys} for r in raw]
    return [row for row in rows if any(row[key] for key in needed)]


def tidied(form: Form) -> Form:
    """The form without empty rows, with defaults, a name for every feature that has a title, and references to a
    renamed feature carried along."""
    features = _rows(form.features, FEATURE, ("title", "name", "definition"))
    features = [row | {key: row[key] or default for key, default in DEFAULTS.items()} for row in features]
    features = [row | {"name": row["name"] or slug(row["title"])} for row in features]
    renamed = {row["was"]: row["name"] for row in features if row["was"] and row["was"] != row["name"]}
    renamed = {old: new for old, new in renamed.items() if old not in {row["name"] for row in features}}
    classes = _rows(form.classes, CLASS, ("name", "definition"))
    examples = _rows(form.examples, EXAMPLE, ("text",))
    if form.kind == "choice":
        features, classes = [], [row | {"of": ""} for row in classes]
    else:
        classes = [row | {"of": renamed.get(row["of"], row["of"])} for row in classes]
        for row in examples:
            feature, sign, name = row["of"].partition(": ")
            row["of"] = renamed.get(feature, feature) + sign + name
    head = _rows([form.head], HEAD, HEAD)
    return Form(form.kind, head[0] if head else dict.fromkeys(HEAD, ""), features, classes, examples)


def content_of(form: Form, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content that the rows say; `base`, the content they were made from, itself where they say the same.

    SignetError for a class or an example of what is not there.
    """
    form = tidied(form)
    if base is not None:
        before = tidied(form_of(base))
        if before == form:
            return dict(base)
    items = {one.get("name"): one["items"] for one in (base or {}).get("features", []) if "items" in one}
    raw: dict[str, Any] = {key: form.head[key] for key in HEAD if form.head[key] and key in KEYS[form.kind]}
    raw["kind"] = form.kind
    owners: dict[str, dict[str, Any]] = {}
    if form.kind == "choice":
        raw["classes"] = [_class(row, owners) for row in form.classes]
    else:
        raw["features"] = [_feature(row, form, items, owners) for row in form.features]
        names = {row["name"] for row in form.features}
        for i, row in enumerate(form.classes, 1):
            if row["of"] not in names:
                missing = f"there is no feature {row['of']!r}" if row["of"] else "say which feature it belongs to"
                raise SignetError(f"Classes, row {i} ({row['name']}): {missing}.")
    for i, row in enumerate(form.examples, 1):
        owner = owners.get(row["of"])
        if owner is None:
            missing = f"there is no {row['of']!r}" if row["of"] else "say what it is an example of"
            raise SignetError(f"Examples, row {i}: {missing}.")
        owner.setdefault("examples", {}).setdefault(row["shows"] or "yes", []).append(row["text"])
    return raw


def _class(row: Row, owners: dict[str, dict[str, Any]]) -> dict[str, Any]:
    entry = {key: row[key] for key in ("name", "definition") if row[key]}
    owners[f"{row['of']}: {row['name']}" if row["of"] else row["name"]] = entry
    return entry


def _feature(row: Row, form: Form, items: Mapping[Any, Any], owners: dict[str, dict[str, Any]]) -> dict[str, Any]:
    entry: dict[str, Any] = {key: row[key] for key in ("name", "title", "definition") if row[key]}
    entry["kind"] = row["kind"]
    entry |= {key: row[key] for key in ("role", "scope") if row[key] != DEFAULTS[key]}
    entry |= {"group": row["group"]} if row["group"] else {}
    classes = [_class(one, owners) for one in form.classes if one["of"] == row["name"]]
    entry |= {"classes": classes} if classes else {}
    entry |= {"items": items[row["was"]]} if row["was"] in items else {}
    owners[row["name"]] = entry
    return entry


def as_kind(form: Form, kind: str) -> Form:
    """The same parts as another kind of taxonomy: classes become yes-or-no features, or features classes, with their
    definitions and examples. Classes of features are left out."""
    form = tidied(form)
    if kind == form.kind:
        return form
    if kind == "features":
        names = {row["name"]: slug(row["name"]) or f"part_{i}" for i, row in enumerate(form.classes, 1)}
        blank = dict.fromkeys(FEATURE, "") | DEFAULTS
        features = [blank | {"name": names[row["name"]], "title": row["name"], "definition": row["definition"]}
                    for row in form.classes]  # fmt: skip
        examples = [row | {"of": names[row["of"]]} for row in form.examples if row["of"] in names]
        return replace(form, kind=kind, features=features, classes=[], examples=examples)
    titles = {row["name"]: row["title"] or row["name"] for row in form.features}
    ends = {end: said for words in EXAMPLES.values() for end, said in ((words[0], "yes"), (words[-1], "no"))}
    classes = [{"of": "", "name": titles[row["name"]], "definition": row["definition"]} for row in form.features]
    examples = [row | {"of": titles[row["of"]], "shows": ends[row["shows"]]} for row in form.examples
                if row["of"] in titles and row["shows"] in ends]  # fmt: skip
    return replace(form, kind=kind, features=[], classes=classes, examples=examples)


# --- a quick start --------------------------------------------------------------------------------------------------


def from_lines(title: str, kind: str, lines: str, feature_kind: str = "boolean") -> Form:
    """A form from a title and one line a class (kind choice) or feature: `Name: when it holds`."""
    form = Form(kind)
    head = form.head | {"title": " ".join(title.split()), "name": slug(title)}
    for line in lines.splitlines():
        name, _, definition = (part.strip(" \t-*•") for part in line.partition(":"))
        if not name and not definition:
            continue
        if kind == "choice":
            form.classes.append({"of": "", "name": name, "definition": definition})
        else:
            row = dict.fromkeys(FEATURE, "") | {"title": name, "definition": definition, "kind": feature_kind}
            form.features.append(row)
    return replace(form, head=head)
