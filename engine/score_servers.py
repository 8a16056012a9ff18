"""What servers of reward models speak: vLLM's pooling server and Hugging Face's text-embeddings-inference.

vLLM (`vllm serve MODEL --runner pooling`) classifies one conversation (`messages`, its own chat template, no special
token added on top) or several texts (`input`) a request at /classify, and at /pooling with task "classify"; a field
switches the activation off: `use_activation`, before 0.12 `activation`, before that `softmax`. A server ignores a
field that it does not know, so `settle` tries them and believes only what it sees. text-embeddings-inference scores
texts and pairs of texts at /predict; `raw_scores` switches its activation off.

Rewards must be raw: a probability is refused, not inverted, because near 0 and 1 its rounding has swallowed the logit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from engine.endpoints import Busy, Refused, retry_after, scrub
from engine.models import dialogue_text, messages, pair_texts
from engine.records import SignetError, Turn

if TYPE_CHECKING:
    import aiohttp

KINDS = {"vllm": "vLLM", "tei": "text-embeddings-inference"}
PORTS = {"vllm": 8000, "tei": 8080}  # where each listens unless told otherwise
FORMATS = {"vllm": ("chat", "dialogue"), "tei": ("dialogue", "seal_pair", "qa_pair")}
CONNECT = 10.0  # seconds for opening a connection
TEXTS_A_REQUEST = 32  # the default of text-embeddings-inference, and few enough that a repeat costs little

Rows = list[list[float]]


@dataclass(frozen=True, slots=True)
class Item:
    """An entry to score."""

    turns: tuple[Turn, ...]
    response: str
    chars: int


# What the servers are asked before they are believed: written for this, as unlike each other as rewards can tell.
PROBES = tuple(
    Item((Turn("user", question),), answer, len(question) + len(answer))
    for question, answer in (
        ("How long do I boil an egg?", "Seven minutes for a soft yolk, ten for a firm one; cool it in cold water."),
        ("How long do I boil an egg?", "egg egg egg egg i dont care lol figure it out yourself"),
        ("Write one line about the sea.", "Grey water folds over grey water, and the gulls keep their distance."),
        ("What is 17 times 3?", "17 times 3 is 54, as everyone knows; there is no need to check."),
    )
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says about itself and its model. `identity` is what scores depend on, `told` the rest."""

    revision: str
    identity: dict[str, Any]
    max_length: int | None
    texts_a_request: int
    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """Raw outputs of every text of a request, and its tokens where the server counts them."""

    rows: Rows
    tokens: int | None


class TooLong(Exception):
    """A text of the request has more tokens than the model takes; `given`: how many, where the server says it."""

    def __init__(self, given: int | None) -> None:
        super().__init__(given)
        self.given = given


class Failed(Exception):
    """The server failed (HTTP 5xx); `status` and its words. Worth a few repeats, not many."""

    def __init__(self, status: int, words: str, after: float | None = None) -> None:
        super().__init__(f"HTTP {status}: {words}")
        self.status, self.words, self.after = status, words, after


