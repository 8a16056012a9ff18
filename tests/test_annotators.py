"""Annotators' quality, consensus, label errors and drift: known truths, written-out formulas, degenerate tables."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cleanlab.filter import find_label_issues
from cleanlab.multiannotator import get_label_quality_multiannotator
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep

from engine import annotators
from engine.intervals import wilson
from engine.settings import ROOT

X = math.nan
NAMES = ["ann", "ben", "cem", "dan"]


def crowd(n: int, size: int, right: list[float], seed: int, missing: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, size, n)
    table = np.stack([np.where(rng.random(n) < one, truth, rng.integers(0, size, n)) for one in right], axis=1)
    return truth, np.where(rng.random(table.shape) < missing, X, table)


def classifier(truth: np.ndarray, size: int, sure: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(size), len(truth)) * (1 - sure)
    chances[np.arange(len(truth)), truth] += sure
    return np.asarray(chances)


def written_out_em(table: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Dawid and Skene's EM over single answers, with the module's prior; chances and each annotator's accuracy."""
    units, people = table.shape
    answers = [(u, a, int(table[u, a])) for u in range(units) for a in range(people) if not math.isnan(table[u, a])]
    chances = np.zeros((units, size))
    for u, _, said in answers:
        chances[u, said] += 1
    chances /= chances.sum(axis=1, keepdims=True)
    right, n = annotators.PRIOR_RIGHT, annotators.PRIOR_ANSWERS
    for _ in range(300):
        share = (chances.sum(axis=0) + 1) / (units + size)
        errors = np.full((people, size, size), n * (1 - right) / (size - 1))
        errors[:, np.arange(size), np.arange(size)] = n * right
        for u, a, said in answers:
            errors[a, :, said] += chances[u]
        errors /= errors.sum(axis=2, keepdims=True)
        chances = np.tile(share, (units, 1))
        for u, a, said in answers:
            chances[u] *= errors[a, :, said]
        chances /= chances.sum(axis=1, keepdims=True)
    return chances, np.array([share @ np.diag(one) for one in errors])


@pytest.mark.parametrize("size", [2, 4])
def test_dawid_skene_is_the_written_out_em(size: int) -> None:
    _, table = crowd(60, size, [0.9, 0.7, 0.5], size)
    table = table[(~np.isnan(table)).any(axis=1)]
    found = annotators.consensus(NAMES[:3], table, size, replicates=2)
    chances, ability = written_out_em(table, size)
    assert found.method == "dawid-skene" and found.n == len(table) and found.reason == ""
    assert found.labels["quality"].to_numpy() == pytest.approx(chances.max(axis=1), abs=1e-5)
    assert found.annotators.set_index("annotator")["quality"].loc[NAMES[:3]].to_numpy() == pytest.approx(
        ability, abs=1e-5
    )


def test_dawid_skene_finds_who_is_good_and_what_is_right() -> None:
    truth, table = crowd(400, 3, [0.95, 0.8, 0.6, 0.0], 1)
    found = annotators.consensus(NAMES, table, 3)
    people = found.annotators.set_index("annotator")
    assert list(found.annotators["annotator"]) == ["dan", "cem", "ben", "ann"]
    for name, right in zip(NAMES, [0.95, 0.8, 0.6, 0.0]):
        row = people.loc[name]
        assert row["quality"] == pytest.approx(right + (1 - right) / 3, abs=0.08)
        assert row["conf_low"] < row["quality"] < row["conf_high"] and row["n"] > 200
        assert row["agrees_low"] < row["agrees"] < row["agrees_high"]
    best = found.labels["label"].to_numpy() == truth[found.labels["unit"]]
    votes = pd.DataFrame(table[found.labels["unit"]]).mode(axis=1)[0].to_numpy() == truth[found.labels["unit"]]
    assert best.mean() > votes.mean() + 0.02
    assert found.labels["quality"].mean() == pytest.approx(best.mean(), abs=0.05)  # it knows how sure to be


def test_quality_intervals_cover() -> None:
    held, total = 0, 0
    for seed in range(25):
        _, table = crowd(200, 2, [0.8, 0.7, 0.6], seed, missing=0.1)
        people = annotators.consensus(NAMES[:3], table, 2, seed=seed).annotators.set_index("annotator")
        for name, right in zip(NAMES, [0.8, 0.7, 0.6]):
            held += people.loc[name, "conf_low"] <= (1 + right) / 2 <= people.loc[name, "conf_high"]
            total += 1
    assert held / total >= 0.85, held / total


