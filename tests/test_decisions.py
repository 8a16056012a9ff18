"""From logits to labels: targets, calibration, thresholds and abstention, and the fits they stand on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import decisions, fitting
from engine.decisions import Output, Tuning
from engine.taxonomy import Column


def column(name: str, kind: str, classes: tuple[str, ...] = ()) -> Column:
    return Column(name, name, kind, "neutral", "response", classes)


COLUMNS = (
    column("polite", "boolean"),
    column("power", "signed"),
    column("tone", "ternary"),
    column("topic", "category", ("bread", "rivers", "stars")),
    column("length", "numeric"),
)
OUTPUTS = decisions.outputs_of(COLUMNS)


def identity(count: int) -> Tuning:
    return Tuning((1.0,) * count, (0.0,) * count, (0.0,) * count)


def test_outputs_follow_the_kind_of_a_column() -> None:
    assert [(one.column, one.kind, one.value) for one in OUTPUTS] == [
        ("polite", "boolean", 1.0), ("power", "signed", 1.0), ("power", "signed", -1.0), ("tone", "signed", 1.0),
        ("tone", "signed", -1.0), ("topic", "choice", 0.0), ("topic", "choice", 1.0), ("topic", "choice", 2.0),
    ]  # fmt: skip
    for one in COLUMNS:
        assert len(decisions.classes_of(one)) == len(decisions.class_names(one))


def test_targets_are_nan_where_nobody_labelled() -> None:
    values = np.array([[1, -1, 0, 2, 30.0], [np.nan, 1, np.nan, np.nan, np.nan]])
    found = decisions.targets(OUTPUTS, COLUMNS, values)
    assert found[0].tolist() == [1, 0, 1, 0, 0, 0, 0, 1]
    assert np.isnan(found[1]).tolist() == [True, False, False, True, True, True, True, True]
    assert found[1, 1:3].tolist() == [1, 0]


def test_labels_come_back_from_logits_that_say_them() -> None:
    values = np.array([[1, 1, 0, 2, 0], [0, -1, -1, 0, 0], [0, 0, 1, 1, 0.0]])
    logits = 8 * decisions.targets(OUTPUTS, COLUMNS, values) - 4
    for k, (name, decided, confidence) in enumerate(decisions.decide(OUTPUTS, logits, identity(len(OUTPUTS)))):
        assert name == COLUMNS[k].name
        assert decided.tolist() == values[:, k].tolist()
        assert (confidence > 0.9).all()


rows_of_logits = st.lists(st.lists(st.floats(-30, 30), min_size=8, max_size=8), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(rows_of_logits, st.floats(0, 1))
def test_chances_sum_to_one_and_abstention_leaves_out_the_unsure_alone(raw: list[list[float]], floor: float) -> None:
    logits = np.array(raw)
    for one in COLUMNS[:-1]:
        chances = decisions.probabilities(OUTPUTS, logits, one)
        assert chances.shape == (len(logits), len(decisions.classes_of(one)))
        assert chances.sum(1) == pytest.approx(1) and (chances >= 0).all()
    sure = list(decisions.decide(OUTPUTS, logits, identity(8), abstain_below=floor))
    for (_, free, confidence), (_, asked, same) in zip(decisions.decide(OUTPUTS, logits, identity(8)), sure):
        assert (confidence == same).all()
        assert (np.isnan(asked) == (confidence < floor)).all()
        assert (asked[confidence >= floor] == free[confidence >= floor]).all()


def test_the_confidence_of_a_verdict_is_its_probability() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 8)) * 2
    found = {name: (values, sure) for name, values, sure in decisions.decide(OUTPUTS, logits, identity(8))}
    for one in (COLUMNS[0], COLUMNS[3]):
        values, sure = found[one.name]
        place = np.searchsorted(decisions.classes_of(one), values)
        assert sure == pytest.approx(decisions.probabilities(OUTPUTS, logits, one)[np.arange(50), place])


def test_a_column_that_nobody_labelled_gets_no_verdict() -> None:
    logits = np.zeros((3, 8))
    logits[:, :1] = np.nan
    logits[:, 5:] = np.nan
    found = {name: values for name, values, _ in decisions.decide(OUTPUTS, logits, identity(8))}
    assert np.isnan(found["polite"]).all() and np.isnan(found["topic"]).all()
    assert not np.isnan(found["power"]).any()
    assert decisions.tune(OUTPUTS, logits, np.full((3, 8), np.nan)) == identity(8)


def test_tuning_undoes_a_known_distortion() -> None:
    random = np.random.default_rng(4)
    honest = random.normal(size=6000) * 2 - 1
    truth = (random.random(6000) < decisions.sigmoid(honest)).astype(float)
    found = decisions.tune((Output("a", "boolean", 1.0),), (2 * honest + 1.5)[:, None], truth[:, None])
    assert found.scale[0] == pytest.approx(0.5, abs=0.04)
    assert found.shift[0] == pytest.approx(-0.75, abs=0.12)
    ((_, decided, _),) = decisions.decide((Output("a", "boolean", 1.0),), (2 * honest + 1.5)[:, None], found)
    assert decided.sum() == truth.sum()


def test_the_temperature_is_that_of_a_direct_search() -> None:
    from scipy.optimize import minimize_scalar

    random = np.random.default_rng(5)
    honest = random.normal(size=(4000, 4)) * 1.5
    truth = (honest + random.gumbel(size=honest.shape)).argmax(1).astype(float)
    found = decisions.temperature(3 * honest, truth)
    best = minimize_scalar(lambda x: decisions.log_loss(x * 3 * honest, truth), bounds=(0.05, 5), method="bounded").x
    assert found == pytest.approx(best, rel=0.02)  # the grid's step is 3.5%
    assert found == pytest.approx(1 / 3, rel=0.05)


def test_class_calibration_undoes_class_weights() -> None:
    random = np.random.default_rng(9)
    honest = random.normal(size=(8000, 3)) * 1.5 + np.log([0.7, 0.2, 0.1])
    truth = (honest + random.gumbel(size=honest.shape)).argmax(1).astype(float)
    weighted = 2 * (honest - np.log([0.7, 0.2, 0.1]))
    scale, shift = decisions.class_calibration(weighted, truth)
    assert scale == pytest.approx(0.5, abs=0.03)
    assert shift - shift.mean() == pytest.approx(np.log([0.7, 0.2, 0.1]) - np.log([0.7, 0.2, 0.1]).mean(), abs=0.1)
    assert decisions.log_loss(scale * weighted + shift, truth) <= decisions.log_loss(honest, truth) + 1e-3


def test_log_loss_agrees_with_sklearn() -> None:
    from sklearn.metrics import log_loss

    random = np.random.default_rng(6)
    logits, truth = random.normal(size=(200, 3)), random.integers(0, 3, 200).astype(float)
    expected = log_loss(truth, decisions.softmax(logits), labels=[0, 1, 2])
    assert decisions.log_loss(logits, truth) == pytest.approx(expected, abs=1e-12)
    yes = (truth == 1).astype(float)
    expected = log_loss(yes, decisions.sigmoid(logits[:, 0]))
    assert decisions.log_loss(logits[:, 0], yes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("always", [0.0, 1.0])
def test_with_one_value_known_that_value_is_said(always: float) -> None:
    outputs = (Output("a", "boolean", 1.0),)
    logits = np.full((30, 1), 6.0 if always else -6.0) + np.random.default_rng(0).normal(size=(30, 1))
    tuning = decisions.tune(outputs, logits, np.full((30, 1), always))
    ((_, decided, _),) = decisions.decide(outputs, logits, tuning)
    assert (decided == always).all()


# --- the fits, against scikit-learn ---
def test_weights_count_as_sklearn_counts_them() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(7)
    rows = random.normal(size=(150, 300))
    truth = (rows[:, :2].sum(1) + random.normal(size=150) > 1).astype(float)
    weights = random.integers(0, 4, size=150).astype(float)
    shares, bias = fitting.fit_binary(fitting.products(rows), truth[:, None], 1e-2, weights=weights[:, None])
    reference = LogisticRegression(C=1e-2, tol=1e-10, max_iter=10_000).fit(rows, truth, sample_weight=weights)
    assert rows.T @ shares[:, 0] == pytest.approx(reference.coef_[0], abs=1e-3)
    assert bias[0] == pytest.approx(reference.intercept_[0], abs=5e-3)


def test_unlabelled_cells_count_for_nothing_and_targets_do_not_touch_each_other() -> None:
    random = np.random.default_rng(8)
    rows = random.normal(size=(120, 200))
    truth = (random.random((120, 9)) < np.geomspace(0.02, 0.9, 9)).astype(float)
    truth[40:, 3] = np.nan
    together, bias = fitting.fit_binary(fitting.products(rows), truth, 3e-3)
    for k, known in ((0, slice(None)), (3, slice(40)), (8, slice(None))):
        alone, own = fitting.fit_binary(fitting.products(rows[known]), truth[known, k : k + 1], 3e-3)
        assert rows.T @ together[:, k] == pytest.approx(rows[known].T @ alone[:, 0], abs=1e-3)
        assert bias[k] == pytest.approx(own[0], abs=1e-2)
    assert (together[40:, 3] == 0).all()


def test_balance_is_sklearns_up_to_its_limit() -> None:
    from sklearn.utils.class_weight import compute_sample_weight

    truth = np.array([1.0] * 5 + [0.0] * 45)
    assert fitting.balance(truth[:, None])[:, 0] == pytest.approx(compute_sample_weight("balanced", truth))
    rare = np.array([1.0] + [0.0] * 999 + [np.nan])[:, None]
    assert fitting.balance(rare)[0, 0] == fitting.MOST
    assert fitting.balance(rare)[-1, 0] == 0


def test_entries_with_rare_labels_are_repeated() -> None:
    truth = np.zeros((1000, 2))
    truth[:500, 0] = 1
    truth[:10, 1] = 1
    found = fitting.repeats(truth)
    assert found[0] == pytest.approx(np.sqrt(0.1 / 0.01))
    assert (found[10:] == 1).all()
    assert (fitting.repeats(np.full((3, 1), np.nan)) == 1).all()
