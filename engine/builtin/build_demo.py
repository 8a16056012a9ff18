"""Builds the bundled audit from its sources: `python -m engine.builtin.build_demo`.

Sources, in `demo/source/`, all by a language model, in separate passes after the writing:
    pairs.jsonl     id, prompt (messages), a, b: two answers, sides drawn at random
    choices.tsv     id, reader, choice (A, B or =): which answer a reader prefers, both seen; reader 2 is another
                    session, which saw only the shuffled answers
    labels.tsv      id, side (a, b), reading, then the codebook's five fields: one answer read alone, the two sides of
                    a pair in different shuffled lists
    rewrites.jsonl  id, side, response: the answer reworded with its meaning kept, for some answers

Results, in `demo/`: pairs, labels, rewards, rewrites as Parquet, and about.json with what was counted on the way.
Rewards and built-in labels come from the models that ship beside.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine import heads, labelers, perturb, rewriting, taxonomy
from engine.embedder import embed
from engine.records import PART_COLUMNS, Entry, Turn, prompt_hash, turns_to_json
from engine.settings import BUILTIN

DEMO = BUILTIN / "demo"
SOURCE = DEMO / "source"
READER = "reading"
PERTURBED = ["politeness"]  # what the bundled rewrites by rule change: most answers can be made politer or less so
CODES = {
    "VQ": "human_vocabulary_quality", "AN": "anthropomorphic", "CO": "coherent", "RE": "refusal", "HE": "helpful",
    "HA": "harmless", "HO": "honest", "IN": "insult", "SE": "sexually_explicit", "PR": "breaks_privacy",
    "DI": "discriminatory", "MA": "manipulative", "CR": "creative", "EL": "eloquent",
}  # fmt: skip
VALUES = {
    "WB": "Well-being/Peace", "IS": "Information Seeking", "JR": "Justice/Human Rights & Animal Rights",
    "DA": "Duty/Accountability", "WK": "Wisdom/Knowledge", "CT": "Civility/Tolerance", "EH": "Empathy/Helpfulness",
}  # fmt: skip
SCHWARTZ = {
    "SD": "self-direction", "ST": "stimulation", "HD": "hedonism", "AC": "achievement", "PO": "power",
    "SC": "security", "CF": "conformity", "TR": "tradition", "BE": "benevolence", "UN": "universalism",
}  # fmt: skip
TOPICS = {
    "ART": "Culture and the arts", "GEO": "Geography and places", "HEA": "Health and fitness",
    "HIS": "History and events", "HUM": "Human activities", "MAT": "Mathematics and logic",
    "NAT": "Natural and physical sciences", "PEO": "People and self", "PHI": "Philosophy and thinking",
    "REL": "Religion and belief systems", "SOC": "Society and social sciences",
    "TEC": "Technology and applied sciences", "LAW": "Law", "BUS": "Business and economics",
    "GOV": "Government and politics", "EDU": "Education",
}  # fmt: skip


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every object of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def read_tsv(path: Path) -> list[list[str]]:
    """Every row of a tab-separated file without a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]


def majority(rows: list[list[str]]) -> tuple[dict[str, tuple[str, float]], dict[str, Any]]:
    """The side most readers chose, with the share of readers for it, and what the readings agree on.

    A split is decided by the last reader. Returns {pair id: (a or b, share)} and counts: unanimous, split, no_choice,
    pairwise agreement.
    """
    by_pair: dict[str, list[str]] = defaultdict(list)
    for pair_id, _, choice in rows:
        by_pair[pair_id].append(choice)
    chosen: dict[str, tuple[str, float]] = {}
    kinds: Counter[str] = Counter()
    same = total = 0
    for pair_id, choices in by_pair.items():
        counts = Counter(c for c in choices if c in "AB")
        for i, one in enumerate(choices):
            for other in choices[:i]:
                same += one == other
                total += 1
        best = counts.most_common(1)[0] if counts else ("", 0)
        if not counts:
            kinds["no_choice"] += 1
            continue
        if best[1] * 2 <= len(choices):  # readers split: the last one, who did not write the answers, decides
            best = (choices[-1], best[1])
        kinds["unanimous" if best[1] == len(choices) else "split"] += 1
        chosen[pair_id] = (best[0].lower(), best[1] / len(choices))
    return chosen, {**kinds, "readers_agree": round(same / total, 4) if total else None}


