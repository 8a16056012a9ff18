"""Marks and tallies: whatever is written, in whatever order, no count is wrong, and precise writers stay so."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import catalog, commands, marks, tallies
from engine.store import Store, ensure_labeler, ensure_model
from tests.test_importers import run_import

NAMES = ("one", "two")
STEPS = st.sampled_from(["import", "score", "score more", "label", "unlabel", "reword", "delete", "undeclared",
                         "rolled back", "refresh"])  # fmt: skip


def write_source(folder: Path, name: str, n: int) -> Path:
    """Pairs of which two datasets share some; the last one says the same twice."""
    step = 1 + NAMES.index(name)
    numbers = range(step - 1, step - 1 + step * n, step)
    path = folder / f"{name}.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": f"no {i}" if i < numbers[-1] else f"yes {i}"}
            for i in numbers]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def act(store: Store, folder: Path, step: str, which: int) -> None:
    """One change of the store, of the dataset and owner that `which` names."""
    name = NAMES[which % 2]
    there = {one.name: one for one in catalog.datasets(store.read())}
    if step == "import" and name not in there:
        run_import(store, write_source(folder, name, 2 + which % 4), name)
    elif step == "delete" and name in there:
        commands.delete_dataset(store, name)
    elif step == "refresh":
        tallies.refresh(store)
    elif step in ("score", "score more", "rolled back"):
        rest = f"entry_id % {2 + which % 2} = {which % 2}" if step == "score more" else "true"
        try:
            with store.transaction() as con:
                model = ensure_model(con, f"m{which % 3}", "file", "1", {})
                marks.rows_of(con, "rewards", model).execute(
                    f"""INSERT INTO rewards SELECT entry_id, {model}, 1.0, 5, nullif(entry_id % 3, 1) = 0 FROM entries e
                    WHERE {rest} AND NOT EXISTS (
                        SELECT 1 FROM rewards o WHERE o.entry_id = e.entry_id AND o.model_id = {model})"""
                )
                if step == "rolled back":
                    raise InterruptedError
        except InterruptedError:
            pass
    elif step == "undeclared":
        with store.transaction() as con:
            con.execute("DELETE FROM rewards WHERE entry_id % 2 = ?", [which % 2])
    elif step in ("label", "unlabel"):
        with store.transaction() as con:
            labeler = ensure_labeler(con, f"b{which % 3}", "rule", "1", {})
            rows = marks.rows_of(con, "labels", labeler)
            rows.execute("DELETE FROM labels WHERE labeler_id = ?", [labeler])
            if step == "label":
                rows.execute("INSERT INTO labels SELECT entry_id, f, ?, 1, NULL FROM entries, range(1, 3) t(f) "
                             "WHERE entry_id % 3 <> f", [labeler])  # fmt: skip
    elif step == "reword":
        with store.transaction() as con:
            con.execute("INSERT INTO rewrites SELECT entry_id, entry_id, 'r', 0.9, now()::TIMESTAMP FROM entries")


def direct(store: Store, dataset_id: int) -> tuple[tallies.Rewards, tallies.Labels]:
    """The counts as SQL over the whole tables gives them."""
    con = store.read()
    here = f"SEMI JOIN {tallies.ENTRIES_OF} d USING (entry_id)"
    rewards = con.execute(f"SELECT model_id, count(*), count(*) FILTER (truncated) FROM rewards {here} GROUP BY 1",
                          {"dataset": dataset_id}).fetchall()  # fmt: skip
    labels = con.execute(f"SELECT labeler_id, feature_id, count(*) FROM labels {here} GROUP BY ALL",
                         {"dataset": dataset_id}).fetchall()  # fmt: skip
    return {m: (n, cut) for m, n, cut in rewards}, {(b, f): n for b, f, n in labels}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(STEPS, st.integers(0, 11)), min_size=4, max_size=12))
def test_tallies_equal_direct_counts_after_anything(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name, Store(Path(name) / "home") as store:
        for step, which in [("import", 0), *steps]:
            act(store, Path(name), step, which)
            for one in catalog.datasets(store.read()):
                found = tallies.rewards(store.read(), one.dataset_id), tallies.labels(store.read(), one.dataset_id)
                assert found == direct(store, one.dataset_id), (step, which)
        tallies.refresh(store)
        for one in catalog.datasets(store.read()):
            assert tallies.rewards(store.read(), one.dataset_id) == direct(store, one.dataset_id)[0]
            assert not tallies._kept(store.read(), one.dataset_id, "labels")[1]


def test_only_what_was_written_is_counted_again_and_claims_empty_no_cache(store: Store, tmp_path: Path) -> None:
    act(store, tmp_path, "import", 0)
    for which in (0, 1):
        act(store, tmp_path, "score", which)
    assert tallies.refresh(store) == 2 and tallies.refresh(store) == 0
    before = store.version
    act(store, tmp_path, "score more", 1)
    assert tallies.refresh(store) == 1 and store.version == before + 1
    before = store.version
    with store.transaction() as con:
        con.execute("INSERT INTO claims VALUES (1, 1, 'ann', now()::TIMESTAMP)")
    assert store.version == before


def test_a_dense_dataset_has_a_span_and_one_that_shares_entries_has_none(store: Store, tmp_path: Path) -> None:
    act(store, tmp_path, "import", 2)
    act(store, tmp_path, "import", 3)
    tallies.refresh(store)
    con = store.read()
    one, two = catalog.datasets(con)
    assert tallies.span(con, one.dataset_id) is not None and tallies.span(con, two.dataset_id) is None
    for data in (one, two):
        condition = tallies.within(con, data.dataset_id)
        found = con.execute(f"SELECT entry_id FROM entries WHERE {condition} ORDER BY 1").fetchall()
        wanted = con.execute(f"FROM {tallies.ENTRIES_OF} ORDER BY 1", {"dataset": data.dataset_id}).fetchall()
        assert found == wanted


@pytest.mark.parametrize(("sql", "moved", "loud"), [
    ("INSERT INTO rewards VALUES (1, 1, 1, 1, false)", {("rewards", -1)}, True),
    ("DELETE FROM labels", {("labels", -1)}, True), ("UPDATE pairs SET flags = 0", {("pairs", -1)}, True),
    ("INSERT OR REPLACE INTO rewrites VALUES (1, 1, 'r', 1, NULL)", {("rewrites", -1)}, True),
    ("INSERT INTO claims VALUES (1, 1, 'a', NULL)", set(), False), ("SELECT 1", set(), False),
])  # fmt: skip
def test_a_transaction_notices_what_it_writes(store: Store, sql: str, moved: set[object], loud: bool) -> None:
    with store._con.cursor() as cursor:
        writing = marks.Writing(cursor)
        writing._note(sql)
        assert writing.moved == moved and writing.loud == loud
