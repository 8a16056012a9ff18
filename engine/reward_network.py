"""A Hugging Face reward model on its device: batches of tokens in, logits out, by the fastest way that it allows.

    encoder     padded batches; DeBERTa without its gathers (engine.disentangled)
    decoder     right-padded batches without a mask: under causal attention no token sees the padding after it
    shared      (decoders) the answers to one prompt in one row: the prompt once, then each answer, which sees the
                prompt and itself (a block mask) and is counted from the prompt's end (position ids). Exact but for
                rounding, which `shares_prompts` tries on the loaded model before it is used
    other       any other architecture by its own forward, in padded batches

`int8` quantises the linear layers of a model on the CPU as it runs: weights once per channel, activations by one
scale a call. So a call holds one text, or a text's reward would depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import disentangled
from engine.entry_tokens import Encoded
from engine.records import SignetError
from engine.units import TOKEN_BUDGET, Unit, padded, shared_units, single_units, token_batches

SAME = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}  # shared against alone, relative to 1 + |reward|
UNLIMITED = 10**9


class RewardNetwork:
    """The loaded model. `way`: encoder, decoder or other; `shared`: whether prompts are computed once.

    Raises SignetError when the model cannot be loaded, or has several outputs and `output` names none.
    """

    def __init__(self, params: dict[str, Any], device: str) -> None:
        self.device = device
        self.model = _loaded(params, device)
        self._output = _output(params, self.model.config.num_labels)
        self.way = _way(self.model)
        self.most = _window(self.model.config)  # tokens a shared row may have
        if disentangled.usable(self.model):
            disentangled.accelerate(self.model)
        if params["dtype"] == "int8":
            _quantise(self.model, device)
        alone = params["dtype"] == "int8"
        self.budget = 1 if alone else TOKEN_BUDGET[device]  # padded tokens a batch
        self.shared = self.way == "decoder" and not alone and self.shares_prompts(SAME[params["dtype"]])
        self.shared_tokens = 0  # that were not computed again

    def rewards(self, encoded: Sequence[Encoded]) -> NDArray[np.float64]:
        """Rewards in the order given. The results stay on the device until the last batch is on its way."""
        import torch

        units = shared_units(encoded, self.most) if self.shared else single_units(encoded)
        self.shared_tokens += sum(unit.shared * (len(unit.places) - 1) for unit in units)
        order: list[int] = []
        parts: list[Any] = []
        while units:
            batch = next(token_batches([unit.length for unit in units], self.budget))
            these, units = units[: len(batch)], units[len(batch) :]
            order += [place for unit in these for place in unit.places]
            parts.append(self._forward(these, encoded))
        found = np.zeros(len(encoded))
        if parts:
            found[order] = torch.cat(parts).double().cpu().numpy()
        return found

    def _forward(self, units: Sequence[Unit], encoded: Sequence[Encoded]) -> Any:
        """Logits of a batch; when memory runs out, of its two halves, and batches are smaller from then on."""
        import torch

        try:
            return self.logits(units, encoded)
        except torch.OutOfMemoryError:
            if len(units) == 1 and len(units[0].places) == 1:
                raise SignetError(
                    f"One text of {units[0].length} tokens does not fit into the device's memory; "
                    "choose a smaller max_length or dtype=bfloat16."
                ) from None
        torch.cuda.empty_cache()
        self.budget = max(1, self.budget // 2)
        if len(units) == 1:
            units = [Unit((place,), 0, len(encoded[place].ids)) for place in units[0].places]
        half = len(units) // 2
        return torch.cat([self._forward(units[:half], encoded), self._forward(units[half:], encoded)])

    def logits(self, units: Sequence[Unit], encoded: Sequence[Encoded]) -> Any:
        """Logits of all entries of the units, in the units' order: a tensor on the device. No waiting for it."""
        if self.way == "decoder" and any(unit.shared for unit in units):
            return self._shared(units, encoded)
        rows = [encoded[place] for unit in units for place in unit.places]
        return self._causal(rows) if self.way == "decoder" else self._padded(rows)

    # --- the ways ---
    def _padded(self, rows: Sequence[Encoded]) -> Any:
        import torch

        config = self.model.config
        width = max(1, *(len(row.ids) for row in rows), 1)
        padding = config.pad_token_id
        if self.way == "other" or padding is None:
            # Such models look for the last token that is not padding, so the padding id must not occur.
            padding = _absent_id(rows, config.get_text_config().vocab_size)
            config.pad_token_id = config.get_text_config().pad_token_id = padding
        inputs = {"input_ids": padded([row.ids for row in rows], padding, width)}
        inputs["attention_mask"] = padded([[1] * len(row.ids) for row in rows], 0, width)
        if rows[0].types is not None:
            inputs["token_type_ids"] = padded([row.types for row in rows], 0, width)
        moved = {name: self._moved(value) for name, value in inputs.items()}
        with torch.inference_mode():
            return self.model(**moved).logits[:, self._output]

    def _causal(self, rows: Sequence[Encoded]) -> Any:
        import torch

        width = max(1, *(len(row.ids) for row in rows), 1)
        ids = self._moved(padded([row.ids for row in rows], 0, width))
        last = self._moved(torch.tensor([max(0, len(row.ids) - 1) for row in rows]))
        with torch.inference_mode():
            states = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return self.model.score(states[torch.arange(len(rows), device=states.device), last])[:, self._output]

    def _shared(self, units: Sequence[Unit], encoded: Sequence[Encoded]) -> Any:
        import torch

        width = max(unit.length for unit in units)
        ids = np.zeros((len(units), width), np.int64)
        positions = np.zeros((len(units), width), np.int64)
        part = np.full((len(units), width), -1, np.int64)  # 0: the prompt; k: the k-th answer; -1: padding
        rows, columns = [], []
        for row, unit in enumerate(units):
            first = encoded[unit.places[0]].ids
            at = unit.shared
            ids[row, :at], positions[row, :at], part[row, :at] = first[:at], np.arange(at), 0
            for k, place in enumerate(unit.places, 1):
                own = encoded[place].ids[unit.shared :]
                end = at + len(own)
                ids[row, at:end] = own
                positions[row, at:end] = np.arange(unit.shared, unit.shared + len(own))
                part[row, at:end] = k
                at = end
                rows.append(row)
                columns.append(at - 1)
        tokens, places, parts = (self._moved(torch.from_numpy(table)) for table in (ids, positions, part))
        where = self._moved(torch.tensor([rows, columns]))
        with torch.inference_mode():
            before = torch.ones((width, width), dtype=torch.bool, device=tokens.device).tril()
            seen = (parts[:, None, :] == parts[:, :, None]) | (parts[:, None, :] == 0)
            mask = (before & seen)[:, None]
            states = self.model.base_model(
                input_ids=tokens, attention_mask=mask, position_ids=places, use_cache=False
            ).last_hidden_state
            return self.model.score(states[where[0], where[1]])[:, self._output]

    def _moved(self, tensor: Any) -> Any:
        if self.device != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def shares_prompts(self, tolerance: float) -> bool:
        """Whether answers behind one prompt get the reward that they get alone: tried on random tokens.

        Models whose attention takes no mask of that form (other implementations, state spaces) are found out here.
        """
        if getattr(self.model.config, "_attn_implementation", "") != "sdpa":
            return False
        rng = np.random.default_rng(0)
        size = min(self.model.config.get_text_config().vocab_size, 1000)
        prompt = rng.integers(0, size, 40).astype(np.int32)
        rows = [
            Encoded(np.concatenate([prompt, rng.integers(0, size, n).astype(np.int32)]), None, 40 + n, 0)
            for n in (9, 4, 17)
        ]
        try:
            alone = self._causal(rows).float().cpu().numpy()
            together = self._shared([Unit((0, 1, 2), 40, 70)], rows).float().cpu().numpy()
        except Exception:  # whatever a model does with a mask that it does not know, it cannot be used
            return False
        return bool(np.all(np.abs(alone - together) <= tolerance * (1 + np.abs(alone))))


