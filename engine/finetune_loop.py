"""The loop that fine-tunes an encoder: batches, losses, steps, checkpoints, and what to do when memory runs out.

It knows neither taxonomies nor texts: rows of tokens with what each of the encoder's outputs should say, and how much
that counts. On a CPU the same seed gives the same weights, also when the process was killed and started again: every
epoch begins from its own seed and ends in a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.finetune_inputs import Encoded, batches, drawn, padded
from engine.records import SignetError
from engine.token_batches import token_batches, token_budget

CLIP = 1.0  # largest norm of a step's gradient
SPEAK = 2.0  # seconds between two words about progress
STATE = "state.pt"
Block = tuple[str, tuple[int, ...]]  # choice: outputs that exclude each other; binary: each on its own; number: as is
Say = Callable[..., None]


@dataclass(frozen=True)
class Rows:
    """Rows to learn from. `truth` and `weight` are (rows, width of the head), a weight 0 where nobody labelled;
    `factor` (rows,) is how often a row is seen in an epoch, on average."""

    encoded: Encoded
    truth: np.ndarray
    weight: np.ndarray
    factor: np.ndarray


@dataclass(frozen=True)
class Plan:
    """How to train. A step sees `batch_size * accumulate` rows, `batch_size` of them at a time; `patience` 0 never
    stops early; `metric` (loss or f1) tells which epoch is best."""

    epochs: int
    learning_rate: float
    batch_size: int
    accumulate: int
    patience: int
    metric: str
    warmup: float
    weight_decay: float
    precision: str
    device: str
    seed: int


def precision_of(wanted: str, device: str) -> str:
    """fp32, bf16 or fp16: what was asked for, or the best that the device has."""
    import torch

    if wanted == "auto":
        if not device.startswith("cuda"):
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if wanted == "fp16" and not device.startswith("cuda"):
        raise SignetError(f"precision is fp16, which needs a GPU, and the device is {device}; use auto, fp32 or bf16.")
    return wanted


def mixed(precision: str, device: str) -> Any:
    """The context in which an encoder computes at that precision; its weights stay in full precision."""
    import torch

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.split(":")[0], kind) if kind else contextlib.nullcontext()


def row_losses(blocks: Sequence[Block], logits: Any, truth: Any, weight: Any) -> Any:
    """Loss of each row, (rows,): cross entropy of choices, binary cross entropy, squared error of numbers."""
    from torch.nn import functional

    logits = logits.float()
    found = 0
    for kind, places in blocks:
        own, right, counts = (one[:, list(places)] for one in (logits, truth, weight))
        if kind == "choice":
            lost = -right * functional.log_softmax(own, 1)
        elif kind == "number":
            lost = (own - right) ** 2
        else:
            lost = functional.binary_cross_entropy_with_logits(own, right, reduction="none")
        found = found + (counts * lost).sum(1)
    return found


def balanced(blocks: Sequence[Block], truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weights, brought to a mean of 1 over what is labelled, so that a row's loss is that of a typical label."""
    counted = weight.copy()
    for kind, places in blocks:
        if kind == "choice":
            counted[:, list(places)] *= truth[:, list(places)]
    return weight * ((weight > 0).any(1).sum() / max(counted.sum(), 1e-9))


