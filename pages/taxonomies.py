"""What can answers be judged by? Taxonomies to read, write, compare by version, take in and give out."""

from typing import Any

import pandas as pd
import streamlit as st

from engine import taxonomy, taxonomy_files, taxonomy_versions
from engine.records import SignetError
from engine.taxonomy import Taxonomy
from engine.taxonomy_versions import Version
from pages import shared, taxonomy_editor
from pages.taxonomy_editor import NEW
from pages.taxonomy_view import show

VIEWS = ["All", "Read", "Versions", "Edit", "New"]
STARTS = {"Write it": taxonomy_editor.written, "From a file": taxonomy_editor.uploaded,
          "Draft by a language model": taxonomy_editor.drafted}  # fmt: skip

shared.store()


def jump(view: str, name: str | None = None) -> None:
    """To another view, and another taxonomy: before the widgets, so that they and the address follow."""
    st.session_state["view"], st.session_state["taxonomies-jump"] = view, True
    if name:
        there = "taxonomy" in st.session_state
        st.session_state["taxonomy"] = name
        if not there:  # the address follows a widget that is there; one that is yet to come does not tell it
            st.query_params["taxonomy"] = name


if "taxonomies-next" in st.session_state:  # set by a save
    saved_name, st.session_state["taxonomies-note"] = st.session_state.pop("taxonomies-next")
    jump("Read", saved_name)

st.title("Taxonomies")
known, complaints = taxonomy.available()
own = taxonomy_files.own(shared.store().home)
st.caption(f"{len(known)} taxonomies, {len(own)} of your own. A taxonomy says what to look for in an answer; labels "
           "remember which version of it they were made by.")  # fmt: skip
for complaint in complaints:
    st.warning(shared.escape(complaint), icon=":material/error:")


def features_text(n: int) -> str:
    """1 feature, 2 features."""
    return "1 feature" if n == 1 else f"{n} features"


def parts_text(one: Taxonomy) -> str:
    """How many of what."""
    if one.is_choice:
        return f"{len(one.features[0].classes)} classes"
    return features_text(len(one.features))


def seen(name: str | None = None) -> list[Version]:
    """Stored versions."""
    found: list[Version] = shared.read(taxonomy_versions.versions, name)
    return found


def labelers_text(version: Version) -> str:
    """Who labelled how much."""
    return ", ".join(f"{name} {n:,}" for name, _, n in version.labelers)


def list_view() -> None:
    """Every taxonomy, a row each."""
    stored = seen()
    rows: list[dict[str, Any]] = []
    for one in known.values():
        mine = [v for v in stored if v.name == one.name]
        current = [v for v in mine if v.version == one.version]
        rows.append({
            "taxonomy": one.title, "name": one.name, "has": parts_text(one),
            "from": "you" if one.name in own else "Signet", "labels": sum(v.n_labels for v in current),
            "labelled by": labelers_text(current[0]) if current else "",
            "versions": len({v.version for v in mine} | {one.version}), "source": one.source,
        })  # fmt: skip
    rows.sort(key=lambda row: (row["from"] != "you", -row["labels"], row["taxonomy"]))
    c = st.column_config
    event = st.dataframe(
        shared.plain(pd.DataFrame(rows)), hide_index=True, on_select="rerun", selection_mode="single-row",
        key="taxonomy-row", alt="Taxonomies with their labels", height="content",
        column_config={
            "taxonomy": c.TextColumn(width=240), "labelled by": c.TextColumn(width=180),
            "source": c.TextColumn(width="large"),
            "labels": c.NumberColumn(format="localized", help="By the current version."),
        },
    )  # fmt: skip
    if event.selection.rows:
        name = rows[event.selection.rows[0]]["name"]
        with st.container(horizontal=True):
            for view, icon in (("Read", "menu_book"), ("Versions", "history"), ("Edit", "edit")):
                st.button(
                    f"{view} {name}", icon=f":material/{icon}:", on_click=jump, args=(view, name), key=f"go-{view}"
                )
    else:
        st.caption("Choose a row to read or change it.")
    if gone := sorted({v.name for v in stored} - set(known)):
        st.caption(f"Deleted, their versions and labels still in the store: {shared.escape(', '.join(gone))}.")


def read_view(one: Taxonomy) -> None:
    """One taxonomy, with what can be done with it."""
    st.subheader(shared.escape(one.title), anchor=False)
    ships = "yours" if one.name in own else "ships with Signet"
    st.caption(f"{shared.escape(one.name)} · {parts_text(one)} · version {one.version} · {ships}")
    if one.source:
        st.caption(f":material/menu_book: {shared.escape(one.source)}")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Change it" if one.name in own else "Copy and change", icon=":material/edit:", on_click=jump,
                  args=("Edit",))  # fmt: skip
        st.download_button("YAML", one.text, f"{one.name}.yaml", "application/yaml", icon=":material/download:")
        if one.name in own:
            with st.popover("Delete", icon=":material/delete:"):
                n = sum(v.n_labels for v in seen(one.name))
                st.markdown(f"The file goes; its {n:,} labels and all versions stay in the store.")
                if st.button("Delete it", type="primary") and shared.ask("taxonomy_delete", name=one.name):
                    st.session_state["taxonomies-note"] = f"Deleted {one.name}."
                    st.rerun()
        st.page_link(shared.page_path("Labelers"), label="Label with a model", icon=":material/smart_toy:")
        st.page_link(shared.page_path("Annotate"), label="Label by hand", icon=":material/edit_note:")
    show(one)


