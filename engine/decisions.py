"""From logits to labels: outputs of a classifier, calibration, thresholds, abstention. Arrays in, arrays out.

A classifier of any kind gives one logit an output. What those mean is decided here, for all of them alike: `tune`
learns on logits of entries that the classifier did not learn from, `decide` applies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from engine.taxonomy import Column

Array = NDArray[np.float64]
KINDS = {"boolean": "boolean", "ternary": "signed", "signed": "signed", "category": "choice"}


@dataclass(frozen=True)
class Output:
    """One logit of a classifier: evidence that `column` has `value` (1 or -1; for a choice, the index of the class)."""

    column: str
    kind: str  # boolean, signed, choice; of a reward model: reward, gate
    value: float


@dataclass(frozen=True)
class Tuning:
    """What was learned on held-out logits, a number an output: calibrated logits are scale * logits + shift.

    An output is decided for when its calibrated logit exceeds its threshold; of a choice, the class with the largest
    excess. The classes of a choice share their scale, which is one over a temperature.
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    threshold: tuple[float, ...]

    def calibrated(self, logits: Array) -> Array:
        """Calibrated logits, (n, outputs)."""
        return logits * np.array(self.scale) + np.array(self.shift)


def classes_of(column: Column) -> tuple[float, ...]:
    """The values a column's labels can have, in order; none for a numeric column."""
    if column.kind not in KINDS:
        return ()
    if column.kind == "category":
        return tuple(map(float, range(len(column.classes))))
    return (0.0, 1.0) if column.kind == "boolean" else (-1.0, 0.0, 1.0)


def class_names(column: Column) -> tuple[str, ...]:
    """How people read `classes_of`: no and yes, -1, 0 and +1, or the classes' names."""
    if column.kind == "category":
        return column.classes
    return {"boolean": ("no", "yes"), "ternary": ("-1", "0", "+1"), "signed": ("-1", "0", "+1")}.get(column.kind, ())


def outputs_of(columns: Iterable[Column]) -> tuple[Output, ...]:
    """The outputs a classifier of these columns has: one of a boolean, two (+1, -1) of a signed or ternary one, one a
    class of a category. A numeric column has none."""
    found: list[Output] = []
    for column in columns:
        values = (1.0, -1.0) if KINDS.get(column.kind) == "signed" else classes_of(column)
        values = (1.0,) if column.kind == "boolean" else values
        found += [Output(column.name, KINDS[column.kind], value) for value in values]
    return tuple(found)


def targets(outputs: Sequence[Output], columns: Sequence[Column], values: Array) -> Array:
    """What each output should say, (n, outputs) of 0 and 1, NaN where the column has no label.

    `values` is (n, columns), in the order of `columns`.
    """
    place = {column.name: k for k, column in enumerate(columns)}
    found = np.full((len(values), len(outputs)), np.nan)
    for k, output in enumerate(outputs):
        own = values[:, place[output.column]]
        found[:, k] = np.where(np.isfinite(own), own == output.value, np.nan)
    return found


