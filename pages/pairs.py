"""Search, filter and read the single pairs behind every number."""

import math
from typing import Any

import pandas as pd
import streamlit as st

from engine import catalog, pair_frames, search, value_frames
from engine.attribution import by_sentence
from engine.diff import alike, to_html, word_diff
from engine.filters import Filter
from engine.models import BUILTIN_MODELS
from engine.records import SignetError
from engine.store import FLAGS
from pages import shared
from pages.dialogue import STYLE, turns_html

SIZE = 20
COLORS: dict[str, Any] = {"chosen": "blue", "rejected": "orange"}

data = shared.dataset()
unit = "pairs" if data.kind == "pairs" else "entries"


def show_worth(one: pair_frames.PairDetail, names: list[str]) -> None:
    """Every sentence of both responses with what the reward loses without it."""
    name = st.segmented_control("Reward model", names, default=names[0], key="worth-model", required=True)
    rows = []
    for side, tail, response in (
        ("chosen", one.chosen_tail, one.chosen),
        ("rejected", one.rejected_tail, one.rejected),
    ):
        if response:
            _, pieces = by_sentence(name, [*one.prompt, *tail], response)
            rows += [{"side": side, "sentence": piece.text.strip(), "worth": piece.worth} for piece in pieces]
    st.dataframe(
        shared.plain(pd.DataFrame(rows)),
        hide_index=True,
        alt="Every sentence with its share of the reward",
        column_config={"worth": st.column_config.NumberColumn(format="%+.3f")},
    )
    st.caption("Worth: reward of the whole response minus its reward without the sentence.")


def read_filters() -> list[Filter]:
    """The filters in the address; wrong ones are named and left out."""
    found = []
    for text in st.query_params.get_all("f"):
        try:
            found.append(Filter.from_text(text))
        except SignetError as error:
            st.warning(f"A filter in the address was left out: {shared.escape(str(error))}")
    return found


def set_filters(filters: list[Filter]) -> None:
    """Write the filters to the address and start at the first page."""
    st.query_params["f"] = [one.to_text() for one in filters]
    st.query_params.pop("page", None)


def show_pair(number: int, neighbours: tuple[int, ...], shown: int, total: int) -> None:
    """The pair view: prompt, two bordered columns, rewards, labels, rewrites, everything the source gave."""
    one = shared.read(pair_frames.detail, data.dataset_id, number)
    st.title(f"{'Pair' if one.rejected is not None else 'Entry'} {shared.escape(one.pair_id)}")
    place = [f"subset {one.subset}"] if one.subset else []
    shared.provenance(data, *place, *([f"split {one.split}"] if one.split else []), f"row {one.row:,}")
    here = neighbours.index(number) if number in neighbours else -1
    with st.container(horizontal=True):
        for name, step, key, icon in (("Previous", -1, "k", "arrow_back"), ("Next", 1, "j", "arrow_forward")):
            there = here + step
            able = here >= 0 and 0 <= there < len(neighbours)
            if st.button(name, disabled=not able, icon=f":material/{icon}:", shortcut=key, key=name):
                other = shared.read(pair_frames.detail, data.dataset_id, neighbours[there])
                st.query_params["pair"] = other.pair_id
                st.rerun()
        if st.button("Back to the list", icon=":material/list:", shortcut="u"):
            st.query_params.pop("pair", None)
            st.rerun()
    for flag in one.flags:
        st.badge(FLAGS[flag][1], icon=":material/flag:", color="orange")

    if one.prompt:
        with st.container(border=True):
            st.html(STYLE + turns_html(one.prompt))
    left, right = word_diff(one.chosen, one.rejected or "")
    if one.rejected is None:
        with st.container(border=True):
            st.html(STYLE + turns_html(one.chosen_tail, one.chosen))
    else:
        worth_marking = alike(left) and alike(right)
        marked = st.toggle("Mark what differs", value=worth_marking, key=f"diff-{one.pair_id}")
        columns = st.columns(2)
        sides = (
            ("chosen", one.chosen_tail, one.chosen, left),
            ("rejected", one.rejected_tail, one.rejected, right),
        )
        for column, (side, tail, response, segments) in zip(columns, sides):
            with column, st.container(border=True):
                st.badge(f"{side} · {len(response):,} characters", color=COLORS[side])
                st.html(STYLE + turns_html(tail, response, segments if marked else None))

    if not one.rewards.empty:
        st.subheader("Rewards", anchor=False)
        st.dataframe(
            one.rewards.drop(columns="model_id"),
            hide_index=True,
            alt="Rewards of both sides by every model",
            column_config={c: st.column_config.NumberColumn(format="%+.3f") for c in ("chosen", "rejected", "margin")},
        )
        st.caption("Margin: reward of chosen minus reward of rejected. Rewards of different models share no scale.")
        builtin = [name for name in one.rewards["model"] if name in BUILTIN_MODELS]
        if builtin and st.toggle("Show which sentences earn the reward", key="worth", persist_state="session"):
            show_worth(one, builtin)
    if not one.labels.empty:
        st.subheader("Labels", anchor=False)
        only = st.toggle("Only where the sides differ", key="differ", persist_state="session")
        labels = one.labels
        if only:
            labels = labels[labels["chosen"] != labels["rejected"]]
        st.dataframe(labels, hide_index=True, alt="Labels of both sides by every labeler")
    if not one.rewrites.empty:
        st.subheader("Rewrites", anchor=False)
        for row in one.rewrites.itertuples():
            original = one.chosen if row.side == "chosen" else one.rejected or ""
            _, changed = word_diff(original, row.response)
            close = "" if math.isnan(row.similarity) else f", similarity {row.similarity:.3f}"
            with st.expander(f"{row.side}, by {shared.escape(row.rewriter)}{close}"):
                st.html(STYLE + f'<div class="signet-text">{to_html(changed)}</div>')
    if one.extra:
        with st.expander("What else the source says"):
            st.json(one.extra, expanded=1)


