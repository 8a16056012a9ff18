"""What changes when an answer is reworded?"""

from typing import Any

import pandas as pd
import streamlit as st

from engine import audit_imprint, audit_robustness, catalog, charts, design_frames, perturb
from engine.filters import Filter
from engine.intervals import MINIMUM_N, interval_text, points_text
from pages import shared

SHARE: Any = st.column_config.NumberColumn(format="percent")

st.title("Robustness")
data = shared.dataset()
if data.kind != "pairs":
    shared.provenance(data)
    st.info("This dataset holds single answers; robustness needs pairs.")
    st.stop()
rewriters = shared.read(design_frames.rewriters, data.dataset_id)


def reword_form(key: str) -> None:
    """Reword with the built-in perturber, then label and score what is new, in one chain."""
    titles = perturb.PERTURBATIONS
    kinds = st.multiselect(
        "Perturbations", list(titles), default=["contractions", "synonyms", "politeness"], key=f"kinds-{key}",
        format_func=lambda name: f"{name}: {titles[name]}",
    )  # fmt: skip
    pairs = st.number_input("Only so many pairs (0: all)", 0, 10_000_000, 500, 100, key=f"pairs-{key}")
    scored = [m for m in shared.read(catalog.models, data.dataset_id) if m.kind == "builtin"]
    known = {(b.taxonomy, b.name) for b in shared.read(catalog.labelers, data.dataset_id) if b.kind == "builtin"}
    then: list[dict[str, Any]] = [{"op": "label", "labeler": name, "taxonomy_name": t} for t, name in sorted(known)]
    then += [{"op": "score", "model": m.name} for m in scored]
    st.caption(
        "The perturber is deterministic and uses no language model: it checks that numbers, negations and refusals "
        "survive. What is new is then labelled and scored by the built-in models. Language models reword on Labelers."
    )
    if st.button("Reword", type="primary", key=f"reword-{key}", disabled=not kinds):
        shared.start_job("rewrite", dataset=data.name, rewriter="builtin", how="+".join(kinds),
                         limit=int(pairs) or None, then=then)  # fmt: skip


if not rewriters:
    shared.provenance(data)
    st.info("No answer of this dataset has been reworded yet. The bundled audit has rewrites to look at.")
    reword_form("first")
    st.stop()
models = shared.pick_models(data, most=3)
labels = shared.pick_labels(data, first="seal", before=shared.read(design_frames.labelled_rewrites, data.dataset_id))
left, middle, right = st.columns(3)
rewriter = left.selectbox("Reworded by", list(rewriters), key="rewriter", bind="query-params")
threshold = middle.slider(
    "Least similarity", 0.0, 1.0, 0.0, 0.01, key="threshold", bind="query-params",
    help="Cosine of the embeddings of an answer and its rewrite; a pair counts with its less similar side.",
)  # fmt: skip
again = audit_robustness.placebo_labelers(shared.read(catalog.labelers, data.dataset_id), labels) if labels else []
names = {"none": None} | {one.label: one for one in again}
placebo = names[right.selectbox("Placebo: the same texts labelled again by", list(names), key="placebo",
                                bind="query-params", index=min(1, len(names) - 1))]  # fmt: skip
with st.container(horizontal=True, vertical_alignment="bottom"):
    same = st.toggle(
        "Only pairs whose targets stayed", value=False, key="same", bind="query-params",
        help="As in SEAL: flips and what goes with them, on pairs whose target features (helpful, harmless) are "
        "labelled as before. Alignment and changed verdicts are over all reworded pairs.",
    )  # fmt: skip
    correction = shared.correction_choice()
shared.provenance(
    data, f"{rewriters[rewriter]:,} answers reworded by {rewriter}",
    *([f"{labels.taxonomy} by {labels.label}"] if labels else []), *(f"{m.label} ({m.short_revision})" for m in models),
)  # fmt: skip
if labels is not None:
    shared.draft_warning(labels)
if not models:
    shared.empty_rewards(data)
    st.stop()
