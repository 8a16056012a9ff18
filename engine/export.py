"""Exports: long tables of pairs, rewards and labels, written whole to csv, jsonl or parquet by the file's ending.

CSV is opened by spreadsheets and printed on terminals, so there every text that could be read as a formula gets a
leading apostrophe, and control and bidirectional override characters are dropped. JSON Lines escapes control
characters; Parquet keeps every byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from engine import catalog
from engine.records import SignetError
from engine.store import FLAGS

WHAT = ("pairs", "rewards", "labels", "clean")
_OPTIONS = {".csv": "FORMAT csv, HEADER", ".jsonl": "FORMAT json", ".parquet": "FORMAT parquet, COMPRESSION zstd"}

# What `clean` leaves out: pairs whose preference cannot be read off the texts.
BROKEN = ("identical_responses", "empty_response", "duplicate", "contradiction")

DIALOGUE_SQL = """list_aggregate(list_transform(from_json({turns}, '[["VARCHAR"]]'),
    lambda t: chr(10) || chr(10) || CASE t[1] WHEN 'user' THEN 'Human' WHEN 'assistant' THEN 'Assistant'
        ELSE 'System' END || ': ' || t[2]), 'string_agg', '')"""

_PLAIN = r"[\x00-\x08\x0b-\x1f\x7f\x{202a}-\x{202e}\x{2066}-\x{2069}]"


def harmless(text: str) -> str:
    """One text as CSV may hold it: no control or direction override characters, no formula."""
    plain = re.sub("[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e\u2066-\u2069]", "", text)
    return f"'{plain}" if re.match(r"\s*[=+\-@]", plain) else plain


def frame_csv(frame: pd.DataFrame) -> bytes:
    """A frame as CSV bytes, every text made harmless."""
    return frame.map(lambda v: harmless(v) if isinstance(v, str) else v).to_csv(index=False).encode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _harmless(column: str) -> str:
    """SQL that makes a text column safe to open in a spreadsheet and to print."""
    plain = f"regexp_replace({column}, {_literal(_PLAIN)}, '', 'g')"
    return rf"CASE WHEN regexp_matches({plain}, '^\s*[=+\-@]') THEN '''' || {plain} ELSE {plain} END"


def _tail(side: str) -> str:
    """SQL of a side's text after the shared prompt: the response, or all turns that follow where the side diverges."""
    own = f"from_json({side}_prompt.turns, '[[\"VARCHAR\"]]')[shared.n_turns + 1:]::JSON::VARCHAR"
    return f"""CASE WHEN {side}_entry.prompt_id = pairs.prompt_id THEN {side}_entry.response
        ELSE {DIALOGUE_SQL.format(turns=own)} || chr(10) || chr(10) || 'Assistant: ' || {side}_entry.response END"""


def _extra_columns(con: duckdb.DuckDBPyConnection, dataset_id: int, taken: set[str]) -> list[str]:
    keys = con.execute(
        "SELECT DISTINCT unnest(json_keys(extra)) FROM pairs WHERE dataset_id = ? AND extra IS NOT NULL", [dataset_id]
    ).fetchall()
    columns = []
    for (key,) in sorted(keys):
        name = key if key.lower() not in taken else f"source_{key}"
        while name.lower() in taken:
            name += "_"
        taken.add(name.lower())
        columns.append(f"json_extract_string(extra, '$.' || {_literal(_path(key))}) AS {_quoted(name)}")
    return columns


def _path(key: str) -> str:
    return '"' + key.replace('"', '\\"') + '"'


def _reviewed_sql(data: catalog.Dataset, swap: bool) -> str:
    """The dataset's pairs with their review; with `swap`, sides that a person found the wrong way round exchanged."""
    swapped = """REPLACE (CASE WHEN v.verdict = 'swap' THEN p.rejected ELSE p.chosen END AS chosen,
        CASE WHEN v.verdict = 'swap' THEN p.chosen ELSE p.rejected END AS rejected)"""
    return f"""(SELECT p.* {swapped if swap else ""}, v.verdict AS review FROM pairs p
        LEFT JOIN reviews v ON v.dataset_id = p.dataset_id AND v.pair_no = p.pair_no
        WHERE p.dataset_id = {data.dataset_id})"""


