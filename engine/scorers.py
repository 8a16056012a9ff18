"""Reward models at work: entries in, raw scalar rewards out.

Speed comes from tokenising the next shard while the device computes this one, sorting by length, batching by a token
budget, computing shared prompts once (engine.reward_network), and one transfer a shard. Scores do not depend on batch
composition beyond rounding (see tests/test_scorers.py).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.entry_tokens import Encoded, EntryTokens, longest_input
from engine.precision import DriftCheck
from engine.records import SignetError, turns_from_json
from engine.reward_network import RewardNetwork, cannot_load, source_of

CHUNK = 512  # entries tokenised in one go


def open_scorer(params: dict[str, Any]) -> Any:
    """The worker for a score job: `params` as engine.commands.score makes them."""
    if params["kind"] in ("vllm", "tei"):
        from engine.remote_scorers import RemoteScorer

        return RemoteScorer(params)
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


class TransformersScorer:
    """Any Hugging Face sequence-classification reward model with one logit.

    `environment["progress"]` counts tokens and truncated entries as the job goes. Raises SignetError when the model
    cannot be loaded, needs code of its own that was not allowed, or has more than one output and none was named.
    """

    def __init__(self, params: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        from engine.settings import device

        where, options = source_of(params)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(where, **options)
        except Exception as error:
            raise cannot_load(params, error) from error
        if params["format"] == "chat" and not self.tokenizer.chat_template:
            raise SignetError(f"{params['model']} has no chat template; choose --option format=dialogue.")
        self._model, self._dtype = params["model"], params["dtype"]
        self._device = device()
        self.network = RewardNetwork(params, self._device)
        self.model = self.network.model
        self._longest = params["max_length"] or longest_input(self.tokenizer, self.model.config)
        self._tokens = EntryTokens(self.tokenizer, params["format"], self._longest)
        apart = self._device.startswith("cuda")  # a GPU eats more tokens than one Python can prepare beside it
        self._ahead = _tokenisers(self._tokens) if apart else ThreadPoolExecutor(1)
        self._encode = _encode if apart else self._tokens.encode
        self._expected: dict[int, tuple[pa.Table, list[Future[list[Encoded]]]]] = {}  # by id, which the table keeps
        self._counts: dict[str, Any] = {"tokens": 0, "truncated": 0, "shared_tokens": 0}
        self._drift = DriftCheck(params, self._device) if params.get("drift_pairs") else None
        self.environment: dict[str, Any] = {
            "device": self._device, "dtype": params["dtype"], "format": params["format"], "max_length": self._longest,
            "model": params["model"], "revision": params["revision"], "shared_prompts": self.network.shared,
            "progress": self._counts,
        }  # fmt: skip

    def expect(self, entries: pa.Table) -> None:
        """Begin to tokenise a shard that `run` will be called with, while the device is busy with another."""
        if id(entries) in self._expected:
            return
        prompts, responses = entries.column("prompt").to_pylist(), entries.column("response").to_pylist()
        parts = [(prompts[i : i + CHUNK], responses[i : i + CHUNK]) for i in range(0, len(prompts), CHUNK)]
        try:
            chunks = [self._ahead.submit(self._encode, *part) for part in parts]
        except BrokenExecutor:
            self._do_without_processes()
            chunks = [self._ahead.submit(self._encode, *part) for part in parts]
        self._expected[id(entries)] = entries, chunks

    def _encoded(self, entries: pa.Table) -> list[Encoded]:
        self.expect(entries)
        try:
            return _regrouped([chunk.result() for chunk in self._expected.pop(id(entries))[1]], entries)
        except BrokenExecutor:
            self._do_without_processes()
            return self._encoded(entries)

    def _do_without_processes(self) -> None:
        """One was killed, or cannot load this tokenizer."""
        self._expected.clear()
        self._ahead, self._encode = ThreadPoolExecutor(1), self._tokens.encode

    def close(self) -> None:
        """Let go of what was to be tokenised ahead."""
        self._ahead.shutdown(wait=False, cancel_futures=True)

    def run(self, entries: pa.Table) -> pa.Table:
        """Rewards of a shard, with each entry's full length in tokens and whether it was truncated."""
        encoded = self._encoded(entries)
        rewards = self.network.rewards(encoded)
        self._counts["shared_tokens"] = self.network.shared_tokens
        wrong = np.flatnonzero(~np.isfinite(rewards))
        if len(wrong):
            raise SignetError(
                f"{self._model} in {self._dtype} gives {rewards[wrong[0]]} for {len(wrong)} of {len(rewards)} texts; "
                "choose --option dtype=float32."
            )
        if self._drift is not None:
            self._drift.look(encoded, rewards)
            self._counts["drift"] = self._drift.counts
        cut = [one.full_length > self._longest for one in encoded]
        self._counts["tokens"] += sum(len(one.ids) for one in encoded)
        self._counts["truncated"] += sum(cut)
        return _table(entries, rewards.tolist(), [one.full_length for one in encoded], cut)


_TOKENS: EntryTokens | None = None  # in a tokenising process: what it tokenises with


def _keep(tokens: EntryTokens) -> None:
    global _TOKENS
    _TOKENS = tokens
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Processes of a pool outlive a parent that was killed: they wait for work on a pipe that they hold open."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(prompts: list[str], responses: list[str]) -> list[Encoded]:
    assert _TOKENS is not None
    return _TOKENS.encode(prompts, responses)


def _tokenisers(tokens: EntryTokens) -> Executor:
    """Processes that tokenise: a quarter of the cores, four at most."""
    size = min(4, max(1, (os.cpu_count() or 2) // 4))
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(size, mp_context=spawn, initializer=_keep, initargs=(tokens,))


def _regrouped(chunks: list[list[Encoded]], entries: pa.Table) -> list[Encoded]:
    """The chunks in one list, with groups numbered over the whole shard."""
    numbers = pc.dictionary_encode(entries.column("prompt").combine_chunks()).indices.to_pylist()
    return [replace(one, group=group) for one, group in zip((one for chunk in chunks for one in chunk), numbers)]
