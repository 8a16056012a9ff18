"""Chat endpoints: OpenAI or any server with its API (vLLM, llama.cpp ...) and Ollama, behind one asynchronous call.

Answers come back with what they cost; errors come back sorted by what to do about them. Keys come from the
environment, are never stored, and are blotted out of every message.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from engine.costs import Usage
from engine.records import SignetError

MODES = ("schema", "json", "text")  # how an answer's form is asked for, the strictest first
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """What came back: text, or a refusal in the server's words. `wait`: seconds the server asks to pause after it."""

    text: str
    refusal: str
    usage: Usage
    wait: float = 0.0


class Busy(Exception):
    """Try again after `after` seconds (None: not said). The text says why."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Refused(Exception):
    """The server will not take this at all: wrong key, no quota, no such model. The text is one sentence."""


class Unanswerable(Exception):
    """The server will not take this one question (too long for its context, say). The text is the reason."""


class TooStrict(Exception):
    """The server does not know the way in which the answer's form was asked for."""


class Endpoint(Protocol):
    """One model at one server."""

    name: str
    base_url: str

    async def ask(
        self, messages: Messages, schema: dict[str, Any] | None, mode: str, options: dict[str, Any]
    ) -> Answer:
        """One completion; raises Busy, Refused, Unanswerable or TooStrict."""
        ...

    async def revision(self) -> str:
        """What pins the model: a digest where the server gives one, else the name."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


def scrub(text: str, *keys: str | None) -> str:
    """Text without any API key: the known ones, and whatever looks like one."""
    for key in keys:
        if key and len(key) > 5:
            text = text.replace(key, "***")
    return re.sub(r"\b(?:sk|pk|key)-[\w.*-]{6,}|\bBearer [\w.*-]{6,}", "***", " ".join(text.split()))


def key_for(base_url: str | None) -> str | None:
    """The key of an OpenAI-compatible endpoint: SIGNET_API_KEY for other servers, OPENAI_API_KEY for OpenAI."""
    if base_url:
        return os.environ.get("SIGNET_API_KEY") or "none"
    return os.environ.get("OPENAI_API_KEY")


class OpenAIEndpoint:
    """OpenAI's chat completions, or a server that speaks them at `base_url`."""

    def __init__(self, model: str, base_url: str | None = None, timeout: float = 120.0) -> None:
        import openai
        from openai.types import chat

        self._chat = chat
        self._key = key_for(base_url)
        if not self._key:
            raise SignetError("No OPENAI_API_KEY in the environment (or in Streamlit's secrets); set it and try again.")
        self.name = model
        self._openai = openai
        self._client = openai.AsyncOpenAI(api_key=self._key, base_url=base_url, max_retries=0, timeout=timeout)
        self.base_url = str(self._client.base_url)

    async def ask(
        self, messages: Messages, schema: dict[str, Any] | None, mode: str, options: dict[str, Any]
    ) -> Answer:
        """One completion; see Endpoint."""
        body = chat_body(self.name, messages, schema, mode, options)
        if "api.openai.com" in self.base_url and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")  # its newer models know only this name
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**body)
            found = raw.parse()
        except self._openai.APIError as error:
            raise self._sorted(error, mode) from None
        except ValueError as error:  # a body that is no JSON
            raise Busy(f"the answer was cut short ({type(error).__name__})") from None
        if not isinstance(found, self._chat.ChatCompletion):
            raise Refused(f"{self.base_url} does not speak OpenAI's API.")
        if not found.choices:
            raise Busy("the answer had no choice")
        message = found.choices[0].message
        usage = Usage.of(found.model_dump())
        return Answer(message.content or "", message.refusal or "", usage, _pause(raw.headers))

    def _sorted(self, error: Any, mode: str) -> Exception:
        o = self._openai
        text = scrub(str(getattr(error, "message", error)), self._key)
        if isinstance(error, o.AuthenticationError | o.PermissionDeniedError):
            return Refused(f"{self.base_url} does not accept the API key: {text[:200]}")
        if isinstance(error, o.NotFoundError):
            return Refused(f"{self.base_url} has no model {self.name!r}: {text[:200]}")
        if isinstance(error, o.RateLimitError):
            if getattr(error, "code", None) == "insufficient_quota":
                return Refused(f"The account at {self.base_url} has no quota left: {text[:200]}")
            return Busy("rate limit", retry_after(error.response.headers))
        if isinstance(error, o.BadRequestError | o.UnprocessableEntityError):
            if re.search(r"context|too (?:long|large)|maximum.*tokens", text, re.I):
                return Unanswerable(text[:200])
            if mode != "text" and re.search(r"response_format|json_schema|schema|grammar|format", text, re.I):
                return TooStrict(text[:200])
            return Unanswerable(text[:200])
        after = retry_after(error.response.headers) if isinstance(error, o.APIStatusError) else None
        return Busy(f"{type(error).__name__}: {text[:120]}", after)

    async def revision(self) -> str:
        """OpenAI gives no digest: a dated model name pins it, a bare one does not."""
        return self.name

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


