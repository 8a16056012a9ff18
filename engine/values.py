"""Value profiles: prevalence of features on chosen and rejected with intervals. Frames in, frozen results out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pandas as pd
from scipy import stats

from engine.intervals import MINIMUM_N, Estimate, correct, mean_interval, points_text, wilson

SHARES = ("boolean", "category")  # kinds whose mean is a share; others are means of a number


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One item: its level on both sides, and the paired gap chosen minus rejected with a corrected p-value."""

    name: str
    title: str
    class_name: str | None
    kind: str
    role: str
    chosen: Estimate
    rejected: Estimate
    gap: Estimate
    p_value: float
    p_adjusted: float

    @property
    def gap_text(self) -> str:
        """The gap as the charts write it: percentage points for shares, +0.00 for means."""
        if self.kind in SHARES:
            return points_text(self.gap).split(" [")[0]
        return "–" if math.isnan(self.gap.estimate) else f"{self.gap.estimate:+.2f}"


def _level(kind: str, mean: float, variance: float, total: float, n: int, effect: float) -> Estimate:
    """A level with its interval; a design effect of e makes n pairs count as n / e."""
    if effect == 1.0:
        return wilson(round(total), n) if kind in SHARES else mean_interval(mean, variance, n)
    if kind not in SHARES:
        return mean_interval(mean, variance * effect, n)
    size = max(1, round(n / effect))
    return replace(wilson(mean * size, size), n=n)


def profile(frame: pd.DataFrame, correction: str = "holm") -> list[ProfileRow]:
    """The profile of a dataset from `value_frames.prevalence`, in the taxonomy's order.

    Shares carry Wilson intervals; means and the paired gap carry Student intervals over the n pairs, all widened by the
    frame's design effects where prompts have several pairs. p is the paired t-test of a gap of zero, corrected over all
    items by `correction` (holm or fdr_bh). Items without rejected sides (single entries) have a NaN gap.
    """
    rows: list[tuple[ProfileRow, float]] = []
    for r in frame.itertuples():
        n, kind = int(r.n), str(r.kind)
        has_gap = pd.notna(r.rejected)
        effects = {side: float(getattr(r, f"{side}_effect", 1.0) or 1.0) for side in ("chosen", "rejected", "gap")}
        chosen = _level(kind, float(r.chosen), float(r.chosen_var), float(r.chosen_sum), n, effects["chosen"])
        rejected = gap = Estimate(math.nan, math.nan, math.nan, 0)
        p = math.nan
        if has_gap:
            rejected = _level(kind, float(r.rejected), float(r.rejected_var), float(r.rejected_sum), n,
                              effects["rejected"])  # fmt: skip
            spread = float(r.gap_var) * effects["gap"]
            gap = mean_interval(float(r.gap), spread, n)
            if n >= 2 and spread > 0:
                p = float(2 * stats.t.sf(abs(r.gap) / math.sqrt(spread / n), n - 1))
            elif n >= 2:
                p = 1.0 if r.gap == 0 else 0.0
        class_name = None if pd.isna(r.class_name) else str(r.class_name)
        row = ProfileRow(str(r.name), str(r.title), class_name, kind, str(r.role), chosen, rejected, gap, p, math.nan)
        rows.append((row, p))
    adjusted = correct([p for _, p in rows], correction)
    return [
        ProfileRow(r.name, r.title, r.class_name, r.kind, r.role, r.chosen, r.rejected, r.gap, r.p_value, a)
        for (r, _), a in zip(rows, adjusted)
    ]


def profile_frame(rows: list[ProfileRow]) -> pd.DataFrame:
    """The profile as a tidy table, one row an item, for charts, tables and exports."""
    return pd.DataFrame(
        [
            {
                "feature": r.name, "title": r.title, "class": r.class_name, "kind": r.kind, "role": r.role,
                "n": r.chosen.n, "chosen": r.chosen.estimate, "chosen_low": r.chosen.conf_low,
                "chosen_high": r.chosen.conf_high, "rejected": r.rejected.estimate,
                "rejected_low": r.rejected.conf_low, "rejected_high": r.rejected.conf_high, "gap": r.gap.estimate,
                "gap_low": r.gap.conf_low, "gap_high": r.gap.conf_high, "p_value": r.p_value,
                "p_adjusted": r.p_adjusted, "gap_text": r.gap_text,
            }
            for r in rows
        ]
    )  # fmt: skip


