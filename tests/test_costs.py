"""Prices, usage, costs and forecasts: closed forms, the store's own prices, malformed files, additivity."""

from __future__ import annotations

import hashlib
import math
import statistics
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from engine import costs
from engine.costs import FREE, Forecast, Price, Usage, cost, count_tokens, forecast, price
from engine.records import SignetError

ROUND = Price("round", 2.0, 0.5, 8.0, 0.5, "2026-11-21", "shipped")
GOOD = "dated: 2026-12-01\nmodels:\n  {}\n"


@pytest.fixture
def fresh_encoding() -> Iterator[None]:
    costs._encoding.cache_clear()
    yield
    costs._encoding.cache_clear()


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4.1-nano", "gpt-4.1-nano"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("o4-mini-2025-04-16", "o4-mini"),
        ("gpt-4-turbo-2024-04-09", "gpt-4-turbo-2024-04-09"),
    ],
)
def test_the_longest_prefix_is_taken(model: str, entry: str, tmp_path: Path) -> None:
    found = price(model, tmp_path)
    assert found and (found.model, found.dated, found.source) == (entry, "2026-11-21", "shipped")
    assert 0 < found.cached_input <= found.input < found.output and found.batch_discount == 0.5


@pytest.mark.parametrize(
    "model",
    ["", "gpt-4", "gpt-5.1", "gpt-5-pro", "gpt-4o-2024-05-13", "gpt-4o-mini-tts", "gpt-4ox", "llama3.2:3b", "o4"],
)
def test_a_price_nobody_typed_in_is_unknown(model: str, tmp_path: Path) -> None:
    assert price(model, tmp_path) is None


def test_the_stores_own_file_overrides_and_adds(home: Path) -> None:
    own = home / "prices.yaml"
    own.write_text(GOOD.format("gpt-4o: {input: 1, output: 2}\n  my/llm: {input: 0, output: 0}\n  gpt-5: null"))
    assert price("gpt-4o-2024-08-06") == Price("gpt-4o", 1.0, 1.0, 2.0, 0.0, "2026-12-01", str(own))
    assert cost(Usage(1, 10**6, 0, 10**6), price("my/llm:8b")) == 0
    assert price("gpt-5") is None
    kept = price("gpt-4o-mini")
    assert kept and kept.source == "shipped"
    own.unlink()
    shipped = price("gpt-4o")
    assert shipped and shipped.input == 2.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "must be a mapping with dated"),
        ("", "must be a mapping with dated"),
        ("dated: [", "not readable as YAML"),
        ("dated: 2026-13-40\nmodels: {}", "not readable as YAML"),
        ("models: {}", "dated is None"),
        ("dated: soon\nmodels: {}", "dated is 'soon'"),
        ("dated: 2026-12-01", "models must be a mapping"),
        ("dated: 2026-12-01\nmodels: []", "models must be a mapping"),
        ("dated: 2026-12-01\ncurrency: EUR\nmodels: {}", "currency is 'EUR'"),
        ("dated: 2026-12-01\nprices: {}", "unknown key 'prices'"),
        (GOOD.format("x: 3"), "models: x: must be a mapping with input"),
        (GOOD.format("4: {input: 1}"), "models: 4: output is None"),
        ("dated: '2026-12-01'\nmodels: {}", "dated is '2026-12-01'"),
        (GOOD.format("x: {input: 1}"), "models: x: output is None"),
        (GOOD.format("x: {input: '1', output: 1}"), "models: x: input is '1'"),
        (GOOD.format("x: {input: true, output: 1}"), "models: x: input is True"),
        (GOOD.format("x: {input: -1, output: 1}"), "models: x: input is -1"),
        (GOOD.format("x: {input: .nan, output: 1}"), "models: x: input is nan"),
        (GOOD.format("x: {input: 1, output: .inf}"), "models: x: output is inf"),
        (GOOD.format("x: {input: 1, output: 1, cached_input: null}"), "models: x: cached_input is None"),
        (GOOD.format("x: {input: 1, output: 1, batch_discount: 50}"), "models: x: batch_discount is 50"),
        (GOOD.format("x: {input: 1, outputs: 1}"), "models: x: unknown key 'outputs'"),
    ],
)
def test_a_malformed_file_is_named_with_key_and_reason(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(SignetError) as caught:
        price("gpt-4o", tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "prices.yaml")) and said in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SignetError, match=r"not readable as YAML .*utf-8"):
        price("gpt-4o", tmp_path)


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (
            {
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 2,
                    "total_tokens": 11,
                    "prompt_tokens_details": {"cached_tokens": 4},
                }
            },
            Usage(1, 9, 4, 2),
        ),
        (
            {"usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}},
            Usage(1, 9, 4, 2),
        ),
        ({"prompt_eval_count": 9, "eval_count": 2}, Usage(1, 9, 0, 2)),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}}, Usage(1, 3, 3, 0)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": None, "prompt_tokens_details": None}}, Usage(1, 3, 0, 0)),
        ({"usage": {"prompt_tokens": "3", "completion_tokens": -2, "prompt_tokens_details": [1]}}, Usage(1, 0, 0, 0)),
        ({"usage": None}, Usage(1, 0, 0, 0)),
        ({"prompt_eval_count": None, "eval_count": True}, Usage(1, 0, 0, 0)),
        ({}, Usage(1, 0, 0, 0)),
    ],
)
def test_usage_is_read_from_an_answer(body: dict[str, object], usage: Usage) -> None:
    assert Usage.of(body) == usage