def add_filter() -> None:
    """The form that adds one filter."""
    with st.popover("Add a filter", icon=":material/filter_alt:"):
        kinds: dict[str, str] = {
            "flag": "health flag",
            "subset": "subset",
            "label": "label",
            "gap": "label gap",
            "aligned": "agreement",
            "margin": "margin",
            "reward": "reward",
            "regime": "regime",
            "length": "length",
        }
        kind = st.selectbox("By", list(kinds), format_func=kinds.__getitem__, key="new-kind")
        models = [m.label for m in shared.read(catalog.models, data.dataset_id)]
        labelers = {f"{b.taxonomy} by {b.label}": b for b in shared.read(catalog.labelers, data.dataset_id)}
        fields: dict[str, Any] = {}
        if kind == "flag":
            fields["value"] = st.selectbox("Flag", list(FLAGS), format_func=lambda f: FLAGS[f][1])
        elif kind == "subset":
            fields["value"] = st.selectbox("Subset", shared.read(value_frames.subsets, data.dataset_id))
        elif kind in ("label", "gap"):
            if not labelers:
                st.caption("This dataset has no labels yet.")
                return
            b = labelers[st.selectbox("Taxonomy and labeler", list(labelers), key="new-labeler")]
            features = {f.title: f for f in shared.read(catalog.features, b.taxonomy_id)}
            feature = features[st.selectbox("Feature", list(features))]
            fields |= {"taxonomy": b.taxonomy, "labeler": b.label, "feature": feature.name}
            if kind == "gap":
                fields["value"] = st.selectbox("Chosen against rejected", ["differ", "more", "less", "same"])
            else:
                fields["side"] = st.selectbox("Side", ["either", "chosen", "rejected", "both"])
                options = {"boolean": ["1", "0"], "signed": ["1", "0", "-1"], "ternary": ["1", "0", "-1"]}
                if feature.kind == "numeric":
                    fields["min"] = st.number_input("At least", value=0.0)
                else:
                    fields["value"] = st.selectbox("Is", list(feature.classes) or options[feature.kind])
        elif kind == "length":
            fields["side"] = st.selectbox("Side", ["chosen", "rejected"])
            fields["min"] = st.number_input("At least (characters)", value=0, step=100)
            fields["max"] = st.number_input("and below (0: no limit)", value=0, step=100) or None
        elif len(models) < (2 if kind == "regime" else 1):
            st.caption("This needs rewards of more models.")
            return
        elif kind == "regime":
            fields["before"] = st.selectbox("Before", models)
            fields["after"] = st.selectbox("After", models, index=1)
            fields["value"] = st.selectbox("Regime", list(search.REGIMES), format_func=lambda r: r.replace("_", " "))
        else:
            fields["model"] = st.selectbox("Reward model", models)
            if kind == "aligned":
                words = {"yes": "agrees", "no": "resists", "tie": "tie"}
                fields["value"] = st.selectbox("The model", list(words), format_func=words.__getitem__)
            else:
                if kind == "reward":
                    fields["side"] = st.selectbox("Side", ["chosen", "rejected"])
                fields["min"] = st.number_input(f"{kind.capitalize()} at least", value=-1.0)
                fields["max"] = st.number_input("and below", value=0.0)
        if st.button("Add", type="primary", key="new-add"):
            set_filters([*read_filters(), Filter.of(kind, **fields)])
            st.rerun()


