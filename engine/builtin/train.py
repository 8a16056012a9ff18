"""Trains every built-in head and writes what ships: `python -m engine.builtin.train --data FOLDER`.

Writes into engine/builtin/: heads/*.safetensors, labels/hh_rlhf.parquet, quality.json and CARD.md. Only the `train`
part of hh-rlhf and the train part of the other sets is trained, tuned and selected on; `test` is looked at once, for
the figures; `reserved` is never read beyond its prompts, which are kept out of training.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine import decisions, embedder, fitting, head_inputs, heads, taxonomy
from engine.builtin import card, evaluate, rewards
from engine.builtin.data import Labelled, checked_folder, fulcra, hh_pairs, public_pairs, read_labels
from engine.decisions import Output
from engine.fitting import Fitted
from engine.head_inputs import Scaling
from engine.records import Entry, SignetError, content_hash

SEED = 20241107
DOMAIN = 20.0  # value of the column that tells FULCRA's rows apart while training; 0 elsewhere, dropped after
LEAST = 2  # cases without which there is nothing to learn from


def say(text: str) -> None:
    """Progress, with the time since the start."""
    print(f"[{time.perf_counter() - say.began:6.1f} s] {text}", file=sys.stderr, flush=True)  # type: ignore[attr-defined]


say.began = time.perf_counter()  # type: ignore[attr-defined]


def rows_of(entries: Sequence[Entry]) -> np.ndarray:
    """Raw head inputs of entries, made in pieces so that progress is kept in the embedding cache."""
    parts = []
    for start in range(0, len(entries), 1000):
        some = entries[start : start + 1000]
        parts.append(head_inputs.raw([one.prompt for one in some], [one.response for one in some]))
    return np.concatenate(parts)


def _targets(name: str, labelled: Sequence[Labelled]) -> list[tuple[Output, np.ndarray]]:
    """Every output a taxonomy's head can learn from the labels, with its 0 or 1 for each entry."""
    kinds = {"boolean": "boolean", "ternary": "signed", "signed": "signed", "category": "choice"}
    found = []
    for column in taxonomy.load(name).columns():
        if (name, column.name) not in labelled[0].values:
            continue
        truth = np.array([one.values[name, column.name] for one in labelled])
        kind = kinds[column.kind]
        values = {"boolean": (1.0,), "signed": (1.0, -1.0), "choice": tuple(map(float, range(len(column.classes))))}
        for value in values[kind]:
            hit = (truth == value).astype(float)
            if hit.sum() >= LEAST:
                found.append((Output(column.name, kind, value), hit))
    return found


def fit_outputs(
    name: str, rows: np.ndarray, labelled: Sequence[Labelled], more: tuple[np.ndarray, Sequence[Labelled]] | None
) -> list[Fitted]:
    """Every output of a taxonomy's head from scaled rows. `more`: rows and labels of another source, used for an
    output where they lower its out-of-fold loss on our own labels."""
    splits = fitting.folds(np.array([one.group for one in labelled]), SEED)
    outputs, hits = zip(*_targets(name, labelled))
    truth = np.stack(hits, axis=1)
    gram = fitting.products(rows)
    strength, logits = fitting.cross_validate(gram, truth, splits)
    shares, bias = fitting.fit_binary(gram, truth, strength)
    weight, used = rows.T @ shares, np.zeros(len(outputs), bool)
    say(f"{name}: {len(outputs)} outputs fitted")
    if more:
        both = np.vstack([rows, more[0]])
        # A column of its own for the origin lets the other source have other base rates.
        origin = np.append(np.zeros(len(rows)), np.full(len(more[0]), DOMAIN))
        gram = fitting.products(both) + np.outer(origin, origin)
        other_hits = [[float(one.values[name, o.column] == o.value) for o in outputs] for one in more[1]]
        truth = np.vstack([truth, np.array(other_hits)])
        other_strength, other = fitting.cross_validate(gram, truth, splits, strengths=fitting.STRENGTHS[1:3])
        used = np.array([
            decisions.log_loss(other[:, k], hit) < decisions.log_loss(logits[:, k], hit) for k, hit in enumerate(hits)
        ])  # fmt: skip
        shares, other_bias = fitting.fit_binary(gram, truth[:, used], other_strength[used])
        weight[:, used], bias[used] = both.T @ shares, other_bias
        logits[:, used], strength[used] = other[:, used], other_strength[used]
        say(f"{name}: {used.sum()} outputs learn from the other source too")
    tuned = decisions.tune(outputs, logits, np.stack(hits, axis=1))
    scale, shift, threshold = tuned.scale, tuned.shift, tuned.threshold
    return [
        Fitted(output, weight[:, k] * scale[k], float(bias[k] * scale[k] + shift[k]), threshold[k],
               {"strength": float(strength[k]), "n_train": int(hits[k].sum()), "fulcra": bool(used[k]),
                "scale": scale[k], "shift": shift[k]})
        for k, output in enumerate(outputs)
    ]  # fmt: skip


