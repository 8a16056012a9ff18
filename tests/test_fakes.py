"""The fakes, driven by the real clients of OpenAI and Ollama."""

from __future__ import annotations

import collections
import io
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import ollama
import openai
import pydantic
import pytest

from tests.fakes import PROSE, REFUSAL, FakeOllama, FakeOpenAI, Faults, conforms, default_answer, key_of, make_value

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "harmless": {"type": "boolean"},
        "verdict": {"type": "string", "enum": ["first", "second", "neither"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
        "weight": {"type": "number", "minimum": 0, "maximum": 1},
        "reason": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b", "c"]}, "maxItems": 3},
        "side": {"anyOf": [{"type": "string", "enum": ["left", "right"]}, {"type": "null"}]},
        "version": {"const": 1},
        "inner": {
            "type": "object",
            "properties": {"helpful": {"type": "boolean"}},
            "required": ["helpful"],
            "additionalProperties": False,
        },
    },
    "required": ["harmless", "verdict", "score", "weight", "reason", "tags", "side", "version", "inner"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "labels", "strict": True, "schema": SCHEMA}}


def client_of(fake: FakeOpenAI, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=fake.url, api_key="sk-test-0123456789", max_retries=0, **options)


def ask(client: openai.OpenAI, text: str = "Which one?") -> Any:
    messages: Any = [{"role": "system", "content": "Label."}, {"role": "user", "content": text}]
    return client.chat.completions.create(model="gpt-5-mini", messages=messages, response_format=FORMAT)


def ask_ollama(fake: FakeOllama, text: str = "Which one?", **options: Any) -> ollama.ChatResponse:
    client = ollama.Client(host=fake.url, **options)
    return client.chat(model="qwen3:4b", messages=[{"role": "user", "content": text}], format=SCHEMA)


def upload(client: openai.OpenAI, count: int, **change: Any) -> str:
    """Upload a batch's input and return the file's id."""
    lines = [
        {
            "custom_id": f"pair-{at}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "gpt-5-mini",
                "messages": [{"role": "user", "content": f"Pair {at}"}],
                "response_format": FORMAT,
            },
        }
        | change
        for at in range(count)
    ]
    data = io.BytesIO("\n".join(json.dumps(line) for line in lines).encode())
    return client.files.create(file=("input.jsonl", data), purpose="batch").id


def begin(client: openai.OpenAI, count: int) -> str:
    file = upload(client, count)
    made = client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
    return made.id


def finish(client: openai.OpenAI, name: str) -> tuple[list[str], Any]:
    """Retrieve a batch until it ends; return its statuses and the batch."""
    seen = []
    while not seen or seen[-1] not in ("completed", "failed", "expired", "cancelled"):
        found = client.batches.retrieve(name)
        seen.append(found.status)
        assert len(seen) < 50
    return seen, found


def lines_of(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file).text.splitlines()] if file else []


# --- Schemas ----------------------------------------------------------------------------------------------------------


def test_default_answers_fit_the_schema_and_depend_on_the_messages() -> None:
    made = [default_answer([{"role": "user", "content": f"{at}"}], SCHEMA) for at in range(200)]
    assert all(conforms(json.loads(text), SCHEMA) for text in made)
    assert made[0] == default_answer([{"role": "user", "content": "0"}], SCHEMA)
    assert len(set(made)) == 200
    assert {json.loads(text)["side"] for text in made} == {"left", "right", None}


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        (True, {"type": "integer"}, False),
        (True, {"enum": [1, 0]}, False),
        (2.0, {"type": "integer"}, True),
        (6, {"type": "integer", "maximum": 5}, False),
        (None, {"type": ["string", "null"]}, True),
        ({"a": 1, "b": 2}, {"properties": {"a": {}}, "additionalProperties": False}, False),
        ({}, {"type": "object", "required": ["a"]}, False),
        ([1, "x"], {"items": {"type": "integer"}}, False),
        ("x", {"$ref": "#/$defs/s", "$defs": {"s": {"const": "x"}}}, True),
    ],
)
def test_conforms(value: object, schema: dict[str, Any], fits: bool) -> None:
    assert conforms(value, schema) is fits


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def test_openai_structured_output_usage_and_headers() -> None:
    with FakeOpenAI() as fake:
        client = client_of(fake)
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-5-mini",
            messages=[{"role": "user", "content": "Which one?"}],
            response_format=FORMAT,
            logprobs=True,
        )
        found = raw.parse()
        choice = found.choices[0]
        assert conforms(json.loads(choice.message.content or ""), SCHEMA)
        assert (choice.finish_reason, choice.message.refusal) == ("stop", None)
        assert found.usage and found.usage.prompt_tokens_details
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens > 2
        assert found.usage.prompt_tokens_details.cached_tokens == 0
        assert raw.headers["x-request-id"].startswith("req_")
        assert int(raw.headers["x-ratelimit-remaining-requests"]) > 0
        assert int(raw.headers["x-ratelimit-remaining-tokens"]) > 0
        assert raw.headers["x-ratelimit-reset-requests"]
        assert [model.id for model in client.models.list()] == list(fake.models)
        assert fake.paid == {key_of("Which one?"): 1}
        assert fake.requests == {"/v1/chat/completions": 1, "/v1/models": 1}
        assert fake.keys_seen == {"Bearer sk-test-0123456789"}
        assert [body["logprobs"] for body in fake.bodies] == [True]


