"""Datasets made from datasets: the prompts of one as single entries, so that what people ask for is labelled too."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from engine import catalog, jobs
from engine.records import SignetError, turns_from_json
from engine.store import Store
from engine.value_frames import PROMPT_ID

BATCH = 10_000


def derive_prompts(store: Store, dataset: str, name: str = "") -> dict[str, Any]:
    """Start making a dataset of another's prompts: an entry a distinct prompt, its last user turn being what is judged.

    The turns before it are the entry's own prompt. `name` is "DATASET: prompts" unless given. Prompts that do not end
    with the user are left out. The new entries know their prompt by their pair_id (value_frames.prompts_of).
    """
    con = store.read()
    data = catalog.dataset(con, dataset)
    name = name.strip() or f"{dataset}: prompts"
    if len(name) > 200 or not name.isprintable():
        raise SignetError("A dataset's name must be 1 to 200 printable characters.")
    if any(one.name == name for one in catalog.datasets(con)):
        raise SignetError(f"A dataset named {name!r} exists; choose another name or delete it first.")
    rows = con.execute(
        """
        SELECT replace(o.hash::VARCHAR, '-', ''), any_value(o.turns), any_value(p.subset), any_value(p.split)
        FROM pairs p JOIN prompts o USING (prompt_id) WHERE p.dataset_id = ? AND o.n_turns > 0
        GROUP BY o.prompt_id, o.hash ORDER BY min(p.pair_no)""",
        [data.dataset_id],
    )
    folder = store.home / "uploads" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    written = 0
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
        while batch := rows.fetchmany(BATCH):
            for identity, text, subset, split in batch:
                *before, last = turns_from_json(text)
                if last.role != "user":
                    continue
                prompt = [{"role": turn.role, "content": turn.content} for turn in before] or ""
                row = {"id": PROMPT_ID + identity, "prompt": prompt, "response": last.content, "subset": subset or "",
                       "split": split or ""}  # fmt: skip
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
    if not written:
        raise SignetError(f"No prompt of {dataset} ends with a user's turn.")
    params = {"source": str(folder), "options": {"shape": "beavertails"}}
    job = jobs.create(store.home, "import", name, f"Take the prompts of {dataset} as a dataset", params)
    return {"job": job.id, "dataset": name, "prompts": written}


OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {"derive_prompts": derive_prompts}
