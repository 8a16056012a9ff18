"""Servers that speak OpenAI's and Ollama's protocols on this machine, for tests without keys, models or costs.

    with FakeOpenAI(faults=Faults(rate_limit=0.1)) as fake:
        client = openai.OpenAI(base_url=fake.url, api_key="sk-test")

Answers come from ``answer(messages, schema)``. What goes wrong is set by `Faults`, drawn from one seeded generator: a
request always takes the same number of draws, so a client that sends its requests one by one sees the same faults in
every run (with concurrent requests the draws are the same, but which request gets which depends on their order).
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
import random
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

Answer = Callable[[list[dict[str, Any]], dict[str, Any] | None], str]

PROSE = "Certainly! Having read both answers with care, I would say that the first one is a little better."
REFUSAL = "I'm sorry, but I can't assist with that request."
_TRANSPORT = ("rate_limit", "server_error", "timeout", "half_body")
_CONTENT = ("refusal", "not_json", "wrong_type", "missing_key", "fenced")


@dataclass(frozen=True)
class Faults:
    """What goes wrong, as probabilities from 0 to 1 unless said otherwise.

    `rate_limit`, `server_error`, `timeout` and `half_body` befall chat requests, and with `everywhere` all others too
    (a `half_body` on the creation of a batch leaves a batch whose id the client never read). Of the faults of content
    (`refusal`, `not_json`, `wrong_type`, `missing_key`, `fenced`, in this order) the first one drawn befalls a chat
    request or a line of a batch. `expire` and `reordered_lines` are drawn once for a batch, `line_error` for each of
    its lines, `duplicate_lines` for each line of its output file (a copy follows, or with `reordered_lines` lies
    anywhere). `auth` and `quota` are switches.
    """

    rate_limit: float = 0.0
    server_error: float = 0.0
    timeout: float = 0.0
    half_body: float = 0.0
    refusal: float = 0.0
    not_json: float = 0.0
    wrong_type: float = 0.0
    missing_key: float = 0.0
    fenced: float = 0.0
    expire: float = 0.0
    duplicate_lines: float = 0.0
    reordered_lines: float = 0.0
    line_error: float = 0.0
    auth: bool = False
    quota: bool = False
    everywhere: bool = False
    timeout_seconds: float = 2.0
    retry_after: float = 1.0


def key_of(content: str) -> str:
    """Return the key of `paid` for the content of a last user message."""
    return hashlib.sha256(content.encode()).hexdigest()


def text_of(content: object) -> str:
    """Return a message's content as text; parts of a list are joined, those that are not text left out."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def tokens(text: str) -> int:
    """Return the number of tokens the fakes say a text has: a quarter of its characters, at least 1."""
    return max(1, math.ceil(len(text) / 4))


