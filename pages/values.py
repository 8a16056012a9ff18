"""Which values do the chosen and the rejected answers show?"""

from dataclasses import replace

import pandas as pd
import streamlit as st

from engine import audit_values, charts, heads, value_charts, value_frames, values
from engine.audit_values import METHODS, How, Topic
from engine.catalog import Dataset, Labeler
from engine.design_frames import WHOLE, Part
from engine.filters import Filter
from pages import shared, value_views

HERE, EVERYWHERE = "of what is shown", "of the whole store"


def part_of(data: Dataset) -> tuple[Part, Topic | None]:
    """The part of the dataset that is looked at: subset, split, topic."""
    part = shared.part_choice(data)
    topics = {one.title: one for one in shared.read(audit_values.topics, data.dataset_id)}
    choice = st.selectbox("Topic", ["all", *topics], key="topic", bind="query-params") if topics else "all"
    topic = topics.get(choice)
    return (replace(part, topic=topic.place), topic) if topic else (part, None)


def how_to_correct(
    data: Dataset, labeler: Labeler, found: list[audit_values.Reference], part: Part
) -> tuple[audit_values.Reference, How]:
    """Whom to take for the truth, by which method, on which entries."""
    names = {f"{one.labeler.label} ({one.anywhere:,} shared)": one for one in found}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        reference = names[st.selectbox("Taken for the truth", list(names), key="reference", bind="query-params")]
        name = st.segmented_control(
            "Method", list(METHODS), default=next(iter(METHODS)), key="method", bind="query-params", required=True,
            help="By its errors: the labeler's confusion with the reference is taken out of its counts; reference "
            "entries may come from other data. Prediction-powered: the reference entries' own mean, sharpened by the "
            "labeler; they must be a random sample of this dataset.",
        )  # fmt: skip
        method = METHODS[name or "By its errors"]
        splits = shared.read(value_frames.splits, data.dataset_id)
        scopes = [HERE, *(f"split {name}" for name in splits if len(splits) > 1 and name)]
        if method == "confusion":
            scopes.append(EVERYWHERE)
        unseen = audit_values.unseen_split(labeler, reference.labeler, splits)
        default = f"split {unseen}" if unseen else HERE if reference.here else scopes[-1]
        key = "gold" if method == "confusion" else "sample"
        scope = st.selectbox("Reference entries", scopes, index=scopes.index(default), key=key, bind="query-params")
        by_side = method == "confusion" and scope != EVERYWHERE and data.kind == "pairs" and st.toggle(
            "Errors by side", value=False, key="by_side", bind="query-params",
            help="Let the labeler err differently on chosen and on rejected answers. Needs more reference entries.",
        )  # fmt: skip
    gold = None if scope == EVERYWHERE else part if scope == HERE else Part(split=scope.removeprefix("split "))
    return reference, How(method, gold, bool(by_side))


def profile_chart(part: pd.DataFrame, unit: str, corrected: bool, title: str) -> None:
    """The dumbbell of shares or of means, sorted by gap."""
    part = part[(part["chosen"] != 0) | (part["rejected"] != 0)]
    if part.empty:
        return
    st.subheader(shared.escape(title), anchor=False)
    if unit == "mean" and (part["kind"] == "numeric").any():
        st.caption("These features have units of their own (words, counts, scores), so they stand in the table only.")
        return
    drawn = part.reindex(part["gap"].abs().sort_values(ascending=False).index)
    if corrected:
        drawn = values.shown_corrected(part)
        if drawn.empty:
            return
    shown = drawn.head(40)
    guide = (
        "Each row: chosen (blue) against rejected (vermilion) with 95% intervals; at the right the gap, chosen minus "
        f"rejected, over the same pairs. {len(shown)} of {len(drawn)} rows that occur at all."
    )
    if corrected:
        guide = (
            "Filled: corrected for the labeler's errors, with 95% intervals that hold the uncertainty of those errors "
            "too; hollow: as the labeler says. At the right the corrected gap. What cannot be corrected stands in the "
            "table, with the reason."
        )
    shared.chart(
        value_charts.corrected_dumbbell(shown, unit) if corrected else charts.dumbbell(shown, unit),
        f"{'Corrected prevalence' if corrected else 'Prevalence'} on chosen against rejected, {len(shown)} features, "
        "sorted by gap.",
        guide,
        part if corrected else drawn,
        f"values-{unit.split()[0]}",
    )


st.title("Values")
data = shared.dataset()
labeler = shared.pick_labels(data)
if labeler is None:
    shared.provenance(data)
    shared.empty_labels(data)
    st.stop()
taxonomy = shared.taxonomy_of(labeler)
shared.provenance(data, f"{labeler.taxonomy} by {labeler.label}", f"{labeler.n_entries:,} entries labelled")
shared.draft_warning(labeler)

with st.container(horizontal=True, vertical_alignment="bottom"):
    part, topic = part_of(data)
    correction = shared.correction_choice()
here = [*shared.part_filters(part), *([value_views.topic_filter(topic)] if topic else [])]

