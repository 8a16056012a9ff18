"""Broken files: each gives one clear sentence or a counted skip, and the store stays as it was."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import catalog, jobs, pair_frames
from engine.records import SignetError
from engine.store import Store
from tests.test_importers import run_import

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
LINE = (json.dumps(GOOD) + "\n").encode()


def lines(*rows: Any) -> bytes:
    return b"".join(row if isinstance(row, bytes) else (json.dumps(row) + "\n").encode() for row in rows)


def parquet(folder: Path) -> bytes:
    path = folder / "whole.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD] * 5000), path)
    return path.read_bytes()


def arrow(folder: Path) -> bytes:
    path = folder / "whole.arrow"
    table = pa.Table.from_pylist([GOOD] * 5000)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    return path.read_bytes()


def bomb() -> bytes:
    return gzip.compress(b"prompt,chosen,rejected\n" + (b"p," + b"x" * 100_000 + b",y\n") * 6000, 9)


def noise(n: int) -> bytes:
    import random

    return random.Random(3).randbytes(n)


# name: file name, bytes (or a function of the folder), what the one sentence must say
REFUSED: dict[str, tuple[str, bytes | Callable[[Path], bytes], str]] = {
    "truncated gz": ("a.jsonl.gz", gzip.compress(LINE * 9000 + noise(4000))[:-2000], "damaged or cut off"),
    "truncated zst": ("a.jsonl.zst", zstandard.ZstdCompressor().compress(LINE * 9000 + noise(4000))[:-900], "damaged or cut off"),
    "garbage in gz": ("a.jsonl.gz", gzip.compress(LINE * 50)[:20] + noise(400), "damaged or cut off"),
    "empty file": ("a.jsonl", b"", "empty"),
    "blank file": ("a.csv", b"  \n \n\t\n", "blank"),
    "empty gz": ("a.jsonl.gz", gzip.compress(b""), "blank"),
    "only a header": ("a.csv", b"prompt,chosen,rejected\n", "no rows"),
    "binary junk": ("a.jsonl", b"\x00\x01" + noise(500), "can be read"),
    "junk named parquet": ("a.parquet", noise(300), "can be read"),
    "a zip": ("a.zip", b"PK\x03\x04" + noise(50), "zip archives"),
    "truncated parquet": ("a.parquet", lambda f: parquet(f)[:-400], "damaged or cut off"),
    "truncated arrow": ("a.arrow", lambda f: arrow(f)[:-4000], "damaged or cut off"),
    "json cut in the middle": ("a.json", (json.dumps([GOOD] * 40)[:-30]).encode(), "after record"),
    "json with trailing garbage": ("a.json", json.dumps([GOOD]).encode() + b"]] trailing", "not valid JSON"),
    "json without a list": ("a.json", b'{"a": {"b": 1},\n "c": 2}', "no list of records"),
    "json that is a number": ("a.json", b"42", "not JSON"),
    "text named jsonl": ("a.jsonl", b"hello there\nhow are you", "not JSON"),
    "wrong encoding csv": ("a.csv", "prompt,chosen,rejected\nça,vä,ñ\n".encode("latin-1"), "not utf-8"),
    "wrong encoding later": ("a.csv", b"prompt,chosen,rejected\n" + b"a,b,c\n" * 60000 + b"\xe9,b,c\n", "not utf-8"),
    "csv with an open quote": ("a.csv", b'prompt,chosen,rejected\n"a,b,c\n' + b"x,y,z\n" * 3_000_000, "quotation mark"),
    "csv with a column twice": ("a.csv", b"prompt,chosen,chosen\na,b,c\n", "twice"),
    "one 50 MB line": ("a.jsonl", b'{"prompt": "' + b"x" * 50_000_000 + b'"}', "longer than 16 MB"),
    "one 50 MB csv line": ("a.csv", b"prompt,chosen,rejected\n" + b"x" * 50_000_000, "longer than 16 MB"),
    "zip bomb": ("a.csv.gz", bomb(), "times its size"),
    "unknown columns": ("a.jsonl", lines({"foo": "1", "bar": "2"}), "no known shape"),
    "missing column": ("a.csv", b"prompt,chosen\na,b\n", "no known shape"),
    "too many columns": ("a.csv", ",".join(f"c{i}" for i in range(5000)).encode() + b"\n", "columns"),
    "all null": ("a.jsonl", lines(*[{"prompt": "p", "chosen": None, "rejected": None}] * 3), "null"),
    "nothing but ties": (
        "a.jsonl",
        lines({"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 0}),
        "tie",
    ),
    "pairs and single answers mixed": ("a.jsonl", lines(GOOD, {"prompt": "p", "response": "x"}), ""),
    "lists instead of objects": ("a.jsonl", lines([1, 2], [3]), "not valid JSON"),
    "objects in strings": ("a.json", json.dumps(["a", "b"]).encode(), "expected"),
    "deep nesting": ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "unknown roles": (
        "a.jsonl",
        lines({"chosen": [{"role": "wizard", "content": "x"}], "rejected": [{"role": "user", "content": "y"}]}),
        "wizard",
    ),
    "numbers for dialogues": ("a.jsonl", lines({"prompt": "p", "chosen": {"x": 1}, "rejected": "r"}), "not a text"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_broken_files_get_one_sentence_and_change_nothing(
    name: str, tmp_path: Path, store: Store, sample_file: Path
) -> None:
    run_import(store, sample_file, "before")
    before = snapshot(store)
    file_name, content, words = REFUSED[name]
    path = tmp_path / file_name
    path.write_bytes(content if isinstance(content, bytes) else content(tmp_path))
    if name == "pairs and single answers mixed":
        report = run_import(store, path, "broken")  # the second row has no chosen: skipped, said where
        assert report["pairs"] == 1 and "a.jsonl:2" in str(report["skipped"])
        return
    with pytest.raises(SignetError) as caught:
        run_import(store, path, "broken")
    sentence = str(caught.value)
    import re

    assert re.search(words, sentence), sentence
    assert file_name in sentence and "\n" not in sentence and 20 < len(sentence) < 400
    assert snapshot(store) == before
    assert run_import(store, sample_file, "after")["pairs"] == 6


def snapshot(store: Store) -> list[Any]:
    con = store.read()
    tables = ("datasets", "pairs", "entries", "prompts", "rewards", "labels")
    return [con.execute(f"SELECT count(*), bit_xor(hash(t)) FROM {name} t").fetchone() for name in tables]


# name: file name, bytes, pairs kept, and for each skipped row what must be said
SKIPPED: dict[str, tuple[str, bytes, int, list[str]]] = {
    "bad lines between good ones": ("a.jsonl", lines(GOOD, b"{oops\n", GOOD, b"\n", b"[1]\n", GOOD), 3, ["a.jsonl:2", "a.jsonl:5"]),
    "bad bytes in one line": ("a.jsonl", lines(GOOD, b'{"prompt": "\xff\xfe"}\n', GOOD), 2, ["a.jsonl:2", "UTF-8"]),
    "one huge line between good ones": ("a.jsonl", lines(GOOD, b'{"p": "' + b"x" * 20_000_000 + b'"}\n', GOOD), 2, ["a.jsonl:2", "16 MB"]),
    "ragged csv": ("a.csv", b"prompt,chosen,rejected\na,b,c\na,b\na,b,c,d\n", 1, ["a.csv:3", "a.csv:4", "2 fields", "4 fields"]),
    "nested nulls": ("a.jsonl", lines({"chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}],
                                       "rejected": [{"role": "user", "content": "x"}]},
                                      {"chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
                                       "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "z"}]}),
                     1, ["chosen is null"]),
    "mixed types": ("a.jsonl", lines(GOOD, {**GOOD, "chosen": 4.5}, {**GOOD, "rejected": True}, {**GOOD, "chosen": {}}), 2, ["not a text"]),
    "NaN": ("a.jsonl", lines(GOOD, b'{"prompt": "p", "chosen": "c", "rejected": "r", "score": NaN}\n'), 2, []),
    "trailing line without its end": ("a.jsonl", lines(GOOD) + b'{"prompt": "p", "ch', 1, ["a.jsonl:2"]),
    "byte order marks": ("a.csv", b"\xef\xbb\xbfprompt,chosen,rejected\na,b,c\n", 1, []),
    "utf-16": ("a.csv", "prompt,chosen,rejected\nä,b,c\n".encode("utf-16"), 1, []),
    "carriage returns only": ("a.csv", b"prompt,chosen,rejected\ra,b,c\rd,e,f\r", 2, []),
    "NULs and lone surrogates": ("a.jsonl", b'{"prompt": "p\\u0000", "chosen": "\\ud800x", "rejected": "r"}\n', 1, []),
    "wrong ending": ("a.csv", lines(GOOD, GOOD), 2, []),
    "jsonl named json": ("a.json", lines(GOOD, GOOD), 2, []),
    "conversation that ends with the user": ("a.jsonl", lines({"conversations": [{"from": "human", "value": "hi"}]},
                                             {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}), 1,
                                             ["does not end with the assistant"]),
    "empty strings": ("a.jsonl", lines({"prompt": "", "chosen": "", "rejected": ""}), 1, []),
}  # fmt: skip


@pytest.mark.parametrize("name", SKIPPED)
def test_bad_rows_are_skipped_counted_and_located(name: str, tmp_path: Path, store: Store) -> None:
    file_name, content, kept, words = SKIPPED[name]
    path = tmp_path / file_name
    path.write_bytes(content)
    report = run_import(store, path)
    assert report["pairs"] == kept
    for word in words:
        assert word in str(report["skipped"])
    assert not words or report["skipped"]
    assert pair_frames.detail(store.read(), 1, 0).pair_id


def test_a_folder_without_data_and_a_pattern_without_match(tmp_path: Path, store: Store) -> None:
    (tmp_path / "empty").mkdir()
    for source, words in ((tmp_path / "empty", "no data file"), (f"{tmp_path}/*.nope", "no file matches"),
                          (tmp_path / "gone.jsonl", "no such file")):  # fmt: skip
        with pytest.raises(SignetError, match=words):
            run_import(store, source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE)
    path.chmod(0)
    with pytest.raises(SignetError, match="cannot be opened"):
        run_import(store, path)


def test_a_name_that_is_taken_is_refused(store: Store, sample_file: Path) -> None:
    run_import(store, sample_file, "one")
    with pytest.raises(SignetError, match="exists"):
        run_import(store, sample_file, "one")
    assert len(catalog.datasets(store.read())) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["prompt", "chosen", "rejected", "messages", "conversations", "answers", "response", "x"])


@given(st.lists(st.dictionaries(fields, json_values, max_size=5) | json_values, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_crashes_the_import(tmp_path: Path, rows: list[Any]) -> None:
    """Any JSON values as lines: a report, or one sentence."""
    from engine import datasets

    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = jobs.create(tmp_path, "import", "any", "any", {"source": str(path), "options": {}})
    try:
        datasets.import_parts(job)
        report = jobs.read_json(job.path("report.json"))
        assert report["pairs"] >= 1
    except SignetError as error:
        assert str(error)
    finally:
        jobs.set_state(job, state="done")
        jobs.remove(job)
