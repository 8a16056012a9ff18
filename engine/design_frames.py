"""Builds the wide table of an audit (engine.design) out of the store's long tables.

An entry's discrete labels come packed in 64-bit words (engine.packing); entry ids are small dense integers, so that
sides and rewards are then looked up by position, without joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from engine import catalog
from engine.design import Column, Design, Reworded
from engine.packing import BATCH, pack, width

LENGTH = "length"
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """Which pairs of a dataset: of one subset, of one split, on one topic, or all (None).

    `topic`: (labeler_id, feature_id) of a boolean label; a pair is on the topic when either side has it.
    """

    subset: str | None = None
    split: str | None = None
    topic: tuple[int, int] | None = None

    def condition(self, prefix: str = "") -> tuple[str, dict[str, Any]]:
        """SQL on pairs p, beginning with AND where there is anything, and its parameters (their names by `prefix`)."""
        found: dict[str, Any] = {}
        text = ""
        for column, value in (("subset", self.subset), ("split", self.split)):
            if value is not None:
                text += f" AND coalesce(p.{column}, '') = ${prefix}{column}"
                found[prefix + column] = value
        if self.topic is not None:
            labels = f"""SELECT entry_id FROM labels
                WHERE labeler_id = ${prefix}topic_labeler AND feature_id = ${prefix}topic_feature AND value > 0"""
            text += f" AND (p.chosen IN ({labels}) OR p.rejected IN ({labels}))"
            found |= {f"{prefix}topic_labeler": self.topic[0], f"{prefix}topic_feature": self.topic[1]}
        return text, found


WHOLE = Part()


@dataclass(frozen=True, slots=True)
class Source:
    """Labels to put into a design: one labeler's, of one taxonomy; `features` by stored name, None for all."""

    labeler_id: int
    taxonomy_id: int
    name: str
    features: tuple[str, ...] | None = None


def _range(entries: Ids) -> tuple[int, int]:
    return (int(entries.min()), int(entries.max())) if len(entries) else (0, 0)


def _dense(con: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any], low: int, high: int, empty: Any) -> Any:
    """A column of (entry_id, value) rows as an array with one place for every entry id from low to high, streamed."""
    dense = np.full(high - low + 1, empty)
    for batch in con.sql(sql, params=parameters).to_arrow_reader(BATCH):
        dense[batch.column(0).to_numpy() - low] = batch.column(1).to_numpy(zero_copy_only=False)
    return dense


def _columns(feature: catalog.FeatureRow, prefix: str, source: int, word: int, shift: int) -> list[Column]:
    if feature.kind == "numeric":
        return [Column(prefix + feature.name, feature.title, "numeric", feature.role, feature.scope, feature.name,
                       source, word)]  # fmt: skip
    bits, low = width(feature.kind, len(feature.classes))
    common = dict(role=feature.role, scope=feature.scope, feature=feature.name, source=source, word=word, shift=shift,
                  bits=bits, low=low)  # fmt: skip
    if feature.kind == "category":
        return [
            Column(f"{prefix}{feature.name}={name}", name, "class", equals=code, level=name, **common)  # type: ignore[arg-type]
            for code, name in enumerate(feature.classes)
        ]
    found = [Column(prefix + feature.name, feature.title, feature.kind, **common)]  # type: ignore[arg-type]
    if feature.kind in ("ternary", "signed"):
        words = ("positive", "negative") if feature.kind == "ternary" else ("supported", "opposed")
        found += [
            Column(f"{prefix}{feature.name}={level}", f"{feature.title}: {level}", "level", equals=sign,
                   level=str(sign), **common)  # type: ignore[arg-type]
            for level, sign in zip(words, (1, -1))
        ]  # fmt: skip
    return found


