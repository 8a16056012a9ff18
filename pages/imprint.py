"""Which features does each reward model reward?"""

from itertools import permutations

import pandas as pd
import streamlit as st

from engine import angle_charts, audit_imprint, catalog, charts, columns, published
from engine.filters import Filter
from engine.intervals import MINIMUM_N
from pages import shared

NUMBERS = {
    name: st.column_config.NumberColumn(format="%+.3f") for name in ("estimate", "conf_low", "conf_high", "seal")
} | {name: st.column_config.NumberColumn(format="%.3g") for name in ("std_error", "p_value", "p_adjusted", "vif")}

st.title("Imprint")
data = shared.dataset()
if data.kind != "pairs":
    shared.provenance(data)
    st.info("This dataset holds single answers; an imprint needs pairs.")
    st.stop()
labels = shared.pick_labels(data, first="seal")
models = shared.pick_models(data) if labels is not None else []
if labels is None or not models:
    shared.provenance(data)
    if labels is None:
        shared.empty_labels(data)
    else:
        shared.empty_rewards(data)
    st.stop()

with st.container(horizontal=True, vertical_alignment="bottom"):
    part = shared.part_choice(data)
    mode = st.segmented_control(
        "Estimate", ["within", "pooled"], default="within", key="mode", bind="query-params", required=True,
        format_func={"within": "Within pairs", "pooled": "As SEAL's authors ran it"}.__getitem__,
        help="Within pairs: differences of the two answers, errors clustered by prompt. As the authors ran it: all "
        "answers pooled, no prompt effect, classical errors, Bonferroni. Theirs is there to compare, not to trust.",
    )  # fmt: skip
    correction = shared.correction_choice()
with st.container(horizontal=True):
    controlled = st.toggle("Hold length and style equal", value=True, key="controlled", bind="query-params")
    raw = st.toggle("Raw reward units", value=False, key="raw", bind="query-params")
    dummies = st.toggle("Graded features by level", value=False, key="dummies", bind="query-params")

style = shared.read(columns.style_labels, data.dataset_id)
setting = audit_imprint.Setting(labels, style, part, None, dummies, correction)
found = shared.read(audit_imprint.model_imprints, data.dataset_id, setting, tuple(models), mode)
shared.provenance(data, f"{labels.taxonomy} by {labels.label}", *(f"{m.label} ({m.short_revision})" for m in models))
shared.draft_warning(labels)
fitted = [one for one in found if one.plain.coefficients]
if not fitted:
    one = found[0]
    st.info(
        f"Too few pairs have everything: of {one.total:,} pairs {one.scored:,} are scored and {one.labelled:,} "
        "labelled on both sides. This page fills as the jobs go."
    )
    st.stop()
if mode == "within" and controlled and labels.taxonomy != columns.SURFACE:
    shared.style_note(data, style)

unit = "units of reward" if raw else "SDs of the model's margin"
tables = [one.table(controlled, raw) for one in fitted]
every = pd.concat(tables, ignore_index=True)
features = every[~every["control"]]
with st.container(horizontal=True):
    used = min(one.plain.n for one in fitted)
    kind = "Pairs used" if mode == "within" else "Entries used"
    st.metric(kind, f"{used:,}", border=True, help=f"of {fitted[0].total:,} pairs")
    st.metric("Prompts (clusters)", f"{min(one.plain.clusters for one in fitted):,}" if mode == "within" else "none",
              border=True)  # fmt: skip
    for one in fitted[:2]:
        shown = one.controlled if controlled and one.controlled is not None else one.plain
        st.metric(f"R², {shared.escape(one.model)}", f"{shown.r_squared:.3f}", border=True)

