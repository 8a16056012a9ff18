"""Reward models behind an endpoint: vllm:MODEL and tei:MODEL, as scorers like any other.

The server sets the pace: as many requests are under way as it bears (engine.throttle), what it is too busy for comes
again with back-off and jitter, and no more than one shard is in memory. Whoever serves it, a reward model is its name,
revision, input format and length; its address is only the way to it, and so no part of what the model is.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from engine import models
from engine.endpoints import Busy, Refused, check_address
from engine.records import SignetError, Turn, turns_from_json
from engine.score_servers import (
    FORMATS,
    KINDS,
    PORTS,
    PROBES,
    Declined,
    Facts,
    Failed,
    Item,
    Server,
    TooLong,
    open_server,
)
from engine.throttle import Throttle

PATIENCE = 14  # busy answers in a row to one request before the job stops: some six minutes of back-off
WAIT = 0.25  # seconds before the first repeat, doubled up to a minute
FAILURES = 5  # HTTP 500s in a row to one request before the job stops
CHARS_A_REQUEST = 200_000
TEXTS_AT_ONCE = 2048  # at most under way, in all requests together
T = TypeVar("T")
OPTIONS = ("base_url", "concurrency", "format", "output", "raw", "revision")


def resolve(name: str, options: dict[str, Any]) -> models.ModelSpec:
    """The model at an endpoint, as its server tells it.

    Options: base_url (default: this machine), format (FORMATS of its kind), output (which logit, default the only
    one), revision (to be noted where the server tells none), concurrency (requests at once; default: found by trial),
    raw (true: take the values as raw though the server cannot show it).
    """
    kind, _, model = name.partition(":")
    if not model:
        raise SignetError(f"{name}: name the model as the server does, {kind}:OWNER/MODEL.")
    for key in options:
        if key == "max_length":
            longer = "--max-model-len" if kind == "vllm" else "--max-batch-tokens"
            raise SignetError(f"How long a text may be is set where the server starts ({longer}), not by max_length.")
        if key not in OPTIONS:
            raise SignetError(f"Unknown option {key!r} for {KINDS[kind]}; there are {', '.join(OPTIONS)}.")
    base_url = options.get("base_url") or f"http://localhost:{PORTS[kind]}"
    check_address(base_url)
    base_url = re.sub(r"(/v1)?/*$", "", str(base_url))
    many, output = options.get("concurrency"), options.get("output")
    if many is not None and (type(many) is not int or not 1 <= many <= 1024):
        raise SignetError(f"Option concurrency={many!r} must be a whole number from 1 to 1024.")
    if output is not None and (type(output) is not int or output < 0):
        raise SignetError(f"Option output={output!r} must be the number of an output, 0 or more.")
    style = options.get("format") or _default_format(kind, model)
    if style not in FORMATS[kind]:
        instead = "; for pairs of texts use text-embeddings-inference" if kind == "vllm" else ""
        instead = "; it applies no chat template, vLLM does" if style == "chat" else instead
        raise SignetError(f"{KINDS[kind]} cannot read format {style}, only {' or '.join(FORMATS[kind])}{instead}.")
    route = {"base_url": base_url, "concurrency": many, "raw": options.get("raw") is True, "lane": "network"}
    facts = asyncio.run(_inspect(kind, model, style, output, route))
    told = str(options.get("revision") or facts.revision or "not told")
    params = {"format": style, "output": output, "max_length": facts.max_length, **facts.identity}
    return models.ModelSpec(name, kind, told, params, route)


def _default_format(kind: str, model: str) -> str:
    known = models.default_format(model)
    if kind == "vllm":
        return known if known == "dialogue" else "chat"
    return known if known == "seal_pair" else "dialogue"


def _key() -> str | None:
    return (os.environ.get("SIGNET_API_KEY") or "").strip() or None


async def _inspect(kind: str, model: str, style: str, output: int | None, route: dict[str, Any]) -> Facts:
    server = open_server(kind, route["base_url"], model, style, _key(), timeout=60)
    try:
        facts = await server.facts()
        await server.settle(route["raw"])
        _check_outputs((await server.ask(PROBES[:1])).rows[0], output, model)
        return facts
    except Busy as error:
        raise SignetError(
            f"No {KINDS[kind]} server answers at {route['base_url']} ({error}); start it, or name its address "
            "(base_url, http://HOST:PORT)."
        ) from None
    except (Refused, Declined, Failed, TooLong) as error:
        raise SignetError(str(error)) from None
    finally:
        await server.close()


def _check_outputs(row: list[float], output: int | None, model: str) -> None:
    if len(row) != 1 and output is None:
        raise SignetError(f"{model} has {len(row)} outputs, a reward model has one; choose with --option output=0.")
    if output is not None and output >= len(row):
        raise SignetError(f"{model} has outputs 0 to {len(row) - 1}; there is no {output}.")


@dataclass(slots=True)
class _Done:
    reward: float = math.nan
    tokens: int | None = None
    truncated: bool = False


class RemoteScorer:
    """The worker for a model at an endpoint; see engine.worker.Work.

    Raises SignetError when the server serves something else than when the job was made, has been away for minutes,
    refuses an entry, or gives no number.
    """

    def __init__(self, params: dict[str, Any]) -> None:
        self._params, self._kind = params, params["kind"]
        self._model = params["model"].partition(":")[2]
        self._where = f"{KINDS[self._kind]} at {params['base_url']}"
        self._runner = asyncio.Runner()
        self._counts = {"requests": 0, "busy": 0, "tokens": 0, "truncated": 0, "at_once": 0}
        self._pause_until = 0.0
        self._suspect = math.inf  # characters from which on a text has been found too long for the model
        self._keeps_end: bool | None = None
        self.throttle = Throttle(params["concurrency"])
        self._server: Server = open_server(self._kind, params["base_url"], self._model, params["format"], _key())
        self._cutting = asyncio.Lock()
        try:
            facts, evidence = self._runner.run(self._connect())
        except BaseException:
            self.close()
            raise
        self._batch = facts.texts_a_request
        most = min(256, max(8, TEXTS_AT_ONCE // self._batch))
        self.throttle = Throttle(params["concurrency"], most)
        self.environment: dict[str, Any] = {
            "device": "server", **facts.told, "base_url": params["base_url"], "model": params["model"],
            "revision": params["revision"], "format": params["format"], "max_length": facts.max_length,
            "raw": evidence, "progress": self._counts,
        }  # fmt: skip

    async def _connect(self) -> tuple[Facts, str]:
        facts = await self._patiently(self._server.facts)
        differs = [key for key, value in facts.identity.items() if self._params.get(key) != value]
        known = ("", self._params["revision"])
        if differs or facts.max_length != self._params["max_length"] or facts.revision not in known:
            raise SignetError(f"{self._where} serves another model or length than when this job was made; start anew.")
        evidence = await self._patiently(lambda: self._server.settle(self._params["raw"]))
        reply = await self._patiently(lambda: self._server.ask(PROBES[:1]))
        _check_outputs(reply.rows[0], self._params["output"], self._model)
        return facts, evidence

    def close(self) -> None:
        """Close connections."""
        self._runner.run(self._server.close())
        self._runner.close()

    def run(self, entries: pa.Table) -> pa.Table:
        """Rewards of a shard, with tokens where the server counts them and whether the entry was truncated."""
        prompts = [turns_from_json(text) for text in entries.column("prompt").to_pylist()]
        items = [
            Item(turns, response, len(response) + sum(len(turn.content) for turn in turns))
            for turns, response in zip(prompts, entries.column("response").to_pylist())
        ]
        done = [_Done() for _ in items]
        try:
            self._runner.run(self._shard(items, done))
        except BaseExceptionGroup as group:
            raise _first(group) from None
        names = entries.column("entry").to_pylist()
        for name, one in zip(names, done):
            if not math.isfinite(one.reward):
                raise self._no_number(f"entry {name}")
        self._counts["truncated"] += sum(one.truncated for one in done)
        self._counts["tokens"] += sum(one.tokens or 0 for one in done)
        return pa.table({
            "entry": entries.column("entry"),
            "reward": pa.array([one.reward for one in done], pa.float64()),
            "n_tokens": pa.array([one.tokens for one in done], pa.int32()),
            "truncated": pa.array([one.truncated for one in done], pa.bool_()),
        })  # fmt: skip

    # --- one shard ---
    async def _shard(self, items: list[Item], done: list[_Done]) -> None:
        """Keep as many requests under way as the throttle allows until every item is done."""
        waiting = deque(range(len(items)))
        active = 0
        self.throttle.restart()

        async def work() -> None:
            nonlocal active
            try:
                while waiting and active <= self.throttle.limit:
                    places = self._next(waiting, items)
                    for place, found in zip(places, await self._scored([items[i] for i in places])):
                        done[place] = found
                    self.throttle.finished(sum(items[i].chars for i in places))
                    self._counts["at_once"] = self.throttle.limit
                    start()
            finally:
                active -= 1

        def start() -> None:
            nonlocal active
            for _ in range(min(len(waiting), self.throttle.limit - active)):
                active += 1
                group.create_task(work())

        async with asyncio.TaskGroup() as group:
            start()

    def _next(self, waiting: deque[int], items: list[Item]) -> list[int]:
        """The next request's items: as many as the server takes; what may be too long for the model goes alone."""
        places = [waiting.popleft()]
        chars = items[places[0]].chars
        while waiting and len(places) < self._batch:
            more = items[waiting[0]].chars
            if max(chars, more) >= self._suspect or chars + more > CHARS_A_REQUEST:
                break
            chars += more
            places.append(waiting.popleft())
        return places

    async def _scored(self, items: list[Item]) -> list[_Done]:
        try:
            return await self._asked(items)
        except TooLong as error:
            if len(items) > 1:
                self._suspect = min(self._suspect, max(item.chars for item in items))
                return [one for item in items for one in await self._scored([item])]
            return [await self._cut(items[0], error.given)]

    async def _asked(self, items: Sequence[Item], cut: bool = False) -> list[_Done]:
        reply = await self._patiently(lambda: self._server.ask(items, cut))
        alone = reply.tokens if len(items) == 1 else None
        return [_Done(row[self._params["output"] or 0], alone) for row in reply.rows]

    async def _cut(self, item: Item, given: int | None) -> _Done:
        """The reward of an item that is too long: without its oldest part, if the server can do that."""
        async with self._cutting:
            if self._keeps_end is None:
                self._keeps_end = await self._test_cutting(item)
        limit = self._params["max_length"]
        if not self._keeps_end:
            raise SignetError(
                f"An entry is longer than the {limit} tokens of {self._where}, which would cut off its end, the "
                "answer; update the server to a version that can truncate from the left, or serve a longer context."
            )
        try:
            found = (await self._asked([item], cut=True))[0]
        except TooLong:
            raise SignetError(f"{self._where} takes no text of {item.chars} characters, even shortened.") from None
        # Servers stop counting one past the limit, or do not tell: then the full length is not known.
        found.tokens = given if given and limit and given > limit + 1 else None
        found.truncated = True
        return found

    async def _test_cutting(self, item: Item) -> bool:
        """Whether cutting spares the end: then, in a text that is too long, what comes first changes nothing."""
        text = "\n".join([turn.content for turn in item.turns] + [item.response])
        long = Turn("user", text)
        heads = [Turn("user", f"{probe.response} {probe.turns[0].content} " * 8 + text) for probe in PROBES]
        answers = []
        for turn in (long, *heads):
            try:
                answers.append((await self._asked([Item((turn,), "Yes, that is so.", 0)], cut=True))[0].reward)
            except TooLong:
                return False
        return all(abs(one - answers[0]) <= 0.02 * max(1.0, abs(answers[0])) for one in answers[1:])

    # --- one request ---
    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """An answer, however often the server is busy; SignetError when patience ends or it refuses."""
        failures = 0
        for tries in range(PATIENCE):
            pause = self._pause_until - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause * random.uniform(1.0, 1.1))
            self._counts["requests"] += 1
            after: float | None
            try:
                return await ask()
            except Busy as error:
                reason, after = str(error), error.after
                self._counts["busy"] += 1
                self.throttle.busy()
            except Failed as error:
                reason, after = str(error), error.after
                failures += 1
                if re.search(r"\bnan\b|JSON compliant", error.words, re.I):
                    raise self._no_number("an entry") from None
                if failures >= FAILURES:
                    raise SignetError(f"{self._where} failed {FAILURES} times on one request: {reason}") from None
            except Declined as error:
                if re.search(r"\bnan\b", error.words, re.I):
                    raise self._no_number("an entry") from None
                raise SignetError(f"{self._where} refuses an entry: {error.words}") from None
            except Refused as error:
                raise SignetError(str(error)) from None
            if after:  # the whole server is meant, not this request
                self._pause_until = max(self._pause_until, time.monotonic() + after)
            await asyncio.sleep(max(after or 0.0, min(60.0, WAIT * 2**tries)) * random.uniform(0.7, 1.3))
        raise SignetError(f"{self._where} gave no answer for minutes ({reason}); resume when it is back.")

    def _no_number(self, what: str) -> SignetError:
        return SignetError(
            f"{self._where} gives no number (NaN) for {what}: its precision is too small for this model; serve it with "
            f"--dtype {'bfloat16 or float32' if self._kind == 'vllm' else 'float32'}."
        )


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first real error of a group; what was under way is cancelled by then."""
    for error in group.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, SignetError):
            return found
    return group.exceptions[0]
