"""Figures of classifiers: equal to scikit-learn's, intervals that cover, curves that forecast, drift that is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import baselines, evaluation, learning_curve
from engine.intervals import wilson
from engine.learning_curve import Point

EXACT = 1e-12


def made(n: int, k: int, seed: int, right: float = 0.6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, verdicts of which about `right` are right, and groups of one to three."""
    random = np.random.default_rng(seed)
    truth = random.choice(k, size=n, p=np.arange(k, 0, -1) / (k * (k + 1) / 2)).astype(float)
    decided = np.where(random.random(n) < right, truth, random.integers(0, k, n))
    return truth, decided, np.repeat(np.arange(n), random.integers(1, 4, n))[:n]


labels = st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1), st.integers(0, 9)), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(labels)
def test_figures_are_sklearns(rows: list[tuple[int, int, int]]) -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

    truth, decided, groups = (np.array(part, float) for part in zip(*rows))
    found = evaluation.classification(truth, decided, groups, (-1, 0, 1), ("-1", "0", "+1"))
    assert (found.confusion == confusion_matrix(truth, decided, labels=[-1, 0, 1])).all()
    assert found.accuracy.estimate == pytest.approx(accuracy_score(truth, decided), abs=EXACT)
    each = precision_recall_fscore_support(truth, decided, labels=[-1, 0, 1], zero_division=np.nan)
    for k, one in enumerate(found.classes):
        for own, reference in zip((one.precision, one.recall), each[:2]):
            assert own.estimate == pytest.approx(reference[k], abs=EXACT, nan_ok=True)
        assert one.support == each[3][k] and one.given == (decided == one.value).sum()
        expected = f1_score(truth, decided, labels=[one.value], average=None, zero_division=np.nan)[0]
        assert one.f1.estimate == pytest.approx(expected, abs=EXACT, nan_ok=True)
    there = np.unique(truth)
    expected = f1_score(truth, decided, labels=there, average="macro", zero_division=0)
    assert found.macro_f1.estimate == pytest.approx(expected, abs=EXACT)
    assert evaluation.macro_f1(truth, decided) == pytest.approx(expected, abs=EXACT)
    assert found.n == len(rows) and found.groups == len(np.unique(groups))


