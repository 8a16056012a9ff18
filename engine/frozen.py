"""Classifiers on frozen embeddings, for laptops: a linear head or a small perceptron on the rows of `head_inputs`.

`FrozenHead` is a torch module that huggingface_hub saves and reads (`save_pretrained`, `from_pretrained`: config.json
and model.safetensors). torch is imported when it is first asked for:

    from engine.frozen import FrozenHead
    head = FrozenHead.from_pretrained("folder")
    head.logits([prompt], ["response"])
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from engine import embedder, fitting, head_inputs
from engine.decisions import Output, targets
from engine.examples import Examples, folds, held_out
from engine.head_inputs import Scaling
from engine.records import SignetError, Turn

KINDS = ("linear", "mlp")
STRENGTHS = (3e-4, 1e-3, 3e-3)  # of the ridge, tried by cross-validation that never separates a prompt
FOLDS = 3  # of that cross-validation
CHUNK = 512  # entries made into rows at a time
COMPONENTS = 256  # of the rows, which the perceptron learns from; with more, or all columns, it did worse
HIDDEN, DROPOUT, INPUT_DROPOUT = 128, 0.5, 0.3
RATE, DECAY, BATCH, EPOCHS, PATIENCE = 1e-3, 0.1, 32, 100, 8
STOPPING_SHARE = 0.15  # of the prompts, held out to tell when to stop
Splits = Sequence[tuple[np.ndarray, np.ndarray]]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Numerics on one core: products this small mostly wait for each other on more, ten times over on shared cores."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _head_class() -> Any:
    """The class FrozenHead, made when torch is first needed."""
    import torch
    from huggingface_hub import PyTorchModelHubMixin
    from torch import nn

    class FrozenHead(nn.Module, PyTorchModelHubMixin, library_name="signet", tags=["text-classification"]):
        """Logits of entries from frozen embeddings, style and n-grams; `outputs` says what each is evidence of."""

        centre: torch.Tensor
        scale: torch.Tensor
        rarity: torch.Tensor

        def __init__(self, outputs: list[dict[str, Any]], model: str, inputs: str, embedder: str) -> None:
            super().__init__()
            self.outputs = tuple(Output(**one) for one in outputs)
            self.inputs, self.embedder = inputs, embedder
            width = head_inputs.BLOCKS["surface"] + head_inputs.BLOCKS["lexicon"]
            self.register_buffer("centre", torch.zeros(width))
            self.register_buffer("scale", torch.zeros(width))
            self.register_buffer("rarity", torch.zeros(head_inputs.NGRAM_BUCKETS))
            if model == "linear":
                self.layers: nn.Module = nn.Linear(head_inputs.WIDTH, len(outputs))
            else:
                self.layers = nn.Sequential(
                    nn.Linear(head_inputs.WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, len(outputs))
                )

        @property
        def scaling(self) -> Scaling:
            """What the rows are scaled by, learned from the training part."""
            return Scaling(self.centre.numpy(), self.scale.numpy(), self.rarity.numpy())

        def forward(self, scaled: torch.Tensor) -> torch.Tensor:
            """Logits of scaled rows, (n, outputs)."""
            return self.layers(scaled)

        def logits_of_rows(self, rows: np.ndarray) -> np.ndarray:
            """Logits of raw rows of `head_inputs`, float64 (n, outputs)."""
            with torch.inference_mode():
                found = [np.zeros((0, len(self.outputs)))]
                for start in range(0, len(rows), CHUNK):
                    scaled = head_inputs.scaled(rows[start : start + CHUNK], self.scaling)
                    found.append(self.eval()(torch.from_numpy(scaled)).double().numpy())
            return np.concatenate(found)

        def logits(self, prompts: Sequence[Sequence[Turn]], responses: Sequence[str]) -> np.ndarray:
            """Logits of entries, float64 (n, outputs); NaN for a column that nobody had labelled."""
            found = [np.zeros((0, len(self.outputs)))]
            for start in range(0, len(responses), CHUNK):
                rows = head_inputs.raw(prompts[start : start + CHUNK], responses[start : start + CHUNK])
                found.append(self.logits_of_rows(rows))
            return np.concatenate(found)

        @classmethod
        def _from_pretrained(cls, **named: Any) -> Any:
            with redirect_stdout(sys.stderr):  # it prints, and standard output belongs to --json
                return super()._from_pretrained(**named)

        def save(self, folder: Path) -> None:
            """Write what `from_pretrained` reads."""
            self.save_pretrained(folder)

    FrozenHead.__qualname__ = "FrozenHead"
    return FrozenHead


def __getattr__(name: str) -> Any:
    if name == "FrozenHead":
        return _head_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(folder: Path) -> Any:
    """The FrozenHead saved in a folder; SignetError where it is none, or was trained on other inputs."""
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise SignetError(f"{folder}: holds no classifier on frozen embeddings (config.json and model.safetensors).")
    from safetensors import SafetensorError

    try:
        head = _head_class().from_pretrained(str(folder))
    except (ValueError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise SignetError(f"{folder}: the classifier cannot be read ({error}); train it again.") from None
    if (head.inputs, head.embedder) != (head_inputs.VERSION, embedder.revision()):
        raise SignetError(f"{folder}: was trained on other inputs than this installation makes; train it again.")
    return head


def inputs(examples: Examples, say: Callable[[str], None] = lambda text: None) -> np.ndarray:
    """Raw rows of examples, float32 (n, WIDTH): made once, they serve every fold and every subset."""
    found = [np.zeros((0, head_inputs.WIDTH), np.float32)]
    for start in range(0, examples.n, CHUNK):
        part = slice(start, start + CHUNK)
        found.append(head_inputs.raw(examples.prompts[part], examples.responses[part]))
        say(f"{min(start + CHUNK, examples.n)} of {examples.n} entries read")
    return np.concatenate(found)


def _weights(truth: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """How much each entry counts for each output, by the options class_weight and oversample."""
    found = fitting.balance(truth) if options.get("class_weight") == "balanced" else np.isfinite(truth).astype(float)
    return found * fitting.repeats(truth)[:, None] if options.get("oversample") else found


def _fit_linear(
    head: Any, scaled: np.ndarray, truth: np.ndarray, weights: np.ndarray, groups: np.ndarray, given: float | None
) -> None:
    """Ridge logistic regression of each output, one against the rest, its strength chosen by grouped folds or given."""
    import torch

    gram = fitting.products(scaled)
    splits = list(folds(groups, FOLDS, 0))
    strength: Any = given or STRENGTHS[1]
    if splits and given is None:
        strength, _ = fitting.cross_validate(gram, truth, splits, strengths=STRENGTHS, weights=weights)
    shares, bias = fitting.fit_binary(gram, truth, strength, weights=weights)
    with torch.no_grad():
        head.layers.weight.copy_(torch.from_numpy((scaled.T.astype(np.float64) @ shares).T))
        head.layers.bias.copy_(torch.from_numpy(bias))


def _loss(outputs: Sequence[Output]) -> Callable[..., Any]:
    """Mean loss over labelled cells: cross-entropy of a choice, binary cross-entropy of the other outputs."""
    import torch
    from torch.nn import functional

    choices: dict[str, list[int]] = {}
    for place, output in enumerate(outputs):
        if output.kind == "choice":
            choices.setdefault(output.column, []).append(place)
    single = [place for place, output in enumerate(outputs) if output.kind != "choice"]

    def loss(logits: Any, truth: Any, weights: Any) -> Any:
        total, cells = logits.sum() * 0, weights.new_zeros(())
        if single:
            raw = functional.binary_cross_entropy_with_logits(logits[:, single], truth[:, single], reduction="none")
            total, cells = total + (raw * weights[:, single]).sum(), cells + weights[:, single].sum()
        for places in choices.values():
            own = (weights[:, places] * truth[:, places]).sum(1)  # the weight of the true class
            log_shares = functional.log_softmax(logits[:, places], dim=1)
            total = total - ((log_shares * truth[:, places]).sum(1) * own).sum()
            cells = cells + own.sum()
        return total / torch.clamp(cells, min=1e-9)

    return loss


def _components(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the rows, and the directions (columns, COMPONENTS at most) in which they vary most, to unit size."""
    mean = scaled.mean(0, dtype=np.float64)
    centred = scaled - mean
    power, shares = np.linalg.eigh(centred @ centred.T)
    kept = np.flatnonzero(power >= 1e-6 * power[-1])[::-1][:COMPONENTS]
    lengths = np.sqrt(np.maximum(power[kept], 1e-12))  # 0 where all rows are one
    spread = np.sqrt((lengths**2).sum() / (len(scaled) * len(kept)))
    return mean, (centred.T @ shares[:, kept]) / lengths / spread


