"""What a result rests on besides its code: machine, versions, settings, date, commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.settings import ROOT

PACKAGES = ("torch", "transformers", "sentence-transformers", "duckdb", "streamlit", "numpy", "pandas", "altair",
            "statsmodels", "pyfixest", "onnxruntime", "ray", "vllm", "openai", "playwright")  # fmt: skip


def _said(*words: str) -> str:
    """What a command prints, or nothing where it is absent or fails."""
    if shutil.which(words[0]) is None:
        return ""
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GB, GPUs by name, system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return {
        "processor": _processor(), "architecture": platform.machine(), "cores": cores,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1), "gpus": gpus,
        "system": platform.system(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Python's and those of the packages that are installed and that speed depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that ran, marked when the working tree differs from it; empty outside a checkout."""
    found = _said("git", "rev-parse", "--short=12", "HEAD")
    return f"{found}, with uncommitted changes" if found and _said("git", "status", "--porcelain", "-uno") else found


def command(name: str) -> str:
    """The words that repeat the run, with its BENCH_ settings; folders are left for the reader to name."""
    given = {key: value for key, value in sorted(os.environ.items()) if key.startswith("BENCH_")}
    words = [f"{key}={'FOLDER' if '/' in value and Path(value).exists() else value}" for key, value in given.items()]
    return " ".join([*words, "python -m benchmarks", name])


def provenance(name: str) -> dict[str, Any]:
    """Everything above, for one run of the benchmark of that name that begins now."""
    return {"benchmark": name, "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(),
            "command": command(name), "machine": machine(), "versions": versions()}  # fmt: skip


def in_words(found: dict[str, Any]) -> str:
    """A machine in one line."""
    gpus = found.get("gpus") or []
    graphics = f"{len(gpus)} × {gpus[0]}" if gpus else "no GPU"
    return f"{found['processor']}, {found['cores']} cores, {found['memory_gb']:g} GB, {graphics}, {found['system']}"
