"""How far does each reward model agree with the preferences, and with the other models?"""

from itertools import combinations
from typing import Any

import pandas as pd
import streamlit as st

from engine import catalog, charts, comparison, job_frames, precision, reward_frames, score_servers
from engine import models as known_models
from engine.filters import Filter
from pages import shared

PLACES = {"here": "This machine or the hub", **{kind: f"{name} server" for kind, name in score_servers.KINDS.items()}}


def add_model(data: catalog.Dataset) -> None:
    """Score with one more model: on this machine, or behind an endpoint, which has an address."""
    where = st.segmented_control(
        "Where it runs", list(PLACES), default="here", format_func=PLACES.__getitem__, key="add-where", required=True
    )
    left, right = st.columns(2)
    options: dict[str, Any] = {}
    if where == "here":
        named = left.text_input("Model", key="add-model", placeholder="a hub id, or a folder on this server").strip()
        styles: tuple[str, ...] = known_models.FORMATS
    else:
        model = left.text_input("Model, as the server names it", key="add-model", placeholder="owner/model").strip()
        named = f"{where}:{model}" if model else ""
        default = f"http://localhost:{score_servers.PORTS[where]}"
        options["base_url"] = right.text_input("Address", default, key=f"add-url-{where}").strip()
        styles = score_servers.FORMATS[where]
    style = left.selectbox("Input format", ["by model", *styles], key=f"add-format-{where}")
    if style != "by model":
        options["format"] = style
    if where != "here":
        most = right.number_input("Requests at once (0: found by trial)", 0, 1024, 0, key="add-concurrency")
        options |= {"concurrency": int(most)} if most else {}
        st.caption(
            "A key, where the server wants one, comes from SIGNET_API_KEY in the environment or in Streamlit's "
            "secrets; it is never stored. Rewards are taken raw: a server that gives probabilities is refused."
        )
    limit = left.number_input("Pairs (0: all)", min_value=0, step=100, key="add-limit")
    if st.button("Score", type="primary", disabled=not named, key="add-start"):
        with st.spinner("Asking for the model ..."):
            shared.start_job("score", dataset=data.name, model=named, limit=int(limit) or None, options=options)


st.title("Reward models")
data = shared.dataset()
if data.kind != "pairs":
    shared.provenance(data)
    st.info("This dataset holds single answers; comparing reward models with preferences needs pairs.")
    st.stop()
models = shared.pick_models(data)
with st.expander("Add a reward model", icon=":material/add:"):
    add_model(data)
if not models:
    shared.provenance(data)
    shared.empty_rewards(data)
    st.stop()
shared.provenance(data, *(f"{m.label} ({m.n_rewards:,} rewards, {m.short_revision})" for m in models))
for m in models:
    if m.n_truncated:
        st.caption(
            f":material/content_cut: {shared.escape(m.label)} read {m.n_truncated:,} entries truncated "
            f"({m.n_truncated / m.n_rewards:.1%})."
        )
    if tested := shared.read(job_frames.drift, m.model_id):
        said, _ = precision.verdict(tested)
        st.caption(f":material/straighten: {shared.escape(m.label)} ran in {m.params.get('dtype')}: {said}.")
if any(m.kind == "builtin" for m in models):
    st.caption(
        ":material/science: The built-in reward models are small heads for a first look, little better than "
        "length; their cards give the held-out figures."
    )

every = [
    s
    for m in models
    for s in comparison.scores(m.label, shared.read(reward_frames.alignment, data.dataset_id, m.model_id))
]
lengths = comparison.length_scores(shared.read(reward_frames.length_baseline, data.dataset_id))
overall = [s for s in every if s.subset is None]
if not overall or overall[0].score.n == 0:
    st.info("No pair has both of its sides scored yet; this page fills as the job goes.")
    st.stop()

with st.container(horizontal=True):
    for s in overall[:4]:
        st.metric(
            shared.escape(s.model),
            f"{s.score.estimate:.1%}",
            border=True,
            help=f"Alignment score: 95% [{s.score.conf_low:.1%}, {s.score.conf_high:.1%}], n = {s.score.n:,}, "
            f"{s.ties:,} ties counted as not aligned",
        )

