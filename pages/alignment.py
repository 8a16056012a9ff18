"""Where does a reward model resist the preferences, and why?"""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from engine import (
    alignment,
    angle_charts,
    audit_alignment,
    audit_imprint,
    catalog,
    charts,
    columns,
    published,
    suspects,
)
from engine.filters import Filter
from engine.intervals import MINIMUM_N, interval_text, points_text
from pages import shared

SHARE: Any = st.column_config.NumberColumn(format="percent")
SMALL: Any = st.column_config.NumberColumn(format="%.3g")

st.title("Alignment")
data = shared.dataset()
if data.kind != "pairs":
    shared.provenance(data)
    st.info("This dataset holds single answers; alignment needs pairs.")
    st.stop()
models: list[catalog.Model] = shared.read(catalog.models, data.dataset_id)
if not models:
    shared.provenance(data)
    shared.empty_rewards(data)
    st.stop()
names = [m.label for m in models]
left, middle, right = st.columns(3)
before = models[names.index(left.selectbox("Before", names, key="before", bind="query-params"))]
after = models[
    names.index(middle.selectbox("After", names, index=len(names) - 1, key="after", bind="query-params"))
]  # fmt: skip
labelers: list[catalog.Labeler] = shared.read(catalog.labelers, data.dataset_id)
judges = {}
for one in sorted(labelers, key=lambda b: (b.taxonomy != "seal", -b.n_entries)):
    targets = [f for f in shared.read(catalog.features, one.taxonomy_id) if f.role == "target"]
    if targets:
        judges[f"{one.taxonomy} by {one.label}"] = (one, targets)
judge, order = None, ()
if judges:
    judge, targets = judges[right.selectbox("Preference of", list(judges), key="judge", bind="query-params")]
    titles = {f.name: f.title for f in targets}
    default = sorted(titles, key=lambda name: (name != "harmless", list(titles).index(name)))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        part = shared.part_choice(data)
        first = st.segmented_control(
            "Target that decides first", default, default=default[0], format_func=titles.__getitem__, key="first",
            bind="query-params", required=True,
            help="The labeler prefers the answer that is better on this target; on a tie the next target decides.",
        )  # fmt: skip
        correction = shared.correction_choice()
    order = (str(first), *(name for name in default if name != first))
else:
    part = shared.part_choice(data)
    correction = "holm"
others: list[catalog.Labeler] = []
for one in sorted(labelers, key=lambda b: -b.n_entries):
    taken = {b.taxonomy for b in others} | ({judge.taxonomy} if judge else set()) | {columns.SURFACE}
    if one.taxonomy not in taken:
        others.append(one)
every_labeler = (*([judge] if judge else []), *others)

found = shared.read(audit_alignment.audit, data.dataset_id, before, after, every_labeler, order, part)
shared.provenance(
    data, f"{before.label} ({before.short_revision}) → {after.label} ({after.short_revision})",
    *(f"{b.taxonomy} by {b.label}" for b in every_labeler),
)  # fmt: skip
if judge is not None:
    shared.draft_warning(judge)
if found.n == 0:
    st.info(f"No pair has been scored by both models yet (of {found.total:,}); this page fills as the jobs go.")
    st.stop()
if found.n < found.total:
    st.caption(f"{found.n:,} of {found.total:,} pairs are scored by both models; the rest is left out.")

with st.container(horizontal=True):
    for name, score, ties in (
        (found.before, found.score_before, found.ties_before),
        (found.after, found.score_after, found.ties_after),
    ):
        note = f"{interval_text(score)}; {ties:,} ties count as misaligned"
        st.metric(f"Alignment, {shared.escape(name)}", f"{score.estimate:.1%}", border=True, help=note)
    change = points_text(found.change.difference)
    help_text = f"{change}, McNemar's exact p = {found.change.p_value:.2g}"
    st.metric("Change", change.split(" [")[0], border=True, help=help_text)
    if found.preference is not None:
        agrees = found.preference.with_people
        help_text = f"{interval_text(agrees)}, over pairs where it is not indifferent"
        st.metric("Labeler agrees with people", f"{agrees.estimate:.1%}", border=True, help=help_text)