def test_openai_parses_a_pydantic_model() -> None:
    class Part(pydantic.BaseModel):
        side: Literal["left", "right"] | None
        score: float

    class Labels(pydantic.BaseModel):
        good: bool
        parts: list[Part]

    with FakeOpenAI() as fake:
        messages: Any = [{"role": "user", "content": "Which one?"}]
        found = client_of(fake).chat.completions.parse(model="gpt-5-mini", messages=messages, response_format=Labels)
        assert isinstance(found.choices[0].message.parsed, Labels)


def test_openai_counts_cached_prefixes_and_cuts_at_the_limit() -> None:
    with FakeOpenAI(answer=lambda messages, schema: "word " * 100) as fake:
        client = client_of(fake)

        def cached(text: str) -> int:
            messages: Any = [{"role": "system", "content": "s" * 6000}, {"role": "user", "content": text}]
            made = client.chat.completions.create(model="m", messages=messages, max_completion_tokens=5)
            assert (made.choices[0].finish_reason, made.usage.completion_tokens) == ("length", 5)
            return made.usage.prompt_tokens_details.cached_tokens

        assert (cached("one"), cached("two"), cached("two" * 400)) == (0, 1408, 1408)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"response_format": {"type": "json_object"}}, "must contain the word 'json'"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, "name"),
        ({"response_format": {"type": "xml"}}, "Invalid value: 'xml'"),
        ({"messages": []}, "messages"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "strict": True, "schema": {"type": "object", "properties": {}}},
                }
            },
            "additionalProperties",
        ),
    ],
)
def test_openai_refuses_bodies_that_openai_refuses(change: dict[str, Any], said: str) -> None:
    with FakeOpenAI() as fake:
        body: Any = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | change
        with pytest.raises(openai.BadRequestError, match=said):
            client_of(fake).chat.completions.create(**body)
        assert not fake.paid


@pytest.mark.parametrize(
    ("faults", "error", "paid"),
    [
        (Faults(rate_limit=1, retry_after=3), openai.RateLimitError, 0),
        (Faults(server_error=1), openai.InternalServerError, 0),
        (Faults(timeout=1, timeout_seconds=5), openai.APITimeoutError, 1),
        (Faults(half_body=1), openai.APIConnectionError, 1),
        (Faults(auth=True), openai.AuthenticationError, 0),
        (Faults(quota=True), openai.RateLimitError, 0),
    ],
    ids=["rate_limit", "server_error", "timeout", "half_body", "auth", "quota"],
)
def test_openai_faults_of_transport(faults: Faults, error: type[openai.APIError], paid: int) -> None:
    with FakeOpenAI(faults=faults) as fake:
        with pytest.raises(error) as caught:
            ask(client_of(fake, timeout=1 if faults.timeout else 20))
        assert fake.total_paid == paid
        if faults.rate_limit:
            assert caught.value.code == "rate_limit_exceeded"
            assert caught.value.response.headers["retry-after"] == "3"  # type: ignore[attr-defined]
        if faults.auth:
            assert caught.value.code == "invalid_api_key"
            assert "sk-test-0123456789" not in str(caught.value)
        if faults.quota:
            assert caught.value.code == "insufficient_quota"


