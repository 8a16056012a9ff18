"""A Hugging Face reward model on its device: batches of tokens in, logits out, by the fastest way that it allows.

    encoder     padded batches; DeBERTa without its gathers (engine.disentangled)
    decoder     right-padded batches without a mask: under causal attention no token sees the padding after it
    shared      (decoders) the answers to one prompt in one row: the prompt once, then each answer, which sees the
                prompt and itself (a block mask) and is counted from the prompt's end (position ids)
    other       any other architecture by its own forward, in padded batches

No way is believed to be exact: each is tried on random tokens when the model is loaded (`_fastest`), against the
model's own forward on one text at a time, and a model that fails them all is scored text by text.

`int8` quantises the linear layers of a model on the CPU as it runs: weights once per channel, activations by one
scale a call. So a call holds one text, or a text's reward would depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import disentangled
from engine.entry_tokens import Encoded
from engine.records import SignetError
from engine.token_batches import token_budget
from engine.units import Unit, padded, shared_units, single_units

SAME = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}  # rewards of two ways, relative to 1 + |reward|
NEAR = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}  # last states of two ways, relative to those of other texts
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
UNLIMITED = 10**9
STEP = {"cpu": 1}  # widths are multiples of this, else of 16: aligned for tensor cores, and few shapes to prepare for


class DoesNotFit(SignetError):
    """The device's memory is too small."""


