"""Servers that speak vLLM's and text-embeddings-inference's protocols for reward models, without models.

    with FakeVllm() as fake:
        scorer = RemoteScorer({... "base_url": fake.url ...})

A reward depends on every token that the server kept and on their order from the end, so that truncation on the wrong
side, a lost turn or a doubled special token shows. A fake computes at most `slots` requests at once, each for
`latency` seconds, and queues the others, as a busy server does.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import itertools
import json
import math
import threading
from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Any, Self

Answer = tuple[int, Any, dict[str, str]]


@cache
def _weight(token: str) -> float:
    return int.from_bytes(hashlib.blake2b(token.encode(), digest_size=4).digest(), "big") / 2**31 - 1


def reward(tokens: Sequence[str], output: int = 0) -> float:
    """The raw reward of a token sequence, about -6 to 6: each token weighs by its place from the end."""
    found = sum(_weight(token) / (1 + (place % 7)) for place, token in enumerate(reversed(tokens)))
    return round(6 * math.tanh(found / 6) - output, 6)


def chat_tokens(messages: Sequence[dict[str, str]]) -> list[str]:
    """A conversation by the fake model's chat template, which begins with its own BOS."""
    found = ["<s>"]
    for message in messages:
        found += [f"<|{message['role']}|>", *message["content"].split(), "<|end|>"]
    return found


def text_tokens(text: str) -> list[str]:
    """A text with the special tokens around it."""
    return ["<s>", *text.split(), "</s>"]


def pair_tokens(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """A pair of texts with the special tokens around them."""
    return ["<s>", *first, "</s>", *second, "</s>"]


def sigmoid(value: float) -> float:
    """What the servers put on top of a single output unless told otherwise."""
    return 1 / (1 + math.exp(-value))


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status, self.body, self.headers = status, body, headers or {}


class _Fake:
    """What both fakes share. Counts may be read at any time; `trouble` holds answers to give before any true one."""

    def __init__(
        self, *, model: str = "acme/reward-1b", labels: int = 1, limit: int = 64, latency: float = 0.0,
        slots: int = 10_000, queue: int = 10_000, key: str | None = None, nan_for: str | None = None,
        activation: str = "sigmoid",
    ) -> None:  # fmt: skip
        self.model, self.labels, self.limit = model, labels, limit
        self.latency, self.slots, self.queue, self.key = latency, slots, queue, key
        self.nan_for, self.activation = nan_for, activation
        self.trouble: collections.deque[Answer | str] = collections.deque()
        self.requests: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.bodies: collections.deque[dict[str, Any]] = collections.deque(maxlen=2000)
        self.computed: collections.Counter[str] = collections.Counter()
        self.peak = 0
        self._waiting = 0

    # --- the server ---
    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _open(self) -> asyncio.Server:
        self._room = asyncio.Semaphore(self.slots)
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        async def close() -> None:
            self._server.close()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.split("\r\n")[1:])}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                if self.trouble and method == "POST":
                    trouble = self.trouble.popleft()
                    if trouble == "hang up":
                        break
                    answer = trouble if not isinstance(trouble, str) else (200, trouble, {})
                else:
                    answer = await self._answer(method, path, headers, content)
                status, body, extra = answer
                self.statuses[status] += 1
                raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                lines = [f"HTTP/1.1 {status} -", "Content-Type: application/json", f"Content-Length: {len(raw)}"]
                lines += [f"{name}: {value}" for name, value in extra.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + raw)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, method: str, path: str, headers: dict[str, str], content: bytes) -> Answer:
        self.requests[path] += 1
        try:
            self._check_key(path, headers)
            if method == "GET":
                return 200, self.get(path), {}
            body = json.loads(content)
            self.bodies.append(body)
            self._waiting += 1
            self.peak = max(self.peak, self._waiting)
            try:
                if self._waiting > self.queue:
                    raise Problem(429, {"error": "Model is overloaded", "error_type": "overloaded"})
                found, extra = self.post(path, body)
                async with self._room:
                    if self.latency:
                        await asyncio.sleep(self.latency)
            finally:
                self._waiting -= 1
            return 200, found, extra
        except Problem as problem:
            return problem.status, problem.body, problem.headers

    def _check_key(self, path: str, headers: dict[str, str]) -> None:
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            raise Problem(401, {"error": "Unauthorized"})

    def get(self, path: str) -> Any:
        """The answer to a GET."""
        raise NotImplementedError

    def post(self, path: str, body: dict[str, Any]) -> tuple[Any, dict[str, str]]:
        """The answer to a POST, and headers."""
        raise NotImplementedError

    # --- the model ---
    def row(self, tokens: Sequence[str], activated: bool) -> list[float]:
        """The outputs for a token sequence, activated as the servers do: sigmoid over one, softmax over several."""
        self.computed[" ".join(tokens)] += 1
        raw = [reward(tokens, output) for output in range(self.labels)]
        if self.activation == "small":  # a model whose rewards look like probabilities, and has no activation
            return [sigmoid(value) for value in raw]
        if not activated or self.activation == "none":
            return raw
        if self.labels == 1:
            return [sigmoid(raw[0])]
        total = sum(math.exp(value) for value in raw)
        return [math.exp(value) / total for value in raw]


