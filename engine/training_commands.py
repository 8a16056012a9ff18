"""Operations on classifiers, as `engine.commands` offers them: train one, list them, delete one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from engine import catalog, classifiers, example_frames, jobs, taxonomy, training
from engine.records import SignetError
from engine.store import Store, ensure_taxonomy

Result = dict[str, Any]


def train(
    store: Store, name: str, taxonomy_name: str, teachers: list[str], datasets: list[str] | None = None,
    model: str = "linear", options: dict[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Start training a classifier of a taxonomy on labels that are in the store.

    `teachers`: whose labels, the first that judged an entry counts (people: the majority of persons). `datasets`: only
    entries of these. `model`: linear or mlp (on frozen embeddings), or an encoder by hub id or folder, fine-tuned.
    """
    classifiers.checked_name(name)
    chosen = taxonomy.load(taxonomy_name)
    given = training.checked(model, options or {})
    with store.transaction() as con:
        ensure_taxonomy(con, chosen)
    con = store.read()
    taxonomy_id = catalog.taxonomy_id(con, chosen.name, chosen.version)
    ids = [catalog.dataset(con, one).dataset_id for one in datasets or []]
    table = example_frames.examples(con, taxonomy_id, teachers, ids)
    if table.num_rows < training.LEAST:
        raise SignetError(
            f"Only {table.num_rows} entries have labels of {chosen.name} by {', '.join(teachers)}; "
            f"{training.LEAST} are the least to train on, a few hundred are better."
        )
    content = hashlib.blake2b(digest_size=6)
    for column in table.columns:
        content.update(str(column.to_pylist()).encode("utf-8", "surrogatepass"))
    params = {
        "name": name, "taxonomy": chosen.name, "version": chosen.version, "teachers": teachers,
        "datasets": datasets or [], "model": model, "data": content.hexdigest(), **given,
    }  # fmt: skip
    title = f"Train {name}: {chosen.name}, {table.num_rows:,} entries"
    about = "all datasets" if not datasets else ", ".join(datasets)
    return {"job": jobs.create(store.home, "train", about, title, params, [table]).id, "entries": table.num_rows}


def listed(store: Store) -> Result:
    """Every trained classifier with its held-out macro-F1 and baselines."""
    found = []
    for name in classifiers.names(store.home):
        known = classifiers.about(store.home, name)
        report = jobs.read_json(classifiers.folder_of(store.home, name) / classifiers.REPORT) or {}
        found.append(
            {"name": name, "taxonomy": known.taxonomy, "model": known.model, "teachers": list(known.teachers),
             "n": known.n, "created": known.created, "revision": known.revision, **report.get("figures", {})}
        )  # fmt: skip
    return {"classifiers": found}


def remove(store: Store, name: str) -> Result:
    """Delete a classifier; the labels it gave stay."""
    classifiers.remove(store.home, name)
    return {"deleted": name}


OPERATIONS: dict[str, Callable[..., Result]] = {"train": train, "classifiers": listed, "classifier_delete": remove}
