"""Reward models at work: entries in, raw scalar rewards out.

Speed comes from tokenising ahead on another thread, sorting by length, batching by a token budget, and one
transfer a shard. Scores do not depend on batch composition beyond rounding (see tests/test_scorers.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.models import dialogue_text, messages, pair_texts
from engine.records import SignetError, Turn, turns_from_json

CHUNK = 256  # entries tokenised while the device works on the chunk before
TOKEN_BUDGET = {"cpu": 4096, "cuda": 65536, "mps": 16384}  # padded tokens a batch


def open_scorer(params: dict[str, Any]) -> Any:
    """The worker for a score job: `params` as engine.commands.score makes them."""
    return BuiltinScorer(params) if params["kind"] == "builtin" else TransformersScorer(params)


def _table(entries: pa.Table, rewards: Sequence[float], lengths: Sequence[int], cut: Sequence[bool]) -> pa.Table:
    return pa.table(
        {
            "entry": entries.column("entry"),
            "reward": pa.array(rewards, pa.float64()),
            "n_tokens": pa.array(lengths, pa.int32()),
            "truncated": pa.array(cut, pa.bool_()),
        }
    )


class BuiltinScorer:
    """The small reward models that ship with Signet (see their card: barely above a length baseline)."""

    def __init__(self, params: dict[str, Any]) -> None:
        from engine import heads

        if heads.reward_revision(params["model"]) != params["revision"]:
            raise SignetError(f"{params['model']} has changed since this job was made; start a new one.")
        self._model = heads.reward_model(params["model"])
        self.environment: dict[str, Any] = {"device": "cpu", "model": params["model"], "progress": {}}

    def run(self, entries: pa.Table) -> pa.Table:
        """Rewards of a shard."""
        prompts = [turns_from_json(text) for text in entries.column("prompt").to_pylist()]
        rewards = self._model.score(prompts, entries.column("response").to_pylist())
        nothing: list[Any] = [None] * entries.num_rows
        return _table(entries, [float(r) for r in rewards], nothing, nothing)


@dataclass(frozen=True, slots=True)
class _Encoded:
    ids: list[int]
    types: list[int] | None
    full_length: int


class TransformersScorer:
    """Any Hugging Face sequence-classification reward model with one logit.

    `environment["progress"]` counts tokens and truncated entries as the job goes. Raises SignetError when the model
    cannot be loaded, needs code of its own that was not allowed, or has more than one output and none was named.
    """

    def __init__(self, params: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        from engine.settings import device

        transformers_logging.disable_progress_bar()
        where = params.get("path") or params["model"]
        options: dict[str, Any] = {"trust_remote_code": params["trust_remote_code"]}
        if params["kind"] == "hub":
            options["revision"] = params["revision"]
        self._device = device()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(where, **options)
            self.model = AutoModelForSequenceClassification.from_pretrained(
                where, dtype=getattr(torch, params["dtype"]), **options
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            if "trust_remote_code" in reason:
                reason = "it brings code of its own; allow that with --option trust_remote_code=true if you trust it"
            raise SignetError(f"Reward model {params['model']!r} cannot be loaded: {reason}") from error
        outputs = self.model.config.num_labels
        self._output = params.get("output")
        if outputs != 1 and self._output is None:
            raise SignetError(
                f"{params['model']} has {outputs} outputs, a reward model has one; choose with --option output=0."
            )
        if self._output is not None and not 0 <= int(self._output) < outputs:
            raise SignetError(f"{params['model']} has outputs 0 to {outputs - 1}; there is no {self._output}.")
        if params["format"] == "chat" and not self.tokenizer.chat_template:
            raise SignetError(f"{params['model']} has no chat template; choose --option format=dialogue.")
        self.model.to(self._device).eval()
        self._format = params["format"]
        self._longest = params["max_length"] or longest_input(self.tokenizer, self.model.config)
        self._counts = {"tokens": 0, "truncated": 0}
        self.environment: dict[str, Any] = {
            "device": self._device, "dtype": params["dtype"], "format": self._format, "max_length": self._longest,
            "model": params["model"], "revision": params["revision"], "progress": self._counts,
        }  # fmt: skip

    def run(self, entries: pa.Table) -> pa.Table:
        """Rewards of a shard, with each entry's full length in tokens and whether it was truncated."""
        prompts, responses = entries.column("prompt").to_pylist(), entries.column("response").to_pylist()
        rewards: list[float] = [0.0] * len(prompts)
        lengths: list[int] = [0] * len(prompts)
        with ThreadPoolExecutor(1) as ahead:
            starts = range(0, len(prompts), CHUNK)
            waiting = [ahead.submit(self._encode, prompts[i : i + CHUNK], responses[i : i + CHUNK]) for i in starts]
            for start, future in zip(starts, waiting):
                encoded = future.result()
                for place, reward in self._score(encoded):
                    rewards[start + place] = reward
                for place, one in enumerate(encoded):
                    lengths[start + place] = one.full_length
                    self._counts["tokens"] += len(one.ids)
        cut = [length > self._longest for length in lengths]
        self._counts["truncated"] += sum(cut)
        return _table(entries, rewards, lengths, cut)

    # --- text to tokens ---
    def _encode(self, prompts: list[str], responses: list[str]) -> list[_Encoded]:
        dialogues = [turns_from_json(text) for text in prompts]
        if self._format in ("seal_pair", "qa_pair"):
            pairs = [pair_texts(turns, response, self._format) for turns, response in zip(dialogues, responses)]
            first, second = [p[0] for p in pairs], [p[1] for p in pairs]
            return self._tokenised(first, second, special=True)
        return self._tokenised(self._texts(dialogues, responses), None, special=self._format == "dialogue")

    def _texts(self, dialogues: list[tuple[Turn, ...]], responses: list[str]) -> list[str]:
        if self._format == "dialogue":
            return [
                dialogue_text([*turns, Turn("assistant", response)]).lstrip("\n")
                for turns, response in zip(dialogues, responses)
            ]
        try:
            return [
                str(self.tokenizer.apply_chat_template(messages(turns, response), tokenize=False))
                for turns, response in zip(dialogues, responses)
            ]
        except Exception as error:
            raise SignetError(f"The chat template does not accept a dialogue of this dataset: {error}") from error

    def _tokenised(self, first: list[str], second: list[str] | None, special: bool) -> list[_Encoded]:
        """Token ids; what is too long loses the oldest part of the prompt, and of the answer only what must go.

        A templated text has its special tokens already: none are added twice.
        """
        plain = {"add_special_tokens": special, "return_attention_mask": False}
        batch = self.tokenizer(first, second, verbose=False, **plain)
        types = batch.get("token_type_ids")
        found = []
        for i, ids in enumerate(batch["input_ids"]):
            kind = types[i] if types else None
            full = len(ids)
            if full > self._longest:
                ids, kind = self._shortened(first[i], second[i] if second else None, plain)
            found.append(_Encoded(ids, kind, full))
        return found

    def _shortened(self, first: str, second: str | None, plain: dict[str, Any]) -> tuple[list[int], list[int] | None]:
        side = self.tokenizer.truncation_side
        self.tokenizer.truncation_side = "left"
        try:
            room = len(self.tokenizer(second or "", add_special_tokens=False)["input_ids"]) + 8
            how = "only_first" if second is not None and room < self._longest else "longest_first"
            one = self.tokenizer(first, second, truncation=how, max_length=self._longest, **plain)
        finally:
            self.tokenizer.truncation_side = side
        return one["input_ids"], one.get("token_type_ids")

    # --- tokens to rewards ---
    def _score(self, encoded: list[_Encoded]) -> Iterator[tuple[int, float]]:
        import torch

        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids), reverse=True)
        results = []
        with torch.inference_mode():
            for batch in token_batches([len(encoded[i].ids) for i in order], TOKEN_BUDGET[self._device]):
                places = [order[i] for i in batch]
                results.append((places, self._forward([encoded[i] for i in places])))
        for places, logits in results:
            yield from zip(places, logits.float().cpu().tolist())

    def _forward(self, batch: list[_Encoded]) -> Any:
        """Logits of a batch; when the device runs out of memory, of its two halves."""
        import torch

        try:
            return self._logits(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise SignetError(
                    f"One text of {len(batch[0].ids)} tokens does not fit into the device's memory; "
                    "choose a smaller max_length or dtype=bfloat16."
                ) from None
        torch.cuda.empty_cache()
        half = len(batch) // 2
        return torch.cat([self._forward(batch[:half]), self._forward(batch[half:])])

    def _logits(self, batch: list[_Encoded]) -> Any:
        import torch

        width = max(1, *(len(one.ids) for one in batch)) if len(batch) > 1 else max(1, len(batch[0].ids))
        # A decoder reads its score at the last token that is not padding, so the padding id must not occur.
        padding = _absent_id(batch, self.model.config.get_text_config().vocab_size)
        if self.model.config.pad_token_id is not None and _is_encoder(self.model.config):
            padding = self.model.config.pad_token_id
        else:
            self.model.config.pad_token_id = padding
        ids = torch.full((len(batch), width), padding, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        types = torch.zeros((len(batch), width), dtype=torch.long) if batch[0].types is not None else None
        for row, one in enumerate(batch):
            ids[row, : len(one.ids)] = torch.tensor(one.ids, dtype=torch.long)
            mask[row, : len(one.ids)] = 1
            if types is not None and one.types is not None:
                types[row, : len(one.types)] = torch.tensor(one.types, dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if types is not None else {})
        if self._device == "cuda":
            inputs = {name: value.pin_memory() for name, value in inputs.items()}
        moved = {name: value.to(self._device, non_blocking=True) for name, value in inputs.items()}
        return self.model(**moved).logits[:, int(self._output or 0)]


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut places 0..n-1, whose lengths are sorted from long to short, into batches of at most `budget` padded tokens.

    A single text longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    for place, _ in enumerate(lengths):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _is_encoder(config: Any) -> bool:
    names = " ".join(config.architectures or []).lower()
    return any(name in names for name in ("bert", "electra", "xlm", "deberta", "mpnet", "albert"))


def _absent_id(batch: list[_Encoded], vocabulary: int) -> int:
    used = {token for one in batch for token in one.ids}
    return next(i for i in range(vocabulary) if i not in used)


def longest_input(tokenizer: Any, config: Any) -> int:
    """The most tokens a model takes: the smaller of what tokenizer and positions say; 4096 where neither does."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 10**9
    if "roberta" in config.model_type:
        positions -= 2  # RoBERTa's positions start after the padding id
    most = min(tokenizer.model_max_length, positions)
    return int(most) if most < 10**6 else 4096


def seconds_of(function: Any, *arguments: Any) -> tuple[float, Any]:
    """Wall time and result of a call, for benchmarks."""
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result
