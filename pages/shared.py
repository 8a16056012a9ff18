"""What every page uses: the store's owner, the selected dataset, cached reads, links, provenance, empty states."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from engine import bundle, catalog, commands, export, heads, taxonomy, value_frames
from engine.design_frames import Part
from engine.diff import marked
from engine.drawn import spec as specification
from engine.filters import Filter
from engine.owner import Owner
from engine.records import SignetError
from engine.settings import home
from engine.store import Store, StoreBusy, ask_to_release
from pages import waiting

PAGES: dict[str, tuple[str, str, str]] = {
    # name: file, icon, the question it answers
    "Datasets": ("datasets.py", "database", "Import a dataset, see how it was read and how healthy it is."),
    "Values": ("values.py", "favorite", "Which values do the chosen and the rejected answers show?"),
    "Reward models": ("reward_models.py", "balance", "How far does each reward model agree with the preferences?"),
    "Imprint": ("imprint.py", "fingerprint", "Which features does each reward model reward?"),
    "Alignment": ("alignment.py", "rule", "Where does a reward model resist the preferences, and why?"),
    "Robustness": ("robustness.py", "published_with_changes", "What changes when an answer is reworded?"),
    "Labelers": ("labelers.py", "smart_toy", "Which language model labels or rewords, at what cost, and how reliably?"),
    "Annotate": ("annotate.py", "edit_note", "Label entries together, decide where people differ, check predictions."),
    "Taxonomies": ("taxonomies.py", "category", "What can answers be judged by? Read, write and compare taxonomies."),
    "Classifiers": (
        "classifiers.py",
        "model_training",
        "How good is a classifier of our own values, and what would help it?",
    ),
    "Pairs": ("pairs.py", "compare_arrows", "Search, filter and read the single pairs behind every number."),
    "Jobs": ("jobs.py", "progress_activity", "What is running, how long it takes, and what went wrong."),
}
SECTIONS: dict[str, tuple[str, ...]] = {
    "Data": ("Datasets", "Pairs", "Jobs"),
    "Audit": ("Values", "Reward models", "Imprint", "Alignment", "Robustness"),
    "Judges": ("Labelers", "Annotate", "Classifiers", "Taxonomies"),
}


def pages() -> dict[str, list[Any]]:
    """The navigation by section; Datasets comes first on a bare address."""
    folder = Path(__file__).parent
    return {
        section: [
            st.Page(folder / file, title=title, icon=f":material/{icon}:", help=question, default=title == "Datasets")
            for title, (file, icon, question) in ((title, PAGES[title]) for title in titles)
        ]
        for section, titles in SECTIONS.items()
    }


def page_path(title: str) -> Path:
    """The file of a page, for st.page_link and st.switch_page."""
    return Path(__file__).parent / PAGES[title][0]


def _keys_from_secrets() -> None:
    """Keys in Streamlit's secrets count as if in the environment: workers inherit them, nothing stores them."""
    for name in ("OPENAI_API_KEY", "SIGNET_API_KEY", "OLLAMA_HOST"):
        try:
            if name in st.secrets and name not in os.environ:
                os.environ[name] = str(st.secrets[name])
        except FileNotFoundError:
            return


def _import_ahead() -> None:
    """Load what most pages need and takes seconds to load, before the first visitor asks for one."""
    for name in ("altair", "scipy.stats", "statsmodels.api"):
        importlib.import_module(name)


@st.cache_resource(show_spinner="Opening the store ...")
def _owner(folder: str) -> Owner:
    _keys_from_secrets()
    deadline = time.monotonic() + 20
    while True:
        try:
            store = Store(Path(folder))
            break
        except StoreBusy:
            ask_to_release(Path(folder))
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    bundle.load_demo(store)
    threading.Thread(target=_import_ahead, daemon=True).start()
    owner = Owner(store)
    owner.start()
    return owner


def store() -> Store:
    """The open store, owned by this server. Stops the page with a sentence when another process keeps it."""
    try:
        return _owner(str(home())).store
    except StoreBusy as error:
        st.warning(f"{error} A command is taking results in; this page opens as soon as it lets go.")
        st.button("Try again")
        st.stop()
    except SignetError as error:
        st.error(str(error))
        st.stop()
    raise AssertionError("unreachable")


@st.cache_data(show_spinner=False, max_entries=500)
def _cached(version: int, folder: str, _function: Callable[..., Any], name: str, arguments: tuple[Any, ...]) -> Any:
    return _function(store().read(), *arguments)


