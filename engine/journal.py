"""Answers already paid for: one append-only file a fingerprint and worker, read whole at the start.

Every answer is written and flushed before anything else happens with it, so that a killed worker asks again at most
for what was in flight. The same model, prompt and text are found here by any later job.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any


class Journal:
    """Records by key. `folder` is the store's answers/; `fingerprint` names model, prompt and parameters."""

    def __init__(self, folder: Path, fingerprint: str, slot: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, dict[str, Any]] = {}
        safe = re.sub(r"[^\w.-]", "_", fingerprint)
        for path in sorted(folder.glob(f"{safe}.*.jsonl")):
            for key, record in _read(path).items():
                if record.get("failed") and not self._known.get(key, {"failed": True}).get("failed"):
                    continue  # what was answered once stays answered, whichever file is read last
                self._known[key] = record
        self._file = open(folder / f"{safe}.{slot}-{os.getpid()}.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self.found = len(self._known)

    def get(self, key: str) -> dict[str, Any] | None:
        """The last record of a key, or None."""
        return self._known.get(key)

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record; it is on its way to the disk when this returns."""
        self._known[key] = record
        self._file.write(json.dumps({"key": key, **record}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    found = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
                found[record.pop("key")] = record
            except (json.JSONDecodeError, KeyError, AttributeError):  # the last line of a killed writer
                continue
    return found