found = shared.read(
    audit_robustness.audit, data.dataset_id, rewriter, tuple(models), labels, placebo, threshold, same, correction
)
if found.n == 0:
    st.info(
        f"{found.reworded:,} pairs have a reworded side, {found.similar:,} of them at this similarity, but none is "
        "scored before and after by every model. Score the dataset again: rewrites are scored with it."
    )
    with st.container(horizontal=True):
        for m in models:
            if m.kind == "builtin" and st.button(f"Score with {m.label}", key=f"score-{m.label}", type="primary"):
                shared.start_job("score", dataset=data.name, model=m.name)
    st.stop()

with st.container(horizontal=True):
    st.metric("Pairs reworded and scored", f"{found.n:,}", border=True,
              help=f"{found.reworded:,} reworded, {found.similar:,} of them similar enough")  # fmt: skip
    for change in found.changes[:3]:
        st.metric(
            f"Alignment, {shared.escape(change.model)}", f"{change.after.estimate:.1%}",
            f"{100 * change.test.difference.estimate:+.1f} pp", delta_color="off", border=True,
            help=f"reworded; before {interval_text(change.before)}. Change {points_text(change.test.difference)}, "
            f"McNemar's exact p = {change.test.p_value:.2g}",
        )  # fmt: skip
st.subheader(shared.escape(audit_robustness.finding(found)), anchor=False)
if found.n < MINIMUM_N:
    st.caption(f":material/warning: Fewer than {MINIMUM_N} pairs: counts to look at, nothing to conclude from.")

frame = pd.DataFrame(
    [
        {"model": c.model, "n": c.before.n, "before": c.before.estimate, "after": c.after.estimate,
         "verdict_changed": c.changed.estimate, "changed_low": c.changed.conf_low,
         "changed_high": c.changed.conf_high, "became_misaligned": c.became_misaligned,
         "became_aligned": c.became_aligned, "change": c.test.difference.estimate,
         "conf_low": c.test.difference.conf_low, "conf_high": c.test.difference.conf_high,
         "p_value": c.test.p_value, "reward_correlation": c.correlation}
        for c in found.changes
    ]
)  # fmt: skip
numbers: dict[str, Any] = {c: SHARE for c in frame if c not in ("model", "n", "became_misaligned", "became_aligned")}
numbers["p_value"] = st.column_config.NumberColumn(format="%.3g")
numbers["reward_correlation"] = st.column_config.NumberColumn(format="%.3f")
st.dataframe(frame, hide_index=True, alt="Alignment before and after rewording", column_config=numbers)
with st.container(horizontal=True):
    for m in models:
        for value in ("became_misaligned", "became_aligned"):
            here = Filter.of("reworded", rewriter=rewriter, model=m.label, value=value, min=threshold or None)
            shared.pairs_link(f"{value.replace('_', ' ')} by {m.label}", [here])

views = ["Flips", "Which flips matter", "By similarity"]
view = st.segmented_control("View", views, default="Flips", key="view", bind="query-params", required=True)

if view != "By similarity" and (found.flips is None or found.labelled == 0):
    st.info(
        "No pair is labelled before and after rewording by this labeler; label the dataset again to include rewrites."
    )
    ours = labels is not None and labels.kind in ("builtin", "rule")
    if labels is not None and ours and st.button(f"Label with {labels.label}", type="primary"):
        shared.start_job("label", dataset=data.name, labeler=labels.name, taxonomy_name=labels.taxonomy)
    st.stop()

if view == "Flips" and found.flips is not None:
    long = audit_robustness.flip_chart(found)
    clicked = shared.chart(
        charts.shares(long, "share of texts", groups="what", pick=["feature", "what"]),
        "How often rewording gains or loses a feature, beside relabelled but unchanged texts.",
        f"Rewritten minus original over reworded sides ({found.labelled:,} pairs); the placebo is how often another "
        "labeler says otherwise of the same unchanged text, gained and lost together: an upper guide to labelling "
        "noise, not this labeler's own.",
        found.flips, "flips", True,
    )  # fmt: skip
    if clicked and labels is not None and clicked["what"] in ("gained", "lost") and "=" not in clicked["feature"]:
        base = {"rewriter": rewriter, "taxonomy": labels.taxonomy, "labeler": labels.label,
                "feature": clicked["feature"], "value": clicked["what"],
                "min": threshold or None}  # fmt: skip
        with st.container(horizontal=True):
            for side in ("chosen", "rejected"):
                shared.pairs_link(f"{clicked['what']} by {side}", [Filter.of("flip", **base, side=side)])
    st.dataframe(
        found.flips, hide_index=True, alt="Flips by feature and side",
        column_config={c: SHARE for c in found.flips if c.endswith(("share", "low", "high"))},
    )  # fmt: skip

