"""A language model drafts a taxonomy from a title and a description: a text to edit, checked, never saved by itself."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import endpoints, language_models, plain_yaml
from engine.asks import RETRIES, Asker, Question
from engine.costs import Forecast, Usage, cost, count_tokens, forecast
from engine.endpoints import Answer, Busy, Endpoint, Messages, Refused
from engine.journal import Journal
from engine.prompts import Unusable, escaped, parse_json
from engine.records import SignetError
from engine.settings import ROOT
from engine.taxonomy import EXAMPLES, parse
from engine.taxonomy_form import slug

PROMPT = ROOT / "prompts" / "draft_taxonomy.txt"
KINDS = {"choice": "exactly one part holds of an answer", "boolean": "any number of parts may hold of an answer",
         "signed": "an answer supports a part, opposes it, or neither"}  # fmt: skip
LONGEST = {"title": 120, "description": 4_000, "sources": 40_000, "entries": 40_000}
LEAST_PARTS, MOST_PARTS = 2, 30
TOKENS_A_PART = 190  # of an answer: a definition and two examples; an estimate
OPTIONS = ("base_url", "temperature", "max_tokens")


@dataclass(frozen=True)
class Request:
    """What is wanted. `kind`: a key of KINDS; `count`: parts; `sources`, `entries`: texts to read, may be empty."""

    title: str
    description: str
    kind: str = "choice"
    count: int = 5
    sources: str = ""
    entries: str = ""


@dataclass(frozen=True)
class Draft:
    """A draft's YAML text, valid as it is; `dollars` is None where the price is unknown."""

    text: str
    usage: Usage
    dollars: float | None
    seconds: float


def checked(request: Request) -> None:
    """SignetError for a request that cannot be asked."""
    if request.kind not in KINDS:
        raise SignetError(f"A draft's kind is one of {', '.join(KINDS)}, not {request.kind!r}.")
    if not LEAST_PARTS <= request.count <= MOST_PARTS:
        raise SignetError(f"A draft has {LEAST_PARTS} to {MOST_PARTS} parts.")
    for name, most in LONGEST.items():
        if len(getattr(request, name)) > most:
            raise SignetError(f"The {name} may have {most:,} characters; shorten it.")
    if not request.title.strip() or not request.description.strip():
        raise SignetError("A draft needs a title and a description of what the taxonomy is for.")


def schema_of(request: Request) -> dict[str, Any]:
    """The JSON schema of an answer."""
    keys = ("title", "definition", "shows", "lacks")
    part = {"type": "object", "properties": {key: {"type": "string"} for key in keys}, "required": list(keys),
            "additionalProperties": False}  # fmt: skip
    return {"type": "object", "properties": {"question": {"type": "string"}, "parts": {"type": "array", "items": part}},
            "required": ["question", "parts"], "additionalProperties": False}  # fmt: skip


def messages(request: Request) -> Messages:
    """What is asked: the instruction, and the request as delimited data."""
    body = {"title": request.title.strip(), "description": request.description.strip(), "parts": request.count,
            "how parts hold": KINDS[request.kind], "sources": request.sources.strip(),
            "entries": request.entries.strip()}  # fmt: skip
    keys = 'Keys: "question" (the whole question in one sentence) and "parts", a list of objects with "title", ' \
           '"definition", "shows" and "lacks".'  # fmt: skip
    system = f"{PROMPT.read_text(encoding='utf-8').strip()}\n{keys}"
    return [{"role": "system", "content": system},
            {"role": "user", "content": f"<request>\n{escaped(body)}\n</request>"}]  # fmt: skip


