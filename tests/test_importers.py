"""Every shape and file type, read through previews and whole import jobs. All samples are written here."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from engine import datasets, ingest, jobs, pair_frames
from engine.readers import dialogue_turns
from engine.readers_more import SHAPES
from engine.records import Entry, Pair, Turn
from engine.store import Store


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


# name: rows, number of records, number skipped, the first record's (chosen, rejected) or (response,)
SAMPLES: dict[str, tuple[list[dict[str, Any]], int, int, tuple[str, ...]]] = {
    "hh_rlhf": (
        [{"chosen": "\n\nHuman: Is rain salty?\n\nAssistant: No.", "rejected": "\n\nHuman: Is rain salty?\n\nAssistant: Yes."}],
        1, 0, ("No.", "Yes."),
    ),
    "strings": ([{"prompt": "Name a tree.", "chosen": "Oak.", "rejected": "Granite.", "id": 4}], 1, 0, ("Oak.", "Granite.")),
    "messages": (
        [{"prompt": "Hi", "prompt_id": "a", "chosen": chat("Hi", "Hello!"), "rejected": chat("Hi", "What."),
          "messages": chat("Hi", "Hello!"), "score_chosen": 8.0, "score_rejected": 3.0},
         {"prompt": "Hi", "prompt_id": "b", "chosen": chat("Hi", "Same"), "rejected": chat("Hi", "Other"),
          "messages": [], "score_chosen": 5.0, "score_rejected": 5.0}],
        1, 1, ("Hello!", "What."),
    ),
    "webgpt": (
        [{"question": {"dataset": "x", "id": "1", "full_text": "Why is grass green?"}, "quotes_0": {"t": ["s"]}, "quotes_1": {"t": ["s"]},
          "answer_0": "Moss.", "answer_1": "Chlorophyll.", "tokens_0": [], "tokens_1": [], "score_0": -0.5, "score_1": 0.5},
         {"question": {"full_text": "Why?"}, "answer_0": "a", "answer_1": "b", "score_0": 0.0, "score_1": 0.0}],
        1, 1, ("Chlorophyll.", "Moss."),
    ),
    "summarize": (
        [{"info": {"id": "1", "post": "My cat ate my plant twice.", "title": "Cat", "subreddit": "r/cats"},
          "summaries": [{"text": "A plant.", "policy": "p"}, {"text": "Cat keeps eating plant.", "policy": "q"}],
          "choice": 1, "worker": "w", "batch": "b", "split": "valid", "extra": {"c": 1}}],
        1, 0, ("Cat keeps eating plant.", "A plant."),
    ),
    "shp": (
        [{"history": "How do I store yeast?", "human_ref_A": "Warm.", "human_ref_B": "Cold and dry.", "labels": 0,
          "score_A": 2, "score_B": 9, "score_ratio": 4.5, "domain": "askbaking_train", "post_id": "p"}],
        1, 0, ("Cold and dry.", "Warm."),
    ),
    "safe_rlhf": (
        [{"prompt": "How to open a jar?", "response_0": "Smash it.", "response_1": "Use warm water.",
          "is_response_0_safe": False, "is_response_1_safe": True, "better_response_id": 1, "safer_response_id": 1}],
        1, 0, ("Use warm water.", "Smash it."),
    ),
    "helpsteer2": (
        [{"prompt": "Name a bird.", "response_1": "Wren.", "response_2": "Cod.", "preference_strength": -2},
         {"prompt": "Name a fish.", "response_1": "Cod.", "response_2": "Hake.", "preference_strength": 0}],
        1, 1, ("Wren.", "Cod."),
    ),
    "helpsteer3": (
        [{"context": chat("Hi", "Yes?", "Name a city."), "response1": "Hm.", "response2": "Lima.", "overall_preference": 3,
          "individual_preference": [], "domain": "general", "language": "english"}],
        1, 0, ("Lima.", "Hm."),
    ),
    "arena": (
        [{"conversation_a": chat("Hi", "Hello"), "conversation_b": chat("Hi", "Go away"), "winner": "model_a",
          "model_a": "x", "model_b": "y", "language": "English"},
         {"conversation_a": chat("Hi", "a"), "conversation_b": chat("Hi", "b"), "winner": "tie (bothbad)",
          "model_a": "x", "model_b": "y", "language": "English"}],
        1, 1, ("Hello", "Go away"),
    ),
    "arena_55k": (
        [{"id": 1, "prompt": '["Hi", "Again"]', "response_a": '["Yo", "Yo yo"]', "response_b": '["Hey", "Hey you"]',
          "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}],
        1, 0, ("Hey you", "Yo yo"),
    ),
    "ultrafeedback": (
        [{"instruction": "Sing.", "completions": [{"model": "x", "response": "La.", "overall_score": 7.0, "annotations": {"a": 1}},
                                                  {"model": "y", "response": "No.", "overall_score": 2.0, "annotations": {"a": 1}},
                                                  {"model": "z", "response": "Eh.", "overall_score": 2.0, "annotations": {"a": 1}}]}],
        2, 0, ("La.", "No."),
    ),
    "nectar": (
        [{"prompt": "\n\nHuman: Hi\n\nAssistant: ", "answers": [{"answer": "Hm", "model": "a", "rank": 2.0},
                                                              {"answer": "Hello", "model": "b", "rank": 1.0}]}],
        1, 0, ("Hello", "Hm"),
    ),
    "gpt4_llm_v2": (
        [{"user_input": "Count.", "responses_and_scores": [{"response": "1 2 3", "score": 9.0, "source": "x"},
                                                           {"response": "x", "score": 1.0, "source": "y"}]}],
        1, 0, ("1 2 3", "x"),
    ),
    "gpt4_llm_v1": ([{"user_input": "Count.", "completion_a": "1 2", "completion_b": "?"}], 1, 0, ("1 2", "?")),
    "oasst": (
        [{"message_id": "m1", "parent_id": None, "message_tree_id": "m1", "text": "Hi", "role": "prompter", "rank": None, "lang": "en"},
         {"message_id": "m2", "parent_id": "m1", "message_tree_id": "m1", "text": "Hello", "role": "assistant", "rank": 0, "lang": "en"},
         {"message_id": "m3", "parent_id": "m1", "message_tree_id": "m1", "text": "No", "role": "assistant", "rank": 1, "lang": "en"}],
        1, 0, ("Hello", "No"),
    ),
    "alpaca": ([{"instruction": "Add.", "input": "2 and 3", "output": "5"}], 1, 0, ("5",)),
    "beavertails": ([{"prompt": "Hi", "response": "Hello", "category": {"abuse": False}, "is_safe": True}], 1, 0, ("Hello",)),
    "sharegpt": (
        [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}], 1, 0, ("Hello",),
    ),
    "chats": ([{"messages": [*chat("Hi", "Hello")]}], 1, 0, ("Hello",)),
}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as the file type the name's ending says."""
    kind = path.name.removesuffix(".gz").removesuffix(".zst").rsplit(".", 1)[1]
    if kind == "json":
        data = json.dumps(rows).encode()
    elif kind == "jsonl":
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif kind in ("csv", "tsv"):
        import csv
        import io

        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    else:
        table = pa.Table.from_pylist(rows)
        opener = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, opener(sink, table.schema) as out:
            out.write_table(table)
        return path
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    return path