def test_cost_in_closed_form() -> None:
    used = Usage(3, 1_000_000, 400_000, 250_000)
    assert cost(used, ROUND) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.25 * 8)
    assert cost(used, ROUND, batch=True) == pytest.approx((2 + 0.25 * 8) / 2)
    assert cost(used, None) == cost(used, FREE) == cost(Usage(), ROUND) == 0


COUNTS = st.integers(0, 10**9)
USAGES = st.builds(lambda n, fresh, cached, out: Usage(n, fresh + cached, cached, out), COUNTS, COUNTS, COUNTS, COUNTS)
RATES = st.floats(0, 1000)
PRICES = st.builds(Price, st.just("x"), RATES, RATES, RATES, st.floats(0, 1), st.just(""), st.just(""))


@given(USAGES, USAGES, st.none() | PRICES, st.booleans())
def test_cost_is_additive_and_never_negative(a: Usage, b: Usage, rates: Price | None, batch: bool) -> None:
    together = cost(a + b, rates, batch)
    assert together >= 0
    assert math.isclose(together, cost(a, rates, batch) + cost(b, rates, batch), rel_tol=1e-9, abs_tol=1e-9)
    assert a + Usage() == a and a + b == b + a


def test_forecast_in_closed_form() -> None:
    prompts, answers = [100, 200, 300, 400], [10, 20, 30]
    found = forecast(prompts, 50, answers, 1000, ROUND, False, 4.0)
    assert (found.requests, found.prompt_tokens, found.cached_tokens, found.completion_tokens) == (
        1000,
        250_000,
        0,
        20_000,
    )
    assert found.seconds == 250 and found.expected == pytest.approx(0.5 + 0.16)
    half = stats.t.ppf(0.975, 3) * statistics.stdev(prompts) * math.sqrt(1000 * 996 / 4) * 2e-6
    half += stats.t.ppf(0.975, 2) * 10 * math.sqrt(1000 * 1003 / 3) * 8e-6
    assert found.low == pytest.approx(max(0, 0.66 - half)) and found.high == pytest.approx(0.66 + half)
    halved = forecast(prompts, 50, answers, 1000, ROUND, True, None)
    assert halved.seconds is None and halved.high == pytest.approx((0.66 + half) / 2)


@pytest.mark.parametrize(("prefix", "cached"), [(1023, 0), (1024, 1024 * 9), (5000, 2000 * 9)])
def test_only_a_long_constant_prefix_counts_as_cached(prefix: int, cached: int) -> None:
    found = forecast([2000, 2000], prefix, [5, 5], 10, ROUND, False, None)
    assert found.cached_tokens == cached
    assert found.low == found.expected == found.high == cost(Usage(10, 20_000, cached, 50), ROUND)


def test_what_is_unknown_is_none() -> None:
    assert forecast([5, 7], 0, [1, 2], 10, None, False, 0.0) == Forecast(10, 60, 0, 15, None, None, None, None)
    one = forecast([5], 0, [1], 10, ROUND, False, None)
    assert one.low is None and one.high is None and one.expected == pytest.approx((50 * 2 + 10 * 8) / 1e6)
    local = forecast([5], 0, [1], 10, FREE, False, None)
    assert (local.low, local.expected, local.high) == (0, 0, 0)
    nothing = forecast([5], 0, [1], 0, ROUND, False, 1.0)
    assert (nothing.low, nothing.expected, nothing.high, nothing.seconds) == (0, 0, 0, 0)
    for prompts, answers, requests in ([], [1], 3), ([1], [], 3), ([1], [1], -1):
        with pytest.raises(SignetError, match="A forecast needs"):
            forecast(prompts, 0, answers, requests, ROUND, False, None)


def test_the_interval_holds_the_bill_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(20261121), 0
    for _ in range(400):
        prompts, answers = rng.poisson(300, 500) + rng.integers(0, 200, 500), rng.poisson(40, 500)
        found = forecast(prompts[:30].tolist(), 0, rng.poisson(40, 30).tolist(), 500, ROUND, False, None)
        bill = cost(Usage(500, int(prompts.sum()), 0, int(answers.sum())), ROUND)
        assert found.low is not None and found.high is not None
        held += found.low <= bill <= found.high
    assert held / 400 >= 0.94


def test_tokens_are_estimated_from_bytes(fresh_encoding: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    assert [count_tokens(text) for text in ("", "a", "a" * 36, "a" * 37, "é" * 18, "\ud800")] == [0, 1, 10, 11, 10, 1]


@pytest.mark.parametrize("folder", ["", "absent", "broken"])
def test_tiktoken_is_not_asked_for_what_it_would_fetch(
    folder: str, fresh_encoding: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} would be fetched")

    monkeypatch.setitem(sys.modules, "tiktoken", types.SimpleNamespace(get_encoding=refuse))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / folder) if folder else "")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / hashlib.sha1(costs._VOCABULARY.encode()).hexdigest()).write_text("half a file")
    assert count_tokens("a" * 36) == 10


def test_tiktoken_counts_where_its_vocabulary_is_at_hand(
    fresh_encoding: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = types.SimpleNamespace(encode_ordinary=str.split)
    monkeypatch.setitem(sys.modules, "tiktoken", types.SimpleNamespace(get_encoding=lambda name: words))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    (tmp_path / hashlib.sha1(costs._VOCABULARY.encode()).hexdigest()).write_bytes(b"all of it")
    monkeypatch.setattr(costs, "_VOCABULARY_SHA256", hashlib.sha256(b"all of it").hexdigest())
    assert count_tokens("three words <|endoftext|>") == 3
