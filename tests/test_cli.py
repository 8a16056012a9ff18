"""The command line's contract: JSON and nothing else on standard output, exit codes, exports, a shared store."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from engine import cli
from engine.settings import ROOT


def signet(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", *words], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"SIGNET_HOME": str(home), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def ok(home: Path, *words: str) -> dict[str, Any]:
    done = signet(home, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store filled through the command line: the sample, both built-in models, labels, and a file of scores."""
    from tests.conftest import SAMPLE

    folder = tmp_path_factory.mktemp("cli")
    home = folder / "home"
    sample = folder / "sample.jsonl"
    rows = [{"id": i, "prompt": p, "chosen": c, "rejected": r, "subset": "ab"[n % 2], "note": f"n{n}"}
            for n, (i, p, c, r) in enumerate(SAMPLE)]  # fmt: skip
    sample.write_text("".join(json.dumps(row) + "\n" for row in rows))
    imported = ok(home, "import", str(sample), "--name", "s")
    assert (imported["pairs"], imported["skipped"]) == (6, [])
    ok(home, "score", "s", "--model", "builtin-post")
    ok(home, "label", "s", "--labeler", "builtin", "--taxonomy", "value_imprint")
    ok(home, "label", "s", "--labeler", "surface", "--taxonomy", "surface")
    scores = folder / "mine.csv"
    scores.write_text("pair_id,side,reward\nq1,chosen,2\nq1,rejected,1\nq2,chosen,0.5\nq9,chosen,1\nq2,rejected,much\n")
    report = ok(home, "score", "s", "--model", str(scores))
    assert (report["matched"], report["unmatched"], report["not_numbers"]) == (3, 1, 1)
    return home