def run_import(store: Store, source: Path | str, name: str = "d", **options: Any) -> dict[str, Any]:
    """A whole import without the owner's loop; the report."""
    job = jobs.create(store.home, "import", name, name, {"source": str(source), "options": options})
    try:
        datasets.import_parts(job)
        ingest.take_dataset(store, job)
        return jobs.read_json(job.path("report.json"))
    finally:
        jobs.set_state(job, state="done")
        jobs.remove(job)


def texts(record: Pair | Entry) -> tuple[str, ...]:
    return (record.chosen.response, record.rejected.response) if isinstance(record, Pair) else (record.response,)


@pytest.mark.parametrize("shape", SAMPLES)
@pytest.mark.parametrize("ending", ["jsonl", "json", "jsonl.gz", "parquet"])
def test_every_shape_is_found_and_read(shape: str, ending: str, tmp_path: Path, store: Store) -> None:
    rows, n, skipped, first = SAMPLES[shape]
    path = write(tmp_path / f"sample.{ending}", rows)
    seen = datasets.preview(str(path), {})
    assert seen.shape == shape and texts(seen.records[0]) == first
    report = run_import(store, path)
    assert (report["pairs"], sum(s["count"] for s in report["skipped"])) == (n, skipped)
    assert report["kind"] == ("entries" if len(first) == 1 else "pairs")
    one = pair_frames.detail(store.read(), 1, 0)
    assert (one.chosen, one.rejected)[: len(first)] == first
    if skipped:
        assert report["skipped"][0]["reason"] == "tie" and f"sample.{ending}:2" in str(report["skipped"][0]["examples"])


def test_no_shape_is_untested() -> None:
    assert set(SAMPLES) | {"generic"} == set(SHAPES)


@pytest.mark.parametrize(
    "ending",
    ["json", "jsonl", "csv", "tsv", "parquet", "arrow", "stream.arrow"]
    + [f"{kind}.{packed}" for kind in ("json", "jsonl", "csv", "tsv") for packed in ("gz", "zst")],
)
def test_every_file_type(ending: str, tmp_path: Path, store: Store) -> None:
    rows = [{"prompt": f"q{i}", "chosen": f'a "{i}",\nnext', "rejected": "ünï\t→"} for i in range(30)]
    report = run_import(store, write(tmp_path / f"x.{ending}", rows))
    assert (report["shape"], report["pairs"], report["skipped"]) == ("strings", 30, [])
    one = pair_frames.detail(store.read(), 1, 7)
    assert (one.prompt[0].content, one.chosen, one.rejected) == ("q7", 'a "7",\nnext', "ünï\t→")


