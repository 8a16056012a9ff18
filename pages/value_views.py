"""The further views of the Values page: the circle, what a preference teaches, targets, language models, others."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from engine import (
    audit_targets,
    audit_values,
    catalog,
    charts,
    columns,
    targets,
    taxonomy,
    value_charts,
    value_frames,
    values,
    vector_frames,
)
from engine.audit_values import Topic
from engine.catalog import Dataset, Labeler
from engine.design_frames import Part
from engine.filters import Filter
from engine.records import SignetError
from pages import shared
from pages.value_comparisons import NUMBERS, by_subset, compare, together

VIEWS = ("What the preference teaches", "Targets", "Language models", "Prompts and answers", "Compare with",
         "What occurs together", "By subset")  # fmt: skip


def topic_filter(topic: Topic) -> Filter:
    """The filter that finds a topic's pairs."""
    return Filter.of("label", taxonomy=topic.taxonomy, labeler=topic.labeler, feature=topic.feature, side="either",
                     value=1)  # fmt: skip


def _titles(labeler: Labeler) -> dict[str, str]:
    return {f.name: f.title for f in shared.read(catalog.features, labeler.taxonomy_id)}


def _groups(labeler: Labeler) -> dict[str, list[str]]:
    found, _ = taxonomy.available()
    return targets.groups_of(found[labeler.taxonomy]) if labeler.taxonomy in found else {}


def circle(data: Dataset, labeler: Labeler, part: Part) -> None:
    """Signed values as spokes in circumplex order, or their higher-order groups; nothing for other taxonomies."""
    groups = _groups(labeler)
    sides = shared.read(audit_targets.side_vectors, data.dataset_id, labeler, part) if groups else None
    if sides is None:
        return
    st.subheader("The circle of values", anchor=False)
    names = {"values": f"{sides.size} values", "groups": f"{len(groups)} groups"}
    choice = st.segmented_control(
        "Circle of", list(names), default="values", key="circle", bind="query-params", required=True
    )
    frame = audit_targets.sides_frame(sides, _titles(labeler), groups if choice == "groups" else {})
    shared.chart(
        charts.circumplex(frame if "rejected" in frame else frame.assign(rejected=float("nan"))),
        f"{names[choice or 'values']} as spokes in circumplex order.",
        "Spokes in circumplex order: neighbours agree, opposites conflict. Outside the dashed ring a value is "
        "supported on average, inside it is gone against. A group is the mean of its values."
        + (" Hedonism belongs to two groups." if "hedonism" in _titles(labeler) else ""),
        frame,
        "circumplex",
    )


def more(
    data: Dataset, labeler: Labeler, part: Part, correction: str, rows: list[values.ProfileRow], here: list[Filter]
) -> None:
    """The tabs under the table; the open one stands in the address."""
    st.subheader("More views", anchor=False)
    tabs = dict(zip(VIEWS, st.tabs(list(VIEWS), on_change="rerun", key="more", bind="query-params")))
    draw = {
        "What the preference teaches": lambda: lessons(data, labeler, part, correction, here),
        "Targets": lambda: target(data, labeler, part),
        "Language models": lambda: models(data, labeler, part),
        "Prompts and answers": lambda: prompts(data, labeler, part),
        "Compare with": lambda: compare(data, labeler, rows),
        "What occurs together": lambda: together(data, labeler),
        "By subset": lambda: by_subset(data, labeler),
    }
    for name, tab in tabs.items():
        if tab.open:
            with tab:
                draw[name]()


def lessons(data: Dataset, labeler: Labeler, part: Part, correction: str, here: list[Filter]) -> None:
    """The conditional logit of chosen over rejected."""
    if data.kind != "pairs":
        st.info("This dataset holds single answers; a preference needs pairs.")
        return
    style = shared.read(columns.style_labels, data.dataset_id)
    found = shared.read(audit_values.lessons, data.dataset_id, labeler, style, part, correction)
    if found.table["control"].all():
        st.info(
            f"Too few pairs are labelled on both sides ({found.fit.n:,} of {found.total:,}) to say what they teach."
        )
        shared.left_out(found.left_out)
        return
    if labeler.taxonomy != columns.SURFACE:
        shared.style_note(data, style)
    st.markdown(f"**{shared.escape(audit_values.lesson_finding(found))}**")
    picked = shared.chart(
        charts.forest(audit_values.lesson_rows(found), "log-odds of being the chosen answer", "how", pick=["feature"]),
        "Log-odds that the answer with more of a value is the chosen one, with 95% intervals.",
        f"A conditional logit over {found.fit.n:,} pairs: log-odds that the answer which shows a value (or shows it "
        "more) is the chosen one, all other values, length and style held equal, beside each value alone. 0 is even "
        "odds, +0.69 twice the odds. Errors clustered by prompt; grey where the interval crosses zero. Classes of a "
        "category stand against the average class. A labeler's errors pull everything towards zero.",
        found.table,
        "taught",
        pick=True,
    )
    if picked:
        _behind(found, labeler, str(picked["feature"]), here)
    left, right = st.columns(2)
    left.metric("Pairs used", f"{found.fit.n:,}", border=True, help=f"of {found.total:,}")
    chance = "Share of pairs in which the fit gives the chosen side the better odds; 50% is chance."
    right.metric("Choices these values tell", f"{found.fit.accuracy:.1%}", border=True, help=chance)
    st.dataframe(
        found.table.drop(columns=["control"]), hide_index=True, column_config=NUMBERS, alt="What the preference teaches"
    )
    shared.left_out(found.left_out)


