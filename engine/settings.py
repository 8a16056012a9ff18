"""Where things are and what runs them, decided once: the store's folder, the device, the number of workers."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from functools import cache
from itertools import takewhile
from pathlib import Path

from engine.records import SignetError

ROOT = Path(__file__).resolve().parent.parent
BUILTIN = ROOT / "engine" / "builtin"
TAXONOMIES = ROOT / "taxonomies"
TARGETS = ROOT / "targets"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")  # torch and the tokenizers read these


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


@cache
def gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs (or MIG slices) this process may use, as CUDA_VISIBLE_DEVICES names them; empty without any.

    Found without importing torch, which takes seconds and memory that the dashboard does not have to spend.
    """
    if os.environ.get("SIGNET_DEVICE", "cuda") != "cuda":
        return ()
    named, tool = os.environ.get("CUDA_VISIBLE_DEVICES"), shutil.which("nvidia-smi")
    if (named is None and tool is None) or not _torch_knows_cuda():
        return ()
    if named is not None:  # as CUDA reads it: what follows an invalid name does not count
        return tuple(takewhile(lambda name: name and name != "-1", (part.strip() for part in named.split(","))))
    try:
        listed = subprocess.run([str(tool), "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return _listed_gpus(listed)


def _listed_gpus(listed: str) -> tuple[str, ...]:
    """Ids out of `nvidia-smi -L`; a GPU that is cut into MIG slices counts as its slices."""
    found: list[str] = []
    for line in listed.splitlines():
        name = re.search(r"UUID: ((GPU|MIG)-[^)\s]+)", line)
        if name is None:
            continue
        if name[2] == "MIG" and found and found[-1].startswith("GPU-"):
            found.pop()
        found.append(name[1])
    return tuple(found)


def _torch_knows_cuda() -> bool:
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).parent / "version.py" if spec and spec.origin else None
    return bool(version and version.exists() and re.search(r"^cuda\b.*= '", version.read_text(), re.MULTILINE))


def worker_slots() -> int:
    """How many worker processes one job may use: SIGNET_WORKERS, else one a GPU, else one (torch takes every core)."""
    wanted = os.environ.get("SIGNET_WORKERS")
    if not wanted:
        return max(1, len(gpus()))
    if not wanted.isdecimal() or int(wanted) < 1:
        raise SignetError(f"SIGNET_WORKERS is {wanted!r}; it must be a whole number of at least 1.")
    return int(wanted)


def slot_environment(slot: int, slots: int) -> dict[str, str]:
    """What a worker's environment says besides the owner's, so that `slots` of them share GPUs and cores evenly."""
    if slots == 1:
        return {}
    found = {name: str(threads(slots)) for name in THREADS if name not in os.environ}
    return found | ({"CUDA_VISIBLE_DEVICES": gpus()[slot % len(gpus())]} if gpus() else {})


def threads(sharers: int) -> int:
    """This process's cores, divided among so many; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // sharers)
