"""Label entries together, blind and on the keyboard; decide where people differ; check a labeler's predictions."""

import json
from typing import Any

import pandas as pd
import streamlit as st

from engine import annotations as acts
from engine import catalog, human_check, queues, taxonomy
from engine.filters import Filter
from engine.intervals import MINIMUM_N, interval_text
from engine.queues import Queue
from engine.records import SignetError
from engine.taxonomy import Taxonomy
from pages import shared
from pages.agreement_view import show as show_agreement
from pages.annotate_views import adjudicate_view, answer_words, label_view, said

TARGETED = (
    "Labels of this queue are no random sample: they are good for training and for finding mistakes, but shares and "
    "agreement read off them speak of the queue only. Draw another queue at random for those."
)

# --- choosing and making queues -------------------------------------------------------------------------------------


def login_name() -> str | None:
    """Who is logged in, where the dashboard has a login; else names are what people say they are."""
    try:
        if "auth" in st.secrets and st.user.is_logged_in:
            return str(st.user.get("email") or st.user.get("name") or "") or None
    except FileNotFoundError:
        pass
    return None


def make(data: catalog.Dataset, form: dict[str, Any]) -> None:
    """Draw the queue, as a callback, so that it is selected when the page is drawn again."""
    try:
        of = queues.create(shared.store(), data.name, **form)
        st.session_state["queue"] = of.name
        st.session_state["annotate-said"] = ("success", f"Queue “{of.name}”: {of.describe()}.")
    except SignetError as error:
        st.session_state["annotate-said"] = ("error", str(error))


def new_queue(data: catalog.Dataset, first: bool) -> None:
    """The form that draws a queue."""
    with st.expander("New queue", icon=":material/playlist_add:", expanded=first):
        found = [one for one in shared.read(catalog.labelers, data.dataset_id) if one.kind not in ("person", "gold")]
        known, _ = taxonomy.available()
        names = [name for name in known if name != "surface"]
        one, two, three = st.columns(3)
        title = one.text_input("Name", key="new-name", placeholder="first look, May check ...", max_chars=100)
        chosen = two.selectbox("Taxonomy", names, index=names.index("value_imprint"), key="new-taxonomy",
                               format_func=lambda name: known[name].title)  # fmt: skip
        purposes = {"annotate": "Label entries", "check": "Check predictions"}
        purpose = three.segmented_control("What people do", list(purposes), default="annotate", key="new-purpose",
                                          format_func=purposes.__getitem__, required=True)  # fmt: skip
        options: dict[str, Any] = {}
        strategy = "random"
        one, two, three = st.columns(3)
        if purpose == "annotate":
            strategy = one.selectbox("Entries", list(queues.STRATEGIES), key="new-strategy",
                                     format_func=queues.STRATEGIES.__getitem__)  # fmt: skip
        own = [b for b in found if b.taxonomy == chosen]
        lack = _by_labels(
            strategy, purpose, known[chosen], own, found, options, (one if purpose == "check" else two, three)
        )
        if strategy == "suspects":
            models = [m.label for m in shared.read(catalog.models, data.dataset_id)]
            options["models"] = st.multiselect("Reward models that decide the other way", models, default=models,
                                               key="new-models")  # fmt: skip
            lack = lack or (not models and "This dataset has no rewards yet; score it first.") or ""
        one, two, three = st.columns(3)
        n = one.number_input("Entries in the queue", 1, queues.LARGEST, 200, key="new-n")
        overlap = two.number_input("Annotators an entry", 1, queues.MOST_OVERLAP, 1, key="new-overlap",
                                   help="Two or more show how far people agree.")  # fmt: skip
        seed = three.number_input("Seed", 0, 2**31, 0, key="new-seed", help="The same seed draws the same entries.")
        features = [f.name for f in known[chosen].features]
        if len(features) > 1:
            options["features"] = st.multiselect(
                "Ask only for these (none: all)", features, key=f"new-features-{chosen}",
                format_func=lambda name: known[chosen].feature(name).title,
            )  # fmt: skip
        options["fresh"] = st.toggle("Leave out what another queue of this taxonomy holds", key="new-fresh")
        if strategy != "random":
            st.caption(f":material/info: {TARGETED}")
        if lack:
            st.caption(f":material/error: {shared.escape(lack)}")
        form = {"taxonomy": chosen, "name": title, "strategy": strategy, "n": int(n), "overlap": int(overlap),
                "seed": int(seed), "purpose": purpose, "options": options}  # fmt: skip
        st.button("Make the queue", type="primary", disabled=bool(lack), on_click=make, args=(data, form))


