"""Classifiers that a team has trained: folders in the store's `classifiers/`, opened as labelers by `classifier:NAME`.

A folder holds what `from_pretrained` reads (config.json, model.safetensors, a tokenizer where there is one) and

    signet.json        what it labels and how it decides: taxonomy, outputs, tuning, data, options, revision
    taxonomy.yaml      the taxonomy version it was trained for
    held_out.parquet   a row a held-out entry and column: truth, decision, confidence; no text
    report.json        learning curve, baselines, seconds, memory
    README.md          the model card
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engine.decisions import Output, Tuning, decide
from engine.records import SignetError, Turn, content_hash

PREFIX = "classifier:"
ABOUT, HELD_OUT, REPORT = "signet.json", "held_out.parquet", "report.json"
FROZEN = ("linear", "mlp")  # heads on frozen embeddings; any other model is an encoder to fine-tune
_NAME = re.compile(r"[a-z0-9][a-z0-9._\-]{0,63}")
_OURS = {ABOUT, HELD_OUT, REPORT, "taxonomy.yaml", "README.md"}


class Model(Protocol):
    """What a backend (engine.frozen, engine.finetuning) trains and loads."""

    def logits(self, prompts: Sequence[Sequence[Turn]], responses: Sequence[str]) -> np.ndarray:
        """Logits of entries, (n, outputs), in the order of the classifier's outputs."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `from_pretrained` reads."""
        ...


@dataclass(frozen=True)
class About:
    """What signet.json holds. `model` is linear, mlp, or the encoder that was fine-tuned."""

    name: str
    taxonomy: str
    version: str
    model: str
    options: dict[str, Any]
    outputs: tuple[Output, ...]
    tuning: Tuning
    teachers: tuple[str, ...]
    datasets: tuple[str, ...]
    n: int
    data: str  # content address of the labels it was trained on
    created: str
    revision: str


def checked_name(name: str) -> str:
    """The name if it can be a folder's; SignetError otherwise."""
    if not _NAME.fullmatch(name):
        raise SignetError(f"A classifier's name is {name!r}; use lower-case letters, digits, - _ and . (64 at most).")
    return name


def folder_of(home: Path, name: str) -> Path:
    """The folder of a classifier, there or not."""
    return home / "classifiers" / checked_name(name)


def names(home: Path) -> list[str]:
    """Every trained classifier, newest last."""
    found = [path for path in (home / "classifiers").glob(f"*/{ABOUT}") if not path.parent.name.startswith(".")]
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def about(home: Path, name: str) -> About:
    """What a classifier says of itself; SignetError when there is none or its file is damaged."""
    path = folder_of(home, name) / ABOUT
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        outputs = tuple(Output(**one) for one in raw["outputs"])
        tuning = Tuning(*(tuple(raw["tuning"][key]) for key in ("scale", "shift", "threshold")))
        return About(**{**raw, "outputs": outputs, "tuning": tuning, "teachers": tuple(raw["teachers"]),
                        "datasets": tuple(raw["datasets"])})  # fmt: skip
    except FileNotFoundError:
        have = ", ".join(names(home)) or "none yet"
        raise SignetError(f"No classifier {name!r}; there are: {have}. Train one on Classifiers.") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SignetError(f"{path}: cannot be read ({error}); train the classifier again.") from None


def _weights(folder: Path) -> str:
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _OURS:
            found.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    found.update(block)
    return found.hexdigest()


def save(home: Path, model: Model, known: About, taxonomy_text: str, card: str, more: Callable[[Path], None]) -> About:
    """Write a classifier's folder whole, in place of an earlier one of its name; returns it with its revision.

    `more(folder)` writes what else belongs in the folder. A classifier that is replaced lives on in its labels, which
    carry its revision.
    """
    final = folder_of(home, known.name)
    building = final.with_name(f".{known.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    model.save(building)
    body = asdict(known)
    body["revision"] = content_hash([_weights(building), known.version, body["outputs"], body["tuning"]])
    more(building)
    (building / "taxonomy.yaml").write_text(taxonomy_text, encoding="utf-8")
    (building / "README.md").write_text(card, encoding="utf-8")
    (building / ABOUT).write_text(json.dumps(body, indent=1, ensure_ascii=False), encoding="utf-8")
    if final.exists():
        old = final.with_name(f".{known.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        building.rename(final)  # killed before this line, the job is done again: nothing has taken its result in
        shutil.rmtree(old)
    else:
        building.rename(final)
    return replace(known, revision=body["revision"])


def remove(home: Path, name: str) -> None:
    """Delete a classifier's folder; its labels stay."""
    about(home, name)
    shutil.rmtree(folder_of(home, name))


@dataclass(frozen=True)
class Classifier:
    """A loaded classifier."""

    known: About
    model: Model

    def label(
        self, prompts: Sequence[Sequence[Turn]], responses: Sequence[str], abstain_below: float = 0.0
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(column, values, confidence) of entries; values are NaN where the confidence is below `abstain_below`."""
        logits = self.model.logits(prompts, responses)
        yield from decide(self.known.outputs, logits, self.known.tuning, abstain_below)


def load(home: Path, name: str) -> Classifier:
    """The classifier of that name, its model loaded."""
    known = about(home, name)
    folder = folder_of(home, name)
    if known.model in FROZEN:
        from engine import frozen

        return Classifier(known, frozen.load(folder))
    from engine import finetuning

    return Classifier(known, finetuning.load(folder))
