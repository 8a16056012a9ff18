"""Reading a source into records: which shape it has, what a preview shows, and the import job's worker.

A source is a file, folder or glob (engine.files), a hub id (through `datasets`, streamed), or `hh-rlhf-test`. Rows go
through a reader (engine.readers) and come out as parts that engine.ingest takes in; what was skipped is counted by
reason with examples, and nothing of a broken source is ever stored.
"""

from __future__ import annotations

import itertools
import json
import time
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import jobs, sources
from engine.readers import Record, Row, Skip
from engine.readers_more import SHAPES, Shape, detect
from engine.records import PART_COLUMNS, Entry, Pair, SignetError, entry_hash, prompt_hash, turns_to_json
from engine.sources import Located, grouped, located

PART_ROWS = 10_000
HEAD = 50  # rows that decide the shape
EXAMPLES = 20  # examples kept a reason
EXTRA_CHARS = 10_000  # of one kept value
ID_FIELDS = ("id", "pair_id", "prompt_id", "idx", "row_id", "uid", "message_tree_id", "comparison_id")
OPTIONS = {"shape", "columns", "split", "config", "data_dir", "revision", "preference", "chosen"}
TYPES = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "INTEGER": pa.int32()}
SCHEMA = pa.schema([(name, TYPES[kind]) for name, kind in PART_COLUMNS.items()])


@dataclass(frozen=True, slots=True)
class Choice:
    """Something about a source that only the user can say."""

    title: str
    options: tuple[str, ...]
    default: int
    help: str


@dataclass(frozen=True)
class Preview:
    """How a source would be read. `records` are the first ones; `options` those that gave them."""

    source: str
    shape: str
    explanation: str
    columns: tuple[str, ...]
    records: tuple[Record, ...]
    problems: tuple[str, ...]
    choices: dict[str, Choice]
    needs_mapping: bool
    options: dict[str, Any]


