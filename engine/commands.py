"""What can be asked of a store's owner, by name: the same operations serve the dashboard and the command line.

Each takes the open store and plain JSON arguments, and returns plain JSON. Operations that take long make a job and
return its id. Asking twice is harmless: jobs are content-addressed.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import (
    annotate_commands,
    audit_reports,
    bundle,
    catalog,
    derived,
    export,
    jobs,
    labelers,
    language_models,
    models,
    queues,
    rewriting,
    scores_file,
    taxonomy,
    taxonomy_commands,
    training_commands,
    value_reports,
)
from engine.records import SignetError
from engine.store import FLAGS, REVIEWS, Store, ensure_labeler, ensure_model, ensure_taxonomy

Result = dict[str, Any]


def import_dataset(store: Store, source: str, name: str, options: dict[str, Any] | None = None) -> Result:
    """Start reading a source into a new dataset. `hh-rlhf-test` is Anthropic's test split, from hub or file."""
    name = name.strip()
    if not name or len(name) > 200 or not name.isprintable():
        raise SignetError("A dataset's name must be 1 to 200 printable characters.")
    con = store.read()
    if any(one.name == name for one in catalog.datasets(con)):
        raise SignetError(f"A dataset named {name!r} exists; choose another name or delete it first.")
    params = {"source": bundle.resolve_source(source), "options": options or {}}
    return {"job": jobs.create(store.home, "import", name, f"Import {name}", params).id}


def score(
    store: Store, dataset: str, model: str, limit: int | None = None, options: dict[str, Any] | None = None,
    on: str | None = None,
) -> Result:  # fmt: skip
    """Start scoring what has no reward by that model yet; a file of scores is taken at once.

    `limit`: that many pairs, drawn at random. `options`: input format, precision and such; see engine.models. `on`:
    this machine or a Ray cluster; see engine.jobs.checked_place.
    """
    data = catalog.dataset(store.read(), dataset)
    if scores_file.looks_like(model):
        if on not in (None, jobs.HERE):
            raise SignetError("A file of scores is read here, at once; leave --on out.")
        return scores_file.take(store, data, Path(model), (options or {}).get("name"))
    given = dict(options or {})
    tested = models.take_test_options(given)
    spec = models.resolve(model, given)
    with store.transaction() as con:
        model_id = ensure_model(con, spec.name, spec.kind, spec.revision, spec.params)
    params = {"model": spec.name, "kind": spec.kind, "revision": spec.revision, "model_id": model_id, **spec.params,
              **spec.route, **models.drift_test(spec, tested, limit or data.n_pairs)}  # fmt: skip
    missing = "NOT EXISTS (SELECT 1 FROM rewards r WHERE r.entry_id = sides.entry_id AND r.model_id = ?)"
    size = _endpoint_shard(data.n_entries, spec.route.get("concurrency")) if spec.route else None
    shards = jobs.entry_shards(store.read(), data.dataset_id, missing, [model_id], limit, size)
    title = f"Score {dataset} with {spec.name}"
    return {"job": jobs.create(store.home, "score", dataset, title, params, shards, on).id}


def label(
    store: Store,
    dataset: str,
    labeler: str,
    taxonomy_name: str,
    limit: int | None = None,
    options: dict[str, Any] | None = None,
    on: str | None = None,
) -> Result:
    """Start labelling what has no label of that taxonomy by that labeler yet. `on`: see `score`."""
    data = catalog.dataset(store.read(), dataset)
    chosen = taxonomy.load(taxonomy_name)
    spec = labelers.resolve(labeler, chosen, options)
    with store.transaction() as con:
        feature_ids = sorted(ensure_taxonomy(con, chosen).values())
        labeler_id = ensure_labeler(con, spec.name, spec.kind, spec.revision, spec.params)
    params = {
        **spec.params, "labeler": spec.name, "revision": spec.revision, "labeler_id": labeler_id,
        "taxonomy": chosen.name, "version": chosen.version, "feature_ids": feature_ids, **(options or {}),
        **_network(spec.kind == "lm"),
    }  # fmt: skip
    missing = """NOT EXISTS (SELECT 1 FROM labels l WHERE l.entry_id = sides.entry_id AND l.labeler_id = ?
        AND l.feature_id IN (SELECT unnest(?)))"""
    size = _shard_size(options or {}) if spec.kind == "lm" else None
    shards = jobs.entry_shards(store.read(), data.dataset_id, missing, [labeler_id, feature_ids], limit, size)
    title = f"Label {dataset} with {spec.name} ({chosen.name})"
    return {"job": jobs.create(store.home, "label", dataset, title, params, shards, on).id}


