"""Several raters, against krippendorff, statsmodels, scikit-learn, nltk, published examples and formulas."""

from __future__ import annotations

import math
import warnings
from itertools import product
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics import jaccard_distance, masi_distance
from nltk.metrics.agreement import AnnotationTask
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa, fleiss_kappa

from engine import agreement, alpha, raters, scales
from engine.intervals import Estimate, wilson

X = math.nan
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability": four observers, twelve units
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
        [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
    ]
).T
FIGURES = ("observed", "alpha", "fleiss", "ac1", "ac2")
NUMBERS: list[alpha.Level] = ["nominal", "ordinal", "interval"]


def tables(cells: list[float], people: int = 4) -> Any:
    """Random tables (units, raters), some of one class, one rater, or nothing."""
    row = st.lists(st.sampled_from(cells), min_size=people, max_size=people)
    return st.lists(row, min_size=1, max_size=40).map(np.array)


def noisy(n: int, people: int, size: int, seed: int, right: float = 0.7, missing: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, size, n)[:, None]
    table = np.where(rng.random((n, people)) < right, truth, rng.integers(0, size, (n, people))).astype(float)
    table[rng.random((n, people)) < missing] = X
    return table


def theirs(table: np.ndarray, level: str) -> float:
    """What the krippendorff package says; NaN where it refuses."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return float(krippendorff.alpha(table.T, level_of_measurement=level))
    except ValueError:
        return X


def brute_gwet(table: np.ndarray, weights: np.ndarray) -> float:
    """Gwet's multi-rater AC2 (2014, Handbook of Inter-Rater Reliability, ch. 3), written out over units and classes."""
    size = len(weights)
    counts = np.array([[np.sum(row == k) for k in range(size)] for row in table], dtype=float)
    observed, units, share, rated = 0.0, 0, np.zeros(size), 0
    for row in counts:
        r = row.sum()
        if r >= 1:
            share, rated = share + row / r, rated + 1
        if r >= 2:
            units += 1
            for k in range(size):
                observed += row[k] * (sum(weights[k, m] * row[m] for m in range(size)) - 1) / (r * (r - 1))
    share, observed = share / rated, observed / units
    chance = weights.sum() / (size * (size - 1)) * sum(p * (1 - p) for p in share)
    return float((observed - chance) / (1 - chance))


# --- alpha --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", NUMBERS)
@settings(max_examples=150, deadline=None)
@given(
    st.one_of(tables([X, 0.0, 1.0, 2.0, 3.0]), tables([X, 1.0]), tables([0.0, 1.0], 2), tables([X, X, X, 2.5, -4.0]))
)
def test_alpha_is_the_package_krippendorff(level: alpha.Level, table: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = raters.several("f", table, level, replicates=20)
    expected = theirs(table, level)
    assert found.alpha.estimate == pytest.approx(expected, abs=1e-10, nan_ok=True)
    assert (found.reason == "") == (not math.isnan(found.alpha.estimate))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=2, max_size=25).map(np.array)
)
def test_interval_alpha_of_any_numbers(table: np.ndarray) -> None:
    found = raters.several("f", table, "interval", replicates=0).alpha.estimate
    expected = theirs(table, "interval")
    if np.ptp(table) > 1e-3 * max(1.0, np.abs(table).max()):
        assert found == pytest.approx(expected, abs=1e-10, nan_ok=True)


def test_alpha_of_krippendorff_2011() -> None:
    for level, expected in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        found = raters.several("f", KRIPPENDORFF, level)  # type: ignore[arg-type]
        assert round(found.alpha.estimate, 3) == expected
        assert (found.units, found.ratings, found.raters) == (11, 40, 4)  # the last unit has one rating only
        assert found.alpha.conf_low < expected < found.alpha.conf_high <= 1