st.subheader(shared.escape(comparison.finding(overall, lengths)), anchor=False)
table = comparison.score_table([*every, *lengths])
top = table[table["subset"] == "all"].assign(title=lambda t: t["model"])
centred = top.assign(estimate=top["estimate"] - 0.5, conf_low=top["conf_low"] - 0.5, conf_high=top["conf_high"] - 0.5)
shared.chart(
    charts.forest(centred.sort_values("estimate", ascending=False), "alignment score above chance (0 = 50%)"),
    "Alignment score of every model and of the two length rules, with 95% intervals.",
    "Share of pairs in which the chosen answer gets the higher reward, minus one half. Ties count as not aligned. "
    "The two length rules show what answer length alone would score.",
    table,
    "alignment",
)

names = ["By subset", "Model against model", "Calibration", "Distributions", "Chosen against rejected", "Most disputed"]
tab = st.segmented_control("View", names, default=names[0], key="view", bind="query-params", required=True)

if tab == "By subset":
    st.dataframe(
        table,
        hide_index=True,
        alt="Alignment score by model and subset",
        column_config={
            "estimate": st.column_config.NumberColumn("alignment score", format="percent"),
            "conf_low": st.column_config.NumberColumn("95% from", format="percent"),
            "conf_high": st.column_config.NumberColumn("to", format="percent"),
            "margin_sd": st.column_config.NumberColumn("SD of margins", format="%.3f"),
        },
    )
    shared.download(table, "alignment-by-subset")
    st.markdown("The pairs behind it")
    with st.container(horizontal=True):
        for m in models:
            shared.pairs_link(f"{m.label} resists", [Filter.of("aligned", model=m.label, value="resists")])
        for m in models:
            if next(s.ties for s in overall if s.model == m.label):
                shared.pairs_link(f"{m.label} ties", [Filter.of("aligned", model=m.label, value="tie")])

if tab == "Model against model":
    if len(models) < 2:
        st.info("Choose two models or more to compare them.")
    else:
        counts = [
            (a.label, b.label, shared.read(reward_frames.two_models, data.dataset_id, a.model_id, b.model_id))
            for a, b in combinations(models, 2)
        ]
        tests = comparison.pairwise(counts)
        of_all = {s.model: s.score for s in overall}
        left, right = st.columns(2)
        with left:
            same = comparison.square(tests, of_all, "same")
            shared.chart(
                charts.matrix(same, "same side", ".1%"),
                "How often two models, or a model and people, agree.",
                "Share of pairs in which both prefer the same side; “people” is the recorded choice.",
                same,
                "agreement",
            )
        with right:
            ranks = comparison.square(tests, of_all, "spearman").dropna(subset=["value"])
            shared.chart(
                charts.matrix(ranks, "ρ"),
                "Rank correlation of margins between models.",
                "Spearman's ρ of the margins (chosen minus rejected) of two models.",
                ranks,
                "ranks",
            )
        tested = comparison.pairwise_table(tests)
        st.dataframe(
            tested,
            hide_index=True,
            alt="McNemar's test between every two models",
            column_config={
                "estimate": st.column_config.NumberColumn("difference a − b", format="%+.4f"),
                **{
                    c: st.column_config.NumberColumn(format="%.4f")
                    for c in ("conf_low", "conf_high", "p_value", "p_adjusted", "same_side", "spearman")
                },
            },
        )
        st.caption(
            "McNemar's exact test on the pairs both models scored: `only a` counts pairs that only model a gets "
            "right. p is corrected over all rows by Holm's method, the raw one beside it."
        )
        shared.download(tested, "mcnemar")