def _network(asks: bool) -> dict[str, str]:
    """Jobs that wait for servers have a lane of their own beside jobs that compute."""
    return {"lane": "network"} if asks else {}


def _endpoint_shard(entries: int, concurrency: int | None) -> int:
    """Entries a shard for a reward model at an endpoint: at its end requests run dry, so many times what is under
    way; but a twentieth of the dataset where that is small, so that progress shows."""
    return min(max(2048, 32 * (concurrency or 0)), max(256, entries // 20))


def _shard_size(options: dict[str, Any]) -> int:
    """Entries a shard for a language model: all in one by batch, else enough to keep all questions under way busy."""
    return 1_000_000 if options.get("batch") else max(256, 8 * int(options.get("concurrency", 16)))


def rewrite(
    store: Store, dataset: str, rewriter: str = "builtin", how: str | None = None, limit: int | None = None,
    options: dict[str, Any] | None = None, then: list[dict[str, Any]] | None = None,
) -> Result:  # fmt: skip
    """Start rewording the answers that this rewriter has not reworded yet.

    `how`: kinds of perturbation (builtin) or an instruction's name. `then`: operations to run when it is done, each
    {"op": "label" or "score", ...}, so that rewrites are labelled and scored in one chain.
    """
    data = catalog.dataset(store.read(), dataset)
    spec = rewriting.resolve(rewriter, how, options or {})
    for step in then or []:
        if step.get("op") not in ("label", "score"):
            raise SignetError(f"After rewriting only label and score can follow, not {step.get('op')!r}.")
    params = {**spec.params, "name": spec.name, "then": then or [], **_network(rewriter != "builtin")}
    missing = "NOT EXISTS (SELECT 1 FROM rewrites w WHERE w.entry_id = sides.entry_id AND w.rewriter = ?)"
    size = _shard_size(options or {}) if rewriter != "builtin" else None
    shards = jobs.entry_shards(store.read(), data.dataset_id, missing, [spec.name], limit, size, rewrites=False)
    return {"job": jobs.create(store.home, "rewrite", dataset, f"Reword {dataset}: {spec.name}", params, shards).id}


def info(store: Store, dataset: str | None = None) -> Result:
    """Counts of the store, or of one dataset: pairs, entries, models, labelers, flags, what was skipped."""
    con = store.read()
    if dataset is None:
        every = [
            {"name": d.name, "kind": d.kind, "pairs": d.n_pairs, "entries": d.n_entries, "source": d.source}
            for d in catalog.datasets(con)
        ]
        return {"store": str(store.home), "datasets": every}
    data = catalog.dataset(con, dataset)
    return {
        "name": data.name, "kind": data.kind, "shape": data.shape, "source": data.source, "note": data.note,
        "created_at": data.created_at, "pairs": data.n_pairs, "entries": data.n_entries,
        "models": [
            {"model": m.label, "kind": m.kind, "revision": m.revision, "rewards": m.n_rewards,
             "truncated": m.n_truncated} for m in catalog.models(con, data.dataset_id)],
        "labelers": [
            {"labeler": b.label, "kind": b.kind, "taxonomy": b.taxonomy, "revision": b.revision,
             "entries": b.n_entries, "labels": b.n_labels} for b in catalog.labelers(con, data.dataset_id)],
        "flags": flag_counts(store, data.dataset_id),
        "skipped": data.report.get("skipped", []),
    }  # fmt: skip


def flag_counts(store: Store, dataset_id: int) -> dict[str, int]:
    """How many pairs carry each health flag."""
    sums = ", ".join(f"count_if(flags & {bit} > 0)" for bit, _ in FLAGS.values())
    row = store.read().execute(f"SELECT {sums} FROM pairs WHERE dataset_id = ?", [dataset_id]).fetchone()
    return dict(zip(FLAGS, row or [0] * len(FLAGS)))


def export_table(
    store: Store, dataset: str, what: str, suffix: str, suspects: dict[str, Any] | None = None
) -> Result:  # fmt: skip
    """Write a table into the store's own `exports/` folder; the asker moves it where it belongs.

    `suspects` (models, labeler, taxonomy, min_score) leaves those suspect pairs out of a clean export.
    """
    folder = store.home / "exports"
    folder.mkdir(exist_ok=True)
    con = store.read()
    without = audit_reports.suspect_pairs(con, dataset, **suspects) if suspects else []
    return export.export(con, dataset, what, folder / f"{uuid.uuid4().hex}{suffix}", without)


def review(store: Store, dataset: str, pairs: list[str], verdict: str, reason: str = "") -> Result:
    """Keep what a person decided about pairs, by pair_id: keep, swap or drop, or open to take it back."""
    if verdict not in (*REVIEWS, "open"):
        raise SignetError(f"A review is one of {', '.join(REVIEWS)}, or open; not {verdict!r}.")
    data = catalog.dataset(store.read(), dataset)
    with store.transaction() as con:
        found = con.execute(
            "SELECT pair_no, pair_id FROM pairs WHERE dataset_id = ? AND pair_id IN (SELECT unnest(?))",
            [data.dataset_id, pairs],
        ).fetchall()
        unknown = sorted(set(pairs) - {row[1] for row in found})
        if unknown:
            raise SignetError(f"Dataset {dataset} has no pair {unknown[0]!r}.")
        numbers = [row[0] for row in found]
        con.execute("DELETE FROM reviews WHERE dataset_id = ? AND pair_no IN (SELECT unnest(?))",
                    [data.dataset_id, numbers])  # fmt: skip
        if verdict != "open":
            con.execute("INSERT INTO reviews SELECT ?, unnest(?), ?, ?, now()::TIMESTAMP",
                        [data.dataset_id, numbers, verdict, reason])  # fmt: skip
    return {"dataset": dataset, "verdict": verdict, "pairs": len(numbers)}


def _reading(function: Callable[..., Result]) -> Callable[..., Result]:
    """An audit, which reads only, as an operation."""
    return lambda store, **arguments: function(store.read(), **arguments)


def delete_dataset(store: Store, dataset: str) -> Result:
    """Delete a dataset, and every entry with its rewards and labels that no other dataset uses."""
    with store.transaction() as con:
        data = catalog.dataset(con, dataset)
        con.execute("DELETE FROM reviews WHERE dataset_id = ?", [data.dataset_id])
        queues.forget(con, [one.queue_id for one in queues.every(con, data.dataset_id)])
        con.execute("DELETE FROM pairs WHERE dataset_id = ?", [data.dataset_id])
        con.execute("DELETE FROM datasets WHERE dataset_id = ?", [data.dataset_id])
        con.execute("""
            CREATE OR REPLACE TEMP TABLE used AS
            SELECT chosen AS entry_id FROM pairs UNION SELECT rejected FROM pairs WHERE rejected IS NOT NULL
            UNION SELECT rewritten_id FROM rewrites WHERE entry_id IN (
                SELECT chosen FROM pairs UNION SELECT rejected FROM pairs)""")
        for table in ("rewards", "labels", "rewrites", "entries"):
            con.execute(f"DELETE FROM {table} WHERE entry_id NOT IN (SELECT entry_id FROM used)")
        con.execute("""
            DELETE FROM prompts WHERE prompt_id NOT IN (
                SELECT prompt_id FROM entries UNION SELECT prompt_id FROM pairs)""")
    return {"deleted": dataset, "pairs": data.n_pairs}


def cancel(store: Store, job: str) -> Result:
    """Ask a job to stop; what it finished is kept."""
    found = jobs.require(store.home, job)
    if jobs.read_state(found).state in jobs.ENDED:
        raise SignetError(f"Job {job} is {jobs.read_state(found).state} already.")
    found.path("cancel").touch()
    for folder in found.folder.glob("batch-*"):
        language_models.cancel_batches(found.params, folder)
    return {"job": job}


def resume(store: Store, job: str, on: str | None = None) -> Result:
    """Queue a failed or cancelled job again; it goes on with what has no result, where it ran or `on` another place."""
    found = jobs.require(store.home, job)
    state = jobs.read_state(found).state
    if state not in ("failed", "cancelled"):
        raise SignetError(f"Job {job} is {state}; only a failed or cancelled one can be resumed.")
    if on is not None:
        jobs.move(found, on)
    for name in ("cancel", "error.json"):
        found.path(name).unlink(missing_ok=True)
    jobs.set_state(found, state="queued", error="", attempts=0)
    return {"job": job}


def remove_job(store: Store, job: str) -> Result:
    """Forget an ended job; its results stay."""
    jobs.remove(jobs.require(store.home, job))
    return {"job": job}


def load_demo(store: Store) -> Result:
    """Put the bundled audit into the store, if it is not there."""
    return bundle.load_demo(store)


OPERATIONS: dict[str, Callable[..., Result]] = {
    "import": import_dataset,
    "score": score,
    "label": label,
    "rewrite": rewrite,
    "info": info,
    "export": export_table,
    "delete": delete_dataset,
    "cancel": cancel,
    "resume": resume,
    "remove": remove_job,
    "demo": load_demo,
    "review": review,
    "imprint": _reading(audit_reports.imprint),
    "alignment": _reading(audit_reports.alignment),
    "slices": _reading(audit_reports.slices),
    "suspects": _reading(audit_reports.suspects),
    "robustness": _reading(audit_reports.robustness),
    "agreement": _reading(audit_reports.agreement),
    "sample": _reading(audit_reports.sample),
    "profile": _reading(value_reports.profile),
    "taught": _reading(value_reports.taught),
    "distances": _reading(value_reports.distances),
    **annotate_commands.OPERATIONS,
    **derived.OPERATIONS,
    **taxonomy_commands.OPERATIONS,
    **training_commands.OPERATIONS,
}


def answer(store: Store, operation: str, arguments: dict[str, Any]) -> Result:
    """Run an operation for another process: {"ok": result} or {"error": one sentence}."""
    try:
        return {"ok": json.loads(json.dumps(OPERATIONS[operation](store, **arguments), default=str))}
    except SignetError as error:
        return {"error": str(error)}
    except Exception as error:  # another process waits for a sentence, whatever happened
        return {"error": f"{operation} failed: {type(error).__name__}: {error}"}


def after(store: Store, job: jobs.Job) -> list[str]:
    """What follows a finished job: shipped labels attach themselves, a chain goes on. What could not, in sentences."""
    notes = []
    if job.kind == "rewrite":
        for step in job.params.get("then", []):
            arguments = {key: value for key, value in step.items() if key != "op"}
            try:
                OPERATIONS[step["op"]](store, dataset=job.dataset, **arguments)
            except SignetError as error:
                notes.append(str(error))
    if job.kind == "import":
        bundle.attach_shipped_labels(store)
        upload = Path(job.params["source"])
        if upload.parent == store.home / "uploads":
            shutil.rmtree(upload, ignore_errors=True) if upload.is_dir() else upload.unlink(missing_ok=True)
    return notes
