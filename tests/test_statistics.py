"""Intervals, tests and frames against outside references: statsmodels, scipy, pandas. Tolerances are named."""

from __future__ import annotations

import math

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from engine import comparison, intervals, reward_frames, value_frames, values
from engine.design_frames import Part
from engine.store import migrate


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_wilson_equals_statsmodels(k: int, n: int) -> None:
    """1e-10."""
    k = min(k, n)
    found = intervals.wilson(k, n)
    low, high = proportion_confint(k, n, method="wilson")
    assert found.conf_low == pytest.approx(max(0, low), abs=1e-10)
    assert found.conf_high == pytest.approx(min(1, high), abs=1e-10)


def test_no_data_is_not_a_number() -> None:
    assert math.isnan(intervals.wilson(0, 0).estimate)
    assert math.isnan(intervals.mean_interval(1.0, 0.0, 1).conf_low)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=40))
def test_mean_interval_equals_scipy(values_: list[float]) -> None:
    """1e-8."""
    array = np.array(values_)
    found = intervals.mean_interval(array.mean(), array.var(ddof=1), len(array))
    if array.std() > 1e-6:
        low, high = stats.t.interval(0.95, len(array) - 1, array.mean(), stats.sem(array))
        assert (found.conf_low, found.conf_high) == pytest.approx((low, high), abs=1e-8)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=50)
def test_mcnemar_equals_statsmodels(b: int, c: int, rest: int) -> None:
    """p to 1e-10; the difference of shares exactly."""
    found = intervals.mcnemar(b, c, b + c + rest)
    expected = reference_mcnemar([[rest, b], [c, 0]], exact=True).pvalue if b + c else 1.0
    assert found.p_value == pytest.approx(expected, abs=1e-10)
    if b + c + rest:
        assert found.difference.estimate == pytest.approx((b - c) / (b + c + rest))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from(intervals.CORRECTIONS))
def test_corrections_equal_statsmodels_and_skip_nan(p: list[float], method: str) -> None:
    """1e-12."""
    found = intervals.correct([*p, math.nan], method)
    assert found[:-1] == pytest.approx(list(multipletests(p, method=method)[1]), abs=1e-12)
    assert math.isnan(found[-1])


@pytest.fixture
def filled() -> tuple[duckdb.DuckDBPyConnection, pd.DataFrame]:
    """A store in memory with 400 random pairs, two models, one ternary, one boolean and one category feature."""
    rng = np.random.default_rng(5)
    n = 400
    con = duckdb.connect()
    migrate(con)
    truth = pd.DataFrame(
        {
            "pair_no": range(n),
            "subset": rng.choice(["a", "b"], n),
            "c0": rng.normal(0.3, 1, n).round(1),
            "r0": rng.normal(0, 1, n).round(1),
            "c1": rng.normal(0, 2, n),
            "r1": rng.normal(0, 2, n),
        }
    )
    for feature in ("bool", "tern", "cat"):
        high = {"bool": (0, 2), "tern": (-1, 2), "cat": (0, 3)}[feature]
        for side in "cr":
            truth[f"{side}_{feature}"] = rng.integers(*high, n)
    con.execute("""
        INSERT INTO prompts SELECT i, uuid(), '[["user","hi"]]', 1 FROM range(400) t(i);
        INSERT INTO entries SELECT i, uuid(), i // 2, repeat('x', (i * 37 % 101)::INTEGER), i * 37 % 101
        FROM range(800) t(i);
        INSERT INTO features VALUES (1, 1, 0, 'bool', 'Bool', 'boolean', 'target', 'response', '[]'),
            (2, 1, 1, 'tern', 'Tern', 'ternary', 'neutral', 'response', '[]'),
            (3, 1, 2, 'cat', 'Cat', 'category', 'neutral', 'response', '["x", "y/z", "w"]')""")
    con.execute(
        """INSERT INTO pairs SELECT 1, pair_no, pair_no::VARCHAR, pair_no, pair_no * 2, pair_no * 2 + 1, subset, '',
            pair_no, NULL, 0, NULL FROM truth"""
    )
    for m in (0, 1):
        con.execute(f"""INSERT INTO rewards SELECT pair_no * 2, {m}, c{m}, NULL, false FROM truth
            UNION ALL SELECT pair_no * 2 + 1, {m}, r{m}, NULL, false FROM truth""")
    for i, feature in enumerate(("bool", "tern", "cat"), 1):
        con.execute(f"""INSERT INTO labels SELECT pair_no * 2, {i}, 1, c_{feature}, NULL FROM truth
            UNION ALL SELECT pair_no * 2 + 1, {i}, 1, r_{feature}, NULL FROM truth""")
    return con, truth


