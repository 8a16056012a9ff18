"""Before a job: is the server there, what does it answer on a few entries, what would all of them cost?

Nothing here touches the store; entries come as rows that its owner handed out.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import endpoints, language_models, prompts, rewriting
from engine.asks import Asker, Question
from engine.costs import Forecast, Usage, count_tokens, forecast
from engine.endpoints import Messages
from engine.journal import Journal
from engine.records import SignetError, turns_from_json
from engine.taxonomy import load

Row = tuple[str, str, str]  # entry hash, prompt as JSON turns, response


@dataclass(frozen=True)
class Connection:
    """Whether a language model answers: the sentence says what happened, `revision` what pins it."""

    works: bool
    sentence: str
    revision: str
    seconds: float


def connect(labeler: str, options: dict[str, Any]) -> Connection:
    """Ask one short question. Never raises for what the world may do; SignetError for a wrong name."""
    chosen = language_models.checked(options)
    endpoints.provider(labeler)

    async def once() -> Connection:
        endpoint = endpoints.open_endpoint(labeler, chosen["base_url"])
        began = time.perf_counter()
        try:
            question = [{"role": "user", "content": "Answer with the one word: yes"}]
            answer = await endpoint.ask(question, None, "text", {"max_tokens": 16, "temperature": 0})
            seconds = time.perf_counter() - began
            said = f"{endpoint.base_url} answers in {seconds:.1f} s: {answer.text.strip()[:40]!r}"
            return Connection(True, said, await endpoint.revision(), seconds)
        except endpoints.Busy as error:
            return Connection(False, f"{endpoint.base_url} does not answer: {error}", "", time.perf_counter() - began)
        except (endpoints.Refused, endpoints.Unanswerable, endpoints.TooStrict) as error:
            return Connection(False, str(error), "", time.perf_counter() - began)
        finally:
            await endpoint.close()

    try:
        return asyncio.run(once())
    except SignetError as error:
        return Connection(False, str(error), "", 0.0)


@dataclass(frozen=True)
class Trial:
    """One raw exchange: what was sent, what came back, and the labels (or rewrite) read from it, or why not."""

    entry: str
    messages: Messages
    raw: str
    value: Any
    reason: str
    attempts: int


@dataclass(frozen=True)
class Tried:
    """A handful of exchanges with what they took; `mode` is how the answer's form could be asked for."""

    trials: tuple[Trial, ...]
    usage: Usage
    seconds: float
    mode: str


def _asked(questions: Sequence[Question], name: str, options: dict[str, Any], schema: dict[str, Any]) -> Tried:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "trial")
        asker = Asker(
            lambda: endpoints.open_endpoint(name, options["base_url"]), journal, schema,
            {"temperature": options["temperature"], "max_tokens": options["max_tokens"]}, options["concurrency"],
        )  # fmt: skip
        found = asker.ask_all(questions)
        trials = []
        for question in questions:
            record = journal.get(question.key) or {}
            trials.append(
                Trial(question.key, question.messages, record.get("text", ""), found.get(question.key),
                      record.get("failed", ""), record.get("attempts", 0))
            )  # fmt: skip
        journal.close()
    return Tried(tuple(trials), asker.tally.usage, asker.tally.seconds, asker.tally.mode)


def try_labels(rows: Sequence[Row], labeler: str, taxonomy: str, options: dict[str, Any]) -> Tried:
    """Label a few entries outside any job. SignetError for what would stop the job too."""
    chosen = language_models.checked(options)
    task = prompts.label_task(load(taxonomy), chosen["order"])
    questions = [
        Question(entry, prompts.messages(task, turns_from_json(prompt), response), lambda t: prompts.labels(task, t))
        for entry, prompt, response in rows
    ]
    return _asked(questions, labeler, chosen, task.schema)


def try_rewrites(rows: Sequence[Row], rewriter: str, how: str, options: dict[str, Any]) -> Tried:
    """Reword a few entries outside any job."""
    chosen = language_models.checked(options)
    spec = rewriting.resolve(rewriter, how, options)
    asked = [rewriting.question(rewriting.instructions()[spec.params["how"]], *row) for row in rows]
    return _asked(asked, rewriter, chosen, rewriting.SCHEMA)


def estimate(
    rows: Sequence[Row], requests: int, labeler: str, options: dict[str, Any], taxonomy: str | None = None,
    how: str | None = None, tried: Tried | None = None,
) -> Forecast:  # fmt: skip
    """What labelling (`taxonomy`) or rewording (`how`) so many entries would cost, from a sample of them.

    Answer lengths and speed come from `tried`, where there is one; else an answer is taken to be as long as the schema
    demands (labels) or as the answer it rewords.
    """
    chosen = language_models.checked(options)
    known = language_models.price_of(labeler, chosen["base_url"])
    if taxonomy is not None:
        task = prompts.label_task(load(taxonomy), chosen["order"])
        system, length = task.system, [count_tokens(str(task.schema["required"])) + 4 * len(task.features)] * len(rows)
    else:
        system = rewriting.instructions()[how or "neutral"]
        length = [count_tokens(response) + 8 for _, _, response in rows]
    prefix = count_tokens(system)
    sizes = [prefix + count_tokens(prompts.as_data(turns_from_json(p), r)) + 12 for _, p, r in rows]
    speed = None
    if tried is not None and tried.usage.requests:
        each = tried.usage.completion_tokens / tried.usage.requests
        length = [round(each)] * len(rows)
        speed = tried.usage.requests / tried.seconds if tried.seconds else None
    return forecast(sizes, prefix, length, requests, known, bool(chosen["batch"]), speed)
