"""Which language model labels or rewords, what does it cost, and can it be trusted?"""

from typing import Any

import pandas as pd
import streamlit as st

from engine import audit_agreement, audit_reports, catalog, charts, endpoints, rewriting, taxonomy, trials
from engine.filters import Filter
from engine.intervals import MINIMUM_N
from engine.records import SignetError
from pages import shared

SERVERS = {"openai": "OpenAI", "server": "A server with OpenAI's API", "ollama": "Ollama"}

st.title("Labelers")
data = shared.dataset()
shared.provenance(data)
view = st.segmented_control(
    "View", ["Set up", "Compare", "Consistency"], default="Set up", key="view", bind="query-params", required=True
)
found: list[catalog.Labeler] = shared.read(catalog.labelers, data.dataset_id)


def money(value: float | None) -> str:
    """US dollars, or that the price is not known."""
    return "price unknown" if value is None else f"${value:,.2f}"


def show_trials(tried: trials.Tried) -> None:
    """The raw exchanges of a trial."""
    good = sum(one.value is not None for one in tried.trials)
    st.markdown(
        f"**{good} of {len(tried.trials)} answers can be used** · {tried.seconds:.1f} s · "
        f"{tried.usage.prompt_tokens:,} tokens in, {tried.usage.completion_tokens:,} out · asked for "
        f"{ {'schema': 'a JSON schema', 'json': 'JSON', 'text': 'plain text'}[tried.mode] }"
    )
    for one in tried.trials:
        with st.expander(f"{'Used' if one.value is not None else 'Not used'}: entry {one.entry[:8]}"):
            if one.reason:
                st.warning(shared.escape(one.reason))
            st.caption("Answer")
            st.code(one.raw or "(none)", language=None, wrap_lines=True)
            if isinstance(one.value, dict):
                st.dataframe(pd.DataFrame([one.value]), hide_index=True, alt="Labels read from the answer")
            st.caption("Question: the system message is the same for every entry")
            for message in one.messages:
                st.code(f"{message['role']}:\n{message['content']}", language=None, wrap_lines=True)


if view == "Set up":
    left, right = st.columns(2)
    server = left.segmented_control(
        "Server", list(SERVERS), default="openai", format_func=SERVERS.__getitem__, key="server", required=True
    )
    model = left.text_input("Model", key="lm-model", placeholder="gpt-4o-mini, qwen3:4b ...").strip()
    base_url = None
    if server != "openai":
        default = "http://localhost:11434" if server == "ollama" else "http://localhost:8000/v1"
        base_url = left.text_input("Address", default, key="lm-url").strip() or None
    task = right.segmented_control("Task", ["Label", "Reword"], default="Label", key="lm-task", required=True)
    known, complaints = taxonomy.available()
    names = [name for name in known if name != "surface"]
    if task == "Label":
        what = right.selectbox("Taxonomy", names, index=names.index("seal"), key="lm-taxonomy",
                               format_func=lambda name: known[name].title)  # fmt: skip
    else:
        texts = rewriting.instructions()
        what = right.selectbox("Instruction", list(texts), index=list(texts).index("neutral"), key="lm-how",
                               format_func=lambda name: name.replace("_", " "))  # fmt: skip
        right.caption(shared.escape(texts[what].split("\n")[3]))
    with st.expander("Options"):
        one, two, three = st.columns(3)
        concurrency = one.number_input("Questions at once", 1, 512, 16, key="lm-concurrency")
        temperature = two.number_input("Temperature", 0.0, 2.0, 0.0, 0.1, key="lm-temperature")
        again = "Label again with another number to see how far the model agrees with itself."
        sample = three.number_input("Sample number", 1, 20, 1, key="lm-sample", help=again)
        order = one.selectbox("Order of features in the prompt", ["taxonomy", "reversed", "shuffled:1"], key="lm-order")
        limit = two.number_input("Only so many pairs (0: all)", 0, 10_000_000, 0, key="lm-limit")
        ceiling = three.number_input("Stop at US dollars (0: no ceiling)", 0.0, 100_000.0, 0.0, key="lm-ceiling")
        batch = one.toggle("Batch API (half the price, up to a day)", key="lm-batch", disabled=server != "openai")
    options: dict[str, Any] = {"concurrency": int(concurrency), "temperature": float(temperature),
                               "sample": int(sample), "order": order}  # fmt: skip
    options |= {"base_url": base_url} if base_url else {}
    options |= {"ceiling": float(ceiling)} if ceiling else {}
    options |= {"batch": True} if batch and server == "openai" else {}
    labeler = f"{'ollama' if server == 'ollama' else 'openai'}:{model}"
    ready = bool(model)
    with st.container(horizontal=True):
        test = st.button("Test the connection", icon=":material/lan:", disabled=not ready)
        attempt = st.button("Try on five entries", icon=":material/science:", disabled=not ready)
        start = st.button("Start", type="primary", icon=":material/play_arrow:", disabled=not ready)
    if not ready:
        st.caption("Name a model. Keys come from the environment or Streamlit's secrets (OPENAI_API_KEY, or "
                   "SIGNET_API_KEY for other servers); they are never stored.")  # fmt: skip
    try:
        if test:
            with st.spinner("Asking ..."):
                answer = trials.connect(labeler, options)
            (st.success if answer.works else st.error)(shared.escape(answer.sentence))
        if attempt:
            rows = [tuple(row) for row in shared.read(audit_reports.sample, data.name, 5)["rows"]]
            wide = [tuple(row) for row in shared.read(audit_reports.sample, data.name, 100)["rows"]]
            with st.spinner("Asking about five entries ..."):
                if task == "Label":
                    tried = trials.try_labels(rows, labeler, what, options)
                else:
                    tried = trials.try_rewrites(rows, labeler, what, options)
            count = min(data.n_entries, 2 * int(limit)) if limit else data.n_entries
            bill = trials.estimate(wide, count, labeler, options, what if task == "Label" else None,
                                   what if task == "Reword" else None, tried)  # fmt: skip
            with st.container(horizontal=True):
                st.metric("Entries", f"{bill.requests:,}", border=True)
                st.metric("Tokens in", f"{bill.prompt_tokens:,}", border=True)
                span = f"95%: {money(bill.low)} to {money(bill.high)}" if bill.low is not None else None
                st.metric("Cost", money(bill.expected), border=True, help=span)
                st.metric("Time", f"{bill.seconds / 3600:.1f} h" if bill.seconds else "unknown", border=True,
                          help="At the speed of the trial; more questions at once are faster.")  # fmt: skip
            show_trials(tried)
        if start:
            endpoints.provider(labeler)
            if task == "Label":
                shared.start_job("label", dataset=data.name, labeler=labeler, taxonomy_name=what,
                                 limit=int(limit) or None, options=options)  # fmt: skip
            else:
                shared.start_job("rewrite", dataset=data.name, rewriter=labeler, how=what, limit=int(limit) or None,
                                 options=options)  # fmt: skip
    except SignetError as error:
        st.error(shared.escape(str(error)))