def compare(one: list[ProfileRow], other: list[ProfileRow]) -> pd.DataFrame:
    """Two profiles side by side: difference of chosen levels (one minus other) with Welch's 95% interval.

    Items are matched by feature and class; both profiles are treated as independent samples. Columns: title, kind, one,
    other, estimate, conf_low, conf_high, n.
    """
    seconds = {(r.name, r.class_name): r for r in other}
    found = []
    for r in one:
        match = seconds.get((r.name, r.class_name))
        if match is None:
            continue
        a, b = r.chosen, match.chosen
        half = math.hypot(a.conf_high - a.conf_low, b.conf_high - b.conf_low) / 2
        difference = a.estimate - b.estimate
        found.append(
            {"title": r.title, "kind": r.kind, "one": a.estimate, "other": b.estimate, "estimate": difference,
             "conf_low": difference - half, "conf_high": difference + half, "n": a.n + b.n}
        )  # fmt: skip
    return pd.DataFrame(found)


def corrected_finding(table: pd.DataFrame) -> str:
    """The sentence over a corrected profile (audit_values.beside): its largest clear gap beside the raw one."""
    shares = table[table["kind"].isin(SHARES)]
    part = shares if len(shares) else table
    known = part[part["corrected_gap"].notna()]
    if known.empty:
        reasons = [why for why in part["why_not"].dropna().unique() if why]
        return "Nothing can be corrected" + (f": {reasons[0]}" if reasons else "")
    clear = known[known["corrected_p_adjusted"] < 0.05]
    if clear.empty:
        return "No clear gap between chosen and rejected once the labeler's errors are taken into account"
    top = clear.loc[clear["corrected_gap"].abs().idxmax()]
    side = "Chosen" if top["corrected_gap"] > 0 else "Rejected"
    corrected, raw = (
        Estimate(float(top[name]), float(top[f"{name}_low"]), float(top[f"{name}_high"]), int(top["n"]))
        for name in ("corrected_gap", "gap")
    )
    if len(shares):
        return f"{side} answers show “{top['title']}” more often: {points_text(corrected)}, raw {points_text(raw)}"
    return (
        f"{side} answers support “{top['title']}” more: {corrected.estimate:+.2f} [{corrected.conf_low:+.2f}, "
        f"{corrected.conf_high:+.2f}], raw {raw.estimate:+.2f} [{raw.conf_low:+.2f}, {raw.conf_high:+.2f}]"
    )


def finding(rows: list[ProfileRow]) -> str:
    """The one sentence a chart's title says: the largest clear gap, or that none is clear."""
    clear = [r for r in rows if r.p_adjusted < 0.05 and not math.isnan(r.gap.estimate) and r.kind in SHARES]
    means = [r for r in rows if r.p_adjusted < 0.05 and not math.isnan(r.gap.estimate) and r.kind != "numeric"]
    n = rows[0].chosen.n if rows else 0
    if n < MINIMUM_N:
        return f"Too few labelled pairs ({n}, fewer than {MINIMUM_N}) to say what sets chosen apart"
    if not clear and means and all(r.kind not in SHARES for r in rows):
        most = max(means, key=lambda r: abs(r.gap.estimate))
        side, gap = "Chosen" if most.gap.estimate > 0 else "Rejected", most.gap
        span = f"[{gap.conf_low:+.2f}, {gap.conf_high:+.2f}]"
        return f"{side} answers support “{most.title}” more: {gap.estimate:+.2f} {span}"
    if not clear:
        return "No clear gap between chosen and rejected after correction for many tests"
    top = max(clear, key=lambda r: abs(r.gap.estimate))
    side = "Chosen" if top.gap.estimate > 0 else "Rejected"
    return f"{side} answers show “{top.title}” more often: {points_text(top.gap)}"


def effects(frame: pd.DataFrame) -> dict[str, float]:
    """Design effect of every feature of a `value_frames.prevalence` frame: the larger side's, over its classes."""
    sides = [name for name in ("chosen_effect", "rejected_effect") if name in frame.columns]
    if frame.empty or not sides:
        return {}
    larger = frame[sides].fillna(1.0).max(axis=1)
    return {str(name): float(value) for name, value in larger.groupby(frame["name"]).max().items()}


