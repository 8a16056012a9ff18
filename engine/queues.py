"""Queues: which entries people are asked to judge, drawn from a dataset once, in SQL, by a seed.

The draw hangs on the texts and the seed alone, so that the same dataset gives the same queue in every store. Only a
`random` queue is a random sample of its dataset: `Queue.is_random_sample` says so, and prevalence or agreement read
off another kind of queue speaks of that queue only (a `stratified` one keeps its strata's sizes as weights).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import duckdb

from engine import answers, audit_agreement, audit_reports, catalog
from engine.records import SignetError
from engine.store import Store, ensure_taxonomy
from engine.taxonomy import Feature, Taxonomy, load, parse

PURPOSES = {"annotate": "label entries, blind", "check": "judge a labeler's predictions"}
STRATEGIES = {
    "random": "at random",
    "stratified": "equal numbers of every value that a labeler predicts",
    "low_confidence": "where a labeler is least confident",
    "low_consistency": "where samples of a language model disagree",
    "conflict": "where two labelers disagree",
    "suspects": "both sides of suspect pairs",
}
OPTIONS = {"labeler", "labeler_taxonomy", "other", "feature", "features", "models", "subset", "split", "fresh"}
LARGEST, MOST_OVERLAP = 100_000, 20
_SHUFFLED = ("random", "stratified", "suspects")  # the others are worth most at their beginning, if people stop early


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue. `params`: strategy, seed, n asked for, the options, and the strata's population where there are some.

    `overlap`: how many annotators every entry gets. `n`: entries in it.
    """

    queue_id: int
    name: str
    purpose: str
    dataset_id: int
    dataset: str
    taxonomy_id: int
    taxonomy: str
    overlap: int
    params: dict[str, Any]
    created_at: str
    n: int

    @property
    def is_random_sample(self) -> bool:
        """Whether figures from this queue speak for the dataset (or the part of it in `params`)."""
        return bool(self.params["random_sample"])

    def describe(self) -> str:
        """How it was drawn, in words. Plain text: escape it where it is shown."""
        p = self.params
        parts = [f"{self.n:,} entries", STRATEGIES[p["strategy"]]]
        if self.purpose == "check":
            parts = [f"{self.n:,} of {p['labeler']}'s predictions", "at random"]
        elif p.get("labeler"):
            parts.append(f"by {p['labeler']}" + (f" and {p['other']}" if p.get("other") else ""))
        parts += [f"feature {p['feature']}"] if p.get("feature") else []
        parts += [f"{key} {p[key]}" for key in ("subset", "split") if p.get(key)]
        parts += ["without what other queues hold"] if p.get("fresh") else []
        parts.append(f"{self.overlap} annotator{'s' if self.overlap > 1 else ''} an entry")
        return ", ".join(parts)


def every(con: duckdb.DuckDBPyConnection, dataset_id: int | None = None) -> list[Queue]:
    """The queues of a dataset, or all, oldest first."""
    rows = con.execute(
        """
        SELECT q.queue_id, q.name, q.purpose, q.dataset_id, d.name, q.taxonomy_id, t.name, q.overlap, q.params,
            strftime(q.created_at, '%Y-%m-%d %H:%M'), (SELECT count(*) FROM queue_items i WHERE i.queue_id = q.queue_id)
        FROM queues q JOIN datasets d USING (dataset_id) JOIN taxonomies t USING (taxonomy_id)
        WHERE $dataset IS NULL OR q.dataset_id = $dataset ORDER BY q.queue_id""",
        {"dataset": dataset_id},
    ).fetchall()
    return [Queue(*(*row[:8], json.loads(row[8]), *row[9:])) for row in rows]


def queue(con: duckdb.DuckDBPyConnection, name: str) -> Queue:
    """The queue of that name; SignetError lists the ones there are."""
    found = every(con)
    for one in found:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in found) or "none yet"
    raise SignetError(f"No queue {name!r}; there are: {known}.")


@lru_cache(maxsize=64)
def _parsed(text: str, name: str) -> Taxonomy:
    return parse(text, name)


def asked(con: duckdb.DuckDBPyConnection, of: Queue) -> Taxonomy:
    """The taxonomy in the version that the queue was made with, with only the features that it asks for."""
    return _only(whole(con, of.taxonomy_id), of.params.get("features"))


def whole(con: duckdb.DuckDBPyConnection, taxonomy_id: int) -> Taxonomy:
    """A stored version of a taxonomy."""
    row = con.execute("SELECT name, text FROM taxonomies WHERE taxonomy_id = ?", [taxonomy_id]).fetchone()
    if row is None:
        raise SignetError(f"Taxonomy number {taxonomy_id} is gone from the store.")
    return _parsed(str(row[1]), str(row[0]))