def _by_labels(
    strategy: str, purpose: str, chosen: Taxonomy, own: list[catalog.Labeler], found: list[catalog.Labeler],
    options: dict[str, Any], places: tuple[Any, Any],
) -> str:  # fmt: skip
    """The choice of whose labels to go by; what is lacking for it, in a sentence."""
    if strategy == "random" and purpose == "annotate":
        return ""
    if strategy == "suspects":
        judges = {f"{b.taxonomy} by {b.label}": b for b in found if b.taxonomy != "surface"}
        judge = places[0].selectbox("and a labeler", ["none", *judges], key="new-judge")
        if judge in judges:
            options |= {"labeler": judges[judge].label, "labeler_taxonomy": judges[judge].taxonomy}
        return ""
    labels = [b.label for b in own]
    if not labels:
        return f"Nobody has labelled {chosen.title} here yet; start a labeler first."
    if strategy == "conflict" and len(labels) < 2:
        return f"Only {labels[0]} has labelled {chosen.title} here; a conflict needs two."
    options["labeler"] = places[0].selectbox("Labeler", labels, key=f"new-labeler-{chosen.name}")
    if strategy == "conflict":
        rest = [name for name in labels if name != options["labeler"]]
        options["other"] = places[1].selectbox("Other labeler", rest, key=f"new-other-{chosen.name}")
    columns = [one for one in chosen.columns() if one.kind != "numeric"]
    if strategy in ("stratified", "low_confidence", "conflict") and len(columns) > 1 and purpose == "annotate":
        titles = {one.name: one.title for one in columns}
        every = [] if strategy == "stratified" else [""]
        place = st if strategy == "conflict" else places[1]
        options["feature"] = place.selectbox("By feature", [*every, *titles], key=f"new-feature-{chosen.name}",
                                             format_func=lambda name: titles.get(name, "all"))  # fmt: skip
    return ""


def remove(of: Queue, answered: bool) -> None:
    """Delete a queue, as a callback."""
    try:
        gone = acts.delete_queue(shared.store(), of.name, answered)
        st.session_state.pop("queue", None)
        st.session_state["annotate-said"] = (
            "success",
            f"Queue “{of.name}” and its {gone['answers']:,} answers are gone.",
        )
    except SignetError as error:
        st.session_state["annotate-said"] = ("error", str(error))


# --- what came out --------------------------------------------------------------------------------------------------


def result_view(queue: Queue, data: catalog.Dataset) -> None:
    """The figure that a check ends in."""
    found = human_check.results(shared.store().read(), queue)
    by = queue.params["labeler"]
    if found.judged == 0:
        st.info("Nobody has judged a prediction of this queue yet.")
        return
    several = len(queues.asked(shared.store().read(), queue).features) > 1
    what = "entries have every label right" if several else "predictions are right"
    if found.judged >= MINIMUM_N:
        sentence = f"{found.right.estimate:.1%} of {by}'s {what}, as people judge them"
    else:
        sentence = f"Too few judged so far ({found.judged} of {MINIMUM_N}) for a verdict on {by}"
    st.subheader(shared.escape(sentence), anchor=False)
    with st.container(horizontal=True):
        st.metric("Judged right", f"{found.right.estimate:.1%}", border=True, help=interval_text(found.right))
        st.metric("95% interval", f"{found.right.conf_low:.1%} to {found.right.conf_high:.1%}", border=True)
        st.metric("Judged", f"{found.judged:,} of {found.total:,}", border=True)
        st.metric("Cannot say", f"{found.unsure:,}", border=True)
    st.caption(
        "A random sample of predictions, each read by a person who saw what was predicted; that flatters the labeler a "
        "little, so blind labels are the stricter test. Wilson's interval; where several people judged one, the "
        "majority counts, and who cannot say does not count."
    )
    shares = {c: st.column_config.NumberColumn(format="%.1f%%") for c in ("share", "conf_low", "conf_high")}
    st.dataframe(_percent(found.by_class), hide_index=True, column_config=shares,
                 alt="Share judged right by predicted value")  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center"):
        shared.download(found.by_class, f"check-{queue.queue_id}")
        if len(found.wrong):
            shared.pairs_link(f"The pairs behind the {len(found.wrong):,} wrong ones",
                              [Filter.of("judged", queue=queue.name, value="wrong")])  # fmt: skip
    if len(found.wrong):
        with st.expander(f"The {len(found.wrong):,} judged wrong"):
            st.dataframe(shared.plain(found.wrong.drop(columns="entry_id")), hide_index=True,
                         alt="Predictions judged wrong")  # fmt: skip
    if len(found.by_annotator) > 1:
        st.dataframe(_percent(found.by_annotator), hide_index=True, column_config=shares,
                     alt="Share judged right by annotator")  # fmt: skip


def _percent(frame: pd.DataFrame) -> pd.DataFrame:
    return shared.plain(frame.assign(**{c: 100 * frame[c] for c in ("share", "conf_low", "conf_high")}))


