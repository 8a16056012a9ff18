"""Import a dataset, see how it was read and how healthy it is; start labelling and scoring it."""

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from engine import bundle, catalog, commands, datasets, models, taxonomy
from engine.filters import Filter
from engine.records import Pair, SignetError
from engine.settings import home
from engine.store import FLAGS
from pages import shared

st.title("Datasets")
known = shared.read(catalog.datasets)


def preview_text(turns: tuple, most: int = 300) -> str:
    """The end of a prompt as one line."""
    text = turns[-1].content if turns else ""
    return text if len(text) <= most else text[: most - 1] + "…"


def save_upload(upload: Any) -> Path:
    """An uploaded file on disk under the store, where the import job reads it."""
    folder = home() / "uploads"
    folder.mkdir(exist_ok=True)
    kept = st.session_state.get("upload-kept")
    if kept and kept[0] == upload.file_id and Path(kept[1]).exists():
        return Path(kept[1])
    path = folder / f"{uuid.uuid4().hex[:8]}-{Path(upload.name).name}"
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as whole:
        shutil.copyfileobj(upload, whole)
    os.replace(whole.name, path)
    st.session_state["upload-kept"] = (upload.file_id, str(path))
    return path


def show_preview(source: str, options: dict) -> None:
    """How a source was understood, what can be chosen, and the button that imports it."""
    try:
        seen = datasets.preview(source, options)
    except SignetError as error:
        st.error(shared.escape(str(error)))
        return
    st.markdown(f"Read as **{shared.escape(seen.shape)}**: {shared.escape(seen.explanation)}")
    for problem in seen.problems:
        st.warning(shared.escape(problem))
    for name, choice in seen.choices.items():
        picked = st.selectbox(
            choice.title, choice.options, index=choice.default, key=f"choice-{name}", help=choice.help
        )
        options = options | {name: picked}
    if seen.needs_mapping:
        st.markdown("Say which column is which.")
        columns = ["(none)", *seen.columns]
        mapping = {}
        with st.container(horizontal=True):
            for field in ("prompt", "chosen", "rejected", "response", "id", "subset", "split"):
                guess = columns.index(field) if field in columns else 0
                value = st.selectbox(field, columns, index=guess, key=f"map-{field}")
                if value != "(none)":
                    mapping[field] = value
        options = options | {"shape": "generic", "columns": mapping}
    if options != seen.options:
        try:
            seen = datasets.preview(source, options)
        except SignetError as error:
            st.error(shared.escape(str(error)))
            return
    if seen.records:
        st.dataframe(
            shared.plain(
                pd.DataFrame(
                    [
                        {
                            "prompt": preview_text(r.prompt),
                            "chosen": r.chosen.response[:300],
                            "rejected": r.rejected.response[:300],
                        }
                        if isinstance(r, Pair)
                        else {"prompt": preview_text(r.prompt), "response": r.response[:300]}
                        for r in seen.records
                    ]
                )
            ),
            hide_index=True,
            alt="The first records as Signet reads them",
        )
        st.caption(f"The first {len(seen.records)} records, prompts by their last turn.")
    stem = (
        Path(source).name.split(".")[0].partition("-")[2] if "/uploads/" in source else Path(source).name.split(".")[0]
    )
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    name = left.text_input("Name of the dataset", value=stem or "dataset", key=f"name-{source}")
    if right.button("Import", type="primary", disabled=not seen.records, width="stretch"):
        shared.start_job("import", source=source, name=name, options=options)


with st.expander("Import a dataset", expanded=len(known) <= 1, icon=":material/upload:"):
    how = st.segmented_control(
        "From", ["Upload", "Path or hub id", "hh-rlhf"], default="Upload", key="from", required=True
    )
    if how == "Upload":
        upload = st.file_uploader("JSON, JSONL, CSV, TSV, Parquet or Arrow; plain, gz or zst", key="upload")
        if upload:
            show_preview(str(save_upload(upload)), {})
        st.caption("An upload passes through this server's memory; for files past some hundred megabytes give a path.")
    elif how == "Path or hub id":
        source = st.text_input(
            "A file, folder or glob on this server, or a Hugging Face hub id",
            key="source",
            placeholder="/data/preferences/*.jsonl.gz or HuggingFaceH4/ultrafeedback_binarized",
        )
        left, right = st.columns(2)
        split = left.text_input("Split (hub only)", value="train", key="split-wanted")
        config = right.text_input("Configuration (hub only)", key="config-wanted")
        if source:
            on_hub = not Path(source).exists() and not any(sign in source for sign in "*?[")
            options = ({"split": split} if split else {}) | ({"config": config} if config else {}) if on_hub else {}
            show_preview(source, options)
    else:
        st.markdown(
            "Anthropic's **hh-rlhf** test split (harmless and helpful, about 4,700 pairs), from the hub, or from the "
            f"file that `{bundle.HH_FILE}` names. Labels that ship with Signet attach themselves to it."
        )
        if st.button("Audit hh-rlhf", type="primary"):
            shared.start_job("import", source="hh-rlhf-test", name="hh-rlhf test")

data = shared.dataset()
st.header(shared.escape(data.name), anchor=False)
shared.provenance(data, data.shape, data.source)
if data.note and data.name != bundle.DEMO_NAME:
    st.caption(shared.escape(data.note))