if view == "Which flips matter" and found.logit is not None and found.margin is not None:
    st.markdown(f"For **{shared.escape(found.model)}** (the first model chosen).")
    margins = audit_imprint.by_side(found.margin, found.titles)
    margins = margins[margins["n"] >= MINIMUM_N] if len(margins) else margins
    if margins.empty:
        st.info(f"No feature changes in {MINIMUM_N} reworded pairs, so its effect on the margin cannot be told.")
    else:
        shared.chart(
            charts.forest(margins, "change of the margin, in SD", "side", by_side=True),
            "Change of the margin by change of each feature on each side, with 95% intervals.",
            f"Least squares of the change of the margin on the change of every feature, n = {found.margin.n:,}, errors "
            "clustered by prompt. Blue: the feature changes in the chosen answer; vermilion: in the rejected one.",
            margins, "margin-change",
        )  # fmt: skip
    odds = found.logit.table()
    if odds.empty:
        st.info(
            f"Eq 4 needs more falls: of {found.logit.n:,} pairs that were aligned {found.logit.events:,} are not after "
            "rewording, and no flip has ten of either kind."
        )
    else:
        odds = odds.assign(title=odds["feature"])
        effects = odds.assign(estimate=odds["effect"], conf_low=odds["effect_low"], conf_high=odds["effect_high"])
        shared.chart(
            charts.forest(effects, "change in the probability of falling", "side", by_side=True, percent=True),
            "Eq 4: average marginal effects of flips on becoming misaligned, with 95% intervals.",
            f"A logit on the {found.logit.n:,} pairs that were aligned, {found.logit.events:,} of which fell.",
            odds, "eq4",
        )  # fmt: skip
        st.dataframe(odds, hide_index=True, alt="Odds ratios of flips")
    shared.left_out(found.logit.dropped)
    st.markdown("Pairs that were aligned, by what happened to a feature")
    if found.cells is not None:
        st.dataframe(
            found.cells[found.cells["n"] > 0], hide_index=True, alt="Share that became misaligned by flip",
            column_config={c: SHARE for c in ("estimate", "conf_low", "conf_high")}
            | {c: st.column_config.NumberColumn(format="%.2f") for c in ("odds_ratio", "odds_low", "odds_high")}
            | {"similarity": st.column_config.NumberColumn(format="%.3f")},
        )  # fmt: skip
        shared.download(found.cells, "cells")
    if found.authors is not None:
        with st.expander("As SEAL's authors ran it: linear, pairs that were wrong before counted as steadfast, raw p"):
            st.dataframe(audit_imprint.by_side(found.authors, {}), hide_index=True, alt="Eq 4 in the authors' mode")

if view == "By similarity":
    one, two = st.container(), st.container()
    with one:
        curve = found.by_threshold[found.by_threshold["n"] > 0]
        curve = curve.assign(title=curve["threshold"].map("at least {:.3f}".format))
        shared.chart(
            charts.shares(curve, f"alignment of {found.model}", groups="when"),
            "Alignment before and after rewording at rising least similarity.",
            "If rewrites drifted from the meaning, the gap should close as the least similarity rises.",
            found.by_threshold, "by-threshold",
        )  # fmt: skip
    with two:
        shared.chart(
            charts.histogram(found.similarity, "cosine similarity"), "Similarity of answers and rewrites.",
            "Cosine of the embeddings of the answer and its rewrite, over reworded sides.",
            found.similarity, "likeness",
        )  # fmt: skip

with st.expander("Reword more"):
    reword_form("more")
