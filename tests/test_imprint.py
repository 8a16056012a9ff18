"""Imprint against outside references: pyfixest for fixed effects with clustered errors, statsmodels for the rest."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyfixest as pf
import pytest
import statsmodels.api as sm

from engine import imprint

NAMES = ("helpful", "harmless", "eloquent", "length")


def draw(n: int, seed: int, prompts: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray | None]:
    """n pairs as a long frame of 2n entries, and the differences; `prompts`: pairs share that many prompts."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.random((2, n, 3)) < 0.4, rng.random((2, n, 3)) < 0.5])[0].astype(float)
    x = np.concatenate([x, rng.normal(0, 1, (2, n, 1))], axis=2)
    cluster = rng.integers(0, prompts, n) if prompts else np.arange(n)
    shock = rng.normal(0, 1, (cluster.max() + 1, 4))[cluster]
    effect = np.array([0.8, 0.5, -0.3, 0.2])
    pair = rng.normal(0, 2, n)
    y = (x * effect).sum(2) + pair + 0.4 * (x * shock).sum(2) + rng.normal(0, 1, (2, n))
    long = pd.DataFrame({name: x[:, :, i].ravel() for i, name in enumerate(NAMES)})
    long["y"], long["pair"], long["prompt"] = y.ravel(), np.tile(np.arange(n), 2), np.tile(cluster, 2)
    return long, x[0] - x[1], y[0] - y[1], cluster if prompts else None


def patterns(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None = None) -> imprint.Patterns:
    """Identical rows (within a cluster) merged, as the SQL does."""
    keys = np.column_stack([x, clusters]) if clusters is not None else x
    unique, codes = np.unique(keys, axis=0, return_inverse=True)
    codes = codes.ravel()
    n = np.bincount(codes)
    return imprint.Patterns(
        NAMES, unique[:, : x.shape[1]], n, np.bincount(codes, y), np.bincount(codes, y * y),
        unique[:, -1] if clusters is not None else None,
    )  # fmt: skip


@pytest.mark.parametrize("prompts", [0, 90])
@pytest.mark.parametrize("seed", [1, 2])
def test_within_equals_pyfixest(prompts: int, seed: int) -> None:
    """Coefficients to 1e-8. Errors to 1e-6 once the small-sample factor of the reference is taken out."""
    long, x, y, clusters = draw(400, seed, prompts)
    x[:, 3] = x[:, 3].round(1)
    long["length"] = 0.0
    long.loc[:399, "length"] = x[:, 3]
    long["y"] = 0.0
    long.loc[:399, "y"] = y
    found = imprint.within(patterns(x, y, clusters))
    plain = pf.ssc(k_adj=False, G_adj=False)
    formula = "y ~ helpful + harmless + eloquent + length | pair"
    fit = pf.feols(formula, differenced(x, y, clusters), vcov={"CRV1": "prompt"}, ssc=plain)
    reference = fit.tidy()
    groups = found.clusters
    factor = groups / (groups - 1) * (found.n - 1) / (found.n - len(NAMES))
    for one in found.coefficients:
        row = reference.loc[one.feature]
        assert one.estimate == pytest.approx(row["Estimate"], abs=1e-8)
        assert one.std_error / math.sqrt(factor) == pytest.approx(row["Std. Error"], abs=1e-6)


def differenced(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None) -> pd.DataFrame:
    """Two entries a pair whose difference is (x, y): the chosen side holds it, the rejected side is zero."""
    n = len(y)
    frame = pd.DataFrame(np.vstack([x, np.zeros_like(x)]), columns=list(NAMES))
    frame["y"] = np.concatenate([y, np.zeros(n)])
    frame["pair"] = np.tile(np.arange(n), 2)
    frame["prompt"] = np.tile(clusters if clusters is not None else np.arange(n), 2)
    return frame


