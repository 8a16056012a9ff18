"""The Agreement view of Annotate: how far people agree, on what, who differs from whom, and from a labeler."""

from __future__ import annotations

import duckdb
import pandas as pd
import streamlit as st

from engine import annotators, audit_people, catalog, charts, queues, scales
from engine.audit_people import People
from engine.filters import Filter
from engine.intervals import MINIMUM_N, Estimate
from engine.queues import Queue
from pages import shared
from pages.quality_view import consensus_view, numbers, suspects_view

PARTS = ("Features", "Annotators", "Against a labeler", "Consensus", "Suspect labels")


def show(queue: Queue, data: catalog.Dataset) -> None:
    """The whole view, for a queue that people label blind."""
    many = sum(one.taxonomy_id == queue.taxonomy_id for one in _label_queues(data))
    left, right = st.columns([5, 3], vertical_alignment="center")
    part = left.segmented_control("Look at", PARTS, default=PARTS[0], key="look", bind="query-params", required=True,
                                  label_visibility="collapsed")  # fmt: skip
    everything = right.toggle(
        "All queues of this taxonomy",
        key="all-queues",
        disabled=many < 2,
        help="Answers of every queue of this dataset by the same version of the taxonomy.",
    )
    everything = bool(everything) and many > 1
    found: People = shared.read(audit_people.people, queue.name, everything)
    if found.sample:
        st.warning(shared.escape(found.sample), icon=":material/filter_alt:")
    if part == "Suspect labels":
        suspects_view(queue, data)
    elif len(found.acts) == 0:
        st.info("Nobody has answered yet. Agreement shows here once two people have labelled the same entries.")
    elif part == "Features":
        _features(queue, data, found, everything)
    elif part == "Annotators":
        _annotators(queue, found, everything)
    elif part == "Against a labeler":
        _against(queue, found, everything)
    else:
        consensus_view(queue, found, everything)


def _label_queues(data: catalog.Dataset) -> list[Queue]:
    return [one for one in shared.read(queues.every, data.dataset_id) if one.purpose == "annotate"]


def _row(frame: pd.DataFrame, measure: str, n: str = "n") -> pd.DataFrame:
    """A measure's columns as charts name them; rows under 30 and without an interval are left out."""
    drawn = frame.assign(estimate=frame[measure], conf_low=frame[f"{measure}_low"], conf_high=frame[f"{measure}_high"],
                         n=frame[n])  # fmt: skip
    return drawn[(drawn["n"] >= MINIMUM_N) & drawn["conf_low"].notna()]


def _one(row: pd.Series, measure: str, n: str = "n") -> Estimate:
    return Estimate(row[measure], row[f"{measure}_low"], row[f"{measure}_high"], int(row[n]))


# --- features -------------------------------------------------------------------------------------------------------


def _figures(con: duckdb.DuckDBPyConnection, queue: str, everything: bool) -> tuple[str, pd.DataFrame]:
    found = audit_people.people(con, queue, everything)
    figures = audit_people.features(found)
    sentence = audit_people.finding(figures, {one.name: one.title for one in found.taxonomy.features})
    return sentence, audit_people.table(found, figures)