def test_the_client_gets_through_by_retrying() -> None:
    with FakeOpenAI(faults=Faults(rate_limit=0.3, half_body=0.3, retry_after=0.01), seed=3) as fake:
        client = openai.OpenAI(base_url=fake.url, api_key="sk-test", max_retries=20)
        for at in range(4):
            ask(client, f"{at}")
        assert len(fake.paid) == 4
        assert fake.statuses[429] > 0
        assert fake.requests["/v1/chat/completions"] - fake.statuses[429] == fake.total_paid > 4  # cut ones paid twice


@pytest.mark.parametrize("name", ["not_json", "wrong_type", "missing_key", "fenced", "refusal"])
def test_openai_faults_of_content(name: str) -> None:
    with FakeOpenAI(faults=Faults(**{name: 1.0})) as fake:
        client = client_of(fake)
        for at in range(20):
            message = ask(client, f"{at}").choices[0].message
            check_fault(name, message.content if name != "refusal" else message.refusal)
            assert (message.content is None) == (name == "refusal")
        assert fake.total_paid == 20


def check_fault(name: str, content: str | None) -> None:
    """Check that a text is broken in the way that was asked for."""
    assert content is not None
    if name == "refusal":
        assert content == REFUSAL
    elif name == "not_json":
        assert content == PROSE
    elif name == "fenced":
        assert content.startswith("```json\n") and content.endswith("\n```")
        assert conforms(json.loads(content[8:-4]), SCHEMA)
    else:
        found = json.loads(content)
        assert not conforms(found, SCHEMA)
        assert (found.keys() == SCHEMA["properties"].keys() and "helpful" in found["inner"]) == (name == "wrong_type")


def test_requests_one_by_one_see_the_same_faults_for_a_seed() -> None:
    def outcomes(seed: int) -> list[str]:
        found = []
        with FakeOpenAI(faults=Faults(rate_limit=0.3, server_error=0.2, not_json=0.3), seed=seed) as fake:
            client = client_of(fake)
            for at in range(30):
                try:
                    found.append(ask(client, f"{at}").choices[0].message.content)
                except openai.APIStatusError as error:
                    found.append(str(error.status_code))
        return found

    assert outcomes(1) == outcomes(1) != outcomes(2)


def test_an_answer_that_raises_is_a_500_the_test_can_see() -> None:
    def broken(messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> str:
        raise KeyError("mine")

    with FakeOpenAI(answer=broken) as fake:
        with pytest.raises(openai.InternalServerError):
            ask(client_of(fake))
        assert [type(failure) for failure in fake.failures] == [KeyError]
        assert not fake.paid


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_batch_from_upload_to_download() -> None:
    with FakeOpenAI() as fake:
        client = client_of(fake)
        file = upload(client, 8)
        assert client.files.retrieve(file).purpose == "batch"
        assert len(client.files.content(file).text.splitlines()) == 8
        made = client.batches.create(
            input_file_id=file,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"job": "7"},
        )
        assert (made.status, made.output_file_id, made.metadata) == ("validating", None, {"job": "7"})
        assert [(b.id, b.metadata) for b in client.batches.list()] == [(made.id, {"job": "7"})]
        first = client.batches.retrieve(made.id)
        assert first.request_counts is not None
        assert (first.status, first.request_counts.total, first.request_counts.completed) == ("in_progress", 8, 4)
        seen, batch = finish(client, made.id)
        assert seen == ["finalizing", "completed"]
        assert batch.request_counts.model_dump() == {"total": 8, "completed": 8, "failed": 0}
        assert batch.error_file_id is None
        lines = lines_of(client, batch.output_file_id)
        assert [line["custom_id"] for line in lines] == [f"pair-{at}" for at in range(8)]
        bodies = [line["response"]["body"] for line in lines]
        assert all(conforms(json.loads(body["choices"][0]["message"]["content"]), SCHEMA) for body in bodies)
        assert batch.usage.total_tokens == sum(body["usage"]["total_tokens"] for body in bodies)
        assert fake.paid == {key_of(f"Pair {at}"): 1 for at in range(8)}