class Declined(Exception):
    """The server will not take the request (HTTP 4xx other than too busy and wrong key), with its words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


class Server(Protocol):
    """One model at one server."""

    async def facts(self) -> Facts:
        """What it serves; raises Refused when that is not the model wanted."""
        ...

    async def settle(self, trusted: bool) -> str:
        """Find the way to raw outputs, and say how they are known to be raw; raises Refused where they are not."""
        ...

    async def ask(self, items: Sequence[Item], cut: bool = False) -> Reply:
        """Raw outputs. `cut`: shorten what is too long from its oldest end. Raises Busy, Refused, TooLong, Failed
        or Declined."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class Caller:
    """JSON over HTTP to one address from one event loop, with errors sorted by what to do about them.

    `timeout`: seconds for a whole request. On aiohttp, because httpx takes 2 ms of a core for a request, and more the
    more connections are open, so that it, not the server, would set the pace (benchmarks/endpoint_scoring.py).
    """

    def __init__(self, base_url: str, key: str | None, timeout: float) -> None:
        self._key, self.base_url, self._timeout = key, base_url, timeout
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        bearer = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = aiohttp.ClientTimeout(total=self._timeout, connect=min(CONNECT, self._timeout))
        # How many requests are under way is the throttle's to say.
        return aiohttp.ClientSession(headers=bearer, timeout=limits, connector=aiohttp.TCPConnector(limit=0))

    async def call(self, path: str, body: dict[str, Any] | None = None) -> tuple[Any, Mapping[str, str]]:
        """The JSON answer of a GET (no body) or POST, and its headers. Redirects are not followed: the key is for one
        address."""
        import aiohttp

        self._session = self._session or self._open()
        method, url = "GET" if body is None else "POST", self.base_url + path
        try:
            async with self._session.request(method, url, json=body, allow_redirects=False) as found:
                content = await found.read()
        except aiohttp.ClientConnectorError as error:
            raise Busy(f"cannot connect: {error.strerror or error.os_error}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Busy(f"{type(error).__name__} {scrub(str(error), self._key)}".strip()) from None
        if found.status != 200:
            raise self._sorted(found.status, found.headers, content.decode("utf-8", "replace"))
        try:
            return json.loads(content), found.headers
        except ValueError:
            raise Busy("the answer was cut short, or is no JSON") from None

    def _sorted(self, status: int, headers: Mapping[str, str], text: str) -> Exception:
        words, after = scrub(_words(text), self._key)[:300], retry_after(headers)
        if status in (401, 403):
            return Refused(
                f"{self.base_url} does not let us in ({words}); put its key into SIGNET_API_KEY, in the environment or "
                "in Streamlit's secrets."
            )
        if status in (408, 425, 429, 502, 503, 504):
            return Busy(f"HTTP {status}: {words[:120]}", after)
        if status >= 500:
            return Failed(status, words, after)
        too_long = re.search(r"context length|less than \d+ tokens|maximum input length|length limit exceeded", words)
        if status in (400, 413, 422) and too_long:
            given = re.search(r"(?:requested|passed|has|Given:)\s+(\d+)\b(?! input characters)", words)
            return TooLong(int(given.group(1)) if given else None)
        return Declined(status, words)

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _words(text: str) -> str:
    """What an error's body says: `error` (text-embeddings-inference), `error.message`, `message` or `detail` (vLLM)."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    if isinstance(found, dict):
        inner = found.get("error", found)
        if isinstance(inner, dict):
            inner = inner.get("message") or inner.get("detail") or inner
        return inner if isinstance(inner, str) else json.dumps(inner)
    return text


def outputs(row: Any, server: str) -> list[float]:
    """The outputs for one text as numbers, NaN where the server gave null; Refused for another shape."""
    if isinstance(row, list) and row and all(one is None or isinstance(one, int | float) for one in row):
        return [math.nan if one is None else float(one) for one in row]
    if isinstance(row, list) and row and isinstance(row[0], list):
        raise Refused(f"{server} gives outputs for every token; a reward model gives one for the whole text.")
    raise Refused(f"{server} answers in a form this Signet does not know: {json.dumps(row)[:120]}")


def raw_evidence(off: Rows, default: Rows) -> str | None:
    """How outputs asked for without activation (`off`) are known to be raw, given the server's default; else None.

    Either the switch had an effect, or some value lies outside [-1, 1], where no sigmoid, softmax or tanh ends.
    """
    pairs = [(a, b) for left, right in zip(off, default) for a, b in zip(left, right)]
    if any(abs(a - b) > 0.05 * max(1.0, abs(b)) for a, b in pairs):
        return "the activation can be switched off"
    if any(abs(a) > 1 for row in off for a in row):
        return "values outside [-1, 1]"
    return None


def _not_raw(where: str, remedy: str) -> Refused:
    return Refused(
        f"{where} seems to give probabilities, not raw rewards, and the logits cannot be had back exactly; {remedy}, "
        "or say --option raw=true if you know that they are raw."
    )


class Vllm:
    """A vLLM pooling server. `style`: chat (its own chat template) or dialogue (tagged text)."""

    FIELDS = ("use_activation", "activation", "softmax")
    PATHS = ("/classify", "/pooling")

    def __init__(self, wire: Caller, model: str, style: str) -> None:
        self._wire, self._model, self._style = wire, model, style
        self._name, self._limit = model, 0
        self._path, self._off = self.PATHS[0], {self.FIELDS[0]: False}

    async def facts(self) -> Facts:
        """See Server. vLLM names no commit: `root`, the hub id or folder it was started with, stands for it."""
        try:
            listed, _ = await self._wire.call("/v1/models")
            cards = {card["id"]: card for card in listed["data"]}
        except (Declined, KeyError, TypeError):
            raise Refused(f"{self._wire.base_url} does not speak vLLM's API.") from None
        card = cards.get(self._model) or next((c for c in cards.values() if c.get("root") == self._model), None)
        if card is None:
            raise Refused(f"{self._wire.base_url} serves {', '.join(cards) or 'nothing'}, not {self._model}.")
        self._name, self._limit = card["id"], int(card.get("max_model_len") or 0)
        try:
            version = (await self._wire.call("/version"))[0].get("version")
        except (Declined, Failed, AttributeError):
            version = None
        told = {"server": f"vLLM {version or '(version not told)'}", "served_as": card["id"]}
        texts = 1 if self._style == "chat" else TEXTS_A_REQUEST
        return Facts("", {"root": card.get("root") or card["id"]}, self._limit or None, texts, told)

    async def settle(self, trusted: bool) -> str:
        """See Server."""
        refusals = []
        for path in self.PATHS:
            self._path, self._off = path, {}
            try:
                default = await self._probe()
            except (Declined, Failed) as error:
                refusals.append(f"{path}: {error}")
                continue
            for field in self.FIELDS:
                self._off = {field: False}
                try:
                    evidence = raw_evidence(await self._probe(), default)
                except Declined:  # a field it knows and wants no more
                    continue
                if evidence:
                    return evidence
            self._off = {self.FIELDS[0]: False}
            if trusted:
                return "the user says so"
            raise _not_raw(f"{self._wire.base_url}{path}", "update vLLM")
        raise Refused(
            f"{self._model} at {self._wire.base_url} is not served as a reward model ({'; '.join(refusals)[:300]}); "
            "start it with `vllm serve MODEL --runner pooling`."
        )

    async def _probe(self) -> Rows:
        return [(await self.ask([item])).rows[0] for item in PROBES]

    async def ask(self, items: Sequence[Item], cut: bool = False) -> Reply:
        """See Server. A conversation goes alone, several texts may share a request."""
        body: dict[str, Any] = {"model": self._name, **self._off}
        if self._style == "chat":
            body |= {"messages": messages(items[0].turns, items[0].response), "add_generation_prompt": False,
                     "add_special_tokens": False}  # fmt: skip
        else:
            body |= {"input": [_dialogue(item) for item in items], "add_special_tokens": True}
        if self._path == "/pooling":
            body |= {"task": "classify", "encoding_format": "float"}
        if cut:
            body |= {"truncate_prompt_tokens": self._limit, "truncation_side": "left"}
        found, _ = await self._wire.call(self._path, body)
        field = "probs" if self._path == "/classify" else "data"
        try:
            data = sorted(found["data"], key=lambda one: one["index"])
            rows = [outputs(one[field], self._wire.base_url) for one in data]
            tokens = int(found["usage"]["prompt_tokens"])
        except (KeyError, TypeError, ValueError):
            raise Refused(f"{self._wire.base_url}{self._path} does not answer as vLLM does.") from None
        return Reply(_all_of(rows, items, self._wire), tokens)

    async def close(self) -> None:
        """See Server."""
        await self._wire.close()


class Tei:
    """A text-embeddings-inference server. `style`: dialogue, seal_pair or qa_pair."""

    def __init__(self, wire: Caller, model: str, style: str) -> None:
        self._wire, self._model, self._style = wire, model, style
        self._names: list[str] = []
        self._raw = True

    async def facts(self) -> Facts:
        """See Server. It tells the commit it serves."""
        try:
            info, _ = await self._wire.call("/info")
            served, kind = info["model_id"], info["model_type"]
            limit, batch = int(info["max_input_length"]), int(info.get("max_client_batch_size") or TEXTS_A_REQUEST)
        except (Declined, KeyError, TypeError, ValueError):
            raise Refused(f"{self._wire.base_url} does not speak text-embeddings-inference's API.") from None
        if served != self._model:
            raise Refused(f"{self._wire.base_url} serves {served}, not {self._model}.")
        head = kind.get("classifier") or kind.get("reranker") if isinstance(kind, dict) else None
        if not head:
            raise Refused(f"{served} at {self._wire.base_url} is an embedding model, not a reward model.")
        names = head.get("id2label") or {}
        self._names = [names[i] for i in sorted(names, key=int)]
        told = {"server": f"text-embeddings-inference {info.get('version')}", "dtype": info.get("model_dtype")}
        identity = {"dtype": info.get("model_dtype")}
        return Facts(info.get("model_sha") or "", identity, limit, min(batch, TEXTS_A_REQUEST), told)

    async def settle(self, trusted: bool) -> str:
        """See Server."""
        found: dict[bool, Rows] = {}
        try:
            for raw in (False, True):
                self._raw = raw
                found[raw] = [(await self.ask([item])).rows[0] for item in PROBES]
        except (Declined, Failed) as error:
            raise Refused(f"{self._model} at {self._wire.base_url} is not served as a reward model: {error}") from None
        evidence = raw_evidence(found[True], found[False])
        if evidence is None and not trusted:
            raise _not_raw(f"{self._wire.base_url}/predict", "update the server")
        return evidence or "the user says so"

    async def ask(self, items: Sequence[Item], cut: bool = False) -> Reply:
        """See Server."""
        inputs = [[_dialogue(item)] if self._style == "dialogue" else list(pair_texts(item.turns, item.response,
                  self._style)) for item in items]  # fmt: skip
        body = {"inputs": inputs, "raw_scores": self._raw, "truncate": cut, "truncation_direction": "Left"}
        found, headers = await self._wire.call("/predict", body)
        try:
            rows = [self._in_order(one) for one in found]
        except (KeyError, TypeError, ValueError):
            raise Refused(f"{self._wire.base_url} does not answer as text-embeddings-inference does.") from None
        tokens = headers.get("x-compute-tokens", "")
        return Reply(_all_of(rows, items, self._wire), int(tokens) if tokens.isdigit() else None)

    def _in_order(self, predictions: list[dict[str, Any]]) -> list[float]:
        """Outputs by their number: the server sorts them by score and tells them by label."""
        scores = {one["label"]: one["score"] for one in predictions}
        if len(predictions) == 1:
            return outputs([predictions[0]["score"]], self._wire.base_url)
        return outputs([scores[name] for name in self._names], self._wire.base_url)

    async def close(self) -> None:
        """See Server."""
        await self._wire.close()


def _dialogue(item: Item) -> str:
    """The text that a local model reads in format dialogue."""
    return dialogue_text([*item.turns, Turn("assistant", item.response)]).lstrip("\n")


def _all_of(rows: Rows, items: Sequence[Item], wire: Caller) -> Rows:
    if len(rows) != len(items):
        raise Refused(f"{wire.base_url} gave {len(rows)} results for {len(items)} texts.")
    return rows


def open_server(kind: str, base_url: str, model: str, style: str, key: str | None, timeout: float = 300) -> Server:
    """The server of "vllm" or "tei" at an address. Opens no connection yet."""
    wire = Caller(base_url, key, timeout)
    if kind == "vllm":
        return Vllm(wire, model, style)
    if kind == "tei":
        return Tei(wire, model, style)
    raise SignetError(f"This Signet knows no server of kind {kind!r}.")
