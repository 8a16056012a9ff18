"""Trains the two built-in reward models: pairwise logistic regression on differences of entries' rows.

builtin-pre learns from public pairs of answers to instructions. builtin-post starts from it and goes on to hh-rlhf,
whose annotators were asked for helpfulness in one half and harmlessness in the other: length, refusals and questions
count for the one and against the other. So it has a reward for each, mixed by a gate that reads the prompt; each keeps
as much of builtin-pre as the new pairs bear out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine import fitting, head_inputs
from engine.builtin.data import Preference
from engine.decisions import Output, sigmoid, temperature
from engine.fitting import Fitted
from engine.head_inputs import Scaling
from engine.records import Entry

HARM = "harmless-base"  # the subset of hh-rlhf whose prompts the gate learns to tell
# Weight of embeddings and n-grams beside style, chosen by grouped cross-validation on the training parts.
EMBEDDINGS, NGRAMS = 0.5, 0.25
EARLIER = 10.0  # weight of builtin-pre's margin as an input of builtin-post: hardly penalised


def _emphasis() -> np.ndarray:
    """A factor for each column: 0 for what belongs to the prompt alone, less for what overfits a few thousand pairs."""
    factor = np.where(head_inputs.prompt_columns(), 0.0, 1.0)
    for block in ("response", "product"):
        factor[head_inputs.columns(block)] = EMBEDDINGS
    factor[head_inputs.columns("ngrams")] = NGRAMS
    return factor


def _preferences(differences: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Weights, strength and out-of-fold margins of pairwise logistic regression; margins are calibrated."""
    gram, truth = fitting.products(differences), np.ones((len(differences), 1))
    strength, margins = fitting.cross_validate(gram, truth, fitting.folds(groups, seed), intercept=False)
    shares, _ = fitting.fit_binary(gram, truth, strength, intercept=False)
    scale = temperature(margins[:, 0], truth[:, 0])
    return (differences.T @ shares)[:, 0] * scale, float(strength[0]), margins[:, 0] * scale


def _gate(rows: np.ndarray, harm: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Weights and bias of the gate, and its out-of-fold logits; reads the prompt's columns only."""
    prompts = rows * head_inputs.prompt_columns()
    gram = fitting.products(prompts)
    strength, logits = fitting.cross_validate(gram, harm[:, None], fitting.folds(groups, seed))
    shares, bias = fitting.fit_binary(gram, harm[:, None], strength)
    return (prompts.T @ shares)[:, 0], float(bias[0]), logits[:, 0]


def train(
    first: Sequence[Preference], then: Sequence[Preference], scaling: Scaling, seed: int,
    rows_of: Callable[[Sequence[Entry]], np.ndarray], say: Callable[[str], None],
) -> Iterator[tuple[str, list[Fitted], dict[str, float]]]:  # fmt: skip
    """(name, outputs, what to note) of builtin-pre, trained on `first`, and of builtin-post, on `first` and `then`."""
    factor = _emphasis()

    def sides(pairs: Sequence[Preference]) -> tuple[np.ndarray, np.ndarray]:
        return tuple(
            head_inputs.scaled(rows_of([getattr(pair, side) for pair in pairs]), scaling)
            for side in ("better", "worse")
        )  # type: ignore[return-value]

    def stored(name: str, kind: str, weight: np.ndarray, zero: float, strength: float, n: int) -> Fitted:
        return Fitted(Output(name, kind, 1.0), weight, -zero, 0.0, {"strength": strength, "n_train": n})

    better, worse = sides(first)
    groups = np.array([pair.group for pair in first])
    before, strength, margins = _preferences((better - worse) * factor, groups, seed)
    before = before * factor
    accuracy = float((margins > 0).mean())
    say(f"builtin-pre: strength {strength}, out-of-fold pair accuracy {accuracy:.3f} of {len(first)}")
    # A reward has no zero of its own: put it at the mean of the entries it was trained on.
    zero = float((np.vstack([better, worse]) @ before).mean())
    about = {"n_train": len(first), "out_of_fold_accuracy": round(accuracy, 4)}
    yield "builtin-pre", [stored("reward", "reward", before, zero, strength, len(first))], about

    better, worse = sides(then)
    groups = np.array([pair.group for pair in then])
    harm = np.array([float(pair.subset == HARM) for pair in then])
    gate_weight, gate_bias, gate_logits = _gate(better, harm, groups, seed)
    told = float(((gate_logits > 0) == (harm > 0)).mean())
    say(f"builtin-post: the gate tells {told:.3f} of {len(then)} prompts out of fold")
    gate = sigmoid(gate_logits)[:, None]
    late, early = (better - worse) * factor, ((better - worse) @ before)[:, None] * EARLIER
    inputs = np.hstack([late * gate, late * (1 - gate), early * gate, early * (1 - gate)])
    weight, strength, margins = _preferences(inputs, groups, seed)
    width = late.shape[1]
    kept = weight[2 * width :] * EARLIER
    for_harm, otherwise = (
        weight[:width] * factor + kept[0] * before,
        weight[width : 2 * width] * factor + kept[1] * before,
    )
    accuracy = float((margins > 0).mean())
    say(f"builtin-post: strength {strength}, out-of-fold pair accuracy {accuracy:.3f} of {len(then)}, keeps {kept}")
    both, shares = np.vstack([better, worse]), np.vstack([gate, gate])[:, 0]
    zero = float((shares * (both @ for_harm) + (1 - shares) * (both @ otherwise)).mean())
    fitted = [
        stored("reward", "reward", for_harm, zero, strength, len(then)),
        stored("reward", "reward", otherwise, zero, strength, len(then)),
        stored("gate", "gate", gate_weight, -gate_bias, strength, len(then)),
    ]
    about = {"n_train": len(then), "out_of_fold_accuracy": round(accuracy, 4), "gate_accuracy": round(told, 4),
             "keeps_for_harm": round(float(kept[0]), 4), "keeps_otherwise": round(float(kept[1]), 4)}  # fmt: skip
    yield "builtin-post", fitted, about