if view == "Compare":
    by_taxonomy: dict[str, list[catalog.Labeler]] = {}
    for one_labeler in found:
        if one_labeler.taxonomy != "surface":
            by_taxonomy.setdefault(one_labeler.taxonomy, []).append(one_labeler)
    able = {name: labelers for name, labelers in by_taxonomy.items() if len(labelers) > 1}
    if not able:
        st.info("No taxonomy has labels by two labelers here. Label again by another one to compare.")
        st.stop()
    left, middle, right = st.columns(3)
    chosen = able[left.selectbox("Taxonomy", list(able), key="taxonomy", bind="query-params")]
    labels = {b.label: b for b in chosen}
    a = labels[middle.selectbox("One", list(labels), key="one", bind="query-params")]
    rest = [name for name in labels if name != a.label]
    b = labels[right.selectbox("Other", rest, key="other", bind="query-params")]
    compared = shared.read(audit_agreement.compare, data.dataset_id, a, b)
    if not compared:
        st.info(f"{a.label} and {b.label} have labelled no entry in common.")
        st.stop()
    frame = audit_agreement.table(compared)
    st.subheader(shared.escape(audit_agreement.finding(a.label, b.label, compared)), anchor=False)
    drawn = frame.dropna(subset=["kappa_low"])
    drawn = drawn[drawn["n"] >= MINIMUM_N].assign(
        title=lambda f: f["feature"], estimate=lambda f: f["kappa"], conf_low=lambda f: f["kappa_low"],
        conf_high=lambda f: f["kappa_high"],
    )  # fmt: skip
    picked = None
    if not drawn.empty:
        picked = shared.chart(
            charts.forest(drawn.sort_values("estimate", ascending=False), "Cohen's kappa", pick=["feature"]),
            "Cohen's kappa of two labelers by feature, with 95% intervals.",
            "Agreement beyond chance on the same entries, joined by entry: 0 is chance, 1 is always. Kappa is low for "
            "rare features whatever the agreement; AC1 and PABAK in the table are not. Click a point for its pairs.",
            frame, "agreement", True,
        )  # fmt: skip
    numbers = [c for c in frame if c not in ("feature", "n")]
    event = st.dataframe(
        frame, hide_index=True, on_select="rerun", selection_mode="single-row", key="agreement-row",
        alt="Agreement, kappa, PABAK, AC1 and alpha by feature",
        column_config={c: st.column_config.NumberColumn(format="%.3f") for c in numbers},
    )  # fmt: skip
    st.caption(
        "length_a, length_b: correlation of each labeler's label with the logarithm of the answer's length; a gap "
        "between them hints at a length bias of one of the two."
    )
    row = event.selection.rows
    feature = picked["feature"] if picked else str(frame.iloc[row[0]]["feature"]) if row else None
    if feature:
        shared.pairs_link(
            f"Pairs on which they differ about {feature}",
            [Filter.of("disagree", taxonomy=a.taxonomy, labeler=a.label, other=b.label, feature=feature)],
        )

if view == "Consistency":
    groups = audit_agreement.samples(found)
    if not groups:
        st.info(
            "Label the same entries twice with a language model (option “Sample number” 2, a temperature above 0) to "
            "see how far it agrees with itself."
        )
        st.stop()
    name = st.selectbox("Labeler", list(groups), key="group", bind="query-params")
    table, entries = shared.read(audit_agreement.consistency, data.dataset_id, tuple(groups[name]))
    st.caption(
        f"{len(groups[name])} samples. share: how many of the samples give the most frequent answer, averaged over "
        "entries; entropy: 0 where all agree, 1 where they are spread evenly."
    )
    shown = {c: st.column_config.NumberColumn(format="%.3f") for c in ("share", "entropy")}
    st.dataframe(table, hide_index=True, alt="Self-consistency by feature", column_config=shown)
    st.markdown("**Least consistent entries**: the ones to have people look at first")
    picked_row = st.dataframe(
        shared.plain(entries), hide_index=True, on_select="rerun", selection_mode="single-row", key="inconsistent",
        alt="Entries on which the samples disagree most",
        column_config={c: st.column_config.NumberColumn(format="%.3f") for c in ("share", "entropy")},
    ).selection.rows  # fmt: skip
    if picked_row:
        shared.pair_link("Open its pair", str(entries.iloc[picked_row[0]]["pair_id"]))
