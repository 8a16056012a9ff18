"""Rewording the last response of an entry, the prompt kept byte for byte.

By `builtin` (the deterministic perturber, engine.perturb, no model at all) or by a language model with one of the
instructions under `prompts/`. Every rewrite is checked: turns, numbers, negation, refusal and language must survive, or
it is thrown away and counted. Similarity is the cosine of sentence embeddings; nothing is filtered by it here.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine import endpoints, language_models, perturb, surface
from engine.asks import Question
from engine.prompts import Unusable, as_data, parse_json
from engine.records import Entry, SignetError, content_hash, turns_from_json
from engine.settings import ROOT

FOLDER = ROOT / "prompts"
SCHEMA = {
    "type": "object", "properties": {"rewritten": {"type": "string"}}, "required": ["rewritten"],
    "additionalProperties": False,
}  # fmt: skip
_ROLE_TAG = re.compile(r"(?:^|\n)\s*(?:Human|Assistant|User)\s*:")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATION = re.compile(r"\b(?:not|no|never|none|cannot|nothing|nobody|neither|nor)\b|n['’]t\b", re.I)


@dataclass(frozen=True, slots=True)
class RewriterSpec:
    """A resolved rewriter: its name as it stands with the rewrites, and what a job needs to open it."""

    name: str
    params: dict[str, Any]


def instructions() -> dict[str, str]:
    """Instructions by name: the texts under prompts/."""
    return {
        p.stem.removeprefix("rewrite_"): p.read_text(encoding="utf-8") for p in sorted(FOLDER.glob("rewrite_*.txt"))
    }


def resolve(rewriter: str, how: str | None, options: dict[str, Any]) -> RewriterSpec:
    """The rewriter of that name. `how`: for `builtin` kinds of perturbation joined by +, else an instruction's name.

    The option `similarity_model` names a sentence embedder (BAAI/bge-m3, as SEAL) in place of the built-in one.
    """
    options = dict(options)
    judge = options.pop("similarity_model", None)
    measured = {"similarity_model": str(judge)} if judge else {}
    if rewriter == "builtin":
        kinds = (how or "contractions+synonyms+politeness").split("+")
        unknown = [kind for kind in kinds if kind not in perturb.PERTURBATIONS]
        if unknown:
            raise SignetError(f"No perturbation {unknown[0]!r}; there are {', '.join(perturb.PERTURBATIONS)}.")
        if options:
            raise SignetError(f"The built-in perturber has no option {sorted(options)[0]!r}.")
        return RewriterSpec(f"builtin: {'+'.join(kinds)}", {"rewriter": "builtin", "kinds": kinds,
                                                            "version": perturb.VERSION, **measured})  # fmt: skip
    known = instructions()
    how = how or "neutral"
    if how not in known:
        raise SignetError(f"No instruction {how!r}; there are {', '.join(known)}.")
    endpoints.provider(rewriter)
    chosen = language_models.checked(options)
    version = content_hash(known[how], 10)
    name = f"{language_models.who(rewriter, chosen)}: {how.replace('_', ' ')}"
    # What else its rewrites depend on stands in its name: rewrites are found by it.
    rest = content_hash([chosen["base_url"], chosen["temperature"], version], 6)
    return RewriterSpec(f"{name} #{rest}", {"rewriter": rewriter, "how": how, "version": version, **chosen, **measured})


def complaint_about(before: str, after: str) -> str | None:
    """Why a rewrite cannot stand for the original, or None: one sentence each for what did not survive."""
    if not after.strip():
        return "the rewrite is empty."
    if _ROLE_TAG.search(after) and not _ROLE_TAG.search(before):
        return "it contains a role tag that starts a new turn."
    if sorted(_NUMBER.findall(before)) != sorted(_NUMBER.findall(after)):
        return "the numbers are not the same as in the original."
    if surface.features(before)["refusal_phrase"] != surface.features(after)["refusal_phrase"]:
        return "it refuses where the original does not, or the other way round."
    if bool(_NEGATION.search(before)) != bool(_NEGATION.search(after)):
        return "a negation was lost or added."
    letters = [sum(c.isalpha() for c in text) or 1 for text in (before, after)]
    latin = [sum(c.isascii() and c.isalpha() for c in text) / n for text, n in zip((before, after), letters)]
    if abs(latin[0] - latin[1]) > 0.5:
        return "it is in another script than the original."
    if not 0.3 <= len(after) / max(len(before), 1) <= 3.0 and abs(len(after) - len(before)) > 200:
        return "its length is out of proportion to the original's."
    return None


def _similar(before: Sequence[str], after: Sequence[str], model: str | None) -> np.ndarray:
    """Cosine of the embeddings of each text and its rewrite."""
    if not before:
        return np.zeros(0)
    if model:
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(model)
        one, two = (np.asarray(encoder.encode(list(texts))) for texts in (before, after))
    else:
        from engine.embedder import embed

        one, two = embed(list(before)), embed(list(after))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    found: np.ndarray = (one * two).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    return found


def question(instruction: str, entry: str, prompt: str, response: str) -> Question:
    """The question about one entry; the answer must hold what a rewrite must hold."""
    asked = [{"role": "system", "content": instruction},
             {"role": "user", "content": as_data(turns_from_json(prompt), response)}]  # fmt: skip

    def read(text: str) -> str:
        found = parse_json(text)
        if set(found) != {"rewritten"} or not isinstance(found["rewritten"], str):
            raise Unusable('it must be {"rewritten": "..."} with a text.')
        if any("\ud800" <= c <= "\udfff" for c in found["rewritten"]):
            raise Unusable("it holds half a character.")
        reason = complaint_about(response, found["rewritten"])
        if reason:
            raise Unusable(reason)
        return str(found["rewritten"]).strip()

    return Question(entry, asked, read)


class Rewriter(ABC):
    """Common to both: what a rewrite job's shard becomes. Subclasses say how a text is reworded."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.name = params["name"]
        self._model = params.get("similarity_model")
        self._thrown: dict[str, int] = {}
        self._unchanged = 0
        self.environment: dict[str, Any] = {"rewriter": self.name, "progress": {}}

    @abstractmethod
    def reword(self, rows: list[tuple[str, str, str]]) -> dict[str, str]:
        """New responses by entry hash, for rows of (entry, prompt as JSON turns, response)."""

    def run(self, entries: pa.Table) -> pa.Table:
        """Rewrites that differ and hold what they must: entry, rewritten (hash), response, similarity."""
        rows = list(zip(*(entries.column(name).to_pylist() for name in ("entry", "prompt", "response"))))
        new = self.reword(rows)
        kept = []
        for entry, prompt, response in rows:
            after = new.get(entry)
            if after is None:
                continue
            if not perturb.changed(response, after):
                self._unchanged += 1
                continue
            reason = complaint_about(response, after)
            if reason:
                self._thrown[reason] = self._thrown.get(reason, 0) + 1
                continue
            kept.append((entry, prompt, response, after))
        similar = _similar([row[2] for row in kept], [row[3] for row in kept], self._model)
        self.environment["progress"] = {**self.environment["progress"], "unchanged": self._unchanged,
                                        "thrown_away": sum(self._thrown.values()), "why": self._thrown}  # fmt: skip
        return pa.table(
            {
                "entry": pa.array([row[0] for row in kept], pa.string()),
                "rewritten": pa.array([Entry(tuple(turns_from_json(r[1])), r[3]).hash for r in kept], pa.string()),
                "response": pa.array([row[3] for row in kept], pa.string()),
                "similarity": pa.array([float(v) for v in similar], pa.float64()),
            }
        )


