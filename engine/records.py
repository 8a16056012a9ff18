"""The records everything else speaks in: turns, entries, pairs, and the one error users see.

Nothing here touches a file, a database or a model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant")
SIDES = ("chosen", "rejected")


class SignetError(Exception):
    """What a user did or met that Signet cannot go on with; its text is one clear sentence.

    Names what was wrong, where (file, row, field) and what to do about it. Pages show it as it is,
    the command line prints it and exits with 1.
    """


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a dialogue. `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A prompt and one response to it. `prompt` may be empty, `response` may be empty (both are flagged)."""

    prompt: tuple[Turn, ...]
    response: str

    @property
    def hash(self) -> str:
        """Content address: 32 hex digits; the same text has the same hash in every dataset and store."""
        return entry_hash(prompt_hash(self.prompt), self.response)


@dataclass(frozen=True, slots=True)
class Pair:
    """One human preference. The sides' own prompts differ only where a dialogue diverges before its last turn.

    `prompt` is the longest common run of whole turns of both sides.
    """

    prompt: tuple[Turn, ...]
    chosen: Entry
    rejected: Entry
    pair_id: str | None = None
    subset: str = ""
    split: str = ""
    row: int = 0
    strength: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def turns_to_json(turns: Sequence[Turn]) -> str:
    """The stored form of a prompt: a JSON list of [role, content]."""
    quoted = json.encoder.encode_basestring  # what json.dumps(..., ensure_ascii=False) does to a text
    return "[" + ",".join([f"[{quoted(turn.role)},{quoted(turn.content)}]" for turn in turns]) + "]"


def turns_from_json(text: str) -> tuple[Turn, ...]:
    """Inverse of turns_to_json."""
    return tuple(Turn(role, content) for role, content in json.loads(text))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def prompt_hash(prompt: Sequence[Turn] | str) -> str:
    """Content address of a prompt: 32 hex digits. Takes turns, or their stored JSON."""
    text = prompt if isinstance(prompt, str) else turns_to_json(prompt)
    return _digest(text.encode("utf-8", "surrogatepass"))


def entry_hash(hash_of_prompt: str, response: str) -> str:
    """Content address of an entry: 32 hex digits, from its prompt's address and its response."""
    return _digest(hash_of_prompt.encode() + response.encode("utf-8", "surrogatepass"))


def content_hash(value: Any, digits: int = 12) -> str:
    """Short content address of any JSON value; key order does not matter."""
    return _digest(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode())[:digits]


# What `engine.datasets.import_parts` writes, a row a pair or single entry. The *_prompt columns are null where the
# side's own prompt is the shared one; the rejected_* columns are null for single entries.
PART_COLUMNS = {
    "pair_id": "VARCHAR",
    "row": "BIGINT",
    "subset": "VARCHAR",
    "split": "VARCHAR",
    "strength": "DOUBLE",
    "extra": "VARCHAR",
    "prompt_hash": "VARCHAR",
    "prompt": "VARCHAR",
    "n_turns": "INTEGER",
    "chosen_hash": "VARCHAR",
    "chosen_prompt_hash": "VARCHAR",
    "chosen_prompt": "VARCHAR",
    "chosen_n_turns": "INTEGER",
    "chosen": "VARCHAR",
    "rejected_hash": "VARCHAR",
    "rejected_prompt_hash": "VARCHAR",
    "rejected_prompt": "VARCHAR",
    "rejected_n_turns": "INTEGER",
    "rejected": "VARCHAR",
}


def short_revision(revision: str) -> str:
    """A commit or content address by its first 7 digits; words ("not told", "1.2") as they are."""
    return revision[:7] if re.fullmatch(r"[0-9a-f]{8,}", revision) else revision
