"""Target vectors: files read strictly, distances against numpy, intervals against the bootstrap."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import targets, taxonomy
from engine.records import SignetError
from engine.settings import TARGETS
from engine.targets import Target, Vector, closer, distance, grouped, made, parse, to_yaml

GOOD = """
name: kind
title: Be kind
taxonomy: schwartz
source: us
note: a note
values: {benevolence: 1, power: -0.5}
"""


def test_a_file_is_read_and_written_back() -> None:
    found = parse(GOOD, "kind.yaml")
    assert dict(found.values) == {"benevolence": 1.0, "power": -0.5} and found.taxonomy == "schwartz"
    assert parse(to_yaml(found), "again") == found
    ranked = parse("name: r\ntaxonomy: schwartz\norder: [a, b, c]", "r.yaml")
    assert dict(ranked.values) == {"a": 1.0, "b": 0.0, "c": -1.0} and ranked.ranked
    assert parse(to_yaml(ranked), "again") == ranked


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1, 2]", "must be a mapping"),
        ("name: Bad Name\ntaxonomy: t\nvalues: {a: 1}", "name is 'Bad Name'"),
        ("name: x\nvalues: {a: 1}", "taxonomy is None"),
        ("name: x\ntaxonomy: t", "either values or order"),
        ("name: x\ntaxonomy: t\nvalues: {a: 1}\norder: [a, b]", "either values or order"),
        ("name: x\ntaxonomy: t\nvalues: {a: 1.5}", "a is '1.5'; it must be a number from -1 to 1"),
        ("name: x\ntaxonomy: t\nvalues: {a: nan}", "a is 'nan'"),
        ("name: x\ntaxonomy: t\nvalues: {a: much}", "a is 'much'"),
        ("name: x\ntaxonomy: t\nvalues: {a: 0}", "every value is 0"),
        ("name: x\ntaxonomy: t\nvalues: [a]", "must map names"),
        ("name: x\ntaxonomy: t\norder: [a, a]", "each once"),
        ("name: x\ntaxonomy: t\nweights: {a: 1}", "unknown key 'weights'"),
        ("name: x\ntaxonomy: t\nvalues: {a: 1, a: 0}", "stands twice"),
        ("name: [", "not valid YAML"),
    ],
)
def test_wrong_files_get_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(SignetError, match=r"wrong\.yaml") as error:
        parse(text, "wrong.yaml")
    assert complaint in str(error.value)


def test_shipped_targets_speak_of_known_values_and_name_their_source() -> None:
    known = {f.name for f in taxonomy.load("schwartz").features}
    found, complaints = targets.available("schwartz")
    assert not complaints and len(found) == len(list(TARGETS.glob("*.yaml")))
    for one in found:
        assert set(one.values) <= known and one.source
    ranked = next(one for one in found if one.ranked)
    assert "2001" in ranked.source and "Only the" in ranked.note and len(ranked.values) == 10


def test_the_stores_own_targets_join_and_wrong_ones_complain(home: Path) -> None:
    folder = home / "targets"
    folder.mkdir()
    (folder / "mine.yaml").write_text(GOOD, encoding="utf-8")
    (folder / "taken.yaml").write_text(GOOD, encoding="utf-8")
    (folder / "broken.yml").write_bytes(b"\xff")
    (folder / "other.yaml").write_text(GOOD.replace("schwartz", "else").replace("kind", "far"), encoding="utf-8")
    found, complaints = targets.available("schwartz")
    assert "kind" in {one.name for one in found} and "far" not in {one.name for one in found}
    assert len(complaints) == 2
    assert any("taken" in c for c in complaints) and any("UTF-8" in c for c in complaints)


def vector(values: np.ndarray, n: int = 500, spread: float = 0.6, seed: int = 0) -> tuple[Vector, np.ndarray]:
    """A vector of means of n rows with clusters of one, and the rows."""
    rng = np.random.default_rng(seed)
    rows = values + rng.normal(0, spread, (n, len(values))) @ np.linalg.cholesky(
        0.5 * np.eye(len(values)) + 0.5
    )  # fmt: skip
    m = np.hstack([np.ones((n, 1)), rows])
    names = [f"v{i}" for i in range(len(values))]
    return Vector.of_sums("x", names, m.sum(axis=0), m.T @ m, n), rows


TARGET = Target("t", "T", "schwartz", "", "", {"v0": 1.0, "v1": -0.5, "v3": 0.25, "unknown": 1.0})


def test_sums_give_numpys_mean_and_covariance() -> None:
    """1e-12; and clusters of equal rows count as one."""
    found, rows = vector(np.array([0.1, 0.3, -0.2, 0.0]))
    assert found.values == pytest.approx(rows.mean(axis=0), abs=1e-12)
    assert found.covariance == pytest.approx(np.cov(rows.T) / len(rows), abs=1e-12)
    tripled = np.hstack([np.full((500, 1), 3.0), 3 * rows])
    again = Vector.of_sums("x", found.names, tripled.sum(axis=0), tripled.T @ tripled, 500)
    assert again.covariance == pytest.approx(found.covariance, rel=1e-9)


def test_distance_and_cosine_equal_numpy() -> None:
    """1e-12, over the values both have; intervals within 12% of a bootstrap of 2,000 resamples."""
    found, rows = vector(np.array([0.2, 0.3, -0.2, 0.1]))
    one = distance(found, TARGET)
    v, t = rows.mean(axis=0)[[0, 1, 3]], np.array([1.0, -0.5, 0.25])
    assert one.euclidean.estimate == pytest.approx(np.linalg.norm(v - t), abs=1e-12)
    assert one.cosine.estimate == pytest.approx(v @ t / np.linalg.norm(v) / np.linalg.norm(t), abs=1e-12)
    assert one.missing == ("unknown",)
    assert sum(one.contributions.values()) == pytest.approx(1)
    assert one.contributions["v1"] == pytest.approx((v[1] + 0.5) ** 2 / ((v - t) ** 2).sum())
    rng = np.random.default_rng(1)
    again = np.array([rows[rng.integers(0, 500, 500)].mean(axis=0)[[0, 1, 3]] for _ in range(2000)])
    far = np.linalg.norm(again - t, axis=1)
    turn = again @ t / np.linalg.norm(again, axis=1) / np.linalg.norm(t)
    for estimate, draws in ((one.euclidean, far), (one.cosine, turn)):
        assert (estimate.conf_high - estimate.conf_low) / 2 == pytest.approx(1.96 * draws.std(), rel=0.12)


def test_a_direction_has_no_distance_and_noise_no_cosine() -> None:
    found, _ = vector(np.array([0.2, 0.3, -0.2, 0.1]))
    one = distance(found, TARGET, direction=True)
    assert math.isnan(one.euclidean.estimate) and not one.contributions
    assert not math.isnan(one.cosine.estimate)
    noise, _ = vector(np.zeros(4), n=50, seed=3)
    assert math.isnan(distance(noise, TARGET).cosine.estimate)
    assert not math.isnan(distance(noise, TARGET).euclidean.estimate)
    nothing = distance(found, Target("t", "T", "schwartz", "", "", {"other": 1.0}))
    assert math.isnan(nothing.euclidean.estimate) and nothing.missing == ("other",)


def test_closer_uses_what_two_sides_share() -> None:
    """The paired difference of distances: its estimate is the difference, its interval the bootstrap's to 15%."""
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 0.7, (400, 2))
    rows = np.hstack(
        [shared + np.array([0.3, 0.1]) + rng.normal(0, 0.2, (400, 2)), shared + rng.normal(0, 0.2, (400, 2))]
    )
    m = np.hstack([np.ones((400, 1)), rows])
    both = Vector.of_sums("both", ["v0", "v1", "v0", "v1"], m.sum(axis=0), m.T @ m, 400)
    found = closer(both, 2, TARGET)
    t = np.array([1.0, -0.5])

    def gain(mean: np.ndarray) -> float:
        return float(np.linalg.norm(mean[2:] - t) - np.linalg.norm(mean[:2] - t))

    draws = [gain(rows[rng.integers(0, 400, 400)].mean(axis=0)) for _ in range(1500)]
    assert found.estimate == pytest.approx(gain(rows.mean(axis=0)), abs=1e-12)
    assert (found.conf_high - found.conf_low) / 2 == pytest.approx(1.96 * float(np.std(draws)), rel=0.15)
    assert found.conf_low > 0


