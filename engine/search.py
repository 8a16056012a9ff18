"""Finding pairs: filters (engine.filters) as SQL, and pages of rows."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

import duckdb

from engine import catalog
from engine.alignment import REGIMES
from engine.answers import CURRENT, VERDICTS
from engine.filters import Filter
from engine.records import SIDES, SignetError
from engine.store import FLAGS, REVIEWS

SORTS = ("as imported", "longest", "shortest", "strongest preference", "weakest preference")
MODEL_SORTS = tuple(
    f"{end} {what}" for what in ("margin", "reward of chosen", "reward of rejected") for end in ("lowest", "highest")
)


@dataclass(frozen=True)
class Clause:
    """A filter in SQL over `pairs`: a condition and its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def _number(filter_: Filter, name: str) -> float | None:
    text = filter_.get(name)
    if text is None or text == "":
        return None
    try:
        return float(text)
    except ValueError:
        raise SignetError(f"Filter {filter_.kind}: {name} is {text!r}, not a number.") from None


def _span(filter_: Filter, expression: str) -> Clause:
    low, high = _number(filter_, "min"), _number(filter_, "max")
    parts = [f"{expression} IS NOT NULL"]
    values: list[Any] = []
    if low is not None:
        parts.append(f"{expression} >= ?")
        values.append(low)
    if high is not None:
        parts.append(f"{expression} < ?")
        values.append(high)
    return Clause("(" + " AND ".join(parts) + ")", tuple(values))


def _reward(side: str, model_id: int) -> str:
    return f"(SELECT reward FROM rewards WHERE entry_id = pairs.{side} AND model_id = {int(model_id)})"


def _in_model(condition: str, *model_ids: int) -> str:
    """Pairs whose two rewards by each model satisfy a condition over c0, r0, c1, r1 ... (joined, not correlated)."""
    joins = []
    for i, model_id in enumerate(model_ids):
        for side, name in (("chosen", "c"), ("rejected", "r")):
            joins.append(
                f"JOIN (SELECT entry_id, reward AS {name}{i} FROM rewards WHERE model_id = {int(model_id)}) {name}w{i} "
                f"ON {name}w{i}.entry_id = q.{side}"
            )
    return f"""pairs.pair_no IN (SELECT q.pair_no FROM pairs q {" ".join(joins)}
        WHERE q.dataset_id = pairs_dataset AND {condition})"""


def _feature(con: duckdb.DuckDBPyConnection, dataset_id: int, filter_: Filter) -> tuple[int, catalog.FeatureRow]:
    wanted = (filter_.get("labeler") or "", filter_.get("taxonomy") or "")
    labeler = catalog.labeler(con, dataset_id, *wanted)
    for feature in catalog.features(con, labeler.taxonomy_id):
        if feature.name == filter_.get("feature"):
            return labeler.labeler_id, feature
    raise SignetError(f"Taxonomy {wanted[1]} has no feature {filter_.get('feature')!r}.")


def _label(con: duckdb.DuckDBPyConnection, dataset_id: int, filter_: Filter) -> Clause:
    labeler_id, feature = _feature(con, dataset_id, filter_)
    value = filter_.get("value")
    if value is not None:
        if value in feature.classes:
            value = str(feature.classes.index(value))
        try:
            inner = Clause("value = ?", (float(value),))
        except ValueError:
            raise SignetError(f"{feature.name} has no value {value!r}.") from None
    else:
        inner = _span(filter_, "value")
    rows = f"""(SELECT entry_id FROM labels
        WHERE labeler_id = {labeler_id} AND feature_id = {feature.feature_id} AND {inner.sql})"""
    tests = {
        "chosen": [f"pairs.chosen IN {rows}"],
        "rejected": [f"pairs.rejected IN {rows}"],
        "both": [f"pairs.chosen IN {rows}", f"pairs.rejected IN {rows}"],
        "either": [f"pairs.chosen IN {rows}", f"pairs.rejected IN {rows}"],
    }
    side = filter_.get("side") or "either"
    if side not in tests:
        raise SignetError(f"Filter label: side is {side!r}; use chosen, rejected, either or both.")
    joiner = " OR " if side == "either" else " AND "
    return Clause("(" + joiner.join(tests[side]) + ")", inner.parameters * len(tests[side]))


