"""Editing a taxonomy as a form or as YAML, with what is wrong with it said at once; and three ways to begin one.

Every taxonomy has an editor of its own in the session, a new one has that of NEW: `text` is what the widgets started
from, `now` what they say; `round` is part of their keys, so that they begin anew when a text is taken over.
"""

from typing import Any

import pandas as pd
import streamlit as st

from engine import drafting, plain_yaml, taxonomy_files, taxonomy_form
from engine.drafting import Request
from engine.records import SignetError
from engine.taxonomy import EXAMPLES, FEATURE_ROLES, KINDS, SCOPES, WITH_CLASSES, Taxonomy, parse
from engine.taxonomy_form import Form
from pages import shared
from pages.taxonomy_view import show

NEW = ""
FORMS = {"choice": "Exactly one class an answer", "features": "Features, each judged on its own"}
STARTS = {"choice": "Exactly one of them", "boolean": "Each on its own: yes or no",
          "signed": "Each on its own: supported, opposed or neither"}  # fmt: skip
LINES = {
    "choice": "Formal: as in a letter to somebody one does not know.\nCasual: as among friends; slang, exclamations.\n"
    "Neutral: neither of the two.",
    "boolean": "Gives a source: names where a claim can be looked up.\nAdmits doubt: says what it is not sure of.",
    "signed": "Thrift: spending little and wasting nothing.\nGenerosity: giving without asking what comes back.",
}
WORDS = ["yes", "no", *EXAMPLES["signed"], *EXAMPLES["ternary"]]


def open_text(slot: str, text: str, version: str | None) -> None:
    """Put a text into an editor. `version`: that of the saved taxonomy it was made from, None for a new one."""
    number = editors().get(slot, {}).get("round", 0) + 1
    editors()[slot] = {"slot": slot, "text": text, "now": text, "version": version, "round": number}


def editors() -> dict[str, dict[str, Any]]:
    """The session's editors by taxonomy; NEW holds what is not saved yet."""
    found: dict[str, dict[str, Any]] = st.session_state.setdefault("editors", {})
    return found


def put_aside(but: str | None = None) -> None:
    """Keep what the widgets of editors said that are not drawn now: their widgets are forgotten."""
    for slot, state in editors().items():
        if slot != but and state["now"] != state["text"]:
            _again(state, state["now"])


def _again(state: dict[str, Any], text: str) -> None:
    state["text"] = state["now"] = text
    state["round"] += 1


def saved(slot: str, text: str, version: str | None) -> None:
    """Save a text; the page then shows what was saved."""
    done = shared.ask("taxonomy_save", text=text, base=version)
    if done:
        editors().pop(slot, None)
        verb = "Saved" if done["changed"] else "Nothing had changed in"
        st.session_state["taxonomies-next"] = (done["name"], f"{verb} {done['name']}, version {done['version']}.")
        st.rerun()


# --- the editor -----------------------------------------------------------------------------------------------------