def chat_body(
    model: str, messages: Messages, schema: dict[str, Any] | None, mode: str, options: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The request body of a chat completion, the same live and in a batch."""
    body: dict[str, Any] = {"model": model, "messages": messages, **options}
    if schema is not None and mode == "schema":
        form = {"name": "labels", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    elif schema is not None and mode == "json":
        body["response_format"] = {"type": "json_object"}
    return body


def retry_after(headers: Any) -> float | None:
    """Seconds that an answer asks to wait, at most 300; None where it says nothing."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return min(float(headers[name]) / unit, 300.0)
        except (KeyError, ValueError):
            continue
    return None


def _pause(headers: Any) -> float:
    """Seconds to wait before the next request when the server says that none is left."""
    for what in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{what}") == "0":
            return _seconds(headers.get(f"x-ratelimit-reset-{what}", ""))
    return 0.0


def _seconds(text: str) -> float:
    """Seconds of OpenAI's durations: "1s", "6m0s", "120ms"."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    if re.fullmatch(r"[\d.]+", text):
        return min(float(text), 300.0)
    found = re.findall(r"([\d.]+)(ms|s|m|h)", text)
    return min(sum(float(number) * units[unit] for number, unit in found), 300.0)


class OllamaEndpoint:
    """A model of an Ollama server (OLLAMA_HOST, by default this machine)."""

    def __init__(self, model: str, base_url: str | None = None, timeout: float = 300.0) -> None:
        import ollama

        self.name = model
        self._ollama = ollama
        self._client = ollama.AsyncClient(host=base_url, timeout=timeout)
        self.base_url = base_url or os.environ.get("OLLAMA_HOST") or "http://localhost:11434"

    async def ask(
        self, messages: Messages, schema: dict[str, Any] | None, mode: str, options: dict[str, Any]
    ) -> Answer:
        """One completion; see Endpoint."""
        import httpx

        form: Any = schema if mode == "schema" else "json" if mode == "json" and schema is not None else None
        settings = {"temperature": options.get("temperature", 0), "seed": options.get("seed", 0)}
        if options.get("max_tokens"):
            settings["num_predict"] = options["max_tokens"]
        try:
            found = await self._client.chat(self.name, messages, format=form, options=settings, stream=False)
        except self._ollama.ResponseError as error:
            raise self._sorted(error, mode) from None
        except (httpx.HTTPError, ConnectionError, ValueError) as error:
            raise Busy(f"{type(error).__name__} at {self.base_url}") from None
        usage = Usage.of({"prompt_eval_count": found.prompt_eval_count, "eval_count": found.eval_count})
        return Answer(found.message.content or "", "", usage)

    def _sorted(self, error: Any, mode: str) -> Exception:
        text = scrub(str(error.error))
        if error.status_code == 404:
            return Refused(
                f"Ollama at {self.base_url} has no model {self.name!r}; `ollama pull {self.name}` fetches it."
            )
        if error.status_code in (401, 403):
            return Refused(f"{self.base_url} does not let us in: {text[:200]}")
        if error.status_code == 400:
            if mode != "text" and re.search("format|schema|grammar", text, re.I):
                return TooStrict(text[:200])
            return Unanswerable(text[:200])
        return Busy(f"HTTP {error.status_code}: {text[:120]}")

    async def revision(self) -> str:
        """The model's digest, so that a mutable tag cannot change under a labeler."""
        try:
            listed = await self._client.list()
        except Exception as error:
            raise Busy(f"{self.base_url} does not list its models ({type(error).__name__})") from None
        for model in listed.models:
            if model.model in (self.name, f"{self.name}:latest") and model.digest:
                return f"{self.name}@{model.digest[:12]}"
        return self.name

    async def close(self) -> None:
        """Nothing is held open that must be closed by hand."""


PROVIDERS = ("openai", "ollama")


def provider(name: str) -> tuple[str, str]:
    """("openai", "gpt-4o-mini") of "openai:gpt-4o-mini"; SignetError for any other form."""
    kind, sign, model = name.partition(":")
    if kind not in PROVIDERS or not sign or not model:
        raise SignetError(f"No labeler {name!r}; write openai:MODEL, ollama:MODEL, or name a built-in one.")
    return kind, model


def open_endpoint(name: str, base_url: str | None = None) -> Endpoint:
    """The endpoint of "openai:MODEL" (any server with OpenAI's API by `base_url`) or "ollama:MODEL"."""
    kind, model = provider(name)
    check_address(base_url)
    try:
        return OpenAIEndpoint(model, base_url) if kind == "openai" else OllamaEndpoint(model, base_url)
    except (ValueError, TypeError) as error:
        raise SignetError(f"base_url is no address: {scrub(str(error))[:120]}") from None


def check_address(base_url: Any) -> None:
    """SignetError for what is no address of a server, or holds a secret."""
    if base_url is None:
        return
    try:
        parts = urlsplit(base_url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1
    except (ValueError, TypeError, AttributeError):
        parts, wrong = None, True
    if wrong or parts is None:
        raise SignetError("base_url is no address; write http://HOST:PORT/v1.")
    if parts.username or parts.password or parts.query:
        raise SignetError("base_url may hold no user, password or key: put the key into SIGNET_API_KEY.")