def _pairs_sql(con: duckdb.DuckDBPyConnection, data: catalog.Dataset, clean: bool, without: Sequence[int] = ()) -> str:
    fixed = ["pair_id", "prompt", "chosen", "rejected", "subset", "split", "row", "strength", "flags", "review"]
    flags = ", ".join(
        f"CASE WHEN pairs.flags & {bit} > 0 THEN {_literal(name)} END" for name, (bit, _) in FLAGS.items()
    )
    single = "shared.n_turns = 1 AND json_extract_string(shared.turns, '$[0][0]') = 'user'"
    columns = [
        "pair_id",
        f"""CASE WHEN {single} THEN json_extract_string(shared.turns, '$[0][1]')
            ELSE {DIALOGUE_SQL.format(turns="shared.turns")} END AS prompt""",
        f"{_tail('chosen')} AS chosen",
        f"CASE WHEN pairs.rejected IS NOT NULL THEN {_tail('rejected')} END AS rejected",
        "subset",
        "split",
        "source_row AS row",
        "strength",
        f"concat_ws(' ', {flags}) AS flags",
        "review",
        *_extra_columns(con, data.dataset_id, set(fixed)),
    ]
    if data.kind == "entries":
        columns = [c for c in columns if not c.endswith(" AS rejected")]
        columns[2] = columns[2].replace(" AS chosen", " AS response")
    broken = sum(FLAGS[name][0] for name in BROKEN)
    kept = f"AND pairs.flags & {broken} = 0 AND review IS DISTINCT FROM 'drop'" if clean else ""
    if without:
        kept += f" AND (pair_no NOT IN ({', '.join(str(int(no)) for no in without)}) OR review IN ('keep', 'swap'))"
    return f"""
        SELECT {", ".join(columns)} FROM {_reviewed_sql(data, clean)} pairs
        JOIN prompts shared ON shared.prompt_id = pairs.prompt_id
        JOIN entries chosen_entry ON chosen_entry.entry_id = pairs.chosen
        JOIN prompts chosen_prompt ON chosen_prompt.prompt_id = chosen_entry.prompt_id
        LEFT JOIN entries rejected_entry ON rejected_entry.entry_id = pairs.rejected
        LEFT JOIN prompts rejected_prompt ON rejected_prompt.prompt_id = rejected_entry.prompt_id
        WHERE dataset_id = {data.dataset_id} {kept} ORDER BY pair_no"""


def _sides_sql(data: catalog.Dataset) -> str:
    first = "chosen" if data.kind == "pairs" else "entry"
    return f"""(
        SELECT pair_no, pair_id, '{first}' AS side, chosen AS entry_id FROM pairs WHERE dataset_id = {data.dataset_id}
        UNION ALL SELECT pair_no, pair_id, 'rejected', rejected FROM pairs
        WHERE dataset_id = {data.dataset_id} AND rejected IS NOT NULL)"""


def _rewards_sql(data: catalog.Dataset) -> str:
    return f"""
        SELECT pair_id, side, m.name || CASE WHEN same > 1 THEN ' #' || m.model_id ELSE '' END AS model, reward
        FROM {_sides_sql(data)} s JOIN rewards r USING (entry_id)
        JOIN (SELECT *, count(*) OVER (PARTITION BY name) AS same FROM models) m USING (model_id)
        ORDER BY pair_no, side, model"""


def _labels_sql(data: catalog.Dataset) -> str:
    return f"""
        SELECT pair_id, side, b.name AS labeler, t.name AS taxonomy, f.name AS feature,
            CASE WHEN f.kind = 'category' THEN json_extract_string(f.classes, '$[' || l.value::INTEGER || ']')
                WHEN l.value = round(l.value) THEN l.value::BIGINT::VARCHAR ELSE l.value::VARCHAR END AS value
        FROM {_sides_sql(data)} s JOIN labels l USING (entry_id) JOIN features f USING (feature_id)
        JOIN taxonomies t USING (taxonomy_id) JOIN labelers b USING (labeler_id)
        ORDER BY pair_no, side, labeler, taxonomy, f.position"""


def export(
    con: duckdb.DuckDBPyConnection, name: str, what: str, to: Path, without: Sequence[int] = ()
) -> dict[str, Any]:  # fmt: skip
    """Write one table of a dataset to a file, whole or not at all; returns {"rows", "path", "left_out"}.

    pairs: one row a pair, texts as they were read, flags by name, every kept column of the source.
    clean: the same without pairs flagged identical, empty, duplicate or contradicting, without pairs that a review
    dropped, with the sides exchanged where a review swapped them, and without the pair numbers in `without` that no
    review kept (`left_out` counts what is missing, `swapped` what was exchanged).
    rewards: pair_id, side, model, reward. labels: pair_id, side, labeler, taxonomy, feature, value (text).
    """
    if what not in WHAT:
        raise SignetError(f"Cannot export {what!r}; choose one of {', '.join(WHAT)}.")
    options = _OPTIONS.get(to.suffix.lower())
    if options is None:
        raise SignetError(f"{to.name}: the ending decides the format; use {', '.join(_OPTIONS)}.")
    data = catalog.dataset(con, name)
    query = {"rewards": _rewards_sql, "labels": _labels_sql}.get(what)
    sql = query(data) if query else _pairs_sql(con, data, what == "clean", without if what == "clean" else ())
    if to.suffix.lower() == ".csv":
        described = con.execute(f"DESCRIBE {sql}").fetchall()
        safe = [
            f"{_harmless(_quoted(row[0]))} AS {_quoted(row[0])}" if row[1] == "VARCHAR" else _quoted(row[0])
            for row in described
        ]
        sql = f"SELECT {', '.join(safe)} FROM ({sql})"
    temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        con.execute("SET preserve_insertion_order = true")
        row = con.execute(f"COPY ({sql}) TO {_literal(str(temporary))} ({options})").fetchone()
        os.replace(temporary, to)
    except (OSError, duckdb.IOException) as error:
        raise SignetError(f"{to}: cannot be written ({str(error).splitlines()[0]}).") from None
    finally:
        temporary.unlink(missing_ok=True)
    rows = int(row[0]) if row else 0
    swapped = con.execute(
        "SELECT count(*) FROM reviews WHERE dataset_id = ? AND verdict = 'swap'", [data.dataset_id]
    ).fetchall()[0][0]
    clean = what == "clean"
    return {"path": str(to), "rows": rows, "left_out": data.n_pairs - rows if clean else 0,
            "swapped": int(swapped) if clean else 0}  # fmt: skip
