"""OpenAI's Batch API used so that nothing is lost and nothing paid twice, against a server that misbehaves."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import batches
from engine.batches import Outcome
from engine.records import SignetError
from engine.settings import ROOT
from tests.fakes import FakeOpenAI, Faults, key_of

openai = pytest.importorskip("openai")

KEY = "sk-planted-7f3a91c2d4e8b605"
pytestmark = pytest.mark.timeout(180)
WORKER = """
import sys
from pathlib import Path
import openai, openai.resources.batches, openai.resources.files
from engine import batches
from tests.test_batches import requests_of
batches.BACKOFF_SECONDS = 0.01
client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-test")
print("ready", flush=True)
batches.run(client, requests_of(int(sys.argv[3])), Path(sys.argv[2]), "fp", max_lines=int(sys.argv[4]), poll_seconds=0)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long waits between tries."""
    monkeypatch.setattr(batches, "BACKOFF_SECONDS", 0.001)


def requests_of(count: int, start: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Requests that differ in their last message; some with text that is hard to carry."""
    return [
        (f"id-{n:05d}", {"model": "gpt-5-mini", "messages": [{"role": "user", "content": f"Item {n} ü\u2028{n % 7}"}]})
        for n in range(start, start + count)
    ]


def client_of(fake: FakeOpenAI, key: str = "sk-test") -> Any:
    return openai.OpenAI(base_url=fake.url, api_key=key)


def go(fake: FakeOpenAI, requests: list[tuple[str, dict[str, Any]]], folder: Path, **more: Any) -> Outcome:
    return batches.run(client_of(fake), requests, folder, "fp", **{"poll_seconds": 0.0, **more})


def check_sorted(outcome: Outcome, requests: list[tuple[str, dict[str, Any]]]) -> None:
    """Every id is in exactly one place."""
    places = [*outcome.results, *outcome.failed, *outcome.missing]
    assert sorted(places) == sorted(identity for identity, _ in requests)


def check_paid_once(fake: FakeOpenAI, requests: list[tuple[str, dict[str, Any]]], outcome: Outcome) -> None:
    """Each result was paid once, and nothing else was."""
    keys = {identity: key_of(body["messages"][-1]["content"]) for identity, body in requests}
    assert set(fake.paid.values()) <= {1}
    assert set(fake.paid) == {keys[identity] for identity in outcome.results}
    assert not fake.failures


def inputs(fake: FakeOpenAI) -> list[bytes]:
    return [fake._file(name).content for name in fake.file_ids("batch")]


def test_parts_are_cut_by_lines_whatever_the_order(tmp_path: Path) -> None:
    with FakeOpenAI() as fake:
        requests = requests_of(25)
        outcome = go(fake, requests, tmp_path / "a", max_lines=10)
        assert [content.count(b"\n") for content in inputs(fake)] == [10, 10, 5]
        assert len(outcome.results) == 25 and outcome.batches == 3 and outcome.missing == []
        again = go(fake, requests[::-1], tmp_path / "a", max_lines=7)  # a folder keeps its limits
        assert again == outcome and len(fake.file_ids("batch")) == 3
        check_paid_once(fake, requests, outcome)


def test_parts_are_cut_by_bytes(tmp_path: Path) -> None:
    with FakeOpenAI() as fake:
        requests = requests_of(40)
        outcome = go(fake, requests, tmp_path, max_bytes=1500)
        sizes = [len(content) for content in inputs(fake)]
        longest = max(len(batches._line(*request)) for request in requests)
        assert max(sizes) <= 1500 and min(sizes[:-1]) > 1500 - longest and len(sizes) > 2
        assert all(len(content.decode().splitlines()) == content.count(b"\n") for content in inputs(fake))
        check_paid_once(fake, requests, outcome)
        with pytest.raises(SignetError, match="id-00000 has"):
            go(fake, requests, tmp_path / "b", max_bytes=100)


