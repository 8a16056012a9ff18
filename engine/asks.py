"""Asking a chat endpoint many questions at once: bounded, patient, and never twice for what is in the journal.

A question is repeated when the server is busy (with back-off and jitter, honouring what its headers say) and when the
answer cannot be used (with the reason, up to `RETRIES` times); then it is recorded as failed with its raw answer. Wrong
keys, spent quotas and a reached ceiling stop everything with one sentence.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.costs import Price, Usage, cost
from engine.endpoints import MODES, Answer, Busy, Endpoint, Messages, Refused, TooStrict, Unanswerable
from engine.journal import Journal
from engine.prompts import Unusable, complaint
from engine.records import SignetError

RETRIES = 2  # further questions after an unusable answer
PATIENCE = 14  # busy answers in a row to one question before it counts as failed: some six minutes of back-off
FRUITLESS = 40  # questions in a row that failed by a busy server before the job stops


@dataclass(frozen=True)
class Question:
    """What to ask under which key, and how to check an answer's text: `read` raises Unusable with the reason."""

    key: str
    messages: Messages
    read: Callable[[str], Any]


@dataclass
class Tally:
    """What happened so far. `usage` is what was paid for in this run, `cached` what the journal knew."""

    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0, 0))
    answered: int = 0
    cached: int = 0
    failed: int = 0
    refused: int = 0
    repaired: int = 0
    busy: int = 0
    seconds: float = 0.0
    mode: str = MODES[0]