def _loaded(params: dict[str, Any], device: str) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    where, options = source_of(params)
    dtype = torch.float32 if params["dtype"] == "int8" else getattr(torch, params["dtype"])
    try:
        model = AutoModelForSequenceClassification.from_pretrained(where, dtype=dtype, **options)
    except Exception as error:
        raise cannot_load(params, error) from error
    return model.to(device).eval()


def source_of(params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What from_pretrained needs to load a model's weights or tokenizer."""
    options: dict[str, Any] = {"trust_remote_code": params["trust_remote_code"]}
    if params["kind"] == "hub":
        options["revision"] = params["revision"]
    return params.get("path") or params["model"], options


def cannot_load(params: dict[str, Any], error: Exception) -> SignetError:
    """The sentence for a model or tokenizer that transformers cannot load."""
    reason = " ".join(str(error).split())[:300]
    if "trust_remote_code" in reason:
        reason = "it brings code of its own; allow that with --option trust_remote_code=true if you trust it"
    return SignetError(f"Reward model {params['model']!r} cannot be loaded: {reason}")


def _output(params: dict[str, Any], outputs: int) -> int:
    wanted = params.get("output")
    if outputs != 1 and wanted is None:
        raise SignetError(
            f"{params['model']} has {outputs} outputs, a reward model has one; choose with --option output=0."
        )
    if wanted is not None and not 0 <= int(wanted) < outputs:
        raise SignetError(f"{params['model']} has outputs 0 to {outputs - 1}; there is no {wanted}.")
    return int(wanted or 0)


def _way(model: Any) -> str:
    from transformers.modeling_layers import GenericForSequenceClassification

    if isinstance(model, GenericForSequenceClassification) and hasattr(model, "score"):
        return "decoder"
    names = " ".join(model.config.architectures or []).lower()
    encoders = ("bert", "electra", "xlm", "deberta", "mpnet", "albert")
    return "encoder" if any(name in names for name in encoders) else "other"


def _window(config: Any) -> int:
    """Tokens that all see each other in every layer: less than a sliding window, where there is one."""
    text = config.get_text_config()
    return int(getattr(text, "sliding_window", None) or UNLIMITED)


def _quantise(model: Any, device: str) -> None:
    import warnings

    import torch

    if device != "cpu":
        raise SignetError("dtype=int8 is for the CPU; choose bfloat16 or float16 on a GPU.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao announces a successor that has no dynamic int8 for CPUs yet
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        torch.backends.quantized.engine = "onednn"  # the fastest of those in the wheel
        quantize_dynamic(model, {torch.nn.Linear: per_channel_dynamic_qconfig}, inplace=True)


def _absent_id(rows: Sequence[Encoded], vocabulary: int) -> int:
    used = {int(token) for row in rows for token in row.ids}
    return next(i for i in range(vocabulary) if i not in used)