def show_list() -> None:
    """The searchable, filterable list."""
    st.title("Pairs" if data.kind == "pairs" else "Entries")
    models = shared.read(catalog.models, data.dataset_id)
    columns = st.columns([3, 1, 1], vertical_alignment="bottom")
    query = columns[0].text_input(
        "Search the texts", key="q", bind="query-params", placeholder='words, or "a phrase", in prompt or responses'
    )
    sorts = [*search.SORTS, *(search.MODEL_SORTS if models else ())]
    sort = columns[1].selectbox("Sort", sorts, key="sort", bind="query-params")
    by = (
        columns[2].selectbox("Margin of", [m.label for m in models], key="margin", bind="query-params")
        if models
        else None
    )
    filters = read_filters()
    with st.container(horizontal=True, vertical_alignment="center"):
        add_filter()
        for i, one in enumerate(filters):
            if st.button(
                shared.escape(one.describe()), key=f"chip-{i}", icon=":material/close:", help="Remove this filter"
            ):
                set_filters([other for other in filters if other is not one])
                st.rerun()
    page = max(0, int(st.query_params.get("page", "0")) if st.query_params.get("page", "0").isdigit() else 0)
    try:
        found = shared.read(search.find, data.dataset_id, tuple(filters), query, sort, by, page, SIZE)
    except SignetError as error:
        st.error(shared.escape(str(error)))
        st.stop()
    first = page * SIZE + 1 if found.pair_nos else 0
    st.caption(
        f"{len(found.pair_nos)} shown ({first:,} to {first + max(len(found.pair_nos) - 1, 0):,}) of "
        f"{found.filtered:,} filtered ({found.total:,} total)"
    )
    if not found.pair_nos:
        st.info(f"No {unit} here satisfy all of this; remove a filter or search for fewer words.")
        return
    shown_models = models[:3]
    rows = shared.read(pair_frames.rows, data.dataset_id, found.pair_nos, tuple(m.model_id for m in shown_models))
    config: dict[str, Any] = {"pair_no": None, "pair_id": "id"}
    if not rows["subset"].any():
        config["subset"] = None
    if not rows["flags"].any():
        config["flags"] = None
    if data.kind != "pairs":
        config["rejected"] = None
        config["chosen"] = "response"
    for i, m in enumerate(shown_models):
        config[f"m{i}"] = st.column_config.NumberColumn(f"margin, {m.label}", format="%+.2f")
    event = st.dataframe(
        shared.plain(rows),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        column_config=config,
        height=35 * (len(rows) + 1) + 3,
        alt="The pairs found",
        key=f"rows-{page}",
    )
    st.caption("Select a row to open it.")
    if event.selection.rows:
        st.query_params["pair"] = str(rows.iloc[event.selection.rows[0]]["pair_id"])
        st.rerun()
    pages = math.ceil(found.filtered / SIZE)
    with st.container(horizontal=True):
        for name, there, key in (("Previous page", page - 1, "k"), ("Next page", page + 1, "j")):
            if st.button(name, disabled=not 0 <= there < pages, shortcut=key):
                st.query_params["page"] = str(there)
                st.rerun()


wanted = st.query_params.get("pair")
if wanted is not None:
    try:
        number = shared.read(pair_frames.pair_no, data.dataset_id, wanted)
    except SignetError as error:
        st.error(shared.escape(str(error)))
        if st.button("Show all pairs"):
            st.query_params.pop("pair", None)
            st.rerun()
        st.stop()
    query_text, sort_now = st.query_params.get("q", ""), st.query_params.get("sort", "as imported")
    page_now = st.query_params.get("page", "0")
    try:
        found_here = shared.read(
            search.find,
            data.dataset_id,
            tuple(read_filters()),
            query_text,
            sort_now,
            st.query_params.get("margin"),
            int(page_now) if page_now.isdigit() else 0,
            SIZE,
        )
    except SignetError:
        found_here = search.Found((number,), 1, data.n_pairs)
    around = (
        found_here.pair_nos
        if number in found_here.pair_nos
        else tuple(n for n in range(number - 1, number + 2) if 0 <= n < data.n_pairs)
    )
    show_pair(number, around, len(found_here.pair_nos), found_here.total)
else:
    show_list()
