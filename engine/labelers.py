"""Who labels: a name is resolved to a labeler at a revision, and opened in a worker to label entries.

Here: `builtin` (the heads that ship with Signet) and `surface` (figures read off the text, taxonomy `surface` only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import heads, surface
from engine.records import SignetError, turns_from_json
from engine.settings import BUILTIN
from engine.taxonomy import Taxonomy

LABELERS = ("builtin", "surface")


@dataclass(frozen=True, slots=True)
class LabelerSpec:
    """A resolved labeler. `params` are what its labels depend on besides entries, taxonomy and revision."""

    name: str
    kind: str  # builtin, rule
    revision: str
    params: dict[str, Any]


def resolve(labeler: str, taxonomy: Taxonomy) -> LabelerSpec:
    """The labeler of that name for a taxonomy; SignetError when there is none, or it cannot label that taxonomy."""
    if labeler == "builtin":
        known = heads.available()
        if taxonomy.name not in known:
            heads_for = ", ".join(known) or "nothing"
            raise SignetError(f"The built-in models cannot label {taxonomy.name!r}; they have heads for {heads_for}.")
        return LabelerSpec("builtin", "builtin", heads.revision(taxonomy.name), {})
    if labeler == "surface":
        if taxonomy.name != "surface":
            raise SignetError(
                f"The surface labeler labels the taxonomy 'surface' only, not {taxonomy.name!r}; use --labeler builtin."
            )
        return LabelerSpec("surface", "rule", surface.VERSION, {})
    raise SignetError(f"No labeler {labeler!r}; there are {' and '.join(LABELERS)}.")


def open_labeler(params: dict[str, Any]) -> BuiltinLabeler | SurfaceLabeler:
    """The work of a label job. `params`: labeler, taxonomy, and the revision the job was made for, if any."""
    labeler, taxonomy = params["labeler"], params["taxonomy"]
    if labeler == "builtin":
        opened: BuiltinLabeler | SurfaceLabeler = BuiltinLabeler(taxonomy)
    elif labeler == "surface":
        opened = SurfaceLabeler(taxonomy)
    else:
        raise SignetError(f"No labeler {labeler!r}; there are {' and '.join(LABELERS)}.")
    if params.get("revision", opened.revision) != opened.revision:
        raise SignetError(f"The labeler {labeler!r} has changed since this job was made; start a new one.")
    return opened


def shipped_labels() -> Path:
    """The folder of labels that ship with Signet, Parquet files keyed by an entry's content hash."""
    return BUILTIN / "labels"


def _table(
    entries: Sequence[str], names: Sequence[str], values: Sequence[float], sure: Sequence[float | None]
) -> pa.Table:
    return pa.table(
        {
            "entry": pa.array(entries, pa.string()),
            "feature": pa.array(names, pa.string()),
            "value": pa.array(values, pa.float64()),
            "confidence": pa.array(sure, pa.float32()),
        }
    )


class BuiltinLabeler:
    """A built-in head as a labeler of its taxonomy; confidence is the head's calibrated probability."""

    def __init__(self, taxonomy: str) -> None:
        self._head = heads.load(taxonomy)
        self.revision = self._head.revision
        self.environment: dict[str, Any] = {"labeler": "builtin", "taxonomy": taxonomy, "revision": self.revision}

    def run(self, entries: pa.Table) -> pa.Table:
        """Every label of the head for a table of entry, prompt, response: entry, feature, value, confidence."""
        hashes = entries.column("entry").to_pylist()
        prompts = [turns_from_json(text) for text in entries.column("prompt").to_pylist()]
        logits = self._head.logits(prompts, entries.column("response").to_pylist())
        parts = [
            _table(hashes, [column] * len(hashes), values.tolist(), sure.tolist())
            for column, values, sure in self._head.decide(logits)
        ]
        return pa.concat_tables(parts)


class SurfaceLabeler:
    """The surface features as a labeler of the taxonomy `surface`; no confidence, for nothing is guessed."""

    def __init__(self, taxonomy: str) -> None:
        if taxonomy != "surface":
            raise SignetError(f"The surface labeler labels the taxonomy 'surface' only, not {taxonomy!r}.")
        self.revision = surface.VERSION
        self.environment: dict[str, Any] = {"labeler": "surface", "taxonomy": taxonomy, "revision": self.revision}

    def run(self, entries: pa.Table) -> pa.Table:
        """Every surface feature that is defined, for a table of entry, prompt, response."""
        hashes, names, values = [], [], []
        for entry, response in zip(entries.column("entry").to_pylist(), entries.column("response").to_pylist()):
            for name, value in surface.features(response).items():
                hashes.append(entry)
                names.append(name)
                values.append(value)
        return _table(hashes, names, values, [None] * len(values))
