"""Language models at work in a job: one shard of questions after the other, live or as a batch, its spending on record.

A labeler or rewriter says what to ask and how to read an answer; everything else about asking is here: the endpoint,
the journal under the store's `answers/`, the ceiling, and what the Jobs page shows.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine import batches, jobs
from engine.asks import Asker, Question, Tally
from engine.costs import FREE, Price, Usage, cost, count_tokens, price
from engine.endpoints import Endpoint, chat_body, check_address, key_for, open_endpoint, provider
from engine.journal import Journal
from engine.prompts import Unusable
from engine.records import SignetError, content_hash
from engine.settings import home

# Options of a job that asks a language model, with their defaults; the first four are part of who the labeler is.
IDENTITY: dict[str, Any] = {"base_url": None, "temperature": 0.0, "order": "taxonomy", "sample": 1}
RUNNING: dict[str, Any] = {"concurrency": 16, "ceiling": None, "batch": False, "max_tokens": 1024}


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options with defaults filled in; SignetError for an unknown or impossible one."""
    known = {**IDENTITY, **RUNNING}
    for name, value in options.items():
        if name not in known:
            raise SignetError(f"A language model has no option {name!r}; there are {', '.join(known)}.")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in ("concurrency", "sample", "max_tokens") and not (number and value == int(value) and value >= 1):
            raise SignetError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        if name == "ceiling" and value is not None and not (number and value > 0):
            raise SignetError(f"ceiling is {value!r}; it must be an amount of US dollars above 0, or left out.")
        if name == "temperature" and not (number and 0 <= value <= 2):
            raise SignetError(f"temperature is {value!r}; it must be a number from 0 to 2.")
        if name == "batch" and not isinstance(value, bool):
            raise SignetError(f"batch is {value!r}; it must be true or false.")
        if name == "order" and not re.fullmatch(r"taxonomy|reversed|shuffled:\d{1,9}", str(value)):
            raise SignetError(f"order is {value!r}; use taxonomy, reversed or shuffled:NUMBER.")
    check_address(options.get("base_url"))
    return {**known, **options}


def price_of(name: str, base_url: str | None) -> Price | None:
    """What a model costs; nothing on a server of one's own (Ollama, or this machine's and private addresses)."""
    kind, model = provider(name)
    known = price(model, home())
    if known is not None and (base_url is None or known.source != "shipped"):
        return known
    host = urlsplit(base_url).hostname if base_url else None
    own = kind == "ollama" or (
        host is not None and re.match(r"localhost$|127\.|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|::1$", host)
    )
    return FREE if own else known


def who(name: str, options: dict[str, Any]) -> str:
    """The labeler's name: provider and model, which sample if not the first, what order if not the taxonomy's."""
    marks = [f"sample {options['sample']}"] if options["sample"] > 1 else []
    marks += [options["order"]] if options["order"] != "taxonomy" else []
    return f"{name} ({', '.join(marks)})" if marks else name


def fingerprint(name: str, revision: str, options: dict[str, Any], task: str) -> str:
    """The name of the journal: answers of the same model, task and parameters are the same answers."""
    parts = [name, revision, {key: options[key] for key in IDENTITY if key != "order"}, task]
    return f"{name.replace('/', '_')}-{content_hash(parts, 16)}"


def asking(
    name: str, revision: str, params: dict[str, Any], task: str, schema: dict[str, Any], folder: Path | None
) -> Asking:
    """What asks in a job. Options are those of the job's parameters; the journal is under the store's `answers/`."""
    options = checked({key: params[key] for key in {**IDENTITY, **RUNNING} if key in params})
    store = folder.parent.parent if folder is not None else home()
    return Asking(name, options, Journal(store / "answers", fingerprint(name, revision, options, task)), schema, folder)


def cancel_batches(params: dict[str, Any], folder: Path) -> None:
    """Ask the server to stop what still runs of a batch job; what it has answered can still be collected."""
    try:
        batches.cancel(_client(params.get("base_url")), folder)
    except SignetError:
        return  # the job stops all the same; resuming it finds the batch again


def _client(base_url: str | None) -> Any:
    import openai

    return openai.OpenAI(api_key=key_for(base_url) or "none", base_url=base_url, max_retries=0)