class RewardNetwork:
    """The loaded model. `way`: encoder, decoder or other; `shared`: whether prompts are computed once; `alone`: whether
    every text goes by itself.

    Raises SignetError when the model cannot be loaded, or has several outputs and `output` names none; DoesNotFit when
    the device's memory is too small for it, or later for a single text.
    """

    def __init__(self, params: dict[str, Any], device: str) -> None:
        self.device = device
        self.model = _loaded(params, device)
        self._output = _output(params, self.model.config.num_labels)
        self._takes_types = "token_type_ids" in signature(self.model.forward).parameters
        self._step = STEP.get(device, 16)
        self._bounds = _bounds(self.model.config)  # texts on the two sides of one are never in a batch
        window, positions = _window(self.model.config), _positions(self.model.config)
        self.most = min([window, *self._bounds])  # tokens a shared row may have
        self._edges = sorted([*self._bounds, positions])  # which rounding up must not cross
        if disentangled.usable(self.model):
            disentangled.accelerate(self.model)
        if params["dtype"] == "int8":
            _quantise(self.model, device)
        self.budget = token_budget(device)
        self.shared_tokens = 0  # that were not computed again
        self.alone = params["dtype"] == "int8"
        self.way, self.shared = "other", False
        self._fastest(_way(self.model), params["dtype"])

    def rewards(self, encoded: Sequence[Encoded]) -> NDArray[np.float64]:
        """Rewards in the order given. The results stay on the device until the last batch is on its way."""
        import torch

        units = shared_units(encoded, self.most) if self.shared else single_units(encoded)
        self.shared_tokens += sum(unit.shared * (len(unit.places) - 1) for unit in units)
        order: list[int] = []
        parts: list[Any] = []
        for kind in self._kinds(units):
            while kind:  # sorted: the first is the longest, so its width is the batch's
                size = 1 if self.alone else max(1, self.budget // self._width(kind[0].length))
                these, kind = kind[:size], kind[size:]
                order += [place for unit in these for place in unit.places]
                parts.append(self._forward(these, encoded))
        found = np.zeros(len(encoded))
        if parts:
            found[order] = torch.cat(parts).float().cpu().numpy()  # mps has no float64
        return found

    def _kinds(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Units that may be in a batch together: of the same side of every bound, and all shared or none."""
        kinds: dict[tuple[int, ...], list[Unit]] = {}
        for unit in units:
            kinds.setdefault((unit.shared > 0, *(unit.length > bound for bound in self._bounds)), []).append(unit)
        return list(kinds.values())

    def _width(self, tokens: int) -> int:
        """The width of a batch whose longest text has so many tokens."""
        rounded = -(-max(1, tokens) // self._step) * self._step
        return min(rounded, next((edge for edge in self._edges if edge >= tokens), rounded))

    def _forward(self, units: Sequence[Unit], encoded: Sequence[Encoded]) -> Any:
        """Logits of a batch; when memory runs out, of its two halves, and batches are smaller from then on."""
        import torch

        try:
            return self.logits(units, encoded)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(units) == 1 and len(units[0].places) == 1:
                raise DoesNotFit(
                    f"One text of {units[0].length} tokens does not fit into the device's memory; "
                    "choose a smaller max_length or dtype=bfloat16."
                ) from None
        torch.cuda.empty_cache()
        self.budget = max(1, min(self.budget, len(units) * self._width(units[0].length) // 2))
        if len(units) == 1:
            units = [Unit((place,), 0, len(encoded[place].ids)) for place in units[0].places]
        half = len(units) // 2
        return torch.cat([self._forward(units[:half], encoded), self._forward(units[half:], encoded)])

    def logits(self, units: Sequence[Unit], encoded: Sequence[Encoded]) -> Any:
        """Logits of all entries of the units, in the units' order: a tensor on the device. The units are of one kind:
        all shared or none."""
        with self._computing():
            if units[0].shared:
                return self._read(self._shared(units, encoded))
            rows = [encoded[place] for unit in units for place in unit.places]
            return self._read(self._causal(rows)) if self.way == "decoder" else self._padded(rows)

    def _computing(self) -> ExitStack:
        """Without gradients. On a GPU also without cuDNN's attention, which torch prefers on Hopper: it prepares for
        tens of milliseconds whenever a batch has a new shape, and keeps what it prepared."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        if self.device.startswith("cuda"):
            others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
            stack.enter_context(sdpa_kernel(others))
        return stack

    # --- the ways ---
    def _padded(self, rows: Sequence[Encoded]) -> Any:
        config = self.model.config
        lengths = [len(row.ids) for row in rows]
        width = self._width(max(lengths))
        padding = config.pad_token_id
        if self.way == "other" or padding is None:
            # Such models look for the last token that is not padding, so the padding id must not occur.
            padding = _absent_id(rows, config)
            config.pad_token_id = config.get_text_config().pad_token_id = padding
        inputs = {"input_ids": self._moved(padded([row.ids for row in rows], padding, width))}
        mask = inputs["attention_mask"] = self._moved(padded([np.ones(n, np.int64) for n in lengths], 0, width))
        mask.shortest = min(lengths)  # for engine.disentangled
        if rows[0].types is not None and self._takes_types:
            inputs["token_type_ids"] = self._moved(padded([row.types for row in rows], 0, width))
        return self.model(**inputs).logits[:, self._output]

    def _causal(self, rows: Sequence[Encoded]) -> Any:
        """Last states (n, hidden)."""
        import torch

        width = self._width(max(len(row.ids) for row in rows))
        ids = self._moved(padded([row.ids for row in rows], 0, width))
        last = self._moved(torch.tensor([max(0, len(row.ids) - 1) for row in rows]))
        states = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states[torch.arange(len(rows), device=states.device), last]

    def _shared(self, units: Sequence[Unit], encoded: Sequence[Encoded]) -> Any:
        """Last states (n, hidden)."""
        import torch

        width = self._width(max(unit.length for unit in units))
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
        before = torch.ones((width, width), dtype=torch.bool, device=tokens.device).tril()
        seen = (parts[:, None, :] == parts[:, :, None]) | (parts[:, None, :] == 0)
        mask = (before & seen)[:, None]
        states = self.model.base_model(
            input_ids=tokens, attention_mask=mask, position_ids=places, use_cache=False
        ).last_hidden_state
        return states[where[0], where[1]]

    def _read(self, states: Any) -> Any:
        return self.model.score(states)[:, self._output]

    def _moved(self, tensor: Any) -> Any:
        if self.device != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    # --- which way ---
    def _fastest(self, way: str, dtype: str) -> None:
        """Choose the first way that gives what the model's own forward gives for random texts one at a time.

        So models are found out that read another token, let tokens see what follows them, are changed by padding, or
        take no mask of the form that sharing needs.
        """
        rows, unit = _trial(self.model.config)
        singles = [Unit((i,), 0, len(row.ids)) for i, row in enumerate(rows)]
        own = self._tried(lambda: [self._own(row) for row in rows])

        def same(*batches: list[Unit]) -> bool:
            found = self._tried(lambda: [self.logits(units, rows) for units in batches])
            if own is None or found is None:
                return False
            return bool(np.all(np.abs(found - own) <= SAME.get(dtype, SAME["float32"]) * (1 + np.abs(own))))

        for self.way in dict.fromkeys((way, "other")):
            together = self.alone or (
                same(singles) and (self.way != "decoder" or self._near(self._causal, rows, dtype))
            )
            if together and same(*([single] for single in singles)):
                break
        else:
            self.way, self.alone, self._step = "other", True, 1
            for single in singles:
                self._run_once(single, rows, dtype)
        attention = getattr(self.model.config, "_attn_implementation", "")
        if self.way == "decoder" and not self.alone and attention == "sdpa" and unit.length <= self.most:
            self.shared = same([unit]) and self._near(lambda rows: self._shared([unit], rows), rows, dtype)

    def _run_once(self, unit: Unit, rows: Sequence[Encoded], dtype: str) -> None:
        try:
            self.logits([unit], rows)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            other = "; choose --option dtype=float32" if dtype != "float32" else ""
            raise SignetError(f"{type(self.model).__name__} cannot score in {dtype}: {reason}{other}.") from error

    def _tried(self, call: Callable[[], list[Any]]) -> NDArray[np.float64] | None:
        """What a call gives, on the host, or None when the model does not bear it."""
        import torch

        try:
            with self._computing():
                return torch.cat(call()).float().cpu().numpy().astype(np.float64)
        except Exception as error:  # of any kind: code of the model's own runs here
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise DoesNotFit("The model leaves no room for texts in the device's memory.") from None
            return None

    def _near(self, states: Callable[[Sequence[Encoded]], Any], rows: Sequence[Encoded], dtype: str) -> bool:
        """Whether last states are those of the rows alone: in a low precision they tell more than one logit does."""
        alone = self._tried(lambda: [self._causal([row]) for row in rows])
        found = self._tried(lambda: [states(rows)])
        if alone is None or found is None:
            return False
        apart = np.linalg.norm(alone - np.roll(alone, 1, axis=0), axis=1)
        return bool(np.all(np.linalg.norm(found - alone, axis=1) <= NEAR[dtype] * apart))

    def _own(self, row: Encoded) -> Any:
        """What the model's own forward gives for one text."""
        ids = self._moved(padded([row.ids], 0, len(row.ids)))
        return self.model(input_ids=ids).logits[:, self._output]


def _trial(config: Any) -> tuple[list[Encoded], Unit]:
    """Three texts of random tokens behind one beginning, and the unit that they make."""
    text = config.get_text_config()
    special = np.hstack([getattr(text, name, None) or [] for name in SPECIAL]).astype(int)
    ordinary = np.setdiff1d(np.arange(min(text.vocab_size, 1000)), special)
    rng = np.random.default_rng(0)
    begin, *owns = (rng.choice(ordinary, n) for n in (24, 9, 4, 17))
    # BART and T5 read their reward at the token that ends a text.
    end = [text.eos_token_id] if getattr(config, "is_encoder_decoder", False) else []
    rows = [Encoded(np.hstack([begin, own, end]).astype(np.int32), None, 0) for own in owns]
    return rows, Unit((0, 1, 2), len(begin), sum(len(row.ids) for row in rows) - 2 * len(begin))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that the device's memory is full: CUDA's own, cuBLAS's, and that of mps."""
    import torch

    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


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
    try:
        return model.to(device).eval()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    raise DoesNotFit(
        f"{params['model']} in {params['dtype']} does not fit into the device's memory; choose a lower precision "
        "or a smaller model."
    )


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
    name = type(model).__name__.lower()
    return "encoder" if any(kind in name for kind in ("bert", "electra", "xlm", "mpnet")) else "other"


def _window(config: Any) -> int:
    """Tokens that all see each other in every layer: less than a sliding window or a chunk, where there is one."""
    text = config.get_text_config()
    return min(int(getattr(text, name, None) or UNLIMITED) for name in ("sliding_window", "attention_chunk_size"))


def _positions(config: Any) -> int:
    """Tokens for which the model has positions."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or UNLIMITED)


def _bounds(config: Any) -> list[int]:
    """Lengths at which a model changes how it rotates positions, by the longest text of a batch (Phi-3's longrope)."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return []
    return [int(rope.get("original_max_position_embeddings") or _positions(config))]


def _quantise(model: Any, device: str) -> None:
    import warnings

    import torch

    if device != "cpu":
        raise SignetError("dtype=int8 is for the CPU; choose bfloat16 or float16 on a GPU.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao announces a successor that has no dynamic int8 for CPUs yet
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        known = torch.backends.quantized.supported_engines
        named = [name for name in ("onednn", "x86", "fbgemm", "qnnpack") if name in known]  # the fastest first
        if not named:
            raise SignetError("This build of torch has no int8 for this processor; choose dtype=float32.")
        torch.backends.quantized.engine = named[0]
        quantize_dynamic(model, {torch.nn.Linear: per_channel_dynamic_qconfig}, inplace=True)


def _absent_id(rows: Sequence[Encoded], config: Any) -> int:
    used = {int(token) for row in rows for token in row.ids}
    return next((i for i in range(config.get_text_config().vocab_size) if i not in used), config.pad_token_id or 0)