@dataclass
class _Tally:
    """What was skipped, by reason, with the first examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def add(self, reason: str, where: str, detail: str = "") -> None:
        self.counts[reason] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < EXAMPLES:
            kept.append({"where": where, "detail": detail})

    def report(self) -> list[dict[str, Any]]:
        return [{"reason": r, "count": n, "examples": self.examples[r]} for r, n in self.counts.most_common(200)]


def _shape_for(options: Mapping[str, Any], head: list[Located], source: str) -> Shape:
    wanted = "generic" if options.get("columns") and not options.get("shape") else options.get("shape")
    if wanted:
        if wanted not in SHAPES:
            raise SignetError(f"No shape {wanted!r}; there are {', '.join(SHAPES)}.")
        return SHAPES[wanted]
    usable = [one.values for one in head if one.values is not None]
    if not usable:
        first = next((one for one in head if one.problem), None)
        if first is None:
            raise SignetError(f"{Path(source).name}: there are no rows in it.")
        raise SignetError(f"{first.where}: {first.problem}; no usable row among the first {len(head)}.")
    found = detect(usable)
    if found is None:
        columns = ", ".join(map(str, list(usable[0])[:12]))
        raise SignetError(
            f"{Path(source).name}: no known shape has the columns {columns}; say which column is the prompt, the "
            "chosen and the rejected answer (in the preview, or with --option columns='{\"prompt\": ..., ...}')."
        )
    return found


def _check_options(options: Mapping[str, Any]) -> None:
    unknown = set(options) - OPTIONS
    if unknown:
        raise SignetError(f"Unknown import option {sorted(unknown)[0]!r}; there are {', '.join(sorted(OPTIONS))}.")
    columns = options.get("columns")
    if columns is not None and (
        not isinstance(columns, dict)
        or set(columns) - {"prompt", "chosen", "rejected", "response", "id", "subset", "split"}
    ):
        raise SignetError(
            "Option columns must map prompt, chosen, rejected (or prompt, response), id, subset, split to column names."
        )


def _choices(shape: Shape) -> dict[str, Choice]:
    if shape.name == "safe_rlhf":
        return {
            "preference": Choice("Which preference", ("better", "safer"), 0, "The dataset has two; the other is kept")
        }
    if shape.name == "gpt4_llm_v1":
        return {
            "chosen": Choice(
                "Which completion is preferred", ("completion_a", "completion_b"), 0, "The file does not say"
            )
        }
    return {}


def preview(source: str, options: dict[str, Any], n: int = 20) -> Preview:
    """How a source would be read, from its head alone. SignetError when it cannot be read at all."""
    _check_options(options)
    rows = located(source, options)
    head = list(itertools.islice(rows, max(HEAD, n)))
    usable = [one.values for one in head if one.values is not None]
    columns = tuple(dict.fromkeys(str(key) for row in usable for key in row))
    try:
        shape = _shape_for(options, head, source)
    except SignetError:
        if not usable or options.get("shape"):
            raise
        return Preview(source, "unknown", "no known shape has these columns", columns, (), (), {}, True, options)
    choices = _choices(shape)
    filled = {name: choice.options[choice.default] for name, choice in choices.items()} | options
    tally = _Tally()
    records: list[Record] = []
    stream = grouped(iter(head), shape.group) if shape.group else iter(head)
    for one in stream:
        records += [record for record, _ in _read(one, shape, filled, tally)]
        if len(records) >= n:
            break
    problems = [f"{r['examples'][0]['where']}: {r['reason']} ({r['count']} of the first rows)" for r in tally.report()]
    kind = "single answers" if shape.single or "response" in (options.get("columns") or {}) else "pairs"
    return Preview(source, shape.name, f"{shape.title}; {kind}", columns, tuple(records[:n]), tuple(problems), choices,
                   shape.name == "generic", options)  # fmt: skip


def _read(one: Located, shape: Shape, options: Mapping[str, Any], tally: _Tally) -> list[tuple[Record, Row]]:
    if one.values is None:
        tally.add(one.problem, one.where)
        return []
    try:
        return [(record, one.values) for record in shape.read(one.values, options)]
    except Skip as reason:
        tally.add(str(reason), one.where)
    except RecursionError:
        tally.add("nested too deeply", one.where)
    return []


# --- the import job --------------------------------------------------------------------------------------------------


def import_parts(job: jobs.Job) -> None:
    """Read the job's source and write its parts, then `report.json`.

    pair_id is the source's own id with `#2`, `#3` ... for repetitions, where the source has an id column; else the
    subset and row where both columns exist (hh-rlhf's local file), else the row number. SignetError ends the job with
    one sentence; nothing of it reaches the store.
    """
    for leftover in [*job.folder.glob("pairs-*.parquet"), job.path("report.json")]:
        leftover.unlink(missing_ok=True)
    source, options = job.params["source"], dict(job.params.get("options") or {})
    _check_options(options)
    began = time.time()
    rows = located(source, options)
    head = list(itertools.islice(rows, HEAD))
    shape = _shape_for(options, head, source)
    for name, choice in _choices(shape).items():
        options.setdefault(name, choice.options[choice.default])
    tally, ids, writer = _Tally(), _Ids(options, head), _Writer(job)
    stream = itertools.chain(head, rows)
    count = 0
    for one in grouped(stream, shape.group) if shape.group else stream:
        count += 1
        for record, values in _read(one, shape, options, tally):
            writer.add(record, ids.give(values, count), one.subset, values, options)
        if count % PART_ROWS == 0:
            _progress(job, count, writer.written, began)
    writer.flush()
    if writer.written == 0:
        worst = tally.report()
        why = (
            f"every row was skipped, most often because {worst[0]['reason']} ({worst[0]['examples'][0]['where']})"
            if worst
            else ""
        )
        raise SignetError(f"{Path(source).name}: nothing could be read; {why or 'there are no rows in it'}.")
    _progress(job, count, writer.written, began)
    jobs.write_json(
        job.path("report.json"),
        {
            "kind": "entries" if writer.single else "pairs", "source": source, "shape": shape.name, "note": ids.note(),
            "rows": count, "pairs": writer.written, "skipped": tally.report(), "sources": sources.describe(source),
            "seconds": round(time.time() - began, 2),
        },
    )  # fmt: skip


def _progress(job: jobs.Job, rows: int, written: int, began: float) -> None:
    jobs.write_json(job.path("progress.json"), {"rows": rows, "entries": written, "seconds": time.time() - began})


class _Seen:
    """A set of texts in 8 to 20 bytes each, by their 64-bit hash: open addressing in one array.

    Two texts of one hash would count as the same, which here only gives an id a number that it did not need.
    """

    def __init__(self) -> None:
        self._slots = array("q", bytes(8 * 1024))
        self._count = 0

    def add(self, text: str) -> bool:
        """Add a text; whether it is new."""
        if self._count * 5 > len(self._slots) * 3:
            old = self._slots
            self._slots = array("q", bytes(16 * len(old)))
            for kept in old:
                if kept:
                    self._put(kept)
        new = self._put(hash(text) or 1)
        self._count += new
        return new

    def _put(self, code: int) -> bool:
        slots = self._slots
        mask = len(slots) - 1
        place = code & mask
        while slots[place]:
            if slots[place] == code:
                return False
            place = (place + 1) & mask
        slots[place] = code
        return True


class _Ids:
    """Gives every pair an id that is unique within the dataset."""

    def __init__(self, options: Mapping[str, Any], head: list[Located]) -> None:
        named = (options.get("columns") or {}).get("id")
        rows = [one.values for one in head if one.values is not None]
        self._column = named or next((f for f in ID_FIELDS if rows and all(f in r for r in rows)), None)
        self._subset_row = not self._column and bool(rows) and all({"subset", "row"} <= set(r) for r in rows)
        self._seen = _Seen()
        self._times: dict[str, int] = {}  # of ids that came again
        self._repeated = 0

    def give(self, values: Row, number: int) -> str:
        if self._column:
            own = values.get(self._column)
            base = str(own)[:200] if own is not None and not isinstance(own, (dict, list)) else f"row {number}"
        elif self._subset_row:
            base = f"{values['subset']}-{values['row']}"
        else:
            base = str(number)
        base = base.encode("utf-8", "replace").decode().replace("\x00", "")
        if self._seen.add(base):
            return base
        while True:
            times = self._times.get(base, 1) + 1
            self._times[base] = times
            other = f"{base}#{times}"
            if self._seen.add(other):
                self._repeated += 1
                return other

    def note(self) -> str:
        if not self._repeated:
            return ""
        return f"{self._repeated:,} pairs share their id with an earlier one; they carry it with #2, #3 and so on."


class _Writer:
    """Collects records by column and writes a part every PART_ROWS."""

    def __init__(self, job: jobs.Job) -> None:
        self._job = job
        self._columns: dict[str, list[Any]] = {name: [] for name in PART_COLUMNS}
        self._parts = 0
        self.written = 0
        self.single: bool | None = None

    def add(self, record: Record, pair_id: str, subset: str, values: Row, options: Mapping[str, Any]) -> None:
        single = isinstance(record, Entry)
        if self.single is not None and single != self.single:
            raise SignetError("Some rows hold pairs and some single answers; split the file in two.")
        self.single = single
        row = dict.fromkeys(PART_COLUMNS)
        columns = options.get("columns") or {}
        prompt = record.prompt
        text = turns_to_json(prompt)
        hashed = prompt_hash(text)
        row.update(pair_id=pair_id, row=self.written, prompt=text, prompt_hash=hashed, n_turns=len(prompt))
        if isinstance(record, Pair):
            row["strength"] = record.strength
            self._side(row, "chosen", record.chosen, prompt, hashed)
            self._side(row, "rejected", record.rejected, prompt, hashed)
            subset = record.subset or subset
        else:
            self._side(row, "chosen", record, prompt, hashed)
        row["subset"] = subset or _short_text(values.get(columns.get("subset", "subset")))
        row["split"] = _short_text(values.get(columns.get("split", "split")))
        row["extra"] = _extra({**values, **(record.extra if isinstance(record, Pair) else {})}, columns)
        for name, kept in self._columns.items():
            kept.append(row[name])
        self.written += 1
        if self.written % PART_ROWS == 0:
            self.flush()

    @staticmethod
    def _side(row: dict[str, Any], side: str, entry: Entry, prompt: tuple[Any, ...], hashed: str) -> None:
        row[side] = entry.response
        own = hashed
        if entry.prompt != prompt:
            text = turns_to_json(entry.prompt)
            own = prompt_hash(text)
            row.update({f"{side}_prompt": text, f"{side}_prompt_hash": own, f"{side}_n_turns": len(entry.prompt)})
        row[f"{side}_hash"] = entry_hash(own, entry.response)

    def flush(self) -> None:
        """Write what is collected as one part."""
        if not self._columns["row"]:
            return
        table = pa.table(self._columns, schema=SCHEMA)
        jobs.write_parquet(self._job.path(f"pairs-{self._parts:05d}.parquet"), table)
        self._parts += 1
        self._columns = {name: [] for name in PART_COLUMNS}


TEXT_FIELDS = {
    "prompt", "chosen", "rejected", "messages", "answer_0", "answer_1", "summaries", "history", "human_ref_A",
    "human_ref_B", "response_0", "response_1", "response_2", "response1", "response2", "conversation_a",
    "conversation_b", "response_a", "response_b", "completions", "answers", "responses_and_scores", "completion_a",
    "completion_b", "user_input", "instruction", "input", "output", "response", "conversations", "context", "question",
    "info", "group", "subset", "split",
}  # fmt: skip


def _short_text(value: Any) -> str:
    return "" if value is None or isinstance(value, (dict, list)) else _storable(str(value)[:200])


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


def _extra(values: Row, columns: Mapping[str, str]) -> str | None:
    """Every other column of the source as JSON; long values are cut."""
    used = set(columns.values()) | ({"subset", "split"} if columns else TEXT_FIELDS)
    kept = {}
    for key, value in values.items():
        if key in used or value is None:
            continue
        if isinstance(value, str):
            value = value[:EXTRA_CHARS]
        elif isinstance(value, (dict, list)):
            text = json.dumps(value, ensure_ascii=False, default=str)
            value = value if len(text) <= EXTRA_CHARS else text[:EXTRA_CHARS]
        kept[str(key)[:200]] = value
    if not kept:
        return None
    text = json.dumps(kept, ensure_ascii=False, default=str, allow_nan=True)
    return _storable(
        text.replace("NaN", "null").replace("Infinity", "null") if "NaN" in text or "Infinity" in text else text
    )


def describe_shapes() -> list[dict[str, str]]:
    """Every shape that is read: name, title, fields, and one example from its reader's docstring."""
    return [
        {
            "name": s.name,
            "title": s.title,
            "fields": ", ".join(s.fields),
            "example": (s.read.__doc__ or "").split("\n\n")[0],
        }
        for s in SHAPES.values()
    ]
