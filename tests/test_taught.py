"""What a preference teaches, against statsmodels' conditional logit, on invented pairs with known odds."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.discrete.conditional_models import ConditionalLogit

from engine.design import Array, Rows
from engine.regression import logit, sign_logits
from engine.taught import taught


def pairs(n: int, seed: int, beta: Array, per_prompt: int = 1) -> tuple[Array, Array, Array]:
    """Two sides' features with the chosen one drawn by the model, and the prompt of each pair."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-1, 2, (n, len(beta))).astype(float), rng.integers(-1, 2, (n, len(beta))).astype(float)
    first = rng.random(n) < 1 / (1 + np.exp(-(a - b) @ beta))
    chosen, rejected = np.where(first[:, None], a, b), np.where(first[:, None], b, a)
    return chosen, rejected, np.arange(n) // per_prompt


def reference(chosen: Array, rejected: Array) -> tuple[Array, Array]:
    """Estimates and classical errors of statsmodels' conditional logit, a pair a group."""
    n = len(chosen)
    choice, group = np.r_[np.ones(n), np.zeros(n)], np.r_[np.arange(n), np.arange(n)]
    model = ConditionalLogit(choice, np.vstack([chosen, rejected]), groups=group)
    found = model.fit(disp=0, method="newton", tol=1e-12)
    return np.asarray(found.params), np.asarray(found.bse)


def test_equals_statsmodels_conditional_logit() -> None:
    """Estimates to 1e-6; robust errors, where the model is right, within a tenth of the classical ones."""
    beta = np.array([0.8, -0.4, 0.0])
    chosen, rejected, prompts = pairs(1500, 0, beta)
    found = taught(Rows.of(("a", "b", "c"), chosen - rejected, prompts))
    expected, errors = reference(chosen, rejected)
    assert [one.estimate for one in found.lessons] == pytest.approx(expected.tolist(), abs=1e-6)
    assert [one.std_error for one in found.lessons] == pytest.approx(errors.tolist(), rel=0.1)
    single, _ = reference(chosen[:, :1], rejected[:, :1])
    assert found.lessons[0].alone == pytest.approx(float(single[0]), abs=1e-6)
    assert found.lessons[0].odds_ratio == pytest.approx(math.exp(expected[0]), abs=1e-5)
    differ = chosen[:, 0] != rejected[:, 0]
    assert found.lessons[0].n == differ.sum()
    assert found.lessons[0].towards == (chosen[:, 0] > rejected[:, 0]).sum()


def test_robust_errors_equal_statsmodels_sandwich() -> None:
    """1e-6 against statsmodels' logit on differences with cov_type cluster, three pairs a prompt."""
    import statsmodels.api as sm

    chosen, rejected, prompts = pairs(1200, 1, np.array([0.5, 0.2]), per_prompt=3)
    x = chosen - rejected
    flip = (
        np.random.default_rng(2).random(1200) < 0.5
    )  # statsmodels wants both outcomes: the mirrored pair says the same
    signed = np.where(flip[:, None], -x, x)
    expected = sm.Logit((~flip).astype(float), signed).fit(
        disp=0, tol=1e-12, cov_type="cluster", cov_kwds={"groups": prompts}
    )
    found = taught(Rows.of(("a", "b"), x, prompts))
    assert [one.estimate for one in found.lessons] == pytest.approx(expected.params.tolist(), abs=1e-6)
    assert [one.std_error for one in found.lessons] == pytest.approx(expected.bse.tolist(), abs=1e-6)
    assert found.clusters == 400


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(20, 400), st.booleans())
def test_a_sign_by_itself_has_a_closed_form(seed: int, n: int, clustered: bool) -> None:
    """sign_logits against the fitted logit with clusters of one to five rows: 1e-6; other columns are left to it."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.choice([-1, 0, 1], n, p=p) for p in ([0.2, 0.5, 0.3], [0.4, 0.2, 0.4])]).astype(float)
    x[:2], x[2:4] = 1, -1
    x = np.column_stack([x, rng.normal(size=n), np.abs(x[:, 0])])
    clusters = np.sort(rng.integers(0, max(2, n // 3), n)) if clustered else None
    rows = Rows.of(["a", "b", "length", "one way"], x, clusters)
    betas, errors = sign_logits(rows)
    assert np.isnan(betas[2:]).all() and np.isnan(errors[2:]).all()
    for i in range(2):
        fitted = logit(rows.keep([i]), np.ones(n))
        assert betas[i] == pytest.approx(fitted.beta[0], abs=1e-6)
        assert errors[i] == pytest.approx(np.sqrt(fitted.covariance[0, 0]), rel=1e-6)


def test_length_held_equal_takes_away_what_length_explains() -> None:
    """A value that only goes with length is taught alone, and not with length held equal."""
    rng = np.random.default_rng(3)
    length = rng.normal(0, 1, 4000)
    value = np.sign(length + rng.normal(0, 1.5, 4000)) * (rng.random(4000) < 0.4)
    flip = rng.random(4000) > 1 / (1 + np.exp(-length))
    x = np.where(flip[:, None], -1, 1) * np.column_stack([value, length])
    found = taught(Rows.of(("value", "length"), x), controls=("length",))
    value_row, length_row = found.lessons
    assert value_row.alone_low > 0.2
    assert value_row.conf_low < 0 < value_row.conf_high
    assert length_row.feature == "length" and math.isnan(length_row.p_adjusted)


def test_intervals_cover() -> None:
    """The truth lies in 92 to 98% of 300 draws' intervals (600 pairs each)."""
    beta = np.array([0.6, -0.3, 0.0])
    hits = np.zeros(3)
    for seed in range(300):
        chosen, rejected, prompts = pairs(600, 100 + seed, beta)
        found = taught(Rows.of(("a", "b", "c"), chosen - rejected, prompts))
        hits += [one.conf_low <= b <= one.conf_high for one, b in zip(found.lessons, beta)]
    assert (hits / 300 > 0.92).all() and (hits / 300 < 0.98).all(), hits / 300


