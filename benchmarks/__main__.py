"""`python -m benchmarks [NAME ...]`: runs the named benchmarks (all by default) and writes benchmarks/results/."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import asking, audits, pages, scoring
from engine.worker import environment

ALL: dict[str, Callable[[], dict[str, Any]]] = {
    "scoring": scoring.run,
    "pages": pages.run,
    "audits": audits.run,
    "asking": asking.run,
}


def main() -> None:
    """Run and print; each result is one JSON file with machine and versions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ALL), metavar="NAME", help=", ".join(ALL))
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    for name in parser.parse_args().names:
        result = {"benchmark": name, "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                  **environment(), **ALL[name]()}  # fmt: skip
        print(json.dumps(result, indent=1))
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
