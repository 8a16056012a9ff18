"""Classifiers fine-tuned from any Hugging Face encoder (RoBERTa, DeBERTa-v3, ModernBERT, ...), by hub id or folder.

Three tasks:
    labels      one output a label: cross entropy over a category's classes, binary cross entropy for everything else
    shared      signed values, one head for all of them: the encoder reads the dialogue and a sentence that defines
                the value, and says -1, 0 or +1 (Value FULCRA, arXiv 2311.10766, section 4.1)
    regression  the same with one number in place of three classes, squared error, -1 to +1

What is saved is a folder that `AutoModelForSequenceClassification` and `AutoTokenizer` read. Code that a model brings
along is never run.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import decisions, finetune_loop, fitting
from engine.decisions import Output
from engine.entry_tokens import longest_input
from engine.examples import Examples, held_out
from engine.finetune_head import Head, head_of, names_of, rows_of
from engine.finetune_inputs import encode
from engine.finetune_loop import Loop, Plan
from engine.records import SignetError, Turn, content_hash
from engine.settings import device

OPTIONS: dict[str, Any] = {
    "task": "auto", "epochs": 5, "learning_rate": 3e-5, "batch_size": 16, "accumulate": 1, "max_tokens": 512,
    "precision": "auto", "patience": 2, "metric": "loss", "warmup": 0.1, "weight_decay": 0.01,
}  # fmt: skip
CHOICES = {
    "task": ("auto", "labels", "shared", "regression"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "metric": ("loss", "f1"),
}
WHOLE = {"epochs": (1, 1000), "batch_size": (1, 4096), "accumulate": (1, 4096),
         "max_tokens": (16, 1 << 20), "patience": (0, 1000)}  # fmt: skip
STOPPING_SHARE = 0.1  # of the prompts, held out to tell which epoch is best
CHUNK = 1024  # entries predicted at a time
Say = Callable[..., None]


def check(options: dict[str, Any]) -> None:
    """SignetError for an option that cannot be; `options` may hold more than fine-tuning's own."""
    for name, allowed in CHOICES.items():
        if options[name] not in allowed:
            raise SignetError(f"{name} is {options[name]!r}; use {', '.join(allowed)}.")
    for name, (least, most) in WHOLE.items():
        if options[name] != int(options[name]) or not least <= options[name] <= most:
            raise SignetError(f"{name} is {options[name]!r}; it must be a whole number from {least} to {most}.")
    if not 0 < options["learning_rate"] <= 0.1:
        raise SignetError(f"learning_rate is {options['learning_rate']!r}; it must be above 0 and at most 0.1.")
    if not 0 <= options["warmup"] < 1:
        raise SignetError(f"warmup is {options['warmup']!r}; it is a share of the steps, from 0 to below 1.")
    if not 0 <= options["weight_decay"] <= 1:
        raise SignetError(f"weight_decay is {options['weight_decay']!r}; it must be from 0 to 1.")


class FineTuned:
    """An encoder, its tokenizer and what its outputs mean. `environment` says how it came about and where it is."""

    def __init__(self, network: Any, tokenizer: Any, head: Head, environment: dict[str, Any]) -> None:
        self._network, self._tokenizer, self._head = network, tokenizer, head
        self._device = str(network.device)
        self._precision = finetune_loop.precision_of(head.precision, self._device)
        self.checkpoints: Path | None = None
        self.environment = environment

    def logits(self, prompts: Sequence[Sequence[Turn]], responses: Sequence[str]) -> np.ndarray:
        """Logits of entries, float64 (n, outputs); NaN for a column that nobody had labelled."""
        found = [np.zeros((0, len(self._head.outputs)))]
        sentences = tuple(self._head.sentences.values())
        for start in range(0, len(responses), CHUNK):
            part = slice(start, start + CHUNK)
            encoded = encode(self._tokenizer, prompts[part], responses[part], self._head.max_tokens, sentences)
            padding = self._tokenizer.pad_token_id
            raw = finetune_loop.predict(self._network, encoded, padding, self._precision, self._device)
            found.append(self._head.logits(raw))
        return np.concatenate(found)

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer; the training's checkpoints are then removed."""
        self._network.save_pretrained(folder)
        if self._tokenizer.is_fast:  # what the last call happened to set is no property of the classifier
            self._tokenizer.backend_tokenizer.no_truncation()
            self._tokenizer.backend_tokenizer.no_padding()
        self._tokenizer.save_pretrained(folder)
        if self.checkpoints is not None:
            shutil.rmtree(self.checkpoints, ignore_errors=True)