def test_classes_stand_against_their_average() -> None:
    """Sum-to-zero: the classes' estimates sum to 0, their differences are those of any coding, to 1e-6."""
    rng = np.random.default_rng(4)
    worth = np.array([0.5, 0.0, -0.2, -0.3])
    a, b = rng.choice(4, 3000, p=[0.5, 0.3, 0.15, 0.05]), rng.choice(4, 3000, p=[0.5, 0.3, 0.15, 0.05])
    first = rng.random(3000) < 1 / (1 + np.exp(-(worth[a] - worth[b])))
    dummies = np.eye(4)
    x = np.where(first[:, None], 1, -1) * (dummies[a] - dummies[b])
    names = ("v=a", "v=b", "v=c", "v=d")
    found = {one.feature: one for one in taught(Rows.of(names, x), classes=names).lessons}
    assert sum(one.estimate for one in found.values()) == pytest.approx(0, abs=1e-9)
    against_first, _ = reference(np.where(x > 0, 1.0, 0.0)[:, 1:], np.where(x < 0, 1.0, 0.0)[:, 1:])
    for name, expected in zip(names[1:], against_first):
        assert found[name].estimate - found["v=a"].estimate == pytest.approx(expected, abs=1e-6)
    assert found["v=a"].n == (x[:, 0] != 0).sum()


def test_what_cannot_be_estimated_is_left_out_with_the_reason() -> None:
    rng = np.random.default_rng(5)
    x = np.zeros((500, 5))
    x[:, 0] = rng.integers(-1, 2, 500)
    x[:12, 1] = 1
    x[:60, 2] = 1
    x[:, 4] = x[:, 0]
    found = taught(Rows.of(("good", "rare", "one way", "constant", "copy"), x))
    assert len(found.lessons) == 1
    assert "12 pairs only" in found.dropped["rare"]
    assert "chosen side" in found.dropped["one way"]
    assert "0 pairs only" in found.dropped["constant"]
    assert "VIF" in (found.dropped.get("copy") or found.dropped.get("good") or "")


def test_joint_separation_is_said() -> None:
    """Each feature goes both ways, their sum never does: one of them has to go."""
    x = np.vstack([np.tile([2.0, -1.0], (60, 1)), np.tile([-1.0, 2.0], (60, 1))])
    found = taught(Rows.of(("a", "b"), x))
    assert len(found.lessons) == 1
    assert "predicts every choice" in "".join(found.dropped.values())


@pytest.mark.parametrize("n", [0, 2])
def test_too_few_pairs(n: int) -> None:
    assert taught(Rows.of(("a", "b", "c"), np.ones((n, 3)))).lessons == ()


def test_speed_at_the_size_of_hh_rlhf() -> None:
    """160,800 pairs, 12 features: a few seconds on a laptop."""
    chosen, rejected, prompts = pairs(160_800, 6, np.linspace(-0.3, 0.3, 12))
    began = time.monotonic()
    found = taught(Rows.of([f"f{i}" for i in range(12)], chosen - rejected, prompts))
    assert found.n == 160_800 and len(found.lessons) == 12
    assert time.monotonic() - began < 20