class FakeVllm(_Fake):
    """vLLM's pooling server: /v1/models, /version, /classify, /pooling.

    `field`: the name under which this version knows the switch of the activation (None: it knows none). `chat_paths`:
    where it takes messages. `side`: whether it knows truncation_side; without, it keeps the first tokens. `runner`
    pooling serves a reward model; embed an embedding model.
    """

    def __init__(
        self, *, field: str | None = "use_activation", chat_paths: Sequence[str] = ("/classify", "/pooling"),
        side: bool = True, runner: str = "pooling", served_as: str | None = None, version: str = "0.24.0",
        **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(**rest)
        self.field, self.chat_paths, self.side, self.runner = field, tuple(chat_paths), side, runner
        self.served_as, self.version = served_as or self.model, version

    def _check_key(self, path: str, headers: dict[str, str]) -> None:
        if path.startswith("/v1"):  # vLLM guards only these
            super()._check_key(path, headers)

    def get(self, path: str) -> Any:
        """See _Fake."""
        if path == "/v1/models":
            card = {"id": self.served_as, "object": "model", "created": 1, "owned_by": "vllm", "root": self.model,
                    "parent": None, "max_model_len": self.limit, "permission": []}  # fmt: skip
            return {"object": "list", "data": [card]}
        if path == "/version":
            return {"version": self.version}
        raise Problem(404, {"detail": "Not Found"})

    def post(self, path: str, body: dict[str, Any]) -> tuple[Any, dict[str, str]]:
        """See _Fake."""
        if path not in ("/classify", "/pooling"):
            raise Problem(404, {"detail": "Not Found"})
        if body.get("model") not in (None, self.served_as):
            raise self._error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        if self.runner == "embed" and (path == "/classify" or body.get("task") == "classify"):
            raise self._error(400, "The model does not support Classification API", "BadRequestError")
        if "normalize" in body:
            raise self._error(
                400, "Parameter `normalize` was removed; use `use_activation` instead.", "BadRequestError"
            )
        sequences = [self._kept(tokens, body) for tokens in self._sequences(path, body)]
        activated = self.field is None or body.get(self.field) is not False
        rows = [self.row(tokens, activated) for tokens in sequences]
        if self.nan_for and any(self.nan_for in tokens for tokens in sequences):
            raise self._error(500, "Out of range float values are not JSON compliant: nan", "InternalServerError")
        if path == "/classify":
            data = [
                {"index": i, "label": "LABEL_0", "probs": row, "num_classes": len(row)} for i, row in enumerate(rows)
            ]
        else:
            data = [{"index": i, "object": "pooling", "data": row} for i, row in enumerate(rows)]
        tokens = sum(map(len, sequences))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        return {"id": "classify-1", "object": "list", "created": 1, "model": self.served_as, "data": data[::-1],
                "usage": usage}, {}  # fmt: skip

    def _sequences(self, path: str, body: dict[str, Any]) -> list[list[str]]:
        special = body.get("add_special_tokens", "messages" not in body)
        if "messages" in body and path in self.chat_paths:
            roles = [message["role"] for message in body["messages"] if message["role"] != "system"]
            if any(a == b for a, b in itertools.pairwise(roles)):
                raise self._error(400, "Conversation roles must alternate user/assistant/user/assistant", "BadRequest")
            tokens = chat_tokens(body["messages"])
            return [["<s>", *tokens] if special else tokens]
        if not isinstance(body.get("input"), str | list):
            raise self._error(
                400, "[{'type': 'missing', 'loc': ('body', 'input'), 'msg': 'Field required'}]", "BadRequest"
            )
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        return [text_tokens(text) if special else text.split() for text in texts]

    def _kept(self, tokens: list[str], body: dict[str, Any]) -> list[str]:
        most = body.get("truncate_prompt_tokens")
        most = self.limit if most == -1 else most
        if most is not None and most > self.limit:
            raise self._error(
                400, f"truncate_prompt_tokens={most} cannot be greater than {self.limit}", "BadRequestError"
            )
        if most is not None:
            left = self.side and body.get("truncation_side") == "left"
            tokens = tokens[-most:] if left else tokens[:most]
        if len(tokens) > self.limit:
            raise self._error(
                400,
                f"This model's maximum context length is {self.limit} tokens. However, you requested {len(tokens)} "
                "tokens in the input for classification. Please reduce the length of the input.",
                "BadRequestError",
            )
        return tokens

    def _error(self, status: int, words: str, kind: str) -> Problem:
        return Problem(status, {"error": {"message": words, "type": kind, "param": None, "code": status}})


class FakeTei(_Fake):
    """Hugging Face's text-embeddings-inference: /info and /predict. `head`: classifier, reranker or embedding."""

    def __init__(
        self, *, sha: str = "5f0c1e9a", dtype: str = "float16", head: str = "classifier", batch: int = 32,
        direction: bool = True, payload: int = 2_000_000, **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(**rest)
        self.sha, self.dtype, self.head, self.batch = sha, dtype, head, batch
        self.direction, self.payload = direction, payload

    def get(self, path: str) -> Any:
        """See _Fake."""
        if path != "/info":
            raise Problem(404, "")
        names = {str(i): f"LABEL_{i}" for i in range(self.labels)}
        kind: dict[str, Any] = {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
        if self.head == "embedding":
            kind = {"pooling": "cls"}
        return {"model_id": self.model, "model_sha": self.sha, "model_dtype": self.dtype,
                "model_type": {self.head: kind}, "max_concurrent_requests": 512, "max_input_length": self.limit,
                "max_batch_tokens": 16384, "max_batch_requests": None, "max_client_batch_size": self.batch,
                "auto_truncate": True, "tokenization_workers": 4, "version": "1.8.3", "sha": None,
                "docker_label": None}  # fmt: skip

    def post(self, path: str, body: dict[str, Any]) -> tuple[Any, dict[str, str]]:
        """See _Fake."""
        if path != "/predict":
            raise Problem(404, "")
        if len(json.dumps(body)) > self.payload:
            raise Problem(413, "Failed to buffer the request body: length limit exceeded")
        inputs = body["inputs"]
        if not (isinstance(inputs, list) and all(isinstance(one, list) and len(one) in (1, 2) for one in inputs)):
            raise Problem(422, "Failed to deserialize the JSON body into the target type")
        if len(inputs) > self.batch:
            raise self._error(413, f"batch size {len(inputs)} > maximum allowed batch size {self.batch}", "validation")
        if self.head == "embedding":
            raise self._error(424, "Backend error: Model is not a classifier model", "backend")
        sequences = [self._kept(one, body) for one in inputs]
        if self.nan_for and any(self.nan_for in tokens for tokens in sequences):
            raise self._error(424, "score is NaN", "backend")
        found = []
        for tokens in sequences:
            row = self.row(tokens, not body.get("raw_scores", False))
            order = sorted(range(len(row)), key=lambda i: -row[i])
            found.append([{"score": row[i], "label": f"LABEL_{i}"} for i in order])
        return found, {"x-compute-tokens": str(sum(map(len, sequences)))}

    def _kept(self, texts: list[str], body: dict[str, Any]) -> list[str]:
        parts = [text.split() for text in texts]
        extra = 2 if len(parts) == 1 else 3
        total = sum(map(len, parts)) + extra
        if total > self.limit:
            if not body.get("truncate", True):
                words = f"Input validation error: `inputs` must have less than {self.limit} tokens. Given: {total}"
                raise self._error(413, words, "validation")
            longest = max(parts, key=len)
            keep = len(longest) - (total - self.limit)
            left = self.direction and body.get("truncation_direction") == "Left"
            parts[parts.index(longest)] = longest[-keep:] if left else longest[:keep]
        return text_tokens(" ".join(parts[0])) if len(parts) == 1 else pair_tokens(*parts)

    def _error(self, status: int, words: str, kind: str) -> Problem:
        return Problem(status, {"error": words, "error_type": kind})
