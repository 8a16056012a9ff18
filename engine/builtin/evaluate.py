"""Held-out figures of the built-in heads, each beside its baseline. Heads are read back from the files that ship."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from engine import decisions, fitting, heads
from engine.builtin.data import Labelled, Preference
from engine.heads import Head
from engine.taxonomy import Taxonomy

FEW = 8  # cases of the rarer kind in the training part, under which a head is not to be relied on
Figures = dict[str, Any]


def _f1_of(truth: np.ndarray, decided: np.ndarray, one: float, rows: np.ndarray) -> float:
    return float(fitting.class_f1(truth[rows], decided[rows], [one])[0])


def _figures(
    truth: np.ndarray, decided: np.ndarray, chances: np.ndarray, trained: np.ndarray, groups: np.ndarray,
    classes: Sequence[float], names: Sequence[str], seed: int,
) -> Figures:  # fmt: skip
    """Everything the card says of one column. `trained`: the training part's values, for the baselines."""
    counts = np.array([(trained == one).sum() for one in classes])
    commonest = classes[int(counts.argmax())]
    baseline = np.full(len(truth), commonest)
    hot = np.stack([truth == one for one in classes], axis=1).astype(float)
    sure = np.take_along_axis(chances, np.searchsorted(np.array(classes), decided)[:, None], 1)[:, 0]
    low, high = fitting.group_bootstrap(groups, lambda i: fitting.macro_f1(truth[i], decided[i], classes), seed)
    each = fitting.class_f1(truth, decided, classes)
    each_baseline = fitting.class_f1(truth, baseline, classes)
    by_class = {}
    for k, name in enumerate(names):
        if not counts[k] and not (truth == classes[k]).any():
            continue
        bounds = fitting.group_bootstrap(groups, partial(_f1_of, truth, decided, classes[k]), seed)
        by_class[name] = {
            "f1": each[k], "f1_low": bounds[0], "f1_high": bounds[1], "baseline_f1": each_baseline[k],
            "n": int((truth == classes[k]).sum()), "n_train": int(counts[k]),
            "share": float((truth == classes[k]).mean()), "share_given": float((decided == classes[k]).mean()),
        }  # fmt: skip
    return {
        "f1": fitting.macro_f1(truth, decided, classes), "f1_low": low, "f1_high": high,
        "baseline_f1": fitting.macro_f1(truth, baseline, classes),
        "accuracy": float((truth == decided).mean()), "baseline_accuracy": float((truth == baseline).mean()),
        "brier": float(((chances - hot) ** 2).sum(1).mean() / 2),
        "baseline_brier": float(((counts / counts.sum() - hot) ** 2).sum(1).mean() / 2),
        "ece": fitting.calibration_error(sure, (truth == decided).astype(float)),
        "n": len(truth), "n_true": int((truth != 0).sum()), "few": bool(np.sort(counts)[-2] < FEW),
        "classes": by_class,
    }  # fmt: skip


def label_figures(
    head: Head, rows: np.ndarray, test: Sequence[Labelled], train: Sequence[Labelled], chosen: Taxonomy, seed: int
) -> dict[str, Figures]:
    """Figures of every column of a head on test entries (`rows`: their raw inputs); of a choice, by class as well."""
    groups = np.array([one.group for one in test])
    logits = head.logits_of_rows(rows)
    kinds = {column.name: column for column in chosen.columns()}
    found: dict[str, Figures] = {}
    for column, decided, _ in head.decide(logits):
        kind = kinds[column]
        classes = decisions.classes_of(kind)
        names = list(kind.classes) or [f"{value:+.0f}" if value else "0" for value in classes]
        truth = np.array([one.values[chosen.name, column] for one in test])
        trained = np.array([one.values[chosen.name, column] for one in train])
        chances = decisions.probabilities(head.outputs, logits, kind)
        found[column] = _figures(truth, decided, chances, trained, groups, classes, names, seed)
        if kind.kind == "category":
            found |= {name: {**one, "few": one["n_train"] < FEW} for name, one in found[column]["classes"].items()}
    return found


def wilson(hits: float, n: int) -> tuple[float, float]:
    """95% Wilson interval of a share (Wilson 1927)."""
    z, share = 1.959964, hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(middle - half), float(middle + half)


def reward_figures(name: str, pairs: Sequence[Preference]) -> dict[str, Figures]:
    """Pair accuracy by subset beside length. A tie in reward counts as wrong, a tie in length as half."""
    model = heads.reward_model(name)
    better = model.score([p.better.prompt for p in pairs], [p.better.response for p in pairs])
    worse = model.score([p.worse.prompt for p in pairs], [p.worse.response for p in pairs])
    longer = np.array([np.sign(len(p.better.response) - len(p.worse.response)) for p in pairs]) / 2 + 0.5
    margins, found = better - worse, {}
    for subset in sorted({p.subset for p in pairs}):
        here = np.array([p.subset == subset for p in pairs])
        hits, n = float((margins[here] > 0).sum()), int(here.sum())
        low, high = wilson(hits, n)
        sure = decisions.sigmoid(np.abs(margins[here]))
        found[subset] = {
            "accuracy": hits / n, "low": low, "high": high, "n": n,
            "longer_wins": float(longer[here].mean()), "shorter_wins": float(1 - longer[here].mean()),
            "log_loss": float(np.logaddexp(0, -margins[here]).mean()),
            "ece": fitting.calibration_error(sure, (margins[here] > 0).astype(float)),
        }  # fmt: skip
    return found


def agreement(labelled: Sequence[Labelled]) -> dict[str, Figures]:
    """Agreement of the two readings of the same entries, by column: n, share, kappa (None where undefined)."""
    first = {one.entry.hash: one.values for one in labelled if one.reading == 1}
    both = [(first[two.entry.hash], two.values) for two in labelled if two.reading == 2 and two.entry.hash in first]
    found = {}
    for taxonomy, column in both[0][0] if both else ():
        one = np.array([a[taxonomy, column] for a, _ in both])
        other = np.array([b[taxonomy, column] for _, b in both])
        kappa = fitting.kappa(one, other)
        found[column] = {
            "taxonomy": taxonomy, "n": len(both), "agreement": float((one == other).mean()),
            "kappa": None if np.isnan(kappa) else kappa,
        }  # fmt: skip
    return found