def test_compression_is_exact() -> None:
    """Patterns against single rows: coefficients and errors to 1e-10."""
    _, x, y, _ = draw(500, 3)
    x[:, 3] = np.sign(x[:, 3]).round()
    whole = imprint.within(imprint.Patterns(NAMES, x, np.ones(500, int), y, y * y))
    small = imprint.within(patterns(x, y))
    for a, b in zip(whole.coefficients, small.coefficients):
        assert (a.estimate, a.std_error, a.vif, a.n) == pytest.approx((b.estimate, b.std_error, b.vif, b.n), abs=1e-10)


def test_pooled_equals_statsmodels() -> None:
    """What the authors ran: classical least squares with an intercept, to 1e-8, R2 too."""
    long, *_ = draw(300, 4)
    x = long[list(NAMES)].to_numpy()
    found = imprint.pooled(
        imprint.Patterns(NAMES, x, np.ones(600, int), long["y"].to_numpy(), long["y"].to_numpy() ** 2)
    )
    reference = sm.OLS(long["y"], sm.add_constant(long[list(NAMES)])).fit()
    for one in found.coefficients:
        assert one.estimate == pytest.approx(reference.params[one.feature], abs=1e-8)
        assert one.std_error == pytest.approx(reference.bse[one.feature], abs=1e-8)
        assert one.p_value == pytest.approx(reference.pvalues[one.feature], abs=1e-8)
    assert found.r_squared == pytest.approx(reference.rsquared, abs=1e-8)


def test_vif_equals_statsmodels_and_what_is_dropped_is_named() -> None:
    """1e-8 against regressions without intercept; a copy and a constant are dropped."""
    _, x, y, _ = draw(300, 5)
    found = imprint.within(imprint.Patterns(NAMES, x, np.ones(300, int), y, y * y))
    for i, one in enumerate(found.coefficients):
        r_squared = sm.OLS(x[:, i], np.delete(x, i, axis=1)).fit().rsquared  # uncentred: there is no constant
        assert one.vif == pytest.approx(1 / (1 - r_squared), abs=1e-8)
    wider = np.column_stack([x, x[:, 0] + 1e-9 * x[:, 1], np.zeros(300)])
    again = imprint.within(imprint.Patterns((*NAMES, "copy", "constant"), wider, np.ones(300, int), y, y * y))
    assert "does not vary" in again.dropped["constant"]
    assert len({"copy", "helpful"} & set(again.dropped)) == 1
    assert "VIF" in next(iter(v for k, v in again.dropped.items() if k != "constant"))


def test_intervals_cover_the_truth() -> None:
    """Known effects, clustered errors: 95% intervals cover in 93 to 97% of 500 draws."""
    rng = np.random.default_rng(11)
    effect = np.array([0.5, 0.0, -0.3])
    hits = np.zeros(3)
    for _ in range(500):
        clusters = np.repeat(np.arange(120), 3)
        x = rng.integers(-1, 2, (360, 3)).astype(float)
        y = x @ effect + (x * rng.normal(0, 0.5, (120, 3))[clusters]).sum(1) + rng.normal(0, 1, 360)
        found = imprint.within(imprint.Patterns(("a", "b", "c"), x, np.ones(360, int), y, y * y, clusters))
        hits += [c.conf_low <= e <= c.conf_high for c, e in zip(found.coefficients, effect)]
    assert np.all((hits / 500 >= 0.93) & (hits / 500 <= 0.97)), hits / 500


def test_difference_of_two_models_is_linear() -> None:
    _, x, y, clusters = draw(300, 6, 60)
    rng = np.random.default_rng(0)
    other = y * 0.5 + rng.normal(0, 1, 300)
    rows = [imprint.Patterns(NAMES, x, np.ones(300, int), v, v * v, clusters) for v in (y, other, y - other)]
    one, two, both = (imprint.within(p) for p in rows)
    frame = imprint.difference(one, two, both)
    assert np.allclose(frame["estimate"], frame["one"] - frame["other"], atol=1e-10)
    assert (frame["std_error"] > 0).all()