def _only(taxonomy: Taxonomy, names: Sequence[str] | None) -> Taxonomy:
    if not names:
        return taxonomy
    for name in names:
        taxonomy.feature(name)
    return replace(taxonomy, features=tuple(one for one in taxonomy.features if one.name in names))


def create(
    store: Store,
    dataset: str,
    taxonomy: str,
    name: str,
    strategy: str = "random",
    n: int = 200,
    overlap: int = 1,
    seed: int = 0,
    purpose: str = "annotate",
    options: dict[str, Any] | None = None,
) -> Queue:
    """Draw a queue and keep it.

    options: `labeler` (stratified, low_confidence, low_consistency, conflict, suspects; the one judged by a check)
    with `labeler_taxonomy` where it is not the queue's, `other` (conflict), `feature` (one column of that labeler),
    `models` (suspects), `features` (ask for these only), `subset`, `split`, `fresh` (leave out what another queue of
    the taxonomy holds). Raises SignetError for a name that is taken, wrong options, and where nothing can be drawn.
    """
    given = {key: one for key, one in (options or {}).items() if one not in (None, "", [], False)}
    name = " ".join(name.split())
    if not name or len(name) > 100 or not name.isprintable():
        raise SignetError("A queue's name must be 1 to 100 printable characters.")
    if purpose not in PURPOSES:
        raise SignetError(f"A queue's purpose is one of {', '.join(PURPOSES)}, not {purpose!r}.")
    if strategy not in STRATEGIES:
        raise SignetError(f"No strategy {strategy!r}; there are {', '.join(STRATEGIES)}.")
    if unknown := sorted(set(given) - OPTIONS):
        raise SignetError(f"A queue has no option {unknown[0]!r}; it has {', '.join(sorted(OPTIONS))}.")
    if purpose == "check" and strategy != "random":
        raise SignetError("A check draws its predictions at random, so that its figure speaks for all of them.")
    if purpose == "check" and "labeler" not in given:
        raise SignetError("A check needs the labeler whose predictions are judged.")
    if not 1 <= n <= LARGEST or not 1 <= overlap <= MOST_OVERLAP:
        raise SignetError(f"A queue has 1 to {LARGEST:,} entries and 1 to {MOST_OVERLAP} annotators an entry.")
    version = load(taxonomy)
    wanted = _only(version, given.get("features"))
    with store.transaction() as con:
        data = catalog.dataset(con, dataset)
        if con.execute("SELECT 1 FROM queues WHERE name = ?", [name]).fetchone():
            raise SignetError(f"A queue named {name!r} exists; choose another name.")
        ensure_taxonomy(con, version)
        taxonomy_id = catalog.taxonomy_id(con, version.name, version.version)
        params: dict[str, Any] = {"strategy": strategy, "seed": seed, "asked": n, **given}
        # What is left of a dataset after random draws is a random sample of it too; after others it is not.
        others = (
            [one for one in every(con, data.dataset_id) if one.taxonomy == version.name] if "fresh" in given else []
        )
        params["random_sample"] = strategy == "random" and all(one.is_random_sample for one in others)
        pool = _pool(data.dataset_id, version.name, seed, given)
        if purpose == "check":
            drawn = _predictions(con, data, wanted, pool, n, given)
        else:
            drawn, strata = _draw(con, data, version, strategy, pool, n, given)
            params |= {"strata": strata} if strata else {}
        if not drawn:
            raise SignetError(f"Nothing to draw: no entry of {dataset} is in question ({STRATEGIES[strategy]}).")
        row = con.execute("SELECT coalesce(max(queue_id), 0) + 1 FROM queues").fetchone()
        queue_id = int(row[0]) if row else 1
        con.execute(
            "INSERT INTO queues VALUES (?, ?, ?, ?, ?, ?, ?, now()::TIMESTAMP)",
            [queue_id, name, purpose, data.dataset_id, taxonomy_id, overlap, json.dumps(params, ensure_ascii=False)],
        )
        con.execute(
            "INSERT INTO queue_items SELECT $q, unnest(range($n)), unnest($entries::BIGINT[]), "
            "unnest($shown::VARCHAR[])",
            {"q": queue_id, "n": len(drawn), "entries": [e for e, _ in drawn], "shown": [s for _, s in drawn]},
        )
    return queue(store.read(), name)


# --- the draw: everything orders by `luck`, a digest of seed and text, where nothing else decides ---------------------


