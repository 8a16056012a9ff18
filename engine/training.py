"""Training a classifier, as a job's work: held-out figures first, then the model that is kept.

Every figure is held out: the logits of an entry come from a model that saw nothing of its prompt, and the thresholds
and calibration that decide on it were tuned on other prompts. The model that is kept has then seen every entry.
Beside it stand the commonest class, a classifier of words (`baselines.keywords`), and how the figure grew with the
number of labels.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from engine import baselines, classifiers, decisions, evaluation, jobs, taxonomy
from engine.classifiers import FROZEN, HELD_OUT, REPORT, About
from engine.decisions import Output
from engine.examples import Examples, folds, from_table, held_out
from engine.model_card import model_card
from engine.records import SignetError

OPTIONS: dict[str, Any] = {"seed": 0, "folds": 5, "class_weight": "none", "oversample": False}
LEAST = 10  # labelled entries without which there is nothing to train or to measure
CURVE = (0.125, 0.25, 0.5, 0.75, 1.0)  # shares of the training part at which the learning curve is measured
REPEATS = 3  # draws of each smaller training part
CURVE_FOLDS = 3
Split = tuple[np.ndarray, np.ndarray]
Say = Callable[..., None]


def checked(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a model with their defaults; SignetError for an unknown or impossible one."""
    known = dict(OPTIONS)
    if model not in FROZEN:
        from engine import finetuning

        known |= {"folds": 1} | finetuning.OPTIONS
    for name, value in options.items():
        if name not in known:
            raise SignetError(f"Training {model} has no option {name!r}; there are {', '.join(known)}.")
        default = known[name]
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise SignetError(f"{name} is {value!r}; it must be true or false.")
        elif isinstance(default, int | float) and (
            isinstance(value, bool) or not isinstance(value, int | float) or value < 0
        ):
            raise SignetError(f"{name} is {value!r}; it must be a number of at least 0.")
    found = {**known, **options}
    if found["class_weight"] not in ("none", "balanced"):
        raise SignetError(f"class_weight is {found['class_weight']!r}; use none or balanced.")
    if found["folds"] not in range(1, 21):
        raise SignetError(f"folds is {found['folds']!r}; use 2 to 20, or 1 for a single held-out fifth.")
    if model not in FROZEN:
        finetuning.check(found)
    return found


def splits(examples: Examples, count: int, seed: int) -> list[Split]:
    """(train, held out) row numbers: `count` folds, or for 1 a single held-out fifth. No split separates a prompt."""
    if len(np.unique(examples.groups)) < 2:
        raise SignetError("All labelled entries share one prompt, so nothing can be held out; label more prompts.")
    return list(folds(examples.groups, count, seed)) if count > 1 else [held_out(examples.groups, 0.2, seed)]


def judged(examples: Examples, outputs: Sequence[Output], logits: np.ndarray, parts: Sequence[Split]) -> pd.DataFrame:
    """A row a held-out entry and column that has a label: row, column, truth, value, confidence, chances.

    `logits` (n, outputs) are out of fold; what decides on an entry was tuned on other prompts' held-out logits.
    """
    rows = np.sort(np.concatenate([out for _, out in parts]))
    part, held = examples.take(rows), logits[rows]
    wanted = decisions.targets(outputs, part.columns, part.values)
    found = []
    for tune_on, decide_on in folds(part.groups, 5, 1) if len(np.unique(part.groups)) > 1 else []:
        tuning = decisions.tune(outputs, held[tune_on], wanted[tune_on])
        calibrated = tuning.calibrated(held[decide_on])
        for column, values, sure in decisions.decide(outputs, held[decide_on], tuning):
            place = [one.name for one in part.columns].index(column)
            chances = decisions.probabilities(outputs, calibrated, part.columns[place])
            found.append(
                pd.DataFrame({
                    "row": rows[decide_on], "column": column, "truth": part.values[decide_on, place], "value": values,
                    "confidence": sure, "chances": list(chances),
                })
            )  # fmt: skip
    frame = pd.concat(found, ignore_index=True)
    return frame[np.isfinite(frame["truth"]) & np.isfinite(frame["value"])].reset_index(drop=True)


def with_baselines(examples: Examples, frame: pd.DataFrame, parts: Sequence[Split]) -> pd.DataFrame:
    """The frame of `judged` with what two baselines say of its rows: columns majority and keywords."""
    said: dict[str, dict[tuple[int, str], float]] = {"majority": {}, "keywords": {}}
    for train, out in parts:
        for place, column in enumerate(examples.columns):
            learn = train[np.isfinite(examples.values[train, place])]
            if not len(learn) or column.kind not in decisions.KINDS:
                continue
            truth, keys = examples.values[learn, place], [(int(i), column.name) for i in out]
            said["majority"] |= dict.fromkeys(keys, baselines.majority(truth))
            texts = [examples.responses[i] for i in learn], [examples.responses[i] for i in out]
            said["keywords"] |= dict(zip(keys, baselines.keywords(texts[0], truth, texts[1]).tolist()))
    keys = list(zip(frame["row"].astype(int), frame["column"]))
    return frame.assign(**{name: [given.get(key, np.nan) for key in keys] for name, given in said.items()})