with st.container(horizontal=True):
    st.metric("Pairs" if data.kind == "pairs" else "Entries", f"{data.n_pairs:,}", border=True)
    st.metric("Distinct entries", f"{data.n_entries:,}", border=True)
    skipped = data.report.get("skipped", [])
    st.metric("Rows skipped", f"{sum(s['count'] for s in skipped):,}", border=True)
    counts = commands.flag_counts(shared.store(), data.dataset_id)
    st.metric("Health flags", f"{sum(counts.values()):,}", border=True)

health, have, add, more = st.tabs(["Health", "Labels and rewards", "Add labels or rewards", "Export or delete"])
with health:
    if not any(counts.values()) and not skipped:
        st.success("Nothing skipped, nothing flagged.")
    for flag, count in counts.items():
        if count:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"{FLAGS[flag][1]}: **{count:,}** ({count / max(data.n_pairs, 1):.1%})")
                shared.pairs_link("See them", [Filter.of("flag", value=flag)])
    for one in skipped:
        with st.expander(f"Skipped: {shared.escape(one['reason'])} ({one['count']:,})"):
            st.dataframe(one.get("examples", []), hide_index=True, alt="Examples of skipped rows")
with have:
    rows = [
        {
            "what": "rewards",
            "by": m.label,
            "kind": m.kind,
            "revision": m.revision[:10],
            "entries": m.n_rewards,
            "of": data.n_entries,
            "note": f"{m.n_truncated:,} truncated" if m.n_truncated else "",
        }
        for m in shared.read(catalog.models, data.dataset_id)
    ] + [
        {
            "what": f"labels: {b.taxonomy}",
            "by": b.label,
            "kind": b.kind,
            "revision": b.revision[:10],
            "entries": b.n_entries,
            "of": data.n_entries,
            "note": f"{b.n_labels:,} labels",
        }
        for b in shared.read(catalog.labelers, data.dataset_id)
    ]
    if rows:
        st.dataframe(rows, hide_index=True, alt="Who labelled and scored this dataset")
    else:
        st.info("Nothing yet; the next tab starts it.")
with add:
    found, complaints = taxonomy.available()
    for complaint in complaints:
        st.warning(shared.escape(complaint))
    left, right = st.columns(2)
    with left, st.form("label"):
        st.markdown("**Labels**")
        name = st.selectbox("Taxonomy", list(found), format_func=lambda n: found[n].title)
        labeler = st.selectbox("Labeler", ["builtin", "surface"], help="surface: rules, for the taxonomy of that name")
        limit = st.number_input(
            "Pairs (0: all)",
            min_value=0,
            step=100,
            key="label-limit",
            help="A random sample is enough for a first look",
        )
        if st.form_submit_button("Label", type="primary"):
            shared.start_job("label", dataset=data.name, labeler=labeler, taxonomy_name=name, limit=limit or None)
    with right, st.form("score"):
        st.markdown("**Rewards**")
        name = st.text_input(
            "Reward model",
            value="builtin-post",
            help="builtin-pre, builtin-post, a hub id, a model folder, or a file of scores "
            "(csv, jsonl, parquet with pair_id, side, reward) on this server",
        )
        scores = st.file_uploader("or upload a file of scores", type=["csv", "tsv", "jsonl", "parquet"], key="scores")
        style = st.selectbox("Input format", ["by model", *models.FORMATS])
        limit = st.number_input("Pairs (0: all)", min_value=0, step=100, key="score-limit")
        if st.form_submit_button("Score", type="primary"):
            if scores:
                named: dict[str, Any] = {"name": Path(scores.name).stem}
                report = shared.ask("score", dataset=data.name, model=str(save_upload(scores)), options=named)
                if report:
                    st.session_state["score-report"] = report
                    st.rerun()
            else:
                options = {} if style == "by model" else {"format": style}
                shared.start_job("score", dataset=data.name, model=name, limit=limit or None, options=options)
    report = st.session_state.pop("score-report", None)
    if report:
        st.success(
            f"{report['matched']:,} entries matched; {report['unmatched']:,} rows matched no pair and side, "
            f"{report['not_numbers']:,} held no number; {report['entries_without']:,} entries got no reward."
        )
        if report["unmatched_examples"]:
            st.dataframe(report["unmatched_examples"], hide_index=True, alt="Rows of the file that matched nothing")
with more:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        what = st.selectbox(
            "Table",
            ["clean", "pairs", "rewards", "labels"],
            key="what-export",
            help="clean: the pairs without those that are identical, empty, duplicate or contradicted",
        )
        suffix = st.selectbox("Format", [".jsonl", ".csv", ".parquet"], key="suffix")
        if st.button("Prepare"):
            written = shared.ask("export", dataset=data.name, what=what, suffix=suffix)
            if written:
                st.session_state["prepared"] = (written, f"{data.name}-{what}{suffix}")
    prepared = st.session_state.get("prepared")
    if prepared and Path(prepared[0]["path"]).exists():
        ready = Path(prepared[0]["path"])
        st.download_button(
            f"Download {prepared[0]['rows']:,} rows",
            ready.read_bytes,
            prepared[1],
            icon=":material/download:",
        )
    with st.popover("Delete this dataset", icon=":material/delete:"):
        st.markdown("Deletes its pairs, and the rewards and labels that no other dataset uses.")
        if st.button("Delete it", type="primary", key="delete") and shared.ask("delete", dataset=data.name):
            st.rerun()