def begin_at_shares(network: Any, rows: Rows, blocks: Sequence[Block]) -> None:
    """Set the head's bias so that it begins with the labels' shares (Lin et al. 2017, section 4.1, for rare classes):
    with a few hundred entries, learning those would take most of the steps there are."""
    import torch

    counts = rows.weight * rows.factor[:, None]
    bias = np.zeros(rows.truth.shape[1])
    for kind, places in blocks:
        own = list(places)
        hits, total = (counts * rows.truth)[:, own].sum(0), counts[:, own].sum(0)
        share = hits / np.maximum(hits.sum() if kind == "choice" else total, 1e-9)
        if kind == "number":
            bias[own] = share
            continue
        share = np.clip(share, 1e-3, 1 - 1e-3)
        bias[own] = np.log(share) if kind == "choice" else np.where(total > 0, np.log(share / (1 - share)), 0.0)
    heads = [one for one in network.modules() if isinstance(one, torch.nn.Linear) and one.out_features == len(bias)]
    if heads and heads[-1].bias is not None:
        with torch.no_grad():
            heads[-1].bias.copy_(torch.from_numpy(bias))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what the error says; each device says it in its own way."""
    import torch

    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def _too_long(tokens: int, device: str) -> str:
    return (
        f"One text of {tokens} tokens does not fit into the memory of {device}; choose a smaller max_tokens or a "
        "smaller encoder."
    )


def _freed(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def predict(network: Any, encoded: Encoded, padding: int, precision: str, device: str) -> np.ndarray:
    """What the encoder's head says of rows, float64 (rows, width)."""
    import torch

    network.eval()
    lengths = encoded.lengths()
    found = np.zeros((len(lengths), network.config.num_labels))

    def fill(places: np.ndarray) -> None:
        try:
            with torch.inference_mode(), mixed(precision, device):
                logits = network(**padded(encoded, places.tolist(), padding, device)).logits
            found[places] = logits.float().cpu().numpy()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(places) == 1:
                raise SignetError(_too_long(int(lengths[places[0]]), device)) from None
            _freed(device)
            fill(places[: len(places) // 2])
            fill(places[len(places) // 2 :])

    for places in token_batches(lengths, token_budget(device)):
        fill(places)
    return found


class Loop:
    """One training: `run` it to the end, from its last checkpoint in `folder` if there is one."""

    def __init__(
        self, network: Any, rows: Rows, blocks: Sequence[Block], plan: Plan, padding: int, folder: Path, say: Say
    ) -> None:
        import torch

        self._network, self._rows, self._blocks, self._plan = network, rows, blocks, plan
        self._padding, self._folder, self._say = padding, folder, say
        self._lengths = rows.encoded.lengths()
        self._micro = plan.batch_size
        decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in network.parameters() if p.requires_grad and p.ndim < 2]  # biases and norms
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=plan.learning_rate,
        )
        self._scaler = torch.amp.GradScaler("cuda", enabled=plan.precision == "fp16")
        self._spoke = 0.0

    def run(self, judge: Callable[[], dict[str, float]] | None) -> dict[str, Any]:
        """Train; leaves the network with the weights of the best epoch, by what `judge` says after each (loss, and
        f1 where it can be told), or of the last where nothing judges. Returns epochs, best_epoch, history,
        batch_size, accumulate, seconds by the clock and of processor, also of processes that were killed."""
        import torch

        plan = self._plan
        self._folder.mkdir(parents=True, exist_ok=True)
        done = self._resumed()
        devices = [torch.device(plan.device)] if plan.device.startswith("cuda") else []
        while done["epoch"] < plan.epochs and not self._enough(done):
            began, busy, epoch = time.perf_counter(), time.process_time(), done["epoch"]
            with torch.random.fork_rng(devices):
                lost = self._epoch(epoch)
            told = {"epoch": epoch + 1, "train_loss": lost, **(judge() if judge else {})}
            done["history"].append(told)
            done["epoch"] = epoch + 1
            best = done["history"][done["best"] - 1] if done["best"] else None
            better = judge is None or best is None or self._value(told) < self._value(best)
            done["best"] = epoch + 1 if better else done["best"]
            done["seconds"] += time.perf_counter() - began
            done["cpu_seconds"] += time.process_time() - busy
            self._keep(done, better)
            self._tell(epoch + 1, 0.0, **{key: told[key] for key in ("loss", "f1") if key in told})
        kept = torch.load(self._folder / f"best-{done['best']}.pt", map_location=plan.device, weights_only=True)
        self._network.load_state_dict(kept)
        step = plan.batch_size * plan.accumulate
        return {
            "epochs": done["epoch"], "best_epoch": done["best"], "history": done["history"],
            "seconds": round(done["seconds"], 1), "cpu_seconds": round(done["cpu_seconds"], 1),
            "batch_size": self._micro, "accumulate": -(-step // self._micro),
        }  # fmt: skip

    def _value(self, told: dict[str, float]) -> tuple[float, float]:
        """Less is better; between epochs of the same F1 the loss decides."""
        return (-told.get("f1", 0.0), told["loss"]) if self._plan.metric == "f1" else (told["loss"], 0.0)

    def _enough(self, done: dict[str, Any]) -> bool:
        return 0 < self._plan.patience <= done["epoch"] - done["best"]

    def _epoch(self, epoch: int) -> float:
        """One pass over the rows; the mean loss of a row."""
        import torch

        plan = self._plan
        random = np.random.default_rng([plan.seed, epoch])
        torch.manual_seed(int(random.integers(2**31)))
        self._network.train()
        rows = drawn(self._rows.factor, random)
        size = plan.batch_size * plan.accumulate
        steps, total = -(-len(rows) // size), 0.0
        for step, batch in enumerate(batches(rows, self._lengths, size, random)):
            self._set_rate((epoch + (step + 0.5) / steps) / plan.epochs)
            total += self._step(batch)
            self._tell(epoch, (step + 1) / steps, loss=total / min((step + 1) * size, len(rows)))
        return total / max(len(rows), 1)

    def _set_rate(self, progress: float) -> None:
        """Linear warmup, then linear decay to nothing; `progress` is the share of all epochs behind."""
        warmup = self._plan.warmup
        share = progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.learning_rate * share

    def _step(self, batch: np.ndarray) -> float:
        """One step on a batch; returns its summed loss. Where memory runs out, the batch goes in smaller pieces."""
        import torch

        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                lost = sum(self._backward(part, len(batch)) for part in self._pieces(batch))
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self._micro == 1:
                    raise SignetError(_too_long(int(self._lengths[batch].max()), self._plan.device)) from None
            # Outside of the handler, whose traceback would hold the memory.
            self._optimizer.zero_grad(set_to_none=True)
            self._micro = -(-self._micro // 2)
            _freed(self._plan.device)
        if not np.isfinite(lost):
            raise SignetError("The loss is no longer a number; use a smaller learning_rate, or precision fp32.")
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), CLIP)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return lost

    def _pieces(self, batch: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(batch), self._micro):
            yield batch[start : start + self._micro]

    def _backward(self, part: np.ndarray, whole: int) -> float:
        import torch

        device = self._plan.device
        truth, weight = (
            torch.from_numpy(one[part]).float().to(device) for one in (self._rows.truth, self._rows.weight)
        )
        with mixed(self._plan.precision, device):
            logits = self._network(**padded(self._rows.encoded, part.tolist(), self._padding, device)).logits
        lost = row_losses(self._blocks, logits, truth, weight).sum()
        self._scaler.scale(lost / whole).backward()
        return float(lost.detach())

    # --- checkpoints and progress ---
    def _resumed(self) -> dict[str, Any]:
        """Where the last process stopped: the state after its last whole epoch, or the beginning."""
        import torch

        path = self._folder / STATE
        if not path.exists():
            return {"epoch": 0, "best": 0, "history": [], "seconds": 0.0, "cpu_seconds": 0.0}
        kept = torch.load(path, map_location=self._plan.device, weights_only=True)
        self._network.load_state_dict(kept["network"])
        self._optimizer.load_state_dict(kept["optimizer"])
        self._scaler.load_state_dict(kept["scaler"])
        self._micro = kept["micro"]
        return dict(kept["done"])

    def _keep(self, done: dict[str, Any], better: bool) -> None:
        """Each file is written whole and renamed; the state names the best weights, so those are written before it,
        and older ones go after it."""
        network = self._network.state_dict()
        if better:
            _write(self._folder / f"best-{done['best']}.pt", network)
        _write(
            self._folder / STATE,
            {"done": done, "network": network, "optimizer": self._optimizer.state_dict(),
             "scaler": self._scaler.state_dict(), "micro": self._micro},
        )  # fmt: skip
        for path in self._folder.glob("best-*.pt"):
            if path.name != f"best-{done['best']}.pt":
                path.unlink()

    def _tell(self, epoch: int, share: float, **details: float) -> None:
        """What is going on, every SPEAK seconds and after each epoch: epoch, epochs, share of the whole, loss, f1."""
        now = time.monotonic()
        if share and now - self._spoke < SPEAK:
            return
        self._spoke = now
        epochs = self._plan.epochs
        rounded = {name: round(value, 4) for name, value in details.items()}
        done = round((epoch + share) / epochs, 4)
        self._say(epoch=min(epoch + (share > 0), epochs), epochs=epochs, share=done, **rounded)


def _write(path: Path, kept: Any) -> None:
    import torch

    building = path.with_suffix(".building")
    torch.save(kept, building)
    os.replace(building, path)
