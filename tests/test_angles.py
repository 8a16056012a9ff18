"""Angles against the paper's form and scipy's circular statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from engine import angles

points = arrays(
    float,
    st.tuples(st.integers(1, 30), st.just(2)),
    elements=st.floats(-50, 50).filter(lambda v: v == 0 or abs(v) > 1e-3),
)


@given(points, st.integers(0, 2**31))
def test_angle_is_the_papers(before: np.ndarray, seed: int) -> None:
    """sign(u x v) * arccos of the cosine, to 1e-5 degrees (arccos itself is no better near 0 and 180)."""
    after = np.random.default_rng(seed).normal(0, 3, before.shape)
    found = angles.shift_angle(before, after)
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    for i in range(len(before)):
        if norms[i] == 0:
            assert math.isnan(found[i])
            continue
        cosine = np.clip(before[i] @ after[i] / norms[i], -1, 1)
        cross = before[i, 0] * after[i, 1] - before[i, 1] * after[i, 0]
        expected = math.degrees(math.acos(cosine)) * (1 if cross >= 0 else -1)
        assert -180 < found[i] <= 180
        assert abs((found[i] - expected + 180) % 360 - 180) < 1e-5


def test_parallel_opposite_and_missing() -> None:
    u = np.array([[1.0, 3.0], [0.1, 0.3], [1.0, 3.0], [0.0, 0.0], [np.nan, 1.0]])
    v = np.array([[2.0, 6.0], [0.3, 0.9], [-2.0, -6.0], [1.0, 1.0], [1.0, 1.0]])
    found = angles.shift_angle(u, v)
    assert found[:3] == pytest.approx([0, 0, 180], abs=1e-9) and np.isnan(found[3:]).all()
    assert angles.circular(found).missing == 2 and angles.circular(found).mean.n == 3


@pytest.mark.parametrize("seed", [1, 2])
def test_circular_equals_scipy(seed: int) -> None:
    """Mean and standard deviation to 1e-8, with angles on both sides of the cut."""
    drawn = np.degrees(stats.vonmises.rvs(2.0, loc=3.0, size=500, random_state=seed))
    found = angles.circular(drawn)
    mean = stats.circmean(drawn, high=180, low=-180)
    assert found.mean.estimate == pytest.approx(mean, abs=1e-8)
    assert found.spread == pytest.approx(stats.circstd(drawn, high=180, low=-180), abs=1e-8)
    assert found.linear_mean == pytest.approx(drawn.mean())


def test_circular_interval_covers() -> None:
    """1,000 draws from a von Mises distribution: the 95% interval covers the true direction in 93 to 97%."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(1000):
        one = angles.circular(np.degrees(rng.vonmises(0.5, 1.2, 200))).mean
        hits += one.conf_low <= math.degrees(0.5) <= one.conf_high
    assert 930 <= hits <= 970, hits


@given(arrays(float, st.integers(1, 50), elements=st.floats(-180, 180, exclude_min=True)))
def test_every_angle_is_in_its_sector(drawn: np.ndarray) -> None:
    table = angles.histogram(drawn)
    assert table["n"].sum() == len(drawn)
    for row in table.itertuples():
        assert row.n == int(((drawn > row.low) & (drawn <= row.high)).sum())


def test_a_constant_moves_the_angle_but_not_the_margin() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(0, 1, (400, 2)), rng.normal(0, 1, (400, 2))
    table = angles.sensitivity(before, after)
    assert table["constant"].tolist() == list(angles.CONSTANTS)
    assert table["estimate"].max() - table["estimate"].min() > 10
    middle = table.set_index("constant").loc[0.0]
    assert middle["estimate"] == pytest.approx(angles.circular(angles.shift_angle(before, after)).mean.estimate)


def test_quadrants_add_up() -> None:
    rewards = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 2.0], [0.0, -1.0], [np.nan, 1.0]])
    table = angles.quadrants(rewards)
    assert dict(zip(table["chosen"] + table["rejected"], table["n"])) == {"++": 1, "-+": 1, "+-": 1, "--": 1}