def _gap(con: duckdb.DuckDBPyConnection, dataset_id: int, filter_: Filter) -> Clause:
    labeler_id, feature = _feature(con, dataset_id, filter_)
    signs = {"more": ">", "less": "<", "same": "=", "differ": "<>"}
    sign = signs.get(filter_.get("value") or "differ")
    if sign is None:
        raise SignetError(f"Filter gap: value is {filter_.get('value')!r}; use {', '.join(signs)}.")
    one = f"(SELECT entry_id, value FROM labels WHERE labeler_id = {labeler_id} AND feature_id = {feature.feature_id})"
    return Clause(
        f"""pairs.pair_no IN (SELECT q.pair_no FROM pairs q JOIN {one} c ON c.entry_id = q.chosen
            JOIN {one} r ON r.entry_id = q.rejected WHERE q.dataset_id = pairs_dataset AND c.value {sign} r.value)""",
        (),
    )


def _clause(con: duckdb.DuckDBPyConnection, dataset_id: int, filter_: Filter) -> Clause:
    kind, value = filter_.kind, filter_.get("value")
    if kind in ("subset", "split"):
        return Clause(f"pairs.{kind} = ?", (value,))
    if kind == "flag":
        if value not in FLAGS:
            raise SignetError(f"No flag {value!r}; there are {', '.join(FLAGS)}.")
        return Clause(f"pairs.flags & {FLAGS[value][0]} > 0", ())
    if kind == "label":
        return _label(con, dataset_id, filter_)
    if kind == "gap":
        return _gap(con, dataset_id, filter_)
    if kind == "disagree":
        both = []
        for who in ("labeler", "other"):
            name = {"taxonomy": filter_.get("taxonomy"), "labeler": filter_.get(who), "feature": filter_.get("feature")}
            labeler_id, feature = _feature(con, dataset_id, Filter.of("gap", **name))
            both.append(
                f"(SELECT entry_id, value FROM labels WHERE labeler_id = {labeler_id} "
                f"AND feature_id = {feature.feature_id})"
            )
        differ = f"(SELECT a.entry_id FROM {both[0]} a JOIN {both[1]} b USING (entry_id) WHERE a.value <> b.value)"
        return Clause(f"(pairs.chosen IN {differ} OR pairs.rejected IN {differ})", ())
    if kind == "verdict":
        return _verdict(con, dataset_id, filter_)
    if kind == "ratio":
        inner = _span(filter_, "(c.n_chars + 1.0) / (r.n_chars + 1.0)")
        return Clause(
            f"""pairs.pair_no IN (SELECT q.pair_no FROM pairs q JOIN entries c ON c.entry_id = q.chosen
                JOIN entries r ON r.entry_id = q.rejected WHERE q.dataset_id = pairs_dataset AND {inner.sql})""",
            inner.parameters,
        )
    if kind == "judged":
        if value not in VERDICTS:
            raise SignetError(f"No verdict {value!r}; there are {', '.join(VERDICTS)}.")
        sense = {"right": "> 0", "wrong": "< 0", "unsure": "= 0"}[value]
        found = f"""(
            SELECT entry_id FROM (
                SELECT entry_id, name, json_extract_string(answer, '$.verdicts."' || name || '"') AS verdict FROM (
                    SELECT c.entry_id, c.answer, unnest(json_keys(c.answer, '$.verdicts')) AS name
                    FROM {CURRENT} c JOIN queues q USING (queue_id) WHERE q.purpose = 'check' AND q.name = ?))
            GROUP BY entry_id, name HAVING count_if(verdict = 'right') - count_if(verdict = 'wrong') {sense})"""
        queue = filter_.get("queue")
        return Clause(f"(pairs.chosen IN {found} OR pairs.rejected IN {found})", (queue, queue))
    if kind == "review":
        if value not in (*REVIEWS, "open"):
            raise SignetError(f"No review {value!r}; there are {', '.join(REVIEWS)}, open.")
        judged = "SELECT pair_no FROM reviews WHERE dataset_id = pairs_dataset"
        if value == "open":
            return Clause(f"pairs.pair_no NOT IN ({judged})", ())
        return Clause(f"pairs.pair_no IN ({judged} AND verdict = ?)", (value,))
    if kind == "flip":
        return _flip(con, dataset_id, filter_)
    if kind == "reworded":
        return _reworded(con, dataset_id, filter_)
    if kind == "length":
        side = _side(filter_)
        inner = _span(filter_, "n_chars")
        return Clause(f"pairs.{side} IN (SELECT entry_id FROM entries WHERE {inner.sql})", inner.parameters)
    if kind == "regime":
        if value not in REGIMES:
            raise SignetError(f"No regime {value!r}; there are {', '.join(REGIMES)}.")
        ids = [catalog.model(con, dataset_id, filter_.get(name) or "").model_id for name in ("before", "after")]
        tests = [f"{'' if held else 'NOT '}(c{i} > r{i})" for i, held in enumerate(REGIMES[value])]
        return Clause(_in_model(" AND ".join(tests), *ids), ())
    if kind == "angle":
        ids = [catalog.model(con, dataset_id, filter_.get(name) or "").model_id for name in ("before", "after")]
        low, high = _number(filter_, "min"), _number(filter_, "max")
        angle = "degrees(atan2(c0 * r1 - r0 * c1, c0 * c1 + r0 * r1))"
        tests = [f"NOT (c{i} = 0 AND r{i} = 0)" for i in (0, 1)]
        tests += ([f"{angle} > ?"] if low is not None else []) + ([f"{angle} <= ?"] if high is not None else [])
        return Clause(_in_model(" AND ".join(tests), *ids), tuple(v for v in (low, high) if v is not None))
    model_id = catalog.model(con, dataset_id, filter_.get("model") or "").model_id
    if kind == "aligned":
        signs = {"yes": "c0 > r0", "no": "c0 < r0", "tie": "c0 = r0", "resists": "NOT c0 > r0"}
        sign = signs.get(value or "")
        if sign is None:
            raise SignetError(f"Filter aligned: value is {value!r}; use {', '.join(signs)}.")
        return Clause(_in_model(sign, model_id), ())
    if kind == "margin":
        inner = _span(filter_, "(c0 - r0)")
        return Clause(_in_model(inner.sql, model_id), inner.parameters)
    inner = _span(filter_, "reward")
    rows = f"(SELECT entry_id FROM rewards WHERE model_id = {model_id} AND {inner.sql})"
    return Clause(f"pairs.{_side(filter_)} IN {rows}", inner.parameters)