def test_alignment_counts(filled: tuple[duckdb.DuckDBPyConnection, pd.DataFrame]) -> None:
    con, truth = filled
    frame = reward_frames.alignment(con, 1, 0)
    margin = truth["c0"] - truth["r0"]
    everything = frame[frame["subset"].isna()].iloc[0]
    assert (everything.n, everything.aligned, everything.ties) == (
        400,
        (truth.c0 > truth.r0).sum(),
        (truth.c0 == truth.r0).sum(),
    )
    assert everything.sd_margin == pytest.approx(margin.std(), abs=1e-9)
    for subset in ("a", "b"):
        part = truth[truth.subset == subset]
        row = frame[frame["subset"] == subset].iloc[0]
        assert (row.n, row.aligned) == (len(part), (part.c0 > part.r0).sum())


def test_two_models_equal_pandas_and_scipy(filled: tuple[duckdb.DuckDBPyConnection, pd.DataFrame]) -> None:
    """Spearman's rho to 1e-10 with ties in one model."""
    con, truth = filled
    found = reward_frames.two_models(con, 1, 0, 1)
    m0, m1 = truth.c0 - truth.r0, truth.c1 - truth.r1
    # Rewards with one decimal: differences tie only up to floating point, in SQL and here alike.
    assert found["spearman"] == pytest.approx(stats.spearmanr(m0, m1).statistic, abs=1e-10)
    assert found["both"] == ((m0 > 0) & (m1 > 0)).sum()
    assert found["only_a"] == ((m0 > 0) & ~(m1 > 0)).sum()
    assert found["same_sign"] == (np.sign(m0) == np.sign(m1)).sum()
    table = comparison.pairwise_table(comparison.pairwise([("a", "b", found)]))
    expected = reference_mcnemar([[0, found["only_a"]], [found["only_b"], 0]], exact=True).pvalue
    assert table["p_value"].iloc[0] == pytest.approx(expected, abs=1e-10)


def test_calibration_histogram_heat_count_every_pair_once(
    filled: tuple[duckdb.DuckDBPyConnection, pd.DataFrame],
) -> None:
    con, truth = filled
    ties = int((truth.c0 == truth.r0).sum())
    assert reward_frames.calibration(con, 1, 0)["n"].sum() == 400 - ties
    histogram = reward_frames.histogram(con, 1, 1)
    assert histogram.groupby(["what", "side"])["n"].sum().eq(400).all()
    assert histogram.groupby(["what", "side"])["share"].sum().to_numpy() == pytest.approx(1)
    assert reward_frames.heat(con, 1, 1)["n"].sum() == 400
    corners = reward_frames.quadrants(con, 1, 1)
    assert corners["n"].sum() == 400 and corners["aligned"].sum() == (truth.c1 > truth.r1).sum()


def test_calibration_of_a_calibrated_model() -> None:
    """Choices drawn from the model's own Bradley-Terry probabilities: error under 0.02 at n = 40,000."""
    rng = np.random.default_rng(0)
    margin = np.abs(rng.normal(0, 2, 40_000))
    p = 1 / (1 + np.exp(-margin))
    agree = rng.random(40_000) < p
    frame = pd.DataFrame({"bin": pd.qcut(margin, 10, labels=False), "p": p, "agree": agree})
    binned = frame.groupby("bin").agg(n=("p", "size"), agree=("agree", "sum"), predicted=("p", "mean")).reset_index()
    assert comparison.calibration_error(comparison.calibration_table("m", binned)) < 0.02


def test_disputed_pairs_are_on_different_sides(filled: tuple[duckdb.DuckDBPyConnection, pd.DataFrame]) -> None:
    con, truth = filled
    found = reward_frames.most_disputed(con, 1, 0, 1, 10)
    z0 = (truth.c0 - truth.r0) / (truth.c0 - truth.r0).std()
    z1 = (truth.c1 - truth.r1) / (truth.c1 - truth.r1).std()
    width = (z0 - z1).abs()[np.sign(z0) != np.sign(z1)].sort_values(ascending=False)
    assert found["pair_no"].tolist() == width.index[:10].tolist()


