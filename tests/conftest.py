"""Fixtures every test file may use: a store of its own, real data if it is there, small written samples."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.settings import ROOT, THREADS
from engine.store import Store

if TYPE_CHECKING:
    from engine.client import Client

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many test processes as cores: one thread for each, and for its jobs
    for _name in THREADS:
        os.environ.setdefault(_name, "1")
DATA = Path(os.environ.get("SIGNET_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store's folder of the test's own, named in SIGNET_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("SIGNET_HOME", str(folder))
    return folder


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """An open, empty store."""
    with Store(home) as opened:
        yield opened


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    """A client that owns an empty store."""
    from engine.client import Client

    with Client(home) as opened:
        yield opened


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; skips where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA} (set SIGNET_DATA)")
    return DATA


# Written for these tests: a mix of one and three turns, an empty side, a tie of texts, and hostile text.
SAMPLE = [
    ("q1", "How do I keep basil alive indoors?", "Bright window, water when the top is dry.", "Buy it fresh instead."),
    ("q2", "Name a river in Peru.", "The Ucayali is one.", "The Danube."),
    ("q3", "Is it rude to leave a party early?", "No. Thank the host and go.", ""),
    ("q4", "Say hi", "hi", "hi"),
    ("q5", "=cmd|' /C calc'!A0", "<script>alert('x')</script> ![i](http://x.invalid/p.png)", "\x1b[31mred\u202e!"),
    ("q6", "What is 7 times 8?", "56", "It is 54, I am sure."),
]


@pytest.fixture
def sample_file(tmp_path: Path) -> Path:
    """A JSONL file of prompt, chosen, rejected in our own words."""
    path = tmp_path / "sample.jsonl"
    rows = [{"id": i, "prompt": p, "chosen": c, "rejected": r, "subset": "ab"[n % 2], "note": f"n{n}"}
            for n, (i, p, c, r) in enumerate(SAMPLE)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def wait_for(client: Client, job: str) -> None:
    """Run a job to its end; SignetError if it fails."""
    client.follow(job, lambda *_: None)
