"""Writes the model card of the built-in heads from their measured figures."""

from __future__ import annotations

import math
from typing import Any

Figures = dict[str, Any]

FEW_HELD_OUT = 5  # held-out cases of the second commonest class, under which no verdict is given

_TITLES = {
    "seal": "SEAL's features and topics",
    "value_imprint": "Value Imprint's seven values",
    "schwartz": "Schwartz's ten signed values",
}

_INTRO = """# Card of the built-in heads

Written by `python -m engine.builtin.train`; every figure below was measured by that script on entries that nothing was
trained, tuned or selected on, with the files that ship.

**What they are.** Linear heads on a frozen sentence encoder (all-MiniLM-L6-v2, 384 dimensions, the first 256 tokens of
a text): embeddings of the last response, the last user turn, the turn before it and all that the user said, the product
of the first two, surface features, a small lexicon, and hashed word n-grams of the response. Logistic regression with a
ridge penalty.

**What they are for.** Drafts for a first look at a dataset, on any machine, without a key. They were trained on few
English labels made by a language model that no person has checked. Do not judge a single entry by them, and do not
read a feature marked *few* at all: its training part had fewer than 8 cases of the rarer kind.

## Data and split
- Labels: {n_train} entries of the hh-rlhf test split (first reading, part `train`), {n_test} entries of part `test`
  for the figures. The part `reserved` was not read, and pairs of part `train` that share a prompt with another part
  were left out.
- `builtin-pre`: {pairs_public_train} pairs of PandaLM (majority of three annotators) and LLMBar. `builtin-post`: starts
  from it, then learns from {pairs_hh_train} pairs of hh-rlhf (part `train`): one set of weights for prompts that ask
  for harm and one for the others, each keeping as much of `builtin-pre` as the new pairs bear out, mixed by a gate that
  reads the prompt alone and learned to tell hh-rlhf's two halves.
- Schwartz: {fulcra_train} dialogues of Value FULCRA as further training rows for an output where they lowered its
  out-of-fold loss on our own labels (a column marks their origin); {fulcra_test} held out.
- PandaLM, LLMBar and FULCRA are split by prompt (a quarter held out). No split separates the sides of a pair, nor two
  entries with the same prompt; the penalty of every output was chosen by 5-fold cross-validation grouped by prompt.
- Seed {seed}; embedder {embedder}. Left out: {left_out_text}.

## How to read the tables
F1 is the mean of the F1 of a feature's classes that occur in the test part (0 and 1; or -1, 0, 1), with a 95%
percentile interval of 1,000 bootstrap draws of whole prompts. *Baseline* always gives the commonest class of the
training part. Thresholds were set so that out of fold as many entries get a label as have it. *ECE* is the expected
calibration error of the given confidence (10 bins), *Brier* the mean squared error of the class probabilities, halved;
its baseline gives everybody the training part's shares. *n* counts the cases of the class or feature in the test part.
A feature whose interval includes its baseline is not shown to be better than it; with fewer than 5 held-out cases of
the rarer kind the table gives no verdict.
"""


