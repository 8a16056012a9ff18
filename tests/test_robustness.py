"""Robustness: SEAL's published odds ratios, flips by their sign, Eq 4 against statsmodels, the authors' mode."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import Table2x2

from engine import robustness
from engine.design import Column, Design, Reworded

WORD = Column("warm", "Warm", "boolean", "spoiler", "response", "warm", 0, 0, 0, 1)
MOOD = Column("mood", "Mood", "ternary", "spoiler", "response", "mood", 0, 0, 1, 2, -1)


def design(warm: np.ndarray, mood: np.ndarray, rewards: np.ndarray) -> Design:
    """Pairs with a boolean and a ternary packed as the store packs them. Arrays are (n, 2)."""
    n = len(warm)
    words = (warm.astype(np.uint64) | ((mood + 1).astype(np.uint64) << np.uint64(1)))[:, :, None]
    return Design(
        np.arange(n), np.arange(n), np.zeros(n, np.int16), ("",), np.ones((n, 2), np.int32), words,
        np.zeros((n, 2, 0), np.float32), np.ones((n, 1), bool), rewards[:, :, None], ("m",), (WORD, MOOD), ("s",),
    )  # fmt: skip


def draw(n: int, seed: int) -> tuple[Reworded, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    warm, mood = rng.integers(0, 2, (n, 2)), rng.integers(-1, 2, (n, 2))
    warm_after = np.where(rng.random((n, 2)) < 0.2, 1 - warm, warm)
    mood_after = np.where(rng.random((n, 2)) < 0.2, rng.integers(-1, 2, (n, 2)), mood)
    before = rng.normal([0.3, 0], 1, (n, 2))
    after = before + 0.5 * (warm_after - warm) + 0.3 * (mood_after - mood) + rng.normal(0, 0.4, (n, 2))
    pairs = Reworded(design(warm, mood, before), design(warm_after, mood_after, after), np.full((n, 2), 0.9))
    return pairs, before, after


@pytest.mark.parametrize(
    ("fell", "of", "fell_same", "of_same", "ratio"), [(17, 79, 142, 1423, 2.47), (21, 112, 137, 1402, 2.13)]
)
def test_published_odds_ratios(fell: int, of: int, fell_same: int, of_same: int, ratio: float) -> None:
    """From SEAL's printed flip tables: chosen less positive 2.47, rejected more positive 2.13; interval as
    statsmodels', to 1e-10."""
    found = robustness.odds_ratio(fell, of - fell, fell_same, of_same - fell_same)
    assert found[0] == pytest.approx(ratio, abs=5e-3)
    table = Table2x2([[fell, of - fell], [fell_same, of_same - fell_same]])
    assert found == pytest.approx((table.oddsratio, *table.oddsratio_confint()), rel=1e-10)
    assert np.isnan(robustness.odds_ratio(0, 3, 4, 5)[0])


def test_a_flip_is_rewritten_minus_original() -> None:
    """A feature that the reworded text has and the original had not is gained, on the side that was reworded."""
    rewards = np.zeros((2, 2))
    plain = np.zeros((2, 2), int)
    warm = np.array([[1, 0], [0, 0]])
    mood = np.array([[0, -1], [0, 0]])
    similarity = np.array([[0.9, 0.8], [np.nan, 0.7]])
    pairs = Reworded(design(plain, plain, rewards), design(warm, mood, rewards), similarity)
    table = robustness.flip_table(pairs, [WORD, MOOD]).set_index(["feature", "side"])
    assert table.loc[("warm", "chosen"), ["n", "gained", "lost"]].tolist() == [1, 1, 0]
    assert table.loc[("mood", "rejected"), ["n", "gained", "lost"]].tolist() == [2, 0, 1]
    assert pairs.least_similar().tolist() == pytest.approx([0.8, 0.7])


def test_alignment_change_counts_by_hand() -> None:
    before = np.array([[1, 0], [1, 0], [0, 1], [0, 0], [2, 1]], float)
    after = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [1, 1]], float)
    one = robustness.alignment_change("m", before, after)
    assert (one.before.estimate, one.after.estimate) == (0.6, 0.6)
    assert (one.became_misaligned, one.became_aligned) == (2, 2)
    assert one.changed.estimate == 0.8
    assert one.test.p_value == 1.0