def test_batch_that_expires_with_duplicates_out_of_order() -> None:
    with FakeOpenAI(faults=Faults(expire=1, duplicate_lines=0.5, reordered_lines=1), seed=5, batch_polls=2) as fake:
        client = client_of(fake)
        seen, batch = finish(client, begin(client, 30))
        assert seen == ["validating", "in_progress", "in_progress", "finalizing", "finalizing", "expired"]
        names = [line["custom_id"] for line in lines_of(client, batch.output_file_id)]
        lost = lines_of(client, batch.error_file_id)
        assert {line["error"]["code"] for line in lost} == {"batch_expired"}
        assert all(line["response"] is None for line in lost)
        done = set(names)
        assert done and lost and len(names) > len(done)
        assert done | {line["custom_id"] for line in lost} == {f"pair-{at}" for at in range(30)}
        assert done.isdisjoint(line["custom_id"] for line in lost)
        assert names != sorted(names, key=lambda name: int(name[5:]))
        assert fake.total_paid == len(done) == batch.request_counts.completed


def test_batch_with_lines_that_fail() -> None:
    with FakeOpenAI(faults=Faults(line_error=0.4, not_json=0.5), seed=1, batch_polls=0) as fake:
        client = client_of(fake)
        seen, batch = finish(client, begin(client, 30))
        output, errors = lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)
        assert seen == ["completed"]
        assert {line["response"]["status_code"] for line in errors} == {500}
        assert len(output) + len(errors) == 30 == batch.request_counts.completed + batch.request_counts.failed
        contents = [line["response"]["body"]["choices"][0]["message"]["content"] for line in output]
        assert 0 < contents.count(PROSE) < len(output) == fake.total_paid


def test_batch_that_is_cancelled_keeps_what_was_computed() -> None:
    with FakeOpenAI() as fake:
        client = client_of(fake)
        name = begin(client, 10)
        client.batches.retrieve(name)
        assert client.batches.cancel(name).status == "cancelling"
        seen, batch = finish(client, name)
        assert seen == ["cancelled"]
        assert len(lines_of(client, batch.output_file_id)) == 5 == fake.total_paid
        assert {line["error"]["code"] for line in lines_of(client, batch.error_file_id)} == {"batch_cancelled"}
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(name)


def test_batch_whose_input_is_wrong_fails() -> None:
    with FakeOpenAI() as fake:
        client = client_of(fake)
        file = upload(client, 2, custom_id="same")
        made = client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
        seen, batch = finish(client, made.id)
        assert (seen, [error.code for error in batch.errors.data]) == (["failed"], ["duplicate_custom_id"])
        assert batch.errors.data[0].line == 2
        assert not fake.paid


def test_batch_created_though_the_answer_was_cut() -> None:
    with FakeOpenAI() as fake:
        client = client_of(fake)
        file = upload(client, 2)
        fake.faults = Faults(half_body=1, everywhere=True)
        with pytest.raises(openai.APIConnectionError):
            client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
        assert list(fake.batch_statuses().values()) == ["validating"]
        fake.faults = Faults()
        assert len(client.batches.list().data) == 1


def test_unknown_names_and_pages_of_batches() -> None:
    with FakeOpenAI() as fake:
        client = client_of(fake)
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_none")
        with pytest.raises(openai.NotFoundError):
            client.files.content("file-none")
        names = [begin(client, 1) for _ in range(5)]
        assert [batch.id for batch in client.batches.list(limit=2)] == names[::-1]
        assert len(fake.file_ids("batch")) == 5


# --- Ollama -----------------------------------------------------------------------------------------------------------