class Asker:
    """Asks one endpoint under one journal. `ceiling`: US dollars after which no more is asked; `attempt` tells one
    making of a job from another, so that a restart does not ask again what failed."""

    def __init__(
        self, open_endpoint: Callable[[], Endpoint], journal: Journal, schema: dict[str, Any] | None,
        options: dict[str, Any], concurrency: int = 16, price: Price | None = None, ceiling: float | None = None,
        spent: float = 0.0, attempt: float = 0.0,
    ) -> None:  # fmt: skip
        self._open, self._journal = open_endpoint, journal
        self._endpoint: Endpoint
        self._schema, self._options = schema, options
        self._concurrency, self._price, self._ceiling = max(1, concurrency), price, ceiling
        self._before, self._attempt = spent, attempt
        self._pause_until = 0.0
        self._fruitless = 0
        self._halt: SignetError | None = None
        self.tally = Tally()

    @property
    def spent(self) -> float:
        """US dollars, what was spent before included; 0 where the price is unknown."""
        return self._before + cost(self.tally.usage, self._price)

    def ask_all(self, questions: Sequence[Question], progress: Callable[[Tally], None] | None = None) -> dict[str, Any]:
        """Values by key for every question that could be answered; what failed is in the journal with its raw answer.

        Raises SignetError for what stops everything.
        """
        return asyncio.run(self._ask_all(questions, progress))

    async def _ask_all(
        self, questions: Sequence[Question], progress: Callable[[Tally], None] | None
    ) -> dict[str, Any]:  # fmt: skip
        found: dict[str, Any] = {}
        todo: list[Question] = []
        for question in questions:
            known = self._journal.get(question.key)
            if known is not None and known.get("failed") and self._attempt and known.get("attempt") == self._attempt:
                self.tally.failed += 1  # a restart of the same job does not pay for it again; a new job does
                continue
            if known is not None and "text" in known and not known.get("failed"):
                try:
                    found[question.key] = question.read(known["text"])
                    self.tally.cached += 1
                    continue
                except Unusable:
                    pass
            todo.append(question)
        if not todo:
            return found
        self._endpoint = self._open()  # of this event loop
        began = time.perf_counter()
        waiting = iter(todo)

        async def work() -> None:
            for question in waiting:
                if self._halt is not None:
                    return
                try:
                    self._stop_if_spent()
                    value = await self._one(question)
                except SignetError as error:  # what is under way is paid for: it may still come back
                    self._halt = self._halt or error
                    return
                if value is not None:
                    found[question.key] = value
                if progress is not None:
                    self.tally.seconds = time.perf_counter() - began
                    progress(self.tally)

        workers = [asyncio.create_task(work()) for _ in range(min(self._concurrency, len(todo)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._endpoint.close()
            self.tally.seconds = time.perf_counter() - began
        if self._halt is not None:
            raise self._halt
        return found

    async def _one(self, question: Question) -> Any:
        messages = list(question.messages)
        raw, reason = "", ""
        for attempt in range(RETRIES + 1):
            try:
                answer = await self._patiently(messages)
            except Unanswerable as error:
                self._failed(question, raw, str(error))
                if self.tally.answered == 0:  # all of them, not this one?
                    self._in_vain(f"{self._endpoint.base_url} refuses the requests: {error}")
                return None
            if answer is None:
                self._failed(question, raw, reason or "the server stayed busy")
                return None
            raw = answer.text.encode("utf-8", "replace").decode()
            if answer.refusal:
                reason = f"refused: {answer.refusal[:200]}"
                self.tally.refused += 1
                break
            try:
                value = question.read(raw)
            except Unusable as error:
                reason = str(error)
                messages = [*question.messages, {"role": "assistant", "content": raw[:4000]}, complaint(reason)]
                continue
            self._journal.put(question.key, {"text": raw, "attempts": attempt + 1})
            self.tally.answered += 1
            self.tally.repaired += attempt > 0
            self._fruitless = 0
            return value
        self._failed(question, raw, reason)
        return None

    def _failed(self, question: Question, raw: str, reason: str) -> None:
        self.tally.failed += 1
        self._journal.put(question.key, {"text": raw, "failed": reason, "attempt": self._attempt})

    async def _patiently(self, messages: Messages) -> Answer | None:
        """One answer, however often the server is busy; None when patience ends."""
        for tries in range(PATIENCE):
            if self._halt is not None and tries:
                raise self._halt
            pause = self._pause_until - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause * random.uniform(1.0, 1.1))
            mode = self.tally.mode
            try:
                answer = await self._endpoint.ask(messages, self._schema, mode, self._options)
            except TooStrict as error:
                self._loosen(mode, str(error))
                continue
            except Refused as error:
                raise SignetError(str(error)) from None
            except Busy as error:
                self.tally.busy += 1
                if error.after:  # the whole server is meant, not this question
                    self._pause_until = max(self._pause_until, time.monotonic() + error.after)
                wait = max(error.after or 0.0, min(60.0, 0.25 * 2**tries))
                await asyncio.sleep(wait * random.uniform(0.7, 1.3))
                continue
            self._fruitless = 0
            self.tally.usage += answer.usage
            if answer.wait:
                self._pause_until = max(self._pause_until, time.monotonic() + answer.wait)
            return answer
        self._in_vain(f"{self._endpoint.base_url} gave no answer to {FRUITLESS} questions in a row; try again later.")
        return None

    def _in_vain(self, sentence: str) -> None:
        """Count a question that got no answer at all; stop when there were too many in a row."""
        self._fruitless += 1
        if self._fruitless >= FRUITLESS:
            raise SignetError(sentence)

    def _loosen(self, mode: str, reason: str) -> None:
        """Ask for the form of the answer less strictly; questions that were under way in `mode` do it once together."""
        if self._schema is None or mode == MODES[-1]:
            raise SignetError(f"{self._endpoint.base_url} refuses the request: {reason}")
        if self.tally.mode == mode:
            self.tally.mode = MODES[MODES.index(mode) + 1]

    def _stop_if_spent(self) -> None:
        if self._ceiling is not None and self._price is not None and self.spent >= self._ceiling:
            raise SignetError(
                f"The ceiling of ${self._ceiling:g} is reached (${self.spent:.4f} spent): what was answered is kept; "
                "raise the ceiling to go on."
            )