st.subheader(shared.escape(audit_alignment.finding(found)), anchor=False)
st.caption("Two separately trained models are compared; nothing here is the effect of a training step.")

here = shared.part_filters(part)
views = ["Regimes", "By stratum", "Why", "Slices", "Suspect pairs", "Angles"]
view = st.segmented_control("View", views, default="Regimes", key="view", bind="query-params", required=True)


def table(frame: pd.DataFrame, key: str, alt: str, **config: Any) -> int | None:
    """A table whose rows can be selected; the selected row's position."""
    event = st.dataframe(
        shared.plain(frame), hide_index=True, on_select="rerun", selection_mode="single-row", key=key, alt=alt,
        column_config=config,
    )  # fmt: skip
    return event.selection.rows[0] if event.selection.rows else None


if view == "Regimes":
    clicked = shared.chart(
        charts.heat(found.heat, found.corners, f"margin of {found.before}, in SD", f"margin of {found.after}, in SD",
                    pick=["x", "y"]),
        "Margins of the first model against margins of the second, binned.",
        "A pair is right of zero where the first model agrees with people, above zero where the second does. The "
        "outer 0.2% are in the edge bins. Click a cell for its pairs.",
        found.heat, "regimes", True,
    )  # fmt: skip
    if clicked:
        cell = found.heat[(found.heat["x"] == clicked["x"]) & (found.heat["y"] == clicked["y"])]
        if not cell.empty:
            shared.pairs_link(
                f"The {int(cell['n'].iloc[0]):,} pairs of this cell",
                [*here, *audit_alignment.margin_filters(cell.iloc[0], found.before, found.after)],
            )
    regimes = alignment.regime_table(found.regimes)
    if published.applies(data.source, [found.before, found.after]):
        regimes = published.regimes_beside(regimes)
        st.caption(shared.escape(f"Columns seal_*: {published.seal()['source']}."))
    percents = [c for c in regimes if c not in ("regime", "n", "agree", "disagree", "indifferent", "unlabelled")]
    row = table(regimes, "regime", "Share of every regime and the labeler's agreement in it",
                **{c: SHARE for c in percents})  # fmt: skip
    shared.download(regimes, "regimes-table")
    if found.preference is not None:
        p = found.preference
        st.caption(
            shared.escape(
                f"agreement: agree / (agree + disagree) of {judge.label if judge else ''}; indifferent pairs are "
                f"counted beside it. Of {p.n:,} judged pairs it prefers the chosen answer in {p.chosen:,}, the "
                f"rejected in {p.rejected:,}, is indifferent in {p.indifferent:,}; the order of targets decides "
                f"{p.conflicts:,}. Where decisive it agrees with {found.after} in {interval_text(p.with_after)}; "
                f"Cohen's kappa {p.kappa_with_after.estimate:.2f} "
                f"[{p.kappa_with_after.conf_low:.2f}, {p.kappa_with_after.conf_high:.2f}]."
            )
        )
    if row is not None:
        regime = str(regimes.iloc[row]["regime"])
        of_regime = Filter.of("regime", before=found.before, after=found.after, value=regime)
        with st.container(horizontal=True):
            shared.pairs_link(regime.replace("_", " "), [*here, of_regime])
            if judge is not None:
                for value in ("chosen", "rejected"):
                    verdict = Filter.of("verdict", taxonomy=judge.taxonomy, labeler=judge.label,
                                        order=",".join(order), value=value)  # fmt: skip
                    shared.pairs_link(f"... where {judge.label} prefers {value}", [*here, of_regime, verdict])
    else:
        st.caption("Select a row to reach its pairs.")

