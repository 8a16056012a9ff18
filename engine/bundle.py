"""What ships with Signet as data: the demonstration audit, and labels that attach themselves by content hash."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from engine import catalog, ingest, jobs, labelers, models, taxonomy
from engine.marks import rows_of
from engine.settings import BUILTIN
from engine.store import Store, ensure_labeler, ensure_model, ensure_taxonomy

DEMO = BUILTIN / "demo"
DEMO_NAME = "Signet demo"
DEMO_NOTE = (
    "A demonstration set written by a language model for Signet; two later readings by language models chose (one of "
    "them blind to the writing), and answers were labelled one by one. These are not people's preferences, and in most "
    "pairs the longer answer is the chosen one."
)
HH_FILE = "SIGNET_HH_RLHF_TEST"  # environment: a local file of the hh-rlhf test split
HH_HUB = "Anthropic/hh-rlhf"


def resolve_source(source: str) -> str:
    """The source to read for what a user named; `hh-rlhf-test` is a local file if the environment names one."""
    if source == "hh-rlhf-test":
        return os.environ.get(HH_FILE) or source
    return source


def load_demo(store: Store) -> dict[str, Any]:
    """Put the bundled audit into the store: pairs, labels, built-in rewards, rewrites. Nothing if it is there."""
    if any(one.name == DEMO_NAME for one in catalog.datasets(store.read())):
        return {"dataset": DEMO_NAME, "loaded": False}
    job = jobs.create(store.home, "import", DEMO_NAME, "Load the bundled audit", {"source": "bundled"})
    shutil.copy(DEMO / "pairs.parquet", job.path("pairs-00000.parquet"))
    report = {"kind": "pairs", "shape": "bundled", "source": "ships with Signet", "note": DEMO_NOTE, "skipped": []}
    jobs.write_json(job.path("report.json"), report)
    counts = ingest.take_dataset(store, job)
    jobs.set_state(job, state="done", counts=counts)
    jobs.remove(job)
    with store.transaction() as con:
        rewrites = [str(DEMO / "rewrites.parquet")]
        con.execute("CREATE OR REPLACE TEMP TABLE new_rewrites AS SELECT * FROM read_parquet(?)", [rewrites])
        ingest.add_rewrites(con)
        _attach(con, DEMO / "labels.parquet")
        con.execute("CREATE OR REPLACE TEMP TABLE demo_rewards AS SELECT * FROM read_parquet(?)",
                    [str(DEMO / "rewards.parquet")])  # fmt: skip
        names = con.execute("SELECT DISTINCT model, revision FROM demo_rewards").fetchall()
        for name, revision in names:
            spec = models.resolve(name, {})
            if spec.revision != revision:
                continue  # scored by other heads than these: scoring again is right, showing them is not
            model_id = ensure_model(con, spec.name, spec.kind, spec.revision, spec.params)
            rows_of(con, "rewards", model_id).execute(
                """
                INSERT INTO rewards SELECT e.entry_id, ?, r.reward, r.n_tokens, r.truncated
                FROM demo_rewards r JOIN entries e ON e.hash = r.entry::UUID
                WHERE r.model = ? AND NOT EXISTS (
                    SELECT 1 FROM rewards o WHERE o.entry_id = e.entry_id AND o.model_id = ?)
                """,
                [model_id, name, model_id],
            )
    return {"dataset": DEMO_NAME, "loaded": True, **counts}


def _attach(con: Any, path: Path) -> int:
    """Labels of a shipped file (entry, taxonomy, feature, value, labeler, kind) for entries in the store."""
    con.execute("CREATE OR REPLACE TEMP TABLE shipped AS SELECT * FROM read_parquet(?)", [str(path)])
    con.execute("""
        CREATE OR REPLACE TEMP TABLE shipped_here AS
        SELECT e.entry_id, s.* FROM shipped s JOIN entries e ON e.hash = s.entry::UUID""")
    added = 0
    groups = con.execute("SELECT DISTINCT labeler, kind, revision, taxonomy FROM shipped_here").fetchall()
    for name, kind, revision, taxonomy_name in groups:
        chosen = taxonomy.load(taxonomy_name)
        ours = labelers.resolve(name, chosen) if kind in ("builtin", "rule") else None
        if ours is not None and ours.revision != revision:
            continue
        params = ours.params if ours is not None else {"shipped": path.stem}
        labeler_id = ensure_labeler(con, name, kind, revision, params)
        for column, feature_id in ensure_taxonomy(con, chosen).items():
            row = (
                rows_of(con, "labels", labeler_id)
                .execute(
                    """
                INSERT INTO labels
                SELECT entry_id, $feature, $labeler, value, confidence FROM shipped_here s
                WHERE taxonomy = $taxonomy AND feature = $column AND labeler = $name AND NOT EXISTS (
                    SELECT 1 FROM labels o WHERE o.entry_id = s.entry_id AND o.feature_id = $feature
                    AND o.labeler_id = $labeler)
                """,
                    {
                        "feature": feature_id,
                        "labeler": labeler_id,
                        "taxonomy": taxonomy_name,
                        "column": column,
                        "name": name,
                    },
                )
                .fetchone()
            )
            added += int(row[0]) if row else 0
    return added


def attach_shipped_labels(store: Store) -> int:
    """Give every entry in the store the labels that ship for its text; how many labels were added."""
    added = 0
    for path in sorted((BUILTIN / "labels").glob("*.parquet")):
        with store.transaction() as con:
            added += _attach(con, path)
    return added


def describe() -> dict[str, Any]:
    """What the demonstration set says of itself (how it was made, agreement of its readers), for the app."""
    path = DEMO / "about.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