def _verdict(con: duckdb.DuckDBPyConnection, dataset_id: int, filter_: Filter) -> Clause:
    """The labeler's preference: the first target on which the sides differ decides (engine.alignment.preference)."""
    wanted = {"chosen": 1, "rejected": -1, "indifferent": 0}.get(filter_.get("value") or "")
    if wanted is None:
        raise SignetError(f"Filter verdict: value is {filter_.get('value')!r}; use chosen, rejected or indifferent.")
    names = [name for name in (filter_.get("order") or "").split(",") if name]
    if not names:
        raise SignetError("Filter verdict: order names no target feature.")
    joins, cases = [], []
    for i, name in enumerate(names):
        fields = {"taxonomy": filter_.get("taxonomy"), "labeler": filter_.get("labeler"), "feature": name}
        labeler_id, feature = _feature(con, dataset_id, Filter.of("gap", **fields))
        for side, letter in (("chosen", "c"), ("rejected", "r")):
            joins.append(
                f"JOIN (SELECT entry_id, value FROM labels WHERE labeler_id = {labeler_id} "
                f"AND feature_id = {feature.feature_id}) {letter}{i} ON {letter}{i}.entry_id = q.{side}"
            )
        cases.append(f"WHEN c{i}.value <> r{i}.value THEN sign(c{i}.value - r{i}.value)")
    return Clause(
        f"""pairs.pair_no IN (SELECT q.pair_no FROM pairs q {" ".join(joins)}
            WHERE q.dataset_id = pairs_dataset AND CASE {" ".join(cases)} ELSE 0 END = {wanted})""",
        (),
    )