def _assemble(
    con: duckdb.DuckDBPyConnection, base: dict[str, Any], subsets: tuple[str, ...], chosen: Ids, rejected: Ids,
    sources: Sequence[Source], models: Sequence[catalog.Model],
) -> Design:  # fmt: skip
    """A design for pairs given by the entry ids of their sides."""
    sides = np.stack([chosen, rejected], axis=1)
    low, high = _range(sides)
    at = sides - low
    chars = _dense(con, "SELECT entry_id, n_chars FROM entries WHERE entry_id BETWEEN ? AND ?", [low, high], low, high,
                   np.int32(0))[at]  # fmt: skip
    columns = [Column(LENGTH, "Length (doublings of characters)", "numeric", "spoiler", "response", LENGTH, -1, 0)]
    words: list[NDArray[np.uint64]] = []
    numbers: list[NDArray[np.float32]] = [np.log2(1 + chars.astype(np.float32))[:, :, None]]
    known = np.ones((len(chosen), len(sources)), dtype=bool)
    seen = {LENGTH}
    for i, source in enumerate(sources):
        every = catalog.features(con, source.taxonomy_id)
        wanted = [f for f in every if source.features is None or f.name in source.features]
        packed = pack(con, source.labeler_id, wanted, low, high)
        if not packed.places:
            known[:, i] = False
            continue
        first_word, first_number = sum(w.shape[2] for w in words), sum(m.shape[2] for m in numbers)
        if packed.words.shape[1]:
            words.append(packed.words[at])
        if packed.numbers.shape[1]:
            numbers.append(packed.numbers[at])
        known[:, i] = packed.complete[at].all(axis=1)
        for feature, place, shift in packed.places:
            prefix = "" if feature.name not in seen else f"{source.name}: "
            offset = first_number if feature.kind == "numeric" else first_word
            columns += _columns(feature, prefix, i, place + offset, shift)
        seen |= {feature.name for feature, _, _ in packed.places}
        del packed  # what was taken out of it is as large
    rewards = np.full((len(chosen), 2, len(models)), np.nan)
    for k, model in enumerate(models):
        rewards[:, :, k] = _dense(
            con, "SELECT entry_id, reward FROM rewards WHERE model_id = ? AND entry_id BETWEEN ? AND ?",
            [model.model_id, low, high], low, high, np.nan,
        )[at]  # fmt: skip
    words = words or [np.zeros((len(chosen), 2, 0), dtype=np.uint64)]
    return Design(
        **base, subsets=subsets, chars=chars, words=_beside(words), numbers=_beside(numbers), known=known,
        rewards=rewards, models=tuple(m.label for m in models), columns=tuple(columns),
        sources=tuple(s.name for s in sources),
    )  # fmt: skip