def versions_view(one: Taxonomy) -> None:
    """What the store has seen of a taxonomy, two versions side by side, and labels to carry over."""
    stored = seen(one.name)
    found: dict[str, Version] = {}
    if one.version not in {v.version for v in stored}:
        found[one.version] = Version(0, one.name, one.version, one.text, "not used yet", ())
    for version in stored:
        found.setdefault(version.version, version)
    rows = [{"version": v.version, "": "current" if v.version == one.version else "", "first seen": v.created_at,
             "labels": v.n_labels, "by people": v.by_people, "labelers": labelers_text(v)}
            for v in found.values()]  # fmt: skip
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="Versions and their labels",
                 column_config={"labelers": st.column_config.TextColumn(width="large")})  # fmt: skip
    if len(found) < 2:
        st.caption("There is one version only. A changed definition makes another; labels stay with the one they "
                   "were made by.")  # fmt: skip
        return
    left, right = st.columns(2)
    names = list(found)
    names.sort(key=lambda name: name != one.version)
    newer = left.selectbox("Version", names, key="version", bind="query-params")
    older = right.selectbox("Compared with", [name for name in names if name != newer], key="other",
                            bind="query-params")  # fmt: skip
    difference = taxonomy_versions.differences(found[older].text, found[newer].text)
    try:
        before, after = (taxonomy.parse(found[v].text, f"{one.name}, version {v}") for v in (older, newer))
    except SignetError as error:
        st.warning(shared.escape(str(error)))
        st.code(difference or "No difference but in layout.", language="diff", wrap_lines=True)
        return
    changes = taxonomy_versions.changes(before, after)
    counts = {what: sum(change.what == what for change in changes) for what in ("same", "changed", "new", "gone")}
    words = {"same": "the same", "changed": "changed", "new": "new", "gone": "gone"}
    said = ", ".join(f"{features_text(n)} {words[what]}" for what, n in counts.items() if n)
    st.markdown(f"From {older} to {newer}: {said}.")
    if counts["changed"] + counts["new"] + counts["gone"]:
        moved = [(c.feature, c.what, c.detail) for c in changes if c.what != "same"]
        st.dataframe(pd.DataFrame(moved, columns=["feature", "is", "in its"]), hide_index=True, alt="Changed features")
    carried = found[older].by_people
    if newer == one.version and carried and counts["same"]:
        rest = "" if counts["same"] == len(after.features) else " Features that changed get none."
        st.caption(f"{carried:,} labels by people belong to {older}. What {newer} asks in the same words "
                   f"({features_text(counts['same'])}) can have them too.{rest}")  # fmt: skip
        if st.button("Carry people's labels over", icon=":material/move_down:"):
            done = shared.ask("taxonomy_carry", name=one.name, version=older)
            if done:
                already = f"; {done['already']:,} were there already" if done["already"] else ""
                people = "1 person" if done["labelers"] == 1 else f"{done['labelers']} people"
                st.session_state["taxonomies-note"] = (
                    f"Carried {done['labels']:,} labels of {features_text(done['features'])} by {people} over{already}."
                )
                st.rerun()
    st.code(difference or "No difference but in layout.", language="diff", wrap_lines=True)


def edit_view(one: Taxonomy) -> None:
    """The editor on a taxonomy of one's own, or on a copy of one that ships."""
    mine = one.name in own
    if not mine:
        st.caption(f"{shared.escape(one.title)} ships with Signet and stays as it is: this is a copy of it.")
    if one.name not in taxonomy_editor.editors():
        text = one.text if mine else taxonomy_files.copied(one.text)
        taxonomy_editor.open_text(one.name, text, one.version if mine else None)
    taxonomy_editor.editor(one.name)


def new_view() -> None:
    """Three ways to begin, or the editor on what was begun."""
    if NEW in taxonomy_editor.editors():
        st.caption("A new taxonomy, not saved yet.")
        taxonomy_editor.editor(NEW)
    else:
        start = st.segmented_control("How", list(STARTS), default="Write it", key="start", required=True)
        STARTS[start or "Write it"]()


start_at = None if st.session_state.pop("taxonomies-jump", False) else "All"  # a value set by hand takes no default
view = st.segmented_control("View", VIEWS, default=start_at, key="view", bind="query-params", required=True)
if note := st.session_state.pop("taxonomies-note", None):
    st.success(shared.escape(note), icon=":material/check_circle:")
drawn = None
if view == "All":
    list_view()
elif view == "New":
    drawn = NEW
    new_view()
else:
    names = sorted(known, key=lambda name: (name != "value_imprint", name))
    chosen = st.selectbox("Taxonomy", names, key="taxonomy", bind="query-params")
    one = known.get(chosen) or known["value_imprint"]
    drawn = one.name if view == "Edit" else None
    {"Read": read_view, "Versions": versions_view, "Edit": edit_view}[view or "Read"](one)
taxonomy_editor.put_aside(drawn)
