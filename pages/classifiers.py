"""How good is a classifier of our own values, and what would make it better?"""

from typing import Any

import pandas as pd
import streamlit as st

from engine import (
    audit_classifiers,
    catalog,
    charts,
    classifiers,
    evaluation_charts,
    example_frames,
    taxonomy,
)
from engine.intervals import MINIMUM_N
from engine.settings import home
from pages import shared

MODELS = {
    "linear": "Linear head on frozen embeddings (seconds, any laptop)",
    "mlp": "Small perceptron on frozen embeddings (a minute)",
    "encoder": "Fine-tune an encoder (minutes on a GPU, long on a CPU)",
}
ENCODERS = ["FacebookAI/roberta-base", "microsoft/deberta-v3-base", "microsoft/deberta-v3-large",
            "answerdotai/ModernBERT-base"]  # fmt: skip

st.title("Classifiers")
names = classifiers.names(home())
view = st.segmented_control(
    "View", ["Train", "Evaluate"], default="Train", key="view", bind="query-params", required=True
)


def train() -> None:
    """Choose labels and a model, and start."""
    versions = shared.read(audit_classifiers.taught)
    if not versions:
        shared.provenance(shared.dataset())
        st.info("There is nothing to learn from yet: no entry has labels by people, a codebook or a language model.")
        with st.container(horizontal=True):
            st.page_link(shared.page_path("Annotate"), label="Label entries by hand", icon=":material/edit_note:")
            st.page_link(shared.page_path("Labelers"), label="Let a language model label", icon=":material/smart_toy:")
        return
    left, right = st.columns(2)
    title = left.selectbox("Taxonomy", list(versions), key="taxonomy", bind="query-params")
    taxonomy_id = versions[title][0]
    found: list[example_frames.Teacher] = shared.read(example_frames.teachers, taxonomy_id)
    counts = {one.name: one for one in found}
    chosen = right.multiselect(
        "Learn from labels by", list(counts), default=[found[0].name], key=f"teachers-{title}",
        format_func=lambda name: f"{name} ({counts[name].n_entries:,} entries)",
        help="Where several judged the same entry, the first in this list counts. “people” is the majority of all "
        "persons who labelled an entry.",
    )  # fmt: skip
    everything = [one.name for one in shared.read(catalog.datasets)]
    only = right.multiselect("Only entries of", everything, key="only", placeholder="all datasets")
    kind = left.radio("Model", list(MODELS), format_func=MODELS.__getitem__, key="model")
    model = str(kind)
    if kind == "encoder":
        model = left.selectbox("Encoder: hub id or folder", ENCODERS, key="encoder", accept_new_options=True) or ""
    name = left.text_input("Name", f"{title}-1", key=f"name-{title}", max_chars=64,
                           help="Lower-case letters, digits, -, _ and dots. One of that name is replaced.")  # fmt: skip
    options: dict[str, Any] = {}
    with st.expander("Options"):
        one, two, three = st.columns(3)
        options["folds"] = int(one.number_input("Folds (1: one held-out fifth)", 1, 20, 1 if kind == "encoder" else 5,
                                                key=f"folds-{kind}"))  # fmt: skip
        options["seed"] = int(two.number_input("Seed", 0, 2**31 - 1, 0, key="seed"))
        balanced = three.toggle("Weigh rare classes up", key="balanced")
        options["class_weight"] = "balanced" if balanced else "none"
        options["oversample"] = three.toggle("Repeat rare classes", key="oversample")
        if kind == "encoder":
            options["epochs"] = int(one.number_input("Epochs at most", 1, 50, 4, key="epochs"))
            options["learning_rate"] = float(
                two.number_input("Learning rate", 0.0, 1e-2, 2e-5, format="%.1e", key="lr")
            )
            options["max_tokens"] = int(three.number_input("Tokens at most", 32, 8192, 512, key="tokens"))
    st.caption(
        "Figures are held out by prompt: nothing of a prompt is learned from and judged on. The model that is kept has "
        "seen every entry."
    )
    if st.button("Train", type="primary", icon=":material/model_training:", disabled=not (chosen and model and name)):
        shared.start_job("train", name=name.strip(), taxonomy_name=title, teachers=chosen, datasets=only,
                         model=model, options=options)  # fmt: skip
    counted = shared.read(audit_classifiers.class_counts, taxonomy_id, tuple(chosen), tuple(only)) if chosen else None
    if counted is not None and not counted.empty:
        st.subheader("What there is to learn from", anchor=False)
        st.dataframe(counted, hide_index=True, alt="Labelled entries of each class")
        st.caption(f"Classes with fewer than {MINIMUM_N} entries are learned badly and measured with wide intervals.")