@dataclass(frozen=True, slots=True)
class Summary:
    """What the page's metrics say; `gold` counts reference entries of a corrected table, else 0."""

    pairs: int
    clear: int
    items: int
    widest: str
    widest_title: str
    gold: int


def summary(table: pd.DataFrame) -> Summary:
    """Counts over a profile's table (profile_frame), by its corrected gaps where it has them."""
    with_gold = "corrected_gap" in table.columns
    gap, p = ("corrected_gap", "corrected_p_adjusted") if with_gold else ("gap", "p_adjusted")
    shares = table[table["kind"].isin(SHARES)]
    known = (shares if len(shares) else table).dropna(subset=[gap])
    gold = int(table["gold"].max()) if with_gold and table["gold"].notna().any() else 0
    clear = int((table[p] < 0.05).sum())
    if known.empty:
        return Summary(int(table["n"].max()), clear, len(table), "–", "", gold)
    top = known.loc[known[gap].abs().idxmax()]
    text = f"{100 * top[gap]:+.1f} pp" if top["kind"] in SHARES else f"{top[gap]:+.2f}"
    return Summary(int(table["n"].max()), clear, len(table), text, str(top["title"]), gold)


def shown_corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that could be corrected, widest corrected gap first, with the corrected figures where a dumbbell looks.

    The raw levels are in chosen_raw and rejected_raw.
    """
    known = table[table["corrected_chosen"].notna() & table["corrected_gap"].notna()]
    known = known.assign(chosen_raw=known["chosen"], rejected_raw=known["rejected"])
    for side in ("chosen", "rejected", "gap"):
        for end in ("", "_low", "_high"):
            known[f"{side}{end}"] = known[f"corrected_{side}{end}"]
    texts = [
        f"{100 * gap:+.1f} pp" if kind in SHARES else f"{gap:+.2f}" for gap, kind in zip(known["gap"], known["kind"])
    ]
    return known.assign(gap_text=texts).sort_values("gap", key=lambda gap: -gap.abs(), kind="stable")


def levels_frame(table: pd.DataFrame, column: str = "chosen") -> pd.DataFrame:
    """One side's levels as a chart of estimates reads them, highest first."""
    found = table.assign(
        estimate=table[column], conf_low=table[f"{column}_low"], conf_high=table[f"{column}_high"]
    ).dropna(subset=["estimate"])
    return found.sort_values("estimate", ascending=False, kind="stable")


def side_by_side(profiles: dict[str, list[ProfileRow]]) -> pd.DataFrame:
    """Levels on chosen of several profiles as a chart of estimates reads them, the first profile's highest first.

    Columns: of (the profile), title, kind, estimate, conf_low, conf_high, n.
    """
    rows = [
        {"of": of, "title": r.title, "kind": r.kind, "estimate": r.chosen.estimate, "conf_low": r.chosen.conf_low,
         "conf_high": r.chosen.conf_high, "n": r.chosen.n}
        for of, profile_rows in profiles.items()
        for r in profile_rows
    ]  # fmt: skip
    first = {r.title: -r.chosen.estimate for r in next(iter(profiles.values()))}
    found = pd.DataFrame(rows)
    return found.assign(rank=found["title"].map(first)).sort_values("rank", kind="stable").drop(columns="rank")


def against_prompts(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    """Answers against their prompts, from `value_frames.against_prompts` of one side, largest difference first.

    Columns: title, kind, side, estimate, conf_low, conf_high, answer, prompt, shown, base, n, p_value.
    """
    rows = profile(frame)
    found = pd.DataFrame(
        [
            {"title": r.title, "kind": r.kind, "side": side, "estimate": r.gap.estimate, "conf_low": r.gap.conf_low,
             "conf_high": r.gap.conf_high, "answer": r.chosen.estimate, "prompt": r.rejected.estimate, "n": r.gap.n,
             "p_adjusted": r.p_adjusted}
            for r in rows
        ]
    ).assign(shown=frame["shown"].to_numpy(), base=frame["base"].to_numpy())  # fmt: skip
    return found.sort_values("estimate", key=lambda gap: -gap.abs(), kind="stable")