def read(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(connection, *arguments)`, cached until what it reads changes. Aggregates only, never all texts.

    On a large store what is slow is computed beside the page (pages.waiting).
    """
    opened = store()
    if waiting.handles(function):
        return (waiting.answer if _large(opened) else waiting.at_once)(opened, function, arguments)
    name = f"{function.__module__}.{function.__qualname__}"
    return _cached(opened.version, str(opened.home), function, name, arguments)


def _large(opened: Store) -> bool:
    found: list[catalog.Dataset] = _cached(opened.version, str(opened.home), catalog.datasets, "datasets", ())
    return any(max(one.n_pairs, one.n_entries // 2) >= waiting.LARGE for one in found)


def ask(operation: str, **arguments: Any) -> Any:
    """An operation of engine.commands; a SignetError becomes a message on the page and None."""
    try:
        return commands.OPERATIONS[operation](store(), **arguments)
    except SignetError as error:
        st.error(str(error))
        return None


def start_job(operation: str, **arguments: Any) -> None:
    """Start a job and go to the Jobs page."""
    started = ask(operation, **arguments)
    if started and "job" in started:
        st.switch_page(page_path("Jobs"), query_params={"job": started["job"]})
    elif started:
        st.toast("Done.")
        st.rerun()


def frame() -> None:
    """The sidebar's dataset choice, kept in the address (?dataset=...)."""
    names = [one.name for one in read(catalog.datasets)]
    if names:
        st.sidebar.selectbox("Dataset", names, key="dataset", bind="query-params")


def dataset() -> catalog.Dataset:
    """The selected dataset; stops the page with an offer to import when there is none."""
    found = read(catalog.datasets)
    if not found:
        st.info("There is no dataset yet.")
        st.page_link(page_path("Datasets"), label="Import one", icon=":material/upload:")
        st.stop()
    name = st.session_state.get("dataset") or found[0].name
    return next((one for one in found if one.name == name), found[0])


def pick_models(data: catalog.Dataset, most: int | None = None) -> list[catalog.Model]:
    """Choice of reward models, kept in the address (?models=...); all by default."""
    found: list[catalog.Model] = read(catalog.models, data.dataset_id)
    labels = [one.label for one in found]
    chosen = st.multiselect(
        "Reward models", labels, default=labels[:most], key="models", bind="query-params", max_selections=most
    )
    return [one for one in found if one.label in chosen]


def pick_labels(
    data: catalog.Dataset,
    key: str = "labels",
    first: str = "value_imprint",
    before: Collection[tuple[int, int]] = (),
) -> catalog.Labeler | None:
    """Choice of taxonomy and labeler, kept in the address; None when the dataset has no labels.

    Labelers (labeler_id, taxonomy_id) in `before` stand before others, taxonomy `first` before other taxonomies, the
    most complete labeler before the less complete.
    """
    found: list[catalog.Labeler] = read(catalog.labelers, data.dataset_id)
    if not found:
        return None
    found = sorted(
        found,
        key=lambda one: (
            (one.labeler_id, one.taxonomy_id) not in before,
            one.taxonomy != first,
            one.taxonomy,
            -one.n_entries,
        ),
    )
    options = {f"{one.taxonomy} by {one.label}": one for one in found}
    choice = st.selectbox("Taxonomy and labeler", list(options), key=key, bind="query-params")
    return options.get(choice) or found[0]


def provenance(data: catalog.Dataset, *parts: str) -> None:
    """The caption under every title: dataset, n, and what else the page's numbers rest on. Plain text, escaped."""
    unit = "pairs" if data.kind == "pairs" else "entries"
    count = data.n_pairs if data.kind == "pairs" else data.n_entries
    st.caption(" · ".join(escape(part) for part in (data.name, f"{count:,} {unit}", *parts, data.created_at) if part))
    if data.name == bundle.DEMO_NAME:
        st.caption(f":material/info: {escape(data.note)}")


_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]()<>#+-.!|$~:&^="})


def escape(text: str) -> str:
    """Text from outside made plain for a Markdown context: no links, images, HTML, maths, colours or icons."""
    return " ".join(str(text).split()).translate(_SPECIAL)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame for display: hidden and direction characters of its texts are shown by their code points."""
    return frame.map(lambda value: marked(value) if isinstance(value, str) else value)


def pairs_link(label: str, filters: Sequence[Any], **more: str) -> None:
    """A link to the Pairs page with these filters (engine.filters.Filter), keeping the dataset."""
    query: dict[str, Any] = {"dataset": dataset().name, "f": [one.to_text() for one in filters], **more}
    st.page_link(page_path("Pairs"), label=label, icon=":material/arrow_forward:", query_params=query)


def chart(drawn: Any, alt: str, guide: str, frame: Any, name: str, pick: bool = False) -> dict[str, Any] | None:
    """A chart with its accessible name, its one-line guide and its data as CSV.

    With `pick` (a chart drawn with fields to pick) the fields of the point that was clicked, or None.
    """
    fixed = isinstance(getattr(drawn, "width", None), int)  # a square stays square
    width: Any = "content" if fixed else "stretch"
    spec = specification(drawn)
    picked = None
    if pick:
        event: Any = st.vega_lite_chart(spec=spec, width=width, alt=alt, on_select="rerun", key=f"chart-{name}")
        rows = event.selection.get("picked") or []
        picked = dict(rows[0]) if rows else None
    else:
        st.vega_lite_chart(spec=spec, width=width, alt=alt)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(escape(guide))
        download(frame, name)
    return picked


def download(frame: Any, name: str) -> None:
    """A button for a frame as CSV, its texts made harmless for spreadsheets."""
    st.download_button(
        "CSV",
        lambda: export.frame_csv(frame),
        f"{name}.csv",
        "text/csv",
        key=f"csv-{name}",
        icon=":material/download:",
        type="tertiary",
    )


def taxonomy_of(labeler: catalog.Labeler) -> str:
    """The taxonomy's title of a labeler, or its name when the file is gone."""
    found, _ = taxonomy.available()
    return found[labeler.taxonomy].title if labeler.taxonomy in found else labeler.taxonomy


def draft_warning(labeler: catalog.Labeler) -> None:
    """Says what the labels rest on, with the measured quality where Signet knows it."""
    if labeler.kind == "builtin":
        quality = heads.quality(labeler.taxonomy)
        scores = [one["f1"] for one in quality.values() if one.get("f1") is not None]
        baseline = [one["baseline_f1"] for one in quality.values() if one.get("baseline_f1") is not None]
        if scores and baseline:
            st.caption(
                f":material/science: Built-in labels are drafts for a first look: held-out mean F1 "
                f"{sum(scores) / len(scores):.2f} (majority baseline {sum(baseline) / len(baseline):.2f}) over "
                f"{len(scores)} features; each feature's own figure stands in the table."
            )
    elif labeler.kind == "reading":
        st.caption(
            ":material/science: These labels come from readings by a large language model with a codebook; "
            "no person has checked them."
        )


def empty_labels(data: catalog.Dataset) -> None:
    """What to do on a page that needs labels, with the buttons that do it."""
    st.info("No labels yet. The built-in models give a first profile within minutes, on this machine.")
    with st.container(horizontal=True):
        for name, title in (("value_imprint", "human values"), ("seal", "features"), ("schwartz", "Schwartz's values")):
            if st.button(
                f"Label {title}", key=f"label-{name}", type="primary" if name == "value_imprint" else "secondary"
            ):
                start_job("label", dataset=data.name, labeler="builtin", taxonomy_name=name)


def empty_rewards(data: catalog.Dataset) -> None:
    """What to do on a page that needs rewards, with the buttons that do it."""
    st.info("No rewards yet. Score the pairs with the two built-in reward models, or add your own on Datasets.")
    with st.container(horizontal=True):
        for name in ("builtin-post", "builtin-pre"):
            if st.button(f"Score with {name}", key=f"score-{name}", type="primary"):
                start_job("score", dataset=data.name, model=name)


def correction_choice() -> str:
    """How p-values are corrected for many tests, kept in the address."""
    names = {"holm": "Holm", "fdr_bh": "Benjamini-Hochberg"}
    return (
        st.segmented_control(
            "Correction for many tests",
            list(names),
            default="holm",
            key="correction",
            bind="query-params",
            format_func=names.__getitem__,
            required=True,
        )
        or "holm"
    )


def part_choice(data: catalog.Dataset) -> Part:
    """One subset and one split, or all, kept in the address; no widget where there is only one."""
    found = {}
    for column in ("subset", "split"):
        names = read(getattr(value_frames, f"{column}s"), data.dataset_id)
        if len(names) > 1:
            choice = st.selectbox(column.capitalize(), ["all", *names], key=column, bind="query-params")
            found[column] = None if choice == "all" else choice
    return Part(**found)


def part_filters(part: Part) -> list[Filter]:
    """Filters for the part of a dataset that a page looks at, so that its links find the same pairs."""
    found = {"subset": part.subset, "split": part.split}
    return [Filter.of(kind, value=value) for kind, value in found.items() if value is not None]


def style_note(data: catalog.Dataset, style: catalog.Labeler | None) -> None:
    """Says that only length is held equal until the surface features are labelled, and offers to do it."""
    if style is None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                ":material/straighten: Length is held equal. Lists, Markdown and question marks join it once the "
                "surface features are labelled (no model needed)."
            )
            if st.button("Label surface features", key="label-surface"):
                start_job("label", dataset=data.name, labeler="surface", taxonomy_name="surface")


def left_out(reasons: dict[str, str]) -> None:
    """What did not enter a regression, and why: in the open when short, else to be opened."""
    if not reasons:
        return
    lines = [f"{name}: {reason}" for name, reason in reasons.items()]
    if len(lines) <= 4:
        st.caption("Left out: " + escape("; ".join(lines)))
        return
    with st.expander(f"{len(lines)} left out"):
        st.dataframe(
            pd.DataFrame(reasons.items(), columns=["left out", "because"]), hide_index=True, alt="What was left out"
        )


def pair_link(label: str, pair_id: str) -> None:
    """A link to one pair's own address."""
    query = {"dataset": dataset().name, "pair": pair_id}
    st.page_link(page_path("Pairs"), label=label, icon=":material/arrow_forward:", query_params=query)
