"""OpenAI's Batch API, resumable and never paying twice: killed at any moment, `run` goes on where it was.

A folder holds batches.json (the parts: number, hash of ids, state, ids of files and batch; written whole before and
after each step), part-3.input.jsonl until part 3 has its batch, then part-3.output.jsonl and part-3.error.jsonl. A part
is planned, "about to create", has its batch's status, and is "done" once its files are here. Batches carry {"signet":
fingerprint, "part": "3", "ids": hash}, by which one that was created unnoticed is found. The fingerprint vouches for
the bodies: same fingerprint and same ids mean same requests. One process at a time may run a folder.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.endpoints import scrub
from engine.records import SignetError, content_hash

TRIES, BACKOFF_SECONDS, LONGEST_WAIT = 8, 0.5, 60.0
LOOKS = 3  # a batch may show in the account's list a little late, and the name of a file in its batch
KEPT_SECONDS = 25 * 86400  # OpenAI keeps output files for 30 days: older batches are not adopted
BROKE = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
ENDED, NEVER_RAN = ("completed", "expired", "cancelled", "failed"), ("batch_expired", "batch_cancelled")
PLANNED, CREATING, DONE = "planned", "about to create", "done"


@dataclass(frozen=True)
class Outcome:
    """Every custom_id is in exactly one of `results` (bodies), `failed` (reasons) and `missing` (expired or lost).

    `duplicates` counts further lines for an id, `batches` the batches that the parts have.
    """

    results: dict[str, dict[str, Any]]
    failed: dict[str, str]
    missing: list[str]
    duplicates: int
    batches: int


class _Stopped(Exception):
    """`stop` said so."""


def never() -> bool:
    """The `stop` that does not."""
    return False


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    """Write a file whole, and on the disk before anything that follows."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _line(identity: str, body: dict[str, Any]) -> bytes:
    """One line of an input file. Lone surrogates become ?, and what some take for a line break is escaped."""
    value = {"custom_id": identity, "method": "POST", "url": "/v1/chat/completions", "body": body}
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    for mark in ("\u2028", "\u2029", "\u0085"):
        data = data.replace(mark.encode(), f"\\u{ord(mark):04x}".encode())
    return data + b"\n"


def _cut(requests: dict[str, dict[str, Any]], max_lines: int, max_bytes: int) -> list[list[str]]:
    """The ids of each part. They do not depend on the order of the requests."""
    parts: list[list[str]] = []
    room = -1
    for identity in sorted(requests):
        size = len(_line(identity, requests[identity]))
        if size > max_bytes:
            raise SignetError(f"Request {identity} has {size} bytes, but a batch file holds {max_bytes} at most.")
        if size > room or len(parts[-1]) >= max_lines:
            parts.append([])
            room = max_bytes
        parts[-1].append(identity)
        room -= size
    return parts


def _told(said: object, client: Any, doing: str) -> SignetError:
    """An error with the first sentence of what the API said."""
    first = (_hidden(said, client).strip().splitlines() or ["no reason given"])[0].split(". ")[0].rstrip(".")
    return SignetError(f"OpenAI's Batch API could not {doing}: {first}.")


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _hidden(text: object, client: Any) -> str:
    """A text without the API key."""
    return scrub(str(text), client.api_key)


