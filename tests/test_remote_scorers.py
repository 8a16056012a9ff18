"""Reward models at endpoints: raw rewards whatever the server's version, patience, truncation, clear sentences."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from engine import models, remote_scorers
from engine.endpoints import Busy
from engine.records import SignetError, Turn, turns_to_json
from engine.remote_scorers import RemoteScorer
from engine.score_servers import Caller, Declined
from engine.scorers import open_scorer
from engine.throttle import Throttle
from tests.fake_scorers import FakeTei, FakeVllm, chat_tokens, pair_tokens, reward, text_tokens

if TYPE_CHECKING:
    from engine.client import Client

MODEL = "acme/reward-1b"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any waiting before a repeat; no key from outside."""
    monkeypatch.setattr(remote_scorers, "WAIT", 0.0001)
    monkeypatch.delenv("SIGNET_API_KEY", raising=False)


def shard(pairs: list[tuple[str, str]]) -> pa.Table:
    """Entries of one turn each."""
    return pa.table({
        "entry": [f"{i:032x}" for i in range(len(pairs))],
        "prompt": [turns_to_json([Turn("user", prompt)]) for prompt, _ in pairs],
        "response": [response for _, response in pairs],
    })  # fmt: skip


def params(name: str, fake: Any, **options: Any) -> dict[str, Any]:
    """What a score job hands to its worker."""
    spec = models.resolve(name, {"base_url": fake.url, **options})
    return {"model": spec.name, "kind": spec.kind, "revision": spec.revision, **spec.params, **spec.route}


def rewards(fake: Any, name: str, pairs: list[tuple[str, str]], **options: Any) -> list[float]:
    """Rewards of pairs of texts through a scorer of their own."""
    scorer = open_scorer(params(name, fake, **options))
    try:
        return scorer.run(shard(pairs)).column("reward").to_pylist()
    finally:
        scorer.close()


def chat(prompt: str, response: str) -> list[str]:
    return chat_tokens([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])


def dialogue(prompt: str, response: str) -> list[str]:
    return text_tokens(f"Human: {prompt}\n\nAssistant: {response}")


PAIRS = [(f"question {i} about rivers", f"answer {i}, some words long") for i in range(100)]


# --- raw rewards ---
@pytest.mark.parametrize("field", ["use_activation", "activation", "softmax"])
@pytest.mark.parametrize("paths", [("/classify", "/pooling"), ("/pooling",)])
def test_vllm_gives_raw_rewards_in_every_version(field: str, paths: tuple[str, ...]) -> None:
    with FakeVllm(field=field, chat_paths=paths) as fake:
        assert rewards(fake, f"vllm:{MODEL}", PAIRS) == [reward(chat(*pair)) for pair in PAIRS]


def test_vllm_reads_tagged_text_several_texts_a_request() -> None:
    with FakeVllm() as fake:
        found = rewards(fake, f"vllm:{MODEL}", PAIRS, format="dialogue")
        assert found == [reward(dialogue(*pair)) for pair in PAIRS]
        assert max(len(body.get("input", [])) for body in fake.bodies) == 32


