"""Language models at work in a job: one shard of questions after the other, live or as a batch, its spending on record.

A labeler or rewriter says what to ask and how to read an answer; everything else about asking is here: the endpoint,
the journal under the store's `answers/`, the ceiling, and what the Jobs page shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine import batches, jobs
from engine.asks import Asker, Question, Tally
from engine.costs import FREE, Price, Usage, cost, price
from engine.endpoints import Endpoint, chat_body, key_for, open_endpoint, provider
from engine.journal import Journal
from engine.prompts import Unusable
from engine.records import SignetError, content_hash
from engine.settings import home

# Options of a job that asks a language model, with their defaults; the first four are part of who the labeler is.
IDENTITY: dict[str, Any] = {"base_url": None, "temperature": 0.0, "order": "taxonomy", "sample": 1}
RUNNING: dict[str, Any] = {"concurrency": 16, "ceiling": None, "batch": False, "max_tokens": 1024, "timeout": 120.0}


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options with defaults filled in; SignetError for an unknown or impossible one."""
    known = {**IDENTITY, **RUNNING}
    for name, value in options.items():
        if name not in known:
            raise SignetError(f"A language model has no option {name!r}; there are {', '.join(known)}.")
        if name in ("concurrency", "sample", "max_tokens") and (not isinstance(value, int) or value < 1):
            raise SignetError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        if name == "ceiling" and value is not None and not (isinstance(value, int | float) and value > 0):
            raise SignetError(f"ceiling is {value!r}; it must be an amount of US dollars above 0, or left out.")
    return {**known, **options}


def who(name: str, options: dict[str, Any]) -> str:
    """The labeler's name: provider and model, which sample if not the first, what order if not the taxonomy's."""
    marks = [f"sample {options['sample']}"] if options["sample"] > 1 else []
    marks += [options["order"]] if options["order"] != "taxonomy" else []
    return f"{name} ({', '.join(marks)})" if marks else name


def fingerprint(name: str, revision: str, options: dict[str, Any], task: str) -> str:
    """The name of the journal: answers of the same model, task and parameters are the same answers."""
    parts = [name, revision, {key: options[key] for key in IDENTITY if key != "order"}, task]
    return f"{name.replace('/', '_')}-{content_hash(parts, 16)}"


class Asking:
    """Asks a shard's questions, live or by batch. `folder`: the job's, or None for a trial without a job."""

    def __init__(
        self, name: str, options: dict[str, Any], journal: Journal, schema: dict[str, Any], folder: Path | None
    ):
        self.name, self.options, self.folder = name, options, folder
        self._journal, self._schema = journal, schema
        _, self.model = provider(name)
        own = bool(options["base_url"]) or name.startswith("ollama:")  # a server of one's own costs nothing a token
        self.price: Price | None = FREE if own else price(self.model, home())
        if options["ceiling"] is not None and self.price is None:
            raise SignetError(
                f"The price of {self.model} is not known, so a ceiling cannot be kept; add it to prices.yaml."
            )
        before = jobs.read_json(self.folder / "spent.json") if self.folder else None  # of a worker that was killed
        self._usage = Usage(**before["usage"]) if before else Usage(0, 0, 0, 0)
        self.counts: dict[str, Any] = dict(before["counts"]) if before else {}
        self._last = 0.0

    def open(self) -> Endpoint:
        """The endpoint, freshly opened."""
        return open_endpoint(self.name, self.options["base_url"])

    def _request(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"temperature": self.options["temperature"], "max_tokens": self.options["max_tokens"]}
        if self.options["sample"] > 1 or self.options["temperature"] > 0:
            asked["seed"] = self.options["sample"]
        return asked

    def ask(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Values by key; what could not be answered is left out, and kept raw in the journal."""
        if self.options["batch"]:
            self._by_batch(questions)
        before = cost(self._usage, self.price)
        asker = Asker(
            self.open, self._journal, self._schema, self._request(), self.options["concurrency"], self.price,
            self.options["ceiling"], before,
        )  # fmt: skip
        try:
            return asker.ask_all(questions, lambda tally: self._note(tally, asker))
        finally:
            self._usage += asker.tally.usage
            self.counts = self._counted(asker.tally)
            self.counts |= {"mode": asker.tally.mode, "requests": self._usage.requests, "spent_usd": self.spent()}
            self._save(self._usage, self.counts, {})

    def _counted(self, tally: Tally) -> dict[str, Any]:
        """The counts so far with those of a tally."""
        names = ("answered", "cached", "failed", "refused", "repaired", "busy")
        return self.counts | {name: self.counts.get(name, 0) + getattr(tally, name) for name in names}

    def spent(self) -> float | None:
        """US dollars of this job so far; None where the price is unknown, 0 for a server of one's own."""
        if self.price is None:
            return None
        return round(cost(self._usage, self.price, self.options["batch"]), 6)

    def _note(self, tally: Tally, asker: Asker) -> None:
        if time.monotonic() - self._last > 1.0:
            self._last = time.monotonic()
            live = {"entries": tally.answered + tally.failed + tally.cached, "seconds": tally.seconds,
                    "failed": tally.failed, "busy": tally.busy, "spent_usd": round(asker.spent, 6)}  # fmt: skip
            self._save(self._usage + tally.usage, self._counted(tally), live)

    def _save(self, usage: Usage, counts: dict[str, Any], live: dict[str, Any]) -> None:
        if self.folder is not None:
            jobs.write_json(self.folder / "spent.json", {"usage": asdict(usage), "counts": counts})
            jobs.write_json(self.folder / "live.json", live)

    def _by_batch(self, questions: Sequence[Question]) -> None:
        """Put what is not in the journal through the Batch API; answers go into the journal, the rest is asked live."""
        import openai

        if not self.name.startswith("openai:") or self.folder is None:
            raise SignetError("Only openai:MODEL can work by batch.")
        todo = [q for q in questions if (self._journal.get(q.key) or {"failed": 1}).get("failed")]
        if not todo:
            return
        requests = [
            (q.key, chat_body(self.model, q.messages, self._schema, "schema", self._request())) for q in todo
        ]  # fmt: skip
        shard = content_hash(sorted(q.key for q in questions), 12)
        folder = self.folder / f"batch-{shard}"
        folder.mkdir(exist_ok=True)
        client = openai.OpenAI(
            api_key=key_for(self.options["base_url"]), base_url=self.options["base_url"], max_retries=0
        )
        cancelled = self.folder / "cancel"
        outcome = batches.run(
            client, requests, folder, f"{self.folder.name}-{shard}", stop=cancelled.exists,
            poll_seconds=float(os.environ.get("SIGNET_POLL_SECONDS", "30")),
            on_progress=lambda done, _: self._save(self._usage, self.counts, {"entries": done}),
        )  # fmt: skip
        if cancelled.exists():  # what is missing may still come: it must not be asked live
            raise SignetError("The batch was cancelled; resume the job to collect what it has answered.")
        by_key = {q.key: q for q in todo}
        for key, body in outcome.results.items():
            self._usage += Usage.of(body)
            message = body["choices"][0]["message"] if body.get("choices") else {}
            text = message.get("content") or ""
            try:
                by_key[key].read(text)
                self._journal.put(key, {"text": text, "attempts": 1})
            except Unusable as error:
                self._journal.put(key, {"text": text, "failed": message.get("refusal") or str(error)})
        self.counts["batches"] = self.counts.get("batches", 0) + outcome.batches
        self.counts["patched"] = self.counts.get("patched", 0) + len(outcome.failed) + len(outcome.missing)
        self.counts["duplicates"] = self.counts.get("duplicates", 0) + outcome.duplicates