def _transient(error: Exception) -> bool:
    """Tell whether trying again may help: limits of rate, servers' errors, connections, cut answers."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 or (error.status_code in (408, 429) and not {error.code, error.type} & BROKE)
    kinds = (openai.APIConnectionError, openai.APIResponseValidationError, ValueError, TimeoutError, ConnectionError)
    return isinstance(error, kinds) or type(error).__module__.startswith(("httpx", "httpcore"))  # a stream broke off


def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stop():
        if (left := end - time.monotonic()) <= 0:
            return
        time.sleep(min(left, 0.5))
    raise _Stopped


@dataclass(frozen=True)
class _Run:
    """A folder of parts on their way. `client` does not retry by itself."""

    client: Any
    folder: Path
    plan: dict[str, Any]
    stop: Callable[[], bool] = never

    def save(self, part: dict[str, Any] | None = None, **values: Any) -> None:
        """Note what a part has come to."""
        (self.plan if part is None else part).update(values)
        _write(self.folder / "batches.json", iter([json.dumps(self.plan).encode()]))

    def path(self, part: dict[str, Any], kind: str) -> Path:
        """A file of a part."""
        return self.folder / f"part-{part['part']}.{kind}.jsonl"

    def retry(self, doing: str, call: Callable[[], Any], find: Callable[[], Any] | None = None) -> Any:
        """Call again while that may help. With `find`, after a lost answer what it finds is taken instead."""
        for attempt in range(TRIES):
            try:
                return call()
            except Exception as error:
                failure = error
            if not _transient(failure) or attempt == TRIES - 1:
                break
            asked = str(getattr(getattr(failure, "response", None), "headers", {}).get("retry-after", ""))
            wait = float(asked) if asked.replace(".", "", 1).isdecimal() else 0.0
            _sleep(min(LONGEST_WAIT, max(wait, BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.5))), self.stop)
            if find and getattr(failure, "status_code", 0) != 429 and (found := find()):
                return found
        said = _object(getattr(failure, "body", None)).get("message") or getattr(failure, "message", "") or failure
        raise _told(said, self.client, doing)

    def listed(self) -> Iterator[Any]:
        """The account's batches of this fingerprint that have cost something or may, newest first."""
        after: dict[str, Any] = {}
        while True:
            page = self.retry("list its batches", lambda: self.client.batches.list(limit=100, **after))  # noqa: B023
            for batch in page.data:
                paid = batch.request_counts and batch.request_counts.completed
                worth = batch.status not in ENDED or (paid and batch.created_at > time.time() - KEPT_SECONDS)
                if worth and batch.status != "failed" and (batch.metadata or {}).get("signet") == self.plan["signet"]:
                    yield batch
            if not page.data or page.has_more is False:
                return
            after = {"after": page.data[-1].id}

    def adopt(self, parts: list[dict[str, Any]], looks: int) -> str:
        """Give parts without a batch the oldest one created for them, if any; return the last part's."""
        for look in range(looks):
            if not (lost := {part["ids"]: part for part in parts if not part["batch"]}):
                break
            _sleep(BACKOFF_SECONDS * 2**look if look else 0, self.stop)
            for found in reversed(list(self.listed())):
                if part := lost.pop(found.metadata.get("ids"), None):
                    self.save(part, batch=found.id, state=found.status, file=found.input_file_id)
        return parts[-1]["batch"] if parts else ""

    def upload(self, path: Path) -> str:
        """The id of a file in the account."""
        with path.open("rb") as file:
            return self.client.files.create(file=(path.name, file), purpose="batch").id

    def create(self, part: dict[str, Any], lines: Iterator[bytes]) -> None:
        """Upload a part and create its batch. A batch whose id was lost is looked for before it is asked for again."""
        path = self.path(part, "input")
        self.save(part, state=CREATING)
        if not part["file"]:
            _write(path, lines)
            self.save(part, file=self.retry("take a file", lambda: self.upload(path)))
        asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": part["file"]}
        tags = {"signet": self.plan["signet"], "part": str(part["part"]), "ids": part["ids"]}
        create, find = lambda: self.client.batches.create(metadata=tags, **asked).id, lambda: self.adopt([part], LOOKS)
        try:
            self.save(part, batch=self.retry("create a batch", create, find))
        except SignetError:
            self.save(part, file="")  # the next run looks again, and uploads anew: the file may be what is wrong
            raise
        path.unlink(missing_ok=True)

    def poll(self, part: dict[str, Any]) -> None:
        """Ask how a part stands; take its files once it has ended."""
        batch = self.retry("say how a batch stands", lambda: self.client.batches.retrieve(part["batch"]))
        counts = batch.request_counts
        now = {"state": batch.status, "output": batch.output_file_id or "", "error": batch.error_file_id or ""}
        part["seen"] = counts.completed + counts.failed if counts else 0
        if any(part[name] != value for name, value in now.items()):
            self.save(part, **now)
        if batch.status == "failed":  # its input was refused, nothing ran: the next run begins this part anew
            self.save(part, state=PLANNED, batch="", file="")
            said = [problem.message for problem in (batch.errors and batch.errors.data) or []]
            raise _told(said[0] if said else "no reason given", self.client, f"run part {part['part']}")
        part["late"] = part.get("late", 0) + 1 if counts and counts.completed and not part["output"] else 0
        if batch.status in ENDED and not 0 < part["late"] <= LOOKS:
            for kind in ("output", "error"):
                if part[kind]:
                    self.retry("send a file", lambda: self.fetch(part[kind], self.path(part, kind)))  # noqa: B023
            self.save(part, state=DONE)

    def fetch(self, file: str, path: Path) -> None:
        """Stream a file of the account here, whole or not at all."""
        with self.client.files.with_streaming_response.content(file) as response:
            _write(path, response.iter_bytes(1 << 20))

    def done(self, part: dict[str, Any]) -> bool:
        """Tell whether a part has ended and its files are here."""
        return part["state"] == DONE and all(self.path(part, k).exists() for k in ("output", "error") if part[k])

    def lines(self, part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of a part's files that are JSON."""
        for kind in [k for k in ("output", "error") if part[k] and self.done(part)]:
            with self.path(part, kind).open("rb") as file:
                for raw in file:
                    try:
                        yield _object(json.loads(raw))
                    except ValueError:
                        continue

    def outcome(self, cut: list[list[str]]) -> Outcome:
        """Sort the lines of the parts that have ended."""
        results: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        duplicates = 0
        for part, ids in zip(self.plan["parts"], cut):
            new, known = set(ids), set(ids)
            for line in self.lines(part):
                if not isinstance(identity := line.get("custom_id"), str) or identity not in known:
                    continue
                duplicates += identity not in new
                new.discard(identity)
                response, error = _object(line.get("response")), _object(line.get("error"))
                body, status = _object(response.get("body")), response.get("status_code")
                if status == 200 and body and not error:
                    results.setdefault(identity, body)
                elif error.get("code") not in NEVER_RAN:
                    told = error or _object(body.get("error"))
                    said = f"{told.get('message') or told.get('code') or 'no reason given'}"
                    failed.setdefault(identity, _hidden(said + (f" (status {status})" if status else ""), self.client))
        failed = {identity: said for identity, said in failed.items() if identity not in results}
        missing = [one for ids in cut for one in ids if one not in results and one not in failed]
        return Outcome(results, failed, missing, duplicates, sum(bool(part["batch"]) for part in self.plan["parts"]))


def _plan(folder: Path) -> dict[str, Any] | None:
    path = folder / "batches.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def run(
    client: Any,
    requests: Sequence[tuple[str, dict[str, Any]]],
    folder: Path,
    fingerprint: str,
    *,
    max_lines: int = 50_000,
    max_bytes: int = 190_000_000,
    poll_seconds: float = 30.0,
    on_progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] = never,
) -> Outcome:
    """Have requests (custom_id, chat completion body) answered in batches; go on where an earlier run was.

    `client` is an openai.OpenAI. A folder keeps the limits of its first run. When `stop` says so, the batches go on
    at OpenAI and what has not come back counts as missing: `run` again takes it, `cancel` ends it.
    """
    asked = dict(requests)
    if len(asked) != len(requests):
        raise SignetError("Two requests have the same custom_id: each needs its own.")
    folder.mkdir(parents=True, exist_ok=True)
    plan = _plan(folder) or {"signet": fingerprint, "max_lines": max_lines, "max_bytes": max_bytes}
    cut = _cut(asked, plan["max_lines"], plan["max_bytes"])
    if "parts" not in plan:
        for stale in folder.glob("part-*.jsonl"):
            stale.unlink()
        blank = {"state": PLANNED, "file": "", "batch": "", "output": "", "error": "", "seen": 0}
        plan["parts"] = [{"part": n, "ids": content_hash(ids, 32), **blank} for n, ids in enumerate(cut)]
    if plan["signet"] != fingerprint or [part["ids"] for part in plan["parts"]] != [content_hash(i, 32) for i in cut]:
        raise SignetError(f"The folder {folder} holds batches of other requests: take an empty one.")
    going = _Run(client.with_options(max_retries=0), folder, plan, stop)
    parts = plan["parts"]
    try:
        going.save()
        going.adopt(parts, LOOKS if any(p["state"] == CREATING and not p["batch"] for p in parts) else 1)
        for part, ids in zip(parts, cut):
            if not part["batch"]:
                _sleep(0, stop)
                going.create(part, (_line(one, asked[one]) for one in ids))
        while left := [part for part in parts if not going.done(part)]:
            for part in left:
                going.poll(part)
            if on_progress:
                on_progress(sum(part["seen"] for part in parts), len(asked))
            if not all(going.done(part) for part in left):
                _sleep(poll_seconds, stop)
    except _Stopped:
        pass
    return going.outcome(cut)


def cancel(client: Any, folder: Path) -> None:
    """Ask OpenAI to cancel whatever of a folder still runs; `run` still takes what was computed by then."""
    import openai

    if not (plan := _plan(folder)):
        return
    going = _Run(client.with_options(max_retries=0), folder, plan)
    running = {part["batch"] for part in plan["parts"] if part["batch"] and part["state"] not in (*ENDED, DONE)}
    if lost := {part["ids"] for part in plan["parts"] if not part["batch"] and part["state"] == CREATING}:
        running |= {batch.id for batch in going.listed() if batch.metadata.get("ids") in lost}
    for identity in sorted(running):

        def ask(identity: str = identity) -> None:
            try:
                going.client.batches.cancel(identity)
            except (openai.BadRequestError, openai.ConflictError, openai.NotFoundError):
                return  # it has ended already

        going.retry("cancel a batch", ask)
