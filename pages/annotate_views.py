"""The two views in which people decide: label or check one entry after another, and adjudicate."""

import time
from typing import Any

import pandas as pd
import streamlit as st

from engine import annotations as acts
from engine import gold, queues
from engine.answers import in_words
from engine.queues import Queue
from engine.records import SignetError, content_hash
from engine.taxonomy import Taxonomy
from pages import answering, shared
from pages.dialogue import STYLE, judged_html

LAYOUT = """<style>
[class*="st-key-step-"] button div {justify-content: flex-start}
@media (min-width: 700px) {
  [class*="st-key-below-"] {display: none}
  .st-key-annotate-text {position: sticky; top: 3.5rem}
  .st-key-annotate-text .signet-read {max-height: calc(100vh - 15rem); overflow-y: auto; padding-right: .5rem}
}
</style>"""


def said() -> None:
    """What the last act had to say."""
    kind, sentence = st.session_state.pop("annotate-said", ("", ""))
    if kind == "toast":
        st.toast(shared.escape(sentence))
    elif sentence:
        (st.error if kind == "error" else st.success)(shared.escape(sentence))


# --- labelling and checking -----------------------------------------------------------------------------------------


def edited(queue: Queue, annotator: str) -> int | None:
    """The entry whose answer this annotator is about to change."""
    *whose, entry_id = st.session_state.get("annotate-edit") or (None, None, None)
    return entry_id if whose == [queue.queue_id, annotator] else None


def note_key(annotator: str, entry_id: int) -> str:
    """The key of the note's field: another annotator at the same screen starts with an empty one."""
    return f"note-{entry_id}-{content_hash(annotator)}"


def act(queue: Queue, annotator: str, entry_id: int, answer: dict[str, Any] | None) -> None:
    """Save (or skip, without an answer), as a callback, so that the next drawing shows the next entry."""
    store, draft = shared.store(), st.session_state.get("annotate-draft", {})
    note = st.session_state.get(note_key(annotator, entry_id)) or ""
    editing = edited(queue, annotator) == entry_id
    seconds = time.time() - draft["since"] if draft.get("entry") == entry_id else None
    try:
        if answer is None:
            acts.skip(store, queue, entry_id, annotator, note)
        else:
            acts.save(store, queue, entry_id, annotator, answer, note, seconds, edit=editing)
        st.session_state.pop("annotate-edit", None)
    except SignetError as error:
        st.session_state["annotate-said"] = ("error", str(error))


def save_form(queue: Queue, annotator: str, asked: Taxonomy, entry_id: int, values: dict[str, Any]) -> None:
    """Save a form's answer, if everything is chosen."""
    if queue.purpose == "annotate":
        values = answering.collected(asked.features, str(entry_id), values)
        lacking = answering.missing(asked.features, values)
    else:
        lacking = [f.title for f in asked.features if f.name in values["shown"] and f.name not in values["verdicts"]]
        values = {"verdicts": values["verdicts"], "values": values["values"]}
    if lacking:
        st.session_state["annotate-said"] = ("error", f"Choose something for {', '.join(lacking)}.")
        return
    act(queue, annotator, entry_id, values)


def take_back(queue: Queue, annotator: str, last: int) -> None:
    """Undo, as a callback."""
    undone = acts.undo(shared.store(), queue, annotator, last)
    if undone:
        st.session_state.pop("annotate-draft", None)
        st.session_state.pop("annotate-edit", None)
        st.session_state["annotate-said"] = ("toast", "Your last act is taken back.")


def draft_of(task: acts.Task, queue: Queue, annotator: str, asked: Taxonomy) -> dict[str, Any]:
    """What has been chosen so far for the entry on show; begun anew when another one comes."""
    draft = st.session_state.get("annotate-draft")
    whose = (queue.queue_id, annotator)
    if not draft or draft["entry"] != task.entry_id or draft["whose"] != whose:
        before = task.answer or {}
        values: dict[str, Any]
        if queue.purpose == "check":
            values = {"shown": task.shown, "verdicts": dict(before.get("verdicts", {})),
                      "values": dict(before.get("values", {}))}  # fmt: skip
            if len(asked.features) == 1:
                values["verdicts"] = {}
        else:
            values = {f.name: before.get(f.name, answering.start_value(f)) for f in asked.features}
        draft = {"entry": task.entry_id, "whose": whose, "since": time.time(), "values": values}
        st.session_state["annotate-draft"] = draft
    return draft