def figure(one: Any) -> str:
    """A score with its interval."""
    return f"{one.estimate:.2f} [{one.conf_low:.2f}, {one.conf_high:.2f}]"


def evaluate() -> None:
    """One classifier's held-out figures, and what to do with it."""
    if not names:
        shared.provenance(shared.dataset())
        st.info("No classifier has been trained yet.")
        st.page_link(shared.page_path("Classifiers"), label="Train one", icon=":material/model_training:",
                     query_params={"view": "Train"})  # fmt: skip
        return
    name = st.selectbox("Classifier", names[::-1], key="classifier", bind="query-params")
    one = audit_classifiers.judged(home(), name)
    known = one.known
    st.caption(shared.escape(
        f"{known.taxonomy} (version {known.version}) · {known.model} · learned from {known.n:,} entries labelled by "
        f"{', '.join(known.teachers)} · {known.created} · revision {known.revision}"
    ))  # fmt: skip
    scores = audit_classifiers.overall(one)
    n = one.frame["entry"].nunique()
    with st.container(horizontal=True):
        st.metric("Held-out macro-F1", figure(scores["value"]), border=True)
        st.metric("Always the commonest", figure(scores["majority"]), border=True)
        st.metric("By its words alone", figure(scores["keywords"]), border=True)
        st.metric("Entries judged", f"{n:,}", border=True, help="Held out by prompt; intervals resample prompts.")
    beside = shared.read(audit_classifiers.builtin_beside, str(home()), name, known.revision)
    if beside:
        st.caption(shared.escape(
            f"On the entries that the built-in head has labelled too: this classifier {figure(beside['value'])}, "
            f"built-in {figure(beside['builtin'])}. Built-in heads were trained on part of hh-rlhf's labels, so they "
            "are flattered there."
        ))  # fmt: skip
    table = audit_classifiers.by_class(one)
    st.subheader(shared.escape(audit_classifiers.finding(table, scores)), anchor=False)
    drawn = table[table["n"] >= MINIMUM_N].sort_values("estimate", ascending=False)
    if drawn.empty:
        st.info(f"Every class has fewer than {MINIMUM_N} held-out entries; the figures stand in the table only.")
    else:
        shared.chart(
            charts.forest(drawn.head(40), "held-out F1", signed=False), "Held-out F1 of each class with 95% interval.",
            f"F1 on held-out entries with 95% intervals, resampled by prompt. Classes with fewer than {MINIMUM_N} "
            f"entries stand in the table only ({len(table) - len(drawn)}).", table, "f1",
        )  # fmt: skip
    st.dataframe(
        table.drop(columns=["value", "title"]), hide_index=True, alt="Precision, recall, F1 and baselines by class",
        column_config={c: st.column_config.NumberColumn(format="%.3f") for c in table if table[c].dtype == float},
    )  # fmt: skip
    use(one)
    more(one)


def use(one: audit_classifiers.Judged) -> None:
    """Label the selected dataset with it, or have people check it."""
    known, data = one.known, shared.dataset()
    st.subheader("Use it", anchor=False)
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    least = left.slider("Give no label below this confidence", 0.0, 0.95, 0.0, 0.05, key="least")
    current, _ = taxonomy.available()
    fits = known.taxonomy in current and current[known.taxonomy].version == known.version
    if not fits:
        st.warning("The taxonomy has changed since this classifier was trained; train it again to label with it.")
    if right.button(f"Label {shared.escape(data.name)}", type="primary", icon=":material/label:", disabled=not fits):
        shared.start_job("label", dataset=data.name, labeler=classifiers.PREFIX + known.name,
                         taxonomy_name=known.taxonomy, options={"abstain_below": least} if least else {})  # fmt: skip
    labeled = [b for b in shared.read(catalog.labelers, data.dataset_id)
               if b.kind == "classifier" and b.name.startswith(classifiers.PREFIX + known.name)]  # fmt: skip
    if labeled:
        with st.container(horizontal=True):
            label = f"{known.taxonomy} by {labeled[-1].label}"
            st.page_link(shared.page_path("Values"), label="See the profile it gives", icon=":material/favorite:",
                         query_params={"dataset": data.name, "labels": label})  # fmt: skip
            if st.button("Let people check 100 of its labels", icon=":material/fact_check:"):
                made = shared.ask("queue_create", dataset=data.name, taxonomy_name=known.taxonomy,
                                  name=f"check {labeled[-1].label}", n=100, purpose="check",
                                  options={"labeler": labeled[-1].label})  # fmt: skip
                if made:
                    st.switch_page(shared.page_path("Annotate"), query_params={"queue": made["queue"]})