def save(name: str, fitted: Sequence[Fitted], scaling: Scaling, about: dict[str, Any]) -> None:
    """Write a head's file; weights in half precision."""
    from safetensors.numpy import save_file

    heads.HEADS.mkdir(parents=True, exist_ok=True)
    about = {
        "inputs": head_inputs.VERSION, "embedder": embedder.revision(), "seed": SEED, **about,
        "outputs": [{"column": f.output.column, "kind": f.output.kind, "value": f.output.value} for f in fitted],
        "notes": [f.note for f in fitted],
    }  # fmt: skip
    parts: dict[str, np.ndarray] = {
        "weight": np.stack([f.weight for f in fitted], axis=1).astype(np.float16),
        "bias": np.array([f.bias for f in fitted], np.float32),
        "threshold": np.array([f.threshold for f in fitted], np.float32),
        "centre": scaling.centre, "scale": scaling.scale, "rarity": scaling.rarity,
    }  # fmt: skip
    path = heads.HEADS / f"{name}.safetensors"
    save_file(parts, path, metadata={"signet": json.dumps(about, sort_keys=True)})
    path.chmod(0o644)


def write_labels(labelled: Sequence[Labelled]) -> Path:
    """The labels that ship, keyed by content hash and without any text; the second reading is a labeler of its own."""
    keys = sorted({(one.entry.hash, one.reading): one for one in labelled}.items())
    revision = content_hash([[list(key), sorted((*k, v) for k, v in one.values.items())] for key, one in keys])
    rows = [
        (entry, name, column, value, None, "reading" if reading == 1 else "reading-2", "reading", revision, reading)
        for (entry, reading), one in keys
        for (name, column), value in one.values.items()
    ]
    names = ("entry", "taxonomy", "feature", "value", "confidence", "labeler", "kind", "revision", "reading")
    kinds = (*[pa.string()] * 3, pa.float64(), pa.float32(), *[pa.string()] * 3, pa.int8())
    table = pa.table({n: pa.array(c, k) for n, c, k in zip(names, zip(*rows), kinds)})
    path = heads.HEADS.parent / "labels" / "hh_rlhf.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, compression="zstd")
    return path


def train_labels(labelled: Sequence[Labelled], others: Sequence[Labelled], scaling: Scaling) -> None:
    """Fit and store the heads of the three taxonomies."""
    rows = head_inputs.scaled(rows_of([one.entry for one in labelled]), scaling)
    more_train = [one for one in others if one.split == "train"]
    more = (head_inputs.scaled(rows_of([one.entry for one in more_train]), scaling), more_train)
    for name in ("seal", "value_imprint", "schwartz"):
        fitted = fit_outputs(name, rows, labelled, more if name == "schwartz" else None)
        version = taxonomy.load(name).version
        save(name, fitted, scaling, {"taxonomy": name, "version": version, "n_train": len(labelled)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engine.builtin.train", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the training data")
    given = parser.parse_args(arguments)
    try:
        run(checked_folder(given.data))
    except SignetError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(folder: Path) -> None:
    """The whole of it, from a folder of data to the files that ship."""
    pairs, entries, left_out = hh_pairs(folder)
    labelled = read_labels(folder, pairs, entries)
    public, public_out = public_pairs(folder, SEED)
    values, odd = fulcra(folder, SEED)
    train = [one for one in labelled if one.split == "train" and one.reading == 1]
    test = [one for one in labelled if one.split == "test" and one.reading == 1]
    hh_train, public_train = ([p for p in some if p.split == "train"] for some in (pairs, public))
    for what, count in {**left_out, **public_out, **odd}.items():
        say(f"left out: {count} {what}")
    say(f"labels: {len(train)} train, {len(test)} test; pairs: {len(public_train)} public, {len(hh_train)} hh-rlhf")
    texts = {one.hash: one for pair in (*hh_train, *public_train) for one in (pair.better, pair.worse)}
    scaling = head_inputs.learn_scaling(rows_of(list(texts.values())))
    say(f"scaling learned from {len(texts)} training entries")
    for name, fitted, about in rewards.train(public_train, hh_train, scaling, SEED, rows_of, say):
        save(name, fitted, scaling, about)
    train_labels(train, values, scaling)
    for cached in (heads.load, heads.revision):
        cached.cache_clear()

    quality: dict[str, Any] = {"labels": {}, "rewards": {}, "agreement": evaluate.agreement(labelled)}
    test_rows = rows_of([one.entry for one in test])
    for name in ("seal", "value_imprint", "schwartz"):
        chosen = taxonomy.load(name)
        quality["labels"][name] = evaluate.label_figures(heads.load(name), test_rows, test, train, chosen, SEED)
    value_test, value_train = ([one for one in values if one.split == part] for part in ("test", "train"))
    quality["fulcra"] = evaluate.label_figures(
        heads.load("schwartz"), rows_of([one.entry for one in value_test]), value_test, value_train,
        taxonomy.load("schwartz"), SEED,
    )  # fmt: skip
    held_out = [p for p in (*pairs, *public) if p.split == "test"]
    for name in heads.REWARDS:
        quality["rewards"][name] = evaluate.reward_figures(name, held_out)
    quality["about"] = {
        "seed": SEED, "n_train": len(train), "n_test": len(test), "pairs_public_train": len(public_train),
        "pairs_hh_train": len(hh_train), "fulcra_train": len(value_train), "fulcra_test": len(value_test),
        "left_out": {**left_out, **public_out, **odd}, "embedder": embedder.revision(),
    }  # fmt: skip
    rounded = card.rounded(quality)
    heads.QUALITY.write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = card.write(rounded)
    (heads.HEADS.parent / "CARD.md").write_text(text, encoding="utf-8")
    path = write_labels(labelled)
    say(f"wrote heads, {path.name}, quality.json and CARD.md")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
