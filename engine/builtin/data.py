"""Reads the data the built-in heads are trained on, and keeps splits honest.

Files, all in one folder: hh_rlhf_test.jsonl.gz, hh_rlhf_labels.tsv, fulcra_trustworthy.jsonl, llmbar.json,
pandalm_testset.json. A group is everything that shares a prompt: no split ever separates a group.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import readers, taxonomy
from engine.builtin import readings
from engine.records import Entry, Pair, SignetError, Turn, prompt_hash

FILES = (
    "hh_rlhf_test.jsonl.gz", "hh_rlhf_labels.tsv", "fulcra_trustworthy.jsonl", "llmbar.json", "pandalm_testset.json",
)  # fmt: skip
HELD_OUT = 0.25  # share of prompts of PandaLM, LLMBar and FULCRA that only the reported figures see
Side = tuple[str, int, str]  # subset, row, side of an hh-rlhf entry


@dataclass(frozen=True)
class Preference:
    """A pair with the side that people preferred first. `group` is shared by all that has the same prompt."""

    source: str
    subset: str
    split: str
    better: Entry
    worse: Entry
    group: int


@dataclass(frozen=True)
class Labelled:
    """Labels of one entry by one reading: {(taxonomy, column): value}."""

    entry: Entry
    split: str
    subset: str
    reading: int
    group: int
    values: dict[tuple[str, str], float]


def checked_folder(folder: Path) -> Path:
    """The folder if every file is there; SignetError names the first one missing."""
    for name in FILES:
        if not (folder / name).is_file():
            raise SignetError(f"{folder / name} is missing; name the folder of the training data with --data.")
    return folder


def groups_of(keys: Sequence[Iterable[str]]) -> list[int]:
    """A group number for each item, so that items sharing any key, directly or through others, share the number."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    firsts = []
    for item in keys:
        first, *others = item
        for other in others:
            parent[root(other)] = root(first)
        firsts.append(first)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(first), len(numbers)) for first in firsts]