def _features(queue: Queue, data: catalog.Dataset, found: People, everything: bool) -> None:
    sentence, frame = shared.read(_figures, queue.name, everything)
    st.subheader(shared.escape(sentence), anchor=False)
    with st.container(horizontal=True):
        st.metric("Annotators", f"{len(found.names):,}", border=True)
        st.metric("Entries answered", f"{len(found.entries):,}", border=True)
        st.metric("By two or more", f"{int(frame['n_units'].max()):,}", border=True,
                  help="Of the feature with the most; agreement is worked out on these.")  # fmt: skip
        st.metric("Cannot say", f"{int(frame['unsure'].sum()):,}", border=True, help="Answers, over all features")
    drawn = _row(frame, "alpha", "n_units")
    picked = None
    if not drawn.empty:
        picked = shared.chart(
            charts.forest(drawn.iloc[::-1], "Krippendorff's alpha", pick=["feature"]),
            "Krippendorff's alpha of the annotators by feature, with 95% intervals.",
            "Agreement beyond chance: 0 is chance, 1 always the same. Sets of classes count as close when they overlap "
            "(MASI), signs and grades when they are near. Intervals by bootstrap over entries, for these annotators. "
            "Click a point for its classes and pairs of people.",
            frame, f"agreement-{queue.queue_id}", True,
        )  # fmt: skip
    with st.expander("Every figure", expanded=drawn.empty):
        event = st.dataframe(
            shared.plain(frame.drop(columns="feature")), hide_index=True, on_select="rerun", key="agreement-features",
            selection_mode="single-row", column_config=numbers(frame),
            alt="Agreement by feature: units, raters, alpha, AC1, AC2, Fleiss' kappa and plain agreement",
        )  # fmt: skip
        if drawn.empty:
            shared.download(frame, f"agreement-{queue.queue_id}")
    rows = event.selection.rows
    titles = dict(zip(frame["feature"], frame["title"]))
    given = picked["feature"] if picked else frame.iloc[rows[0]]["feature"] if rows else None
    if given and st.session_state.get("agreement-clicked") != given:
        st.session_state["agreement-clicked"] = given
        st.session_state["agreement-feature"] = given
    chosen = st.selectbox("Feature", list(titles), key="agreement-feature", format_func=titles.__getitem__)
    _feature(queue, data, found, frame.set_index("feature").loc[chosen], chosen, everything)