def test_columns_mapped_by_hand(tmp_path: Path, store: Store) -> None:
    rows = [{"q": "Name a colour.", "good": "Teal.", "bad": "Loud.", "topic": "art", "key": "k1"}]
    path = write(tmp_path / "x.csv", rows)
    seen = datasets.preview(str(path), {})
    assert seen.needs_mapping and seen.columns == ("q", "good", "bad", "topic", "key")
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad", "subset": "topic", "id": "key"}
    assert run_import(store, path, columns=columns)["pairs"] == 1
    one = pair_frames.detail(store.read(), 1, 0)
    assert (one.pair_id, one.subset, one.chosen, one.extra) == ("k1", "art", "Teal.", {})


def test_folders_and_globs_are_read_in_order(tmp_path: Path, store: Store) -> None:
    for i in range(3):
        write(tmp_path / f"part{i}.jsonl", [{"prompt": "p", "chosen": f"c{i}", "rejected": "r"}])
    assert run_import(store, tmp_path, "folder")["pairs"] == 3
    assert run_import(store, f"{tmp_path}/part[02].jsonl", "glob")["pairs"] == 2
    assert [pair_frames.detail(store.read(), 2, i).chosen for i in (0, 1)] == ["c0", "c2"]


def test_option_of_a_second_preference(tmp_path: Path, store: Store) -> None:
    row = SAMPLES["safe_rlhf"][0][0] | {"safer_response_id": 0}
    path = write(tmp_path / "x.jsonl", [row])
    assert datasets.preview(str(path), {}).choices["preference"].options == ("better", "safer")
    run_import(store, path, preference="safer")
    one = pair_frames.detail(store.read(), 1, 0)
    assert one.chosen == "Smash it." and one.extra["better_response_id"] == 1


def test_dialogues_that_part_early_and_other_flags(tmp_path: Path, store: Store) -> None:
    h, a = "\n\nHuman: ", "\n\nAssistant: "
    rows = [
        {"chosen": f"{h}x{a}one{h}y{a}good", "rejected": f"{h}x{a}two{h}z{a}bad", "split": "train"},
        {"chosen": f"{h}x{a}same", "rejected": f"{h}x{a}same", "split": "train"},
        {"chosen": f"{h}x{a}", "rejected": f"{h}x{a}words{h}more", "split": "train"},
        {"chosen": f"{h}p{a}1", "rejected": f"{h}p{a}2", "split": "train"},
        {"chosen": f"{h}p{a}1", "rejected": f"{h}p{a}2", "split": "test"},
        {"chosen": f"{h}p{a}2", "rejected": f"{h}p{a}1", "split": "test"},
        {"chosen": f"{h}u{a}1", "rejected": f"{h}v{a}2", "split": "test"},
    ]
    run_import(store, write(tmp_path / "x.jsonl", rows))
    flags = [set(pair_frames.detail(store.read(), 1, i).flags) for i in range(7)]
    assert "diverges_early" in flags[0] and "identical_responses" in flags[1] and "empty_response" in flags[2]
    assert {"duplicate", "prompt_leak", "contradiction"} <= flags[3] and "contradiction" in flags[5]
    assert {"no_shared_prompt", "diverges_early"} <= flags[6]
    first = pair_frames.detail(store.read(), 1, 0)
    assert first.prompt == (Turn("user", "x"),) and first.chosen_tail == (Turn("assistant", "one"), Turn("user", "y"))


def test_repeated_ids_stay_unique_and_are_reported(tmp_path: Path, store: Store) -> None:
    rows = [
        {"id": i, "prompt": "p", "chosen": str(n), "rejected": "r"} for n, i in enumerate(["a", "a", "a#2", "b", "a"])
    ]
    report = run_import(store, write(tmp_path / "x.jsonl", rows))
    ids = [pair_frames.detail(store.read(), 1, i).pair_id for i in range(5)]
    assert len(set(ids)) == 5 and ids[0] == "a" and "share their id" in report["note"]


tags = st.text().filter(lambda t: "\n\nHuman:" not in t and "\n\nAssistant:" not in t and not t.startswith(" "))


@given(st.lists(tags, min_size=1, max_size=6))
def test_dialogues_round_trip(contents: list[str]) -> None:
    """Turns to hh-rlhf text and back, for any text without the tags themselves."""
    turns = [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(contents)]
    text = "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {t.content}" for i, t in enumerate(turns))
    if not any(t.content.endswith(("\n", "\n\n")) for t in turns):
        assert dialogue_turns(text) == turns


@pytest.mark.data
def test_the_real_test_split(data: Path, store: Store) -> None:
    report = run_import(store, data / "hh_rlhf_test.jsonl.gz")
    assert (report["pairs"], report["skipped"], report["shape"]) == (4666, [], "hh_rlhf")
    con = store.read()
    assert con.execute("SELECT count(*) FROM pairs WHERE subset = 'harmless-base'").fetchone() == (2312,)
    assert pair_frames.pair_no(con, 1, "helpful-base-2353") == 4665
    everything = con.execute("SELECT turns FROM prompts").fetchall()
    assert not any("\\n\\nHuman:" in turns for (turns,) in everything)
