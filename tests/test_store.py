"""The store: content addresses, deletion, limits, ownership handed over, filters round trip."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import catalog, filters, jobs, search
from engine.client import Client
from engine.filters import Filter
from engine.records import Entry, SignetError, Turn, entry_hash, prompt_hash, turns_from_json, turns_to_json
from engine.store import RELEASE, Store, ask_to_release
from tests.conftest import wait_for
from tests.test_importers import run_import

turns = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant", "system"]), st.text(max_size=30)), max_size=4)


@given(turns, st.text(max_size=30))
def test_turns_round_trip_and_the_hash_is_of_the_content(prompt: list[Turn], response: str) -> None:
    text = turns_to_json(prompt)
    assert list(turns_from_json(text)) == prompt
    entry = Entry(tuple(prompt), response)
    assert entry.hash == entry_hash(prompt_hash(text), response) and len(entry.hash) == 32
    assert Entry(tuple(prompt), response + "x").hash != entry.hash


@given(st.sampled_from(sorted(filters.FIELDS)), st.text(max_size=20), st.text(max_size=20))
def test_filters_round_trip_through_an_address(kind: str, one: str, other: str) -> None:
    fields = dict(zip(filters.FIELDS[kind], (one, other)))
    made = Filter.of(kind, **fields)
    assert Filter.from_text(made.to_text()) == made
    assert isinstance(made.describe(), str)


def test_the_same_text_is_stored_once_and_deletion_keeps_what_others_use(store: Store, sample_file: Path) -> None:
    from engine import commands

    run_import(store, sample_file, "one")
    rows = [json.loads(line) for line in sample_file.read_text().splitlines()][:2]
    half = sample_file.with_name("half.jsonl")
    half.write_text("".join(json.dumps(row) + "\n" for row in rows))
    con = store.read()
    before = con.execute("SELECT count(*) FROM entries").fetchone()
    run_import(store, half, "two")
    assert con.execute("SELECT count(*) FROM entries").fetchone() == before
    with store.transaction() as writing:
        writing.execute("INSERT INTO rewards SELECT entry_id, 1, 0.5, NULL, NULL FROM entries")
    commands.delete_dataset(store, "one")
    assert con.execute("SELECT count(*) FROM entries").fetchone() == (4,)
    assert con.execute("SELECT count(*) FROM rewards").fetchone() == (4,)
    assert [d.name for d in catalog.datasets(con)] == ["two"]
    commands.delete_dataset(store, "two")
    for table in ("pairs", "entries", "prompts", "rewards"):
        assert con.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert run_import(store, sample_file, "one")["pairs"] == 6


def test_a_limit_draws_whole_pairs_and_the_rest_can_follow(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wait_for(client, client.call("import", source=str(path), name="d")["job"])

    def label(limit: int | None) -> int:
        started = client.call("label", dataset="d", labeler="surface", taxonomy_name="surface", limit=limit)
        wait_for(client, started["job"])
        return client.call("info", dataset="d")["labelers"][0]["entries"]

    assert label(10) == 20
    assert client._owner is not None
    con = client._owner.store.read()
    sides = con.execute("""SELECT count(*) FROM pairs WHERE chosen IN (SELECT entry_id FROM labels)
        AND rejected IN (SELECT entry_id FROM labels)""").fetchone()
    assert sides == (10,)
    assert label(10) == 20
    assert label(None) == 100


def test_a_command_hands_the_store_to_a_dashboard_that_asks(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": f"yes {i} " * 30, "rejected": f"no {i}"} for i in range(4000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Client(home) as command:
        wait_for(command, command.call("import", source=str(path), name="d")["job"])
        started = command.call("label", dataset="d", labeler="surface", taxonomy_name="surface")
        taken: list[Store] = []

        def dashboard() -> None:
            from engine.owner import Owner

            for _ in range(400):
                try:
                    store = Store(home)
                except SignetError:
                    ask_to_release(home)
                    threading.Event().wait(0.05)
                    continue
                owner = Owner(store)
                owner.start()
                taken.append(store)
                while jobs.read_state(jobs.require(home, started["job"])).state not in jobs.ENDED:
                    threading.Event().wait(0.1)
                owner.close()
                return

        thread = threading.Thread(target=dashboard)
        thread.start()
        wait_for(command, started["job"])
        thread.join(timeout=60)
        assert taken and not (home / RELEASE).exists()
        con = taken[0].read()
        assert con.execute("SELECT count(DISTINCT entry_id) FROM labels").fetchone() == (8000,)
        taken[0].close()


def test_unknown_filters_and_sorts_get_a_sentence(store: Store, sample_file: Path) -> None:
    run_import(store, sample_file, "d")
    con = store.read()
    for wrong in ("kind=nope", "kind=subset&colour=red", ""):
        with pytest.raises(SignetError):
            Filter.from_text(wrong)
    unknown = [
        Filter.of("flag", value="x"),
        Filter.of("aligned", model="m", value="yes"),
        Filter.of("regime", value="x"),
        Filter.of("label", taxonomy="seal", labeler="l", feature="f"),
    ]
    for bad in unknown:
        with pytest.raises(SignetError):
            search.find(con, 1, [bad])
    with pytest.raises(SignetError):
        search.find(con, 1, [], sort="by mood")
    assert search.find(con, 1, [], "no'such\"thing (").filtered == 0
    assert search.find(con, 1, [], page=9).filtered == 6
    assert search.find(con, 1, [Filter.of("subset", value="a")], '"river in"').filtered == 0
    assert search.find(con, 1, [Filter.of("subset", value="b")], '"river in"').filtered == 1