def test_input_that_cannot_be_a_batch(tmp_path: Path) -> None:
    with FakeOpenAI() as fake:
        with pytest.raises(SignetError, match="same custom_id"):
            go(fake, requests_of(2) + requests_of(1), tmp_path)
        assert go(fake, [], tmp_path / "none") == Outcome({}, {}, [], 0, 0)
        assert not fake.requests
        surrogate = [("x", {"model": "m", "messages": [{"role": "user", "content": "a\ud800b"}]})]
        assert set(go(fake, surrogate, tmp_path / "s").results) == {"x"}
        with pytest.raises(SignetError, match="other requests"):
            go(fake, requests_of(3), tmp_path / "s")


def test_three_thousand_requests_with_faults(tmp_path: Path) -> None:
    faults = Faults(expire=0.2, duplicate_lines=0.1, reordered_lines=0.5, line_error=0.05, not_json=0.02)
    seen: list[tuple[int, int]] = []
    with FakeOpenAI(faults=faults, seed=3) as fake:
        requests = requests_of(3000)
        outcome = go(fake, requests, tmp_path, max_lines=500, on_progress=lambda *at: seen.append(at))
        statuses = list(fake.batch_statuses().values())
        print(
            f"3000 requests: results {len(outcome.results)}, failed {len(outcome.failed)}, missing "
            f"{len(outcome.missing)}, duplicates {outcome.duplicates}, batches {outcome.batches}, paid "
            f"{fake.total_paid}, most often {max(fake.paid.values())}, {statuses}"
        )
        assert statuses.count("expired") == 1 and len(statuses) == outcome.batches == 6
        check_sorted(outcome, requests)
        check_paid_once(fake, requests, outcome)
        assert outcome.results and outcome.failed and outcome.missing and outcome.duplicates
        assert all("status 500" in said for said in outcome.failed.values())
        assert seen[-1][1] == 3000 and seen == sorted(seen)
        fake.faults = Faults()
        rest = [request for request in requests if request[0] in {*outcome.missing, *outcome.failed}]
        second = go(fake, rest, tmp_path / "rest")
        assert second.missing == [] and not second.failed
        assert set(fake.paid.values()) == {1} and fake.total_paid == 3000


def test_results_belong_to_their_requests(tmp_path: Path) -> None:
    def echo(messages: list[dict[str, Any]], schema: object) -> str:
        return messages[-1]["content"]

    with FakeOpenAI(echo, Faults(duplicate_lines=0.5, reordered_lines=1.0)) as fake:
        requests = requests_of(100)
        outcome = go(fake, requests, tmp_path, max_lines=30)
        for identity, body in requests:
            assert outcome.results[identity]["choices"][0]["message"]["content"] == body["messages"][-1]["content"]