SETS = [frozenset(one) for one in ("", "a", "b", "ab", "bc", "abc")]
NONE = None
set_tables = st.lists(st.lists(st.sampled_from([NONE, *SETS]), min_size=3, max_size=3), min_size=1, max_size=25)


def empty_safe(distance: Any) -> Any:
    """nltk divides by zero for two empty sets."""
    return lambda a, b: 0.0 if a == b else float(distance(a, b))


@pytest.mark.parametrize(("level", "distance"), [("masi", masi_distance), ("jaccard", jaccard_distance)])
@settings(max_examples=100, deadline=None)
@given(set_tables)
def test_alpha_of_sets_is_nltk(level: alpha.Level, distance: Any, rows: list[list[frozenset[str] | None]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = raters.several("f", rows, level, replicates=10)
    data = [(who, unit, said) for unit, row in enumerate(rows) for who, said in enumerate(row) if said is not None]
    pairable = [said for row in rows if sum(one is not None for one in row) > 1 for said in row if said is not None]
    if len(set(pairable)) < 2:  # nltk says 1 here, or refuses
        assert math.isnan(found.alpha.estimate) and found.reason
        return
    assert found.alpha.estimate == pytest.approx(AnnotationTask(data, empty_safe(distance)).alpha(), abs=1e-10)
    assert math.isnan(found.fleiss.estimate) and math.isnan(found.ac1.estimate)


def test_masi_of_passonneau_2006() -> None:
    found = alpha.distances(
        [frozenset("ab"), frozenset("ab"), frozenset("abcd"), frozenset("bc"), frozenset("x")], "masi"
    )
    assert found[0] == pytest.approx([0, 0, 1 - 2 / 3 * 1 / 2, 1 - 1 / 3 * 1 / 3, 1])
    for a, b in product(range(len(SETS)), repeat=2):
        for level, theirs in (("masi", masi_distance), ("jaccard", jaccard_distance)):
            assert alpha.distances(SETS, level)[a, b] == pytest.approx(empty_safe(theirs)(SETS[a], SETS[b]))  # type: ignore[arg-type]


def test_bootstrap_over_patterns_is_a_bootstrap_over_units() -> None:
    table = noisy(200, 4, 3, 1)
    rng = np.random.default_rng(0)
    pairable = table[(~np.isnan(table)).sum(axis=1) > 1]
    rows = [pairable[rng.integers(0, len(pairable), len(pairable))] for _ in range(600)]
    for level in NUMBERS:
        drawn = [raters.several("f", row, level, replicates=0).alpha.estimate for row in rows]
        found = raters.several("f", table, level, replicates=5000).alpha
        assert (found.conf_low, found.conf_high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)


def test_bootstrap_intervals_cover() -> None:
    """Of 200 samples of 100 units from a known mixture, about 95% of the intervals hold the population's alpha."""
    population = raters.several("f", noisy(200_000, 3, 3, 0), replicates=0)
    held = {"alpha": 0, "ac1": 0, "fleiss": 0, "observed": 0}
    for seed in range(200):
        found = raters.several("f", noisy(100, 3, 3, seed + 1), replicates=200)
        for name in held:
            one: Estimate = getattr(found, name)
            held[name] += one.conf_low <= getattr(population, name).estimate <= one.conf_high
    assert all(0.89 * 200 <= count <= 0.99 * 200 for count in held.values()), held


# --- Fleiss and Gwet ----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(tables([0.0, 1.0, 2.0], 3))
def test_fleiss_is_statsmodels(table: np.ndarray) -> None:
    found = raters.several("f", table, replicates=0).fleiss.estimate
    with np.errstate(all="ignore"):
        expected = float(fleiss_kappa(aggregate_raters(table.astype(int))[0]))
    if len(np.unique(table)) == 1:
        assert math.isnan(found) and not abs(expected) <= 1
    else:
        assert found == pytest.approx(expected, abs=1e-10)


def test_fleiss_where_different_people_rate_each_unit() -> None:
    """Two of five rate every unit: statsmodels takes the counts, whoever gave them."""
    table = noisy(150, 2, 3, 7, missing=0)
    wide = np.full((150, 5), X)
    for row, (places, two) in enumerate(
        zip(np.random.default_rng(1).permuted(np.tile(range(5), (150, 1)), axis=1), table)
    ):
        wide[row, places[:2]] = two
    expected = fleiss_kappa(aggregate_raters(table.astype(int))[0])
    assert raters.several("f", wide).fleiss.estimate == pytest.approx(expected, abs=1e-10)


def test_gwet_2014_four_raters() -> None:
    """Gwet's own example of the handbook (cac.raw4raters of his R package irrCAC): Krippendorff's table of 2011."""
    found = raters.several("f", KRIPPENDORFF)
    assert round(found.ac1.estimate, 5) == 0.77544
    assert round(found.fleiss.estimate, 5) == 0.76117
    assert round(found.alpha.estimate, 5) == 0.74342


@settings(max_examples=80, deadline=None)
@given(tables([X, 0.0, 1.0, 2.0, 3.0]))
def test_gwet_is_the_written_out_formula(table: np.ndarray) -> None:
    found = raters.several("f", table, "ordinal", classes=[0, 1, 2, 3], replicates=0)
    if not found.units:
        assert math.isnan(found.ac1.estimate)
        return
    weights = np.array([[1 - (a - b) ** 2 / 9 for a in range(4)] for b in range(4)])
    assert found.ac1.estimate == pytest.approx(brute_gwet(table, np.eye(4)), abs=1e-10)
    assert found.ac2.estimate == pytest.approx(brute_gwet(table, weights), abs=1e-10)
    assert math.isnan(raters.several("f", table, classes=[0, 1, 2, 3], replicates=0).ac2.estimate)


@settings(max_examples=60, deadline=None)
@given(tables([0.0, 1.0, 2.0], 2), st.sampled_from(["nominal", "ordinal"]))
def test_two_raters_are_the_case_of_two(table: np.ndarray, level: Any) -> None:
    found = raters.several("f", table, level, classes=[0, 1, 2], replicates=50)
    both = agreement.two("f", table[:, 0], table[:, 1], level, 50, classes=[0, 1, 2])
    assert found.alpha == both.alpha or math.isnan(both.alpha.estimate)
    assert found.ac1.estimate == pytest.approx(both.ac1.estimate, abs=1e-10)
    assert found.observed.estimate == pytest.approx(both.observed.estimate, abs=1e-12)


# --- by class, by rater, by pair ----------------------------------------------------------------------------------


def test_by_class() -> None:
    table = noisy(150, 4, 3, 2)
    found = raters.by_class(table, [0, 1, 2], ["red", "green", "blue"])
    assert [one.name for one in found] == ["red", "green", "blue"]
    for k, one in enumerate(found):
        binary = np.where(np.isnan(table), X, table == k)
        assert one.agreement.alpha.estimate == pytest.approx(theirs(binary, "nominal"), abs=1e-10)
        assert one.share == pytest.approx(np.nanmean(binary))
        both, could = 0.0, 0.0
        for row in binary:
            row = row[~np.isnan(row)]
            if len(row) > 1:
                both += row.sum() * (row.sum() - 1) / (len(row) - 1)
                could += row.sum()
        assert one.specific.estimate == pytest.approx(both / could)
        assert one.specific.conf_low < one.specific.estimate < one.specific.conf_high
    nobody = raters.by_class(np.array([[0.0, 0.0], [0.0, X]]), [0, 1])
    assert nobody[1].share == 0 and math.isnan(nobody[1].specific.estimate)
    assert nobody[0].specific == wilson(1, 1)


def test_by_rater_finds_the_one_who_guesses() -> None:
    table = noisy(300, 4, 3, 3, right=0.85)
    table[:, 3] = np.where(np.isnan(table[:, 3]), X, np.random.default_rng(9).integers(0, 3, 300))
    found = raters.by_rater(["ann", "ben", "cem", "dan"], table)
    whole = theirs(table, "nominal")
    for place, one in enumerate(found):
        left = theirs(np.delete(table, place, axis=1), "nominal")
        assert one.without.estimate == pytest.approx(left, abs=1e-10)
        assert one.change.estimate == pytest.approx(left - whole, abs=1e-10)
        others = [
            np.mean(np.delete(row, place)[~np.isnan(np.delete(row, place))] == row[place])
            for row in table
            if not math.isnan(row[place]) and (~np.isnan(row)).sum() > 1
        ]
        assert one.same.estimate == pytest.approx(np.mean(others))
        assert one.same.conf_low == pytest.approx(wilson(float(np.sum(others)), len(others)).conf_low)
        assert (one.n, one.shared) == (int((~np.isnan(table[:, place])).sum()), len(others))
    assert found[3].change.conf_low > 0.1 and found[3].same.conf_high < min(one.same.conf_low for one in found[:3])
    assert all(one.change.conf_high < 0 for one in found[:3])


def test_pairs_are_scikit_learn_and_statsmodels() -> None:
    table = noisy(200, 4, 4, 5)
    table[:, 3] = X
    for level in ("nominal", "ordinal"):
        found = raters.pairs(["a", "b", "c", "none"], table, level, classes=[0, 1, 2, 3])  # type: ignore[arg-type]
        assert {(one.a, one.b) for one in found} == {("a", "b"), ("a", "c"), ("b", "c")}
        assert [one.kappa.estimate for one in found] == sorted(one.kappa.estimate for one in found)
        for one in found:
            a, b = table[:, "abc".index(one.a)], table[:, "abc".index(one.b)]
            both = ~np.isnan(a) & ~np.isnan(b)
            x, y = a[both].astype(int), b[both].astype(int)
            counts = np.bincount(x * 4 + y, minlength=16).reshape(4, 4)
            assert one.n == both.sum()
            assert one.kappa.estimate == pytest.approx(cohen_kappa_score(x, y), abs=1e-10)
            assert one.kappa.conf_low == pytest.approx(cohens_kappa(counts).kappa_low, abs=1e-10)
            if level == "ordinal":
                expected = cohen_kappa_score(x, y, weights="quadratic")
                assert one.weighted.estimate == pytest.approx(expected, abs=1e-10)
            assert one.alpha.estimate == pytest.approx(theirs(np.c_[x, y].astype(float), level), abs=1e-10)


def test_sets_by_rater_and_pair() -> None:
    rows = [
        [SETS[1], SETS[1], SETS[3]],
        [SETS[2], SETS[2], None],
        [None, SETS[5], SETS[4]],
        [SETS[0], SETS[0], SETS[0]],
    ]
    found = raters.by_rater(["a", "b", "c"], rows, "masi")
    assert found[0].same.estimate == pytest.approx(np.mean([(1 + 1 / 3) / 2, 1, 1]))
    assert found[2].without.estimate == 1
    both = {(one.a, one.b): one for one in raters.pairs(["a", "b", "c"], rows, "masi")}
    assert both["a", "b"].kappa.estimate == 1 and both["a", "b"].n == 3
    assert both["a", "c"].observed.estimate == 0.5


# --- what cannot be worked out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (np.zeros((0, 3)), "Nobody has answered yet."),
        (np.full((4, 3), X), "Nobody has answered yet."),
        (np.ones((5, 1)), "Only one annotator has answered; agreement needs two."),
        (np.c_[np.ones(5), np.full(5, X)], "Only one annotator has answered; agreement needs two."),
        (np.array([[0, X], [X, 1], [1, X]]), "No unit was answered by two annotators."),
        (np.ones((5, 3)), "Every answer is “1”, so there is nothing to tell agreement from chance by."),
        (
            np.array([[2, 2, X], [X, X, 1.0]]),
            "Every answer is “2”, so there is nothing to tell agreement from chance by.",
        ),
    ],
)
@pytest.mark.parametrize("level", NUMBERS)
def test_degenerate_tables_say_why(table: np.ndarray, reason: str, level: alpha.Level) -> None:
    names = [str(i) for i in range(table.shape[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = raters.several("f", table, level)
        raters.by_rater(names, table, level)
        raters.pairs(names, table, level)
        if level == "nominal":
            raters.by_class(table, [0, 1, 2])
        for name in FIGURES:
            assert scales.meaning("alpha", getattr(found, name))
    assert math.isnan(found.alpha.estimate) and found.reason == reason
    if not found.units:
        assert all(math.isnan(getattr(found, name).estimate) for name in FIGURES)


def test_degenerate_sets_say_why() -> None:
    assert raters.several("f", [[SETS[3], SETS[3]]], "masi").reason.startswith("Every answer is “a, b”")
    assert raters.several("f", [[SETS[0], SETS[0]]], "jaccard").reason.startswith("Every answer is “none”")
    assert raters.several("f", [[None, SETS[0]], [None, None]], "masi").reason.startswith("Only one annotator")
    assert raters.several("f", [[None, None]], "masi").reason.startswith("Nobody")
    with pytest.raises(ValueError):
        raters.several("f", [1.0, 2.0])
    with pytest.raises(ValueError):
        raters.several("f", [[1.0, 7.0]], classes=[0, 1])


def test_one_class_and_perfect_agreement() -> None:
    one = raters.several("f", np.ones((40, 3)))
    assert math.isnan(one.fleiss.estimate) and one.ac1.estimate == 1 and one.observed == wilson(40, 40)
    perfect = raters.several("f", np.repeat(np.arange(40.0)[:, None] % 3, 3, axis=1))
    assert perfect.alpha.estimate == perfect.fleiss.estimate == perfect.ac1.estimate == 1
    assert perfect.observed.conf_low == wilson(40, 40).conf_low


@settings(max_examples=40, deadline=None)
@given(tables([X, 0.0, 1.0, 2.0], 3), st.sampled_from(NUMBERS))
def test_the_order_of_units_and_raters_changes_nothing(table: np.ndarray, level: alpha.Level) -> None:
    found = raters.several("f", table, level, replicates=30)
    again = raters.several("f", table[::-1, ::-1], level, replicates=30)
    for name in FIGURES:
        one, other = getattr(found, name), getattr(again, name)
        for field in ("estimate", "conf_low", "conf_high", "n"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), abs=1e-9, nan_ok=True)
        if not math.isnan(one.estimate):
            assert one.estimate <= 1
            assert one.estimate >= -1 - 1e-9 or name == "fleiss"  # below where many units have one rating


# --- words --------------------------------------------------------------------------------------------------------


def test_meaning() -> None:
    assert "too few for a verdict, which takes 30" in scales.meaning("alpha", Estimate(0.9, 0.8, 1.0, 29))
    assert "is not defined here (n = 0)" in scales.meaning("ac1", Estimate(X, X, X, 0))
    said = scales.meaning("alpha", Estimate(0.72, 0.61, 0.79, 120))
    assert said.startswith(
        "Krippendorff's alpha is 0.72 [0.61, 0.79], n = 120: between “not to be relied on” and “fit for"
    )
    assert "Krippendorff (2004" in said
    assert ": “reliable” on" in scales.meaning("alpha", Estimate(0.9, 0.85, 0.95, 120))
    assert "so no verdict" in scales.meaning("kappa", Estimate(1.0, X, X, 120))
    assert scales.word("kappa", -0.2) == "poor" and scales.word("kappa", 0.4) == "moderate"
    for measure in scales.SCALES:
        assert scales.SCALES[measure].source in scales.meaning(measure, Estimate(0.5, 0.4, 0.6, 50))