@st.fragment
def label_view(queue: Queue, annotator: str) -> None:
    """One entry to judge, and the next as soon as it is saved. A fragment: only this part is drawn again."""
    store = shared.store()
    con = store.read()
    asked = queues.asked(con, queue)
    editing = edited(queue, annotator)
    try:
        task = acts.task(con, queue, editing, annotator) if editing else acts.next_task(store, queue, annotator)
    except SignetError as error:  # the queue was deleted by somebody else
        st.error(shared.escape(str(error)))
        return
    con = store.read()
    counts = acts.counts(con, queue, annotator)
    mine = f"{counts.mine:,} by you, {counts.today:,} today"
    st.progress(counts.finished / max(1, counts.n), text=f"{counts.finished:,} of {counts.n:,} finished · {mine}")
    with st.container():  # always there, so that what comes after keeps its place
        said()
    if task is None:
        st.info(acts.why_none(con, queue, annotator))
        with st.container(horizontal=True):
            st.button("Look again", icon=":material/refresh:")
            st.button("Undo", shortcut="u", icon=":material/undo:", disabled=not counts.last, on_click=take_back,
                      args=(queue, annotator, counts.last), key="undo-end")  # fmt: skip
        return
    draft = draft_of(task, queue, annotator, asked)
    features = [f for f in asked.features if queue.purpose == "annotate" or f.name in task.shown]
    one_key = queues.is_one_key(features)
    entry = str(task.entry_id)
    st.html(STYLE + LAYOUT)
    left, right = st.columns([5, 4], gap="medium")
    with left, st.container(key="annotate-text"):
        st.html(f'<div class="signet-read" tabindex="0" role="region" aria-label="The dialogue to judge">'
                f"{judged_html(task.prompt, task.response)}</div>")  # fmt: skip
        st.text_input("Note", value=task.note, key=note_key(annotator, task.entry_id), max_chars=acts.LONGEST_NOTE,
                      placeholder="A note (optional)", label_visibility="collapsed")  # fmt: skip
        with st.container(horizontal=True):
            if not one_key:
                st.button("Save and next", key=f"save-{entry}", type="primary", shortcut="Enter",
                          icon=":material/check:", on_click=save_form,
                          args=(queue, annotator, asked, task.entry_id, draft["values"]))  # fmt: skip
            if editing:
                st.button("Leave as it was", key=f"leave-{entry}", icon=":material/close:",
                          on_click=st.session_state.pop, args=("annotate-edit", None))  # fmt: skip
            else:
                st.button("Skip", key=f"skip-{entry}", shortcut="s", icon=":material/skip_next:", on_click=act,
                          args=(queue, annotator, task.entry_id, None))  # fmt: skip
                st.button("Undo", key=f"undo-{entry}", shortcut="u", icon=":material/undo:", disabled=not counts.last,
                          on_click=take_back, args=(queue, annotator, counts.last))  # fmt: skip
    with right, st.container(gap="xsmall"):
        guide = st.toggle("Guidelines", value=True, key="guide", persist_state="session")
        if editing:
            st.badge("You are changing an earlier answer", icon=":material/edit:", color="orange")
        if queue.purpose == "check":
            st.caption(f"Is {shared.escape(queue.params['labeler'])} right?")
        else:
            st.caption(answering.scope_note(features))

        def save(answer: dict[str, Any]) -> None:
            act(queue, annotator, task.entry_id, answer)

        if queue.purpose == "check" and len(features) == 1:
            answering.verdict_one(features[0], task.shown[features[0].name], entry, draft["values"], guide, save)
        elif queue.purpose == "check":
            answering.verdict_form(features, task.shown, entry, draft["values"], guide)
        elif one_key:
            before = (task.answer or {}).get(features[0].name)
            answering.one_key(features[0], entry, guide, save, before)
        else:
            answering.form(features, entry, draft["values"], guide)
        if not one_key:  # on a phone the other one is far above
            st.button("Save and next", key=f"below-{entry}", type="primary", icon=":material/check:", width="stretch",
                      on_click=save_form, args=(queue, annotator, asked, task.entry_id, draft["values"]))  # fmt: skip


# --- adjudication ---------------------------------------------------------------------------------------------------


def settle(queue: Queue, by: str) -> None:
    """Take the unanimous entries into gold, as a callback."""
    try:
        taken = gold.settle_unanimous(shared.store(), queue, by)
        st.session_state["annotate-said"] = ("toast", f"{taken:,} entries are gold now.")
    except SignetError as error:
        st.session_state["annotate-said"] = ("error", str(error))


def decide(queue: Queue, by: str, asked: Taxonomy, entry_id: int, values: dict[str, Any]) -> None:
    """Make an answer gold, as a callback."""
    values = answering.collected(asked.features, str(entry_id), values)
    lacking = answering.missing(asked.features, values) if len(asked.features) > 1 else []
    try:
        if lacking:
            raise SignetError(f"Choose something for {', '.join(lacking)}.")
        gold.decide(shared.store(), queue, entry_id, values, by)
        st.session_state.pop("annotate-later", None)
    except SignetError as error:
        st.session_state["annotate-said"] = ("error", str(error))


def take_back_gold(queue: Queue) -> None:
    """Undo the last decision, as a callback."""
    undone = gold.take_back(shared.store(), queue)
    st.session_state["annotate-said"] = ("toast", "The last decision is taken back." if undone else "No decision yet.")


def put_off(following: int) -> None:
    """Show the next open entry, as a callback."""
    st.session_state["annotate-later"] = following