class Perturber(Rewriter):
    """The built-in perturber."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        if params["version"] != perturb.VERSION:
            raise SignetError("The built-in perturber has changed since this job was made; start a new one.")
        self._kinds = params["kinds"]

    def reword(self, rows: list[tuple[str, str, str]]) -> dict[str, str]:
        """Deterministic by text: the entry's hash decides."""
        return {entry: perturb.perturb(response, self._kinds, entry) for entry, _, response in rows}


class LanguageModelRewriter(Rewriter):
    """A language model with an instruction."""

    def __init__(self, params: dict[str, Any], folder: Path | None) -> None:
        super().__init__(params)
        self.instruction = instructions()[params["how"]]
        if content_hash(self.instruction, 10) != params["version"]:
            raise SignetError(f"The instruction {params['how']} has changed since this job was made; start a new one.")
        self._asking = language_models.asking(params["rewriter"], params["version"], params, "rewrite", SCHEMA, folder)

    def reword(self, rows: list[tuple[str, str, str]]) -> dict[str, str]:
        """What the model answered and the checks let pass."""
        found = self._asking.ask([question(self.instruction, *row) for row in rows if row[2].strip()])
        self.environment["progress"] = dict(self._asking.counts)
        return found


def open_rewriter(params: dict[str, Any], folder: Path | None = None) -> Rewriter:
    """The work of a rewrite job."""
    return Perturber(params) if params["rewriter"] == "builtin" else LanguageModelRewriter(params, folder)
