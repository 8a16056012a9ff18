"""A team's own taxonomies: files in the store's `taxonomies/`, written whole, never over what ships with Signet."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from engine import plain_yaml, taxonomy, taxonomy_form
from engine.records import SignetError
from engine.settings import TAXONOMIES, home
from engine.taxonomy import Taxonomy, parse


def shipped() -> set[str]:
    """Names of the taxonomies that ship with Signet."""
    return {path.stem for path in TAXONOMIES.glob("*.yaml")}


def own(folder: Path) -> dict[str, Path]:
    """A team's own taxonomies by name, in the store of that folder. Files that are not valid, or take a name that ships
    with Signet, are left out: `taxonomy.available` complains of them."""
    found: dict[str, Path] = {}
    for path in sorted((folder / "taxonomies").glob("*.y*ml")):
        with contextlib.suppress(SignetError):
            found.setdefault(taxonomy.read(path).name, path)
    return {name: path for name, path in found.items() if name not in shipped()}


def checked(text: str) -> Taxonomy:
    """The taxonomy of a text that is to be saved; SignetError says in one sentence what is wrong and where."""
    found = parse(text, "The taxonomy")
    if found.name in shipped():
        raise SignetError(f"The taxonomy {found.name!r} ships with Signet and stays as it is: give yours another name.")
    return found


def save(folder: Path, found: Taxonomy) -> Path:
    """Write a taxonomy's text in place of its earlier version; the file is whole at every moment."""
    path = own(folder).get(found.name) or folder / "taxonomies" / f"{found.name}.yaml"
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(found.text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return path


def delete(folder: Path, name: str) -> None:
    """Remove a taxonomy's file; SignetError where it ships with Signet or is not there."""
    if name in shipped():
        raise SignetError(f"The taxonomy {name!r} ships with Signet and cannot be deleted.")
    path = own(folder).get(name)
    if path is None:
        raise SignetError(f"There is no taxonomy {name!r} of your own.")
    path.unlink()


def copied(text: str) -> str:
    """The text of a taxonomy under a new name that nothing has yet, so that it can be changed."""
    raw = taxonomy_form.read(text)
    name = str(raw.get("name", "taxonomy"))
    stem = re.sub(r"_copy(_\d+)?$", "", name)[:50]
    taken = shipped() | set(own(home()))
    new = next(one for i in range(1, 10_000) if (one := f"{stem}_copy{f'_{i}' if i > 1 else ''}") not in taken)
    # The name's own line is replaced, so that comments and layout stay.
    changed, count = re.subn(r"(?m)^name:.*$", f"name: {new}", text, count=1)
    if count and taxonomy_form.read(changed) == raw | {"name": new}:
        return changed
    return plain_yaml.dump(raw | {"name": new})


def imported(data: bytes, file: str) -> str:
    """The YAML text of an uploaded file, which may be YAML or JSON; SignetError where it cannot be read."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SignetError(f"{file}: is not UTF-8 text.") from None
    if file.lower().endswith(".json"):
        raw = plain_yaml.from_json(text, file)
        if not isinstance(raw, dict):
            raise SignetError(f"{file}: must hold one object with name and features.")
        text = plain_yaml.dump(raw)
    plain_yaml.load(text, file)
    return text
