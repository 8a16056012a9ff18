"""What the Classifiers page shows: labels to learn from, and a trained classifier's held-out figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from engine import classifiers, decisions, evaluation, example_frames, jobs, learning_curve, taxonomy
from engine.intervals import MINIMUM_N, Estimate


def taught(con: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, str]]:
    """Taxonomies whose present version somebody has labelled by: name to (taxonomy_id, title)."""
    found, _ = taxonomy.available()
    rows = con.execute("""
        SELECT t.name, t.version, t.taxonomy_id FROM taxonomies t WHERE EXISTS (
            SELECT 1 FROM labels l JOIN features f USING (feature_id) JOIN labelers b USING (labeler_id)
            WHERE f.taxonomy_id = t.taxonomy_id AND b.kind NOT IN ('rule', 'builtin', 'classifier'))""").fetchall()
    known = {(name, version): int(taxonomy_id) for name, version, taxonomy_id in rows}
    return {
        name: (known[name, one.version], one.title) for name, one in found.items() if (name, one.version) in known
    }  # fmt: skip


def class_counts(
    con: duckdb.DuckDBPyConnection, taxonomy_id: int, teachers: Sequence[str], datasets: Sequence[str]
) -> pd.DataFrame:
    """Labelled entries of each class there would be to learn from: feature, class, entries."""
    row = con.execute("SELECT text FROM taxonomies WHERE taxonomy_id = ?", [taxonomy_id]).fetchone()
    chosen = taxonomy.parse(row[0] if row else "", "taxonomy")
    ids = [int(r[0]) for name in datasets
           for r in con.execute("SELECT dataset_id FROM datasets WHERE name = ?", [name]).fetchall()]  # fmt: skip
    if datasets and not ids:
        return pd.DataFrame()
    counts = example_frames.value_counts(con, taxonomy_id, teachers, ids)
    return pd.DataFrame(
        [
            {"feature": column.title, "class": name, "entries": counts.get((column.name, float(value)), 0)}
            for column in chosen.columns() if counts
            for value, name in zip(decisions.classes_of(column), decisions.class_names(column))
        ]
    )  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A trained classifier with what it said of held-out entries. `frame` is its held_out.parquet."""

    known: classifiers.About
    columns: tuple[taxonomy.Column, ...]
    frame: pd.DataFrame
    report: dict[str, Any]

    def column(self, name: str) -> taxonomy.Column:
        """The column of that name."""
        return next(one for one in self.columns if one.name == name)


def judged(home: Path, name: str) -> Judged:
    """A trained classifier's held-out verdicts; SignetError where it is damaged."""
    known, folder = classifiers.about(home, name), classifiers.folder_of(home, name)
    chosen = taxonomy.parse((folder / "taxonomy.yaml").read_text(encoding="utf-8"), f"{name}/taxonomy.yaml")
    frame = pd.read_parquet(folder / classifiers.HELD_OUT)
    report = jobs.read_json(folder / classifiers.REPORT) or {}
    have = set(frame["column"])
    return Judged(known, tuple(one for one in chosen.columns() if one.name in have), frame, report)


def overall(one: Judged) -> dict[str, Estimate]:
    """Macro-F1 averaged over columns, of the classifier and its baselines: value, majority, keywords."""
    groups = one.frame.drop_duplicates("entry").set_index("entry")["group"]
    wide = {name: one.frame.pivot(index="entry", columns="column", values=name).reindex(groups.index)
            for name in ("truth", "value", "majority", "keywords")}  # fmt: skip
    return {
        name: evaluation.mean_macro_f1(
            [(wide["truth"][c.name].to_numpy(), wide[name][c.name].to_numpy()) for c in one.columns], groups.to_numpy()
        )
        for name in ("value", "majority", "keywords")
    }


def by_class(one: Judged) -> pd.DataFrame:
    """A row a column and class that occurs: precision, recall and F1 with interval, beside both baselines' F1."""
    rows = []
    for column in one.columns:
        part = one.frame[one.frame["column"] == column.name]
        truth, groups, classes = part["truth"].to_numpy(), part["group"].to_numpy(), decisions.classes_of(column)
        found = evaluation.classification(truth, part["value"].to_numpy(), groups, classes)
        beside = {
            n: evaluation.classification(truth, part[n].to_numpy(), groups, classes) for n in ("majority", "keywords")
        }
        for place, (name, figures) in enumerate(zip(decisions.class_names(column), found.classes)):
            if not figures.support and not figures.given:
                continue
            title = name if column.kind == "category" else f"{column.title}: {name}"
            rows.append(
                {"feature": column.name, "class": name, "value": figures.value, "title": title, "n": figures.support,
                 "given": figures.given, "precision": figures.precision.estimate, "recall": figures.recall.estimate,
                 "estimate": figures.f1.estimate, "conf_low": figures.f1.conf_low, "conf_high": figures.f1.conf_high,
                 **{f"{n}_f1": b.classes[place].f1.estimate for n, b in beside.items()}}
            )  # fmt: skip
    return pd.DataFrame(rows)