st.subheader(shared.escape(audit_imprint.finding(fitted, controlled)), anchor=False)
order = features[features["model"] == fitted[0].model].sort_values("estimate", ascending=False)["title"].tolist()
rank = {title: i for i, title in enumerate(order)}
drawn = every[every["n"] >= MINIMUM_N].copy()
drawn["rank"] = drawn["title"].map(rank).fillna(1000)
drawn = drawn.sort_values(["control", "rank"], kind="stable")
drawn["title"] = drawn["title"].where(~drawn["control"], drawn["title"] + " (held equal)")
guide = (
    f"Effect on the reward of a feature that one answer has and the other has not, in {unit}, other features held "
    f"equal; 95% intervals, clustered by prompt; grey where the interval crosses zero. Features that vary in fewer "
    f"than {MINIMUM_N} pairs stand in the table only."
    if mode == "within"
    else f"Pooled over all answers, in {unit}, classical 95% intervals: prompts are not held equal. (The authors' "
    "regression also held the row number, by accident; it is left out.)"
)
alt = "Effect of every feature on the reward, with 95% intervals."
if len(fitted) == 1 and controlled and fitted[0].controlled is not None:
    without = fitted[0].table(False, raw)
    both = pd.concat([drawn.assign(controls="length and style held equal"),
                      without[without["n"] >= MINIMUM_N].assign(controls="not held equal", control=False)])  # fmt: skip
    picked = shared.chart(charts.forest(both, unit, "controls", pick=["feature"]), alt, guide, every, "imprint", True)
elif len(fitted) == 1:
    picked = shared.chart(charts.forest(drawn, unit, pick=["feature"]), alt, guide, every, "imprint", True)
elif len(fitted) <= 3:
    picked = shared.chart(charts.forest(drawn, unit, "model", pick=["feature"]), alt, guide, every, "imprint", True)
else:
    picked = None
    shared.chart(charts.panels(drawn, unit, "model"), alt, guide, every, "imprint")


def behind(column: str, labels: catalog.Labeler = labels) -> None:
    """Links to the pairs behind a coefficient."""
    name, level = fitted[0].places.get(column, (column, None))
    here = shared.part_filters(part)
    st.markdown(f"**{shared.escape(fitted[0].titles.get(column, column))}**: the pairs behind it")
    with st.container(horizontal=True):
        if column == "length":
            shared.pairs_link("chosen at least twice as long", [*here, Filter.of("ratio", min=2)])
            shared.pairs_link("chosen at most half as long", [*here, Filter.of("ratio", max=0.5)])
            return
        of_style = name in columns.STYLE and style is not None and labels.taxonomy != columns.SURFACE
        source = style if of_style and style is not None else labels
        base = {"taxonomy": source.taxonomy, "labeler": source.label, "feature": name}
        if level is not None:  # a class, or one level of a graded feature
            for side in ("chosen", "rejected"):
                shared.pairs_link(f"{side} shows it", [*here, Filter.of("label", **base, side=side, value=level)])
            return
        for value, word in (("more", "chosen"), ("less", "rejected")):
            gap = Filter.of("gap", **base, value=value)
            shared.pairs_link(f"higher in {word}", [*here, gap])
            for m in models[:2]:
                resists = Filter.of("aligned", model=m.label, value="resists")
                shared.pairs_link(f"higher in {word}, {m.label} resists", [*here, gap, resists])


if picked:
    behind(picked["feature"])

views = ["Table", "Two models", "SEAL's angle", "Bootstrap check"]
view = st.segmented_control("View", views, default="Table", key="view", bind="query-params", required=True)

if view == "Table":
    beside = every
    if published.is_seals_dataset(data.source) and len(fitted) == 1:
        beside = published.imprint_beside(every, fitted[0].model)
        if beside is None:
            beside = every
        else:
            st.caption(shared.escape(f"Column seal: {published.seal()['source']}; pooled, raw units."))
    listed = beside[["title", "model", *[c for c in beside if c not in ("title", "model", "control")]]]
    event = st.dataframe(
        listed, hide_index=True, column_config=NUMBERS, on_select="rerun", selection_mode="single-row", key="row",
        alt="Coefficients with errors, intervals, raw and corrected p, VIF and n",
    )  # fmt: skip
    shared.download(beside, "imprint-table")
    if event.selection.rows:
        behind(str(listed.iloc[event.selection.rows[0]]["feature"]))
    else:
        st.caption("Select a row, or click a point of the chart, to reach the pairs behind it.")
    shared.left_out({name: reason for one in fitted for name, reason in one.left_out.items()})
    st.caption(
        f"p_value is raw, p_adjusted corrected over the features of a model; none under {MINIMUM_N} pairs. VIF above "
        f"{audit_imprint.VIF_LIMIT:g} drops a feature. n: pairs in which it varies."
    )

