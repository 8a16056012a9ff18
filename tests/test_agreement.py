"""Agreement of raters, against statsmodels, scikit-learn and published examples."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from engine import agreement, alpha, intervals
from engine.intervals import Estimate, wilson

X = math.nan
MEASURES = ("observed", "kappa", "pabak", "ac1", "alpha")


def two_raters(n: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, size, n)
    return a, np.where(rng.random(n) < 0.6, a, rng.integers(0, size, n))


def unfold(counts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices(np.shape(counts))
    each = np.ravel(counts)
    return np.repeat(rows.ravel(), each), np.repeat(columns.ravel(), each)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_kappa_is_statsmodels_and_scikit_learn(size: int) -> None:
    a, b = two_raters(400, size, size)
    found = agreement.two("f", a, b, replicates=20)
    counts = np.bincount(a * size + b, minlength=size**2).reshape(size, size)
    theirs = cohens_kappa(counts)
    assert found.kappa.estimate == pytest.approx(cohen_kappa_score(a, b), abs=1e-10)
    assert found.kappa.estimate == pytest.approx(theirs.kappa, abs=1e-10)
    assert found.kappa.conf_low == pytest.approx(theirs.kappa_low, abs=1e-10)
    assert found.kappa.conf_high == pytest.approx(theirs.kappa_upp, abs=1e-10)
    assert found.observed == wilson(int((a == b).sum()), 400)
    assert found.pabak.estimate == pytest.approx((size * np.mean(a == b) - 1) / (size - 1), abs=1e-12)


def test_kappa_against_its_null_hypothesis_free_variance() -> None:
    """Fleiss, Cohen and Everitt (1969), equation 13, written out."""
    a, b = two_raters(300, 3, 5)
    p = np.bincount(a * 3 + b, minlength=9).reshape(3, 3) / 300
    row, column = p.sum(axis=1), p.sum(axis=0)
    po, pe = np.trace(p), float(row @ column)
    k = (po - pe) / (1 - pe)
    same = sum(p[i, i] * (1 - (row[i] + column[i]) * (1 - k)) ** 2 for i in range(3))
    other = sum(p[i, j] * (column[i] + row[j]) ** 2 for i in range(3) for j in range(3) if i != j)
    half = 1.959963984540054 * math.sqrt((same + (1 - k) ** 2 * other - (k - pe * (1 - k)) ** 2) / 300) / (1 - pe)
    found = agreement.two("f", a, b, replicates=0).kappa
    assert (found.conf_low, found.conf_high) == pytest.approx((k - half, k + half), abs=1e-10)


def test_bootstrap_over_tables_is_a_bootstrap_over_rows() -> None:
    a, b = two_raters(300, 3, 1)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 300, 300) for _ in range(700)]
    drawn = [agreement.two("f", a[row], b[row], "ordinal", replicates=0).alpha.estimate for row in rows]
    found = agreement.two("f", a, b, "ordinal", replicates=5000).alpha
    assert (found.conf_low, found.conf_high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)


def test_bootstrap_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_raters(300, 3, 1)
    whole = agreement.two("f", a, b).alpha
    monkeypatch.setattr(alpha, "CHUNK", 50)
    assert agreement.two("f", a, b).alpha == whole


def test_ac1_of_gwet_2002() -> None:
    """Gwet (2002), "Kappa statistic is not satisfactory": 118, 5, 2, 0 has kappa -0.0234 and AC1 0.9408."""
    found = agreement.two("f", *unfold([[118, 5], [2, 0]]))
    assert round(found.kappa.estimate, 4) == -0.0234
    assert round(found.ac1.estimate, 4) == 0.9408
    assert found.pabak.estimate == pytest.approx(2 * 118 / 125 - 1)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_ac1_variance_is_that_of_its_linear_form(size: int) -> None:
    """Gwet's variance is that of each unit's pa - 2 (1 - AC1) pe, over 1 - chance, with n and not n - 1 below."""
    a, b = two_raters(250, size, size)
    hot = (np.eye(size)[a] + np.eye(size)[b]) / 2
    share = hot.mean(axis=0)
    chance = (share * (1 - share)).sum() / (size - 1)
    same = (a == b).astype(float)
    value = (same.mean() - chance) / (1 - chance)
    by_unit = hot @ (1 - share) / (size - 1)
    linear = (same - 2 * (1 - value) * by_unit) / (1 - chance)
    half = 1.959963984540054 * linear.std() / math.sqrt(250)
    found = agreement.two("f", a, b, replicates=0).ac1
    assert (found.estimate, found.conf_low, found.conf_high) == pytest.approx(
        (value, value - half, value + half), abs=1e-10
    )


def test_edges() -> None:
    none = agreement.two("f", [], [])
    assert none.n == 0
    assert all(math.isnan(getattr(none, name).estimate) for name in MEASURES)
    assert math.isnan(none.prevalence_a)
    one = agreement.two("f", [True] * 40, [True] * 40)
    assert math.isnan(one.kappa.estimate)
    assert math.isnan(one.alpha.estimate)
    assert one.ac1.estimate == one.pabak.estimate == one.prevalence_a == 1
    assert one.pabak.conf_low == pytest.approx(2 * wilson(40, 40).conf_low - 1)
    perfect = agreement.two("f", [0, 1, 2] * 20, [0, 1, 2] * 20, "ordinal")
    assert all(getattr(perfect, name).estimate == pytest.approx(1, abs=1e-12) for name in MEASURES)
    assert perfect.alpha.conf_low == pytest.approx(1, abs=1e-12)
    assert math.isnan(perfect.prevalence_a)
    for counts in ([[2, 0, 0], [0, 3, 0], [0, 0, 2]], [[4, 3], [0, 0]]):  # statsmodels says NaN, its variance rounded
        found = agreement.two("f", *unfold(counts)).kappa
        assert found.conf_low == pytest.approx(found.estimate, abs=1e-7)
        assert found.conf_high == pytest.approx(found.estimate, abs=1e-7)
    rare = agreement.two("f", [1] + [0] * 99, [1] + [0] * 99)  # a third of the resamples has one class
    assert rare.alpha.estimate == 1
    assert math.isnan(rare.alpha.conf_low)
    assert agreement.two("f", [1], [0]).alpha.estimate == 0


def test_labels_of_any_kind() -> None:
    words = agreement.two("f", ["x", "y", "x", "z"], np.array(["x", "y", "y", "z"], dtype=object))
    numbers = agreement.two("f", [0, 1, 0, 2], [0, 1, 1, 2])
    assert words == numbers
    grades = ["low", "mid", "high"]
    graded = agreement.two("f", ["low", "high", "mid"], ["low", "high", "high"], "ordinal", classes=grades)
    assert graded.alpha == agreement.two("f", [0, 2, 1], [0, 2, 2], "ordinal").alpha
    for a, b, level, classes in (
        (grades, grades, "ordinal", None),
        ([1.0, X], [1.0, 1.0], "nominal", None),
        ([1], [1, 2], "nominal", None),
        ([1], [3], "nominal", [1, 2]),
        ([1], [1], "interval", None),
    ):
        with pytest.raises(ValueError):
            agreement.two("f", a, b, level, classes=classes)  # type: ignore[arg-type]
    assert agreement.two("f", [1, 2], [1, 2], classes=[1, 2, 3, 4]).pabak.conf_low == pytest.approx(
        (4 * wilson(2, 2).conf_low - 1) / 3
    )
    booleans = agreement.two("f", [True, False, False, False], [True, True, True, False])
    assert (booleans.prevalence_a, booleans.prevalence_b) == (0.25, 0.75)


def test_table() -> None:
    a, b = two_raters(100, 2, 0)
    found = agreement.two("humour", a, b)
    frame = agreement.table([found, agreement.two("none", [], [])])
    assert list(frame.columns) == agreement.COLUMNS
    row = frame.iloc[0]
    assert (row["feature"], row["n"], row["prevalence_b"]) == ("humour", 100, found.prevalence_b)
    for column, name in agreement.MEASURES.items():
        one: Estimate = getattr(found, name)
        assert (row[column], row[f"{column}_low"], row[f"{column}_high"]) == pytest.approx(
            (one.estimate, one.conf_low, one.conf_high), nan_ok=True
        )
    assert list(agreement.table([]).columns) == agreement.COLUMNS


def test_self_consistency() -> None:
    found = agreement.self_consistency([["a", "a", "a", "a"], ["a", "b", "a", "b"], ["b", "b", "b", None], [None] * 4])
    assert list(found["samples"]) == [4, 4, 3, 0]
    assert list(found["modal"])[:3] == ["a", "a", "b"]
    assert list(found["share"])[:3] == [1, 0.5, 1]
    assert list(found["entropy"])[:3] == pytest.approx([0, 1, 0])
    assert found.iloc[3][["share", "entropy"]].isna().all()
    quarter = agreement.self_consistency([[True, True, True, False]])
    assert quarter["entropy"][0] == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert agreement.self_consistency(np.zeros((0, 3))).empty


def test_thirty_features_of_a_hundred_thousand_units() -> None:
    a, b = two_raters(100_000, 5, 0)
    start = time.process_time()
    for index in range(30):
        agreement.two(str(index), a, b, "ordinal")
    assert time.process_time() - start < 20


LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.sampled_from(agreement.LEVELS))
def test_ranges_symmetry_and_order(labels: list[tuple[int, int]], level: agreement.Level) -> None:
    a, b = np.array(labels).T
    found = agreement.two("f", a, b, level, replicates=50)
    for name in MEASURES:
        one: Estimate = getattr(found, name)
        assert one.n == len(labels)
        if not math.isnan(one.estimate):
            assert -1 - 1e-9 <= one.estimate <= 1 + 1e-9
        if name != "alpha" and not math.isnan(one.conf_low):
            assert one.conf_low - 1e-9 <= one.estimate <= one.conf_high + 1e-9
    swapped = agreement.two("f", b, a, level, replicates=50)
    order = np.random.default_rng(len(labels)).permutation(len(labels))
    shuffled = agreement.two("f", a[order], b[order], level, replicates=50)
    assert repr(shuffled) == repr(found)
    for name in MEASURES:
        left, right = getattr(found, name), getattr(swapped, name)
        for field in ("estimate", "conf_low", "conf_high"):
            assert getattr(left, field) == pytest.approx(getattr(right, field), abs=1e-9, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.sampled_from(["linear", "quadratic"]))
def test_weighted_kappa_is_scikit_learn_and_statsmodels(labels: list[tuple[int, int]], weights: str) -> None:
    a, b = np.array(labels).T
    counts = np.bincount(a * 5 + b, minlength=25).reshape(5, 5)
    found = intervals.kappa(counts.tolist(), weights)
    if len(np.unique(np.r_[a, b])) == 1:
        assert math.isnan(found.estimate)
        return
    assert found.estimate == pytest.approx(cohen_kappa_score(a, b, weights=weights, labels=range(5)), abs=1e-10)
    assert found.estimate == pytest.approx(cohens_kappa(counts, wt=weights).kappa, abs=1e-10)
    if weights == "quadratic":
        assert agreement.two("f", a, b, "ordinal", 0, classes=range(5)).weighted == found
    plain = agreement.two("f", a, b, replicates=0)
    assert plain.kappa.estimate == pytest.approx(cohen_kappa_score(a, b), abs=1e-10)
    assert math.isnan(plain.weighted.estimate)
