"""`python -m benchmarks [NAME ...]`: runs the named benchmarks and writes benchmarks/results/."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import asking, audits, finetuning, judges, pages, scoring
from engine.worker import environment

ALL: dict[str, Callable[[], dict[str, Any]]] = {
    "scoring": scoring.run,
    "pages": pages.run,
    "audits": audits.run,
    "asking": asking.run,
    "finetuning": finetuning.run,
    "judges": judges.run,
}


def main() -> None:
    """Run and print; each result is one JSON file with machine and versions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    short = [name for name in ALL if name not in ("finetuning", "judges")]
    told = f"{', '.join(ALL)}; without a name all but finetuning and judges, which need real data and long"
    parser.add_argument("names", nargs="*", default=short, metavar="NAME", help=told)
    parser.add_argument("--data", metavar="FOLDER", help="the real data, where a benchmark reads it (or SIGNET_DATA)")
    given = parser.parse_args()
    if given.data:
        os.environ["SIGNET_DATA"] = given.data
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    for name in given.names:
        result = {"benchmark": name, "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                  **environment(), **ALL[name]()}  # fmt: skip
        print(json.dumps(result, indent=1))
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
