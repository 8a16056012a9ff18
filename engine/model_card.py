"""The model card of a trained classifier, written from what was measured."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from engine import decisions, evaluation
from engine.classifiers import FROZEN, About
from engine.taxonomy import Taxonomy


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def model_card(known: About, chosen: Taxonomy, held_out: pd.DataFrame, report: dict[str, Any]) -> str:
    """README.md of a classifier's folder: what it labels, what it learned from, how good it is, what it is not."""
    columns = {column.name: column for column in chosen.columns()}
    rows = []
    for name, part in held_out.groupby("column", sort=False):
        column = columns[str(name)]
        classes, titles = decisions.classes_of(column), decisions.class_names(column)
        found = evaluation.classification(
            part["truth"].to_numpy(), part["value"].to_numpy(), part["group"].to_numpy(), classes, titles
        )
        for one in found.classes:
            if one.support:
                f1 = one.f1
                rows.append([column.title, one.name, one.support, f"{f1.estimate:.2f}",
                             f"[{f1.conf_low:.2f}, {f1.conf_high:.2f}]"])  # fmt: skip
    figures = report["figures"]
    kind = (
        f"A {'linear' if known.model == 'linear' else 'small MLP'} head on frozen sentence embeddings and style"
        if known.model in FROZEN
        else f"`{known.model}`, fine-tuned"
    )
    load = (
        "`engine.frozen.load(folder)` reads it, as does `python -m engine label NAME --labeler classifier:"
        f"{known.name} --taxonomy {known.taxonomy}`."
        if known.model in FROZEN
        else "`AutoModelForSequenceClassification.from_pretrained(folder)` reads the weights; thresholds and "
        f"calibration stand in `signet.json` and are applied by `--labeler classifier:{known.name}`."
    )
    return f"""---
library_name: {"pytorch" if known.model in FROZEN else "transformers"}
pipeline_tag: text-classification
tags: [signet, values, preference-data]
---

# {known.name}

{kind}, which labels the last response of a dialogue by the taxonomy
**{chosen.title}** (`{chosen.name}`, version `{chosen.version}`). Trained by Signet on {known.created}. {load}

## Data
{known.n:,} entries labelled by {", ".join(known.teachers)}; datasets: {", ".join(known.datasets) or "all"}; content
address of texts and labels `{known.data}`. No text is stored here.

## Held-out figures
{figures["held_out"]:,} entries were held out by prompt ({report["folds"]} folds; 1 means a single fifth); thresholds
and calibration were tuned on other prompts than those they decide on. Macro-F1 {figures["macro_f1"]:.3f}; always the
commonest class {figures["majority_f1"]:.3f}; a classifier of words {figures["keywords_f1"]:.3f}. The model kept
here has seen all entries. Intervals are 95%, resampled by prompt.

{_table(["feature", "class", "n", "F1", "interval"], rows)}

## Limits
It repeats its teachers' errors, knows the kinds of text it was trained on, and its figures hold for those. Rare classes
have wide intervals. Correct prevalence for its errors (Values, Corrected) before you report a share.

## Options
`{json.dumps(known.options, sort_keys=True)}`
"""