def more(one: audit_classifiers.Judged) -> None:
    """Views of one column: confusion, calibration, learning curve, abstention, domains, errors."""
    st.subheader("More views", anchor=False)
    tabs = ["Confusion", "Calibration", "More labels", "Abstaining", "Domains", "Errors"]
    shown = dict(zip(tabs, st.tabs(tabs, on_change="rerun", key="more", bind="query-params")))
    column = one.columns[0]
    if len(one.columns) > 1:
        by_name = {c.name: c for c in one.columns}
        title = st.selectbox("Feature", list(by_name), key="column", bind="query-params",
                             format_func=lambda name: shared.escape(by_name[name].title))  # fmt: skip
        column = by_name[title]
    if shown["Confusion"].open:
        with shown["Confusion"]:
            square = audit_classifiers.confusion(one, column.name)
            shared.chart(charts.matrix(square, "share of the row"), "Confusion of the held-out entries.",
                         "Rows: the label; columns: what the classifier said; each row sums to 1.", square,
                         "confusion")  # fmt: skip
    if shown["Calibration"].open:
        with shown["Calibration"]:
            bins, ece, brier = audit_classifiers.reliability(one)
            shared.chart(
                evaluation_charts.reliability(bins), "Share of right verdicts by confidence.",
                f"On the dashed line confidence can be taken at its word. All features together: expected calibration "
                f"error {ece:.3f}, Brier score {brier:.3f}.", bins, "reliability",
            )  # fmt: skip
    if shown["More labels"].open:
        with shown["More labels"]:
            learned = audit_classifiers.curve(one)
            if learned is None:
                st.info(
                    "The learning curve is measured for heads on frozen embeddings; a fine-tuned encoder would have to "
                    "be trained many times. Train a linear head on the same labels to see one."
                )
            else:
                base = audit_classifiers.overall(one)
                flat = pd.DataFrame([{"name": "commonest class", "macro_f1": base["majority"].estimate},
                                     {"name": "words", "macro_f1": base["keywords"].estimate}])  # fmt: skip
                st.markdown(f"**{shared.escape(audit_classifiers.outlook(learned))}**")
                shared.chart(
                    evaluation_charts.learning_curve(learned.points, learned.fitted, flat),
                    "Held-out macro-F1 by number of labels.",
                    "Points: heads trained on part of the labels, judged on the same held-out entries. Line: an "
                    "inverse power law; dashed: its forecast.", learned.points, "learning-curve",
                )  # fmt: skip
    if shown["Abstaining"].open:
        with shown["Abstaining"]:
            kept = audit_classifiers.abstaining(one, column.name)
            shared.chart(
                evaluation_charts.abstention(kept), "Accuracy by share of entries labelled.",
                "What is right among the labels it gives, if it gives only those above a confidence (in the table). "
                "Prevalence from such labels is of the easy entries.", kept, "abstention",
            )  # fmt: skip
    if shown["Domains"].open:
        with shown["Domains"]:
            parts, p = audit_classifiers.domains(one, column.name)
            note = f"p = {p:.3g} that they are alike" if len(parts) > 1 else "one domain only"
            shared.chart(
                charts.forest(parts, "held-out macro-F1", signed=False), "Macro-F1 by dataset and subset.",
                f"The same classifier by dataset and subset ({note}, permutation test).", parts, "domains",
            )  # fmt: skip
    if shown["Errors"].open:
        with shown["Errors"]:
            wrong = shared.read(
                audit_classifiers.mistakes, str(home()), one.known.name, one.known.revision, column.name
            )
            st.caption("Wrong verdicts, the most confident first: classifier and label disagree, and either may be at "
                       "fault.")  # fmt: skip
            picked = st.dataframe(
                shared.plain(wrong.drop(columns=["entry"])), hide_index=True, on_select="rerun", key="wrong",
                selection_mode="single-row", alt="Entries on which classifier and label disagree",
                column_config={"confidence": st.column_config.NumberColumn(format="%.2f")},
            ).selection.rows  # fmt: skip
            if picked:
                row = wrong.iloc[picked[0]]
                query = {"dataset": str(row["dataset"]), "pair": str(row["pair_id"])}
                st.page_link(shared.page_path("Pairs"), label="Open its pair", icon=":material/arrow_forward:",
                             query_params=query)  # fmt: skip


if view == "Train":
    train()
else:
    evaluate()
