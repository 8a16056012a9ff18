"""What a classifier must beat: always the commonest value, and a look at the words alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def majority(truth: Floats) -> float:
    """The value most entries have, the lowest of equals; NaN for none."""
    values, counts = np.unique(truth[np.isfinite(truth)], return_counts=True)
    return float(values[counts.argmax()]) if len(values) else float("nan")


def keywords(texts: Sequence[str], truth: Floats, asked: Sequence[str]) -> Floats:
    """Values of the texts `asked` by the words that go with each value in `texts`, (asked,).

    Complement naive Bayes on counts of words that occur in two texts at least (Rennie et al. 2003, made for uneven
    classes), by scikit-learn. Where there is no such word, or one value only, the commonest value.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import ComplementNB

    if len(np.unique(truth)) < 2 or not len(asked):
        return np.full(len(asked), majority(truth))
    count = CountVectorizer(min_df=2, binary=True)
    try:
        seen = count.fit_transform(texts)
    except ValueError:  # no word occurs twice
        return np.full(len(asked), majority(truth))
    return np.asarray(ComplementNB().fit(seen, truth).predict(count.transform(asked)), dtype=float)
