"""What a model's answers cost: prices (engine/prices.yaml, and one's own), tokens used, a forecast from a sample."""

from __future__ import annotations

import datetime
import hashlib
import importlib
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from scipy import stats

from engine.records import SignetError
from engine.settings import home

_RATES = ("input", "cached_input", "output", "batch_discount")
_VOCABULARY = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
_VOCABULARY_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens. `model` is the table's entry; `batch_discount` the share a batch takes off."""

    model: str
    input: float
    cached_input: float
    output: float
    batch_discount: float
    dated: str
    source: str


FREE = Price("local", 0.0, 0.0, 0.0, 0.0, "", "local")  # a server on one's own machines


def _rate(raw: dict[Any, Any], key: str, default: float | None, where: str) -> float:
    value = raw.get(key, default)
    most, said = (1.0, "a share from 0 to 1") if key == "batch_discount" else (1e6, "a number from 0 to a million")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise SignetError(f"{where}: {key} is {value!r}; it must be {said}.")
    return float(value)


def _known(raw: Any, allowed: Sequence[str], where: str) -> dict[Any, Any]:
    if not isinstance(raw, dict):
        raise SignetError(f"{where}: must be a mapping with {', '.join(allowed)}.")
    for key in [key for key in raw if key not in allowed]:
        raise SignetError(f"{where}: unknown key {key!r}; there are {', '.join(allowed)}.")
    return raw


def _entry(model: str, raw: Any, where: str, dated: str, source: str) -> Price | None:
    if raw is None:
        return None
    where = f"{where}: models: {model}"
    paid = _rate(_known(raw, _RATES, where), "input", None, where)
    cached, output = _rate(raw, "cached_input", paid, where), _rate(raw, "output", None, where)
    return Price(model, paid, cached, output, _rate(raw, "batch_discount", 0.0, where), dated, source)


def _read(path: Path, source: str) -> dict[str, Price | None]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date as 2026-13-40
        raise SignetError(f"{path}: not readable as YAML ({' '.join(str(error).split())}).") from None
    raw = _known(raw, ("dated", "currency", "models"), str(path))
    if raw.get("currency", "USD") != "USD":
        raise SignetError(f"{path}: currency is {raw['currency']!r}; it must be USD.")
    if not isinstance(raw.get("dated"), datetime.date):
        raise SignetError(f"{path}: dated is {raw.get('dated')!r}; say when the prices held, as 2026-11-21, unquoted.")
    if not isinstance(raw.get("models"), dict):
        raise SignetError(f"{path}: models must be a mapping from a model's name to its prices.")
    dated = f"{raw['dated']:%Y-%m-%d}"
    return {str(model): _entry(str(model), one, str(path), dated, source) for model, one in raw["models"].items()}


_shipped = cache(lambda: _read(Path(__file__).resolve().parent / "prices.yaml", "shipped"))


def price(model: str, folder: Path | None = None) -> Price | None:
    """The price by the longest entry that begins the name; None: unknown. `folder` is the store's, home() if None."""
    own = (home() if folder is None else folder) / "prices.yaml"
    table = {**_shipped(), **(_read(own, str(own)) if own.exists() else {})}
    fits = [name for name in table if model.startswith(name) and model[len(name) : len(name) + 1] in ("", *"-:@")]
    return table[max(fits, key=len)] if fits else None


def _count(found: Any, *keys: str) -> int:
    values = [found.get(key) for key in keys] if isinstance(found, dict) else []
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0), 0)


@dataclass(frozen=True)
class Usage:
    """Requests answered and tokens used; `cached_tokens` are among `prompt_tokens`."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(mine + others for mine, others in zip(astuple(self)[:4], astuple(other)[:4])))

    @classmethod
    def of(cls, body: dict[str, Any]) -> Usage:
        """One answer's usage, from OpenAI (chat or responses) or Ollama; what is missing counts 0."""
        found = body["usage"] if isinstance(body.get("usage"), dict) else body
        prompt = _count(found, "prompt_tokens", "input_tokens", "prompt_eval_count")
        cached = _count(found.get("prompt_tokens_details") or found.get("input_tokens_details"), "cached_tokens")
        return cls(1, prompt, min(prompt, cached), _count(found, "completion_tokens", "output_tokens", "eval_count"))