@settings(max_examples=60, deadline=None)
@given(labels, st.randoms(use_true_random=False))
def test_figures_stay_in_range_and_ignore_order_and_unlabelled(
    rows: list[tuple[int, int, int]], shuffle: object
) -> None:
    truth, decided, groups = (np.array(part, float) for part in zip(*rows))
    found = evaluation.classification(truth, decided, groups)
    order = list(range(len(rows)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    more = [*truth[order], np.nan, 1.0], [*decided[order], 1.0, np.nan], [*groups[order], 3, 4]
    again = evaluation.classification(*(np.array(part, float) for part in more))
    assert again.abstained == found.abstained + 1 == 1
    np.testing.assert_equal(again.macro_f1, found.macro_f1)
    for one in (found.macro_f1, found.accuracy, *(c.f1 for c in found.classes)):
        if not math.isnan(one.conf_low):
            assert 0 <= one.conf_low <= one.conf_high <= 1
    assert sum(c.support for c in found.classes) == found.n == found.confusion.sum()


def test_figures_of_nothing_are_nan() -> None:
    nothing = np.array([])
    found = evaluation.classification(nothing, nothing, nothing, (0, 1))
    assert found.n == 0 and math.isnan(found.macro_f1.estimate) and math.isnan(found.accuracy.conf_low)
    assert math.isnan(evaluation.macro_f1(nothing, nothing))
    one = evaluation.classification(np.array([1.0]), np.array([1.0]), np.array([0]))
    assert one.accuracy.estimate == 1 and math.isnan(one.accuracy.conf_low)
    with pytest.raises(ValueError, match="none of the classes"):
        evaluation.classification(np.array([2.0]), np.array([1.0]), np.array([0]), (0, 1))


def test_the_bootstrap_is_that_of_drawing_groups_one_by_one() -> None:
    truth, decided, groups = made(150, 3, seed=1)
    found = evaluation.classification(truth, decided, groups)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    random, drawn = np.random.default_rng(2), []
    for _ in range(2000):
        rows = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        drawn.append(evaluation.macro_f1(truth[rows], decided[rows]))
    assert (found.macro_f1.conf_low, found.macro_f1.conf_high) == pytest.approx(
        np.percentile(drawn, [2.5, 97.5]), abs=0.015
    )


def test_intervals_cover_what_they_should_when_prompts_share_their_difficulty() -> None:
    """120 draws of 150 prompts with two answers each, which are right or wrong together: nominal 95%."""
    random = np.random.default_rng(3)
    n, covered, naive = 150, {"accuracy": 0, "macro": 0}, 0
    chance = 0.7
    # Two classes, half each, errors alike: accuracy and macro-F1 are both 0.7 in the limit.
    for draw in range(120):
        truth = random.integers(0, 2, 2 * n).astype(float)
        right = np.repeat(random.random(n) < chance, 2)
        decided = np.where(right, truth, 1 - truth)
        found = evaluation.classification(truth, decided, np.repeat(np.arange(n), 2), seed=draw)
        covered["accuracy"] += found.accuracy.conf_low <= chance <= found.accuracy.conf_high
        covered["macro"] += found.macro_f1.conf_low <= chance <= found.macro_f1.conf_high
        alone = wilson(int((truth == decided).sum()), 2 * n)
        naive += alone.conf_low <= chance <= alone.conf_high
    assert 0.9 <= covered["accuracy"] / 120 <= 0.99
    assert 0.9 <= covered["macro"] / 120 <= 0.99
    assert naive / 120 < 0.9  # what taking the answers for independent would do


def test_classes_of_a_few_cases_do_not_lift_the_interval() -> None:
    truth = np.zeros(300)
    truth[:6] = [1, 2, 3, 4, 5, 5]
    found = evaluation.classification(truth, np.zeros(300), np.arange(300)).macro_f1
    assert found.estimate == pytest.approx((2 * 294 / 594) / 6, abs=EXACT)
    assert found.conf_low < found.estimate < found.conf_high < found.estimate + 0.01


def test_the_mean_over_columns_is_the_mean_and_leaves_out_columns_of_one_value() -> None:
    one, two, groups = *made(200, 2, seed=4)[:2], made(200, 2, seed=4)[2]
    three, four, _ = made(200, 4, seed=5, right=0.4)
    found = evaluation.mean_macro_f1([(one, two), (three, four), (np.ones(200), np.zeros(200))], groups)
    expected = (evaluation.macro_f1(one, two) + evaluation.macro_f1(three, four)) / 2
    assert found.estimate == pytest.approx(expected, abs=EXACT)
    assert found.conf_low < expected < found.conf_high
    same = evaluation.mean_macro_f1([(one, two)], groups)
    alone = evaluation.classification(one, two, groups).macro_f1
    assert (same.conf_low, same.conf_high) == pytest.approx((alone.conf_low, alone.conf_high), abs=EXACT)
    assert math.isnan(evaluation.mean_macro_f1([(np.ones(3), np.ones(3))], np.arange(3)).estimate)


# --- probabilities ---
def test_brier_and_bins_are_sklearns() -> None:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    random = np.random.default_rng(6)
    chance = random.random(500)
    truth = (random.random(500) < chance**1.5).astype(float)
    assert evaluation.brier(np.stack([1 - chance, chance], 1), truth, (0, 1)) == pytest.approx(
        brier_score_loss(truth, chance), abs=EXACT
    )
    found = evaluation.calibration(chance, truth)
    share, mean = calibration_curve(truth, chance, n_bins=10)
    assert [one.accuracy.estimate for one in found.bins] == pytest.approx(share.tolist(), abs=EXACT)
    assert [one.confidence for one in found.bins] == pytest.approx(mean.tolist(), abs=EXACT)
    counts = np.histogram(chance, np.linspace(0, 1, 11))[0]
    assert found.ece == pytest.approx((counts / 500 * np.abs(share - mean)).sum(), abs=EXACT)
    many = random.dirichlet(np.ones(4), 300)
    values = random.integers(0, 4, 300).astype(float)
    expected = brier_score_loss(values, many, labels=[0, 1, 2, 3], scale_by_half=True)
    assert evaluation.brier(many, values, (0, 1, 2, 3)) == pytest.approx(expected, abs=EXACT)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=50))