def _fit_mlp(
    head: Any, scaled: np.ndarray, truth: np.ndarray, weights: np.ndarray, groups: np.ndarray, seed: int
) -> None:
    """Mini-batches of AdamW (Loshchilov and Hutter 2019) on principal components of the rows, until a held-out part of
    the prompts stops gaining. The components are then made part of the first layer."""
    import torch
    from torch import nn

    mean, directions = _components(scaled)
    rows = torch.from_numpy((scaled - mean) @ directions).float()
    aims, counts = torch.from_numpy(np.nan_to_num(truth)).float(), torch.from_numpy(weights).float()
    net = nn.Sequential(
        nn.Dropout(INPUT_DROPOUT), nn.Linear(rows.shape[1], HIDDEN), nn.GELU(), nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, truth.shape[1]),
    )  # fmt: skip
    first, last, loss = cast(nn.Linear, net[1]), cast(nn.Linear, net[4]), _loss(head.outputs)
    base = np.clip((weights * np.nan_to_num(truth)).sum(0) / np.maximum(weights.sum(0), 1e-9), 1e-3, 1 - 1e-3)
    with torch.no_grad():
        last.bias.copy_(torch.from_numpy(np.log(base / (1 - base))))
    train, out = held_out(groups, STOPPING_SHARE, seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    least, best, since = np.inf, net.state_dict(), 0
    for _ in range(EPOCHS if len(out) else EPOCHS // 5):
        net.train()
        for some in torch.from_numpy(train)[torch.randperm(len(train))].split(BATCH):
            optimizer.zero_grad()
            loss(net(rows[some]), aims[some], counts[some]).backward()
            optimizer.step()
        if not len(out):
            continue
        net.eval()
        with torch.no_grad():
            now = float(loss(net(rows[out]), aims[out], counts[out]))
        since += 1
        if now < least:
            least, since = now, 0
            best = {name: value.clone() for name, value in net.state_dict().items()}
        elif since >= PATIENCE:
            break
    net.load_state_dict(best)
    with torch.no_grad():
        onto = first.weight.double().numpy() @ directions.T
        head.layers[0].weight.copy_(torch.from_numpy(onto))
        head.layers[0].bias.copy_(first.bias - torch.from_numpy(onto @ mean).float())
        head.layers[2].load_state_dict(last.state_dict())


def _fit_rows(
    rows: np.ndarray, truth: np.ndarray, groups: np.ndarray, outputs: Sequence[Output], options: dict[str, Any],
    seed: int,
) -> Any:  # fmt: skip
    import torch

    kind = options.get("model", "linear")
    if kind not in KINDS:
        raise SignetError(f"No head {kind!r} on frozen embeddings; there are {' and '.join(KINDS)}.")
    labelled = np.isfinite(truth).any(1)
    if not labelled.any():
        raise SignetError("There is nothing to train on: no entry has a label of this taxonomy.")
    rows, truth, groups = rows[labelled], truth[labelled], groups[labelled]
    with torch.random.fork_rng(devices=[]), _one_thread():
        scaling = head_inputs.learn_scaling(rows)
        scaled, weights = head_inputs.scaled(rows, scaling), _weights(truth, options)
        torch.manual_seed(seed)
        head = _head_class()([asdict(one) for one in outputs], kind, head_inputs.VERSION, embedder.revision())
        for name in ("centre", "scale", "rarity"):
            getattr(head, name).copy_(torch.from_numpy(getattr(scaling, name)))
        if kind == "linear":
            _fit_linear(head, scaled, truth, weights, groups, options.get("strength"))
        else:
            _fit_mlp(head, scaled, truth, weights, groups, seed)
    last = head.layers if kind == "linear" else head.layers[-1]
    with torch.no_grad():
        last.bias[torch.from_numpy(~np.isfinite(truth).any(0))] = torch.nan  # nobody labelled it: no verdict, ever
    return head.eval()


def fit(
    examples: Examples, outputs: Sequence[Output], options: dict[str, Any], seed: int, rows: np.ndarray | None = None
) -> Any:
    """A FrozenHead trained on all labelled examples. Options read: model (linear or mlp), class_weight (none or
    balanced), oversample, and strength, which is chosen by cross-validation where it is not given. `rows`: their
    `inputs`, where they are made already.

    A cell without a label counts for nothing; an output of a column without any label says NaN. Raises SignetError
    when no example is labelled.
    """
    found = inputs(examples) if rows is None else rows
    truth = targets(outputs, examples.columns, examples.values)
    return _fit_rows(found, truth, examples.groups, outputs, options, seed)


def out_of_fold(
    examples: Examples, outputs: Sequence[Output], options: dict[str, Any], splits: Splits, seed: int,
    rows: np.ndarray | None = None, say: Callable[[str], None] = lambda text: None,
) -> np.ndarray:  # fmt: skip
    """Logits (n, outputs) of each entry from a head that was trained without it; NaN for entries never held out.

    `splits` are (train, held out) row numbers; whatever is learned, scaling and strength included, is learned from
    the train part.
    """
    found = inputs(examples) if rows is None else rows
    truth = targets(outputs, examples.columns, examples.values)
    logits = np.full((examples.n, len(outputs)), np.nan)
    for k, (train, out) in enumerate(splits):
        head = _fit_rows(found[train], truth[train], examples.groups[train], outputs, options, seed)
        logits[out] = head.logits_of_rows(found[out])
        say(f"fold {k + 1} of {len(splits)} trained")
    return logits
