"""Figures that others published, shown beside the measured ones where dataset and models are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from engine.intervals import wilson


@cache
def seal() -> dict[str, Any]:
    """SEAL's published figures (engine/published_seal.yaml)."""
    text = (Path(__file__).parent / "published_seal.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def role(model: str) -> str | None:
    """`before` or `after` where a model's name is one of SEAL's two, else None."""
    return next((role for role, name in seal()["models"].items() if name == model), None)


def is_seals_dataset(source: str) -> bool:
    """Whether a dataset's source is hh-rlhf."""
    return "hh-rlhf" in source.lower() or "hh_rlhf" in source.lower()


def imprint_beside(table: pd.DataFrame, model: str) -> pd.DataFrame | None:
    """The imprint table of a model of SEAL's with a column of their coefficients (raw units, pooled); else None."""
    which = role(model)
    return None if which is None else table.assign(seal=table["feature"].map(seal()["imprint"][which]))


def by_side(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """A table with `feature` and `side` columns and SEAL's coefficient and error of `angle` or `resistance`."""
    known = seal()[what]

    def of(row: pd.Series, which: int) -> float | None:
        pair = known.get(row["feature"])
        return None if pair is None else float(pair[row["side"] == "rejected"][which])

    return table.assign(seal=[of(r, 0) for _, r in table.iterrows()],
                        seal_error=[of(r, 1) for _, r in table.iterrows()])  # fmt: skip


def regimes_beside(table: pd.DataFrame) -> pd.DataFrame:
    """The regime table with SEAL's shares and agreement (as they counted, and corrected)."""
    known = seal()
    return table.assign(
        seal_share=[known["regimes"][name] / known["n"] for name in table["regime"]],
        seal_agreement=table["regime"].map(known["agreement_authors"]),
        seal_agreement_corrected=table["regime"].map(known["agreement_corrected"]),
    )


def alignment_scores() -> pd.DataFrame:
    """SEAL's two alignment scores with Wilson intervals: model, n, estimate, conf_low, conf_high."""
    known = seal()
    rows = []
    for which, count in known["alignment"].items():
        share = wilson(count, known["n"])
        rows.append({"model": known["models"][which], "n": known["n"], "estimate": share.estimate,
                     "conf_low": share.conf_low, "conf_high": share.conf_high})  # fmt: skip
    return pd.DataFrame(rows)


def applies(source: str, models: Sequence[str]) -> bool:
    """Whether dataset and both models are SEAL's own."""
    return is_seals_dataset(source) and {role(model) for model in models} == {"before", "after"}