def load(folder: Path) -> FineTuned:
    """The classifier saved in a folder; SignetError where it is none."""
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))["signet"]
        outputs = tuple(Output(**one) for one in raw["outputs"])
        head = Head(**{**raw, "outputs": outputs, "learned": tuple(raw["learned"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SignetError(f"{folder}: holds no fine-tuned classifier ({error}); train it again.") from None
    network, tokenizer = _opened(str(folder), {"local_files_only": True})
    head = replace(head, precision="fp32" if head.precision == "fp32" else "auto")  # of this machine
    return FineTuned(network, tokenizer, head, _versions(str(network.device)))


def fit(
    examples: Examples, outputs: Sequence[Output], params: dict[str, Any], seed: int, say: Say, folder: Path
) -> FineTuned:
    """Fine-tune `params["model"]` on all examples; a tenth of the prompts tells which epoch is best.

    `params` holds the model, the options and (for signed values) the taxonomy's name. `folder` keeps a checkpoint an
    epoch: called again after a kill, the training goes on there, with the same result. `say` gets step, epoch, epochs,
    share, loss and f1 as it goes. SignetError when the model cannot be had, fits neither task nor memory.
    """
    return _trained(examples, outputs, params, seed, lambda **told: say(step="the model that is kept", **told), folder)


def out_of_fold(
    examples: Examples, outputs: Sequence[Output], params: dict[str, Any],
    splits: Sequence[tuple[np.ndarray, np.ndarray]], seed: int, say: Say, folder: Path,
) -> np.ndarray:  # fmt: skip
    """Logits (n, outputs) of every held-out entry from an encoder that did not see its part; NaN for the others.

    A fold that is done is not repeated after a kill: its logits stay in `folder`.
    """
    found = np.full((examples.n, len(outputs)), np.nan)
    for number, (train, out) in enumerate(splits, start=1):
        known, asked = examples.take(train), examples.take(out)
        path = folder / f"fold-{_address(known, outputs, params, seed, asked.entries)}.npy"
        if not path.exists():
            step = f"held-out part {number} of {len(splits)}"
            model = _trained(known, outputs, params, seed, lambda step=step, **told: say(step=step, **told), folder)
            building = path.with_suffix(".building.npy")
            np.save(building, model.logits(asked.prompts, asked.responses))
            building.replace(path)
            if model.checkpoints:
                shutil.rmtree(model.checkpoints, ignore_errors=True)
        found[out] = np.load(path)
    return found


def _address(
    examples: Examples, outputs: Sequence[Output], params: dict[str, Any], seed: int, more: Sequence[str] = ()
) -> str:
    """What a training depends on, as a name for its files."""
    options = {name: params[name] for name in (*OPTIONS, "model", "class_weight", "oversample") if name in params}
    return content_hash([
        options, params.get("version"), [asdict(one) for one in outputs], examples.entries, examples.groups.tolist(),
        examples.values.tolist(), seed, list(more),
    ])  # fmt: skip


# --- training ---
def _opened(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """(encoder on the device, tokenizer) of a hub id or folder."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # that the head is new is no news
    local = {"local_files_only": True} if options.get("local_files_only") else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **local)
        network = AutoModelForSequenceClassification.from_pretrained(
            name, trust_remote_code=False, dtype=torch.float32, **options
        )
    except Exception as error:  # each kind of model and of failure raises its own
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason:
            reason = "it brings code of its own, which Signet does not run"
        raise SignetError(
            f"The encoder {name!r} cannot be loaded ({reason[:250]}); name a Hugging Face model id, or a folder "
            "that holds config.json, the weights and the tokenizer."
        ) from None
    finally:
        transformers_logging.set_verbosity(before)
    if tokenizer.pad_token_id is None:
        raise SignetError(f"{name} has no padding token, so it is no encoder to fine-tune; choose one such as RoBERTa.")
    return network.to(device()), tokenizer


def _versions(where: str) -> dict[str, Any]:
    import torch
    import transformers

    return {"device": where, "torch": torch.__version__, "transformers": transformers.__version__}


def _judge(
    examples: Examples, head: Head, network: Any, tokenizer: Any, params: dict[str, Any], precision: str
) -> Callable[[], dict[str, float]]:
    """What tells how good an epoch is: the loss on these examples, and macro-F1 with thresholds tuned on them."""
    import torch

    rows = rows_of(examples, head, tokenizer, params, thin=False)
    wanted = decisions.targets(head.outputs, examples.columns, examples.values)
    columns = {column.name: k for k, column in enumerate(examples.columns)}

    def judged() -> dict[str, float]:
        raw = finetune_loop.predict(network, rows.encoded, tokenizer.pad_token_id, precision, str(network.device))
        each = finetune_loop.row_losses(
            head.blocks(), *(torch.from_numpy(one).float() for one in (raw, rows.truth, rows.weight))
        )
        logits, scores = head.logits(raw), []
        tuning = decisions.tune(head.outputs, logits, wanted)
        for name, values, _ in decisions.decide(head.outputs, logits, tuning):
            truth = examples.values[:, columns[name]]
            seen = np.isfinite(truth) & np.isfinite(values)
            if len(np.unique(truth[seen])) > 1:
                classes = decisions.classes_of(examples.columns[columns[name]])
                scores.append(fitting.macro_f1(truth[seen], values[seen], classes))
        told = {"loss": float(each.sum() / max(float((rows.weight > 0).any(1).sum()), 1.0))}
        return told | ({"f1": float(np.mean(scores))} if scores else {})

    return judged


def _trained(
    examples: Examples, outputs: Sequence[Output], params: dict[str, Any], seed: int, say: Say, folder: Path
) -> FineTuned:
    import torch

    params = {"class_weight": "none", "oversample": False, **OPTIONS, **params}
    check(params)
    labelled = examples.take(np.flatnonzero(np.isfinite(examples.values).any(1)))
    if not labelled.n:
        raise SignetError("Nobody has labelled any of these entries, so there is nothing to learn from.")
    head = head_of(labelled, outputs, params)
    names = names_of(head, labelled)
    say(epoch=0, epochs=int(params["epochs"]), share=0.0)
    where = device()
    precision = finetune_loop.precision_of(params["precision"], where)
    with torch.random.fork_rng([torch.device(where)] if where.startswith("cuda") else []):
        torch.manual_seed(seed)
        network, tokenizer = _opened(
            params["model"],
            {"num_labels": head.width, "problem_type": head.problem(), "ignore_mismatched_sizes": True,
             "id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}},
        )  # fmt: skip
    head = replace(head, max_tokens=min(head.max_tokens, longest_input(tokenizer, network.config)), precision=precision)
    tokenizer.model_max_length = head.max_tokens
    network.config.signet = asdict(head)
    network.config.pad_token_id = tokenizer.pad_token_id
    if where.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()

    inner, stopping = labelled, None
    if params["patience"] and len(np.unique(labelled.groups)) > 1:
        train, out = held_out(labelled.groups, STOPPING_SHARE, seed)
        inner, stopping = labelled.take(train), labelled.take(out)
    rows = rows_of(inner, head, tokenizer, params, thin=True)
    finetune_loop.begin_at_shares(network, rows, head.blocks())
    plan = Plan(
        int(params["epochs"]), params["learning_rate"], int(params["batch_size"]), int(params["accumulate"]),
        int(params["patience"]), params["metric"], params["warmup"], params["weight_decay"], precision, where, seed,
    )  # fmt: skip
    checkpoints = folder / f"checkpoints-{_address(examples, outputs, params, seed)}"
    judge = _judge(stopping, head, network, tokenizer, params, precision) if stopping else None
    record = Loop(network, rows, head.blocks(), plan, tokenizer.pad_token_id, checkpoints, say).run(judge)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if where.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated()
    environment = {
        **_versions(where), "dtype": precision, "model": params["model"], "task": head.task,
        "revision": getattr(network.config, "_commit_hash", None), "max_tokens": head.max_tokens,
        "parameters": sum(one.numel() for one in network.parameters()), "entries": inner.n,
        "truncated": rows.encoded.truncated, "peak_memory_gb": round(memory / 1e9, 2), **record,
    }  # fmt: skip
    model = FineTuned(network, tokenizer, head, environment)
    model.checkpoints = checkpoints
    return model