def test_eq_4_is_a_logit_on_pairs_that_were_aligned() -> None:
    """Against statsmodels on dummies made by hand, HC1-like errors of single-pair clusters: 1e-6."""
    pairs, before, after = draw(16000, 1)
    found = robustness.resistance_after_rewording(pairs, [WORD, MOOD], before, after)
    was = before[:, 0] > before[:, 1]
    change = {(c.name, side): (pairs.flip(c, side))[was] for c in (WORD, MOOD) for side in ("chosen", "rejected")}
    x = pd.DataFrame(
        {f"{name} {word} ({side})": sign * values > 0
         for (name, side), values in change.items() for word, sign in (("gained", 1), ("lost", -1))}
    ).astype(float)  # fmt: skip
    y = (~(after[was, 0] > after[was, 1])).astype(float)
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, cov_type="cluster", cov_kwds={"groups": np.arange(len(y))})
    assert found.n == was.sum() and found.events == y.sum()
    for one in found.odds:
        name = f"{one.feature} ({one.side})"
        assert one.estimate == pytest.approx(fit.params[name], abs=1e-6)
        assert one.std_error == pytest.approx(fit.bse[name], abs=1e-6)
    assert len(found.odds) == 8


def test_the_authors_mode_counts_pairs_that_could_not_fall() -> None:
    """Linear, all pairs, classical errors: against statsmodels' OLS to 1e-8; its n is larger than the logit's."""
    pairs, before, after = draw(1500, 2)
    found = robustness.as_the_authors(pairs, [WORD], before, after)
    y = ((before[:, 0] > before[:, 1]) & ~(after[:, 0] > after[:, 1])).astype(float)
    columns = [s * pairs.flip(WORD, side) > 0 for side in ("chosen", "rejected") for s in (1, -1)]
    fit = sm.OLS(y, sm.add_constant(np.column_stack(columns).astype(float))).fit()
    assert [c.estimate for c in found.coefficients] == pytest.approx(fit.params[1:].tolist(), abs=1e-8)
    assert [c.std_error for c in found.coefficients] == pytest.approx(fit.bse[1:].tolist(), abs=1e-8)
    assert found.n == 1500 > robustness.resistance_after_rewording(pairs, [WORD], before, after).n


def test_margin_change_finds_what_was_planted() -> None:
    """Known effects 0.5 and 0.3 on the chosen side, their negatives on the rejected: 3 standard errors."""
    pairs, before, after = draw(6000, 3)
    found = {c.feature: c for c in robustness.margin_change(pairs, [WORD, MOOD], before, after, 1.0).coefficients}
    truth = {"warm (chosen)": 0.5, "warm (rejected)": -0.5, "mood (chosen)": 0.3, "mood (rejected)": -0.3}
    for name, effect in truth.items():
        assert abs(found[name].estimate - effect) < 3 * found[name].std_error


def test_cells_and_threshold() -> None:
    pairs, before, after = draw(800, 4)
    was, now = before[:, 0] > before[:, 1], after[:, 0] > after[:, 1]
    cells = {(c.feature, c.side, c.direction): c for c in robustness.cells(pairs, [WORD], before, after)}
    mask = was & (pairs.flip(WORD, "chosen") < 0)
    one = cells["warm", "chosen", "lost"]
    assert (one.n, one.misaligned) == (mask.sum(), (mask & ~now).sum())
    assert sum(c.n for key, c in cells.items() if key[1] == "chosen") == was.sum()
    half = Reworded(
        pairs.original, pairs.rewritten, np.where(np.arange(800)[:, None] < 300, 0.95, 0.5) * np.ones((1, 2))
    )
    curve = robustness.by_threshold(half, before, after, (0.0, 0.9, 0.99)).set_index(["threshold", "when"])
    assert curve["n"].tolist() == [800, 800, 300, 300, 0, 0]
    assert curve.loc[(0.9, "original"), "estimate"] == pytest.approx(was[:300].mean())
