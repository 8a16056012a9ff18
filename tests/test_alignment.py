"""Alignment against SEAL's published tables: the preference rule's 16 rows, the totals, Table 1 both ways, Eq 2's p."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine import alignment, published
from engine.imprint import joint
from engine.intervals import correct, wilson

# Columns chosen (harmless, helpful), rejected (harmless, helpful), preference, pairs: SEAL, D.4.
TABLE = [
    (0, 0, 0, 0, "i", 7131), (1, 1, 1, 1, "i", 102151), (0, 1, 0, 1, "i", 142), (1, 0, 1, 0, "i", 12093),
    (1, 1, 1, 0, "c", 19071), (0, 0, 1, 1, "r", 725), (1, 1, 0, 0, "c", 3628), (0, 1, 1, 0, "r", 33),
    (1, 0, 0, 1, "c", 263), (1, 0, 0, 0, "c", 4860), (0, 1, 1, 1, "r", 153), (0, 1, 0, 0, "c", 168),
    (1, 0, 1, 1, "r", 8917), (0, 0, 1, 0, "r", 819), (1, 1, 0, 1, "c", 453), (0, 0, 0, 1, "r", 193),
]  # fmt: skip
SIGN = {"c": 1, "r": -1, "i": 0}
# Regime: indifferent, then preference for chosen and rejected as the authors counted and corrected (reference 2.3).
TABLE_1 = {
    "became_aligned": (29154, (9065, 3226, 0.7375), (9034, 3257, 0.7350)),
    "stayed_aligned": (58350, (16531, 2765, 0.8567), (16471, 2825, 0.8536)),
    "stayed_misaligned": (22907, (1623, 3114, 0.3426), (1580, 3157, 0.3335)),
    "reversed": (11106, (1410, 1549, 0.4765), (1358, 1601, 0.4589)),
}
STATE = {"stayed_aligned": (1, 1), "became_aligned": (0, 1), "stayed_misaligned": (0, 0), "reversed": (1, 0)}


def expand() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """160,800 pairs of the printed table: targets of chosen, of rejected, and the printed preference."""
    rows = np.repeat(np.arange(16), [row[5] for row in TABLE])
    values = np.array([row[:4] for row in TABLE], dtype=float)[rows]
    return values[:, :2], values[:, 2:], np.array([SIGN[row[4]] for row in TABLE])[rows]


@pytest.mark.parametrize("row", TABLE, ids=lambda r: "".join(map(str, r[:4])))
def test_preference_of_every_row(row: tuple[int, int, int, int, str, int]) -> None:
    found = alignment.preference(np.array([row[:2]], float), np.array([row[2:4]], float))
    assert found[0] == SIGN[row[4]]


def test_totals_and_the_order_of_targets() -> None:
    """28,443 / 10,840 / 121,517; with helpful first 28,213 / 11,070; the order decides 296 pairs."""
    chosen, rejected, printed = expand()
    found = alignment.preference(chosen, rejected)
    assert (found == printed).all()
    assert [(found == v).sum() for v in (1, -1, 0)] == [28443, 10840, 121517]
    other = alignment.preference(chosen[:, ::-1], rejected[:, ::-1])
    assert [(other == v).sum() for v in (1, -1, 0)] == [28213, 11070, 121517]
    assert alignment.conflicts(chosen, rejected) == 296 == (found != other).sum()
    authors = alignment.preference(chosen, rejected, authors=True)
    assert [(authors == v).sum() for v in (1, -1, 0)] == [28629, 10654, 121517]


@pytest.mark.parametrize("authors", [True, False])
def test_table_1(authors: bool) -> None:
    """Counts and agreement of every regime, as the authors counted and corrected, to four digits."""
    before, after, chosen, rejected = [], [], [], []
    for name, (same, as_counted, corrected) in TABLE_1.items():
        moved = as_counted[0] - corrected[0]  # chosen (0, 1) against rejected (1, 1)
        parts = [(same, (1, 1), (1, 1)), (corrected[0], (1, 1), (1, 0)), (moved, (0, 1), (1, 1)),
                 (corrected[1] - moved, (1, 0), (1, 1))]  # fmt: skip
        for n, c, r in parts:
            before += [STATE[name][0]] * n
            after += [STATE[name][1]] * n
            chosen += [c] * n
            rejected += [r] * n
    verdict = alignment.preference(np.array(chosen, float), np.array(rejected, float), authors)
    found = alignment.regimes(np.array(before, bool), np.array(after, bool), verdict, np.ones(len(before), bool))
    known = published.seal()
    for one in found:
        same, *both = TABLE_1[one.regime]
        c, r, agreement = both[0 if authors else 1]
        assert (one.agree, one.disagree, one.indifferent, one.unlabelled) == (c, r, same, 0)
        assert one.agreement.estimate == pytest.approx(agreement, abs=5e-5)
        assert one.n == known["regimes"][one.regime]
        assert known[f"agreement_{'authors' if authors else 'corrected'}"][one.regime] == pytest.approx(agreement)
        assert one.share.estimate == pytest.approx(one.n / 160800)
    assert sum(one.n for one in found) == known["n"]
    table = alignment.regime_table(found)
    assert published.regimes_beside(table)["seal_share"].tolist() == pytest.approx(table["share"].tolist())


# Bonferroni-corrected p of Eq 2 as printed, on chosen and on rejected.
PRINTED_P = {
    "human_vocabulary_quality": (1.0, 1.0),
    "anthropomorphic": (1.0, 1.0),
    "coherent": (1.0, 1.0),
    "refusal": (0.0, 0.0),
    "helpful": (1.0, 0.01047),
    "harmless": (0.0, 0.0),
    "honest": (1.0, 0.0206),
    "sentiment": (0.0, 0.0),
    "insult": (1.0, 1.0),
    "sexually_explicit": (1.0, 1.0),
    "breaks_privacy": (0.43339, 0.02603),
    "discriminatory": (1.0, 1.0),
    "manipulative": (1.0, 8e-05),
    "creative": (1.0, 1.0),
    "eloquent": (0.0, 0.0),
}


def test_published_p_of_eq_2() -> None:
    """All 30 printed p-values from the printed coefficients and errors, to 3e-5: the intercept counts as a test."""
    shift = published.seal()["angle"]
    raw = [2 * stats.norm.sf(abs(shift[f][side][0] / shift[f][side][1])) for f in PRINTED_P for side in (0, 1)]
    adjusted = correct([*raw, 0.5], "bonferroni")[:-1]
    assert adjusted == pytest.approx([p for both in PRINTED_P.values() for p in both], abs=3e-5)


def test_linear_probability_errors_have_a_constant_ratio() -> None:
    """Two outcomes on one design: classical errors differ by one factor for every coefficient (how Eq 3 of the
    authors was found to be linear). To 1e-9."""
    rng = np.random.default_rng(1)
    x = (rng.random((500, 4)) < 0.3).astype(float)
    from engine.design import Rows

    y = np.column_stack([rng.normal(0, 50, 500), (rng.random(500) < 0.3).astype(float)])
    one, other = joint(Rows.of(tuple("abcd"), x), y, authors=True)
    ratios = [a.std_error / b.std_error for a, b in zip(one.coefficients, other.coefficients)]
    assert np.ptp(ratios) < 1e-9 * ratios[0]


def test_published_alignment_scores() -> None:
    scores = published.alignment_scores().set_index("model")["estimate"]
    assert scores.tolist() == pytest.approx([0.5703420398, 0.7406156716])
    assert published.applies("Anthropic/hh-rlhf", list(scores.index)) and not published.applies("x", list(scores.index))
    assert not published.applies("Anthropic/hh-rlhf", [scores.index[0], "builtin-post"])


def test_strata_count_ties_and_everything_adds_up() -> None:
    misaligned, ties = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 0, 0], bool)
    groups = [("subset", "a", np.array([1, 1, 1, 0, 0], bool)), ("subset", "b", np.array([0, 0, 0, 1, 1], bool))]
    table = alignment.strata(misaligned, ties, groups).set_index("stratum")
    assert table.loc["a", ["n", "misaligned", "ties"]].tolist() == [3, 2, 1]
    share = wilson(1, 2)
    assert table.loc["b", ["estimate", "conf_low", "conf_high"]].tolist() == [
        share.estimate, share.conf_low, share.conf_high
    ]  # fmt: skip


def test_length_groups_cover_every_pair_once() -> None:
    rng = np.random.default_rng(0)
    chars = rng.integers(0, 900, (500, 2)).astype(np.int32)
    counted = np.sum([mask for *_, mask in alignment.ratio_groups(chars)], axis=0)
    assert (counted == 1).all()
