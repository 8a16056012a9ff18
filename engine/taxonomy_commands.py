"""Operations on taxonomies, as `engine.commands` offers them: save, delete, draft, carry labels over, list versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine import drafting, taxonomy, taxonomy_files, taxonomy_versions
from engine.records import SignetError
from engine.store import Store

Result = dict[str, Any]


def save(store: Store, text: str, base: str | None = None) -> Result:
    """Save a taxonomy's text as its current version; the earlier ones stay in the store with their labels.

    `base`: the version that the text was made from, None for a new taxonomy. SignetError where the taxonomy is not
    valid, ships with Signet, or was changed since `base`.
    """
    found = taxonomy_files.checked(text)
    path = taxonomy_files.own(store.home).get(found.name)
    before = taxonomy.read(path) if path else None
    if before is None and base is not None:
        raise SignetError(f"The taxonomy {found.name!r} was deleted meanwhile; save it as a new one.")
    if before is not None and before.version != base != found.version:
        if base is None:
            raise SignetError(f"There is a taxonomy {found.name!r} already: edit that one, or choose another name.")
        raise SignetError(
            f"Somebody saved another version of {found.name!r} meanwhile ({before.version}); open it again to edit it."
        )
    for one in (before, found):  # what a hand wrote into the file is kept too
        if one is not None:
            taxonomy_versions.remember(store, one)
    taxonomy_files.save(store.home, found)
    return {"name": found.name, "version": found.version, "changed": before is None or before.version != found.version}


def delete(store: Store, name: str) -> Result:
    """Delete a taxonomy of one's own; its versions in the store and their labels stay."""
    path = taxonomy_files.own(store.home).get(name)
    if path is not None:
        taxonomy_versions.remember(store, taxonomy.read(path))
    taxonomy_files.delete(store.home, name)
    return {"deleted": name}


def carry(store: Store, name: str, version: str) -> Result:
    """Give people's labels by an older version to the current one, for the features that are the same in both."""
    new = taxonomy.load(name)
    if version == new.version:
        raise SignetError(f"{version} is the current version of {name!r}; name an older one.")
    old = taxonomy_versions.stored(store.read(), name, version)
    return {"name": name, "from": version, "to": new.version, **taxonomy_versions.carry_over(store, old, new)}


def draft(
    store: Store, labeler: str, title: str, description: str, kind: str = "choice", count: int = 5, sources: str = "",
    entries: str = "", options: dict[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Have a language model draft a taxonomy; nothing is saved. See engine.drafting.draft."""
    request = drafting.Request(title, description, kind, count, sources, entries)
    found = drafting.draft(request, labeler, options or {})
    return {"text": found.text, "seconds": found.seconds, "tokens_in": found.usage.prompt_tokens,
            "tokens_out": found.usage.completion_tokens, "dollars": found.dollars}  # fmt: skip


def listed(store: Store, name: str | None = None) -> Result:
    """Every taxonomy with its versions in the store and how many labels each has, by labeler."""
    found, complaints = taxonomy.available()
    own = taxonomy_files.own(store.home)
    seen = taxonomy_versions.versions(store.read(), name)
    rows = []
    for one in found.values():
        if name in (None, one.name):
            mine = [{"version": v.version, "created": v.created_at, "labels": v.n_labels, "by_people": v.by_people,
                     "labelers": [{"labeler": who, "kind": kind, "labels": n} for who, kind, n in v.labelers]}
                    for v in seen if v.name == one.name]  # fmt: skip
            rows.append({"name": one.name, "title": one.title, "version": one.version, "own": one.name in own,
                         "features": len(one.features), "source": one.source, "versions": mine})  # fmt: skip
    return {"taxonomies": rows, "complaints": complaints}


OPERATIONS: dict[str, Callable[..., Result]] = {
    "taxonomies": listed,
    "taxonomy_save": save,
    "taxonomy_delete": delete,
    "taxonomy_carry": carry,
    "taxonomy_draft": draft,
}