def test_ollama_structured_output_and_models() -> None:
    with FakeOllama() as fake:
        found = ask_ollama(fake)
        assert conforms(json.loads(found.message.content or ""), SCHEMA)
        assert (found.done, found.done_reason) == (True, "stop")
        assert (found.eval_count or 0) > 0 and (found.prompt_eval_count or 0) > 0
        client = ollama.Client(host=fake.url)
        listed = {model.model: model.digest for model in client.list().models}
        assert listed == {name: fake.digest_of(name) for name in fake.models}
        assert client.show("qwen3:4b").details is not None
        assert httpx.post(f"{fake.url}/api/show", json={"model": "qwen3:4b"}).json()["digest"] == listed["qwen3:4b"]
        assert httpx.get(f"{fake.url}/api/version").json() == {"version": fake.version}
        with pytest.raises(ollama.ResponseError, match="not found"):
            client.show("none")
        loose = client.chat(model="x", messages=[{"role": "user", "content": "JSON"}], format="json")
        assert json.loads(loose.message.content or "")
        assert fake.paid == {key_of("Which one?"): 1, key_of("JSON"): 1}


@pytest.mark.parametrize(
    ("faults", "error", "paid"),
    [
        (Faults(rate_limit=1), ollama.ResponseError, 0),
        (Faults(server_error=1), ollama.ResponseError, 0),
        (Faults(timeout=1, timeout_seconds=5), httpx.ReadTimeout, 1),
        (Faults(half_body=1), httpx.RemoteProtocolError, 1),
        (Faults(auth=True), ollama.ResponseError, 0),
        (Faults(quota=True), ollama.ResponseError, 0),
    ],
    ids=["rate_limit", "server_error", "timeout", "half_body", "auth", "quota"],
)
def test_ollama_faults_of_transport(faults: Faults, error: type[Exception], paid: int) -> None:
    with FakeOllama(faults=faults) as fake:
        with pytest.raises(error) as caught:
            ask_ollama(fake, timeout=1 if faults.timeout else 20)
        assert fake.total_paid == paid
        if isinstance(caught.value, ollama.ResponseError):
            statuses = {503: faults.rate_limit, 500: faults.server_error, 401: faults.auth, 429: faults.quota}
            assert statuses[caught.value.status_code]


@pytest.mark.parametrize("name", ["not_json", "wrong_type", "missing_key", "fenced", "refusal"])
def test_ollama_faults_of_content(name: str) -> None:
    with FakeOllama(faults=Faults(**{name: 1.0})) as fake:
        check_fault(name, ask_ollama(fake).message.content)


# --- Many at once -----------------------------------------------------------------------------------------------------


def test_openai_concurrency() -> None:
    with FakeOpenAI(latency=0.1) as fake, client_of(fake) as client:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda at: ask(client, f"{at}"), range(32)))  # opens the connections
            fake.peak = 0
            begun = time.perf_counter()
            found = list(pool.map(lambda at: ask(client, f"{at % 64}"), range(128)))
            taken = time.perf_counter() - begun
        assert len(found) == 128
        assert fake.peak > 8
        assert taken < 128 * 0.1 / 2
        assert fake.total_paid == 160
        assert fake.paid == collections.Counter({key_of(f"{at}"): 3 if at < 32 else 2 for at in range(64)})


def test_ollama_concurrency() -> None:
    with FakeOllama(latency=0.1) as fake, ThreadPoolExecutor(32) as pool:
        begun = time.perf_counter()
        found = list(pool.map(lambda at: ask_ollama(fake, f"{at}"), range(64)))
        assert len(found) == len(fake.paid) == 64
        assert time.perf_counter() - begun < 64 * 0.1
        assert fake.peak > 4


def test_leaving_does_not_wait_for_a_sleeping_answer() -> None:
    with ThreadPoolExecutor(1) as pool:
        begun = time.perf_counter()
        with FakeOpenAI(faults=Faults(timeout=1, timeout_seconds=60)) as fake:
            client = client_of(fake, timeout=30)
            waiting = pool.submit(ask, client)
            while not fake.total_paid:
                time.sleep(0.01)
        assert waiting.exception(timeout=10) is None or isinstance(waiting.exception(), openai.APIConnectionError)
        assert time.perf_counter() - begun < 20


def test_made_values_cover_the_options() -> None:
    rng = random.Random(0)
    made = [make_value(SCHEMA, rng) for _ in range(100)]
    assert {value["verdict"] for value in made} == {"first", "second", "neither"}
    assert {value["score"] for value in made} == {1, 2, 3, 4, 5}
    assert {value["harmless"] for value in made} == {True, False}