def read_answer(request: Request, labeler: str, text: str) -> str:
    """The YAML text of an answer; Unusable says what is wrong with it."""
    found = parse_json(text)
    parts = found.get("parts")
    if not isinstance(parts, list) or not LEAST_PARTS <= len(parts) <= MOST_PARTS:
        raise Unusable(f'"parts" must be a list of {LEAST_PARTS} to {MOST_PARTS}.')
    rows = []
    for i, part in enumerate(parts, 1):
        texts = {
            key: part.get(key) if isinstance(part, dict) else None for key in ("title", "definition", "shows", "lacks")
        }
        for key, value in texts.items():
            if not isinstance(value, str) or not value.strip():
                raise Unusable(f'part {i} must have a text as "{key}".')
        rows.append({key: _line(str(value)) for key, value in texts.items()})
    raw: dict[str, Any] = {"name": slug(request.title) or "draft", "title": _line(request.title)}
    raw["source"] = f"Drafted by {labeler} from a description by the team; read it and say here where it comes from."
    if request.kind == "choice":
        raw |= {"kind": "choice", "definition": _line(str(found.get("question", "")))}
        raw["classes"] = [{"name": row["title"], "definition": row["definition"],
                           "examples": {"yes": [row["shows"]], "no": [row["lacks"]]}} for row in rows]  # fmt: skip
    else:
        raw["kind"] = "features"
        words = EXAMPLES[request.kind]
        raw["features"] = [
            {"name": slug(row["title"]) or f"part_{i}", "title": row["title"], "definition": row["definition"],
             "kind": request.kind, "examples": {words[0]: [row["shows"]], words[-1]: [row["lacks"]]}}
            for i, row in enumerate(rows, 1)]  # fmt: skip
    written = plain_yaml.dump({key: value for key, value in raw.items() if value})
    try:
        parse(written, "The draft")
    except SignetError as error:
        raise Unusable(str(error)) from None
    return written


def _line(text: str) -> str:
    return " ".join(text.split())


def _options(options: dict[str, Any], request: Request) -> dict[str, Any]:
    for name in options:
        if name not in OPTIONS:
            raise SignetError(f"A draft has no option {name!r}; there are {', '.join(OPTIONS)}.")
    most = max(2_000, 3 * TOKENS_A_PART * request.count)
    return language_models.checked({"max_tokens": most, "temperature": 0.0, **options})


def estimate(request: Request, labeler: str, options: dict[str, Any]) -> Forecast:
    """What the draft will cost, `expected` for an answer of the usual length; `high` if every answer had to be asked
    again and were as long as may be. None where the price is unknown."""
    checked(request)
    chosen = _options(options, request)
    known = language_models.price_of(labeler, chosen["base_url"])
    asked = sum(count_tokens(one["content"]) + 4 for one in messages(request))
    usual = forecast([asked], 0, [TOKENS_A_PART * request.count], 1, known, False, None)
    worst = Usage(RETRIES + 1, (RETRIES + 1) * asked + RETRIES * chosen["max_tokens"], 0,
                  (RETRIES + 1) * chosen["max_tokens"])  # fmt: skip
    high = None if known is None else cost(worst, known)
    return Forecast(1, usual.prompt_tokens, 0, usual.completion_tokens, usual.expected, usual.expected, high, None)


class _Impatient:
    """An endpoint for somebody who waits before the screen: a server that stays busy ends the asking."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._busy = endpoint, 0
        self.name, self.base_url = endpoint.name, endpoint.base_url

    async def ask(
        self, messages: Messages, schema: dict[str, Any] | None, mode: str, options: dict[str, Any]
    ) -> Answer:
        """One completion; Refused after the third busy answer."""
        try:
            return await self._endpoint.ask(messages, schema, mode, options)
        except Busy as error:
            self._busy += 1
            if self._busy < 3:
                raise
            raise Refused(f"{self.base_url} does not answer: {error}.") from None

    async def revision(self) -> str:
        """What pins the model."""
        return await self._endpoint.revision()

    async def close(self) -> None:
        """Close connections."""
        await self._endpoint.close()


def draft(request: Request, labeler: str, options: dict[str, Any]) -> Draft:
    """Ask for a draft. SignetError where the model is not there, or no answer could be used."""
    checked(request)
    chosen = _options(options, request)
    endpoints.provider(labeler)
    known = language_models.price_of(labeler, chosen["base_url"])
    question = Question("draft", messages(request), lambda text: read_answer(request, labeler, text))
    opened = _Impatient(endpoints.open_endpoint(labeler, chosen["base_url"]))
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "draft")
        asker = Asker(
            lambda: opened, journal, schema_of(request),
            {"temperature": chosen["temperature"], "max_tokens": chosen["max_tokens"]}, 1, known,
        )  # fmt: skip
        found = asker.ask_all([question])
        record = journal.get("draft") or {}
        journal.close()
    if "draft" not in found:
        reason = record.get("failed") or "the server was busy all the time"
        raise SignetError(f"{labeler} gave no draft that can be used: {reason}")
    spent = None if known is None else cost(asker.tally.usage, known)
    return Draft(found["draft"], asker.tally.usage, spent, asker.tally.seconds)
