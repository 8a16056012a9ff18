"""Suspect pairs: where every chosen model and the labeler contradict the human choice, the most suspect first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from engine.alignment import REJECTED, Mask, Verdict
from engine.design import Array

SCORE = (
    "Score: the mean over the models of minus the margin in the model's own SD, for pairs that every model and the "
    "labeler would decide the other way."
)


def suspects(
    pair_no: Array, margins: Array, models: Sequence[str], verdict: Verdict | None, known: Mask | None
) -> pd.DataFrame:
    """Suspect pairs by score: pair_no, score, then a column "margin, MODEL" in SDs for each model.

    `margins` (n, K) are reward(chosen) - reward(rejected). A pair counts when all K margins are negative and the
    labeler, where one is given, prefers the rejected side. Score is the mean of -margin / SD over models.
    """
    z = margins / np.nanstd(margins, axis=0, ddof=1)
    against = (z < 0).all(axis=1)  # NaN compares false: a pair that a model has not scored is no suspect
    if verdict is not None:
        against &= (verdict == REJECTED) & (known if known is not None else True)
    rows = np.flatnonzero(against)
    score = -z[rows].mean(axis=1)
    order = np.argsort(-score, kind="stable")
    frame = pd.DataFrame({"pair_no": np.asarray(pair_no)[rows][order], "score": score[order]})
    for i, name in enumerate(models):
        frame[f"margin, {name}"] = z[rows, i][order]
    return frame