def _frame(rows: list[dict[str, str]], keys: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame([[row[key] for key in keys] for row in rows], columns=list(keys), dtype="str")


def _table(rows: list[dict[str, str]], keys: tuple[str, ...], key: str, alt: str, config: Any) -> list[dict[str, Any]]:
    frame = st.data_editor(
        _frame(rows, keys), num_rows="dynamic", hide_index=True, key=key, alt=alt, column_config=config
    )
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


_CLASS = {
    "name": st.column_config.TextColumn("class", width="medium"),
    "definition": st.column_config.TextColumn(
        "definition", width="large", help="When does it hold? One or two sentences."
    ),
}


def _form(state: dict[str, Any]) -> str:
    """The form; the text that its widgets say."""
    base = taxonomy_form.read(state["text"])
    form = taxonomy_form.form_of(base)
    mark = f"{state['slot']}-{state['round']}"
    left, right = st.columns(2)
    head = {
        "title": left.text_input("Title", form.head["title"], key=f"t-title-{mark}", max_chars=120),
        "name": right.text_input("Name", form.head["name"], key=f"t-name-{mark}", max_chars=64,
                                 help="Stands with every label and in commands: lower-case letters, digits, _ and -."),
        "source": st.text_input("Source", form.head["source"], key=f"t-source-{mark}",
                                help="Where the values and their definitions come from."),
        "definition": form.head["definition"],
    }  # fmt: skip
    head["name"] = head["name"] or taxonomy_form.slug(head["title"])
    kind = st.segmented_control("Judged how", list(FORMS), default=form.kind, format_func=FORMS.__getitem__,
                                key=f"t-kind-{mark}", required=True) or form.kind  # fmt: skip
    features: list[dict[str, Any]] = []
    classes: list[dict[str, Any]] = []
    if form.kind == "choice":
        head["definition"] = st.text_input("Question", form.head["definition"], key=f"t-definition-{mark}",
                                           help="What decides between the classes.")  # fmt: skip
        st.markdown("**Classes**")
        classes = _table(form.classes, ("name", "definition"), f"t-classes-{mark}", "Classes to edit", _CLASS)
    else:
        st.markdown("**Features**")
        c = st.column_config
        features = _table(
            form.features, taxonomy_form.FEATURE, f"t-features-{mark}", "Features to edit",
            {"was": None, "title": c.TextColumn("title", width="medium"),
             "name": c.TextColumn("name", help="Left empty, it is made from the title."),
             "definition": c.TextColumn("definition", width="large", help="When is it true? One or two sentences."),
             "kind": c.SelectboxColumn("kind", options=list(KINDS), default="boolean"),
             "role": c.SelectboxColumn("role", options=list(FEATURE_ROLES), default="neutral"),
             "scope": c.SelectboxColumn("scope", options=list(SCOPES), default="response"),
             "group": c.TextColumn("group", help="One or several, with “; ” between them.")},
        )  # fmt: skip
        tidy = [taxonomy_form.tidied(Form("features", form.head, [row])).features for row in features]
        for i, rows in enumerate(tidy):
            if rows and rows[0]["kind"] in WITH_CLASSES:
                name = rows[0]["name"]
                st.markdown(f"**Classes of {shared.escape(rows[0]['title'] or name)}**")
                mine = [one for one in form.classes if rows[0]["was"] and one["of"] == rows[0]["was"]]
                found = _table(mine, ("name", "definition"), f"t-classes-{mark}-{i}", f"Classes of {name}", _CLASS)
                classes += [row | {"of": name} for row in found]
    with st.expander(f"Examples ({len(form.examples)})", icon=":material/format_quote:"):
        st.caption("Short answers that show what is meant. Annotators and language models see them.")
        of = "the class" if form.kind == "choice" else "the feature's name, or NAME: CLASS"
        examples = _table(
            form.examples, taxonomy_form.EXAMPLE, f"t-examples-{mark}", "Examples to edit",
            {"of": st.column_config.TextColumn(f"of ({of})"),
             "shows": st.column_config.SelectboxColumn("shows", options=WORDS, default="yes"),
             "text": st.column_config.TextColumn("text", width="large")},
        )  # fmt: skip
    made = Form(form.kind, head, features, classes, examples)
    if kind != form.kind:
        _again(state, plain_yaml.dump(taxonomy_form.content_of(taxonomy_form.as_kind(made, kind))))
        st.rerun()
    content = taxonomy_form.content_of(made, base)
    return state["text"] if content == base else plain_yaml.dump(content)


def verdict(text: str, version: str | None) -> Taxonomy | None:
    """Says whether a text can be saved, in one line; the taxonomy if so."""
    try:
        found = taxonomy_files.checked(text)
    except SignetError as error:
        st.error(shared.escape(str(error)), icon=":material/error:")
        return None
    what = f"{len(found.features[0].classes)} classes" if found.is_choice else f"{len(found.features)} features"
    if found.version == version:
        st.caption(f":material/check: {what}. Nothing has changed since version {version}.")
    else:
        st.caption(
            f":material/check: Valid: {what}. It would be version {found.version} of {shared.escape(found.name)}."
        )
    return found


def editor(slot: str) -> None:
    """The editor of a taxonomy, on what is open in it."""
    state = editors()[slot]
    view = st.segmented_control(
        "As", ["Form", "YAML"], default="Form", key=f"editor-view-{slot}", required=True, label_visibility="collapsed",
        on_change=lambda: _again(state, state["now"]),
    )  # fmt: skip
    if view == "YAML":
        text = st.text_area("YAML", state["text"], height=440, key=f"t-yaml-{slot}-{state['round']}",
                            label_visibility="collapsed")  # fmt: skip
        st.caption("Keys and limits are the same as in the form; comments are kept until the form changes something.")
        state["now"] = text
    else:
        try:
            state["now"] = _form(state)
        except SignetError as error:
            st.error(shared.escape(str(error)), icon=":material/error:")
            st.caption("What the form says now cannot be saved. Change it here, or in the YAML.")
            return
    found = verdict(state["now"], state["version"])
    old = state["version"] is not None
    with st.container(horizontal=True):
        if st.button("Save as a new version" if old else "Save", type="primary", icon=":material/save:"):
            renamed = found is not None and found.name != slot
            saved(slot, state["now"], None if renamed else state["version"])
        if st.button("Start over" if old else "Discard", icon=":material/undo:"):
            del editors()[slot]
            st.rerun()
    if found is not None:
        with st.expander("As annotators read it"):
            show(found)


# --- beginnings -----------------------------------------------------------------------------------------------------


def _offer(text: str, key: str) -> None:
    """What can be done with a text that is not saved yet."""
    found = verdict(text, None)
    with st.container(horizontal=True):
        if st.button("Save", type="primary", icon=":material/save:", key=f"save-{key}", disabled=found is None):
            saved(NEW, text, None)
        if st.button("Go on in the editor", icon=":material/edit:", key=f"edit-{key}"):
            open_text(NEW, text, None)
            st.rerun()


def written() -> None:
    """A taxonomy from a title and one line a class or feature."""
    title = st.text_input("Title", key="new-title", placeholder="Tone of voice", max_chars=120)
    kind = st.radio("An answer shows", list(STARTS), format_func=STARTS.__getitem__, key="new-kind", horizontal=True)
    lines = st.text_area(
        "One a line: name, colon, when it holds", key="new-lines", height=160, placeholder=LINES[kind],
        help="The definition is what annotators and language models go by. Two or three sentences are fine.",
    )  # fmt: skip
    if not title.strip() or not lines.strip():
        st.caption("Write a title and at least two lines; everything can be changed later.")
        return
    shape = "choice" if kind == "choice" else "features"
    form = taxonomy_form.from_lines(title, shape, lines, kind if kind != "choice" else "boolean")
    _offer(plain_yaml.dump(taxonomy_form.content_of(form)), "written")


def uploaded() -> None:
    """A taxonomy from a file."""
    file = st.file_uploader("A taxonomy's YAML file, or the same as JSON", type=["yaml", "yml", "json"], key="new-file")
    if file is None:
        st.caption("Files that another Signet exported come in as they are.")
        return
    try:
        text = taxonomy_files.imported(file.getvalue(), file.name)
        parse(text, file.name)
    except SignetError as error:
        st.error(shared.escape(str(error)), icon=":material/error:")
        return
    _offer(text, "file")


def drafted() -> None:
    """A taxonomy drafted by a language model, to be edited."""
    left, right = st.columns([2, 1])
    title = left.text_input("Title", key="draft-title", placeholder="Bedside manner", max_chars=120)
    description = left.text_area("What it is for and what it should tell apart", key="draft-description", height=120)
    kind = right.selectbox("An answer shows", list(STARTS), format_func=STARTS.__getitem__, key="draft-kind")
    count = right.number_input("Parts", drafting.LEAST_PARTS, drafting.MOST_PARTS, 5, key="draft-count")
    with st.expander("Sources or example answers to read (optional)"):
        sources = st.text_area("Sources", key="draft-sources", height=100)
        entries = st.text_area("Example answers", key="draft-entries", height=100)
    labeler, base_url = language_model("draft")
    request = Request(title, description, kind, int(count), sources, entries)
    if not title.strip() or not description.strip() or not labeler:
        st.caption("Needs a title, a description and a model. What is sent is shown before anything is.")
        return
    options = {"base_url": base_url} if base_url else {}
    try:
        bill = drafting.estimate(request, labeler, options)
        with st.expander("What is sent"):
            for message in drafting.messages(request):
                st.code(message["content"], language=None, wrap_lines=True)
        price = "price unknown" if bill.expected is None else f"about ${bill.expected:.4f}, at most ${bill.high:.3f}"
        st.caption(f"About {bill.prompt_tokens:,} tokens in and {bill.completion_tokens:,} out: "
                   f"{shared.escape(price)}.")  # fmt: skip
        if st.button("Draft", type="primary", icon=":material/smart_toy:"):
            with st.spinner("Drafting; up to a minute or two ..."):
                made = drafting.draft(request, labeler, options)
            open_text(NEW, made.text, None)
            spent = "" if made.dollars is None else f" for ${made.dollars:.4f}"
            st.session_state["taxonomies-note"] = (
                f"A draft by {labeler}, {made.seconds:.0f} s{spent}. A model wrote it: read every word before you save."
            )
            st.rerun()
    except SignetError as error:
        st.error(shared.escape(str(error)), icon=":material/error:")


def language_model(key: str) -> tuple[str, str | None]:
    """Which language model to ask: openai:MODEL or ollama:MODEL (empty if none is named), and where."""
    one, two, three = st.columns(3)
    servers = {"openai": "OpenAI", "server": "A server with OpenAI's API", "ollama": "Ollama"}
    server = one.selectbox("Server", list(servers), format_func=servers.__getitem__, key=f"{key}-server")
    model = two.text_input("Model", key=f"{key}-model", placeholder="gpt-4o-mini, qwen3:4b ...").strip()
    base_url = None
    if server != "openai":
        default = "http://localhost:11434" if server == "ollama" else "http://localhost:8000/v1"
        base_url = three.text_input("Address", default, key=f"{key}-url").strip() or None
    return (f"{'ollama' if server == 'ollama' else 'openai'}:{model}" if model else ""), base_url
