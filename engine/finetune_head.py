"""What the outputs of a fine-tuned encoder mean: which task it learns, from which rows, and how to read it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import decisions, fitting, taxonomy
from engine.decisions import Output
from engine.examples import Examples
from engine.finetune_inputs import encode
from engine.finetune_loop import Block, Rows, balanced
from engine.records import SignetError

SLOPE = 4.0  # what a regressed value is multiplied by to become a logit; held-out calibration refines it
SIGNS = (-1.0, 0.0, 1.0)  # classes of the shared head


@dataclass(frozen=True)
class Head:
    """What the encoder's outputs mean; stands in config.json under `signet`. `sentences` define the values that a
    shared head is asked about, by column; `learned` says of each output whether anybody had labelled its column."""

    task: str
    outputs: tuple[Output, ...]
    learned: tuple[bool, ...]
    sentences: dict[str, str]
    max_tokens: int
    precision: str

    @property
    def width(self) -> int:
        """Outputs of the encoder's head."""
        return {"labels": len(self.outputs), "shared": len(SIGNS), "regression": 1}[self.task]

    def blocks(self) -> list[Block]:
        """How the encoder's outputs belong together, for the loss."""
        if self.task != "labels":
            return [("choice", (0, 1, 2)) if self.task == "shared" else ("number", (0,))]
        choices: dict[str, list[int]] = {}
        for place, output in enumerate(self.outputs):
            if output.kind == "choice":
                choices.setdefault(output.column, []).append(place)
        found: list[Block] = [("choice", tuple(places)) for places in choices.values()]
        single = tuple(place for place, output in enumerate(self.outputs) if output.kind != "choice")
        return [*found, ("binary", single)] if single else found

    def problem(self) -> str:
        """transformers' word for the task."""
        if self.task == "regression":
            return "regression"
        only = len(self.blocks()) == 1 and self.blocks()[0][0] == "choice"
        return "single_label_classification" if only else "multi_label_classification"

    def logits(self, raw: np.ndarray) -> np.ndarray:
        """What the encoder said, (rows, width), as logits of entries (n, outputs); NaN where nobody had labelled."""
        if self.task == "labels":
            found = raw.copy()
        else:
            by_value = raw.reshape(-1, len(self.sentences), self.width)
            place = {column: k for k, column in enumerate(self.sentences)}
            found = np.stack([self._signed(by_value[:, place[o.column]], o.value) for o in self.outputs], axis=1)
        found[:, ~np.array(self.learned)] = np.nan
        return found

    def _signed(self, said: np.ndarray, sign: float) -> np.ndarray:
        if self.task == "regression":
            return SLOPE * (sign * said[:, 0] - 0.5)
        own = SIGNS.index(sign)
        others = [k for k in range(len(SIGNS)) if k != own]
        return said[:, own] - np.logaddexp(said[:, others[0]], said[:, others[1]])


def names_of(head: Head, examples: Examples) -> list[str]:
    """What the encoder's outputs are called in config.json."""
    if head.task != "labels":
        return ["-1", "0", "+1"] if head.task == "shared" else ["value"]
    classes = {column.name: column.classes for column in examples.columns}
    several = len({output.column for output in head.outputs}) > 1
    found = []
    for output in head.outputs:
        if output.kind == "choice":
            name = classes[output.column][int(output.value)]
            found.append(f"{output.column}: {name}" if several else name)
        else:
            found.append(f"{output.column} {output.value:+.0f}" if output.kind == "signed" else output.column)
    return found


def head_of(examples: Examples, outputs: Sequence[Output], params: dict[str, Any]) -> Head:
    """What an encoder is to learn from these examples; SignetError where the task does not suit the taxonomy."""
    task, signed = params["task"], all(output.kind == "signed" for output in outputs)
    if task == "auto":
        task = "shared" if signed else "labels"
    if task != "labels" and not signed:
        other = next(output.column for output in outputs if output.kind != "signed")
        raise SignetError(f"task is {task!r}, which is for signed values alone, and {other} is none; use task=labels.")
    sentences = {}
    if task != "labels":
        chosen = taxonomy.load(params["taxonomy"])
        for column in dict.fromkeys(output.column for output in outputs):
            feature = chosen.feature(column)
            sentences[column] = f"{feature.title}: {feature.definition}"
    learned = tuple(bool(examples.known(output.column).any()) for output in outputs)
    return Head(task, tuple(outputs), learned, sentences, int(params["max_tokens"]), params["precision"])


def rows_of(examples: Examples, head: Head, tokenizer: Any, params: dict[str, Any], thin: bool) -> Rows:
    """What to learn from the examples. With `thin`, zeros of signed values, which are most, are drawn as often as the
    rest and count more in turn, so that the shares the encoder learns stay true."""
    sentences = tuple(head.sentences.values())
    encoded = encode(tokenizer, examples.prompts, examples.responses, head.max_tokens, sentences)
    zeros = np.zeros(len(encoded.ids), bool)
    if head.task == "labels":
        truth = decisions.targets(head.outputs, examples.columns, examples.values)
    else:
        names = [column.name for column in examples.columns]
        values = examples.values[:, [names.index(column) for column in head.sentences]].reshape(-1)
        truth = np.where(np.isfinite(values)[:, None], values[:, None] == np.array(SIGNS), np.nan)
        zeros = values == 0
    known = np.isfinite(truth)
    weight = fitting.balance(truth) if params["class_weight"] == "balanced" else known.astype(float)
    factor = fitting.repeats(truth) if params["oversample"] else np.ones(len(truth))
    factor = np.where(known.any(1), factor, 0.0)
    if head.task == "regression":
        weight = (weight * np.nan_to_num(truth)).sum(1, keepdims=True)
        truth = truth @ np.array(SIGNS)[:, None]
    weight = balanced(head.blocks(), np.nan_to_num(truth), weight)
    if thin and zeros.any():
        share = min(1.0, max(int((known.any(1) & ~zeros).sum()), examples.n) / int(zeros.sum()))
        factor, weight = np.where(zeros, share * factor, factor), np.where(zeros[:, None], weight / share, weight)
    return Rows(encoded, np.nan_to_num(truth), weight, factor)