def score(frame: pd.DataFrame, given: str = "value") -> float:
    """Macro-F1 of held-out decisions, averaged over the columns whose truth has two values; NaN where none has."""
    found = [
        evaluation.macro_f1(part["truth"].to_numpy(), part[given].to_numpy())
        for _, part in frame.groupby("column")
        if part["truth"].nunique() > 1
    ]
    return float(np.mean(found)) if found else float("nan")


def curve(
    examples: Examples, outputs: Sequence[Output], fold_logits: Callable[[list[Split]], np.ndarray], seed: int, say: Say
) -> list[dict[str, float]]:
    """Macro-F1 by the number of labelled entries learned from: n, repeat, macro_f1. Held-out parts stay the same."""
    found = []
    whole = list(folds(examples.groups, CURVE_FOLDS, seed))
    for share in CURVE:
        for repeat in range(REPEATS if share < 1 else 1):
            random = np.random.default_rng([seed, repeat, round(1000 * share)])
            parts = []
            for train, out in whole:
                groups = np.unique(examples.groups[train])
                kept = random.permutation(groups)[: round(share * len(groups))]
                parts.append((train[np.isin(examples.groups[train], kept)], out))
            n = float(round(share * np.mean([len(train) for train, _ in whole])))
            if n >= LEAST and all(len(train) for train, _ in parts):
                scored = score(judged(examples, outputs, fold_logits(parts), parts))
                found.append({"n": n, "repeat": repeat, "macro_f1": scored})
                say(step=f"learning curve: {n:.0f} entries")
    return found


class Trainer:
    """The work of a train job: one shard, which holds every example."""

    def __init__(self, params: dict[str, Any], folder: Path) -> None:
        self._params, self._folder = params, folder
        self._taxonomy = taxonomy.load(params["taxonomy"])
        if self._taxonomy.version != params["version"]:
            raise SignetError(f"The taxonomy {params['taxonomy']!r} has changed since this job was made; start again.")
        self.environment: dict[str, Any] = {"model": params["model"], "progress": {}}

    def _say(self, **details: Any) -> None:
        jobs.write_json(self._folder / "live.json", details)

    def run(self, table: pa.Table) -> pa.Table:
        """Train, measure and save the classifier; a table of its figures."""
        params, began = self._params, time.perf_counter()
        model, seed = params["model"], int(params["seed"])
        columns = [one for one in self._taxonomy.columns() if one.kind in decisions.KINDS]
        examples = from_table(table, columns)
        outputs = decisions.outputs_of(columns)
        parts = splits(examples, int(params["folds"]), seed)
        if model in FROZEN:
            from engine import frozen

            inputs = frozen.inputs(examples)
            held = partial(frozen.out_of_fold, examples, outputs, params, seed=seed, rows=inputs)
        else:
            from engine import finetuning

            held = partial(
                finetuning.out_of_fold, examples, outputs, params, seed=seed, say=self._say, folder=self._folder
            )
        self._say(step="held-out part")
        logits = held(splits=parts)
        frame = with_baselines(examples, judged(examples, outputs, logits, parts), parts)
        figures = {name: score(frame, name) for name in ("value", "majority", "keywords")}
        points: list[dict[str, float]] = []
        if model in FROZEN:  # a point is many fits: their strength is not searched for each time
            quick = partial(
                frozen.out_of_fold,
                examples,
                outputs,
                params | {"strength": frozen.STRENGTHS[1]},
                seed=seed,
                rows=inputs,
            )
            points = curve(examples, outputs, lambda some: quick(splits=some), seed, self._say)
        self._say(step="the model that is kept")
        rows = np.sort(np.concatenate([out for _, out in parts]))
        tuning = decisions.tune(
            outputs, logits[rows], decisions.targets(outputs, examples.columns, examples.values)[rows]
        )
        if model in FROZEN:
            kept = frozen.fit(examples, outputs, params, seed, inputs)
        else:
            kept = finetuning.fit(examples, outputs, params, seed, self._say, self._folder / "final")
        seconds = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
        report = {
            "figures": {"macro_f1": figures["value"], "majority_f1": figures["majority"],
                        "keywords_f1": figures["keywords"], "held_out": len(rows)},
            "curve": points, "seconds": round(seconds, 1), "memory_gb": round(memory, 2), "folds": params["folds"],
            "environment": getattr(kept, "environment", {}),
        }  # fmt: skip
        frame = frame.assign(
            entry=[examples.entries[i] for i in frame["row"]],
            domain=[examples.domains[i] for i in frame["row"]],
            group=[int(examples.groups[i]) for i in frame["row"]],
        ).drop(columns="row")

        def more(folder: Path) -> None:
            frame.to_parquet(folder / HELD_OUT, index=False)
            jobs.write_json(folder / REPORT, report)

        known = About(
            params["name"], self._taxonomy.name, self._taxonomy.version, model,
            {key: params[key] for key in params if key in checked(model, {})}, outputs, tuning,
            tuple(params["teachers"]), tuple(params["datasets"]), examples.n, params["data"],
            time.strftime("%Y-%m-%d %H:%M"), "",
        )  # fmt: skip
        home = self._folder.parent.parent
        known = classifiers.save(
            home, kept, known, self._taxonomy.text, model_card(known, self._taxonomy, frame, report), more
        )
        self.environment["progress"] = {"macro_f1": round(figures["value"], 3), "revision": known.revision}
        return pa.table({"entry": [], "macro_f1": []})