def confusion(one: Judged, column: str) -> pd.DataFrame:
    """Counts of truth against verdict of a column: row, column, value (share of the truth's entries), n."""
    part, known = one.frame[one.frame["column"] == column], one.column(column)
    found = evaluation.classification(part["truth"].to_numpy(), part["value"].to_numpy(), part["group"].to_numpy(),
                               decisions.classes_of(known))  # fmt: skip
    names = decisions.class_names(known)
    return pd.DataFrame(
        [
            {"row": f"truly {a}", "column": f"said {b}", "n": int(n), "value": int(n) / max(int(row.sum()), 1)}
            for a, row in zip(names, found.confusion) if row.sum() for b, n in zip(names, row)
        ]
    )  # fmt: skip


def reliability(one: Judged) -> tuple[pd.DataFrame, float, float]:
    """Bins of confidence over all columns (confidence, right, low, high, n), calibration error and Brier score."""
    right = (one.frame["truth"] == one.frame["value"]).to_numpy(dtype=float)
    found = evaluation.calibration(one.frame["confidence"].to_numpy(), right)
    rows = [
        {"confidence": b.confidence, "right": b.accuracy.estimate, "low": b.accuracy.conf_low,
         "high": b.accuracy.conf_high, "n": b.accuracy.n} for b in found.bins
    ]  # fmt: skip
    scores, weights = [], []
    for column in one.columns:
        part = one.frame[one.frame["column"] == column.name]
        chances = pd.DataFrame(part["chances"].tolist()).to_numpy(dtype=float)
        scores.append(evaluation.brier(chances, part["truth"].to_numpy(), decisions.classes_of(column)))
        weights.append(len(part))
    total = sum(s * w for s, w in zip(scores, weights)) / max(sum(weights), 1)
    return pd.DataFrame(rows), found.ece, total


def abstaining(one: Judged, column: str) -> pd.DataFrame:
    """Coverage against accuracy of a column: threshold, coverage, accuracy, low, high, n."""
    part = one.frame[one.frame["column"] == column]
    found = evaluation.abstention(part["truth"].to_numpy(), part["value"].to_numpy(), part["confidence"].to_numpy(),
                                  part["group"].to_numpy())  # fmt: skip
    return pd.DataFrame(
        [
            {"threshold": a.threshold, "coverage": a.coverage, "accuracy": a.accuracy.estimate,
             "low": a.accuracy.conf_low, "high": a.accuracy.conf_high, "n": a.accuracy.n} for a in found
        ]
    )  # fmt: skip


def domains(one: Judged, column: str) -> tuple[pd.DataFrame, float]:
    """Figures of a column by dataset and subset, and p of the hypothesis that they are alike."""
    part = one.frame[one.frame["column"] == column]
    found = evaluation.drift(part["truth"].to_numpy(), part["value"].to_numpy(), part["domain"].tolist(),
                             part["group"].to_numpy())  # fmt: skip
    rows = [
        {"title": d.name, "n": d.n, "estimate": d.macro_f1.estimate, "conf_low": d.macro_f1.conf_low,
         "conf_high": d.macro_f1.conf_high, "accuracy": d.accuracy.estimate} for d in found.domains
    ]  # fmt: skip
    return pd.DataFrame(rows), found.p_value


def mistakes(
    con: duckdb.DuckDBPyConnection, home: str, name: str, revision: str, column: str, most: int = 30
) -> pd.DataFrame:
    """The wrong verdicts of a column, most confident first, with their texts: said, truth, confidence, prompt,
    response, dataset, pair_id. `revision` is the classifier's, so that what is cached is this one's."""
    one = judged(Path(home), name)
    part = one.frame[one.frame["column"] == column].reset_index(drop=True)
    known = one.column(column)
    names = dict(zip(decisions.classes_of(known), decisions.class_names(known)))
    found = evaluation.mistakes(part["truth"].to_numpy(), part["value"].to_numpy(), part["confidence"].to_numpy(), most)
    rows = pd.DataFrame(
        [
            {"place": i, "entry": str(part["entry"][m.row]), "said": names[m.decided], "truth": names[m.truth],
             "confidence": m.confidence} for i, m in enumerate(found)
        ], columns=["place", "entry", "said", "truth", "confidence"],
    )  # fmt: skip
    texts = con.execute(
        """
        WITH asked AS (SELECT unnest($entries) AS entry)
        SELECT a.entry, left(json_extract_string(q.turns, '$[#-1][1]'), 300) AS prompt,
            left(e.response, 600) AS response, any_value(d.name) AS dataset, any_value(p.pair_id) AS pair_id
        FROM asked a JOIN entries e ON e.hash = a.entry::UUID JOIN prompts q USING (prompt_id)
        JOIN pairs p ON p.chosen = e.entry_id OR p.rejected = e.entry_id JOIN datasets d USING (dataset_id)
        GROUP BY ALL""",
        {"entries": rows["entry"].tolist()},
    ).df()
    return rows.merge(texts.drop_duplicates("entry"), on="entry", how="left").drop(columns="place")