def labels_of(fields: list[str]) -> Iterator[tuple[str, str, float]]:
    """(taxonomy, column, value) of one reading's five fields; ValueError names a code the codebook does not have."""
    features, sentiment, value, schwartz, topics = (field.strip() for field in fields)
    given = set() if features == "-" else set(features.split())
    if given - set(CODES):
        raise ValueError(f"unknown feature code {sorted(given - set(CODES))[0]}")
    for code, name in CODES.items():
        yield "seal", name, float(code in given)
    yield "seal", "sentiment", float(sentiment)
    classes = taxonomy.load("value_imprint").features[0].classes
    yield "value_imprint", "value_imprint", float(classes.index(VALUES[value]))
    signs = {} if schwartz == "-" else {one[:2]: {"+": 1.0, "-": -1.0}[one[2]] for one in schwartz.split()}
    if set(signs) - set(SCHWARTZ):
        raise ValueError(f"unknown value code {sorted(set(signs) - set(SCHWARTZ))[0]}")
    for code, name in SCHWARTZ.items():
        yield "schwartz", name, signs.get(code, 0.0)
    named = set(topics.split()) - {"-"}
    if named - set(TOPICS):
        raise ValueError(f"unknown topic code {sorted(named - set(TOPICS))[0]}")
    for code, name in TOPICS.items():
        yield "seal", f"topics: {name}", float(code in named)