def test_crowdlab_is_cleanlab_and_uses_the_classifier() -> None:
    truth, table = crowd(150, 3, [0.9, 0.6, 0.3], 3)
    table[5], table[9, 1:] = X, X
    chances = classifier(truth, 3, 0.6)
    chances[20] = X
    found = annotators.consensus(NAMES[:3], table, 3, chances, replicates=12)
    kept = (~np.isnan(table)).any(axis=1) & np.isfinite(chances).all(axis=1)
    theirs = get_label_quality_multiannotator(
        table[kept], chances[kept], consensus_method="best_quality", verbose=False
    )
    assert found.method == "crowdlab" and found.n == kept.sum()
    assert list(found.labels["unit"]) == list(np.flatnonzero(kept))
    assert list(found.labels["label"]) == list(theirs["label_quality"]["consensus_label"])
    assert found.labels["quality"].to_numpy() == pytest.approx(
        theirs["label_quality"]["consensus_quality_score"].to_numpy(), abs=1e-6
    )
    stats = theirs["annotator_stats"]["annotator_quality"]
    for place, name in enumerate(NAMES[:3]):
        row = found.annotators.set_index("annotator").loc[name]
        assert row["quality"] == pytest.approx(stats[place], abs=1e-6)
        assert row["conf_low"] < row["quality"] < row["conf_high"]
    alone = annotators.consensus(NAMES[:3], table[kept], 3, replicates=0)
    right = truth[kept]
    assert (found.labels["label"] == right).mean() > (alone.labels["label"] == right).mean()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("with_chances", [False, True])
def test_consensus_of_degenerate_tables(classes: int, with_chances: bool) -> None:
    cases: list[tuple[Any, str]] = [
        (np.zeros((0, 2)), "No"),
        (np.full((4, 2), X), "No"),
        (np.c_[[0.0, 1], [X, X]], "Only one annotator"),
        (np.array([[0, X], [X, 1.0]]), "No unit was answered by two"),
        (np.array([[0, 1], [1, 0.0]]), "Two annotators"),  # cleanlab fails here
        (np.ones((5, 2)), "" if with_chances else "Two annotators"),
        (np.array([[0, 0, X], [1, 1, X], [X, X, 1.0]]), ""),
    ]
    for table, reason in cases:
        chances = np.full((len(table), classes), 1 / classes) if with_chances else None
        state = np.random.get_state()[1].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = annotators.consensus(NAMES[: table.shape[1]], table, classes, chances, replicates=5)
        assert found.reason.startswith(reason) and bool(found.reason) == bool(reason), (table, found.reason)
        assert list(found.annotators.columns) == annotators.ANNOTATOR_COLUMNS
        assert (np.random.get_state()[1] == state).all()  # nobody threw dice
    assert annotators.consensus(["a", "b"], np.zeros((9, 2)), 1).reason == "There is one class only."
    none = annotators.consensus(["a", "b"], np.zeros((9, 2)), 2, np.full((9, 2), X))
    assert none.reason.startswith("No entry") and none.labels.empty
    with pytest.raises(ValueError):
        annotators.consensus(["a"], np.zeros((9, 2)), 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([X, 0.0, 1.0, 2.0]), min_size=3, max_size=3), min_size=1, max_size=20))
