"""Corrected prevalence: that its intervals cover where raw ones do not, and that its figures are the textbook's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from engine import prevalence
from engine.design import Array
from engine.intervals import wilson
from engine.prevalence import Sums, by_confusion, by_prediction, delta, rows_of, simplex

DRAWS = 500
NAMES = tuple("abcdefg")


def seven() -> Array:
    """A seven-class labeler that is right about 60 to 85% of each class."""
    right = np.array([0.65, 0.85, 0.8, 0.7, 0.8, 0.7, 0.6])
    errors = np.random.default_rng(3).dirichlet(np.full(7, 2.0), 7)
    np.fill_diagonal(errors, 0)
    rows = errors / errors.sum(axis=1, keepdims=True) * (1 - right)[:, None]
    return np.asarray(rows + np.diag(right))


TWO = np.array([[0.85, 0.15], [0.25, 0.75]])
SIGNED = np.array([[0.7, 0.25, 0.05], [0.05, 0.85, 0.10], [0.03, 0.22, 0.75]])
# name: prevalence on chosen, on rejected, P(said | truth), gold entries, drawn alike from every class or at random
WORLDS = {
    "boolean, 5%, 300 gold": ([0.95, 0.05], [0.92, 0.08], TWO, 300, False),
    "boolean, 5%, 100 gold balanced": ([0.95, 0.05], [0.92, 0.08], TWO, 100, True),
    "boolean, 30%, 100 gold": ([0.7, 0.3], [0.6, 0.4], TWO, 100, False),
    "signed, 5% against, 200 gold": ([0.05, 0.75, 0.2], [0.1, 0.75, 0.15], SIGNED, 200, False),
    "seven classes, three of 5%, 300 gold": (
        [0.05, 0.35, 0.05, 0.1, 0.3, 0.05, 0.1], [0.05, 0.3, 0.1, 0.1, 0.3, 0.05, 0.1], seven(), 300, False,
    ),
    "seven classes, three of 5%, 200 gold balanced": (
        [0.05, 0.35, 0.05, 0.1, 0.3, 0.05, 0.1], [0.05, 0.3, 0.1, 0.1, 0.3, 0.05, 0.1], seven(), 200, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_intervals_cover_where_raw_ones_do_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 draws of a dataset of 3,000 pairs and of gold: over classes 93 to 97% of corrected intervals hold the truth.

    No single class falls under 91% (its own 500 draws have a standard error of 1%); raw intervals miss.
    """
    monkeypatch.setattr(prevalence, "DRAWS", 1500)
    of_chosen, of_rejected, rows, gold, balanced = WORLDS[name]
    chosen, rejected = np.array(of_chosen), np.array(of_rejected)
    k = len(chosen)
    both = 0.4 * np.diag(np.minimum(chosen, rejected))  # sides of a pair resemble each other
    left, right = chosen - both.sum(axis=1), rejected - both.sum(axis=0)
    both = both + np.outer(left, right) / left.sum()
    rng = np.random.default_rng(20)
    said = rng.multinomial(3000, (rows.T @ both @ rows).ravel(), DRAWS).reshape(DRAWS, k, k)
    of_gold = np.full(k, 1 / k) if balanced else (chosen + rejected) / 2
    confusion = rng.multinomial(gold, (of_gold[:, None] * rows).ravel(), DRAWS).reshape(DRAWS, k, k)
    weights = np.vstack([np.eye(k), [-1, 0, 1]]) if k == 3 else np.eye(k)
    truth = np.stack([weights @ chosen, weights @ rejected, weights @ (chosen - rejected)])
    held, refused, raw = [], 0, []
    for counts, table in zip(said, confusion):
        found = by_confusion(counts, table, NAMES[:k], weights)
        raw.append([w.conf_low <= p <= w.conf_high
                    for w, p in zip((wilson(int(c), 3000) for c in counts.sum(axis=1)), chosen)])  # fmt: skip
        if found.reason:
            refused += 1
            continue
        held.append([[e.conf_low <= p <= e.conf_high for e, p in zip(side, t)]
                     for side, t in zip((found.chosen, found.rejected, found.gap), truth)])  # fmt: skip
    coverage = np.array(held).mean(axis=0)
    print(f"\n{name}: chosen {coverage[0].round(3)} rejected {coverage[1].round(3)} gap {coverage[2].round(3)}; "
          f"raw {np.mean(raw, axis=0).round(3)}; refused {refused / DRAWS:.1%}")  # fmt: skip
    assert refused < 0.05 * DRAWS
    assert 0.93 <= coverage.mean() <= 0.97, coverage
    assert coverage.min() >= 0.91, coverage
    assert np.mean(raw) < 0.6


