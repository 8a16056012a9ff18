"""Which values do the chosen and the rejected answers show?"""

import pandas as pd
import streamlit as st

from engine import catalog, charts, heads, value_frames, values
from engine.filters import Filter
from pages import shared

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

left, right = st.columns([2, 1], vertical_alignment="bottom")
subset_names = shared.read(value_frames.subsets, data.dataset_id)
subset = None
if len(subset_names) > 1:
    choice = left.selectbox("Subset", ["all", *subset_names], key="subset", bind="query-params")
    subset = None if choice == "all" else choice
correction = right.segmented_control(
    "Correction for many tests",
    ["holm", "fdr_bh"],
    default="holm",
    key="correction",
    bind="query-params",
    format_func=lambda name: {"holm": "Holm", "fdr_bh": "Benjamini-Hochberg"}[name],
)

frame = shared.read(value_frames.prevalence, data.dataset_id, labeler.labeler_id, labeler.taxonomy_id, subset)
paired = data.kind == "pairs" and not frame.empty
if frame.empty:
    frame = shared.read(value_frames.one_side, data.dataset_id, labeler.labeler_id, labeler.taxonomy_id)
    frame = frame.assign(
        rejected=float("nan"), rejected_var=float("nan"), rejected_sum=0.0, gap=float("nan"), gap_var=float("nan")
    )
    if data.kind == "pairs":
        st.info("This labeler has seen no pair on both sides, so levels are over its single entries, without a gap.")
rows = values.profile(frame, correction or "holm")
table = values.profile_frame(rows)
shares = table[table["kind"].isin(values.SHARES)]
means = table[~table["kind"].isin(values.SHARES)]

if paired:
    clear = int((table["p_adjusted"] < 0.05).sum())
    strongest = table.loc[table["gap"].abs().idxmax()] if len(shares) == 0 else shares.loc[shares["gap"].abs().idxmax()]
    with st.container(horizontal=True):
        st.metric("Pairs labelled on both sides", f"{int(table['n'].max()):,}", border=True)
        st.metric("Clear gaps (corrected p < 0.05)", f"{clear} of {len(table)}", border=True)
        st.metric("Widest gap", strongest["gap_text"], help=shared.escape(str(strongest["title"])), border=True)

    for part, unit in ((shares, "share of entries"), (means, "mean")):
        part = part[(part["chosen"] != 0) | (part["rejected"] != 0)]
        if part.empty:
            continue
        drawn = part.reindex(part["gap"].abs().sort_values(ascending=False).index)
        st.subheader(
            shared.escape(values.finding([r for r in rows if (r.kind in values.SHARES) == (part is not means)]))
            if unit != "mean"
            else "Means of graded features",
            anchor=False,
        )
        numeric = unit == "mean" and (drawn["kind"] == "numeric").any()
        if numeric:
            st.caption(
                "These features have units of their own (words, counts, scores), so they stand in the table only."
            )
        else:
            shown = drawn.head(40)
            shared.chart(
                charts.dumbbell(shown, unit),
                f"Prevalence on chosen against rejected, {len(shown)} features, sorted by gap.",
                "Each row: chosen (blue) against rejected (vermilion) with 95% intervals; at the right the gap, "
                f"chosen minus rejected, over the same pairs. {len(shown)} of {len(drawn)} rows that occur at all.",
                drawn,
                f"values-{unit.split()[0]}",
            )
    if labeler.taxonomy == "schwartz":
        circle = table.set_index("feature")[["title", "chosen", "rejected"]].reset_index()
        shared.chart(
            charts.circumplex(circle),
            "Schwartz's ten values as spokes in circumplex order.",
            "Spokes in circumplex order: neighbours agree, opposites conflict. Outside the dashed ring a value is "
            "supported on average, inside it is gone against.",
            circle,
            "circumplex",
        )
else:
    shown = table.sort_values("chosen", ascending=False)
    bars = shown.assign(estimate=shown["chosen"], conf_low=shown["chosen_low"], conf_high=shown["chosen_high"])
    shared.chart(
        charts.forest(bars.head(40), "level over entries"),
        "Level of each feature with 95% interval.",
        "Share of entries (or mean, for graded features) with its 95% interval.",
        bars,
        "levels",
    )

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
        if listed[name].dtype == float and name != "n"
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
                shared.pairs_link(f"{side} shows it", [Filter.of("label", **base, side=side, value=value)])
        if data.kind == "pairs":
            shared.pairs_link("higher in chosen", [Filter.of("gap", **base, value="more")])
            shared.pairs_link("higher in rejected", [Filter.of("gap", **base, value="less")])
else:
    st.caption("Select a row to reach its pairs.")

st.subheader("More views", anchor=False)
compare, together, by_subset = st.tabs(
    ["Compare with", "What occurs together", "By subset"], on_change="rerun", key="more", bind="query-params"
)
if compare.open:
    with compare:
        others = {}
        for other in shared.read(catalog.datasets):
            for found in shared.read(catalog.labelers, other.dataset_id):
                same = (other.dataset_id, found.labeler_id) == (data.dataset_id, labeler.labeler_id)
                if found.taxonomy == labeler.taxonomy and not same:
                    others[f"{other.name}, by {found.label}"] = (other, found)
        if not others:
            st.info("No other dataset or labeler has labels of this taxonomy. Label another dataset to compare.")
        else:
            name = st.selectbox("Other dataset or labeler", list(others), key="against", bind="query-params")
            other, found = others[name]
            theirs = shared.read(value_frames.prevalence, other.dataset_id, found.labeler_id, found.taxonomy_id, None)
            if theirs.empty:
                st.info("That labeler has seen no pair on both sides.")
            else:
                difference = values.compare(rows, values.profile(theirs))
                difference = difference[difference["kind"] != "numeric"]
                order = difference["estimate"].abs().sort_values(ascending=False).index
                shared.chart(
                    charts.forest(difference.reindex(order).head(40), "difference in level on chosen answers"),
                    "Difference of levels between the two, with 95% intervals.",
                    f"Level on chosen here minus there ({name}); grey where the interval crosses zero. The two are "
                    "treated as independent samples, which is too wide an interval where they share texts.",
                    difference,
                    "comparison",
                )
if together.open:
    with together:
        crossed = shared.read(value_frames.cooccurrence, data.dataset_id, labeler.labeler_id, labeler.taxonomy_id)
        crossed = crossed.dropna(subset=["phi"])
        if crossed.empty:
            st.info("Too few labels to correlate.")
        else:
            square = crossed.rename(columns={"a": "row", "b": "column", "phi": "value"})
            shared.chart(
                charts.matrix(square, "φ"),
                "Correlation of every two features over entries.",
                "Correlation (φ for booleans) over all labelled entries, both sides together.",
                crossed,
                "together",
            )
if by_subset.open:
    with by_subset:
        parts = []
        for one in subset_names[:12]:
            part = shared.read(value_frames.prevalence, data.dataset_id, labeler.labeler_id, labeler.taxonomy_id, one)
            if not part.empty:
                parts.append(values.profile_frame(values.profile(part)).assign(subset=one or "(none)"))
        if len(parts) < 2:
            st.info("This dataset has one subset only.")
        else:
            both = pd.concat(parts)
            st.dataframe(
                both[["subset", "title", "n", "chosen", "rejected", "gap", "gap_low", "gap_high", "p_adjusted"]],
                hide_index=True,
                alt="Levels and gaps by subset",
                column_config={
                    c: st.column_config.NumberColumn(format="%.3f")
                    for c in ("chosen", "rejected", "gap", "gap_low", "gap_high", "p_adjusted")
                },
            )
            shared.download(both, "values-by-subset")
