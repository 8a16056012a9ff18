"""Who labels: a name is resolved to a labeler at a revision, and opened in a worker to label entries.

`builtin` (the heads that ship with Signet), `surface` (figures read off the text, taxonomy `surface` only),
`classifier:NAME` (trained here, engine.classifiers), and language models: `openai:MODEL` (OpenAI, or any server with
its API by the option base_url) and `ollama:MODEL`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine import classifiers, endpoints, heads, language_models, prompts, surface
from engine.asks import Question
from engine.records import SignetError, turns_from_json
from engine.settings import BUILTIN, home
from engine.taxonomy import Taxonomy, load

LABELERS = ("builtin", "surface", "classifier:NAME", "openai:MODEL", "ollama:MODEL")


@dataclass(frozen=True, slots=True)
class LabelerSpec:
    """A resolved labeler. `params` are what its labels depend on besides entries, taxonomy and revision."""

    name: str
    kind: str  # builtin, rule, classifier, lm
    revision: str
    params: dict[str, Any]


def resolve(labeler: str, taxonomy: Taxonomy, options: dict[str, Any] | None = None) -> LabelerSpec:
    """The labeler of that name for a taxonomy; SignetError when there is none, or it cannot label that taxonomy.

    `options` of a language model (engine.language_models): who it is are base_url, temperature, order, sample.
    """
    if labeler.startswith(classifiers.PREFIX):
        return _classifier(labeler, taxonomy, options or {})
    if ":" in labeler:
        return _language_model(labeler, taxonomy, options or {})
    if options:
        raise SignetError(f"The labeler {labeler!r} has no option {sorted(options)[0]!r}.")
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
    raise SignetError(f"No labeler {labeler!r}; there are {', '.join(LABELERS)}.")


def _classifier(labeler: str, taxonomy: Taxonomy, options: dict[str, Any]) -> LabelerSpec:
    known = classifiers.about(home(), labeler.removeprefix(classifiers.PREFIX))
    if (known.taxonomy, known.version) != (taxonomy.name, taxonomy.version):
        other = "another version of it" if known.taxonomy == taxonomy.name else repr(known.taxonomy)
        raise SignetError(f"The classifier {known.name!r} was trained for {other}, not for {taxonomy.name!r} as it is.")
    unknown = sorted(set(options) - {"abstain_below"})
    if unknown:
        raise SignetError(f"A classifier has no option {unknown[0]!r}; there is abstain_below.")
    least = options.get("abstain_below", 0)
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least < 1:
        raise SignetError(f"abstain_below is {least!r}; it must be a confidence from 0 to below 1.")
    params = {"abstain_below": float(least)} if least else {}
    return LabelerSpec(labeler + (f" ({least:g}+)" if least else ""), "classifier", known.revision,
                       {"classifier": known.name, **params})  # fmt: skip


def _language_model(labeler: str, taxonomy: Taxonomy, options: dict[str, Any]) -> LabelerSpec:
    import asyncio

    chosen = language_models.checked(options)
    if any(feature.kind == "numeric" for feature in taxonomy.features) and taxonomy.name == "surface":
        raise SignetError("The taxonomy 'surface' is counted, not judged; use --labeler surface.")

    async def pinned() -> str:
        endpoint = endpoints.open_endpoint(labeler, chosen["base_url"])
        try:
            return await endpoint.revision()
        except endpoints.Busy as error:
            raise SignetError(f"The model cannot be pinned: {error}.") from None
        finally:
            await endpoint.close()

    task = prompts.label_task(taxonomy, chosen["order"])
    identity = {name: chosen[name] for name in language_models.IDENTITY}
    revision = f"{asyncio.run(pinned())}/{task.fingerprint[:10]}"
    return LabelerSpec(language_models.who(labeler, chosen), "lm", revision, {"lm": labeler, **identity})


def open_labeler(params: dict[str, Any], folder: Path | None = None) -> AnyLabeler:
    """The work of a label job. `params`: labeler, taxonomy, and the revision the job was made for, if any.

    `folder`: the job's, where a language model keeps what it has spent.
    """
    labeler, taxonomy = params["labeler"], params["taxonomy"]
    if "lm" in params:
        return LanguageModelLabeler(params, folder)
    if "classifier" in params:
        return ClassifierLabeler(params, folder.parent.parent if folder is not None else home())
    if labeler == "builtin":
        opened: AnyLabeler = BuiltinLabeler(taxonomy)
    elif labeler == "surface":
        opened = SurfaceLabeler(taxonomy)
    else:
        raise SignetError(f"No labeler {labeler!r}; there are {', '.join(LABELERS)}.")
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


class ClassifierLabeler:
    """A trained classifier as a labeler; confidence is calibrated. Below `abstain_below` it gives no label."""

    def __init__(self, params: dict[str, Any], store: Path) -> None:
        self._classifier = classifiers.load(store, params["classifier"])
        self.revision = self._classifier.known.revision
        if params.get("revision", self.revision) != self.revision:
            raise SignetError(
                f"The classifier {params['classifier']!r} was trained again since this job was made; start a new one."
            )
        self._least = float(params.get("abstain_below", 0.0))
        self.environment: dict[str, Any] = {"labeler": params["classifier"], "revision": self.revision}

    def run(self, entries: pa.Table) -> pa.Table:
        """The labels of entries (entry, prompt, response) that it is sure enough of."""
        hashes = entries.column("entry").to_pylist()
        asked = [turns_from_json(text) for text in entries.column("prompt").to_pylist()]
        parts = [_table([], [], [], [])]
        for column, values, sure in self._classifier.label(asked, entries.column("response").to_pylist(), self._least):
            kept = np.flatnonzero(np.isfinite(values))
            names = [hashes[i] for i in kept]
            parts.append(_table(names, [column] * len(names), values[kept].tolist(), sure[kept].tolist()))
        return pa.concat_tables(parts)


class LanguageModelLabeler:
    """A language model as a labeler: every entry asked blind and alone, answers checked by type and allowed values."""

    def __init__(self, params: dict[str, Any], folder: Path | None) -> None:
        taxonomy = load(params["taxonomy"])
        if "version" in params and taxonomy.version != params["version"]:
            raise SignetError(f"The taxonomy {taxonomy.name} has changed since this job was made; start a new one.")
        self.task = prompts.label_task(taxonomy, params.get("order", "taxonomy"))
        self.revision = params.get("revision", params["lm"])
        self._asking = language_models.asking(
            params["lm"], self.revision, params, self.task.fingerprint, self.task.schema, folder
        )
        self.environment: dict[str, Any] = {"labeler": params["lm"], "taxonomy": taxonomy.name, "progress": {}}

    def question(self, entry: str, prompt: str, response: str) -> Question:
        """The question about one entry; prompt as JSON turns."""
        asked = prompts.messages(self.task, turns_from_json(prompt), response)
        return Question(entry, asked, lambda text: prompts.labels(self.task, text))

    def run(self, entries: pa.Table) -> pa.Table:
        """Every label that came back valid for a table of entry, prompt, response; the rest is missing, not guessed."""
        rows = zip(*(entries.column(name).to_pylist() for name in ("entry", "prompt", "response")))
        found = self._asking.ask([self.question(*row) for row in rows])
        self.environment["progress"] = self._asking.counts
        names = [column for values in found.values() for column in values]
        keys = [key for key, values in found.items() for _ in values]
        numbers = [value for values in found.values() for value in values.values()]
        return _table(keys, names, numbers, [None] * len(numbers))


AnyLabeler = BuiltinLabeler | SurfaceLabeler | ClassifierLabeler | LanguageModelLabeler