class Asking:
    """Asks a shard's questions, live or by batch. `folder`: the job's, or None for a trial without a job."""

    def __init__(
        self, name: str, options: dict[str, Any], journal: Journal, schema: dict[str, Any], folder: Path | None
    ):
        self.name, self.options, self.folder = name, options, folder
        self._journal, self._schema = journal, schema
        _, self.model = provider(name)
        self.price = price_of(name, options["base_url"])
        if options["ceiling"] is not None and self.price is None:
            raise SignetError(
                f"The price of {self.model} is not known, so a ceiling cannot be kept; add it to prices.yaml."
            )
        job = (jobs.read_json(self.folder / "job.json") if self.folder else None) or {}
        self._attempt = float(job.get("created", 0.0))  # tells a restart from the same job made again
        before = jobs.read_json(self.folder / "spent.json") if self.folder else None
        self._usage = Usage(**before["usage"]) if before else Usage()
        self._batched = Usage(**before.get("batched", {})) if before else Usage()  # paid at the batch price
        same = before is not None and before.get("attempt") == self._attempt
        self.counts: dict[str, Any] = dict(before["counts"]) if same and before else {}
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
        asker = Asker(
            self.open, self._journal, self._schema, self._request(), self.options["concurrency"], self.price,
            self.options["ceiling"], self._dollars(), self._attempt,
        )  # fmt: skip
        try:
            found = asker.ask_all(questions, lambda tally: self._note(tally, asker))
            self.counts = self._counted(asker.tally)  # of finished shards: one that is cut short is counted when redone
            return found
        finally:
            self._usage += asker.tally.usage
            requests = self._usage.requests + self._batched.requests
            self.counts |= {"mode": asker.tally.mode, "requests": requests, "spent_usd": self.spent()}
            self._save(self._usage, {})

    def _counted(self, tally: Tally) -> dict[str, Any]:
        """The counts so far with those of a tally."""
        names = ("answered", "cached", "failed", "refused", "repaired", "busy")
        return self.counts | {name: self.counts.get(name, 0) + getattr(tally, name) for name in names}

    def _dollars(self) -> float:
        """What was spent so far, live and by batch each at its price; 0 where the price is unknown."""
        return cost(self._usage, self.price) + cost(self._batched, self.price, True)

    def spent(self) -> float | None:
        """US dollars of this job so far; None where the price is unknown, 0 for a server of one's own."""
        return None if self.price is None else round(self._dollars(), 6)

    def _note(self, tally: Tally, asker: Asker) -> None:
        if time.monotonic() - self._last > 1.0:
            self._last = time.monotonic()
            live = {"entries": tally.answered + tally.failed + tally.cached, "seconds": tally.seconds,
                    "failed": tally.failed, "busy": tally.busy, "spent_usd": round(asker.spent, 6)}  # fmt: skip
            self._save(self._usage + tally.usage, live)

    def _save(self, usage: Usage, live: dict[str, Any]) -> None:
        if self.folder is not None:
            body = {"usage": asdict(usage), "batched": asdict(self._batched), "counts": self.counts,
                    "attempt": self._attempt}  # fmt: skip
            jobs.write_json(self.folder / "spent.json", body)
            jobs.write_json(self.folder / "live.json", live)

    def _by_batch(self, questions: Sequence[Question]) -> None:
        """Put what is not in the journal through the Batch API; answers go into the journal, the rest is asked live."""
        if not self.name.startswith("openai:") or self.folder is None:
            raise SignetError("Only openai:MODEL can work by batch.")
        shard = content_hash(sorted(q.key for q in questions), 12)
        folder = self.folder / f"batch-{shard}"
        folder.mkdir(exist_ok=True)
        plan = jobs.read_json(folder / "asked.json")  # which questions the batches hold, from the first run on
        if plan is None:
            plan = {"keys": [q.key for q in questions if (self._journal.get(q.key) or {"failed": 1}).get("failed")]}
            jobs.write_json(folder / "asked.json", plan)
        if plan.get("collected") or not plan["keys"]:
            return
        wanted = set(plan["keys"])
        todo = [q for q in questions if q.key in wanted]
        requests = [
            (q.key, chat_body(self.model, q.messages, self._schema, "schema", self._request())) for q in todo
        ]  # fmt: skip
        self._check_ceiling(requests)
        client = _client(self.options["base_url"])
        cancelled = self.folder / "cancel"
        outcome = batches.run(
            client, requests, folder, f"{self.folder.name}-{shard}", stop=cancelled.exists,
            poll_seconds=float(os.environ.get("SIGNET_POLL_SECONDS", "30")),
            on_progress=lambda done, _: self._save(self._usage, {"entries": done}),
        )  # fmt: skip
        if cancelled.exists():  # what is missing may still come: it must not be asked live
            raise SignetError("The job was cancelled; resume it to collect what its batches have answered.")
        by_key = {q.key: q for q in todo}
        used = Usage()
        for key, body in outcome.results.items():
            used += Usage.of(body)
            message = body["choices"][0]["message"] if body.get("choices") else {}
            text = (message.get("content") or "").encode("utf-8", "replace").decode()
            try:
                by_key[key].read(text)
                self._journal.put(key, {"text": text, "attempts": 1})
            except Unusable as error:  # no attempt is named: it is asked again live
                self._journal.put(key, {"text": text, "failed": message.get("refusal") or str(error)})
        self._batched += used
        for name, number in (("batches", outcome.batches), ("duplicates", outcome.duplicates),
                             ("patched", len(outcome.failed) + len(outcome.missing))):  # fmt: skip
            self.counts[name] = self.counts.get(name, 0) + number
        self._save(self._usage, {})
        jobs.write_json(folder / "asked.json", plan | {"collected": True})

    def _check_ceiling(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """A batch cannot be stopped in the middle: refuse one that may cost more than the ceiling leaves."""
        if self.options["ceiling"] is None or self.price is None:
            return
        prompt = sum(count_tokens(json.dumps(body["messages"])) for _, body in requests)
        worst = Usage(len(requests), prompt, 0, len(requests) * self.options["max_tokens"])
        total = self._dollars() + cost(worst, self.price, True)
        if total > self.options["ceiling"]:
            raise SignetError(
                f"These batches may cost up to ${total:.2f}, more than the ceiling of ${self.options['ceiling']:g}: "
                "raise it, lower max_tokens, or label fewer pairs."
            )
