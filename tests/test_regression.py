"""The logit against statsmodels on the same rows: coefficients, clustered errors, effects; and its failures."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from engine import alignment, design, regression
from engine.design import Rows

NAMES = ("a", "b", "c")


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clusters = np.sort(rng.integers(0, n // 4, n))
    x = np.column_stack([rng.random(n) < 0.3, rng.integers(-1, 2, n), rng.normal(0, 1, n)]).astype(float)
    z = -0.5 + x @ [0.8, -0.4, 0.2] + rng.normal(0, 0.7, n // 4)[clusters]
    return x, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float), clusters


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("warm", [False, True])
def test_logit_equals_statsmodels(seed: int, warm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coefficients to 1e-8; clustered errors and marginal effects with their errors to 1e-6."""
    if warm:  # the start from a part of the rows, as millions of rows take it
        monkeypatch.setattr(regression, "WARM_ROWS", 300)
        monkeypatch.setattr(design, "BLOCK", 100)
    x, y, clusters = draw(1200, seed)
    found = regression.logit(Rows.of(NAMES, x, clusters).with_intercept(), y)
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14, cov_type="cluster", cov_kwds={"groups": clusters})
    assert not found.separated
    assert found.beta == pytest.approx(fit.params, abs=1e-8)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(fit.bse, abs=1e-6)
    effects = fit.get_margeff(at="overall", method="dydx")
    assert found.effects[1:] == pytest.approx(effects.margeff, abs=1e-8)
    assert np.sqrt(np.diag(found.effects_covariance))[1:] == pytest.approx(effects.margeff_se, abs=1e-6)
    assert found.log_likelihood == pytest.approx(fit.llf, abs=1e-6)
    plain = regression.logit(Rows.of(NAMES, x, clusters).with_intercept(), y, clustered=False)
    assert np.sqrt(np.diag(plain.covariance)) == pytest.approx(
        sm.Logit(y, sm.add_constant(x)).fit(disp=0).bse, abs=1e-6
    )


def test_odds_table_equals_statsmodels() -> None:
    """Odds ratios with their intervals, and McFadden's pseudo R2, to 1e-6."""
    x, y, clusters = draw(1500, 5)
    found = alignment.odds(Rows.of(NAMES, x, clusters), y)
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, cov_type="cluster", cov_kwds={"groups": clusters})
    interval = np.exp(fit.conf_int())
    for i, one in enumerate(found.odds, 1):
        assert one.odds_ratio == pytest.approx(np.exp(fit.params[i]), rel=1e-6)
        assert (one.odds_low, one.odds_high) == pytest.approx(tuple(interval[i]), rel=1e-6)
        assert one.p_value == pytest.approx(fit.pvalues[i], abs=1e-6)
    assert found.pseudo_r_squared == pytest.approx(fit.prsquared, abs=1e-6)


def test_regressors_that_cannot_be_fitted_are_named() -> None:
    """A boolean seen with one outcome only, one hardly ever seen, a constant and a copy."""
    x, y, _ = draw(800, 6)
    separated = ((y == 1) & (np.arange(800) % 2 == 0)).astype(float)
    rare = np.zeros(800)
    rare[:6] = 1
    wide = np.column_stack([x, separated, rare, np.ones(800), x[:, 2]])
    found = alignment.odds(Rows.of((*NAMES, "separated", "rare", "constant", "copy"), wide), y)
    assert set(found.dropped) == {"separated", "rare", "constant"} | (set(found.dropped) & {"c", "copy"})
    assert len({"c", "copy"} & set(found.dropped)) == 1
    assert not found.separated and {o.feature for o in found.odds} >= {"a", "b"}
    hardly = alignment.odds(Rows.of(NAMES, x), (np.arange(800) < 3).astype(float))
    assert hardly.odds == () and hardly.events == 3


def test_controls_cost_the_features_nothing() -> None:
    x, y, clusters = draw(1500, 7)
    alone = alignment.odds(Rows.of(NAMES, x, clusters), y, controls={"c"})
    p = {o.feature: o for o in alone.odds}
    assert np.isnan(p["c"].p_adjusted)
    assert min(p["a"].p_adjusted, p["b"].p_adjusted) == pytest.approx(2 * min(p["a"].p_value, p["b"].p_value))


def test_rows_held_by_columns_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    n = 3 * design.BLOCK + 11
    x = np.column_stack([rng.integers(-1, 2, n), rng.normal(size=n), np.r_[np.zeros(n - 1), 0.5], np.full(n, 300.0)])
    clusters = np.arange(n) // 2
    plain = design.Rows(("a", "b", "c", "d"), n, lambda start, stop: x[start:stop], clusters)
    monkeypatch.setattr(design, "IN_MEMORY", 10)
    held = plain.held()
    assert held.columns is not None and [c.dtype.itemsize for c in held.columns] == [1, 8, 8, 8]
    assert np.array_equal(held.block(0, n), x) and held.held() is held
    assert np.array_equal(held.keep([2, 0]).block(5, n), x[5:, [2, 0]])
    assert np.array_equal(held.with_intercept().block(0, 9)[:, 1:], x[:9])
    monkeypatch.setattr(design, "COMPACT", 100)
    assert plain.held() is plain
    y = (rng.random(n) < 0.4).astype(float)
    ours, theirs = (regression.logit(rows.keep([0, 1]), y) for rows in (held, plain))
    assert np.allclose(ours.beta, theirs.beta, atol=1e-10) and np.allclose(ours.covariance, theirs.covariance)