frame = shared.read(value_frames.prevalence, data.dataset_id, labeler.labeler_id, labeler.taxonomy_id, part)
paired = data.kind == "pairs" and not frame.empty
both_sides = not frame.empty
if frame.empty and part != WHOLE:
    st.info("Nothing here is labelled. Choose another part of the dataset.")
    st.stop()
if frame.empty:
    frame = shared.read(value_frames.one_side, data.dataset_id, labeler.labeler_id, labeler.taxonomy_id)
    frame = frame.assign(
        rejected=float("nan"), rejected_var=float("nan"), rejected_sum=0.0, gap=float("nan"), gap_var=float("nan")
    )
    if data.kind == "pairs":
        st.info("This labeler has seen no pair on both sides, so levels are over its single entries, without a gap.")
rows = values.profile(frame, correction)
table = values.profile_frame(rows)

references = shared.read(audit_values.references, data.dataset_id, labeler) if both_sides else []
levels = "raw"
if references:
    levels = st.segmented_control(
        "Levels", ["raw", "corrected"], default="raw", key="levels", bind="query-params", required=True,
        help="Raw: as the labeler says. Corrected: with its errors, as a reference shows them, taken out.",
    )  # fmt: skip
if levels == "corrected":
    reference, how = how_to_correct(data, labeler, references, part)
    effects = tuple(values.effects(frame).items())
    found = shared.read(
        audit_values.corrected, data.dataset_id, labeler, reference.labeler, how, part, correction, effects
    )
    table = audit_values.beside(table, found)
    splits = tuple(shared.read(value_frames.splits, data.dataset_id))
    for sentence in audit_values.cautions(labeler, reference, how, found, splits):
        st.caption(f":material/rule: {shared.escape(sentence)}")
shares = table[table["kind"].isin(values.SHARES)]
means = table[~table["kind"].isin(values.SHARES)]

if paired:
    summary = values.summary(table)
    with st.container(horizontal=True):
        st.metric("Pairs labelled on both sides", f"{summary.pairs:,}", border=True)
        st.metric("Clear gaps (corrected p < 0.05)", f"{summary.clear} of {summary.items}", border=True)
        st.metric("Widest gap", summary.widest, help=shared.escape(summary.widest_title), border=True)
        if levels == "corrected":
            st.metric("Reference entries", f"{summary.gold:,}", border=True)
    for shown, unit in ((shares, "share of entries"), (means, "mean")):
        mine = [r for r in rows if (r.kind in values.SHARES) == (unit != "mean")]
        sentence = values.corrected_finding(shown) if levels == "corrected" else values.finding(mine)
        profile_chart(shown, unit, levels == "corrected", sentence)
else:
    column = "corrected_chosen" if levels == "corrected" else "chosen"
    bars = values.levels_frame(table, column)
    draw = charts.shares if len(means) == 0 else charts.forest
    shared.chart(
        draw(bars.head(40), "level over entries"),
        "Level of each feature with 95% interval.",
        "Share of entries (or mean, for graded features) with its 95% interval"
        + (", corrected for the labeler's errors." if levels == "corrected" else "."),
        bars,
        "levels",
    )
value_views.circle(data, labeler, part)

st.subheader("Table", anchor=False)
quality = heads.quality(labeler.taxonomy) if labeler.name == "builtin" else {}
listed = table.assign(
    held_out_f1=[quality.get(r.class_name or r.name, {}).get("f1") for r in rows],
    baseline_f1=[quality.get(r.class_name or r.name, {}).get("baseline_f1") for r in rows],
)
listed["few_to_learn_from"] = [quality.get(r.class_name or r.name, {}).get("few") for r in rows]
if not quality:
    listed = listed.drop(columns=["held_out_f1", "baseline_f1", "few_to_learn_from"])
event = st.dataframe(
    listed.drop(columns=["gap_text"]),
    hide_index=True,
    on_select="rerun",
    selection_mode="single-row",
    key="row",
    alt="Levels, gaps, intervals and p-values of every feature",
    column_config={
        name: st.column_config.NumberColumn(format="%.3f")
        for name in listed.columns
        if listed[name].dtype == float and name not in ("n", "gold")
    },
)
picked = event.selection.rows
if picked:
    row = rows[picked[0]]
    base = {"taxonomy": labeler.taxonomy, "labeler": labeler.label, "feature": row.name}
    st.markdown(f"**{shared.escape(row.title)}**: the pairs behind it")
    with st.container(horizontal=True):
        value = row.class_name or "1"
        if row.kind != "numeric":
            for side in ("chosen", "rejected") if data.kind == "pairs" else ("chosen",):
                shared.pairs_link(f"{side} shows it", [*here, Filter.of("label", **base, side=side, value=value)])
        if data.kind == "pairs":
            shared.pairs_link("higher in chosen", [*here, Filter.of("gap", **base, value="more")])
            shared.pairs_link("higher in rejected", [*here, Filter.of("gap", **base, value="less")])
else:
    st.caption("Select a row to reach its pairs.")

value_views.more(data, labeler, part, correction, rows, here)