def _beside(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def _sorted_pairs(con: duckdb.DuckDBPyConnection, sql: str, parameters: Any) -> dict[str, Any]:
    """Rows of (pair_no, prompt_id, subset, chosen, rejected, ...) as arrays sorted by prompt."""
    found = {name: np.ma.filled(values) for name, values in con.execute(sql, parameters).fetchnumpy().items()}
    key = found["prompt_id"]
    if len(key) > 1 and (key[1:] < key[:-1]).any():
        order = np.argsort(key, kind="stable")
        found = {name: values[order] for name, values in found.items()}
    return found


def _subset_names(con: duckdb.DuckDBPyConnection, dataset_id: int) -> list[str]:
    rows = con.execute(
        "SELECT coalesce(subset, '') FROM pairs WHERE dataset_id = ? GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 32000",
        [dataset_id],
    ).fetchall()
    return [str(row[0]) for row in rows]


def _base(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "pair_no": found["pair_no"].astype(np.int64), "prompt": found["prompt_id"],
        "subset": found["subset"].astype(np.int16),
    }  # fmt: skip


def load(
    con: duckdb.DuckDBPyConnection, dataset_id: int, sources: Sequence[Source], models: Sequence[catalog.Model],
    part: Part = WHOLE,
) -> Design:  # fmt: skip
    """The wide table of a dataset's pairs (or a part of them): labels of the sources, rewards of the models.

    Every pair is in it, whether labelled and scored or not; `Design.complete` says which are.
    """
    names = _subset_names(con, dataset_id)
    condition, parameters = part.condition()
    found = _sorted_pairs(
        con,
        f"""
        SELECT p.pair_no, p.prompt_id, s.place - 1 AS subset, p.chosen, p.rejected FROM pairs p
        JOIN (SELECT unnest($names::VARCHAR[]) AS name, generate_subscripts($names::VARCHAR[], 1) AS place) s
            ON s.name = coalesce(p.subset, '')
        WHERE p.dataset_id = $dataset AND p.rejected IS NOT NULL {condition}""",
        {"names": names, "dataset": dataset_id, **parameters},
    )
    return _assemble(con, _base(found), tuple(names), found["chosen"], found["rejected"], sources, models)


def rewriters(con: duckdb.DuckDBPyConnection, dataset_id: int) -> dict[str, int]:
    """Rewriters with how many of the dataset's entries each has reworded."""
    rows = con.execute(
        f"""
        SELECT rewriter, count(DISTINCT entry_id) FROM rewrites SEMI JOIN {catalog.ENTRIES_OF} d USING (entry_id)
        GROUP BY rewriter ORDER BY rewriter""",
        {"dataset": dataset_id},
    ).fetchall()
    return {str(name): int(n) for name, n in rows}


def labelled_rewrites(con: duckdb.DuckDBPyConnection, dataset_id: int) -> set[tuple[int, int]]:
    """(labeler_id, taxonomy_id) of everyone who has labelled rewrites of the dataset's answers."""
    rows = con.execute(
        f"""
        SELECT DISTINCT l.labeler_id, f.taxonomy_id FROM labels l JOIN features f USING (feature_id)
        WHERE l.entry_id IN (
            SELECT rewritten_id FROM rewrites SEMI JOIN {catalog.ENTRIES_OF} d USING (entry_id))""",
        {"dataset": dataset_id},
    ).fetchall()
    return {(int(a), int(b)) for a, b in rows}


def load_reworded(
    con: duckdb.DuckDBPyConnection, dataset_id: int, rewriter: str, sources: Sequence[Source],
    models: Sequence[catalog.Model],
) -> Reworded:  # fmt: skip
    """Pairs of which `rewriter` has reworded a side, before and after; a side that it left alone is the same in both.

    Of several rewrites of one entry the latest counts.
    """
    names = _subset_names(con, dataset_id)
    listed = ", ".join("(?, ?)" for _ in names) or "('', 0)"
    parameters = [value for code, name in enumerate(names) for value in (name, code)]
    found = _sorted_pairs(
        con,
        f"""
        WITH latest AS {catalog.LATEST_REWRITES}
        SELECT p.pair_no, p.prompt_id, s.code AS subset, p.chosen, p.rejected,
            coalesce(c.rewritten_id, p.chosen) AS new_chosen, coalesce(r.rewritten_id, p.rejected) AS new_rejected,
            CASE WHEN c.entry_id IS NOT NULL THEN coalesce(c.similarity, 1) ELSE 'nan'::DOUBLE END AS similar_chosen,
            CASE WHEN r.entry_id IS NOT NULL THEN coalesce(r.similarity, 1) ELSE 'nan'::DOUBLE END AS similar_rejected
        FROM pairs p JOIN (VALUES {listed}) AS s(name, code) ON s.name = coalesce(p.subset, '')
        LEFT JOIN latest c ON c.entry_id = p.chosen LEFT JOIN latest r ON r.entry_id = p.rejected
        WHERE p.dataset_id = ? AND p.rejected IS NOT NULL AND (c.entry_id IS NOT NULL OR r.entry_id IS NOT NULL)""",
        [rewriter, *parameters, dataset_id],
    )
    half = len(found["pair_no"])
    base = {name: np.concatenate([values, values]) for name, values in _base(found).items()}
    chosen, rejected = (np.concatenate([found[side], found[f"new_{side}"]]) for side in ("chosen", "rejected"))
    whole = _assemble(con, base, tuple(names), chosen, rejected, sources, models)
    first = np.arange(2 * half) < half
    similarity = np.stack([found["similar_chosen"], found["similar_rejected"]], axis=1).astype(float)
    return Reworded(whole.where(first), whole.where(~first), similarity)
