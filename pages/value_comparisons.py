"""Views of the Values page that set profiles side by side: other datasets and labelers, features together, subsets."""

import pandas as pd
import streamlit as st

from engine import catalog, charts, value_frames, values
from engine.catalog import Dataset, Labeler
from engine.design_frames import Part
from pages import shared

NUMBERS = {
    name: st.column_config.NumberColumn(format="%.3f")
    for name in ("estimate", "std_error", "conf_low", "conf_high", "odds_ratio", "p_value", "p_adjusted", "alone",
                 "alone_low", "alone_high", "distance", "distance_low", "distance_high", "cosine", "cosine_low",
                 "cosine_high", "chosen", "rejected", "gap", "gap_low", "gap_high", "wins", "shown", "base")
}  # fmt: skip


def _others(data: Dataset, labeler: Labeler) -> dict[str, tuple[Dataset, Labeler]]:
    found = {}
    for other in shared.read(catalog.datasets):
        for one in shared.read(catalog.labelers, other.dataset_id):
            same = (other.dataset_id, one.labeler_id) == (data.dataset_id, labeler.labeler_id)
            if one.taxonomy == labeler.taxonomy and not same:
                found[f"{other.name}, by {one.label}"] = (other, one)
    return found


def compare(data: Dataset, labeler: Labeler, rows: list[values.ProfileRow]) -> None:
    """This profile beside those of other datasets or labelers."""
    others = _others(data, labeler)
    if not others:
        st.info("No other dataset or labeler has labels of this taxonomy. Label another dataset to compare.")
        return
    names = st.multiselect(
        "Other datasets or labelers", list(others), default=list(others)[:1], key="against", bind="query-params",
        max_selections=5,
    )  # fmt: skip
    profiles = {}
    for name in names:
        other, one = others[name]
        theirs = shared.read(value_frames.prevalence, other.dataset_id, one.labeler_id, one.taxonomy_id)
        if theirs.empty:
            st.info(f"{shared.escape(name)}: no pair is labelled on both sides.")
        else:
            profiles[name] = values.profile(theirs)
    if len(profiles) == 1:
        name, theirs = next(iter(profiles.items()))
        difference = values.compare(rows, theirs)
        difference = difference[difference["kind"] != "numeric"]
        order = difference["estimate"].abs().sort_values(ascending=False).index
        shared.chart(
            charts.forest(difference.reindex(order).head(40), "difference in level on chosen answers"),
            "Difference of levels between the two, with 95% intervals.",
            f"Level on chosen here minus there ({name}); grey where the interval crosses zero. The two are "
            "treated as independent samples, which is too wide an interval where they share texts.",
            difference,
            "comparison",
        )
    elif profiles:
        levels = values.side_by_side({f"{data.name}, by {labeler.label}": rows, **profiles})
        levels = levels[levels["kind"] != "numeric"]
        few = len(profiles) < 3
        shared.chart(
            charts.forest(levels, "level on chosen answers", "of") if few
            else charts.panels(levels, "level on chosen answers", "of"),
            "Levels on chosen answers of several datasets, with 95% intervals.",
            "Level on chosen answers (single answers: on all of them), with 95% intervals, most frequent first.",
            levels,
            "comparison",
        )  # fmt: skip


def together(data: Dataset, labeler: Labeler) -> None:
    """Correlations of features over entries."""
    crossed = shared.read(value_frames.cooccurrence, data.dataset_id, labeler.labeler_id, labeler.taxonomy_id)
    crossed = crossed.dropna(subset=["phi"])
    if crossed.empty:
        st.info("Too few labels to correlate.")
        return
    square = crossed.rename(columns={"a": "row", "b": "column", "phi": "value"})
    shared.chart(
        charts.matrix(square, "φ"),
        "Correlation of every two features over entries.",
        "Correlation (φ for booleans) over all labelled entries, both sides together.",
        crossed,
        "together",
    )


def by_subset(data: Dataset, labeler: Labeler) -> None:
    """Levels and gaps of every subset."""
    parts = []
    for one in shared.read(value_frames.subsets, data.dataset_id)[:12]:
        part = shared.read(
            value_frames.prevalence, data.dataset_id, labeler.labeler_id, labeler.taxonomy_id, Part(subset=one)
        )
        if not part.empty:
            parts.append(values.profile_frame(values.profile(part)).assign(subset=one or "(none)"))
    if len(parts) < 2:
        st.info("This dataset has one subset only.")
        return
    both = pd.concat(parts)
    st.dataframe(
        both[["subset", "title", "n", "chosen", "rejected", "gap", "gap_low", "gap_high", "p_adjusted"]],
        hide_index=True,
        alt="Levels and gaps by subset",
        column_config=NUMBERS,
    )
    shared.download(both, "values-by-subset")