KILLS = int(os.environ.get("SIGNET_KILLS", "10"))


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGNET_KILLS=20 runs it at the size of the issue; a worker that is done before its kill does not count."""
    rng = random.Random(11)
    killed = 0
    with FakeOpenAI(latency=0.02) as fake:
        requests = requests_of(120)
        arguments = [sys.executable, "-c", WORKER, fake.url, str(tmp_path / "killed"), "120", "15"]
        states: list[str] = []
        for _ in range(KILLS):
            worker = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            assert worker.stdout and worker.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.02, 0.3))
            worker.kill()
            killed += worker.wait() == -9
            worker.stdout.close()
            plan = batches._plan(tmp_path / "killed")
            states.append("/".join(sorted({part["state"] for part in plan["parts"]})) if plan else "nothing")
        outcome = go(fake, requests, tmp_path / "killed", max_lines=15)
        print(
            f"killed {killed} times at {states}: results {len(outcome.results)} of 120, paid {fake.total_paid}, "
            f"most often {max(fake.paid.values())}, batches {len(fake.batch_statuses())} for 8 parts"
        )
        assert killed and len(outcome.results) == 120 and len(fake.batch_statuses()) == 8
        check_sorted(outcome, requests)
        check_paid_once(fake, requests, outcome)


class Death(BaseException):
    """As good as SIGKILL: nothing in the engine catches it."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """Dies before (or right after) the nth request to the API or the nth write, for every n."""
    steps = 0
    requests = requests_of(9)

    def dying(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
        def step(*args: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Death
            found = call(*args, **more)
            if left[0] == 0:
                raise Death
            return found

        return step

    for n in range(1, 200):
        left = [n]
        with FakeOpenAI(batch_polls=0) as fake, monkeypatch.context() as patch:
            patch.setattr(batches, "_write", dying(batches._write, left))
            patch.setattr(openai.OpenAI, "request", dying(openai.OpenAI.request, left))
            try:
                go(fake, requests, tmp_path / str(n), max_lines=3)
            except Death:
                steps += 1
            patch.undo()
            patch.setattr(batches, "BACKOFF_SECONDS", 0.0)
            outcome = go(fake, requests, tmp_path / str(n), max_lines=3)
            assert len(outcome.results) == 9 and len(fake.batch_statuses()) == 3, n
            check_paid_once(fake, requests, outcome)
        if left[0] > 0:
            break
    print(f"died {'after' if after else 'before'} each of {steps} steps")
    assert 20 < steps < 199


@pytest.mark.parametrize("seed", range(4))
def test_lost_answers_pay_nothing_twice(tmp_path: Path, seed: int) -> None:
    slow = {"timeout": 0.1, "timeout_seconds": 0.4} if seed == 3 else {}
    faults = Faults(half_body=0.35, rate_limit=0.1, server_error=0.1, everywhere=True, retry_after=0.01, **slow)
    with FakeOpenAI(faults=faults, seed=seed) as fake:
        requests = requests_of(200)
        failures = 0
        while True:
            try:
                client = client_of(fake).with_options(timeout=0.3)
                outcome = batches.run(client, requests, tmp_path, "fp", max_lines=20, poll_seconds=0.0)
                break
            except SignetError:
                failures += 1
                assert failures < 20
        print(
            f"half bodies, seed {seed}: paid {fake.total_paid}, most often {max(fake.paid.values())}, batches "
            f"{len(fake.batch_statuses())} for 10 parts, {fake.statuses.total()} answers, run again {failures} times"
        )
        assert len(fake.batch_statuses()) == 10 and len(outcome.results) == 200
        check_paid_once(fake, requests, outcome)


def test_lost_answer_to_create_is_found_among_many_batches(tmp_path: Path) -> None:
    with FakeOpenAI() as fake:
        requests = requests_of(10)
        client = client_of(fake)
        folder = tmp_path / "x"

        class Lost(Exception):
            pass

        def create(*args: Any, **more: Any) -> Any:
            real(*args, **more)
            raise Lost

        real = openai.resources.batches.Batches.create
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(openai.resources.batches.Batches, "create", create)
            with pytest.raises(SignetError):
                go(fake, requests, folder)
        other = client.files.create(file=("o.jsonl", batches._line("o", requests_of(1)[0][1])), purpose="batch").id
        asked = {"input_file_id": other, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        for n in range(230):
            client.batches.create(**asked, metadata={"signet": "fp", "ids": str(n)} if n % 2 else None)
        outcome = go(fake, requests, folder)
        assert len(outcome.results) == 10 and len(fake.batch_statuses()) == 231
        check_paid_once(fake, requests, outcome)
        assert len(go(fake, requests, tmp_path / "folder was lost").results) == 10
        assert len(fake.batch_statuses()) == 231 and fake.requests["/v1/batches"] < 250


def test_no_message_tells_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TRIES", 2)
    everything = [Faults(auth=True), Faults(quota=True), Faults(half_body=1.0, everywhere=True)]
    everything += [Faults(rate_limit=1.0, everywhere=True, retry_after=0.0), Faults(server_error=1.0, everywhere=True)]
    told: list[str] = []
    with FakeOpenAI() as fake:
        masked = fake._broken

        def leaky() -> Any:
            error = masked()
            error.payload["error"]["message"] = f"The key {KEY} met a server that had an error. Sorry"
            return error

        monkeypatch.setattr(fake, "_broken", leaky)
        for n, faults in enumerate(everything):
            fake.faults = faults
            with pytest.raises(SignetError) as caught:
                batches.run(client_of(fake, KEY), requests_of(3), tmp_path / str(n), "fp", poll_seconds=0.0)
            assert KEY not in "".join(traceback.format_exception(caught.value))
            told.append(str(caught.value))
        assert "***" in told[-1] and all(said.count(". ") == 0 and said.endswith(".") for said in told), told
        assert "Incorrect API key" in told[0] and "exceeded your current quota" in told[1]
        before = fake.requests["/v1/batches"]
        fake.faults = Faults(auth=True)
        with pytest.raises(SignetError):
            go(fake, requests_of(3), tmp_path / "once")
        assert fake.requests["/v1/batches"] == before + 1, "a refused key is not tried again"
        fake.faults = Faults(line_error=1.0)
        outcome = batches.run(client_of(fake, KEY), requests_of(3), tmp_path / "lines", "fp2", poll_seconds=0.0)
        assert len(outcome.failed) == 3 and all(KEY not in said and "***" in said for said in outcome.failed.values())
        assert not [path for path in tmp_path.rglob("batches.json") if KEY in path.read_text(encoding="utf-8")]


def test_refused_input_is_told_and_can_be_tried_again(tmp_path: Path) -> None:
    with FakeOpenAI() as fake:
        requests = requests_of(4)
        mixed = [*requests[:3], (requests[3][0], {**requests[3][1], "model": "gpt-4o-mini"})]
        with pytest.raises(SignetError, match="model of all requests in a batch must be the same"):
            go(fake, mixed, tmp_path)
        outcome = go(fake, requests, tmp_path)
        assert len(outcome.results) == 4
        check_paid_once(fake, requests, outcome)


def test_broken_and_foreign_lines(tmp_path: Path) -> None:
    with FakeOpenAI() as fake:
        requests = requests_of(6)
        go(fake, requests, tmp_path)
        path = tmp_path / "part-0.output.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        stranger = json.dumps({**json.loads(lines[0]), "custom_id": "stranger"})
        path.write_text(
            "\n".join(
                [
                    lines[0][:40],
                    "[1]",
                    '{"custom_id": "id-00001", "error": "?", "response": 5}',
                    stranger,
                    *lines[1:],
                    lines[1],
                    "",
                ]
            ),
            encoding="utf-8",
        )
        outcome = go(fake, requests, tmp_path)
        assert (
            outcome.missing == ["id-00000"]
            and len(outcome.results) == 5
            and outcome.duplicates == 2
            and not outcome.failed
        )
        path.unlink()  # what was paid for is fetched again, not asked for again
        assert len(go(fake, requests, tmp_path).results) == 6
        assert set(fake.paid.values()) == {1}


def test_stop_goes_on_later_and_cancel_keeps_what_there_is(tmp_path: Path) -> None:
    with FakeOpenAI(batch_polls=3) as fake:
        requests = requests_of(40)
        polled: list[int] = []
        more = {"on_progress": lambda done, total: polled.append(done), "stop": lambda: len(polled) == 4}
        first = go(fake, requests, tmp_path, max_lines=20, **more)
        assert len(first.missing) == 40 and len(fake.batch_statuses()) == 2
        batches.cancel(client_of(fake), tmp_path)
        assert set(fake.batch_statuses().values()) == {"cancelling"}
        outcome = go(fake, requests, tmp_path)
        batches.cancel(client_of(fake), tmp_path)
        print(f"cancelled: results {len(outcome.results)}, missing {len(outcome.missing)}, paid {fake.total_paid}")
        assert set(fake.batch_statuses().values()) == {"cancelled"} and outcome.missing
        check_sorted(outcome, requests)
        check_paid_once(fake, requests, outcome)
        rest = [request for request in requests if request[0] in outcome.missing]
        assert len(go(fake, rest, tmp_path / "rest").results) == len(rest)
        assert set(fake.paid.values()) == {1} and fake.total_paid == 40