def test_profile_equals_pandas(filled: tuple[duckdb.DuckDBPyConnection, pd.DataFrame]) -> None:
    """Means, gaps, the paired t-test and Wilson bounds to 1e-9."""
    con, truth = filled
    rows = {(r.name, r.class_name): r for r in values.profile(value_frames.prevalence(con, 1, 1, 1))}
    assert set(rows) == {("bool", None), ("tern", None), ("cat", "x"), ("cat", "y/z"), ("cat", "w")}
    for (name, class_name), row in rows.items():
        c, r = truth[f"c_{name}"], truth[f"r_{name}"]
        if class_name:
            k = ["x", "y/z", "w"].index(class_name)
            c, r = (c == k).astype(int), (r == k).astype(int)
        assert row.chosen.estimate == pytest.approx(c.mean(), abs=1e-9)
        assert row.gap.estimate == pytest.approx((c - r).mean(), abs=1e-9)
        assert row.p_value == pytest.approx(stats.ttest_rel(c, r).pvalue, abs=1e-9)
        if row.kind in values.SHARES:
            assert row.chosen.conf_low == pytest.approx(proportion_confint(c.sum(), 400, method="wilson")[0], abs=1e-9)
    part = {r.name: r for r in values.profile(value_frames.prevalence(con, 1, 1, 1, Part("a"))) if not r.class_name}
    assert part["bool"].chosen.estimate == pytest.approx(truth[truth.subset == "a"]["c_bool"].mean())


def test_cooccurrence_equals_numpy(filled: tuple[duckdb.DuckDBPyConnection, pd.DataFrame]) -> None:
    """Pearson correlations over the 800 entries to 1e-9."""
    con, truth = filled
    found = value_frames.cooccurrence(con, 1, 1, 1).set_index(["a", "b"])
    b = np.concatenate([truth.c_bool, truth.r_bool])
    t = np.concatenate([truth.c_tern, truth.r_tern])
    x = np.concatenate([truth.c_cat, truth.r_cat]) == 0
    assert found.loc[("Bool", "Tern"), "phi"] == pytest.approx(np.corrcoef(b, t)[0, 1], abs=1e-9)
    assert found.loc[("x", "Bool"), "phi"] == pytest.approx(np.corrcoef(x, b)[0, 1], abs=1e-9)
    assert found.loc[("Bool", "x"), "both"] == (x & (b > 0)).sum()


def test_compare_is_the_difference_with_a_wider_interval(
    filled: tuple[duckdb.DuckDBPyConnection, pd.DataFrame],
) -> None:
    con, _ = filled
    a = values.profile(value_frames.prevalence(con, 1, 1, 1, Part("a")))
    b = values.profile(value_frames.prevalence(con, 1, 1, 1, Part("b")))
    found = values.compare(a, b).set_index("title")
    own = {r.title: r.chosen for r in a}
    for title, row in found.iterrows():
        assert row.estimate == pytest.approx(row.one - row.other)
        assert row.conf_high - row.conf_low > own[str(title)].conf_high - own[str(title)].conf_low


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=4, max_size=4))
def test_kappa_equals_scikit_learn(cells: list[int]) -> None:
    """Cohen's kappa to 1e-10 against scikit-learn on the same cases; the interval holds it; NaN without variation."""
    from sklearn.metrics import cohen_kappa_score

    from engine.intervals import kappa

    a, b, c, d = cells
    found = kappa([[a, b], [c, d]])
    one, other = [0] * (a + b) + [1] * (c + d), [0] * a + [1] * b + [0] * c + [1] * d
    assert found.n == len(one)
    if len(set(one) | set(other)) < 2 or not one:
        assert math.isnan(found.estimate)
        return
    expected = cohen_kappa_score(one, other)
    assert found.estimate == pytest.approx(expected, abs=1e-10) or math.isnan(expected)
    assert found.conf_low <= found.estimate + 1e-12 and found.estimate <= found.conf_high + 1e-12