def cost(usage: Usage, price: Price | None, batch: bool = False) -> float:
    """US dollars for that usage; 0.0 where the price is None (look at the price before showing it as a cost).

    A batch's discount is taken off the full input price: most models have no batch price for cached tokens.
    """
    price = price or FREE
    fresh = max(0, usage.prompt_tokens - usage.cached_tokens) * price.input
    cached = usage.cached_tokens * (price.input if batch else price.cached_input)
    return (fresh + cached + usage.completion_tokens * price.output) * (1 - price.batch_discount if batch else 1) / 1e6


@dataclass(frozen=True)
class Forecast(Usage):
    """What a run will use and cost (USD; None: the price, or the variation, is unknown) and how long it takes."""

    low: float | None = None
    expected: float | None = None
    high: float | None = None
    seconds: float | None = None


def _half_width(sample: Sequence[int], variance: float) -> float:
    """Half of the 95% interval (t) of a total with `variance` times the sample's variance; NaN from one value."""
    if len(sample) < 2 or variance == 0:
        return math.nan if variance else 0.0
    return float(stats.t.ppf(0.975, len(sample) - 1)) * statistics.stdev(sample) * math.sqrt(variance)


def forecast(
    sample_prompt_tokens: Sequence[int],
    prefix_tokens: int,
    answer_tokens: Sequence[int],
    requests: int,
    price: Price | None,
    batch: bool,
    requests_per_second: float | None,
) -> Forecast:
    """The samples' means scaled up to all requests, with a 95% interval for the bill (None from one value alone).

    Prompts (prefix included) are a sample of the requests, answers are fresh draws; their half-widths are added. OpenAI
    caches prefixes from 1024 tokens on: such a one counts as cached from the second request.
    """
    n, m = len(sample_prompt_tokens), len(answer_tokens)
    if requests < 0 or not n or not m:
        raise SignetError("A forecast needs at least one prompt, one answer's length and 0 or more requests.")
    cached = max(0, requests - 1) * min(prefix_tokens, *sample_prompt_tokens) if prefix_tokens >= 1024 else 0
    prompts, answers = (round(statistics.fmean(one) * requests) for one in (sample_prompt_tokens, answer_tokens))
    speed = requests_per_second or 0.0
    found = Forecast(requests, prompts, cached, answers, seconds=requests / speed if speed > 0 else None)
    if price is None:
        return found
    expected = cost(found, price, batch)
    half = _half_width(sample_prompt_tokens, price.input**2 * requests * max(0, requests - n) / n)
    half += _half_width(answer_tokens, price.output**2 * requests * (requests + m) / m)
    half *= (1 - price.batch_discount if batch else 1) / 1e6
    if math.isnan(half):
        return replace(found, expected=expected)
    return replace(found, low=max(0.0, expected - half), expected=expected, high=expected + half)


@cache
def _encoding() -> Any:
    """tiktoken's o200k_base if its file lies whole in TIKTOKEN_CACHE_DIR (else tiktoken would fetch it), or None."""
    try:
        path = Path(os.environ["TIKTOKEN_CACHE_DIR"] or "/nowhere", hashlib.sha1(_VOCABULARY.encode()).hexdigest())
        whole = hashlib.sha256(path.read_bytes()).hexdigest() == _VOCABULARY_SHA256
        return importlib.import_module("tiktoken").get_encoding("o200k_base") if whole else None
    except (KeyError, OSError, ImportError, ValueError):
        return None


def count_tokens(text: str) -> int:
    """Tokens of a text as OpenAI's models since gpt-4o count them; never goes to the network.

    Without tiktoken and its vocabulary in TIKTOKEN_CACHE_DIR: UTF-8 bytes / 3.6, an estimate a little high for English.
    """
    found = _encoding()
    return len(found.encode_ordinary(text)) if found else math.ceil(len(text.encode("utf-8", "replace")) / 3.6)