def _by_column(outputs: Sequence[Output]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, output in enumerate(outputs):
        found.setdefault(output.column, []).append(place)
    return found


def sigmoid(logits: ArrayLike) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def softmax(logits: Array) -> Array:
    """Shares of the classes, each row summing to 1."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def log_loss(logits: Array, truth: Array) -> float:
    """Mean loss of binary logits (n,), or of class logits (n, classes)."""
    if logits.ndim == 1:
        return float((np.logaddexp(0, logits) - truth * logits).mean())
    picked = softmax(logits)[np.arange(len(truth)), truth.astype(int)]
    return float(-np.log(np.maximum(picked, 1e-12)).mean())


def calibration(logits: Array, truth: Array) -> tuple[float, float]:
    """Scale and shift (Platt 1999) that bring held-out binary logits closest to the truth.

    Drawn towards no change, so that a few cases do not swing it.
    """

    def loss(x: Array) -> float:
        return len(truth) * log_loss(x[0] * logits + x[1], truth) + 4 * np.log(max(x[0], 1e-3)) ** 2 + x[1] ** 2

    scale, shift = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return float(np.clip(scale, 0.25, 4)), float(shift)


def temperature(logits: Array, truth: Array) -> float:
    """One factor on class logits, or on margins, that brings them closest to the truth (Guo et al. 2017, section 4.2).

    The inverse of what the paper calls T.
    """
    scales = np.geomspace(0.25, 4, 81)
    return float(scales[int(np.argmin([log_loss(scale * logits, truth) for scale in scales]))])


def class_calibration(logits: Array, truth: Array) -> tuple[float, Array]:
    """One scale and a shift a class that bring held-out class logits (n, classes) closest to the truth.

    Bias-corrected temperature scaling (Alexandari et al. 2020, section 3): the shifts undo class weights and the like.
    Drawn towards no change, as `calibration` is.
    """
    hot = np.eye(logits.shape[1])[truth.astype(int)]

    def loss(x: Array) -> tuple[float, Array]:
        away = softmax(np.exp(x[0]) * logits + x[1:]) - hot
        slope = np.append(np.exp(x[0]) * (away * logits).sum() + 8 * x[0], away.sum(0) + 2 * x[1:])
        value = len(truth) * log_loss(np.exp(x[0]) * logits + x[1:], truth) + 4 * x[0] ** 2 + (x[1:] ** 2).sum()
        return value, slope

    found = minimize(loss, np.zeros(1 + logits.shape[1]), jac=True, method="L-BFGS-B").x
    return float(np.clip(np.exp(found[0]), 0.25, 4)), found[1:]


def share_threshold(logits: Array, truth: Array) -> float:
    """The logit above which as many held-out cases lie as are true.

    At that point precision equals recall, so prevalence is not distorted and F1 is near its best, without the
    variance of searching for the best F1 among few cases.
    """
    ordered = np.sort(logits)[::-1]
    count = int(truth.sum())
    if not 0 < count < len(ordered):
        return 0.0
    return float((ordered[count - 1] + ordered[count]) / 2)


def share_biases(logits: Array, truth: Array) -> Array:
    """Additions to class logits under which held-out decisions have the classes' true shares (about)."""
    classes = logits.shape[1]
    wanted = np.bincount(truth.astype(int), minlength=classes) / len(truth)
    bias = np.zeros(classes)
    best, least = bias.copy(), np.inf
    for step in range(400):
        got = np.bincount((logits + bias).argmax(1), minlength=classes) / len(truth)
        gap = np.abs(got - wanted).sum()
        if gap < least:
            best, least = bias.copy(), gap
        bias += 2.0 / (1 + step / 20) * (wanted - got)
    return best - best.mean()


def tune(outputs: Sequence[Output], logits: Array, truth: Array) -> Tuning:
    """Calibration and thresholds from held-out logits (n, outputs) and `targets` (n, outputs).

    Each binary output gets a scale and a shift (`calibration`), each choice one scale and a shift a class
    (`class_calibration`). Thresholds make labels as frequent as the truth is (`share_threshold`, `share_biases`): what
    Signet reports of a dataset is prevalence. On our labels of hh-rlhf they stated a label's prevalence, on other
    prompts, within 1% where 100 cases or more were known and 2 to 4% where 20 to 100 were. The threshold of the best F1
    gained 0.01 in F1 for the former, none for the latter, and stated prevalences 14 to 70% off. A column without labels
    stays as it is.
    """
    scale, shift, threshold = np.ones(len(outputs)), np.zeros(len(outputs)), np.zeros(len(outputs))
    for places in _by_column(outputs).values():
        known = np.isfinite(truth[:, places]).all(1) & np.isfinite(logits[:, places]).all(1)
        own, right = logits[known][:, places], truth[known][:, places]
        if outputs[places[0]].kind == "choice":
            # A class without an output (the built-in heads leave out those that nobody saw) teaches nothing.
            own, right = own[right.any(1)], right[right.any(1)].argmax(1)
            if len(own):
                scale[places], shift[places] = class_calibration(own, right)
                threshold[places] = -share_biases(scale[places] * own + shift[places], right)
            continue
        for k, place in enumerate(places if len(own) else ()):
            scale[place], shift[place] = calibration(own[:, k], right[:, k])
            threshold[place] = share_threshold(scale[place] * own[:, k] + shift[place], right[:, k])
    return Tuning(tuple(scale.tolist()), tuple(shift.tolist()), tuple(threshold.tolist()))


def probabilities(outputs: Sequence[Output], logits: Array, column: Column) -> Array:
    """Probability of each of `classes_of(column)` from calibrated logits, (n, classes); each row sums to 1.

    Rows are NaN where the logits are; classes without an output get 0.
    """
    classes = classes_of(column)
    places = {output.value: k for k, output in enumerate(outputs) if output.column == column.name}
    found = np.zeros((len(logits), len(classes)))
    if column.kind == "category":
        held = [k for k, value in enumerate(classes) if value in places]
        found[:, held] = softmax(logits[:, [places[classes[k]] for k in held]])
        return found
    for k, value in enumerate(classes):
        if value in places:
            found[:, k] = sigmoid(logits[:, places[value]])
    found[:, classes.index(0.0)] = np.clip(1 - found.sum(1), 0, 1)
    return found / found.sum(1, keepdims=True)


def decide(
    outputs: Sequence[Output], logits: Array, tuning: Tuning, abstain_below: float = 0.0
) -> Iterator[tuple[str, Array, Array]]:
    """(column, values, confidence) of each labelled column; confidence is the probability of the value given.

    `logits` is (n, outputs), not calibrated. A value is NaN where the confidence lies below `abstain_below`, and where
    the logits are NaN (a column that nobody had labelled).
    """
    calibrated = tuning.calibrated(logits)
    for column, places in _by_column(outputs).items():
        own, excess = calibrated[:, places], calibrated[:, places] - np.array(tuning.threshold)[places]
        named = np.array([outputs[place].value for place in places])
        best = excess.argmax(1)
        if outputs[places[0]].kind == "choice":
            values = named[best]
            confidence = np.take_along_axis(softmax(own), best[:, None], 1)[:, 0]
        else:
            chances = sigmoid(own)
            over = np.take_along_axis(excess, best[:, None], 1)[:, 0] > 0
            certain = np.take_along_axis(chances, best[:, None], 1)[:, 0]
            values = np.where(over, named[best], 0.0)
            confidence = np.where(over, certain, np.clip(1 - chances.sum(1), 0.0, 1.0))
        sure = confidence >= abstain_below if abstain_below else np.isfinite(confidence)
        yield column, np.where(sure, values, np.nan), confidence
