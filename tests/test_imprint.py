"""Imprint against outside references: pyfixest for fixed effects with clustered errors, statsmodels for the rest."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyfixest as pf
import pytest
import statsmodels.api as sm

from engine import design, imprint
from engine.design import Rows

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


def rows(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None = None) -> tuple[Rows, np.ndarray]:
    """The rows in cluster order, and y with them."""
    if clusters is None:
        return Rows.of(NAMES, x), y
    order = np.argsort(clusters, kind="stable")
    return Rows.of(NAMES, x[order], clusters[order]), y[order]


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
    found = imprint.within(*rows(x, y, clusters))
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


@pytest.mark.parametrize("block", [7, 64])
def test_blocks_are_exact(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block at a time, clusters never cut, against all rows at once: coefficients and errors to 1e-10."""
    _, x, y, clusters = draw(500, 3, 80)
    whole = imprint.within(*rows(x, y, clusters))
    monkeypatch.setattr(design, "BLOCK", block)
    small = imprint.within(*rows(x, y, clusters))
    assert len(list(rows(x, y, clusters)[0].spans())) > 5
    for a, b in zip(whole.coefficients, small.coefficients):
        assert (a.estimate, a.std_error, a.vif, a.n) == pytest.approx((b.estimate, b.std_error, b.vif, b.n), abs=1e-10)


def test_cluster_bootstrap_agrees_with_the_sandwich() -> None:
    """2,000 replicates: widths of the percentile intervals within 15% of the analytic ones, for every feature."""
    _, x, y, clusters = draw(600, 8, 150)
    data, sorted_y = rows(x, y, clusters)
    found = imprint.within(data, sorted_y)
    table = imprint.bootstrapped(found, data, sorted_y, replicates=2000, seed=1)
    ratio = (table["boot_high"] - table["boot_low"]) / (table["conf_high"] - table["conf_low"])
    assert ratio.between(0.85, 1.15).all(), ratio.tolist()


def test_pooled_equals_statsmodels() -> None:
    """What the authors ran: classical least squares with an intercept, to 1e-8, R2 too."""
    long, *_ = draw(300, 4)
    x = long[list(NAMES)].to_numpy()
    found = imprint.pooled(Rows.of(NAMES, x), long["y"].to_numpy())
    reference = sm.OLS(long["y"], sm.add_constant(long[list(NAMES)])).fit()
    for one in found.coefficients:
        assert one.estimate == pytest.approx(reference.params[one.feature], abs=1e-8)
        assert one.std_error == pytest.approx(reference.bse[one.feature], abs=1e-8)
        assert one.p_value == pytest.approx(reference.pvalues[one.feature], abs=1e-8)
    assert found.r_squared == pytest.approx(reference.rsquared, abs=1e-8)


def test_vif_equals_statsmodels_and_what_is_dropped_is_named() -> None:
    """1e-8 against regressions without intercept; a copy and a constant are dropped."""
    _, x, y, _ = draw(300, 5)
    found = imprint.within(Rows.of(NAMES, x), y)
    for i, one in enumerate(found.coefficients):
        r_squared = sm.OLS(x[:, i], np.delete(x, i, axis=1)).fit().rsquared  # uncentred: there is no constant
        assert one.vif == pytest.approx(1 / (1 - r_squared), abs=1e-8)
    wider = np.column_stack([x, x[:, 0] + 1e-9 * x[:, 1], np.zeros(300)])
    again = imprint.within(Rows.of((*NAMES, "copy", "constant"), wider), y)
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
        found = imprint.within(Rows.of(("a", "b", "c"), x, clusters), y)
        hits += [c.conf_low <= e <= c.conf_high for c, e in zip(found.coefficients, effect)]
    assert np.all((hits / 500 >= 0.93) & (hits / 500 <= 0.97)), hits / 500


def test_difference_of_two_models_is_linear() -> None:
    _, x, y, clusters = draw(300, 6, 60)
    rng = np.random.default_rng(0)
    other = y * 0.5 + rng.normal(0, 1, 300)
    one, two, both = (imprint.within(*rows(x, v, clusters)) for v in (y, other, y - other))
    frame = imprint.difference(one, two, both)
    assert np.allclose(frame["estimate"], frame["one"] - frame["other"], atol=1e-10)
    assert (frame["std_error"] > 0).all()


def test_joint_as_the_authors_counts_the_intercept_among_its_tests() -> None:
    """Classical errors against statsmodels to 1e-8; Bonferroni over k + 1 coefficients."""
    long, *_ = draw(300, 9)
    x = long[list(NAMES)].to_numpy()
    found = imprint.joint(Rows.of(NAMES, x), long[["y"]].to_numpy(), authors=True)[0]
    reference = sm.OLS(long["y"], sm.add_constant(long[list(NAMES)])).fit()
    for one in found.coefficients:
        assert one.std_error == pytest.approx(reference.bse[one.feature], abs=1e-8)
        assert one.p_adjusted == pytest.approx(min(1, 5 * reference.pvalues[one.feature]), abs=1e-8)
    clustered = imprint.joint(Rows.of(NAMES, x, np.repeat(np.arange(100), 6)), long[["y"]].to_numpy())[0]
    groups = {"groups": np.repeat(np.arange(100), 6)}
    robust = sm.OLS(long["y"], sm.add_constant(long[list(NAMES)])).fit(cov_type="cluster", cov_kwds=groups)
    for one in clustered.coefficients:
        assert one.std_error == pytest.approx(robust.bse[one.feature], abs=1e-8)


def test_rare_features_get_no_verdict() -> None:
    """Varying in fewer than 30 pairs: an estimate, but no corrected p, and no weight in the others' correction."""
    _, x, y, _ = draw(400, 10)
    rare = np.zeros((400, 1))
    rare[:5] = 1
    found = imprint.within(Rows.of((*NAMES, "rare"), np.hstack([x, rare])), y)
    assert math.isnan(found.coefficients[-1].p_adjusted) and found.coefficients[-1].n == 5
    largest = max(found.coefficients[:-1], key=lambda c: c.p_value)
    smallest = min(found.coefficients[:-1], key=lambda c: c.p_value)
    assert smallest.p_adjusted == pytest.approx(min(1.0, 4 * smallest.p_value), rel=1e-9)
    assert largest.p_adjusted >= largest.p_value