def _pool(dataset_id: int, taxonomy: str, seed: int, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """SQL of the entries in question (entry_id, luck), and its parameters."""
    part = "".join(f" AND {column} = ${column}" for column in ("subset", "split") if given.get(column))
    fresh = """ANTI JOIN (SELECT i.entry_id FROM queue_items i JOIN queues q USING (queue_id)
        JOIN taxonomies t USING (taxonomy_id) WHERE t.name = $taxonomy) held ON held.entry_id = x.entry_id"""
    sql = f"""(
        SELECT x.entry_id, md5($seed::VARCHAR || x.hash::VARCHAR) AS luck FROM entries x SEMI JOIN (
            SELECT chosen AS entry_id FROM pairs WHERE dataset_id = $dataset{part} UNION ALL
            SELECT rejected FROM pairs WHERE dataset_id = $dataset{part}) d ON d.entry_id = x.entry_id
        {fresh if given.get("fresh") else ""})"""
    values: dict[str, Any] = {"dataset": dataset_id, "seed": seed}
    values |= {column: given[column] for column in ("subset", "split") if given.get(column)}
    return sql, values | ({"taxonomy": taxonomy} if given.get("fresh") else {})


def _labeler(
    con: duckdb.DuckDBPyConnection, data: catalog.Dataset, given: dict[str, Any], taxonomy: str, key: str = "labeler"
) -> catalog.Labeler:
    if key not in given:
        raise SignetError(f"This strategy needs the option {key!r}: whose labels to go by.")
    return catalog.labeler(con, data.dataset_id, given[key], given.get("labeler_taxonomy", taxonomy))


def _columns(con: duckdb.DuckDBPyConnection, by: catalog.Labeler, feature: str | None) -> list[catalog.FeatureRow]:
    """The stored columns to go by: the one named, or all but numbers."""
    found = [one for one in catalog.features(con, by.taxonomy_id) if one.kind != "numeric"]
    if feature is None:
        return found
    named = [one for one in found if one.name == feature]
    if not named:
        raise SignetError(f"{by.taxonomy} has no feature {feature!r}; it has {', '.join(one.name for one in found)}.")
    return named


def _draw(
    con: duckdb.DuckDBPyConnection, data: catalog.Dataset, taxonomy: Taxonomy, strategy: str,
    pool: tuple[str, dict[str, Any]], n: int, given: dict[str, Any],
) -> tuple[list[tuple[int, str | None]], dict[str, dict[str, int]]]:  # fmt: skip
    """Entries in the queue's order, and by stratum how many there are and how many were drawn."""
    sql, values = pool
    feature = given.get("feature")
    by = _labeler(con, data, given, taxonomy.name) if strategy not in ("random", "suspects") else None
    columns = _columns(con, by, feature) if by else []
    ids = {"by": by.labeler_id, "columns": [one.feature_id for one in columns]} if by else {}
    labels = "SELECT * FROM labels WHERE labeler_id = $by AND feature_id IN (SELECT unnest($columns))"
    if strategy == "random":
        scored = "SELECT entry_id, 0 AS score FROM pool"
    elif strategy == "stratified":
        if len(columns) != 1:
            raise SignetError("A stratified queue needs one feature whose predicted values are the strata.")
        scored = f"""SELECT entry_id, row_number() OVER (PARTITION BY value ORDER BY luck) AS score
            FROM pool JOIN ({labels}) USING (entry_id)"""
    elif strategy == "low_confidence":
        scored = f"""SELECT entry_id, min(confidence) AS score FROM ({labels}) WHERE confidence IS NOT NULL
            GROUP BY entry_id"""
    elif strategy == "low_consistency":
        ids = {"samples": _samples(con, data, by), "columns": [one.feature_id for one in columns]} if by else {}
        scored = """
            SELECT entry_id, avg(share) AS score FROM (
                SELECT entry_id, feature_id, max(votes) / sum(votes) AS share FROM (
                    SELECT entry_id, feature_id, value, count(*) AS votes FROM labels
                    WHERE labeler_id IN (SELECT unnest($samples)) AND feature_id IN (SELECT unnest($columns))
                    GROUP BY ALL) GROUP BY ALL HAVING sum(votes) > 1)
            GROUP BY entry_id HAVING avg(share) < 1"""
    elif strategy == "conflict":
        other = _labeler(con, data, given, taxonomy.name, "other")
        ids |= {"other": other.labeler_id, "theirs": [f.feature_id for f in _columns(con, other, feature)]}
        scored = f"""
            SELECT a.entry_id, -count(*) AS score FROM ({labels}) a JOIN features f USING (feature_id)
            JOIN (SELECT entry_id, name, value FROM labels JOIN features USING (feature_id)
                WHERE labeler_id = $other AND feature_id IN (SELECT unnest($theirs))) b
                ON b.entry_id = a.entry_id AND b.name = f.name
            WHERE a.value <> b.value GROUP BY a.entry_id"""
    else:
        ids = {"suspects": _suspects(con, data, taxonomy, given, n)}
        scored = """
            SELECT entry_id, min(list_position($suspects, pair_no)) AS score FROM (
                SELECT chosen AS entry_id, pair_no FROM pairs WHERE dataset_id = $dataset UNION ALL
                SELECT rejected, pair_no FROM pairs WHERE dataset_id = $dataset)
            WHERE pair_no IN (SELECT unnest($suspects::INTEGER[])) GROUP BY entry_id"""
    rows = con.execute(
        f"""
        WITH pool AS MATERIALIZED {sql}, scored AS ({scored}),
        drawn AS (SELECT entry_id, score, luck FROM scored JOIN pool USING (entry_id) ORDER BY score, luck LIMIT $n)
        SELECT entry_id FROM drawn ORDER BY {"luck" if strategy in _SHUFFLED else "score, luck"}""",
        {**values, **ids, "n": n},
    ).fetchall()
    drawn = [int(row[0]) for row in rows]
    if strategy == "low_confidence" and not drawn:
        raise SignetError(f"{given['labeler']} gives no confidence with its labels here.")
    strata = _strata(con, columns[0], pool, ids, drawn) if strategy == "stratified" else {}
    return [(entry, None) for entry in drawn], strata


def _strata(
    con: duckdb.DuckDBPyConnection, column: catalog.FeatureRow, pool: tuple[str, dict[str, Any]], ids: dict[str, Any],
    drawn: list[int],
) -> dict[str, dict[str, int]]:  # fmt: skip
    rows = con.execute(
        f"""SELECT value, count(*), count(*) FILTER (entry_id IN (SELECT unnest($drawn))) FROM {pool[0]} p
        JOIN labels USING (entry_id) WHERE labeler_id = $by AND feature_id IN (SELECT unnest($columns))
        GROUP BY value ORDER BY value""",
        {**pool[1], **ids, "drawn": drawn},
    ).fetchall()
    names = {float(i): one for i, one in enumerate(column.classes)}
    return {names.get(value, f"{value:g}"): {"population": total, "drawn": n} for value, total, n in rows}


def _samples(con: duckdb.DuckDBPyConnection, data: catalog.Dataset, by: catalog.Labeler) -> list[int]:
    """The ids of all samples of a language model that this labeler is one of."""
    for group in audit_agreement.samples(catalog.labelers(con, data.dataset_id)).values():
        ids = [one.labeler_id for one in group if one.taxonomy_id == by.taxonomy_id]
        if by.labeler_id in ids and len(ids) > 1:
            return ids
    raise SignetError(f"{by.label} has labelled these entries once only; label them again with another sample number.")


def _suspects(
    con: duckdb.DuckDBPyConnection, data: catalog.Dataset, taxonomy: Taxonomy, given: dict[str, Any], n: int
) -> list[int]:
    if "models" not in given:
        raise SignetError("Suspect pairs need the option 'models': which reward models decide the other way.")
    return audit_reports.suspect_pairs(
        con, data.name, given["models"], given.get("labeler"), given.get("labeler_taxonomy")
    )[:n]


def _predictions(
    con: duckdb.DuckDBPyConnection, data: catalog.Dataset, taxonomy: Taxonomy, pool: tuple[str, dict[str, Any]],
    n: int, given: dict[str, Any],
) -> list[tuple[int, str | None]]:  # fmt: skip
    """Entries that the labeler has labelled, at random, each with its predictions as a check shows them."""
    by = _labeler(con, data, given, taxonomy.name)
    names = [column.name for column in taxonomy.columns()]
    rows = con.execute(
        f"""
        WITH pool AS MATERIALIZED {pool[0]},
        said AS (SELECT l.entry_id, f.name, l.value FROM labels l JOIN features f USING (feature_id)
            WHERE l.labeler_id = $by AND f.taxonomy_id = $taxonomy_id AND f.name IN (SELECT unnest($names))),
        drawn AS (SELECT * FROM pool SEMI JOIN said USING (entry_id) ORDER BY luck LIMIT $n)
        SELECT entry_id, list(name), list(value) FROM drawn JOIN said USING (entry_id) GROUP BY entry_id, luck
        ORDER BY luck""",
        {**pool[1], "by": by.labeler_id, "taxonomy_id": by.taxonomy_id, "names": names, "n": n},
    ).fetchall()
    folded = [(int(entry), answers.from_labels(taxonomy, dict(zip(*said)))) for entry, *said in rows]
    return [(entry, answers.to_text(shown)) for entry, shown in folded if shown]


def forget(con: duckdb.DuckDBPyConnection, queue_ids: list[int]) -> None:
    """Delete these queues with their items, claims and annotations, inside the caller's transaction."""
    for table in ("claims", "annotations", "queue_items", "queues"):
        con.execute(f"DELETE FROM {table} WHERE queue_id IN (SELECT unnest($ids::INTEGER[]))", {"ids": queue_ids})


def is_one_key(features: Sequence[Feature]) -> bool:
    """Whether one keypress can answer: one feature, with few values."""
    return len(features) == 1 and features[0].kind in ("category", "boolean", "signed", "ternary")