def rounded(value: Any) -> Any:
    """The same structure with floats rounded to four digits; nan becomes None (JSON has none)."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(float(value), 4)
    return value


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows), ""]


def _verdict(one: Figures) -> str:
    if one.get("few"):
        return "few"
    if sorted(label["n"] for label in one["classes"].values())[-2] < FEW_HELD_OUT:
        return "too few to say"
    if one["f1_low"] is None:
        return "–"
    if one["f1_low"] > one["baseline_f1"]:
        return "yes"
    return "**no**" if one["f1"] <= one["baseline_f1"] else "not shown"


def _label_table(figures: dict[str, Figures]) -> list[str]:
    head = ["feature", "n", "F1", "95%", "baseline", "better", "accuracy", "baseline", "ECE", "Brier", "baseline"]
    rows = [
        [
            name, str(one["n_true"]), _number(one["f1"]), f"{_number(one['f1_low'])} to {_number(one['f1_high'])}",
            _number(one["baseline_f1"]), _verdict(one), _number(one["accuracy"]), _number(one["baseline_accuracy"]),
            _number(one["ece"]), _number(one["brier"]), _number(one["baseline_brier"]),
        ]
        for name, one in figures.items() if "classes" in one
    ]  # fmt: skip
    return _table(head, rows)


def _class_table(figures: dict[str, Figures]) -> list[str]:
    head = ["feature", "class", "train", "n", "share", "share given", "F1", "95%", "baseline"]
    rows = [
        [
            name, label, str(one["n_train"]), str(one["n"]), f"{one['share']:.1%}", f"{one['share_given']:.1%}",
            _number(one["f1"]), f"{_number(one['f1_low'])} to {_number(one['f1_high'])}", _number(one["baseline_f1"]),
        ]
        for name, feature in figures.items() if "classes" in feature
        for label, one in feature["classes"].items()
    ]  # fmt: skip
    return _table(head, rows)


def _summary(figures: dict[str, Figures]) -> str:
    useful = [one for one in figures.values() if "classes" in one and not one["few"]]
    better = sum(_verdict(one) == "yes" for one in useful)
    mean = sum(one["f1"] for one in useful) / len(useful)
    baseline = sum(one["baseline_f1"] for one in useful) / len(useful)
    n = useful[0]["n"]
    if len(useful) == 1:
        return f"F1 {mean:.3f} (baseline {baseline:.3f}), n = {n}.\n"
    return (
        f"Mean F1 {mean:.3f} (baseline {baseline:.3f}) over {len(useful)} features with enough cases; for {better} of "
        f"them the whole interval lies above the baseline; n = {n}.\n"
    )


def _reward_tables(rewards: dict[str, dict[str, Figures]]) -> list[str]:
    head = [
        "model",
        "held-out pairs",
        "n",
        "accuracy",
        "95% (Wilson)",
        "longer wins",
        "shorter wins",
        "log-loss",
        "ECE",
    ]
    rows = [
        [
            model, subset, str(one["n"]), f"{one['accuracy']:.3f}", f"{one['low']:.3f} to {one['high']:.3f}",
            f"{one['longer_wins']:.3f}", f"{one['shorter_wins']:.3f}", f"{one['log_loss']:.3f}", _number(one["ece"]),
        ]
        for model, subsets in rewards.items() for subset, one in subsets.items()
    ]  # fmt: skip
    return _table(head, rows)


def _agreement_table(figures: dict[str, Figures]) -> list[str]:
    rows = [
        [name, str(one["n"]), f"{one['agreement']:.1%}", _number(one["kappa"])]
        for name, one in figures.items()
    ]  # fmt: skip
    return _table(["feature", "n", "agreement", "kappa"], rows)


def write(quality: Figures) -> str:
    """The card as Markdown, from what quality.json holds."""
    about = quality["about"]
    left_out = "; ".join(f"{count} {what}" for what, count in about["left_out"].items()) or "nothing"
    lines = [_INTRO.format(**about, left_out_text=left_out)]
    for name, figures in quality["labels"].items():
        lines += [f"## {_TITLES[name]} (`{name}`)", _summary(figures), *_label_table(figures)]
        lines += ["F1 of each class, with its share in the test part and the share the head gives it:", ""]
        lines += _class_table(figures)
    lines += ["## Schwartz's values on Value FULCRA's held-out dialogues", _summary(quality["fulcra"])]
    lines += [
        "Another labelling convention than ours (most dialogues are said to support benevolence), so these figures say",
        "how far our labels carry over, not how good a head for FULCRA's could be.",
        "",
        *_label_table(quality["fulcra"]),
    ]
    lines += [
        "## Reward models",
        "Share of held-out pairs whose preferred side gets the higher reward, beside always choosing the longer or the",
        "shorter response. Log-loss of sigma(margin); a coin has 0.693. Where the better of the two length rules lies",
        "within or above the interval, the model is not shown to know more than length.",
        "",
        *_reward_tables(quality["rewards"]),
        "## Agreement of two independent readings of the same entries",
        "The ceiling for any head trained on these labels. Kappa is not defined where both always say the same.",
        "",
        *_agreement_table(quality["agreement"]),
    ]
    return "\n".join(lines).rstrip() + "\n"
