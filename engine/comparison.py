"""Reward models against people and against each other: counts in, frozen results with intervals out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from engine.intervals import Estimate, McNemar, correct, interval_text, mcnemar, wilson


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model on one subset (None: all). `score` counts a tie as not aligned, as SEAL does; ties are beside it."""

    model: str
    subset: str | None
    score: Estimate
    ties: int
    margin_sd: float


def scores(model: str, frame: pd.DataFrame) -> list[ModelScore]:
    """Alignment scores from `reward_frames.alignment`: share of pairs with reward(chosen) > reward(rejected).

    Wilson 95% intervals. The first row is the whole dataset.
    """
    return [
        ModelScore(
            model, None if pd.isna(r.subset) else str(r.subset), wilson(int(r.aligned), int(r.n)), int(r.ties),
            float(r.sd_margin) if pd.notna(r.sd_margin) else math.nan,
        )
        for r in frame.itertuples()
    ]  # fmt: skip


def length_scores(frame: pd.DataFrame) -> list[ModelScore]:
    """The two length rules from `reward_frames.length_baseline`, as if they were models."""
    found = []
    for name, column in (("longer wins", "longer"), ("shorter wins", "shorter")):
        for r in frame.itertuples():
            subset = None if pd.isna(r.subset) else str(r.subset)
            share = wilson(int(getattr(r, column)), int(r.n))
            found.append(ModelScore(name, subset, share, int(r.same), math.nan))
    return found


def score_table(every: Sequence[ModelScore]) -> pd.DataFrame:
    """Scores as a tidy table: model, subset, n, estimate, conf_low, conf_high, ties, margin_sd."""
    return pd.DataFrame(
        [
            {"model": s.model, "subset": s.subset or "all", "n": s.score.n, "estimate": s.score.estimate,
             "conf_low": s.score.conf_low, "conf_high": s.score.conf_high, "ties": s.ties, "margin_sd": s.margin_sd}
            for s in every
        ]
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TwoModels:
    """Two models on the pairs both have scored. `same` is the share on which they prefer the same side."""

    a: str
    b: str
    test: McNemar
    same: Estimate
    spearman: float
    p_adjusted: float


def pairwise(counts: Sequence[tuple[str, str, dict[str, float]]], correction: str = "holm") -> list[TwoModels]:
    """McNemar's test between every two models from `reward_frames.two_models`, p corrected over all of them."""
    tests = [mcnemar(int(c["only_a"]), int(c["only_b"]), int(c["n"])) for _, _, c in counts]
    adjusted = correct([test.p_value for test in tests], correction)
    return [
        TwoModels(a, b, test, wilson(int(c["same_sign"]), int(c["n"])), c["spearman"], p)
        for (a, b, c), test, p in zip(counts, tests, adjusted)
    ]


def pairwise_table(every: Sequence[TwoModels]) -> pd.DataFrame:
    """Tests as a tidy table; `estimate` is the difference in alignment score, a minus b."""
    return pd.DataFrame(
        [
            {"a": t.a, "b": t.b, "n": t.test.n, "only_a": t.test.only_a, "only_b": t.test.only_b,
             "estimate": t.test.difference.estimate, "conf_low": t.test.difference.conf_low,
             "conf_high": t.test.difference.conf_high, "p_value": t.test.p_value, "p_adjusted": t.p_adjusted,
             "same_side": t.same.estimate, "spearman": t.spearman}
            for t in every
        ]
    )  # fmt: skip


def calibration_table(model: str, frame: pd.DataFrame) -> pd.DataFrame:
    """`reward_frames.calibration` with Wilson intervals: model, predicted, agreement, low, high, n."""
    rows = []
    for r in frame.itertuples():
        share = wilson(int(r.agree), int(r.n))
        rows.append({"model": model, "predicted": float(r.predicted), "agreement": share.estimate,
                     "low": share.conf_low, "high": share.conf_high, "n": share.n})  # fmt: skip
    return pd.DataFrame(rows)


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error: mean |predicted - agreement| over bins, weighted by n. NaN when empty."""
    if table.empty:
        return math.nan
    return float(((table["predicted"] - table["agreement"]).abs() * table["n"]).sum() / table["n"].sum())


def square(every: Sequence[TwoModels], scores_of_all: dict[str, Estimate], what: str) -> pd.DataFrame:
    """The agreement matrix over models and people: row, column, value, n. `what`: same or spearman.

    With `same`, the row and column "people" hold the alignment scores.
    """
    names = list(scores_of_all) + (["people"] if what == "same" else [])
    found = {(name, name): (1.0, scores_of_all[name].n if name in scores_of_all else 0) for name in names}
    for t in every:
        value = t.same.estimate if what == "same" else t.spearman
        found[(t.a, t.b)] = found[(t.b, t.a)] = (value, t.test.n)
    if what == "same":
        for name, one in scores_of_all.items():
            found[(name, "people")] = found[("people", name)] = (one.estimate, one.n)
    return pd.DataFrame([{"row": a, "column": b, "value": v, "n": n} for (a, b), (v, n) in found.items()]).sort_values(
        ["row", "column"], key=lambda s: s.map(names.index)
    )


def finding(overall: Sequence[ModelScore], lengths: Sequence[ModelScore]) -> str:
    """The one sentence of the page: the best model with its interval, and whether it beats the length rules."""
    if not overall:
        return "No rewards yet"
    best = max(overall, key=lambda s: s.score.estimate)
    if best.score.n < 30:
        return f"Too few scored pairs ({best.score.n}, fewer than 30) to rank models"
    rule = max((s for s in lengths if s.subset is None), key=lambda s: s.score.estimate)
    beats = "above" if best.score.conf_low > rule.score.conf_high else "not clearly above"
    return (
        f"{best.model} agrees with people in {interval_text(best.score)}, {beats} the length rule "
        f"“{rule.model}” ({rule.score.estimate:.1%})"
    )
