"""Eq 1 to 4 from the store at two sizes and two numbers of features, beside pyfixest and plain statsmodels.

Labels, rewards and rewrites are synthetic, drawn at random and named so: only time and memory are measured. Each case
runs in a process of its own, which reports its peak memory; the store is made by another. The references get their
frame ready made, in memory: their time is the fit alone, ours includes reading the long tables out of the store.

    BENCH_AUDIT_PAIRS=160800,10000000 BENCH_AUDIT_FEATURES=15,40 python -m benchmarks audits
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import table

# What is the same estimate in both: the name here, and the reference's.
SAME = (
    ("Eq 1, one model", "pyfixest, Eq 1"),
    ("Eq 1, one model", "statsmodels OLS on differences, Eq 1"),
    ("Eq 3, logit", "statsmodels Logit, Eq 3"),
)
PAIRS = [int(n) for n in os.environ.get("BENCH_AUDIT_PAIRS", "160800,1000000").split(",")]
FEATURES = [int(n) for n in os.environ.get("BENCH_AUDIT_FEATURES", "15,40").split(",")]
PYFIXEST_MOST = int(os.environ.get("BENCH_PYFIXEST_MOST", "1000000"))  # beyond it the references do not fit in memory
SHARE_REWORDED = 0.01  # SEAL reworded 1% of the pairs


def make(home: Path, pairs: int, features: int) -> None:
    """A store of that many synthetic pairs: booleans at random, two models whose rewards follow some of them.

    One prompt in eight has two pairs. 1% of the pairs have both sides reworded, labelled and scored.
    """
    from engine.store import Store, ensure_labeler, ensure_model

    reworded = int(pairs * SHARE_REWORDED)
    entries = 2 * pairs + 2 * reworded
    with Store(home) as store, store.transaction() as con:
        con.execute("SELECT setseed(0.5)")
        con.execute(
            """
            INSERT INTO pairs SELECT 1, i, 'p' || i, i - (i % 8 = 7)::INT, 2 * i, 2 * i + 1, 'synthetic', NULL, i, NULL,
                0, NULL FROM range(?) t(i)""",
            [pairs],
        )
        con.execute("INSERT INTO datasets VALUES (1, 'scale', 'pairs', 'synthetic', 'synthetic', '', '{}', '{}', "
                    "now()::TIMESTAMP, ?, ?)", [pairs, 2 * pairs])  # fmt: skip
        con.execute(
            "INSERT INTO entries SELECT i, uuid(), i // 2, '', (100 + 900 * random())::INT FROM range(?) t(i)",
            [entries],
        )
        con.execute("INSERT INTO taxonomies VALUES (1, 'synthetic', '1', '', now()::TIMESTAMP)")
        for f in range(features):
            role = "target" if f < 2 else "spoiler"
            con.execute("INSERT INTO features VALUES (?, 1, ?, ?, ?, 'boolean', ?, 'response', '[]')",
                        [f + 1, f, f"f{f}", f"f{f}", role])  # fmt: skip
        labeler_id = ensure_labeler(con, "synthetic", "rule", "1", {})
        con.execute(
            """
            INSERT INTO labels SELECT e.i, f.i + 1, ?, (hash(e.i * 64 + f.i) % 100 < 10 + 2 * f.i)::INT, NULL
            FROM range(?) e(i), range(?) f(i)""",
            [labeler_id, entries, features],
        )
        for name in ("synthetic-a", "synthetic-b"):
            model_id = ensure_model(con, name, "file", "1", {})
            con.execute(
                """
                INSERT INTO rewards SELECT i, ?, (hash(i * 64) % 100 < 10)::INT
                    - 0.5 * (hash(i * 64 + 1) % 100 < 12)::INT + 2 * random(), NULL, NULL FROM range(?) t(i)""",
                [model_id, entries],
            )
        con.execute(
            """
            INSERT INTO rewrites SELECT i, 2 * ? + i, 'synthetic', 0.9, now()::TIMESTAMP FROM range(?) t(i)""",
            [pairs, 2 * reworded],
        )


def _timed(found: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = work()
    found[name] = round(time.perf_counter() - began, 3)
    return result


def audit(home: Path) -> dict[str, float]:
    """Seconds of every equation, from the store to the result, and of the parts that a page shares."""
    from engine import audit_alignment, audit_imprint, audit_robustness, catalog
    from engine.store import Store

    found: dict[str, float] = {}
    with Store(home) as store:
        con = store.read()
        models = _timed(found, "which models", lambda: tuple(catalog.models(con, 1)))
        labels = _timed(found, "which labelers", lambda: catalog.labelers(con, 1)[0])
        setting = audit_imprint.Setting(labels)
        _timed(found, "Eq 1, one model", lambda: audit_imprint.model_imprints(con, 1, setting, models[:1]))
        _timed(found, "Eq 2, two models' margins", lambda: audit_imprint.shift(con, 1, setting, *models))
        _timed(found, "Eq 2, SEAL's angle and 5 constants", lambda: audit_imprint.angle_shift(con, 1, setting, *models))
        _timed(found, "Eq 3, logit", lambda: audit_alignment.resistance(con, 1, models[1], labels))
        _timed(found, "Eq 4, 1% reworded", lambda: audit_robustness.audit(con, 1, "synthetic", models, labels))
        _timed(found, "regimes and strata", lambda: audit_alignment.audit(con, 1, models[0], models[1], (labels,)))
        _timed(found, "slice search", lambda: audit_alignment.find_slices(con, 1, models[1], (labels,)))
    return found


def reference(home: Path) -> dict[str, float]:
    """Seconds of pyfixest's Eq 1 and statsmodels' Eq 1 and Eq 3 on a frame that is ready in memory."""
    import pandas as pd
    import pyfixest as pf
    import statsmodels.api as sm

    from engine import catalog, columns, design_frames
    from engine.store import Store

    with Store(home) as store:
        con = store.read()
        labels = catalog.labelers(con, 1)[0]
        design = design_frames.load(con, 1, [columns.source_of(labels)], catalog.models(con, 1)[:1])
    used = columns.features(design, 0)[0] + columns.controls(design, None)
    n = design.n
    stacked = design.stacked(used).block(0, 2 * n)
    frame = pd.DataFrame(stacked, columns=[c.name for c in used])
    frame["reward"], frame["pair"] = design.rewards[:, :, 0].ravel(), np.repeat(np.arange(n), 2)
    frame["prompt"] = np.repeat(design.clusters, 2)
    formula = f"reward ~ {' + '.join(c.name for c in used)} | pair"
    found: dict[str, float] = {}
    _timed(found, "pyfixest, Eq 1", lambda: pf.feols(formula, frame, vcov={"CRV1": "prompt"}))
    x = design.differences(used).block(0, n)
    y = design.margins()[:, 0]
    groups = {"groups": design.clusters}
    _timed(found, "statsmodels OLS on differences, Eq 1",
           lambda: sm.OLS(y, x).fit(cov_type="cluster", cov_kwds=groups))  # fmt: skip
    both = sm.add_constant(design.joint(used).block(0, n))
    _timed(found, "statsmodels Logit, Eq 3",
           lambda: sm.Logit((y <= 0).astype(float), both).fit(disp=0, cov_type="cluster", cov_kwds=groups))  # fmt: skip
    return found


def _apart(what: str, home: Path, *sizes: int) -> dict[str, Any]:
    """Run one part in its own process; its seconds, and its peak memory in GB."""
    words = [sys.executable, "-m", "benchmarks.audits", what, str(home), *map(str, sizes)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run() -> dict[str, Any]:
    """Every size and number of features: seconds and peak memory of ours, and of the references beside them."""
    cases = []
    for features in FEATURES:
        for pairs in PAIRS:
            with tempfile.TemporaryDirectory() as folder:
                home = Path(folder) / "store"
                made = _apart("make", home, pairs, features)
                size = (home / "signet.duckdb").stat().st_size if (home / "signet.duckdb").exists() else 0
                case = {"pairs": pairs, "features": features, "store_gb": round(size / 1e9, 2), "made": made,
                        "signet": _apart("audit", home)}  # fmt: skip
                if pairs <= PYFIXEST_MOST:
                    case["reference"] = _apart("reference", home)
                cases.append(case)
                print(json.dumps(case), file=sys.stderr)
    return {"data": "synthetic labels and rewards", "cases": cases}


def section(result: dict[str, Any]) -> str:
    """Every equation beside its reference where one ran, and the seconds of what a page asks for, by size."""
    beside, times = [], []
    for case in result["cases"]:
        size = {"pairs": case["pairs"], "features": case["features"]}
        ours, other = case["signet"], case.get("reference", {})
        for name, reference in SAME:
            if name in ours and reference in other:
                seconds = {"Signet, s": ours[name], "reference": reference, "reference, s": other[reference]}
                beside.append(size | {"": name} | seconds | {"ratio": round(other[reference] / ours[name], 1)})
        whole = {key: value for key, value in ours.items() if key != "peak_gb"}
        theirs = other.get("peak_gb", other.get("failed", "not run"))
        times.append(size | whole | {"peak memory, GB": ours.get("peak_gb"), "the references', GB": theirs})
    text = (
        f"Data: {result['data']}. Seconds of Signet go from the store on disk to the result; the references begin with "
        "their frame ready in memory, so theirs is the fit alone. Both use errors clustered by prompt."
    )
    parts = [text, table(beside)] if beside else [text]
    return "\n\n".join([*parts, "Everything the audit pages ask for, in seconds:", _turned(times)])


def _turned(records: list[dict[str, Any]]) -> str:
    """Records as columns, since there are more fields than records."""
    heads = [f"{one['pairs']:,} pairs, {one['features']} features" for one in records]
    names = [key for key in dict.fromkeys(key for one in records for key in one) if key not in ("pairs", "features")]
    return table([{"": name, **{h: one.get(name) for h, one in zip(heads, records, strict=True)}} for name in names])


def main() -> None:
    """One part of a case, for its own process: prints seconds and peak memory as JSON."""
    what, home, *sizes = sys.argv[1:]
    began = time.perf_counter()
    if what == "make":
        make(Path(home), *map(int, sizes))
        found: dict[str, float] = {"seconds": round(time.perf_counter() - began, 1)}
    else:
        found = {"audit": audit, "reference": reference}[what](Path(home))
    found["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