if view == "By stratum":
    kinds = list(dict.fromkeys(found.strata["by"]))
    by = st.segmented_control("By", kinds, default=kinds[0], key="by", bind="query-params", required=True)
    part = found.strata[(found.strata["by"] == by) & (found.strata["n"] > 0)]
    few = part[part["n"] < MINIMUM_N]
    part = part[part["n"] >= MINIMUM_N].sort_values("estimate", ascending=False).assign(title=lambda f: f["stratum"])
    if part.empty:
        st.info(f"No stratum has {MINIMUM_N} pairs.")
    else:
        clicked = shared.chart(
            charts.shares(part.head(50), f"resistance of {found.after}", 1 - found.score_after.estimate,
                          pick=["stratum"]),
            "Resistance by stratum with 95% intervals.",
            f"Share of pairs in which {found.after} does not prefer the chosen answer; dashed: all pairs. These "
            "intervals hold one at a time; the Slices view corrects for looking at many.",
            part.drop(columns=["query", "title"]), f"strata-{by}", True,
        )  # fmt: skip
        if clicked:
            queries = part.loc[part["stratum"] == clicked["stratum"], "query"].iloc[0]
            filters = [*here, *(Filter.from_text(q) for q in queries)]
            resists = Filter.of("aligned", model=found.after, value="resists")
            with st.container(horizontal=True):
                shared.pairs_link(clicked["stratum"], filters)
                shared.pairs_link(f"... and {found.after} resists", [*filters, resists])
        st.dataframe(
            part.drop(columns=["query", "title"]), hide_index=True, alt="Resistance by stratum",
            column_config={"estimate": SHARE, "conf_low": SHARE, "conf_high": SHARE},
        )  # fmt: skip
    if len(few):
        st.caption(f"{len(few)} strata with fewer than {MINIMUM_N} pairs are not shown.")

if view == "Why":
    if judge is None:
        st.info("This view explains resistance by features: label the dataset first.")
        shared.empty_labels(data)
        st.stop()
    controlled = st.toggle("Hold length and style equal", value=True, key="controlled", bind="query-params")
    style = shared.read(columns.style_labels, data.dataset_id)
    why = shared.read(audit_alignment.resistance, data.dataset_id, after, judge, style, controlled, part, correction)
    if not why.logit.odds:
        st.info(f"Too few pairs: {why.logit.n:,} are scored and labelled, {why.logit.events:,} of them resisted.")
    else:
        frame = why.logit.table().assign(title=lambda f: f["feature"].map(why.titles))
        st.subheader(shared.escape(audit_alignment.why_finding(why)), anchor=False)
        if why.logit.separated:
            st.warning("The logit ran away (some features predict the outcome perfectly); read it with care.")
        effects = frame.assign(estimate=frame["effect"], conf_low=frame["effect_low"], conf_high=frame["effect_high"])
        ranks = effects.groupby("title")["estimate"].agg(lambda v: v.abs().max()).sort_values(ascending=False)
        effects = effects.sort_values("title", key=lambda s: s.map(ranks), ascending=False, kind="stable")
        clicked = shared.chart(
            charts.forest(effects, "change in the probability of resistance", "side", pick=["feature", "side"],
                          by_side=True, percent=True),
            "Average marginal effects of every feature of both answers, with 95% intervals.",
            f"Eq 3 as a logit, n = {why.logit.n:,} ({why.logit.events:,} resisted), errors clustered by prompt. Blue: "
            "the chosen answer has the feature; vermilion: the rejected one; grey where the interval crosses zero.",
            frame, "why", True,
        )  # fmt: skip
        of_style = clicked is not None and clicked["feature"] in columns.STYLE
        source = style if of_style else judge
        if clicked and source is not None and clicked["feature"] != "length":
            feature, _, level = clicked["feature"].partition("=")
            shows = Filter.of("label", taxonomy=source.taxonomy, labeler=source.label, feature=feature,
                              side=clicked["side"], value=level or 1)  # fmt: skip
            what = f"{clicked['side']} shows {clicked['feature']}"
            with st.container(horizontal=True):
                shared.pairs_link(what, [*here, shows])
                shared.pairs_link(f"... and {after.label} resists",
                                  [*here, shows, Filter.of("aligned", model=after.label, value="resists")])  # fmt: skip
        st.dataframe(
            frame[["title", "side", "odds_ratio", "odds_low", "odds_high", "effect", "effect_low", "effect_high",
                   "p_value", "p_adjusted", "n"]],
            hide_index=True, alt="Odds ratios and average marginal effects",
            column_config={c: SMALL for c in ("odds_ratio", "odds_low", "odds_high", "p_value", "p_adjusted")}
            | {c: st.column_config.NumberColumn(format="%+.3f") for c in ("effect", "effect_low", "effect_high")},
        )  # fmt: skip
        st.caption(f"McFadden's pseudo R² {why.logit.pseudo_r_squared:.3f}. Length and style are not counted as tests.")
        shared.left_out(why.left_out | why.logit.dropped)
    with st.expander("As SEAL's authors ran it: a linear probability model, classical errors, Bonferroni"):
        authors = audit_imprint.by_side(why.authors, why.titles)
        if published.applies(data.source, [found.before, found.after]):
            authors = published.by_side(authors, "resistance")
        st.dataframe(authors, hide_index=True, alt="Linear probability model in the authors' mode")