def _behind(found: audit_values.Lessons, labeler: Labeler, column: str, here: list[Filter]) -> None:
    name, level = found.places.get(column, (column, None))
    if column in found.controls:
        st.caption("Held equal; choose a value to reach its pairs.")
        return
    base = {"taxonomy": labeler.taxonomy, "labeler": labeler.label, "feature": name}
    with st.container(horizontal=True):
        if level is not None:
            for side in ("chosen", "rejected"):
                shared.pairs_link(f"{side} shows it", [*here, Filter.of("label", **base, side=side, value=level)])
        else:
            for value, word in (("more", "chosen"), ("less", "rejected")):
                shared.pairs_link(f"higher in {word}", [*here, Filter.of("gap", **base, value=value)])


def _chosen_target(labeler: Labeler, axes: Sequence[catalog.FeatureRow]) -> targets.Target | None:
    """A target from a file, or set by sliders whose places stand in the address."""
    listed, complaints = targets.available(labeler.taxonomy)
    for complaint in complaints:
        st.warning(shared.escape(complaint))
    by_title = {one.title: one for one in listed}
    choice = st.selectbox("Target", [*by_title, "By hand"], key="target", bind="query-params")
    if choice in by_title:
        found = by_title[choice]
        st.caption(shared.escape(" · ".join(part for part in (found.source, found.note) if part)))
        return found
    st.caption("From -1 (should be gone against) over 0 (no matter) to 1 (should be supported).")
    places = {}
    boxes = st.columns(5)
    for i, axis in enumerate(axes):
        places[axis.name] = boxes[i % 5].slider(
            shared.escape(axis.title), -1.0, 1.0, 0.0, 0.25, key=f"want-{axis.name}", bind="query-params"
        )
    try:
        found = targets.made({name: value for name, value in places.items() if value}, labeler.taxonomy)
    except SignetError:
        st.info("Move a slider to say what is wanted.")
        return None
    st.download_button(
        "Target as YAML", targets.to_yaml(found), "target.yaml", "text/yaml", icon=":material/download:",
        type="tertiary", help="Put it into the store's folder “targets” to have it in this list.",
    )  # fmt: skip
    return found


def target(data: Dataset, labeler: Labeler, part: Part) -> None:
    """How far both sides, the preference and the reward models are from a target vector."""
    axes = shared.read(vector_frames.signed_features, labeler.taxonomy_id)
    if not axes:
        st.info("Targets need signed values (Schwartz's, or a taxonomy of your own): choose such labels above.")
        return
    wanted = _chosen_target(labeler, axes)
    if wanted is None:
        return
    sides = shared.read(audit_targets.side_vectors, data.dataset_id, labeler, part)
    style = shared.read(columns.style_labels, data.dataset_id)
    pushes = []
    if data.kind == "pairs":
        scored = tuple(shared.read(catalog.models, data.dataset_id))
        pushes = shared.read(audit_targets.directions, data.dataset_id, labeler, style, scored, part)
    found = audit_targets.distances(sides, pushes, wanted)
    if not found:
        st.info("Nothing here is labelled completely enough for a value vector.")
        return
    st.markdown(f"**{shared.escape(audit_targets.target_finding(sides, found, wanted))}**")
    table = targets.table(found)
    bars = audit_targets.cosine_rows(table)
    if not bars.empty:
        shared.chart(
            charts.forest(bars, "cosine with the target"),
            "Cosine of value vectors with the target, with 95% intervals.",
            "+1 points the target's way, -1 the opposite way. Answers: the mean of their values. The preference and "
            "the reward models: which way they push (log-odds, imprint), length and style held equal. What does not "
            "differ from no direction at all stands in the table only.",
            table,
            "target",
        )
    if sides is not None:
        frame = audit_targets.sides_frame(sides, _titles(labeler), {})
        frame = frame.assign(target=frame["feature"].map(dict(wanted.values)))
        shared.chart(
            value_charts.against_target(frame),
            "Both sides' values beside the target, value by value.",
            "Diamond: the target; a value without one does not count. "
            + ("Only the target's order is published, so read the cosine, not the distance."
               if wanted.ranked else "The distance is Euclidean, over the values that count."),
            frame,
            "target-values",
        )  # fmt: skip
    st.dataframe(table, hide_index=True, column_config=NUMBERS, alt="Distance and cosine to the target")
    shares = audit_targets.contributions(found, _titles(labeler))
    if not shares.empty and not wanted.ranked:
        with st.expander("Which values make the distance"):
            st.dataframe(shares, hide_index=True, alt="Share of the squared distance by value",
                         column_config={c: st.column_config.NumberColumn(format="percent")
                                        for c in shares.columns if c != "value"})  # fmt: skip