@pytest.mark.parametrize(
    ("share", "gold", "per_prompt"), [(0.05, 100, 1), (0.05, 300, 1), (0.3, 100, 1), (0.3, 200, 4)]
)
def test_prediction_powered_intervals_cover(share: float, gold: int, per_prompt: int) -> None:
    """500 draws of 2,000 entries, gold at random (whole prompts): 93 to 97% hold the share and the gap; raw ones miss.

    With four entries a prompt the intervals may be a little wide (to 98%): few prompts tell their own variance badly.
    """
    rng = np.random.default_rng(7)
    held, raw, widths = [], 0, []
    prompts = np.repeat(np.arange(2000 // per_prompt), per_prompt)
    for _ in range(DRAWS):
        rate = rng.beta(8 * share, 8 * (1 - share), 2000 // per_prompt)[prompts] if per_prompt > 1 else share
        chosen, rejected = rng.random((2, 2000)) < np.stack([rate, np.multiply(rate, 0.7)]).reshape(2, -1)
        said = [np.where(side, rng.random(2000) < 0.8, rng.random(2000) < 0.2) for side in (chosen, rejected)]
        golden = np.isin(prompts, rng.choice(2000 // per_prompt, gold // per_prompt, replace=False))
        level = by_prediction(Sums.of(np.where(golden, chosen, np.nan), said[0].astype(float), prompts), True)
        gap_truth = chosen.astype(float) - rejected
        gap_said = said[0].astype(float) - said[1]
        gap = by_prediction(Sums.of(np.where(golden, gap_truth, np.nan), gap_said, prompts), False)
        held.append([level.value.conf_low <= share <= level.value.conf_high,
                     gap.value.conf_low <= 0.3 * share <= gap.value.conf_high])  # fmt: skip
        widths.append([level.value.conf_high - level.value.conf_low,
                       2 * 1.96 * math.sqrt(share * (1 - share) / gold)])  # fmt: skip
        naive = wilson(int(said[0].sum()), 2000)
        raw += naive.conf_low <= share <= naive.conf_high
    coverage = np.mean(held, axis=0)
    print(f"\nshare {share}, {gold} gold, {per_prompt} a prompt: level and gap {coverage}, raw {raw / DRAWS:.3f}, "
          f"mean width {np.mean(widths, axis=0).round(3)} (gold alone)")  # fmt: skip
    assert (coverage >= 0.925).all() and (coverage <= 0.985).all()
    assert raw / DRAWS < 0.6


def test_two_classes_are_rogan_and_gladen() -> None:
    """(q + specificity - 1) / (sensitivity + specificity - 1), to 1e-12, with their variance formula to 1e-12."""
    confusion = np.array([[180.0, 20.0], [15.0, 45.0]])
    specificity, sensitivity, q, n = 0.9, 0.75, 0.22, 2000
    p, covariance = delta(np.array([1 - q, q]), n, confusion)
    expected = (q + specificity - 1) / (sensitivity + specificity - 1)
    variance = (
        q * (1 - q) / n
        + expected**2 * sensitivity * (1 - sensitivity) / 60
        + (1 - expected) ** 2 * specificity * (1 - specificity) / 200
    ) / (sensitivity + specificity - 1) ** 2
    assert p[1] == pytest.approx(expected, abs=1e-12)
    assert covariance[1, 1] == pytest.approx(variance, abs=1e-12)
    said = np.array([(1 - q) * n, q * n])
    found = by_confusion(said, confusion, ("no", "yes"))
    assert found.chosen[1].estimate == pytest.approx(expected, abs=1e-9)
    assert found.gold == 260


def test_many_gold_entries_agree_with_the_delta_method() -> None:
    """With 20,000 gold entries both intervals are the same to 5% of their width."""
    truth = np.array([0.2, 0.5, 0.3])
    confusion = np.round(20_000 * truth[:, None] * SIGNED)
    said = np.round(5_000 * truth @ SIGNED)
    p, covariance = delta(said / said.sum(), said.sum(), confusion)
    found = by_confusion(said, confusion, NAMES[:3])
    for i, one in enumerate(found.chosen):
        half = 1.96 * math.sqrt(covariance[i, i])
        assert one.conf_low == pytest.approx(p[i] - half, abs=0.1 * half)
        assert one.conf_high == pytest.approx(p[i] + half, abs=0.1 * half)


def test_a_perfect_labeler_is_left_alone() -> None:
    """With hundreds of right gold entries a class and no error the corrected level is the raw one."""
    said = np.array([[300, 80], [60, 560]])
    found = by_confusion(said, np.diag([400.0, 400.0]), ("no", "yes"))
    assert found.chosen[1].estimate == pytest.approx(0.62)
    assert found.gap[1].estimate == pytest.approx(0.62 - 0.64)
    assert found.gap[1].conf_low < -0.02 < found.gap[1].conf_high


def test_each_side_its_own_confusion() -> None:
    """A labeler that misses more on rejected makes a gap where there is none; two matrices take it away."""
    chosen, rejected = np.array([[0.95, 0.05], [0.1, 0.9]]), np.array([[0.95, 0.05], [0.5, 0.5]])
    truth = np.array([0.6, 0.4])
    said = np.outer(truth @ chosen, truth @ rejected) * 10_000
    tables = [np.array([[600.0], [400.0]]) * m for m in (chosen, rejected)]
    shared = by_confusion(said, tables[0] + tables[1], ("no", "yes"))
    own = by_confusion(said, tables[0], ("no", "yes"), rejected_confusion=tables[1])
    assert shared.gap[1].conf_low > 0.1
    assert own.gap[1].conf_low < 0 < own.gap[1].conf_high
    assert own.chosen[1].estimate == pytest.approx(0.4, abs=1e-9) == own.rejected[1].estimate


def test_what_cannot_be_corrected_is_said() -> None:
    said = np.array([700.0, 200.0, 100.0])
    empty = by_confusion(said, np.array([[50.0, 5, 5], [0, 0, 0], [2, 3, 40]]), ("low", "middle", "high"))
    assert "no gold entry is middle" in empty.reason and math.isnan(empty.chosen[0].estimate)
    guesses = by_confusion(said[:2], np.array([[30.0, 30.0], [25.0, 25.0]]), ("no", "yes"))
    assert "hardly more often" in guesses.reason
    assert "no gold labels" in by_confusion(said[:2], np.zeros((2, 2)), ("no", "yes")).reason
    assert "only one class" in by_confusion(np.array([90.0, 0.0]), np.diag([10.0, 0.0]), ("no", "yes")).reason
    never = by_confusion(np.array([700.0, 0, 300]), np.array([[90.0, 0, 9], [0, 0, 0], [5, 0, 60]]), NAMES[:3])
    assert not never.reason and math.isnan(never.chosen[1].estimate) and never.chosen[2].estimate > 0
    few = by_prediction(Sums.of(np.r_[np.ones(5), np.full(95, np.nan)], np.ones(100), np.arange(100)), True)
    assert "too few" in few.reason and math.isnan(few.value.estimate)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-2, 3), min_size=2, max_size=8))
def test_simplex_is_the_nearest_point(values: list[float]) -> None:
    """Against scipy's SLSQP to 1e-4, and exactly on the simplex."""
    found = simplex(np.array(values))[0]
    assert found.min() >= 0 and found.sum() == pytest.approx(1, abs=1e-9)
    k = len(values)
    reference = optimize.minimize(lambda p: ((p - values) ** 2).sum(), np.full(k, 1 / k), bounds=[(0, 1)] * k,
                                  constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, method="SLSQP",
                                  options={"ftol": 1e-12})  # fmt: skip
    assert ((found - values) ** 2).sum() <= reference.fun + 1e-4


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10_000))
def test_levels_stay_in_range_whatever_the_counts(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, confusion = rng.integers(0, 60, (k, k)).astype(float), rng.integers(0, 12, (k, k)).astype(float)
    found = by_confusion(said, confusion + 10 * np.eye(k), NAMES[:k])
    for one in (*found.chosen, *found.rejected):
        if not math.isnan(one.estimate):
            assert 0 <= one.conf_low <= one.estimate <= one.conf_high <= 1
    for one in found.gap:
        assert math.isnan(one.estimate) or -1 <= one.conf_low <= one.estimate <= one.conf_high <= 1


def test_prediction_powered_equals_the_formula() -> None:
    """Against the PPI++ estimator written out on arrays (weight and value to 1e-12), many gold positives."""
    rng = np.random.default_rng(1)
    truth = (rng.random(4000) < 0.4).astype(float)
    said = np.where(truth > 0, rng.random(4000) < 0.8, rng.random(4000) < 0.2).astype(float)
    gold = np.arange(4000) < 1000
    found = by_prediction(Sums.of(np.where(gold, truth, np.nan), said, np.arange(4000)), True)
    y, f, g = truth[gold], said[gold], said[~gold]
    covariance = ((y - y.mean()) * (f - f.mean())).mean() / 1000
    best = covariance / (f.var() / 1000 + g.var() / 3000)
    few = min(y.sum(), 1000 - y.sum())
    weight = best * few / (few + prevalence.FEW)
    assert found.weight == pytest.approx(weight, abs=1e-12)
    assert found.value.estimate == pytest.approx(y.mean() + weight * (g.mean() - f.mean()), abs=1e-12)
    alone = wilson(int(y.sum()), 1000)
    assert found.value.conf_high - found.value.conf_low < 0.9 * (alone.conf_high - alone.conf_low)


def test_rows_of_counts() -> None:
    assert rows_of(np.array([[3.0, 1.0], [0.0, 2.0]])).tolist() == [[0.75, 0.25], [0.0, 1.0]]