def change(queue: Queue, annotator: str, entry_id: int) -> None:
    """Open an earlier answer to change it, as a callback."""
    st.session_state["annotate-edit"] = (queue.queue_id, annotator, entry_id)
    st.session_state.pop("annotate-draft", None)
    st.session_state["view"] = "Label" if queue.purpose == "annotate" else "Check"


def progress_view(queue: Queue, annotator: str) -> None:
    """Who did how much, one's own answers, and the queue itself."""
    con = shared.store().read()
    counts = acts.counts(con, queue, annotator)
    st.progress(counts.finished / max(1, counts.n), text=f"{counts.finished:,} of {counts.n:,} entries finished")
    people = acts.progress(con, queue)
    if people.empty:
        st.caption("Nobody has answered yet.")
    else:
        st.dataframe(
            shared.plain(people), hide_index=True, alt="Answers by annotator",
            column_config={"seconds": st.column_config.NumberColumn("median seconds", format="%.0f"),
                           "last": st.column_config.DatetimeColumn("last answer", format="YYYY-MM-DD HH:mm")},
        )  # fmt: skip
    st.caption("Names are what annotators say they are: whoever may open this dashboard may write under any name.")
    mine = acts.history(con, queue, annotator) if annotator else pd.DataFrame()
    if len(mine):
        st.subheader("Your answers", anchor=False)
        asked = queues.asked(con, queue)
        words = [answer_words(asked, json.loads(text)) for text in mine["answer"]]
        event = st.dataframe(
            shared.plain(mine.drop(columns="entry_id").assign(answer=words)), hide_index=True, on_select="rerun",
            selection_mode="single-row", key=f"history-{len(mine)}", alt="Your answers, newest first",
            column_config={"seconds": st.column_config.NumberColumn(format="%.0f"),
                           "at": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm")},
        )  # fmt: skip
        rows = event.selection.rows
        st.button("Change this answer", icon=":material/edit:", disabled=not rows, on_click=change,
                  args=(queue, annotator, int(mine.iloc[rows[0]]["entry_id"]) if rows else 0),
                  help="Select a row first.")  # fmt: skip
    answered = acts.table(con, queue)
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(answered):
            shared.download(answered, f"answers-{queue.queue_id}")
        with st.popover("Delete the queue", icon=":material/delete:", type="tertiary"):
            total = int(people["answers"].sum()) if len(people) else 0
            st.markdown(f"This deletes the queue with its {total:,} answers and the labels they gave.")
            st.button("Delete", type="primary", on_click=remove, args=(queue, True), key="really-delete")


# --- the page -------------------------------------------------------------------------------------------------------

st.title("Annotate")
data = shared.dataset()
every = queues.every(shared.store().read(), data.dataset_id)
if every:
    one, two, three = st.columns([1, 1, 2], vertical_alignment="bottom")
    picked = one.selectbox("Queue", [of.name for of in every], key="queue", bind="query-params", index=len(every) - 1)
    queue = next((of for of in every if of.name == picked), every[-1])
    given = login_name() or two.text_input(
        "Your name", key="annotator", bind="query-params", max_chars=acts.LONGEST_NAME, placeholder="Who is labelling?",
        help="Kept in this page's address. It is what you say it is: nobody checks it.",
    )  # fmt: skip
    views = ["Label", "Adjudicate", "Agreement"] if queue.purpose == "annotate" else ["Check", "Result"]
    view = three.segmented_control("View", [*views, "Progress"], default=views[0], key="view", bind="query-params",
                                   label_visibility="collapsed") or views[0]  # fmt: skip
    working = view in ("Label", "Check", "Adjudicate")
    if not working:
        # Not beside the texts: what a dataset's note says of its pairs must not colour a blind judgement.
        shared.provenance(data, queue.taxonomy, queue.describe())
        if not queue.is_random_sample and view != "Agreement":  # which says more about it itself
            st.caption(f":material/info: {TARGETED}")
    annotator = ""
    try:
        annotator = acts.annotator_name(given) if given else ""
    except SignetError as error:
        st.error(shared.escape(str(error)))
        st.stop()
    if not working or not annotator:
        said()
    if view == "Result":
        result_view(queue, data)
    elif view == "Progress":
        progress_view(queue, annotator)
    elif view == "Agreement":
        show_agreement(queue, data)
    elif not annotator:
        st.info("Say who you are first: type your name above.")
    elif view == "Adjudicate":
        adjudicate_view(queue, annotator)
    else:
        label_view(queue, annotator)
else:
    shared.provenance(data)
    said()
    st.info("There is no queue yet. A queue is a set of entries drawn for people to judge; make one here.")
new_queue(data, not every)