def _similar(filter_: Filter) -> Clause:
    """Pairs whose reworded sides are all at least so similar; anything goes without `min`."""
    least = _number(filter_, "min")
    if least is None:
        return Clause("true", ())
    return Clause(
        f"""pairs.pair_no IN (SELECT q.pair_no FROM pairs q
            LEFT JOIN {catalog.LATEST_REWRITES} a ON a.entry_id = q.chosen
            LEFT JOIN {catalog.LATEST_REWRITES} b ON b.entry_id = q.rejected WHERE q.dataset_id = pairs_dataset
            AND least(coalesce(a.similarity, 1), coalesce(b.similarity, 1)) >= ?)""",
        (*(filter_.get("rewriter") or "",) * 2, least),
    )


def _flip(con: duckdb.DuckDBPyConnection, dataset_id: int, filter_: Filter) -> Clause:
    labeler_id, feature = _feature(con, dataset_id, filter_)
    sign = {"gained": ">", "lost": "<"}.get(filter_.get("value") or "")
    if sign is None:
        raise SignetError(f"Filter flip: value is {filter_.get('value')!r}; use gained or lost.")
    one = f"(SELECT entry_id, value FROM labels WHERE labeler_id = {labeler_id} AND feature_id = {feature.feature_id})"
    similar = _similar(filter_)
    return Clause(
        f"""(pairs.{_side(filter_)} IN (SELECT w.entry_id FROM {catalog.LATEST_REWRITES} w
            JOIN {one} o ON o.entry_id = w.entry_id JOIN {one} n ON n.entry_id = w.rewritten_id
            WHERE n.value {sign} o.value) AND {similar.sql})""",
        (filter_.get("rewriter") or "", *similar.parameters),
    )


def _reworded(con: duckdb.DuckDBPyConnection, dataset_id: int, filter_: Filter) -> Clause:
    model_id = catalog.model(con, dataset_id, filter_.get("model") or "").model_id
    tests = {
        "aligned": "o.c > o.r", "misaligned": "NOT o.c > o.r", "became_misaligned": "o.c > o.r AND NOT o.nc > o.nr",
        "became_aligned": "NOT o.c > o.r AND o.nc > o.nr",
    }  # fmt: skip
    test = tests.get(filter_.get("value") or "")
    if test is None:
        raise SignetError(f"Filter reworded: value is {filter_.get('value')!r}; use {', '.join(tests)}.")
    scored = f"(SELECT entry_id, reward FROM rewards WHERE model_id = {model_id})"
    similar = _similar(filter_)
    return Clause(
        f"""pairs.pair_no IN (SELECT o.pair_no FROM (
            SELECT q.pair_no, c.reward AS c, r.reward AS r, nc.reward AS nc, nr.reward AS nr FROM pairs q
            LEFT JOIN {catalog.LATEST_REWRITES} wc ON wc.entry_id = q.chosen
            LEFT JOIN {catalog.LATEST_REWRITES} wr ON wr.entry_id = q.rejected
            JOIN {scored} c ON c.entry_id = q.chosen JOIN {scored} r ON r.entry_id = q.rejected
            JOIN {scored} nc ON nc.entry_id = coalesce(wc.rewritten_id, q.chosen)
            JOIN {scored} nr ON nr.entry_id = coalesce(wr.rewritten_id, q.rejected)
            WHERE q.dataset_id = pairs_dataset AND (wc.entry_id IS NOT NULL OR wr.entry_id IS NOT NULL)) o
            WHERE {test}) AND {similar.sql}""",
        ((filter_.get("rewriter") or "",) * 2) + similar.parameters,
    )


def _side(filter_: Filter) -> str:
    side = filter_.get("side") or "chosen"
    if side not in SIDES:
        raise SignetError(f"Filter {filter_.kind}: side is {side!r}; use chosen or rejected.")
    return side


def _text(query: str) -> Clause:
    """Case-insensitive search in the prompt and both responses; every word group in quotes or alone must occur."""
    try:
        words = shlex.split(query)
    except ValueError:
        words = query.split()
    one = """pairs.pair_no IN (
        WITH hits AS MATERIALIZED (SELECT entry_id FROM entries WHERE contains(lower(response), lower(?))),
        asked AS MATERIALIZED (SELECT prompt_id FROM prompts WHERE contains(lower(turns), lower(?)))
        SELECT p.pair_no FROM pairs p WHERE p.dataset_id = pairs_dataset AND (
            p.chosen IN (FROM hits) OR p.rejected IN (FROM hits) OR p.prompt_id IN (FROM asked)))"""
    parameters: list[Any] = []
    for word in words:
        parameters += [word, json.dumps(word, ensure_ascii=False)[1:-1]]
    return Clause("(" + " AND ".join([one] * len(words)) + ")", tuple(parameters)) if words else Clause("true", ())


