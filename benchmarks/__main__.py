"""`python -m benchmarks [NAME ...]`: runs the named benchmarks and writes benchmarks/results/NAME.json.

Without a name it runs the short ones, which need nothing but what `make bench` installs, and says what the others
need. `report` writes docs/performance.md from the results that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Iterable

from benchmarks import machine, report
from benchmarks.registry import ALL

SHORT = [name for name, one in ALL.items() if not one.needs]


def listed(names: Iterable[str] = ALL) -> str:
    """A line for every benchmark: what it shows, and what it needs beyond the short ones."""
    return "\n".join(
        f"{name:12} {ALL[name].title}" + (f"\n{'':12} needs {ALL[name].needs}" if ALL[name].needs else "")
        for name in names
    )


def measure(name: str) -> bool:
    """Run one benchmark, print its result and keep it; whether it came to its end."""
    found = machine.provenance(name)
    began = time.perf_counter()
    try:
        result = ALL[name].module.run()
    except KeyboardInterrupt:
        raise
    except SystemExit as said:  # a sentence about what is not there
        print(f"{name}: {said}", file=sys.stderr)
        return False
    except Exception:
        traceback.print_exc()
        print(f"{name}: failed; the others go on", file=sys.stderr)
        return False
    found |= {"seconds": round(time.perf_counter() - began, 1), "result": result}
    print(f"{ALL[name].title}\n\n{report.body(ALL[name], result)}\n\n{report.rests_on(found)}\n", flush=True)
    report.RESULTS.mkdir(exist_ok=True)
    (report.RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return True


def main() -> int:
    """Run and print; 1 if any benchmark failed or could not begin, 2 for a name that is none."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ALL)}, or report")
    parser.add_argument("--data", metavar="FOLDER", help="the real data, where a benchmark reads it (or SIGNET_DATA)")
    parser.add_argument("--list", action="store_true", help="what every benchmark shows and needs")
    given = parser.parse_args()
    if given.list:
        print(listed())
        return 0
    unknown = [name for name in given.names if name not in ALL and name != "report"]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are:\n{listed()}")
    if given.data:
        os.environ["SIGNET_DATA"] = given.data
    done = [measure(name) for name in given.names or SHORT if name in ALL]
    if "report" in given.names:
        print(report.write(), file=sys.stderr)
    if not given.names:
        print(f"Not run, each by its name:\n{listed(name for name in ALL if name not in SHORT)}", file=sys.stderr)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