if tab == "Calibration":
    tables = [
        comparison.calibration_table(m.label, shared.read(reward_frames.calibration, data.dataset_id, m.model_id))
        for m in models[:3]
    ]
    both = pd.concat(tables)
    if both.empty:
        st.info("Every pair is a tie; there is no margin to calibrate.")
    else:
        shared.chart(
            charts.calibration(both),
            "Agreement with people against the probability a model gives to its preference.",
            "A calibrated Bradley-Terry model lies on the dashed line: where its margin says 80%, people agree in 80%. "
            "Ten bins with equal counts; 95% intervals. At most three models at once.",
            both,
            "calibration",
        )
        with st.container(horizontal=True):
            for one in tables:
                if not one.empty:
                    st.metric(
                        f"Calibration error, {shared.escape(one['model'].iloc[0])}",
                        f"{comparison.calibration_error(one):.3f}",
                        border=True,
                    )

if tab == "Distributions":
    what = st.segmented_control(
        "Show", ["reward", "margin"], default="reward", key="what", bind="query-params", required=True
    )
    frames = [
        shared.read(reward_frames.histogram, data.dataset_id, m.model_id).assign(model=m.label) for m in models[:3]
    ]
    both = pd.concat(frames)
    both = both[both["what"] == what]
    for one in dict.fromkeys(both["model"]):
        shared.chart(
            charts.histogram(both[both["model"] == one], f"{what} by {one}"),
            f"Distribution of {what}s by {one}.",
            "Bins from the 0.5% to the 99.5% quantile, the rest in the end bins; each side's shares add up to 100%. "
            "Rewards have no common zero or scale between models.",
            both[both["model"] == one],
            f"{what}-{one}",
        )

if tab == "Chosen against rejected":
    for m in models[:3]:
        cells = shared.read(reward_frames.heat, data.dataset_id, m.model_id)
        quadrants = shared.read(reward_frames.quadrants, data.dataset_id, m.model_id)
        total = int(quadrants["n"].sum())
        low, high = min(cells["x"].min(), cells["y"].min()), max(cells["x2"].max(), cells["y2"].max())
        inset = 0.04 * (high - low)
        corners = pd.DataFrame(
            [
                {
                    "x": high - inset if q.chosen_positive else low + inset,
                    "y": high - inset if q.rejected_positive else low + inset,
                    "text": f"{q.n / total:.1%}",
                    "align": "right" if q.chosen_positive else "left",
                }
                for q in quadrants.itertuples()
            ]
        )
        st.markdown(f"**{shared.escape(m.label)}**")
        shared.chart(
            charts.heat(cells, corners, "reward of chosen", "reward of rejected"),
            f"Rewards of chosen against rejected by {m.label}.",
            "Below the diagonal the model agrees with people. Outer 0.2% are in the edge bins. "
            + "; ".join(
                f"chosen {'> 0' if q.chosen_positive else '≤ 0'}, rejected {'> 0' if q.rejected_positive else '≤ 0'}: "
                f"{q.n / total:.1%} (n = {q.n:,})"
                for q in quadrants.itertuples()
            )
            + ". Zero is arbitrary for a reward model.",
            cells,
            f"heat-{m.label}",
        )

if tab == "Most disputed":
    if len(models) < 2:
        st.info("Choose two models or more to see where they part.")
    else:
        options = {f"{a.label} against {b.label}": (a, b) for a, b in combinations(models, 2)}
        a, b = options[st.selectbox("Models", list(options), key="two", bind="query-params")]
        disputed = shared.read(reward_frames.most_disputed, data.dataset_id, a.model_id, b.model_id)
        st.caption("Pairs on which the two prefer different sides, widest first; margins in each model's own SD.")
        event = st.dataframe(
            shared.plain(disputed),
            hide_index=True,
            on_select="rerun",
            selection_mode="single-row",
            key="disputed",
            alt="Pairs on which two models disagree most",
            column_config={
                "pair_no": None,
                "margin_a": st.column_config.NumberColumn(f"margin, {a.label}", format="%+.2f"),
                "margin_b": st.column_config.NumberColumn(f"margin, {b.label}", format="%+.2f"),
            },
        )
        if event.selection.rows:
            shared.pair_link("Open this pair", str(disputed.iloc[event.selection.rows[0]]["pair_id"]))