def test_info_counts_what_is_there(filled: Path) -> None:
    info = ok(filled, "info", "s")
    assert info["pairs"] == 6 and {m["model"]: m["rewards"] for m in info["models"]} == {"builtin-post": 11, "mine": 3}
    assert {b["taxonomy"] for b in info["labelers"]} == {"value_imprint", "surface"}
    assert info["flags"]["identical_responses"] == 1 and info["flags"]["empty_response"] == 1


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the bundled audit."""
    home = tmp_path_factory.mktemp("audited") / "home"
    assert ok(home, "demo")["loaded"]
    return home


def test_imprint_and_alignment_keep_their_contract(audited: Path) -> None:
    call = ("imprint", "Signet demo", "--model", "builtin-post", "--labeler", "reading", "--taxonomy", "seal")
    for mode in ("within", "pooled"):
        found = ok(audited, *call, "--mode", mode)
        assert found["mode"] == mode
        for row in found["coefficients"]:
            assert {"feature", "estimate", "std_error", "conf_low", "conf_high", "p_value", "p_adjusted", "n"} <= set(
                row
            )
            assert row["conf_low"] <= row["estimate"] <= row["conf_high"]
    found = ok(audited, "alignment", "Signet demo", "--before", "builtin-pre", "--after", "builtin-post")
    assert {"alignment_before", "alignment_after", "n", "ties"} <= set(found)
    assert [r["regime"] for r in found["regimes"]] == [
        "stayed_aligned",
        "became_aligned",
        "stayed_misaligned",
        "reversed",
    ]
    assert sum(r["n"] for r in found["regimes"]) == found["n"] == 300
    assert all({"share", "agree", "disagree", "indifferent"} <= set(r) for r in found["regimes"])
    named = ok(audited, "alignment", "Signet demo", "--before", "builtin-pre", "--after", "builtin-post",
               "--labeler", "reading")  # fmt: skip
    assert sum(r["agree"] + r["disagree"] + r["indifferent"] for r in named["regimes"]) == 300


def test_the_other_audits_answer_in_json_and_in_words(audited: Path) -> None:
    slices = ok(audited, "slices", "Signet demo", "--model", "builtin-pre", "--labeler", "reading", "--minimum", "30")
    assert slices["searched"] > 50 and all(s["p_adjusted"] < 0.05 for s in slices["slices"])
    suspects = ok(audited, "suspects", "Signet demo", "--model", "builtin-pre", "--most", "3")
    assert len(suspects["pairs"]) == 3 and suspects["suspects"] > 3
    scores = [row["score"] for row in suspects["pairs"]]
    assert scores == sorted(scores, reverse=True)
    reworded = ok(audited, "robustness", "Signet demo", "--model", "builtin-post", "--labeler", "builtin")
    assert reworded["rewriter"] == "builtin: politeness" and reworded["n"] > 200 and reworded["flips"]
    assert ok(audited, "robustness", "Signet demo", "--model", "builtin-post", "--rewriter",
              "reading: neutral rewording")["n"] == 20  # fmt: skip
    done = signet(
        audited, "imprint", "Signet demo", "--model", "builtin-post", "--labeler", "reading", "--taxonomy", "seal"
    )
    assert done.returncode == 0 and "std_error" in done.stdout and "harmless" in done.stdout
    for words, sentence in (
        (("imprint", "Signet demo", "--model", "nope", "--labeler", "reading", "--taxonomy", "seal"), "No rewards by"),
        (("alignment", "Signet demo", "--before", "builtin-pre", "--after", "builtin-pre", "--labeler", "x"),
         "No labels by"),
        (("robustness", "Signet demo", "--model", "builtin-pre", "--rewriter", "x"), "No rewrites by"),
        (("review", "Signet demo", "nope", "--verdict", "drop"), "no pair"),
    ):  # fmt: skip
        done = signet(audited, *words)
        assert done.returncode == 1 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_exports_are_long_tables_in_three_formats(filled: Path, tmp_path: Path) -> None:
    for what, columns in (
        ("rewards", ["pair_id", "side", "model", "reward"]),
        ("labels", ["pair_id", "side", "labeler", "taxonomy", "feature", "value"]),
    ):
        sizes = set()
        for ending, read in (("csv", pd.read_csv), ("jsonl", lambda p: pd.read_json(p, lines=True)),
                             ("parquet", pd.read_parquet)):  # fmt: skip
            path = tmp_path / f"{what}.{ending}"
            ok(filled, "export", "s", "--what", what, "--to", str(path))
            frame = read(path)
            assert list(frame.columns) == columns
            sizes.add(len(frame))
        assert len(sizes) == 1
    labels = pd.read_parquet(tmp_path / "labels.parquet")
    chosen = labels[labels["feature"] == "value_imprint"]["value"]
    assert len(chosen) == 12 and "Information Seeking" in set(chosen) | {"Information Seeking"}
    assert all(isinstance(value, str) for value in labels["value"])
    pairs = tmp_path / "pairs.parquet"
    ok(filled, "export", "s", "--what", "pairs", "--to", str(pairs))
    frame = pd.read_parquet(pairs)
    assert frame["note"].tolist() == [f"n{i}" for i in range(6)] and frame["pair_id"].is_unique
    assert frame.loc[4, "prompt"] == "=cmd|' /C calc'!A0"


def test_clean_leaves_broken_pairs_out(filled: Path, tmp_path: Path) -> None:
    written = ok(filled, "export", "s", "--what", "clean", "--to", str(tmp_path / "clean.jsonl"))
    assert (written["rows"], written["left_out"]) == (4, 2)
    again = ok(tmp_path / "again", "import", str(tmp_path / "clean.jsonl"), "--name", "again")
    assert again["pairs"] == 4 and not any(again["flags"].values())


def test_csv_exports_are_harmless(filled: Path, tmp_path: Path) -> None:
    """No cell a spreadsheet would run, no control or direction override character."""
    for what in ("pairs", "labels", "rewards"):
        path = tmp_path / f"{what}.csv"
        ok(filled, "export", "s", "--what", what, "--to", str(path))
        with path.open(newline="") as file:
            for row in list(csv.reader(file))[1:]:
                for cell in row:
                    number = cell.replace(".", "", 1).replace("-", "", 1).replace("e", "", 1).isdigit()
                    assert number or not cell.lstrip().startswith(("=", "+", "-", "@")), cell
                    assert not any(c in cell for c in "\x1b\u202e\u2066")
    assert "'=cmd|" in (tmp_path / "pairs.csv").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["info", "nope"], "No dataset 'nope'"),
        (["import", "/no/such/file.jsonl", "--name", "x"], "no such file"),
        (["score", "s", "--model", "no-such-model"], "No reward model"),
        (["label", "s", "--labeler", "builtin", "--taxonomy", "nope"], "No taxonomy"),
        (["label", "s", "--labeler", "nobody", "--taxonomy", "seal"], "nobody"),
        (["export", "s", "--what", "pairs", "--to", "x.docx"], "ending"),
        (["jobs", "--resume", "nope"], "No job"),
        (["score", "s", "--model", "builtin-post", "--option", "oops"], "KEY=VALUE"),
    ],
)
def test_wrong_input_exits_1_with_one_sentence(filled: Path, words: list[str], says: str) -> None:
    done = signet(filled, *words)
    assert done.returncode == 1 and says in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize(
    "words", [[], ["fly"], ["import"], ["score", "s"], ["score", "s", "--model", "m", "--limit", "0"]]
)
def test_wrong_words_exit_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["import", "--help"], ["score", "--help"], ["label", "--help"], ["export", "--help"]):
        assert cli.main(words) == 0
        assert "python -m engine" in capsys.readouterr().out


def test_a_terminal_is_not_driven_by_a_dataset() -> None:
    assert "\x1b" not in cli.printable("\x1b[31mred\u202e") and "\\x1b" in cli.printable("\x1b[31m")


def test_interrupting_keeps_what_was_finished(filled: Path, tmp_path: Path) -> None:
    import signal
    import time

    rows = "".join(json.dumps({"prompt": f"question {i}", "chosen": f"yes {i} " * 40, "rejected": f"no {i}"}) + "\n"
                   for i in range(3000))  # fmt: skip
    (tmp_path / "many.jsonl").write_text(rows)
    home = tmp_path / "home"
    ok(home, "import", str(tmp_path / "many.jsonl"), "--name", "many")
    running = subprocess.Popen([sys.executable, "-m", "engine", "score", "many", "--model", "builtin-post"], cwd=ROOT,
                               env=os.environ | {"SIGNET_HOME": str(home)}, stderr=subprocess.PIPE,
                               # A suite in the background of a shell has Ctrl-C ignored, and so would this command.
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    time.sleep(20)
    running.send_signal(signal.SIGINT)
    running.wait(timeout=180)
    assert running.returncode in (0, 130)
    info = ok(home, "info", "many")
    if running.returncode == 130:
        assert ok(home, "jobs")["jobs"][-1]["state"] in ("cancelled", "done")
        assert 0 <= sum(m["rewards"] for m in info["models"]) <= 6000