def models(data: Dataset, labeler: Labeler, part: Part) -> None:
    """Answers by who gave them: the value vectors of language models, and their distance to a target."""
    groupings = shared.read(vector_frames.groupings, data.dataset_id)
    axes = shared.read(vector_frames.signed_features, labeler.taxonomy_id)
    if not axes:
        st.info("Value vectors need signed values (Schwartz's, or a taxonomy of your own): choose such labels above.")
        return
    if not groupings:
        st.info(
            "No field of this dataset says who answered. Datasets with chosen_model and rejected_model, Arena battles, "
            "UltraFeedback, Nectar and the like do."
        )
        return
    fields = {one.title: one for one in groupings}
    title = st.selectbox("Field that says who answered", list(fields), key="who", bind="query-params")
    found = shared.read(audit_targets.group_vectors, data.dataset_id, labeler, fields[title], part)
    if not found:
        st.info("None of these answers is labelled completely.")
        return
    titles = _titles(labeler)
    long = audit_targets.vectors_frame([one.vector for one in found], titles)
    shared.chart(
        charts.matrix(audit_targets.as_matrix(long, 30), "mean", "+.2f"),
        "Mean of every value by who answered.",
        "Mean of each value over the answers of each, from -1 to 1; intervals and counts are in the CSV. Different "
        "models may have answered different questions.",
        long,
        "models",
    )
    listed, _ = targets.available(labeler.taxonomy)
    if listed:
        by_title = {one.title: one for one in listed}
        wanted = by_title[st.selectbox("Distance to", list(by_title), key="target", bind="query-params")]
        table = audit_targets.group_table(found, wanted)
        st.dataframe(table, hide_index=True, column_config=NUMBERS, alt="Distance of each to the target")
        shared.download(table, "models-target")


def prompts(data: Dataset, labeler: Labeler, part: Part) -> None:
    """What people ask for beside what answers show: labels of the prompts, from a dataset derived from this one."""
    derived = shared.read(value_frames.prompts_of, data.dataset_id)
    if not derived:
        st.info("The prompts are not labelled yet. Make them a dataset of their own first; then they can be labelled.")
        if st.button("Make a dataset of the prompts", key="derive", type="primary"):
            shared.start_job("derive_prompts", dataset=data.name)
        return
    labelled = {}
    for name in derived:
        other = next(one for one in shared.read(catalog.datasets) if one.name == name)
        for one in shared.read(catalog.labelers, other.dataset_id):
            if one.taxonomy == labeler.taxonomy:
                labelled[f"{name}, by {one.label}"] = (other, one)
    if not labelled:
        st.info(
            f"The prompts are a dataset ({shared.escape(derived[0])}), but nobody has labelled them by this taxonomy."
        )
        if labeler.kind == "builtin" and st.button("Label them with the built-in models", key="label-prompts"):
            shared.start_job("label", dataset=derived[0], labeler="builtin", taxonomy_name=labeler.taxonomy)
        return
    other, by = labelled[st.selectbox("Labels of the prompts", list(labelled), key="asked", bind="query-params")]
    parts = []
    for side in ("chosen", "rejected") if data.kind == "pairs" else ("chosen",):
        frame = shared.read(value_frames.against_prompts, data.dataset_id, labeler, other.dataset_id, by, side, part)
        if not frame.empty:
            parts.append(values.against_prompts(frame, side))
    if not parts:
        st.info("No pair has labels of both its prompt and its answers.")
        return
    both = pd.concat(parts)
    drawn = both[both["kind"] != "numeric"]
    shared.chart(
        charts.forest(drawn.head(60), "answer minus its own prompt", "side" if len(parts) > 1 else None, by_side=True),
        "How much more a value is shown by the answer than by its prompt, with 95% intervals.",
        "Level in the answers minus level in their own prompts (the last thing the user said), over the same pairs, "
        "clustered by prompt. In the table: how often an answer shows a value where its prompt does (shown), and where "
        "it does not (base). The labeler was made for answers; on prompts it may err more.",
        both,
        "prompts",
    )
    st.dataframe(both, hide_index=True, column_config=NUMBERS, alt="Prompts against answers")