def test_consensus_of_any_table(rows: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chances in (None, np.tile([0.5, 0.3, 0.2], (len(rows), 1))):
            found = annotators.consensus(NAMES[:3], rows, 3, chances, replicates=2)
            assert found.labels["quality"].between(0, 1 + 1e-9).all()
            assert (found.annotators["quality"].dropna().between(0, 1 + 1e-9)).all()


# --- labels that look wrong ---------------------------------------------------------------------------------------


def test_label_errors_finds_what_was_flipped() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 500)
    chances = classifier(truth, 3, 0.7)
    given = truth.astype(float)
    wrong = rng.choice(500, 40, replace=False)
    given[wrong] = (given[wrong] + 1) % 3
    given[7], chances[8] = X, X
    found = annotators.label_errors(given, chances)
    assert found.n == 498 and found.share == wilson(len(found.found), 498)
    flipped = found.found[found.found["unit"].isin(wrong)]
    assert len(flipped) >= 30 and len(flipped) >= 0.95 * len(found.found)
    assert (flipped["suggested"].to_numpy() == truth[flipped["unit"]]).all()
    assert found.found["quality"].is_monotonic_increasing
    rows = np.setdiff1d(np.arange(500), [7, 8])
    theirs = find_label_issues(
        given[rows].astype(int), chances[rows], return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert list(found.found["unit"]) == list(rows[theirs])


def test_label_errors_of_degenerate_labels() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = annotators.label_errors([0.0, 1.0], np.full((2, 2), 0.5))
        assert few.reason == "2 labels have a classifier's chances; it takes 30." and few.found.empty
        one = annotators.label_errors(np.zeros(40), np.full((40, 2), 0.5))
        assert one.reason.startswith("Every label is the same") and math.isnan(one.share.estimate)
        nothing = annotators.label_errors([], np.zeros((0, 2)))
        assert nothing.n == 0
        rare = np.zeros(60)
        rare[0] = 1  # a class with one label, another with none
        assert annotators.label_errors(rare, np.tile([0.8, 0.1, 0.1], (60, 1))).reason == ""
    with pytest.raises(ValueError):
        annotators.label_errors([0.0], np.zeros((2, 2)))


# --- time ---------------------------------------------------------------------------------------------------------


def test_median() -> None:
    found = annotators.median([3.0, 1.0, 2.0, X])
    assert (found.estimate, found.n) == (2, 3) and math.isnan(found.conf_low)
    assert annotators.median([]).n == 0
    held = 0
    for seed in range(400):
        one = annotators.median(np.random.default_rng(seed).exponential(10, 41))
        held += one.conf_low <= 10 * math.log(2) <= one.conf_high
    assert 0.93 <= held / 400 <= 0.99
    hundred = annotators.median(np.arange(1.0, 101))
    assert (hundred.estimate, hundred.conf_low, hundred.conf_high) == (50.5, 40, 61)  # Conover's ranks for n = 100


def test_halves_is_newcombe() -> None:
    shares = np.r_[np.ones(45), np.zeros(5), np.ones(30), np.zeros(20)]
    found = annotators.halves(shares)
    low, high = confint_proportions_2indep(30, 50, 45, 50, method="newcomb", compare="diff")
    assert (found.change.estimate, found.change.n) == (pytest.approx(-0.3), 100)
    assert (found.change.conf_low, found.change.conf_high) == pytest.approx((low, high), abs=1e-10)
    same = annotators.halves(np.ones(40)).change
    assert same.conf_low < 0 < same.conf_high
    assert math.isnan(annotators.halves([]).change.estimate)
    one = annotators.halves([1.0])
    assert one.first.n == 1 and one.second.n == 0 and math.isnan(one.change.estimate)


def test_pace() -> None:
    at = pd.to_datetime("2026-03-01 09:00") + pd.to_timedelta(np.arange(120), unit="min")
    acts = pd.DataFrame({"annotator": ["ann", "ben"] * 60, "at": at, "seconds": np.tile([10.0, 30.0], 60)})
    acts.loc[0, "seconds"] = X
    found = annotators.pace(acts)
    assert list(found["answers"]) == [30, 30, 30, 30]
    assert found[found["annotator"] == "ann"]["n"].tolist() == [29, 30]
    assert set(found[found["annotator"] == "ben"]["seconds"]) == {30}
    later = pd.concat([acts, acts.assign(at=at + pd.Timedelta(days=9))])
    assert len(annotators.pace(later)) == 4  # by day
    assert annotators.pace(acts.head(0)).empty


def test_cleanlab_loads_where_a_page_hides_its_datasets() -> None:
    """Streamlit puts pages/ first on the path; importing cleanlab must not run pages/datasets.py."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.path.insert(1, sys.argv[2])\n"
        "from engine.importing import load\n"
        "load('cleanlab.filter'); import datasets\n"
        "assert 'pages' not in datasets.__file__ and sys.path[0] == sys.argv[1]"
    )
    subprocess.run([sys.executable, "-c", script, str(ROOT / "pages"), str(ROOT)], check=True, timeout=120)