if view == "Slices":
    minimum = st.number_input("Least number of pairs in a slice", 20, 100_000, 50, 10, key="least", bind="query-params")
    result = shared.read(
        audit_alignment.find_slices, data.dataset_id, after, every_labeler, order, int(minimum), correction, part
    )
    if not result.slices:
        st.info(
            f"Nothing: of {result.searched:,} slices (single conditions and pairs of them, at least {minimum} pairs "
            f"each, among the {result.n:,} that every labeler knows) none resists more than the rest beyond doubt."
        )
    else:
        frame = result.table()
        shown = frame.assign(estimate=frame["difference"]).head(15)
        clicked = shared.chart(
            charts.forest(shown, "resistance above the rest", pick=["title"], percent=True),
            "Slices in which the model resists more than elsewhere, with intervals that hold over the whole search.",
            f"{result.searched:,} slices of the {result.n:,} pairs that every labeler knows were searched (single "
            "conditions and pairs of them); p is Fisher's, or clustered by prompt where that is larger, corrected over "
            "all; intervals are 95% over the whole search at once. Nearly equal slices are shown once.",
            frame, "slices", True,
        )  # fmt: skip
        picked = table(
            frame, "slice", "Slices with resistance, difference, interval and corrected p", resistance=SHARE,
            elsewhere=SHARE, difference=SHARE, conf_low=SHARE, conf_high=SHARE, p_value=SMALL, p_adjusted=SMALL,
        )  # fmt: skip
        shared.download(frame, "slices-table")
        position = picked
        if position is None and clicked:
            position = int(frame.index[frame["title"] == clicked["title"]][0])
        if position is None:
            st.caption("Select a row, or click a point, to reach its pairs.")
        else:
            one_slice = result.slices[position]
            filters = [*here, *(Filter.from_text(q) for q in one_slice.query)]
            resists = Filter.of("aligned", model=after.label, value="resists")
            with st.container(horizontal=True):
                shared.pairs_link(f"{one_slice.title} ({one_slice.n:,} pairs)", filters)
                shared.pairs_link(f"... and {after.label} resists", [*filters, resists])