if view in ("Two models", "SEAL's angle"):
    pairs = {f"{a.label} → {b.label}": (a, b) for a, b in permutations(models, 2)}
    if not pairs:
        st.info("Choose two models or more to compare them.")
        st.stop()
    before, after = pairs[st.selectbox("From one model to another", list(pairs), key="two", bind="query-params")]
    st.caption("Two separately trained models are compared; nothing here is the effect of a training step.")
    if view == "Two models":
        moved = shared.read(audit_imprint.shift, data.dataset_id, setting, before, after, controlled)
        ranked = moved.table[moved.table["n"] >= MINIMUM_N].sort_values("estimate", ascending=False)
        st.subheader(shared.escape(audit_imprint.shift_finding(moved)), anchor=False)
        clicked = shared.chart(
            charts.forest(ranked, f"{after.label} minus {before.label}, SDs of margin", pick=["feature"]),
            "Difference of two models' imprints, with 95% intervals.",
            f"Eq 2 as a difference of imprints: coefficient of {after.label} minus that of {before.label}, each in SDs "
            f"of its own margin, over the same {moved.n:,} pairs; errors account for the shared texts.",
            moved.table, "shift", True,
        )  # fmt: skip
        st.dataframe(moved.table, hide_index=True, column_config=NUMBERS, alt="Differences of imprints")
        if clicked:
            behind(clicked["feature"])
    else:
        turned = shared.read(audit_imprint.angle_shift, data.dataset_id, setting, before, after)
        st.warning(
            "A reward has no natural zero: add a constant to one model and every angle changes, while no preference "
            "does. Read this view to compare with SEAL; the margins of the view before it are the ones to trust.",
            icon=":material/explore:",
        )
        long = audit_imprint.by_side(turned.joint, fitted[0].titles)
        long = published.by_side(long, "angle") if published.applies(data.source, [before.label, after.label]) else long
        shared.chart(
            charts.forest(long[long["n"] >= MINIMUM_N], "degrees", "side", by_side=True),
            "SEAL's Eq 2: change of angle by feature and side, with 95% intervals.",
            f"Least squares of the angle on both answers' features, errors clustered by prompt, n = {turned.joint.n:,}."
            " Degrees between -180 and 180 are treated as a line, as SEAL does.",
            long, "angle",
        )  # fmt: skip
        enough = {c.feature for c in turned.joint.coefficients if c.n >= MINIMUM_N}
        lines = turned.constants[turned.constants["feature"].isin(enough)].assign(title=lambda f: f["feature"])
        widest = lines.groupby("feature")["estimate"].agg(lambda v: v.max() - v.min()).nlargest(8).index
        shared.chart(
            angle_charts.constants(lines[lines["feature"].isin(widest)]),
            "How the angle's coefficients move with a constant added to the second model.",
            "The eight coefficients that move most when a constant is added to the second model's rewards. A line that "
            "crosses zero is a finding that the choice of zero made.",
            turned.constants, "angle-constants",
        )  # fmt: skip
        st.dataframe(turned.sensitivity, hide_index=True, alt="Mean angle by added constant")
        with st.expander("As the authors ran it: classical errors, Bonferroni over all coefficients"):
            authors = audit_imprint.by_side(turned.authors, fitted[0].titles)
            st.dataframe(authors, hide_index=True, column_config=NUMBERS, alt="Eq 2 in the authors' mode")

if view == "Bootstrap check":
    names = [m.label for m in models]
    name = st.selectbox("Model", names, key="boot", bind="query-params")
    st.caption("Resamples prompts 400 times and fits again; seconds at thousands of pairs, minutes at millions.")
    if st.button("Run the cluster bootstrap", type="primary"):
        st.session_state["booted"] = (data.name, name)
    if st.session_state.get("booted") == (data.name, name):
        model = models[names.index(name)]
        with st.spinner("Resampling ..."):
            drawn_again = shared.read(audit_imprint.bootstrap_check, data.dataset_id, setting, model)
        st.dataframe(
            drawn_again, hide_index=True, alt="Analytic and bootstrap intervals",
            column_config={c: st.column_config.NumberColumn(format="%+.3f") for c in drawn_again if c not in
                           ("feature", "title")},
        )  # fmt: skip
        shared.download(drawn_again, "bootstrap")