MORE = 200  # labels that the forecast is about


@dataclass(frozen=True)
class Curve:
    """Macro-F1 by labels: measured points, the fitted line with its forecast (`seen` false), and its gain."""

    points: pd.DataFrame
    fitted: pd.DataFrame
    gain: Estimate


def curve(one: Judged) -> Curve | None:
    """The learning curve of a head on frozen embeddings; None for a fine-tuned encoder, whose curve is not measured."""
    points = pd.DataFrame(one.report.get("curve", []))
    if points.empty:
        return None
    law = learning_curve.forecast([learning_curve.Point(p.n, p.macro_f1) for p in points.itertuples()], MORE)
    fitted = pd.DataFrame(columns=["n", "macro_f1", "seen"])
    if law.gain.estimate == law.gain.estimate:  # not NaN
        low, now = float(points["n"].min()), float(points["n"].max())
        steps = [(low + (now - low) * k / 20, True) for k in range(21)] + [(now, False), (now + MORE, False)]
        fitted = pd.DataFrame([{"n": n, "macro_f1": law.at(n), "seen": seen} for n, seen in steps])
    return Curve(points, fitted, law.gain)


def builtin_beside(con: duckdb.DuckDBPyConnection, home: str, name: str, revision: str) -> dict[str, Estimate]:
    """Macro-F1 of the built-in head on the same held-out entries, and of the classifier on those: builtin, value.

    Empty where the built-in head has not labelled them. Where it was trained on some of them, it is flattered.
    """
    one = judged(Path(home), name)
    rows = con.execute(
        """
        SELECT replace(e.hash::VARCHAR, '-', '') AS entry, f.name AS "column", any_value(l.value) AS builtin
        FROM labels l JOIN labelers b USING (labeler_id) JOIN features f USING (feature_id)
        JOIN taxonomies t USING (taxonomy_id) JOIN entries e USING (entry_id)
        WHERE b.kind = 'builtin' AND t.name = ? AND t.version = ? GROUP BY ALL""",
        [one.known.taxonomy, one.known.version],
    ).df()
    both = one.frame.merge(rows, on=["entry", "column"])
    if both.empty:
        return {}
    groups = both.drop_duplicates("entry").set_index("entry")["group"]
    wide = {name: both.pivot(index="entry", columns="column", values=name).reindex(groups.index)
            for name in ("truth", "value", "builtin")}  # fmt: skip
    return {
        name: evaluation.mean_macro_f1(
            [(wide["truth"][c].to_numpy(), wide[name][c].to_numpy()) for c in wide["truth"].columns], groups.to_numpy()
        )
        for name in ("value", "builtin")
    }


def finding(table: pd.DataFrame, scores: dict[str, Estimate]) -> str:
    """The one sentence over the F1 chart: whether it beats its baselines, and its weakest class."""
    own, best = scores["value"], max(scores["majority"].estimate, scores["keywords"].estimate)
    if not own.conf_low > best:
        return "Not clearly better than its baselines: more labels, or clearer definitions, first"
    known = table[table["n"] >= MINIMUM_N].dropna(subset=["estimate"])
    if known.empty:
        return "Clearly better than its baselines; every class is rare"
    worst = known.loc[known["estimate"].idxmin()]
    return f"Clearly better than its baselines; weakest on “{worst['title']}” (F1 {worst['estimate']:.2f})"


def outlook(learned: Curve) -> str:
    """What more labels would bring, in a sentence."""
    gain = learned.gain
    if gain.estimate != gain.estimate:
        return "Too few sizes to forecast what more labels would bring"
    return f"{MORE} more labels would bring about {gain.estimate:+.3f} [{gain.conf_low:+.3f}, {gain.conf_high:+.3f}]"
