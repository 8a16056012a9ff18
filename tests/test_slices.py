"""The slice search: exact tests against scipy, silence on noise, and planted slices found; suspects as stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine import slices
from engine.slices import Predicate
from engine.suspects import suspects


def predicates(on: np.ndarray, per: int = 3) -> list[Predicate]:
    """A predicate a column; every `per` columns are about one thing."""
    return [
        Predicate(f"p{i}", "feature", f"about {i // per}", lambda start, stop, i=i: on[start:stop, i], (f"q{i}",))
        for i in range(on.shape[1])
    ]


def test_noise_is_met_with_silence() -> None:
    """300 runs of pure noise over 15 conditions and their pairs: nothing is reported in at least 95% of them.

    (Over 1,000 runs with 24 conditions and 1,500 pairs it was 97.3%.)
    """
    rng = np.random.default_rng(3)
    quiet = 0
    for _ in range(300):
        on = rng.random((1000, 15)) < rng.uniform(0.1, 0.6, 15)
        found = slices.search(predicates(on), rng.random(1000) < 0.3)
        assert found.searched > 40
        quiet += not found.slices
    assert quiet >= 285, quiet


def test_planted_slices_are_found_with_their_numbers() -> None:
    rng = np.random.default_rng(4)
    on = rng.random((4000, 9)) < 0.3
    risk = np.full(4000, 0.2)
    risk[on[:, 0]] = 0.45  # one condition
    risk[on[:, 4] & on[:, 7]] = 0.7  # two conditions together, neither alone
    misaligned = rng.random(4000) < risk
    found = slices.search(predicates(on), misaligned)
    titles = [one.title for one in found.slices]
    assert "p0" in titles and "p4 and p7" in titles
    one = found.slices[titles.index("p0")]
    here = on[:, 0]
    assert (one.n, one.misaligned) == (here.sum(), (misaligned & here).sum())
    table = [[one.misaligned, one.n - one.misaligned], [(misaligned & ~here).sum(), (~misaligned & ~here).sum()]]
    assert one.p_value == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue, rel=1e-6)
    assert one.elsewhere == pytest.approx((misaligned & ~here).sum() / (~here).sum())
    assert one.conf_low < one.difference < one.conf_high
    assert one.query == ("q0",) and found.slices[titles.index("p4 and p7")].query == ("q4", "q7")
    assert not any("p0 and p1" in t for t in titles)  # two conditions on the same thing are not combined


def test_small_slices_and_hopeless_input_are_left_alone() -> None:
    on = np.zeros((300, 3), bool)
    on[:20, 0] = True
    on[:, 1] = True
    misaligned = np.arange(300) < 20
    found = slices.search(predicates(on, 1), misaligned, minimum=30)
    assert found.slices == () and found.searched == 0
    assert slices.search(predicates(on), np.ones(300, bool)).slices == ()
    assert slices.search([], misaligned).slices == ()


def test_large_slices_use_the_limit_of_the_exact_test() -> None:
    """Where the normal limit replaces the hypergeometric: log10 p within 1% of the exact one."""
    bad, n = np.array([6300, 6400, 6500, 6600]), np.array([21_000] * 4)
    fast = slices._fisher(bad, n, 30_000, 100_000)
    exact = stats.hypergeom.logsf(bad - 1, 100_000, 30_000, n)
    assert np.log(fast) == pytest.approx(exact, rel=0.01)


def test_intervals_hold_over_the_whole_search() -> None:
    """200 runs with no true difference between slices: the search-wide intervals all cover zero in at least 95%."""
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(200):
        on = rng.random((1200, 12)) < 0.3
        bad = rng.random(1200) < 0.3
        k = on.shape[1]
        level = 0.05 / k
        inside = [
            slices._difference(int((bad & on[:, i]).sum()), int(on[:, i].sum()), int(bad.sum()), 1200, level)
            for i in range(k)
        ]
        covered += all(low <= 0 <= high for _, _, low, high in inside)
    assert covered >= 190, covered


def test_suspects_are_what_the_score_says() -> None:
    margins = np.array([[-2.0, -1.0], [-1.0, 1.0], [-0.5, -3.0], [-1.0, -1.0], [np.nan, -1.0], [1.0, 2.0]])
    verdict, known = np.array([-1, -1, -1, 1, -1, -1], np.int8), np.ones(6, bool)
    frame = suspects(np.arange(10, 16), margins, ["a", "b"], verdict, known)
    sd = np.nanstd(margins, axis=0, ddof=1)
    assert frame["pair_no"].tolist() == sorted([10, 12], key=lambda no: -np.mean(-margins[no - 10] / sd))
    assert frame["score"].iloc[0] == pytest.approx(np.mean(-margins[frame["pair_no"].iloc[0] - 10] / sd))
    assert suspects(np.arange(6), margins, ["a", "b"], None, None)["pair_no"].tolist().count(3) == 1


def test_shared_prompts_do_not_make_slices() -> None:
    """Ten pairs a prompt with resistance and features of the prompt, unrelated: quiet in at least 95% of 100 runs when
    the prompts are known, and loud when they are not (so the case is a hard one)."""
    rng = np.random.default_rng(12)
    quiet = loud = 0
    for _ in range(100):
        clusters = np.repeat(np.arange(150), 10)
        on = (rng.random((150, 6)) < 0.4)[clusters]
        misaligned = rng.random(1500) < rng.beta(0.6, 1.4, 150)[clusters]
        quiet += not slices.search(predicates(on, 1), misaligned, clusters=clusters).slices
        loud += bool(slices.search(predicates(on, 1), misaligned).slices)
    assert quiet >= 95 and loud >= 50, (quiet, loud)