def _detail(
    con: duckdb.DuckDBPyConnection, queue: str, everything: bool, feature: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    found = audit_people.people(con, queue, everything)
    return (
        audit_people.by_class(found, feature),
        audit_people.by_rater(found, feature),
        audit_people.pairs(found, feature),
    )


def _feature(
    queue: Queue, data: catalog.Dataset, found: People, row: pd.Series, feature: str, everything: bool
) -> None:  # fmt: skip
    classes, people, pairs = shared.read(_detail, queue.name, everything, feature)
    lines = [str(row["means"])]
    if not pd.isna(row["ac1"]) and row["n_units"] >= MINIMUM_N:
        lines.append(scales.meaning("ac1", _one(row, "ac1", "n_units")))
    for line in lines:
        st.markdown(shared.escape(line))
    if not classes.empty and len(classes) > 1:
        drawn = _row(classes, "alpha").sort_values("estimate")
        if len(drawn) > 2:  # of two classes both have the feature's own alpha
            shared.chart(
                charts.forest(drawn, "Alpha of one class against the rest"),
                f"Agreement on each class of {row['title']} against the rest, with 95% intervals.",
                "Low where people do not tell the class from others, and for rare classes whatever they do: beside it "
                "stands the specific agreement (where one names the class, how often another does) and its share.",
                classes, f"agreement-classes-{queue.queue_id}-{feature}",
            )  # fmt: skip
        with st.expander("Classes", expanded=len(drawn) < 3):
            st.dataframe(shared.plain(classes), hide_index=True, column_config=numbers(classes),
                         alt="Agreement on each class against the rest")  # fmt: skip
            st.caption("specific: where one annotator names the class, how often another does. share: of the answers.")
            if len(drawn) < 3:
                shared.download(classes, f"agreement-classes-{queue.queue_id}-{feature}")
    if len(people) > 1:
        st.markdown("**Annotators on this feature**")
        st.dataframe(shared.plain(people), hide_index=True, column_config=numbers(people),
                     alt="Each annotator with the others, and alpha of the others without them")  # fmt: skip
        st.caption(
            "same: how like theirs the answers of others to the same entry are. without: alpha of the others. change: "
            "that less alpha of all; above 0 means the others agree better among themselves."
        )
        with st.container(horizontal=True):
            shared.download(people, f"agreement-annotators-{queue.queue_id}-{feature}")
    if not pairs.empty:
        st.markdown("**Two by two**")
        event = st.dataframe(
            shared.plain(pairs), hide_index=True, on_select="rerun", selection_mode="single-row",
            key=f"agreement-pairs-{feature}", column_config=numbers(pairs), alt="Kappa of every two annotators",
        )  # fmt: skip
        picked = event.selection.rows
        both = pairs.iloc[picked[0] if picked else 0]
        with st.container(horizontal=True, vertical_alignment="center"):
            shared.download(pairs, f"agreement-pairs-{queue.queue_id}-{feature}")
            _differ(queue, found, feature, str(both["a"]), str(both["b"]))
        st.caption("kappa is Cohen's; select a row for the pairs on which those two differ.")


def _differ(queue: Queue, found: People, feature: str, one: str, other: str) -> None:
    """Links to the pairs on which two annotators differ; of a many_of feature class by class."""
    labels = shared.read(audit_people.persons, queue.name)
    if one not in labels or other not in labels:
        return
    known = found.taxonomy.feature(feature)
    columns = [f"{feature}: {name}" for name in known.classes] if known.kind == "many_of" else [feature]
    for column in columns if len(columns) < 4 else []:
        said = f"Pairs on which {one} and {other} differ" + (f": {column}" if len(columns) > 1 else "")
        shared.pairs_link(shared.escape(said), [_disagree(queue, labels[one], labels[other], column)])
    if len(columns) >= 4:
        column = st.selectbox("Class", columns, key=f"differ-{feature}")
        shared.pairs_link(
            shared.escape(f"Pairs on which {one} and {other} differ"),
            [_disagree(queue, labels[one], labels[other], column)],
        )


def _disagree(queue: Queue, one: str, other: str, column: str) -> Filter:
    return Filter.of("disagree", taxonomy=queue.taxonomy, labeler=one, other=other, feature=column)


# --- annotators -----------------------------------------------------------------------------------------------------


def _people(con: duckdb.DuckDBPyConnection, queue: str, everything: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    found = audit_people.people(con, queue, everything)
    return audit_people.by_annotator(found), annotators.pace(found.acts)


def _annotators(queue: Queue, found: People, everything: bool) -> None:
    frame, pace = shared.read(_people, queue.name, everything)
    known = frame[frame["shared"] >= MINIMUM_N]
    moved = known[(known["change_low"] > 0) | (known["change_high"] < 0)]
    if known.empty:
        sentence = f"Nobody shares {MINIMUM_N} entries with others yet, so there is no verdict on anybody"
    elif moved.empty:
        sentence = "No annotator's agreement with the others has changed beyond chance between the halves of their work"
    else:
        who = moved.loc[moved["change"].abs().idxmax()]
        sentence = (
            f"{who['annotator']}'s answers are {'more' if who['change'] > 0 else 'less'} like the others' in the "
            f"second half of their work: {100 * who['change']:+.0f} pp [{100 * who['change_low']:+.0f}, "
            f"{100 * who['change_high']:+.0f}], n = {who['shared']:,}"
        )
    st.subheader(shared.escape(sentence), anchor=False)
    halves = []
    for name in ("first", "second"):
        part = known.assign(title=known["annotator"], estimate=known[name], conf_low=known[f"{name}_low"],
                            conf_high=known[f"{name}_high"], n=known["shared"], half=f"{name} half")  # fmt: skip
        halves.append(part[part["estimate"].notna()])
    drawn = pd.concat(halves)
    if not drawn.empty:
        shared.chart(
            charts.shares(drawn.sort_values(["same", "half"]), "Others who say the same", groups="half"),
            "How often others say the same as each annotator, in the first and the second half of their work.",
            "Averaged over the features of an entry, on entries that others answered too; not corrected for chance. "
            "Where a queue is ordered by difficulty, the second half differs for that reason alone.",
            frame, f"annotators-{queue.queue_id}",
        )  # fmt: skip
    else:
        shared.download(frame, f"annotators-{queue.queue_id}")
    st.dataframe(shared.plain(frame), hide_index=True, column_config=numbers(frame),
                 alt="Answers, agreement with the others, median seconds and drift by annotator")  # fmt: skip
    st.caption(
        "seconds: median time from showing an entry to its first answer, with the interval of order statistics; breaks "
        "count, which the median forgives. change: second less first half, Newcombe's interval."
    )
    with st.expander("Pace over time"):
        st.dataframe(shared.plain(pace), hide_index=True, column_config=numbers(pace, 0),
                     alt="Answers and median seconds by annotator and hour or day")  # fmt: skip
        shared.download(pace, f"pace-{queue.queue_id}")


# --- against a labeler ----------------------------------------------------------------------------------------------


def _compared(con: duckdb.DuckDBPyConnection, queue: str, everything: bool, labeler: catalog.Labeler) -> pd.DataFrame:
    return audit_people.against(con, audit_people.people(con, queue, everything), labeler)


def _against(queue: Queue, found: People, everything: bool) -> None:
    known = shared.read(audit_people.others, queue.name)
    if not known:
        st.info("Nobody but people has labelled this taxonomy here. Run a labeler, or adjudicate for a gold set.")
        return
    labels = {one.label: one for one in known}
    labeler = labels[st.selectbox("Labeler", list(labels), key="against", bind="query-params")]
    frame = shared.read(_compared, queue.name, everything, labeler)
    if frame.empty or not frame["n"].max():
        st.info(shared.escape(f"{labeler.label} has labelled none of the entries that people have answered."))
        return
    most = frame[frame["who"] == audit_people.MAJORITY]
    enough = most[(most["n"] >= MINIMUM_N) & most["kappa"].notna()]
    sentence = (
        f"Too few entries labelled by people and {labeler.label} for a verdict ({most['n'].max()} of {MINIMUM_N})"
    )
    if len(enough) == 0 and most["n"].max() >= MINIMUM_N:
        sentence = (
            f"People and {labeler.label} use one class only, so there is nothing to tell agreement from chance by"
        )
    if len(enough):
        worst = enough.loc[enough["kappa"].idxmin()]
        sentence = (
            f"People and {labeler.label} agree with a median kappa of {enough['kappa'].median():.2f}"
            + (f"; least on “{worst['title']}”: {worst['kappa']:.2f}" if len(enough) > 1 else "")
            + f" [{worst['kappa_low']:.2f}, {worst['kappa_high']:.2f}], n = {worst['n']:,}"
        )
    st.subheader(shared.escape(sentence), anchor=False)
    if labeler.kind == "gold":
        st.caption(
            ":material/info: Gold is made of these people's answers and decisions about them, so agreement with it is "
            "high by construction: it tells whom the decisions followed, not who is right."
        )
    drawn = _row(most, "kappa").sort_values("estimate")
    if not drawn.empty:
        shared.chart(
            charts.forest(drawn, "Cohen's kappa with most people"),
            f"Cohen's kappa of people's majority and {labeler.label} by feature, with 95% intervals.",
            "What most people say of an entry (ties left out) against the labeler: 0 is chance, 1 always the same.",
            frame, f"against-{queue.queue_id}",
        )  # fmt: skip
    else:
        shared.download(frame, f"against-{queue.queue_id}")
    event = st.dataframe(
        shared.plain(frame.drop(columns="feature")), hide_index=True, on_select="rerun", key="against-row",
        selection_mode="single-row", column_config=numbers(frame),
        alt="Agreement of people and each annotator with the labeler, by feature",
    )  # fmt: skip
    persons = shared.read(audit_people.persons, queue.name)
    rows = event.selection.rows
    picked = frame.iloc[rows[0]] if rows else None
    if picked is None:
        st.caption("Select an annotator's row for the pairs on which they and the labeler differ.")
    elif picked["who"] in persons:
        shared.pairs_link(
            shared.escape(f"Pairs on which {picked['who']} and {labeler.label} differ about {picked['title']}"),
            [_disagree(queue, persons[picked["who"]], labeler.label, picked["feature"])],
        )