@st.fragment
def adjudicate_view(queue: Queue, by: str) -> None:
    """Entries on which people differ, one at a time, their answers side by side; decisions become gold."""
    con = shared.store().read()
    now = gold.state(con, queue)
    asked = queues.asked(con, queue)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.metric("Gold", f"{now.gold:,}", border=True, help="Labels of the labeler “gold”, for training and figures.")
        st.metric("To decide", f"{now.open:,}", border=True, help="Two answers or more that differ")
        st.metric("Unanimous", f"{now.unanimous:,}", border=True, help="Two answers or more, all the same")
    with st.container():
        said()
    with st.container(horizontal=True):
        st.button(f"Make the {now.unanimous:,} unanimous entries gold", icon=":material/verified:", on_click=settle,
                  args=(queue, by), disabled=not now.unanimous, key="settle")  # fmt: skip
        st.button("Undo the last decision", shortcut="u", icon=":material/undo:", on_click=take_back_gold,
                  args=(queue,), key="undo-gold")  # fmt: skip
    waiting = gold.open_conflicts(con, queue)
    if not waiting:
        alone = "Nothing to decide: this queue gives every entry to one annotator, so answers cannot differ."
        st.info("Nothing to decide: no entry has answers that differ." if queue.overlap > 1 else alone)
        return
    later = st.session_state.get("annotate-later", 0) % len(waiting)
    found = gold.conflict(con, queue, waiting[later])
    task = acts.task(con, queue, found.entry_id, "")
    entry = f"gold-{found.entry_id}"
    drafts = st.session_state.setdefault("gold-drafts", {})
    agreed = found.agreed()
    start = {f.name: agreed.get(f.name) for f in asked.features}
    for f in asked.features:
        if f.kind == "many_of" and f.name not in agreed:  # what nobody disputes
            start[f.name] = [c for c in f.classes if all(c in (said.get(f.name) or ()) for _, said, _ in found.given)]
    draft = drafts.setdefault((queue.queue_id, found.entry_id), start)
    st.html(STYLE + LAYOUT)
    left, right = st.columns([5, 4], gap="medium")
    with left, st.container(key="annotate-text"):
        st.html(f'<div class="signet-read" tabindex="0" role="region" aria-label="The dialogue to judge">'
                f"{judged_html(task.prompt, task.response)}</div>")  # fmt: skip
        with st.container(horizontal=True):
            if not queues.is_one_key(asked.features):
                st.button("Decide", type="primary", shortcut="Enter", icon=":material/gavel:", key=f"decide-{entry}",
                          on_click=decide, args=(queue, by, asked, found.entry_id, draft))  # fmt: skip
            if len(waiting) > 1:
                st.button("Later", shortcut="s", icon=":material/skip_next:", key=f"later-{entry}", on_click=put_off,
                          args=(later + 1,))  # fmt: skip
    with right, st.container(gap="xsmall"):
        names = st.toggle("Show who said what", key="gold-names", persist_state="session")
        people = [who if names else f"Annotator {chr(65 + i)}" for i, (who, _, _) in enumerate(found.given)]
        single = len(asked.features) == 1
        if not single:
            st.dataframe(_side_by_side(asked, found, people), hide_index=True, alt="What the annotators answered")
        for who, (_, answer, note) in zip(people, found.given):
            if single:
                st.markdown(f"{shared.escape(who)}: **{shared.escape(answer_words(asked, answer))}**")
            if note:
                st.caption(f"{shared.escape(who)} notes: {shared.escape(note)}")
        guide = st.toggle("Guidelines", key="guide-gold", persist_state="session")
        if queues.is_one_key(asked.features):
            answering.one_key(asked.features[0], entry, guide,
                              lambda answer: decide(queue, by, asked, found.entry_id, answer))  # fmt: skip
        else:
            st.caption("What all agree on is filled in.")
            answering.form(asked.features, entry, draft, guide)


def answer_words(asked: Taxonomy, answer: dict[str, Any]) -> str:
    """An answer or a check's verdicts as plain text; of many features those that are not simply no, 0 or none."""
    if "verdicts" in answer:
        better = {f.name: in_words(f, answer["values"][f.name]) for f in asked.features if f.name in answer["values"]}
        verdicts = {name: verdict + (f" ({better[name]})" if name in better else "")
                    for name, verdict in answer["verdicts"].items()}  # fmt: skip
        return "; ".join(verdicts.values() if len(verdicts) == 1 else (f"{n}: {v}" for n, v in verdicts.items()))
    if len(asked.features) == 1:
        return in_words(asked.features[0], answer.get(asked.features[0].name))
    shown = [
        f"{f.title}: {in_words(f, answer.get(f.name))}" for f in asked.features if answer.get(f.name) not in (0, [])
    ]
    return "; ".join(shown) or "nothing"


def _side_by_side(asked: Taxonomy, found: gold.Conflict, people: list[str]) -> pd.DataFrame:
    agreed = found.agreed()
    rows = [
        {"": f.title, **{who: in_words(f, said.get(f.name)) for who, (_, said, _) in zip(people, found.given)}}
        for f in asked.features if f.name not in agreed]  # fmt: skip
    return shared.plain(pd.DataFrame(rows))