def hh_pairs(folder: Path) -> tuple[list[Preference], dict[Side, Entry], Counter[str]]:
    """Pairs of the hh-rlhf file, entries by place, and what was left out of training and why (counts).

    A pair of the train part that shares a prompt with the test or reserved part gets the split `excluded`.
    """
    rows: list[tuple[dict[str, Any], Entry, Entry]] = []
    with gzip.open(folder / FILES[0], "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            for record in readers.hh_rlhf({"chosen": row["chosen"], "rejected": row["rejected"]}, {}):
                if not isinstance(record, Pair):
                    raise SignetError(f"{FILES[0]}: {row['subset']} row {row['row']} is no pair.")
                rows.append((row, record.chosen, record.rejected))
    groups = groups_of([[prompt_hash(c.prompt), prompt_hash(r.prompt)] for _, c, r in rows])
    splits: dict[int, set[str]] = defaultdict(set)
    for (row, _, _), group in zip(rows, groups):
        splits[group].add(row["split"])
    pairs, entries, left_out = [], {}, Counter[str]()
    for (row, chosen, rejected), group in zip(rows, groups):
        split = row["split"]
        if split == "train" and splits[group] != {"train"}:
            split = "excluded"
            left_out["train pairs whose prompt also stands in the test or reserved part"] += 1
        elif split == "train" and chosen == rejected:
            split = "excluded"
            left_out["train pairs with identical sides"] += 1
        pairs.append(Preference("hh-rlhf", row["subset"], split, chosen, rejected, group))
        entries[row["subset"], row["row"], "chosen"] = chosen
        entries[row["subset"], row["row"], "rejected"] = rejected
    return pairs, entries, left_out


def read_labels(folder: Path, pairs: Sequence[Preference], entries: dict[Side, Entry]) -> list[Labelled]:
    """All readings as values of Signet's taxonomies (booleans 0 or 1, classes by index): those of the labels file, then
    those that ship with Signet. `eloquent` is the better-written third by the writing scores that ship."""
    place = {entry.hash: pair for pair in pairs for entry in (pair.better, pair.worse)}
    texts = {entry.hash: entry for entry in entries.values()}
    seal, schwartz = taxonomy.load("seal"), taxonomy.load("schwartz")
    values = taxonomy.load("value_imprint").features[0].classes
    topics = seal.feature("topics").classes
    plain = [feature.name for feature in seal.features if feature.kind in ("boolean", "ternary")]
    rows: list[tuple[Entry, int, dict[tuple[str, str], float]]] = []
    with (folder / FILES[1]).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            named = {topic.strip() for topic in row["topics"].split(";")} - {""}
            if named - set(topics):
                raise SignetError(f"{FILES[1]}: unknown topic {sorted(named - set(topics))[0]!r}.")
            labels: dict[tuple[str, str], float] = {("seal", name): float(row[name]) for name in plain}
            labels |= {("seal", f"topics: {topic}"): float(topic in named) for topic in topics}
            labels |= {("schwartz", one.name): float(row[one.name]) for one in schwartz.features}
            labels["value_imprint", "value_imprint"] = float(values.index(row["value"]))
            rows.append((entries[row["subset"], int(row["row"]), row["side"]], int(row["pass"]), labels))
    for entry_hash, reading, labels in readings.read():
        if entry_hash not in texts:
            raise SignetError(f"{readings.READINGS.name}: entry {entry_hash} is not in {FILES[0]}.")
        rows.append((texts[entry_hash], reading, labels))
    written = readings.scores()
    first = {entry.hash for entry, reading, _ in rows if reading == 1}
    found = []
    for entry, reading, labels in rows:
        score = written.get((entry.hash, reading))
        if score is None:
            raise SignetError(f"{readings.WRITING.name}: entry {entry.hash}, pass {reading}, has no writing score.")
        labels["seal", "eloquent"] = float(score >= readings.WELL_WRITTEN)
        pair = place[entry.hash]
        # The only reading of an entry is its first, whatever the file calls it.
        nth = reading if entry.hash in first else 1
        found.append(Labelled(entry, pair.split, pair.subset, nth, pair.group, labels))
    return found


def _split_by_group(groups: Sequence[int], seed: int) -> list[str]:
    numbers = sorted(set(groups))
    held = set(np.random.default_rng(seed).permutation(numbers)[: round(HELD_OUT * len(numbers))].tolist())
    return ["test" if group in held else "train" for group in groups]


def _single(prompt: str, response: Any) -> Entry:
    return Entry((Turn("user", prompt),), str(response))


def public_pairs(folder: Path, seed: int) -> tuple[list[Preference], Counter[str]]:
    """PandaLM's pairs by the majority of three annotators and LLMBar's by its label; ties are left out and counted."""
    found: list[tuple[str, str, Entry, Entry]] = []
    left_out = Counter[str]()
    for row in json.loads((folder / "pandalm_testset.json").read_text(encoding="utf-8")):
        votes = Counter(row[f"annotator{i}"] for i in (1, 2, 3))
        best, count = votes.most_common(1)[0]
        if best == 0 or count < 2:
            left_out["PandaLM pairs whose majority is a tie"] += 1
            continue
        prompt = row["instruction"] + (f"\n\n{row['input']}" if row["input"] else "")
        sides = _single(prompt, row["response1"]), _single(prompt, row["response2"])
        found.append(("PandaLM", "PandaLM", sides[best - 1], sides[2 - best]))
    for row in json.loads((folder / "llmbar.json").read_text(encoding="utf-8")):
        sides = _single(row["input"], row["output_1"]), _single(row["input"], row["output_2"])
        kind = "LLMBar adversarial" if "Adversarial" in row["set"] else "LLMBar natural and processed"
        found.append(("LLMBar", kind, sides[row["label"] - 1], sides[2 - row["label"]]))
    groups = groups_of([[prompt_hash(better.prompt)] for _, _, better, _ in found])
    splits = _split_by_group(groups, seed)
    pairs = [Preference(*one[:2], split, *one[2:], group) for one, split, group in zip(found, splits, groups)]
    return pairs, left_out


_VALUE = re.compile(r"\s*([A-Za-z -]+?)\s*:\s*[+=]?\s*(-?)\s*1\s*[+]?\s*")


def fulcra_value(text: str) -> tuple[str, float] | None:
    """A FULCRA label such as `Power: +1`, `power: 1`, `power: 1+`, `power: =1` or `power: -1`; None if it is none."""
    match = _VALUE.fullmatch(text)
    return (match[1].lower(), -1.0 if match[2] else 1.0) if match else None


def fulcra(folder: Path, seed: int) -> tuple[list[Labelled], Counter[str]]:
    """Value FULCRA's dialogues with Schwartz labels normalised, and what could not be (counts)."""
    names = [feature.name for feature in taxonomy.load("schwartz").features]
    found: list[tuple[Entry, dict[tuple[str, str], float]]] = []
    odd = Counter[str]()
    for line in (folder / "fulcra_trustworthy.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        question, mark, answer = row["dialogue"].partition("\nBob:")
        if not mark:
            odd["dialogues without an answer"] += 1
            continue
        signs: dict[str, set[float]] = defaultdict(set)
        for text in row["value_types"]:
            parsed = fulcra_value(text)
            if parsed is None or parsed[0] not in names:
                odd[f"unknown value {text!r}"] += 1
            else:
                signs[parsed[0]].add(parsed[1])
        for name in [name for name, both in signs.items() if len(both) > 1]:
            odd["values with both signs, left out"] += 1
            del signs[name]
        labels = {("schwartz", name): next(iter(signs[name])) if name in signs else 0.0 for name in names}
        found.append((_single(question.removeprefix("Human:").strip(), answer.strip()), labels))
    groups = groups_of([[prompt_hash(entry.prompt)] for entry, _ in found])
    splits = _split_by_group(groups, seed)
    rows = [
        Labelled(entry, split, "fulcra", 1, group, labels)
        for (entry, labels), split, group in zip(found, splits, groups)
    ]
    return rows, odd