def test_bins_hold_every_verdict(rows: list[tuple[float, bool]]) -> None:
    confidence, right = (np.array([row[i] for row in rows], float) for i in (0, 1))
    found = evaluation.calibration(confidence, right)
    assert sum(one.accuracy.n for one in found.bins) == found.n == len(rows)
    assert math.isnan(found.ece) if not rows else 0 <= found.ece <= 1
    for one in found.bins:
        assert one.low - EXACT <= one.confidence <= one.high + EXACT


def test_abstaining_trades_coverage_for_accuracy() -> None:
    random = np.random.default_rng(7)
    confidence = random.uniform(0.5, 1, 2000)
    truth = np.zeros(2000)
    decided = (random.random(2000) > confidence).astype(float)
    curve = evaluation.abstention(truth, decided, confidence, np.arange(2000) // 2)
    assert curve[0].coverage == 1
    assert curve[0].accuracy.estimate == pytest.approx((decided == 0).mean(), abs=EXACT)
    coverage = [one.coverage for one in curve]
    assert coverage == sorted(coverage, reverse=True)
    assert curve[-1].accuracy.conf_low > curve[0].accuracy.conf_high
    for one in curve:
        kept = confidence >= one.threshold
        assert one.accuracy.n == kept.sum()
        assert one.accuracy.estimate == pytest.approx((decided == 0)[kept].mean(), abs=EXACT)
    assert evaluation.abstention(np.array([]), np.array([]), np.array([]), np.array([])) == ()


def test_mistakes_come_most_confident_first() -> None:
    truth, decided = np.array([0, 1, 0, np.nan, 1.0]), np.array([0, 0, 1, 1, np.nan])
    found = evaluation.mistakes(truth, decided, np.array([0.9, 0.6, 0.8, 0.99, 0.7]))
    assert [(one.row, one.truth, one.decided) for one in found] == [(2, 0, 1), (1, 1, 0)]
    assert len(evaluation.mistakes(truth, decided, np.ones(5), most=1)) == 1


# --- baselines ---
def test_keywords_learn_words_and_the_majority_does_not() -> None:
    texts = ["bread rises in the warm oven", "stars shine above the hill"] * 30
    values = np.array([0.0, 1.0] * 30)
    said = baselines.keywords(texts, values, ["an oven of bread", "a hill under stars", "neither of the two"])
    assert said[:2].tolist() == [0, 1]
    assert baselines.majority(np.array([1, 0, 1, np.nan])) == 1
    assert math.isnan(baselines.majority(np.array([np.nan])))


@pytest.mark.parametrize("texts", [["a", "b"], ["", ""], ["?", "!"], ["same words", "same words"]])
def test_keywords_cope_with_texts_that_say_nothing(texts: list[str]) -> None:
    assert set(baselines.keywords(texts, np.array([1.0, 0.0]), ["", "words"])) <= {0.0, 1.0}
    assert baselines.keywords(texts, np.array([1.0, 1.0]), ["", "words"]).tolist() == [1, 1]
    assert baselines.keywords(texts, np.array([1.0, 0.0]), []).shape == (0,)


# --- domains ---
def test_domains_that_are_alike_seldom_look_different_and_those_that_are_not_do() -> None:
    random = np.random.default_rng(8)
    found = []
    for draw in range(40):
        truth, decided, groups = made(120, 2, seed=100 + draw, right=0.5)
        domains = np.array(["a", "b"])[random.integers(0, 2, 200)[groups]].tolist()
        found.append(evaluation.drift(truth, decided, domains, groups, seed=draw).p_value)
    assert np.mean(np.array(found) < 0.05) <= 0.15
    assert 0.3 < np.mean(found) < 0.7
    truth, decided, groups = made(300, 3, seed=9, right=1.0)
    domains = ["near" if group % 2 else "far" for group in groups]
    decided = np.where((groups % 2 == 0) & (random.random(300) < 0.5), (truth + 1) % 3, decided)
    drifted = evaluation.drift(truth, decided, domains, groups)
    assert drifted.p_value < 0.01
    assert [one.name for one in drifted.domains] == ["far", "near"]
    far, near = drifted.domains
    assert far.macro_f1.conf_high < near.macro_f1.conf_low
    assert math.isnan(evaluation.drift(truth, decided, ["one"] * 300, groups).p_value)


def test_a_domain_left_out_is_never_trained_on() -> None:
    truth, _, groups = made(90, 2, seed=10)
    domains = ["abc"[i % 3] for i in range(90)]  # prompts occur in several domains
    seen = []

    def judge(train: np.ndarray, out: np.ndarray) -> np.ndarray:
        assert not {domains[i] for i in train} & {domains[i] for i in out}
        assert not set(groups[train]) & set(groups[out])
        seen.append(domains[out[0]])
        return truth[out]

    found = evaluation.leave_one_domain_out(truth, domains, groups, judge)
    assert seen == ["a", "b", "c"] == [one.name for one in found]
    assert all(one.accuracy.estimate == 1 for one in found)
    assert evaluation.leave_one_domain_out(truth, ["one"] * 90, groups, judge) == ()


# --- learning curves ---
def test_a_power_law_is_found_again_and_its_gain_forecast() -> None:
    sizes = (50, 100, 200, 400, 800)
    points = [Point(n, 0.8 - 2.0 * n**-0.5) for n in sizes]
    found = learning_curve.forecast(points, more=400)
    gain = 2.0 * (800**-0.5 - 1200**-0.5)
    assert found.gain.estimate == pytest.approx(gain, abs=2e-4)
    assert found.at(800) == pytest.approx(points[-1].score, abs=1e-3)
    assert found.gain.conf_low <= found.gain.estimate <= found.gain.conf_high + 1e-12


def test_the_interval_of_a_gain_covers_it() -> None:
    random, sizes = np.random.default_rng(11), (60, 120, 240, 480, 960)
    gain, covered = 1.5 * (960**-0.5 - 1160**-0.5), 0
    for draw in range(100):
        points = [Point(n, 0.75 - 1.5 * n**-0.5 + random.normal() * 0.01) for n in sizes for _ in range(3)]
        found = learning_curve.forecast(points, seed=draw).gain
        covered += found.conf_low <= gain <= found.conf_high
    assert covered >= 88


def test_a_flat_curve_gains_nothing_and_a_short_one_says_nothing() -> None:
    flat = learning_curve.forecast([Point(n, 0.6) for n in (50, 100, 200, 400)])
    assert flat.gain.estimate == pytest.approx(0, abs=1e-12)
    for points in ([], [Point(50, 0.5)], [Point(n, n / 1000) for n in (50, 100, 200)] * 3):
        found = learning_curve.forecast(points)
        assert math.isnan(found.gain.estimate) and math.isnan(found.gain.conf_low)
    near = learning_curve.forecast([Point(n, n / 1000) for n in (50, 51, 100, 103, 200, 205.5)])
    assert math.isnan(near.gain.estimate)  # three sizes, drawn twice
    nan = learning_curve.forecast([Point(n, math.nan) for n in (50, 100, 200, 400)])
    assert math.isnan(nan.gain.estimate)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1)), max_size=30), st.integers(1, 1000))
def test_a_forecast_never_falls_and_never_passes_one(raw: list[tuple[int, float]], more: int) -> None:
    found = learning_curve.forecast([Point(n, score) for n, score in raw], more)
    if not math.isnan(found.gain.estimate):
        assert found.gain.estimate >= -1e-9 and found.gain.conf_low >= -1e-9
        assert found.at(max(n for n, _ in raw) + more) <= 1 + 1e-9