# --- Schemas ----------------------------------------------------------------------------------------------------------


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow `$ref` within the root schema."""
    while "$ref" in schema:
        found: Any = root
        for step in str(schema["$ref"]).lstrip("#/").split("/"):
            found = found[step]
        schema = found
    return schema


def _is_type(value: object, kind: object) -> bool:
    """Tell whether a value has a JSON Schema type."""
    match kind:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "integer":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool)
    return True


def _equal(left: object, right: object) -> bool:
    """Compare as JSON does: true is not 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def conforms(value: object, schema: dict[str, Any], root: dict[str, Any] | None = None) -> bool:
    """Tell whether a value fits the part of JSON Schema that the fakes know."""
    root = schema if root is None else root
    schema = _resolve(schema, root)
    if "const" in schema and not _equal(value, schema["const"]):
        return False
    if "enum" in schema and not any(_equal(value, option) for option in schema["enum"]):
        return False
    options = schema.get("anyOf") or schema.get("oneOf")
    if options and not any(conforms(value, option, root) for option in options):
        return False
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is_type(value, kind) for kind in kinds):
            return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if not all(name in value for name in schema.get("required", [])):
            return False
        if schema.get("additionalProperties") is False and not all(name in properties for name in value):
            return False
        return all(conforms(value[name], part, root) for name, part in properties.items() if name in value)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
            return False
        return all(conforms(item, schema.get("items", {}), root) for item in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
    return True


def make_value(schema: dict[str, Any], rng: random.Random, root: dict[str, Any] | None = None) -> Any:
    """Make a value that fits a schema."""
    root = schema if root is None else root
    schema = _resolve(schema, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return make_value(rng.choice(options), rng, root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    match kind:
        case "object":
            return {name: make_value(part, rng, root) for name, part in schema.get("properties", {}).items()}
        case "array":
            low = schema.get("minItems", 0)
            count = rng.randint(low, max(low, min(schema.get("maxItems", low + 3), low + 3)))
            items = schema.get("items", {"type": "string"})
            made = [make_value(items, rng, root) for _ in range(count)]
            if "enum" in items:  # as a set of labels: none twice
                made = sorted(set(made), key=items["enum"].index)
                made += [option for option in items["enum"] if option not in made][: max(0, low - len(made))]
            return made
        case "boolean":
            return rng.random() < 0.5
        case "integer":
            low = math.ceil(schema.get("minimum", 0))
            return rng.randint(low, max(low, math.floor(schema.get("maximum", low + 10))))
        case "number":
            low = schema.get("minimum", 0)
            return min(round(rng.uniform(low, schema.get("maximum", low + 1)), 3), schema.get("maximum", math.inf))
        case "null":
            return None
    return f"text {rng.randrange(16**6):06x}"


def default_answer(messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> str:
    """Make a JSON object for the schema that depends on the messages only; without one, a digest of them."""
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()
    if schema is None:
        return json.dumps({"answer": digest[:12]})
    return json.dumps(make_value(schema, random.Random(digest)), ensure_ascii=False)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) for everything within a JSON value."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _break_type(content: str, schema: dict[str, Any] | None, rng: random.Random) -> str:
    """Give one value within a JSON text another type, or one that the schema does not list."""
    try:
        value = json.loads(content)
    except ValueError:
        return "[17]"
    places = [place for place in _places(value) if not isinstance(place[0][place[1]], dict)]
    rng.shuffle(places)
    wrong: list[Any] = ["__not_in_the_list__", 999, {"value": "nested"}, None, 0.5, ["a list"], "true"]
    for container, key in places:
        before = container[key]
        for other in rng.sample(wrong, len(wrong)):
            if type(other) is type(before) and schema is None:
                continue
            container[key] = other
            if schema is None or not conforms(value, schema):
                return json.dumps(value, ensure_ascii=False)
        container[key] = before
    return "[17]"


def _drop_key(content: str, schema: dict[str, Any] | None, rng: random.Random) -> str:
    """Take one key out of a JSON text, one that the schema requires if any."""
    try:
        value = json.loads(content)
    except ValueError:
        return "{}"
    places = [place for place in _places(value) if isinstance(place[0], dict)]
    rng.shuffle(places)
    for container, key in places:
        before = dict(container)
        del container[key]
        if schema is None or not conforms(value, schema):
            return json.dumps(value, ensure_ascii=False)
        container.clear()
        container.update(before)
    return "{}"


# --- The server -------------------------------------------------------------------------------------------------------


class _ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, payload: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(status, payload)
        self.status = status
        self.payload = payload
        self.headers = headers or {}


@dataclass
class _Request:
    """A request as the routes see it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    def json(self) -> dict[str, Any] | None:
        """Return the body if it is a JSON object."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


@dataclass
class _Reply:
    """An answer on its way out."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    delay: float = 0.0
    cut: bool = False


class _Server(ThreadingHTTPServer):
    """A threaded server that knows its fake and its open connections."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    fake: _Fake

    def __init__(self, fake: _Fake) -> None:
        self.fake = fake
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        """Bind without looking up the name of the host, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that hang up; keep anything else for the test to see."""
        found = sys.exc_info()[1]
        if found is not None and not isinstance(found, OSError):
            self.fake.failures.append(found)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, has the fake answer it, writes the answer in one piece."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        """Note the connection, so that the end of the fake closes it."""
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        """Forget the connection."""
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _read(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        request = _Request(self.command, parts.path, parse_qs(parts.query), self.headers, self._read())
        reply = self.server.fake.respond(request)
        lines = [f"HTTP/1.1 {reply.status} {self.responses.get(reply.status, ('',))[0]}"]
        lines += [f"Date: {self.date_time_string()}", f"Content-Type: {reply.kind}"]
        lines += [f"Content-Length: {len(reply.body)}", *(f"{name}: {text}" for name, text in reply.headers.items())]
        body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        if reply.cut:
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve


class _Fake:
    """What both fakes share: the server, the faults and the counts.

    All counts may be read at any time, also while requests are on their way; `faults` and `latency` may be set anew.
    """

    chat_path: ClassVar[str]
    suffix: ClassVar[str] = ""

    def __init__(
        self,
        answer: Answer | None = None,
        faults: Faults | None = None,
        seed: int = 0,
        *,
        latency: float = 0.0,
        models: Sequence[str] = (),
        check_model: bool = False,
    ) -> None:
        self.answer: Answer = answer or default_answer
        self.faults = faults or Faults()
        self.latency = latency
        self.models = tuple(models)
        self.check_model = check_model
        self.paid: collections.Counter[str] = collections.Counter()
        """Completions computed, by `key_of` the last user message: also those cut or delayed on their way back."""
        self.requests: collections.Counter[str] = collections.Counter()
        """Requests received, by path."""
        self.statuses: collections.Counter[int] = collections.Counter()
        """Answers given, by HTTP status."""
        self.bodies: collections.deque[dict[str, Any]] = collections.deque(maxlen=1000)
        """The last 1,000 JSON bodies received."""
        self.keys_seen: set[str] = set()
        """Values of the Authorization header received."""
        self.failures: list[BaseException] = []
        """What `answer` or the fake itself raised; the request was answered with a 500."""
        self.peak = 0
        """The most requests that were on their way at once."""
        self._busy = 0
        self._serial = 0
        self._rng = random.Random(seed)
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Return the base address for a client."""
        assert self._server is not None, "the fake is not running: use it in a with statement"
        return f"http://127.0.0.1:{self._server.server_port}{self.suffix}"

    @property
    def total_paid(self) -> int:
        """Return the number of completions computed."""
        with self._lock:
            return self.paid.total()

    def close(self) -> None:
        """Stop: no new connections, and the open ones are closed."""
        self._closing.set()
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join()

    # Within a request.

    def respond(self, request: _Request) -> _Reply:
        """Answer a request, faults included."""
        with self._lock:
            self._busy += 1
            self.peak = max(self.peak, self._busy)
            self.requests[request.path] += 1
            if key := request.headers.get("Authorization"):
                self.keys_seen.add(key)
            if (
                request.body
                and "json" in (request.headers.get("Content-Type") or "")
                and (found := request.json()) is not None
            ):
                self.bodies.append(found)
        try:
            reply = self._answered(request)
            if self.latency + reply.delay > 0:
                self._closing.wait(self.latency + reply.delay)
        finally:
            with self._lock:
                self._busy -= 1
        with self._lock:
            self.statuses[reply.status] += 1
        reply.headers.update(self._headers(reply))
        return reply

    def _answered(self, request: _Request) -> _Reply:
        faults = self.faults
        drawn: set[str] = set()
        try:
            self._admit(request, faults)
            if request.path == self.chat_path or faults.everywhere:
                drawn = self._draw(_TRANSPORT, faults)
                if "rate_limit" in drawn:
                    raise self._rate_limited(request, faults)
                if "server_error" in drawn:
                    raise self._broken()
            found = self._route(request, faults)
            reply = found if isinstance(found, _Reply) else _Reply(200, _dump(found))
        except _ApiError as error:
            return _Reply(error.status, _dump(error.payload), dict(error.headers))
        except Exception as error:  # the test's own answer, most likely: let the test see it
            self.failures.append(error)
            broken = self._broken()
            return _Reply(broken.status, _dump(broken.payload))
        reply.delay = faults.timeout_seconds if "timeout" in drawn else 0.0
        reply.cut = "half_body" in drawn
        return reply

    def _draw(self, names: Sequence[str], faults: Faults) -> set[str]:
        """Draw faults: one number for each name, whatever its probability."""
        with self._lock:
            return {name for name in names if self._rng.random() < getattr(faults, name)}

    def _fork(self) -> random.Random:
        """Return a generator for one request, seeded by the shared one."""
        with self._lock:
            return random.Random(self._rng.getrandbits(64))

    def _id(self, prefix: str) -> str:
        with self._lock:
            self._serial += 1
            return f"{prefix}{self._serial:012x}"

    def _pay(self, messages: list[dict[str, Any]]) -> None:
        """Count a computed completion."""
        last = next((m for m in reversed(messages) if m.get("role") == "user"), {})
        key = key_of(text_of(last.get("content")))
        with self._lock:
            self.paid[key] += 1

    def _content(
        self, messages: list[dict[str, Any]], schema: dict[str, Any] | None, faults: Faults
    ) -> tuple[str, bool]:
        """Compute a completion: its text, and whether it is a refusal."""
        drawn = self._draw(_CONTENT, faults)
        rng = self._fork()
        content = self.answer(messages, schema)
        self._pay(messages)
        if "refusal" in drawn:
            return REFUSAL, True
        if "not_json" in drawn:
            return PROSE, False
        if "wrong_type" in drawn:
            return _break_type(content, schema, rng), False
        if "missing_key" in drawn:
            return _drop_key(content, schema, rng), False
        if "fenced" in drawn:
            return f"```json\n{content}\n```", False
        return content, False

    # What the protocols differ in.

    def _headers(self, reply: _Reply) -> dict[str, str]:
        return {}

    def _admit(self, request: _Request, faults: Faults) -> None:
        raise NotImplementedError

    def _rate_limited(self, request: _Request, faults: Faults) -> _ApiError:
        raise NotImplementedError

    def _broken(self) -> _ApiError:
        raise NotImplementedError

    def _route(self, request: _Request, faults: Faults) -> dict[str, Any] | _Reply:
        raise NotImplementedError


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _cut_to(content: str, limit: object) -> tuple[str, bool]:
    """Cut a text to a limit in tokens; tell whether that was needed."""
    if isinstance(limit, int) and 0 < limit < tokens(content):
        return content[: limit * 4], True
    return content, False


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def _openai_error(
    status: int, message: str, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
) -> _ApiError:
    return _ApiError(status, {"error": {"message": message, "type": kind, "param": param, "code": code}})


def _strict_fault(schema: Any, context: tuple[str, ...] = ()) -> str | None:
    """Return what OpenAI's strict mode would say against a schema."""
    if not isinstance(schema, dict):
        return None
    where = f"In context=({', '.join(repr(step) for step in context)}{',' if len(context) == 1 else ''})"
    properties = schema.get("properties", {})
    if schema.get("type") == "object" or properties:
        if schema.get("additionalProperties") is not False:
            return f"{where}, 'additionalProperties' is required to be supplied and to be false."
        missing = [name for name in properties if name not in schema.get("required", [])]
        if missing:
            return (
                f"{where}, 'required' is required to be supplied and to be an array including every key in "
                f"properties. Missing '{missing[0]}'."
            )
    inner = [(("properties", name), part) for name, part in properties.items()]
    inner += [(("$defs", name), part) for name, part in schema.get("$defs", {}).items()]
    inner += [(("anyOf", str(at)), part) for at, part in enumerate(schema.get("anyOf", []))]
    inner += [(("items",), schema["items"])] if "items" in schema else []
    return next((said for step, part in inner if (said := _strict_fault(part, context + step))), None)


@dataclass
class _File:
    """A file the fake keeps."""

    id: str
    name: str
    purpose: str
    content: bytes
    created: int

    def shown(self) -> dict[str, Any]:
        """Return the file object of the protocol."""
        return {
            "object": "file",
            "id": self.id,
            "purpose": self.purpose,
            "filename": self.name,
            "bytes": len(self.content),
            "created_at": self.created,
            "expires_at": None,
            "status": "processed",
            "status_details": None,
        }


@dataclass
class _Batch:
    """A batch on its way."""

    id: str
    endpoint: str
    window: str
    input_file: str
    metadata: dict[str, str] | None
    created: int
    lines: list[dict[str, Any]]
    problems: list[dict[str, Any]]
    expire: bool
    reorder: bool
    target: int
    status: str = "validating"
    polls: int = 0
    done: int = 0
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    completed: int = 0
    failed: int = 0
    usage: collections.Counter[str] = field(default_factory=collections.Counter)
    stamps: dict[str, int] = field(default_factory=dict)
    output_file: str | None = None
    error_file: str | None = None

    @property
    def over(self) -> bool:
        """Tell whether the status is a last one."""
        return self.status in ("completed", "expired", "cancelled", "failed")

    def enter(self, status: str) -> None:
        """Take a status and note when."""
        if status != self.status:
            self.status = status
            self.stamps[f"{status}_at"] = int(time.time())

    def shown(self) -> dict[str, Any]:
        """Return the batch object of the protocol."""
        total = 0 if self.status in ("validating", "failed") else len(self.lines)
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.lines[0]["body"].get("model") if self.lines else None,
            "errors": {"object": "list", "data": self.problems} if self.status == "failed" else None,
            "input_file_id": self.input_file,
            "completion_window": self.window,
            "status": self.status,
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "created_at": self.created,
            "expires_at": self.created + 86400,
            **{f"{name}_at": self.stamps.get(f"{name}_at") for name in names},
            "request_counts": {"total": total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.usage["prompt"],
                "input_tokens_details": {"cached_tokens": self.usage["cached"]},
                "output_tokens": self.usage["completion"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.usage["prompt"] + self.usage["completion"],
            },
            "metadata": self.metadata,
        }


class FakeOpenAI(_Fake):
    """OpenAI's chat completions, files and batches; `url` ends in /v1.

    A batch moves on when it is retrieved, not with time, and not when batches are listed: it stays `batch_polls`
    retrievals in each of validating, in_progress and finalizing (0: the first retrieval finds it ended). Its lines are
    computed, and paid for, while it is in_progress; a cancelled one keeps in its output file what was computed. An
    expired one has between one line and all but one in its output file, the rest as batch_expired in its error file.
    """

    chat_path = "/v1/chat/completions"
    suffix = "/v1"

    def __init__(
        self,
        answer: Answer | None = None,
        faults: Faults | None = None,
        seed: int = 0,
        *,
        latency: float = 0.0,
        models: Sequence[str] = ("gpt-4o-mini", "gpt-4.1-mini", "gpt-5-mini"),
        check_model: bool = False,
        batch_polls: int = 1,
        require_key: bool = True,
        request_limit: int = 10_000,
        token_limit: int = 2_000_000,
    ) -> None:
        super().__init__(answer, faults, seed, latency=latency, models=models, check_model=check_model)
        self.batch_polls = batch_polls
        self.require_key = require_key
        self.request_limit = request_limit
        self.token_limit = token_limit
        self._files: dict[str, _File] = {}
        self._batches: dict[str, _Batch] = {}
        self._batch_lock = threading.RLock()
        self._prefixes: set[bytes] = set()

    def file_ids(self, purpose: str | None = None) -> list[str]:
        """Return the ids of the files kept, oldest first."""
        with self._batch_lock:
            return [file.id for file in self._files.values() if purpose in (None, file.purpose)]

    def batch_statuses(self) -> dict[str, str]:
        """Return the status of every batch by id, oldest first, without moving any on."""
        with self._batch_lock:
            return {batch.id: batch.status for batch in self._batches.values()}

    # Before the routes.

    def _headers(self, reply: _Reply) -> dict[str, str]:
        limited = reply.status == 429
        with self._lock:
            used, busy = sum(self.requests.values()), self._busy
        return {
            "x-request-id": self._id("req_"),
            "openai-organization": "org-fake",
            "openai-version": "2020-10-01",
            "openai-processing-ms": str(round((self.latency + reply.delay) * 1000)),
            "x-ratelimit-limit-requests": str(self.request_limit),
            "x-ratelimit-limit-tokens": str(self.token_limit),
            "x-ratelimit-remaining-requests": "0" if limited else str(max(1, self.request_limit - 1 - busy)),
            "x-ratelimit-remaining-tokens": str(max(0, self.token_limit - used % 1000 * 100)),
            "x-ratelimit-reset-requests": f"{self.faults.retry_after:g}s" if limited else "6ms",
            "x-ratelimit-reset-tokens": "0s",
        }

    def _admit(self, request: _Request, faults: Faults) -> None:
        key = (request.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if faults.auth:
            masked = f"{key[:4]}{'*' * max(0, len(key) - 8)}{key[-4:]}" if len(key) > 8 else "*" * len(key)
            message = (
                f"Incorrect API key provided: {masked}. You can find your API key at "
                "https://platform.openai.com/account/api-keys."
            )
            raise _openai_error(401, message, code="invalid_api_key")
        if self.require_key and not key:
            raise _openai_error(
                401, "You didn't provide an API key. You need to provide it in an Authorization header."
            )
        if faults.quota and request.method == "POST" and request.path in (self.chat_path, "/v1/batches"):
            message = (
                "You exceeded your current quota, please check your plan and billing details. For more information "
                "on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
            )
            raise _openai_error(429, message, "insufficient_quota", "insufficient_quota")

    def _rate_limited(self, request: _Request, faults: Faults) -> _ApiError:
        model = (request.json() or {}).get("model", "gpt-4o-mini")
        message = (
            f"Rate limit reached for {model} in organization org-fake on requests per min (RPM): Limit "
            f"{self.request_limit}, Used {self.request_limit}, Requested 1. Please try again in "
            f"{faults.retry_after:g}s. Visit https://platform.openai.com/account/rate-limits to learn more."
        )
        found = _openai_error(429, message, "requests", "rate_limit_exceeded")
        found.headers = {
            "retry-after": f"{faults.retry_after:g}",
            "retry-after-ms": f"{faults.retry_after * 1000:g}",
        }
        return found

    def _broken(self) -> _ApiError:
        message = "The server had an error while processing your request. Sorry about that!"
        return _openai_error(500, message, "server_error")

    # Routes.

    def _route(self, request: _Request, faults: Faults) -> dict[str, Any] | _Reply:
        match request.method, request.path.split("/")[2:]:
            case "POST", ["chat", "completions"]:
                return self._complete(self._json(request), faults)
            case "GET", ["models"]:
                return {"object": "list", "data": [self._model(name) for name in self.models]}
            case "GET", ["models", name]:
                self._check(name)
                return self._model(name)
            case "POST", ["files"]:
                return self._upload(request)
            case "GET", ["files"]:
                with self._batch_lock:
                    files = [file.shown() for file in reversed(self._files.values())]
                purposes = request.query.get("purpose")
                return _page([file for file in files if not purposes or file["purpose"] in purposes], request)
            case "GET", ["files", name]:
                return self._file(name).shown()
            case "GET", ["files", name, "content"]:
                return _Reply(200, self._file(name).content, kind="application/octet-stream")
            case "DELETE", ["files", name]:
                with self._batch_lock:
                    del self._files[self._file(name).id]
                return {"id": name, "object": "file", "deleted": True}
            case "POST", ["batches"]:
                return self._create(self._json(request), faults)
            case "GET", ["batches"]:
                with self._batch_lock:
                    return _page([batch.shown() for batch in reversed(self._batches.values())], request)
            case "GET", ["batches", name]:
                with self._batch_lock:
                    batch = self._batch(name)
                    self._advance(batch, faults)
                    return batch.shown()
            case "POST", ["batches", name, "cancel"]:
                with self._batch_lock:
                    batch = self._batch(name)
                    if batch.over:
                        raise _openai_error(409, f"Cannot cancel a batch with status '{batch.status}'.")
                    batch.enter("cancelling")
                    return batch.shown()
        raise _openai_error(404, f"Invalid URL ({request.method} {request.path})")

    def _json(self, request: _Request) -> dict[str, Any]:
        found = request.json()
        if found is None:
            raise _openai_error(400, "We could not parse the JSON body of your request.")
        return found

    def _check(self, model: object) -> None:
        if self.check_model and model not in self.models:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise _openai_error(404, message, code="model_not_found")

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"}

    def _complete(self, body: dict[str, Any], faults: Faults) -> dict[str, Any]:
        """Compute a chat completion, or raise what OpenAI answers to a body that it does not take."""
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise _openai_error(400, "you must provide a model parameter")
        self._check(model)
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise _openai_error(400, "Missing required parameter: 'messages'.", param="messages")
        if body.get("stream"):
            raise _openai_error(400, "This fake does not stream.", code="unsupported_value", param="stream")
        schema = self._format(body.get("response_format") or {"type": "text"}, messages)
        content, refused = self._content(messages, schema, faults)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        content, cut = _cut_to(content, limit)
        prompt, cached = self._prompt_tokens(messages)
        return {
            "id": self._id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": None if refused else content,
                        "refusal": content if refused else None,
                        "annotations": [],
                    },
                    "logprobs": None,
                    "finish_reason": "length" if cut else "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": tokens(content),
                "total_tokens": prompt + tokens(content),
                "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
        }

    def _format(self, wanted: Any, messages: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the schema of a response_format."""
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        if kind == "text":
            return None
        if kind == "json_object":
            if not any("json" in text_of(message.get("content")).lower() for message in messages):
                message = (
                    "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
                    "'json_object'."
                )
                raise _openai_error(400, message, param="messages")
            return None
        if kind != "json_schema":
            message = f"Invalid value: '{kind}'. Supported values are: 'json_object', 'json_schema', and 'text'."
            raise _openai_error(400, message, code="invalid_value", param="response_format.type")
        details = wanted.get("json_schema") or {}
        name = details.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
            message = "Invalid 'response_format.json_schema.name': expected a string of letters, digits, '_' and '-'."
            raise _openai_error(400, message, param="response_format.json_schema.name")
        schema = details.get("schema")
        if not isinstance(schema, dict):
            message = "Missing required parameter: 'response_format.json_schema.schema'."
            raise _openai_error(400, message, param="response_format.json_schema.schema")
        if details.get("strict"):
            said = _strict_fault(schema)
            if schema.get("type") != "object":
                said = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
            if said:
                raise _openai_error(
                    400, f"Invalid schema for response_format '{name}': {said}", param="response_format"
                )
        return schema

    def _prompt_tokens(self, messages: list[dict[str, Any]]) -> tuple[int, int]:
        """Count tokens, and those of a prefix seen before: from 1,024 on, in steps of 128, as OpenAI's cache does."""
        text = "\n".join(f"{message.get('role')}: {text_of(message.get('content'))}" for message in messages)
        total, cached = tokens(text), 0
        running = hashlib.sha256(text[: 4 * 896].encode())
        known = True
        with self._lock:
            for end in range(1024, len(text) // 4 + 1, 128):
                running.update(text[4 * (end - 128) : 4 * end].encode())
                digest = running.digest()
                known = known and digest in self._prefixes
                cached = end if known else cached
                self._prefixes.add(digest)
        return total, cached

    # Files.

    def _file(self, name: str) -> _File:
        with self._batch_lock:
            found = self._files.get(name)
        if found is None:
            raise _openai_error(404, f"No such File object: {name}", param="id")
        return found

    def _keep(self, name: str, purpose: str, content: bytes) -> _File:
        kept = _File(self._id("file-"), name, purpose, content, int(time.time()))
        with self._batch_lock:
            self._files[kept.id] = kept
        return kept

    def _upload(self, request: _Request) -> dict[str, Any]:
        kind = request.headers.get("Content-Type") or ""
        boundary = re.search(r'boundary="?([^";]+)"?', kind)
        if not kind.startswith("multipart/form-data") or boundary is None:
            raise _openai_error(400, "The request must be multipart/form-data.")
        fields: dict[str, tuple[str | None, bytes]] = {}
        for part in (b"\r\n" + request.body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            named = re.search(rb'[; ]name="([^"]*)"', head)
            filed = re.search(rb'filename="([^"]*)"', head)
            if named:
                fields[named[1].decode()] = (filed[1].decode() if filed else None, content)
        purpose = fields.get("purpose", (None, b""))[1].decode()
        if purpose not in ("batch", "fine-tune", "assistants", "vision", "user_data", "evals"):
            raise _openai_error(400, f"'{purpose}' is not one of the purposes of a file.", param="purpose")
        if "file" not in fields:
            raise _openai_error(400, "'file' is a required property", param="file")
        name, content = fields["file"]
        if purpose == "batch" and not (name or "").endswith(".jsonl"):
            message = f"Invalid file format for Batch API. Must be .jsonl (got '{name}')."
            raise _openai_error(400, message, param="file")
        return self._keep(name or "upload", purpose, content).shown()

    # Batches.

    def _batch(self, name: str) -> _Batch:
        found = self._batches.get(name)
        if found is None:
            raise _openai_error(404, f"No batch found with id '{name}'.", param="id")
        return found

    def _create(self, body: dict[str, Any], faults: Faults) -> dict[str, Any]:
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(body.get(name), str):
                raise _openai_error(400, f"Missing required parameter: '{name}'.", param=name)
        if body["completion_window"] != "24h":
            raise _openai_error(400, "Invalid value for 'completion_window': must be '24h'.", param="completion_window")
        if body["endpoint"] != self.chat_path:
            raise _openai_error(400, f"Invalid value: '{body['endpoint']}'.", code="invalid_value", param="endpoint")
        metadata = body.get("metadata")
        if metadata is not None and (
            not isinstance(metadata, dict)
            or len(metadata) > 16
            or any(not isinstance(v, str) or len(k) > 64 or len(v) > 512 for k, v in metadata.items())
        ):
            message = "Invalid 'metadata': up to 16 pairs of strings, keys of 64 and values of 512 characters at most."
            raise _openai_error(400, message, param="metadata")
        file = self._file(body["input_file_id"])
        if file.purpose != "batch":
            raise _openai_error(
                400, f"File '{file.id}' has purpose '{file.purpose}', not 'batch'.", param="input_file_id"
            )
        lines, problems = self._lines(file.content, body["endpoint"])
        drawn = self._draw(("expire", "reordered_lines"), faults)
        expire = "expire" in drawn
        target = self._fork().randint(1, len(lines) - 1) if expire and len(lines) > 1 else 0 if expire else len(lines)
        batch = _Batch(
            id=self._id("batch_"),
            endpoint=body["endpoint"],
            window=body["completion_window"],
            input_file=file.id,
            metadata=metadata,
            created=int(time.time()),
            lines=lines,
            problems=problems,
            expire=expire,
            reorder="reordered_lines" in drawn,
            target=target,
        )
        with self._batch_lock:
            self._batches[batch.id] = batch
            return batch.shown()

    def _lines(self, content: bytes, endpoint: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Read a batch's input: its lines, and what is wrong with them."""
        lines: list[dict[str, Any]] = []
        problems: list[dict[str, Any]] = []
        seen: set[str] = set()
        models: set[object] = set()

        def wrong(code: str, message: str, line: int | None, param: str | None = None) -> None:
            problems.append({"code": code, "message": message, "param": param, "line": line})

        for at, raw in enumerate(content.split(b"\n"), 1):
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                wrong("invalid_json_line", "This line is not parseable as valid JSON.", at)
                continue
            for name in ("custom_id", "method", "url", "body"):
                if not line.get(name):
                    wrong("missing_required_parameter", f"Missing required parameter: '{name}'.", at, name)
            if line.get("url") not in (None, endpoint):
                wrong("invalid_url", "The URL provided for this request does not match the batch endpoint.", at, "url")
            if line.get("method") not in (None, "POST"):
                wrong("invalid_method", "The HTTP method of a request must be POST.", at, "method")
            if line.get("custom_id") in seen:
                message = f"The custom_id '{line['custom_id']}' was used for more than one request of the batch."
                wrong("duplicate_custom_id", message, at, "custom_id")
            if isinstance(line.get("body"), dict):
                models.add(line["body"].get("model"))
                if len(models) > 1:
                    wrong(
                        "mismatched_model", "The model of all requests in a batch must be the same.", at, "body.model"
                    )
                    models.pop()
            seen.add(line.get("custom_id") or "")
            lines.append(line)
        if not lines and not problems:
            wrong(
                "empty_file", "The input file is empty. Please ensure that the batch contains at least 1 request.", None
            )
        if len(lines) > 50_000:
            wrong("too_many_requests", "The input file has more than the 50000 requests that a batch may have.", None)
        return ([] if problems else lines), problems

    def _advance(self, batch: _Batch, faults: Faults) -> None:
        """Count a retrieval and do what has become due."""
        if batch.over:
            return
        if batch.status == "cancelling":
            self._finish(batch, "cancelled", faults)
            return
        batch.polls += 1
        stage = batch.polls // self.batch_polls if self.batch_polls else 3
        if stage == 0:
            return
        if batch.problems:
            batch.enter("failed")
            return
        if batch.status == "validating":
            batch.enter("in_progress")
        if stage == 1:
            step = batch.polls - self.batch_polls + 1
            self._work(batch, batch.target * step // (self.batch_polls + 1), faults)
            return
        self._work(batch, batch.target, faults)
        if batch.status == "in_progress":
            batch.enter("finalizing")
        if stage > 2:
            self._finish(batch, "expired" if batch.expire else "completed", faults)

    def _work(self, batch: _Batch, until: int, faults: Faults) -> None:
        """Compute lines up to a number of them."""
        for line in batch.lines[batch.done : until]:
            batch.done += 1
            try:
                if "line_error" in self._draw(("line_error",), faults):
                    raise self._broken()
                status, body = 200, self._complete(line["body"], faults)
            except _ApiError as error:
                status, body = error.status, error.payload
            request = self._id("req_")
            shown = {
                "id": self._id("batch_req_"),
                "custom_id": line["custom_id"],
                "response": {"status_code": status, "request_id": request, "body": body},
                "error": None,
            }
            if status != 200:
                batch.failed += 1
                batch.errors.append(json.dumps(shown))
                continue
            batch.completed += 1
            batch.output.append(json.dumps(shown))
            batch.usage["prompt"] += body["usage"]["prompt_tokens"]
            batch.usage["cached"] += body["usage"]["prompt_tokens_details"]["cached_tokens"]
            batch.usage["completion"] += body["usage"]["completion_tokens"]

    def _finish(self, batch: _Batch, status: str, faults: Faults) -> None:
        """Write the files of a batch that ends."""
        said = {
            "expired": "This request could not be executed before the completion window expired.",
            "cancelled": "This request was cancelled before it was executed.",
        }
        for line in batch.lines[batch.done :] if status in said else []:
            batch.failed += 1
            shown = {
                "id": self._id("batch_req_"),
                "custom_id": line["custom_id"],
                "response": None,
                "error": {"code": f"batch_{status}", "message": said[status]},
            }
            batch.errors.append(json.dumps(shown))
        output = []
        for text in batch.output:
            output += [text] * (2 if "duplicate_lines" in self._draw(("duplicate_lines",), faults) else 1)
        if batch.reorder:
            self._fork().shuffle(output)
        if output:
            content = "".join(f"{text}\n" for text in output).encode()
            batch.output_file = self._keep(f"{batch.id}_output.jsonl", "batch_output", content).id
        if batch.errors:
            content = "".join(f"{text}\n" for text in batch.errors).encode()
            batch.error_file = self._keep(f"{batch.id}_error.jsonl", "batch_output", content).id
        batch.enter(status)


def _page(rows: list[dict[str, Any]], request: _Request) -> dict[str, Any]:
    """Return the page of a list that `after` and `limit` ask for."""
    after = request.query.get("after", [""])[0]
    start = next((at + 1 for at, row in enumerate(rows) if row["id"] == after), 0)
    limit = max(1, min(int(request.query.get("limit", ["20"])[0]), 100))
    page = rows[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(rows),
    }


# --- Ollama -----------------------------------------------------------------------------------------------------------


class FakeOllama(_Fake):
    """Ollama's chat without streaming, tags, show and version.

    Where Ollama differs from OpenAI, so do the faults: `rate_limit` is its 503 "server busy" (with retry-after), a
    refusal is plain prose, and `auth` and `quota` answer as its cloud does. Every release of Ollama lists digests under
    /api/tags; /api/show has one here too unless `show_digest` is off, as it is in Ollama's own type of that answer.
    """

    chat_path = "/api/chat"

    def __init__(
        self,
        answer: Answer | None = None,
        faults: Faults | None = None,
        seed: int = 0,
        *,
        latency: float = 0.0,
        models: Sequence[str] = ("qwen3:4b", "llama3.2:3b"),
        check_model: bool = False,
        version: str = "0.12.6",
        show_digest: bool = True,
    ) -> None:
        super().__init__(answer, faults, seed, latency=latency, models=models, check_model=check_model)
        self.version = version
        self.show_digest = show_digest

    @staticmethod
    def digest_of(model: str) -> str:
        """Return the digest that the fake gives a model."""
        return hashlib.sha256(f"model {model}".encode()).hexdigest()

    def _admit(self, request: _Request, faults: Faults) -> None:
        if faults.auth:
            raise _ApiError(401, {"error": "unauthorized"})
        if faults.quota and request.path == self.chat_path:
            raise _ApiError(429, {"error": "you have reached your usage limit, upgrade for higher limits"})

    def _rate_limited(self, request: _Request, faults: Faults) -> _ApiError:
        message = "server busy, please try again.  maximum pending requests exceeded"
        return _ApiError(503, {"error": message}, {"retry-after": f"{faults.retry_after:g}"})

    def _broken(self) -> _ApiError:
        return _ApiError(500, {"error": "llama runner process has terminated: exit status 2"})

    def _route(self, request: _Request, faults: Faults) -> dict[str, Any] | _Reply:
        match request.method, request.path:
            case "POST", "/api/chat":
                return self._chat(self._json(request), faults)
            case "GET", "/api/tags":
                return {"models": [self._model(name) for name in self.models]}
            case "POST", "/api/show":
                body = self._json(request)
                return self._show(self._named(body.get("model") or body.get("name")))
            case "GET", "/api/version":
                return {"version": self.version}
            case "GET", "/":
                return _Reply(200, b"Ollama is running", kind="text/plain; charset=utf-8")
        return _Reply(404, b"404 page not found", kind="text/plain")

    def _json(self, request: _Request) -> dict[str, Any]:
        found = request.json()
        if found is None:
            raise _ApiError(400, {"error": "invalid character in the request body"})
        return found

    def _named(self, model: object, always: bool = True) -> str:
        """Return a model's name, with the tag that Ollama takes when none is given."""
        if not isinstance(model, str) or not model:
            raise _ApiError(400, {"error": "model is required"})
        full = model if ":" in model else f"{model}:latest"
        if full not in self.models and model not in self.models and (always or self.check_model):
            raise _ApiError(404, {"error": f"model '{model}' not found"})
        return model if model in self.models else full

    def _details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": "fake",
            "families": ["fake"],
            "parameter_size": "4.0B",
            "quantization_level": "Q4_K_M",
        }

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "model": name,
            "modified_at": "2026-01-02T03:04:05.678901234Z",
            "size": 2_500_000_000,
            "digest": self.digest_of(name),
            "details": self._details(),
        }

    def _show(self, name: str) -> dict[str, Any]:
        return {
            "modelfile": f"FROM {name}\n",
            "parameters": "temperature 0.7",
            "template": "{{ .Prompt }}",
            "license": "Apache License 2.0",
            "details": self._details(),
            "model_info": {"general.architecture": "fake", "fake.context_length": 40960},
            "capabilities": ["completion"],
            "modified_at": "2026-01-02T03:04:05.678901234Z",
            **({"digest": self.digest_of(name)} if self.show_digest else {}),
        }

    def _chat(self, body: dict[str, Any], faults: Faults) -> dict[str, Any]:
        model = body.get("model")
        self._named(model, always=False)
        messages = body.get("messages") or []
        if body.get("stream") is not False:
            raise _ApiError(400, {"error": "this fake does not stream: send stream=false"})
        wanted = body.get("format")
        if wanted not in (None, "", "json") and not isinstance(wanted, dict):
            message = f'invalid format: {json.dumps(wanted)}; expected "json" or a valid JSON Schema object'
            raise _ApiError(400, {"error": message})
        shown: dict[str, Any] = {
            "model": model,
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "load",
        }
        if not messages:  # Ollama only loads the model then
            return shown
        content, _ = self._content(messages, wanted if isinstance(wanted, dict) else None, faults)
        content, cut = _cut_to(content, (body.get("options") or {}).get("num_predict"))
        prompt = sum(tokens(text_of(message.get("content"))) + 4 for message in messages)
        shown["message"]["content"] = content
        shown["done_reason"] = "length" if cut else "stop"
        return shown | {
            "total_duration": 20_000_000 + 1_000_000 * tokens(content),
            "load_duration": 10_000_000,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": 10_000_000,
            "eval_count": tokens(content),
            "eval_duration": 1_000_000 * tokens(content),
        }