def build() -> dict[str, Any]:
    """Write every file of the bundled audit; returns what about.json says."""
    pairs = {row["id"]: row for row in read_jsonl(SOURCE / "pairs.jsonl")}
    chosen, agreement = majority(read_tsv(SOURCE / "choices.tsv"))
    sides: dict[tuple[str, str], Entry] = {}
    columns: dict[str, list[Any]] = {name: [] for name in PART_COLUMNS}
    for row, (pair_id, one) in enumerate(pairs.items()):
        if pair_id not in chosen:
            continue
        prompt = tuple(Turn(m["role"], m["content"]) for m in one["prompt"])
        for side in "ab":
            sides[pair_id, side] = Entry(prompt, one[side])
        better, share = chosen[pair_id]
        worse = "b" if better == "a" else "a"
        text = turns_to_json(prompt)
        record = {
            "pair_id": pair_id, "row": row, "subset": pair_id.split("-")[0], "split": "", "strength": share,
            "extra": None, "prompt_hash": prompt_hash(text), "prompt": text, "n_turns": len(prompt),
            "chosen_hash": sides[pair_id, better].hash, "chosen": one[better],
            "rejected_hash": sides[pair_id, worse].hash, "rejected": one[worse],
        }  # fmt: skip
        for name in columns:
            columns[name].append(record.get(name))
    types = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "INTEGER": pa.int32()}
    table = pa.table({name: pa.array(values, types[PART_COLUMNS[name]]) for name, values in columns.items()})
    pq.write_table(table, DEMO / "pairs.parquet", compression="zstd")
    rewrites = _write_rewrites(sides)
    every = list({entry.hash: entry for entry in (*sides.values(), *rewrites)}.values())
    entries = pa.table(
        {
            "entry": [entry.hash for entry in every],
            "prompt": [turns_to_json(entry.prompt) for entry in every],
            "response": [entry.response for entry in every],
        }
    )
    about = {
        "pairs_written": len(pairs), "pairs": table.num_rows, "choices": agreement,
        "labels": _write_labels(sides, entries), "rewrites": len(rewrites),
    }  # fmt: skip
    _write_rewards(entries)
    (DEMO / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def _write_labels(sides: dict[tuple[str, str], Entry], entries: pa.Table) -> dict[str, Any]:
    rows: list[tuple[Any, ...]] = []
    seen: dict[tuple[str, str], dict[str, dict[tuple[str, str], float]]] = defaultdict(dict)
    for pair_id, side, reading, *fields in read_tsv(SOURCE / "labels.tsv"):
        if (pair_id, side) not in sides:
            continue
        found = {(t, c): v for t, c, v in labels_of(fields)}
        seen[pair_id, side][reading] = found
        if reading == "1":
            entry = sides[pair_id, side].hash
            rows += [(entry, t, c, v, None, READER, "reading", "1") for (t, c), v in found.items()]
    for name, by in [*((head, "builtin") for head in heads.available()), ("surface", "surface")]:
        spec = labelers.resolve(by, taxonomy.load(name))
        labelled = labelers.open_labeler({**spec.params, "labeler": spec.name, "taxonomy": name}).run(entries)
        rows += [
            (r["entry"], name, r["feature"], r["value"], r["confidence"], spec.name, spec.kind, spec.revision)
            for r in labelled.to_pylist()
        ]
    names = ("entry", "taxonomy", "feature", "value", "confidence", "labeler", "kind", "revision")
    kinds = (*[pa.string()] * 3, pa.float64(), pa.float32(), *[pa.string()] * 3)
    table = pa.table({n: pa.array(c, k) for n, c, k in zip(names, zip(*dict.fromkeys(rows)), kinds)})
    pq.write_table(table, DEMO / "labels.parquet", compression="zstd")
    twice = [found for found in seen.values() if {"1", "2"} <= set(found)]
    agree = {
        name: round(float(np.mean([one["1"][k] == one["2"][k] for one in twice for k in one["1"] if k[0] == name])), 4)
        for name in ("seal", "value_imprint", "schwartz")
        if twice
    }
    return {"read": len(seen), "read_twice": len(twice), "agreement_of_two_readings": agree}


def _write_rewards(entries: pa.Table) -> None:
    prompts = [tuple(Turn(*turn) for turn in json.loads(text)) for text in entries.column("prompt").to_pylist()]
    parts = []
    for name in ("builtin-pre", "builtin-post"):
        rewards = heads.reward_model(name).score(prompts, entries.column("response").to_pylist())
        n = entries.num_rows
        parts.append(
            pa.table(
                {"entry": entries.column("entry"), "model": [name] * n, "revision": [heads.reward_revision(name)] * n,
                 "reward": pa.array([float(r) for r in rewards]), "n_tokens": pa.array([None] * n, pa.int32()),
                 "truncated": pa.array([None] * n, pa.bool_())}
            )
        )  # fmt: skip
    pq.write_table(pa.concat_tables(parts), DEMO / "rewards.parquet", compression="zstd")


def _write_rewrites(sides: dict[tuple[str, str], Entry]) -> list[Entry]:
    """Writes them; returns the reworded entries, which are labelled and scored as the others are.

    The 40 that were written by hand of a reader, and what the built-in perturber makes of every answer.
    """
    rows = [
        (sides[r["id"], r["side"]], r["response"], "reading: neutral rewording")
        for r in read_jsonl(SOURCE / "rewrites.jsonl")
        if (r["id"], r["side"]) in sides and perturb.changed(sides[r["id"], r["side"]].response, r["response"])
    ]
    for entry in {entry.hash: entry for entry in sides.values()}.values():
        text = perturb.perturb(entry.response, PERTURBED, entry.hash)
        if perturb.changed(entry.response, text) and not rewriting.complaint_about(entry.response, text):
            rows.append((entry, text, rewriting.resolve("builtin", "+".join(PERTURBED), {}).name))
    before, after = embed([entry.response for entry, _, _ in rows]), embed([text for _, text, _ in rows])
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    table = pa.table(
        {
            "entry": [entry.hash for entry, _, _ in rows],
            "rewritten": [Entry(entry.prompt, text).hash for entry, text, _ in rows],
            "response": [text for _, text, _ in rows],
            "rewriter": [rewriter for _, _, rewriter in rows],
            "similarity": (before * after).sum(axis=1).astype(float) / norms,
        }
    )
    pq.write_table(table, DEMO / "rewrites.parquet", compression="zstd")
    return [Entry(entry.prompt, text) for entry, text, _ in rows]


if __name__ == "__main__":
    print(json.dumps(build(), indent=1))