def test_groups_are_means_of_their_values() -> None:
    """Of Schwartz's taxonomy: four groups, hedonism in two of them; means and covariance by hand."""
    groups = targets.groups_of(taxonomy.load("schwartz"))
    assert list(groups) == ["openness to change", "self-enhancement", "conservation", "self-transcendence"]
    assert "hedonism" in groups["openness to change"] and "hedonism" in groups["self-enhancement"]
    assert targets.groups_of(taxonomy.load("seal")) == {}
    found, rows = vector(np.array([0.2, 0.3, -0.2, 0.1]))
    one = grouped(found, {"a": ["v0", "v1"], "b": ["v2"]})
    means = np.column_stack([rows[:, :2].mean(axis=1), rows[:, 2]])
    assert one.values == pytest.approx(means.mean(axis=0), abs=1e-12)
    assert one.covariance == pytest.approx(np.cov(means.T) / 500, abs=1e-12)


@given(st.dictionaries(st.sampled_from(["v0", "v1", "v2"]), st.floats(-1, 1), min_size=1))
def test_made_by_hand(values: dict[str, float]) -> None:
    if not any(values.values()):
        with pytest.raises(SignetError, match="no direction"):
            made(values, "schwartz")
        return
    assert made(values, "schwartz").values == values


def test_a_ranking_has_no_distances() -> None:
    found, _ = vector(np.array([0.2, 0.3, -0.2, 0.1]))
    one = distance(found, parse("name: r\ntaxonomy: schwartz\norder: [v1, v0, v2]", "r.yaml"))
    assert math.isnan(one.euclidean.estimate) and one.cosine.estimate > 0
