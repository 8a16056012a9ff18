"""Where things are and what runs them, decided once: the store's folder, the device, the number of workers."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILTIN = ROOT / "engine" / "builtin"
TAXONOMIES = ROOT / "taxonomies"
TARGETS = ROOT / "targets"


def home() -> Path:
    """The store's folder: SIGNET_HOME, or `cache/` beside app.py. Made if absent."""
    folder = Path(os.environ.get("SIGNET_HOME") or ROOT / "cache").expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def device() -> str:
    """`cuda`, `mps` or `cpu`: SIGNET_DEVICE, or the best that torch finds."""
    wanted = os.environ.get("SIGNET_DEVICE")
    if wanted:
        return wanted
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def worker_slots() -> int:
    """How many worker processes one job may use: SIGNET_WORKERS, else one (torch uses every core by itself)."""
    return max(1, int(os.environ.get("SIGNET_WORKERS", "1")))