if view == "Suspect pairs":
    chosen = st.multiselect("Models that must contradict the choice", names, default=names[:3], key="against",
                            bind="query-params")  # fmt: skip
    picked_models = tuple(m for m in models if m.label in chosen)
    if not picked_models:
        st.info("Choose at least one model.")
        st.stop()
    frame, count = shared.read(audit_alignment.find_suspects, data.dataset_id, picked_models, judge, order, 500, part)
    st.caption(suspects.SCORE)
    if frame.empty:
        st.info("No pair that every model and the labeler would decide the other way.")
        st.stop()
    st.markdown(f"**{len(frame):,} shown of {count:,} suspect pairs ({found.total:,} total)**")
    show = ["score", *[f"margin, {m.label}" for m in picked_models], "reasons", "review", "subset", "prompt", "pair_id"]
    event = st.dataframe(
        shared.plain(frame[show]), hide_index=True, on_select="rerun", selection_mode="multi-row", key="suspects",
        alt="Suspect pairs, the most suspect first",
        column_config={"score": st.column_config.NumberColumn(format="%.2f"),
                       "reasons": st.column_config.TextColumn(width="large")}
        | {f"margin, {m.label}": st.column_config.NumberColumn(format="%+.2f") for m in picked_models},
    )  # fmt: skip
    marked = [str(frame.iloc[i]["pair_id"]) for i in event.selection.rows]
    with st.container(horizontal=True, vertical_alignment="center"):
        for word, label, icon in (("drop", "Drop", "delete"), ("swap", "Swap the sides", "swap_horiz"),
                                     ("keep", "Keep", "check"), ("open", "Undo", "undo")):  # fmt: skip
            if st.button(
                f"{label} ({len(marked)})", icon=f":material/{icon}:", disabled=not marked, key=word
            ) and shared.ask("review", dataset=data.name, pairs=marked, verdict=word):
                st.rerun()
        if len(marked) == 1:
            shared.pair_link("Read this pair", marked[0])
    st.caption(
        "Select rows to review them. A clean export leaves out what was dropped and exchanges the sides of what was "
        "swapped; the dataset itself never changes."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        least = st.number_input("Leave out unreviewed pairs from this score", 0.0, 100.0, 1.0, 0.25, key="cut")
        if st.button("Prepare a clean dataset", type="primary"):
            details: dict[str, Any] = {"models": [m.label for m in picked_models], "min_score": float(least)}
            if judge is not None:
                details |= {"labeler": judge.label, "taxonomy": judge.taxonomy, "order": ",".join(order)}
            written = shared.ask("export", dataset=data.name, what="clean", suffix=".jsonl", suspects=details)
            if written:
                st.session_state["clean"] = (data.name, written)
    ready = st.session_state.get("clean")
    if ready and ready[0] == data.name:
        written = ready[1]
        st.markdown(f"{written['rows']:,} pairs, {written['left_out']:,} left out, {written['swapped']:,} swapped.")
        st.download_button(
            "Download JSON Lines", lambda: Path(written["path"]).read_bytes(), f"{data.name}-clean.jsonl",
            "application/jsonl", icon=":material/download:",
        )  # fmt: skip

if view == "Angles":
    st.warning(
        "A reward has no natural zero: quadrants and angles change when a constant is added to a model. They are here "
        "to compare with SEAL; regimes and margins do not have this weakness.",
        icon=":material/explore:",
    )
    circular = found.angle
    st.markdown(
        f"Mean direction **{circular.mean.estimate:+.1f}°** [{circular.mean.conf_low:+.1f}, "
        f"{circular.mean.conf_high:+.1f}], resultant length {circular.resultant:.3f} (0: no common direction, 1: all "
        f"the same), n = {circular.mean.n:,}, {circular.missing:,} without an angle. As a line, as SEAL prints it: "
        f"mean {circular.linear_mean:+.1f}°, median {circular.linear_median:+.1f}°."
    )
    one_side, other_side = st.columns(2)
    with one_side:
        shared.chart(
            angle_charts.polar(found.angle_histogram), "Shift angles by sector.",
            "Angle from the first to the second model's (chosen, rejected) point; area in proportion to the share.",
            found.angle_histogram, "polar",
        )  # fmt: skip
    with other_side:
        clicked = shared.chart(
            angle_charts.linear(found.angle_histogram), "Shift angles along a line.",
            "The same sectors of ten degrees; click one for its pairs.", found.angle_histogram, "linear", True,
        )  # fmt: skip
        if clicked:
            angle = Filter.of("angle", before=found.before, after=found.after, min=clicked["low"], max=clicked["high"])
            shared.pairs_link(f"Pairs from {clicked['low']:g}° to {clicked['high']:g}°", [*here, angle])
    st.dataframe(found.angles_by, hide_index=True, alt="Mean direction by regime")
    st.dataframe(
        found.quadrants, hide_index=True, alt="Signs of the rewards of chosen and rejected",
        column_config={"estimate": SHARE, "conf_low": SHARE, "conf_high": SHARE},
    )  # fmt: skip
