"""Two more views of people's answers: what they say together and how good each is, and labels that look wrong."""

from __future__ import annotations

from typing import Any

import duckdb
import pandas as pd
import streamlit as st

from engine import annotators, audit_people, catalog, charts, classifiers, label_quality
from engine.audit_people import People
from engine.intervals import MINIMUM_N, interval_text, wilson
from engine.queues import Queue
from engine.records import SignetError
from engine.settings import home
from pages import shared


def numbers(frame: pd.DataFrame, decimals: int = 2) -> dict[str, Any]:
    """How the fractions of a table are shown."""
    shown = st.column_config.NumberColumn(format=f"%.{decimals}f")
    return {name: shown for name in frame.select_dtypes("float").columns}


def _together(
    con: duckdb.DuckDBPyConnection, queue: str, everything: bool, column: str, revision: str, classifier: str | None
) -> annotators.Consensus:  # fmt: skip
    return label_quality.consensus(con, audit_people.people(con, queue, everything), column, home(), classifier)


def _revision(name: str | None) -> str:
    """What changes when a classifier is trained again, so that nothing stale is shown."""
    return classifiers.about(home(), name).revision if name else ""


def consensus_view(queue: Queue, found: People, everything: bool) -> None:
    """Consensus labels of a feature and each annotator's quality, with or without a classifier's help."""
    columns = {one.name: one.title for one in label_quality.columns(found)}
    if not columns:
        st.info("This taxonomy asks for numbers only; a consensus is worked out for classes.")
        return
    left, right = st.columns(2)
    column = left.selectbox("Feature", list(columns), key="consensus-column", format_func=columns.__getitem__)
    trained = label_quality.trained(home(), queue.taxonomy)
    classifier = right.selectbox("Help by a classifier's out-of-fold chances", [None, *reversed(trained)],
                                 key="consensus-by", format_func=lambda name: name or "none")  # fmt: skip
    try:
        one = shared.read(_together, queue.name, everything, column, _revision(classifier), classifier)
    except SignetError as error:
        st.error(shared.escape(str(error)))
        return
    if one.reason:
        st.info(one.reason)
    if one.labels.empty:
        return
    unsure = int((one.labels["quality"] < 0.8).sum())
    st.subheader(f"{unsure:,} of {one.n:,} consensus labels have a chance below 80% to be right", anchor=False)
    st.caption(
        f"By {shared.escape(annotators.METHODS[one.method])}. It shows what others said: finish your own part first."
    )
    people = one.annotators.assign(title=one.annotators["annotator"], estimate=one.annotators["quality"])
    drawn = people[people["conf_low"].notna() & (people["n"] >= MINIMUM_N)]
    if not drawn.empty:
        shared.chart(
            charts.shares(drawn.sort_values("estimate"), "Quality"),
            "Estimated quality of each annotator, with 95% intervals.",
            "How often an annotator is right, as the method estimates it from everybody's answers without knowing the "
            "truth. It ranks; a gold set measures. CROWDLAB's score is no share: it lies below it.",
            one.annotators, f"quality-{queue.queue_id}",
        )  # fmt: skip
    st.dataframe(shared.plain(one.annotators), hide_index=True, column_config=numbers(one.annotators),
                 alt="Quality, agreement with the consensus and worst class by annotator")  # fmt: skip
    st.caption("agrees: with the consensus, on entries that others answered too. worst: the class missed most often.")
    st.markdown("**Least certain entries**: decide these first under Adjudicate")
    least = one.labels.sort_values("quality", kind="stable")[["said", "quality", "agree", "n", "response"]]
    st.dataframe(shared.plain(least.head(100)), hide_index=True, column_config=numbers(least),
                 alt="Entries whose consensus is least certain")  # fmt: skip
    shared.download(least, f"consensus-{queue.queue_id}")


def _wrong(
    con: duckdb.DuckDBPyConnection, classifier: str, revision: str
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    return label_quality.label_errors(con, home(), classifier)


def suspects_view(queue: Queue, data: catalog.Dataset) -> None:
    """Labels that a classifier of this taxonomy was taught and, when it had not seen them, finds unlikely."""
    trained = label_quality.trained(home(), queue.taxonomy)
    if not trained:
        st.info(
            "Train a classifier on these labels first: what it finds unlikely about labels it never saw shows here."
        )
        if "Classifiers" in shared.PAGES:
            st.page_link(shared.page_path("Classifiers"), label="Train one", icon=":material/model_training:")
        return
    classifier = st.selectbox("Classifier", list(reversed(trained)), key="suspects-by")
    try:
        summary, found = shared.read(_wrong, classifier, _revision(classifier))
    except SignetError as error:
        st.error(shared.escape(str(error)))
        return
    judged = int(summary["n"].sum())
    share = f": {interval_text(wilson(len(found), judged))}" if judged else ""
    st.subheader(
        f"{len(found):,} of {judged:,} labels that the classifier learned from look wrong{share}", anchor=False
    )
    st.caption(
        "By confident learning (cleanlab), from chances of a classifier that had not seen the label: candidates to "
        "read again, not verdicts. A weak classifier suspects good labels, above all of rare classes."
    )
    with st.expander("By feature"):
        st.dataframe(shared.plain(summary), hide_index=True, column_config=numbers(summary, 3),
                     alt="Labels that look wrong by feature, with the share's 95% interval")  # fmt: skip
        shared.download(summary, f"suspect-labels-{classifier}-by-feature")
    if found.empty:
        return
    event = st.dataframe(
        shared.plain(found.drop(columns=["entry", "column"])), hide_index=True, on_select="rerun",
        selection_mode="single-row", key="suspect-labels", column_config=numbers(found),
        alt="Labels that look wrong, least likely first",
    )  # fmt: skip
    rows = event.selection.rows
    with st.container(horizontal=True, vertical_alignment="center"):
        shared.download(found, f"suspect-labels-{classifier}")
        if rows and isinstance(found.iloc[rows[0]]["pair_id"], str) and found.iloc[rows[0]]["dataset"] == data.name:
            shared.pair_link("Open its pair", found.iloc[rows[0]]["pair_id"])
        else:
            st.caption("Select a row to open its pair.")