def test_whole_dialogues_reach_the_chat_template() -> None:
    turns = [Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hello."), Turn("user", "Why?")]
    table = pa.table({"entry": ["0" * 32], "prompt": [turns_to_json(turns)], "response": ["Because."]})
    with FakeVllm() as fake:
        found = open_scorer(params(f"vllm:{MODEL}", fake)).run(table).to_pylist()[0]
    sent = [{"role": t.role, "content": t.content} for t in [*turns, Turn("assistant", "Because.")]]
    tokens = chat_tokens(sent)
    assert found == {"entry": "0" * 32, "reward": reward(tokens), "n_tokens": len(tokens), "truncated": False}


@pytest.mark.parametrize("style", ["dialogue", "qa_pair", "seal_pair"])
def test_tei_gives_raw_rewards_of_texts_and_pairs(style: str) -> None:
    def tokens(prompt: str, response: str) -> list[str]:
        if style == "dialogue":
            return dialogue(prompt, response)
        first = f"Human: {prompt}" if style == "seal_pair" else prompt
        second = f"Assistant: {response}" if style == "seal_pair" else response
        return pair_tokens(first.split(), second.split())

    with FakeTei() as fake:
        assert rewards(fake, f"tei:{MODEL}", PAIRS, format=style) == [reward(tokens(*pair)) for pair in PAIRS]
        assert fake.requests["/predict"] < 30  # 32 texts a request


@pytest.mark.parametrize("kind", ["vllm", "tei"])
def test_one_of_several_outputs_can_be_chosen(kind: str) -> None:
    fake: Any
    with FakeVllm(labels=3) if kind == "vllm" else FakeTei(labels=3) as fake:
        with pytest.raises(SignetError, match="3 outputs, a reward model has one; choose with --option output=0"):
            models.resolve(f"{kind}:{MODEL}", {"base_url": fake.url})
        with pytest.raises(SignetError, match="has outputs 0 to 2; there is no 3"):
            models.resolve(f"{kind}:{MODEL}", {"base_url": fake.url, "output": 3})
        tokens = chat if kind == "vllm" else dialogue
        found = rewards(fake, f"{kind}:{MODEL}", PAIRS[:5], output=2)
        assert found == [reward(tokens(*pair), 2) for pair in PAIRS[:5]]


def test_probabilities_are_refused_not_inverted() -> None:
    sentence = "seems to give probabilities, not raw rewards"
    with FakeVllm(field=None) as fake, pytest.raises(SignetError, match=sentence):
        models.resolve(f"vllm:{MODEL}", {"base_url": fake.url})
    with FakeVllm(activation="small") as fake:  # raw in truth, which the server cannot show
        with pytest.raises(SignetError, match="--option raw=true"):
            models.resolve(f"vllm:{MODEL}", {"base_url": fake.url})
        assert all(0 < value < 1 for value in rewards(fake, f"vllm:{MODEL}", PAIRS, raw=True))


def test_a_server_without_activation_is_believed_by_its_values() -> None:
    with FakeVllm(field=None, activation="none") as fake:
        scorer = RemoteScorer(params(f"vllm:{MODEL}", fake))
        assert scorer.environment["raw"] == "values outside [-1, 1]"
        assert scorer.run(shard(PAIRS[:3])).column("reward").to_pylist() == [reward(chat(*p)) for p in PAIRS[:3]]


# --- what a model is ---
def test_a_model_is_what_the_server_tells_not_where_it_is() -> None:
    with FakeTei(sha="abc123") as one, FakeTei(sha="abc123") as two, FakeTei(sha="def456") as three:
        first, second, third = (models.resolve(f"tei:{MODEL}", {"base_url": fake.url}) for fake in (one, two, three))
    assert (first.name, first.kind, first.revision) == (f"tei:{MODEL}", "tei", "abc123")
    assert (first.revision, first.params) == (second.revision, second.params)
    assert first.route["base_url"] != second.route["base_url"]
    assert third.revision == "def456"
    assert first.params == {"format": "dialogue", "output": None, "max_length": 64, "dtype": "float16"}


def test_vllm_under_another_name_is_known_by_its_root() -> None:
    with FakeVllm(served_as="rm") as fake:
        for name in ("vllm:rm", f"vllm:{MODEL}"):
            spec = models.resolve(name, {"base_url": fake.url + "/v1/", "revision": "9f8e7d"})
            assert (spec.params["root"], spec.params["format"], spec.revision) == (MODEL, "chat", "9f8e7d")
        assert rewards(fake, f"vllm:{MODEL}", PAIRS[:2]) == [reward(chat(*pair)) for pair in PAIRS[:2]]


def test_a_job_stops_when_the_server_has_changed() -> None:
    with FakeTei(sha="abc123") as fake:
        made = params(f"tei:{MODEL}", fake)
        fake.sha = "def456"
        with pytest.raises(SignetError, match="serves another model"):
            RemoteScorer(made)


def test_the_environment_says_what_served() -> None:
    with FakeTei() as fake:
        environment = RemoteScorer(params(f"tei:{MODEL}", fake)).environment
    assert environment["server"] == "text-embeddings-inference 1.8.3"
    assert (environment["dtype"], environment["revision"], environment["max_length"]) == ("float16", "5f0c1e9a", 64)
    with FakeVllm() as fake:
        assert RemoteScorer(params(f"vllm:{MODEL}", fake)).environment["server"] == "vLLM 0.24.0"


# --- too long ---
LONG = [*PAIRS[:40], ("word " * 90 + "end", "yes indeed"), ("other " * 80, "no"), *PAIRS[40:60]]


def test_what_is_too_long_loses_its_oldest_part_and_is_counted() -> None:
    with FakeVllm() as fake:
        scorer = RemoteScorer(params(f"vllm:{MODEL}", fake))
        found = scorer.run(shard(LONG)).to_pylist()
    assert [row["reward"] for row in found] == [reward(chat(*pair)[-64:]) for pair in LONG]
    assert [i for i, row in enumerate(found) if row["truncated"]] == [40, 41]
    assert found[40]["n_tokens"] == len(chat(*LONG[40]))
    assert scorer.environment["progress"]["truncated"] == 2


@pytest.mark.parametrize("style", ["dialogue", "qa_pair"])
def test_tei_splits_a_request_that_holds_a_long_text(style: str) -> None:
    with FakeTei() as fake:
        scorer = RemoteScorer(params(f"tei:{MODEL}", fake, format=style))
        found = scorer.run(shard(LONG)).to_pylist()
    assert [i for i, row in enumerate(found) if row["truncated"]] == [40, 41]
    if style == "dialogue":
        kept = ["<s>", *dialogue(*LONG[40])[-63:]]
    else:
        kept = pair_tokens(LONG[40][0].split()[-59:], ["yes", "indeed"])
    assert len(kept) == 64 and found[40]["reward"] == reward(kept)


@pytest.mark.parametrize("kind", ["vllm", "tei"])
def test_a_server_that_would_cut_off_the_answer_is_refused(kind: str) -> None:
    fake: Any
    with FakeVllm(side=False) if kind == "vllm" else FakeTei(direction=False) as fake:
        with pytest.raises(SignetError, match="would cut off its end, the answer"):
            rewards(fake, f"{kind}:{MODEL}", LONG)
        assert len(rewards(fake, f"{kind}:{MODEL}", PAIRS)) == 100


def test_a_request_too_large_for_the_server_is_split() -> None:
    with FakeTei(payload=2500, limit=1000) as fake:
        pairs = [("a few words " * 20, f"reply {i}") for i in range(40)]
        assert rewards(fake, f"tei:{MODEL}", pairs) == [reward(dialogue(*pair)) for pair in pairs]


# --- patience ---
def test_what_the_server_is_too_busy_for_comes_again() -> None:
    with FakeVllm() as fake:
        scorer = RemoteScorer(params(f"vllm:{MODEL}", fake))
        fake.trouble.extend([
            (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"}), (503, "", {}), "hang up", "hang up",
            (500, {"error": {"message": "CUDA hiccup"}}, {}), '{"data": [{"ind', (502, "<html>bad gateway</html>", {}),
        ])  # fmt: skip
        found = scorer.run(shard(PAIRS)).column("reward").to_pylist()
    assert found == [reward(chat(*pair)) for pair in PAIRS]
    assert scorer.environment["progress"]["busy"] >= 4


def test_a_server_that_refuses_overload_gets_no_more_than_it_bears() -> None:
    with FakeTei(queue=8, latency=0.003, batch=1) as fake:
        scorer = RemoteScorer(params(f"tei:{MODEL}", fake))
        pairs = [(f"q {i}", f"a {i}") for i in range(600)]
        assert scorer.run(shard(pairs)).column("reward").to_pylist() == [reward(dialogue(*pair)) for pair in pairs]
        assert scorer.throttle.limit <= 16
    assert all(count == 1 for text, count in fake.computed.items() if text.startswith("<s> Human: q "))


def test_concurrency_climbs_while_it_helps_and_can_be_fixed() -> None:
    pairs = [(f"q {i}", f"a {i}") for i in range(1200)]
    with FakeVllm(latency=0.03) as fake:
        scorer = RemoteScorer(params(f"vllm:{MODEL}", fake))
        scorer.run(shard(pairs))
        assert fake.peak > 16
    with FakeVllm(latency=0.005) as fake:
        RemoteScorer(params(f"vllm:{MODEL}", fake, concurrency=3)).run(shard(pairs[:100]))
        assert fake.peak == 3


def test_the_throttle_stops_where_doubling_brings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("engine.throttle.time", SimpleNamespace(monotonic=lambda: now[0]))
    throttle = Throttle()
    for _ in range(5000):  # a server that answers 40 at once, each in one second
        now[0] += 1 / min(throttle.limit, 40)
        throttle.finished(1.0)
    assert throttle.limit == 96  # 32 gave 32 a second, 64 gave 40, 128 gave no more: half of that is taken back
    throttle.busy()
    assert throttle.limit == 48
    throttle.busy()  # the same overload, told twice
    assert throttle.limit == 48
    for _ in range(48 + 49 + 50):
        throttle.finished(1.0)
    assert throttle.limit == 51
    for _ in range(10_000):
        throttle.finished(1.0)
    assert throttle.limit == 96


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ([(500, {"error": {"message": "CUDA error"}}, {})] * 5, "failed 5 times on one request: HTTP 500: CUDA error"),
        ([(503, "", {})] * 14, "gave no answer for minutes"),
        ([(400, {"object": "error", "message": "bad template", "code": 400}, {})], "refuses an entry: bad template"),
        ([(200, {"data": [{"index": 0, "probs": [None]}], "usage": {"prompt_tokens": 1}}, {})], "gives no number"),
        (['{"data": [{"index": 0, "probs": [NaN]}], "usage": {"prompt_tokens": 1}}'], "gives no number"),
        ([(200, {"data": [], "usage": {"prompt_tokens": 1}}, {})], "gave 0 results for 1 texts"),
        ([(200, {"answer": 42}, {})], "does not answer as vLLM does"),
        ([(200, {"data": [{"index": 0, "probs": [[0.5], [0.1]]}], "usage": {"prompt_tokens": 2}}, {})], "every token"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_sentence(trouble: list[Any], sentence: str) -> None:
    with FakeVllm() as fake:
        scorer = RemoteScorer(params(f"vllm:{MODEL}", fake, concurrency=1))
        fake.trouble.extend(trouble)
        with pytest.raises(SignetError, match=sentence):
            scorer.run(shard(PAIRS[:1]))


@pytest.mark.parametrize("kind", ["vllm", "tei"])
def test_a_model_that_overflows_is_told_from_a_broken_server(kind: str) -> None:
    opened: Any = FakeVllm if kind == "vllm" else FakeTei
    sentence = "precision is too small for this model"
    with opened(nan_for="overflow") as fake, pytest.raises(SignetError, match=sentence):
        rewards(fake, f"{kind}:{MODEL}", [("overflow now", "yes")])


# --- the wrong server ---
def test_a_server_that_is_not_there() -> None:
    with pytest.raises(SignetError, match=r"No vLLM server answers at http://127\.0\.0\.1:9"):
        models.resolve(f"vllm:{MODEL}", {"base_url": "http://127.0.0.1:9/v1"})


def test_a_server_of_something_else() -> None:
    with FakeVllm() as vllm, FakeTei() as tei:
        with pytest.raises(SignetError, match="does not speak vLLM's API"):
            models.resolve(f"vllm:{MODEL}", {"base_url": tei.url})
        with pytest.raises(SignetError, match="does not speak text-embeddings-inference's API"):
            models.resolve(f"tei:{MODEL}", {"base_url": vllm.url})
        for kind, fake in (("vllm", vllm), ("tei", tei)):
            with pytest.raises(SignetError, match=f"serves {MODEL}, not other/model"):
                models.resolve(f"{kind}:other/model", {"base_url": fake.url})
    with FakeVllm(runner="embed") as fake, pytest.raises(SignetError, match=r"not served as a reward model.*--runner"):
        models.resolve(f"vllm:{MODEL}", {"base_url": fake.url})
    with FakeTei(head="embedding") as fake, pytest.raises(SignetError, match="is an embedding model"):
        models.resolve(f"tei:{MODEL}", {"base_url": fake.url})


def test_the_key_comes_from_the_environment_and_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTei(key="sk-very-secret-1") as fake:
        with pytest.raises(SignetError, match=r"does not let us in.*SIGNET_API_KEY"):
            models.resolve(f"tei:{MODEL}", {"base_url": fake.url})
        monkeypatch.setenv("SIGNET_API_KEY", "sk-very-secret-1")
        made = params(f"tei:{MODEL}", fake)
        assert "secret" not in json.dumps(made) + json.dumps(RemoteScorer(made).environment)
    with pytest.raises(SignetError, match="may hold no user, password or key"):
        models.resolve(f"tei:{MODEL}", {"base_url": "http://user:pw@host:80"})


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("vllm:", {}, "name the model as the server does"),
        (f"vllm:{MODEL}", {"max_length": 512}, "--max-model-len"),
        (f"vllm:{MODEL}", {"dtype": "float16"}, "Unknown option 'dtype'"),
        (f"vllm:{MODEL}", {"format": "qa_pair"}, "for pairs of texts use text-embeddings-inference"),
        (f"tei:{MODEL}", {"format": "chat"}, "it applies no chat template, vLLM does"),
        (f"tei:{MODEL}", {"concurrency": 0}, "whole number from 1 to 1024"),
        (f"tei:{MODEL}", {"output": "x"}, "must be the number of an output"),
        (f"tei:{MODEL}", {"base_url": "ftp://x"}, "base_url is no address"),
    ],
)
def test_options_are_checked_before_any_server_is_asked(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SignetError, match=sentence):
        models.resolve(name, options)


# --- the whole way ---
def quiet(*_: Any) -> None:
    """Nobody watches the job."""


def test_scoring_a_dataset_through_an_endpoint(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Question {i}?", "chosen": f"Good answer {i}.", "rejected": f"Bad one {i}."} for i in range(40)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    client.follow(client.call("import", source=str(source), name="small", options={})["job"], quiet)
    with FakeVllm() as one, FakeVllm() as two:
        first = client.call("score", dataset="small", model=f"vllm:{MODEL}", limit=10, options={"base_url": one.url})
        assert client.follow(first["job"], quiet).state == "done"
        job = client.call("score", dataset="small", model=f"vllm:{MODEL}", options={"base_url": two.url})["job"]
        assert client.follow(job, quiet).state == "done"
        texts = [text for fake in (one, two) for text in fake.computed if "Question" in text]
        assert len(texts) == len(set(texts)) == 80  # the second address went on where the first stopped
    written = client.call("export", dataset="small", what="rewards", suffix=".jsonl")
    found = [json.loads(line) for line in Path(written["path"]).read_text(encoding="utf-8").splitlines()]
    assert len(found) == 80 and {row["model"] for row in found} == {f"vllm:{MODEL}"}
    told = {(row["pair_id"], row["side"]): row["reward"] for row in found}
    expected = {reward(chat(row["prompt"], row[side])) for row in rows for side in ("chosen", "rejected")}
    assert set(told.values()) == expected
    environment = json.loads((client.home / "jobs" / job / "environment.json").read_text(encoding="utf-8"))
    assert environment["server"] == "vLLM 0.24.0" and environment["raw"] == "the activation can be switched off"


# --- HTTP ---
@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}', True),
        (
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4;x=1\r\n":1}\r\n0\r\nT: 1\r\n\r\n',
            True,
        ),
        (
            b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:7\r\nConnection: close\r\n\r\n{"a":1}',
            True,
        ),
        (b'HTTP/1.0 200 OK\r\n\r\n{"a":1}', True),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a":1}', False),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{"a"', False),
        (b'HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{"a":1}', False),
        (b"no protocol at all\r\n\r\n", False),
        (b"", False),
    ],
)
def test_an_answer_is_whole_or_the_server_counts_as_busy(answer: bytes, whole: bool) -> None:
    async def talk() -> list[Any]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        caller = Caller(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/prefix", None, timeout=5)
        try:
            # The second request finds a connection that was kept and is closed by now, and opens another.
            return [(await caller.call("/x"))[0] for _ in range(2)]
        finally:
            await caller.close()
            server.close()

    if whole:
        assert asyncio.run(talk()) == [{"a": 1}, {"a": 1}]
    else:
        with pytest.raises(Busy):
            asyncio.run(talk())


def test_the_key_goes_to_its_address_only() -> None:
    """A redirect is an answer that is no score, not a place to send the key to."""

    async def talk() -> tuple[list[bytes], str]:
        heads = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 307 Elsewhere\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        caller = Caller(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "hush-hush", timeout=5)
        with pytest.raises(Declined) as refused:
            await caller.call("/classify", {"input": "x"})
        await caller.close()
        server.close()
        return heads, str(refused.value)

    heads, words = asyncio.run(talk())
    assert len(heads) == 1 and b"Authorization: Bearer hush-hush" in heads[0] and "hush" not in words


def test_an_answer_that_never_comes_is_given_up() -> None:
    async def talk(url: str) -> None:
        caller = Caller(url, None, timeout=0.1)
        with pytest.raises(Busy, match="Timeout"):
            await caller.call("/classify", {"input": "x"})
        await caller.close()

    with FakeVllm(latency=5) as fake:
        began = time.perf_counter()
        asyncio.run(talk(fake.url))
        assert time.perf_counter() - began < 3


def test_a_scorer_works_off_the_main_thread() -> None:
    with FakeTei() as fake:
        found: list[list[float]] = []
        thread = threading.Thread(target=lambda: found.append(rewards(fake, f"tei:{MODEL}", PAIRS[:3])))
        thread.start()
        thread.join()
    assert found == [[reward(dialogue(*pair)) for pair in PAIRS[:3]]]


# --- the form ---
def test_the_form_asks_for_an_address_and_says_what_is_wrong(home: Path) -> None:
    from streamlit.testing.v1 import AppTest

    from engine.client import Client as Opened
    from engine.settings import ROOT
    from pages import shared

    with Opened(home) as opened:
        opened.call("demo")
    page = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=90).run()
    page.switch_page("reward_models.py")
    page.run()
    try:
        with FakeVllm() as fake:
            for kind, wanted in (("vllm", MODEL), ("tei", MODEL)):
                page.segmented_control(key="add-where").set_value(kind).run()
                page.text_input(key="add-model").set_value(wanted).run()
                page.text_input(key=f"add-url-{kind}").set_value(fake.url).run()
                assert not page.exception
                if kind == "tei":
                    page.button(key="add-start").click().run()
                    assert any("does not speak text-embeddings-inference's API" in one.value for one in page.error)
            assert fake.requests["/info"] == 1
    finally:
        owner = shared._owner(str(home))
        owner.close()
        owner.store.close()