@dataclass(frozen=True)
class Found:
    """A page of pairs: their numbers in order, how many the filters leave, how many there are."""

    pair_nos: tuple[int, ...]
    filtered: int
    total: int


def _order(con: duckdb.DuckDBPyConnection, dataset_id: int, sort: str, model: str | None) -> str:
    lengths = """coalesce((SELECT n_chars FROM entries WHERE entry_id = pairs.chosen), 0)
        + coalesce((SELECT n_chars FROM entries WHERE entry_id = pairs.rejected), 0)"""
    if sort in MODEL_SORTS:
        if model is None:
            raise SignetError(f"Choose a reward model to sort by {sort}.")
        model_id = catalog.model(con, dataset_id, model).model_id
        chosen, rejected = _reward("chosen", model_id), _reward("rejected", model_id)
        value = {"margin": f"{chosen} - {rejected}", "of chosen": chosen, "of rejected": rejected}
        key = next(name for name in value if sort.endswith(name))
        return f"{value[key]} {'ASC' if sort.startswith('lowest') else 'DESC'} NULLS LAST, pair_no"
    orders = {
        "as imported": "pair_no",
        "longest": f"{lengths} DESC, pair_no",
        "shortest": f"{lengths}, pair_no",
        "strongest preference": "strength DESC NULLS LAST, pair_no",
        "weakest preference": "strength NULLS LAST, pair_no",
    }
    if sort not in orders:
        raise SignetError(f"Cannot sort by {sort!r}; use {', '.join([*orders, *MODEL_SORTS])}.")
    return orders[sort]


def where(con: duckdb.DuckDBPyConnection, dataset_id: int, filters: list[Filter], query: str = "") -> Clause:
    """The SQL condition over `pairs` (dataset included) for filters and a text query."""
    clauses = [_clause(con, dataset_id, one) for one in filters]
    if query.strip():
        clauses.append(_text(query))
    sql = " AND ".join([f"pairs.dataset_id = {int(dataset_id)}", *(one.sql for one in clauses)])
    return Clause(
        sql.replace("pairs_dataset", str(int(dataset_id))), tuple(value for one in clauses for value in one.parameters)
    )


def find(
    con: duckdb.DuckDBPyConnection,
    dataset_id: int,
    filters: list[Filter],
    query: str = "",
    sort: str = "as imported",
    model: str | None = None,
    page: int = 0,
    size: int = 20,
) -> Found:
    """One page of the pairs that satisfy every filter and the text query (words in quotes stay together).

    `sort`: one of SORTS, or of MODEL_SORTS (by `model`). Raises SignetError for a filter that names what the dataset
    does not have.
    """  # fmt: skip
    clause = where(con, dataset_id, filters, query)
    order = _order(con, dataset_id, sort, model)
    whole = con.execute("SELECT count(*) FROM pairs WHERE dataset_id = ?", [dataset_id]).fetchone()
    total = int(whole[0]) if whole else 0
    # A count over the window makes every row of it, and every row's sort key; with nothing filtered it is the total.
    everything = not filters and not query.strip()
    counting = str(total) if everything else "count(*) OVER ()"
    rows = con.execute(
        f"SELECT pair_no, {counting} FROM pairs WHERE {clause.sql} ORDER BY {order} "
        f"LIMIT {int(size)} OFFSET {int(page) * int(size)}",
        list(clause.parameters),
    ).fetchall()
    counted = rows[0][1] if rows else 0
    if not rows and page:  # past the end: the count is still wanted
        found = con.execute(f"SELECT count(*) FROM pairs WHERE {clause.sql}", list(clause.parameters)).fetchone()
        counted = found[0] if found else 0
    return Found(tuple(int(r[0]) for r in rows), int(counted), total)
