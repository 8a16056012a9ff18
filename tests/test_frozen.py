"""Heads on frozen embeddings: what they learn, what they leave alone, and that a folder brings them back."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from engine import decisions, embedder, evaluation, frozen
from engine.examples import Examples, folds
from engine.records import SignetError, Turn
from engine.settings import ROOT
from engine.taxonomy import Column

# Sentences of our own in three moods; every entry is an opening and one of them.
OPENINGS = ("Well,", "So,", "About the garden:", "On the boat:", "In the kitchen:", "At school:", "After lunch:")
WARM = ("I would gladly help you with that.", "you did wonderfully, keep going.", "thank you, that was kind.")
COLD = ("I will not help you with that.", "you failed, stop it.", "that was useless, go away.")
PLAIN = ("the shed has two doors.", "it takes three hours.", "the number is on the box.")


def column(name: str, kind: str, classes: tuple[str, ...] = ()) -> Column:
    return Column(name, name, kind, "neutral", "response", classes)


COLUMNS = (
    column("warm", "boolean"),
    column("kindness", "signed"),
    column("mood", "category", ("warm", "cold", "plain", "never seen")),
    column("always", "boolean"),
    column("unlabelled", "boolean"),
    column("length", "numeric"),
)
OUTPUTS = decisions.outputs_of(COLUMNS)


def embed_words(texts: list[str]) -> np.ndarray:
    """Vectors of texts by their words alone, so that tests need no model."""
    found = np.zeros((len(texts), embedder.DIMENSIONS), np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            found[row] += np.random.default_rng(list(word.encode())).normal(size=embedder.DIMENSIONS)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


@pytest.fixture(autouse=True)
def words_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "_compute", embed_words)


@pytest.fixture
def examples() -> Examples:
    said = [(opening, text, mood) for opening, (mood, text) in product(
        OPENINGS, [(m, t) for m, texts in enumerate((WARM, COLD, PLAIN)) for t in texts])]  # fmt: skip
    moods = np.array([mood for *_, mood in said], float)
    values = np.stack([
        moods == 0, np.array([1, -1, 0])[moods.astype(int)], moods, np.ones(len(said)),
        np.full(len(said), np.nan), np.full(len(said), 7.0),
    ], axis=1).astype(float)  # fmt: skip
    return Examples(
        COLUMNS,
        tuple(f"{i:032x}" for i in range(len(said))),
        tuple((Turn("user", f"Say something, {opening}"),) for opening, *_ in said),
        tuple(f"{opening} {text}" for opening, text, _ in said),
        np.array([OPENINGS.index(opening) for opening, *_ in said], np.int64),
        ("made",) * len(said),
        values,
    )


def held_out_f1(examples: Examples, logits: np.ndarray, name: str) -> float:
    tuning = decisions.tune(OUTPUTS, logits, decisions.targets(OUTPUTS, examples.columns, examples.values))
    decided = {one: values for one, values, _ in decisions.decide(OUTPUTS, logits, tuning)}
    return evaluation.macro_f1(examples.values[:, [one.name for one in COLUMNS].index(name)], decided[name])


@pytest.mark.parametrize("model", frozen.KINDS)
@pytest.mark.parametrize("options", [{}, {"class_weight": "balanced", "oversample": True}])
def test_sixty_labels_are_learned_from_and_odd_columns_do_no_harm(
    examples: Examples, model: str, options: dict[str, object]
) -> None:
    splits = list(folds(examples.groups, 3, 0))
    logits = frozen.out_of_fold(examples, OUTPUTS, {"model": model, **options}, splits, 0)
    for name in ("warm", "kindness", "mood"):
        assert held_out_f1(examples, logits, name) > 0.9
    tuning = decisions.tune(OUTPUTS, logits, decisions.targets(OUTPUTS, examples.columns, examples.values))
    decided = {one: values for one, values, _ in decisions.decide(OUTPUTS, logits, tuning)}
    assert (decided["always"] == 1).all()
    assert np.isnan(decided["unlabelled"]).all()
    assert not (decided["mood"] == 3).any()


@pytest.mark.parametrize("model", frozen.KINDS)
def test_a_folder_brings_the_head_back(examples: Examples, model: str, tmp_path: Path) -> None:
    head = frozen.fit(examples, OUTPUTS, {"model": model}, seed=3)
    expected = head.logits(examples.prompts, examples.responses)
    head.save(tmp_path / "saved")
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "saved").iterdir()}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model"] == model
    for again in (frozen.load(tmp_path / "saved"), frozen.FrozenHead.from_pretrained(str(tmp_path / "saved"))):
        np.testing.assert_array_equal(again.logits(examples.prompts, examples.responses), expected)
        assert again.outputs == OUTPUTS


@pytest.mark.parametrize("model", frozen.KINDS)
def test_a_seed_gives_the_same_head_and_a_batch_changes_nothing(examples: Examples, model: str) -> None:
    rows = frozen.inputs(examples)
    one, two = (frozen.fit(examples, OUTPUTS, {"model": model}, 5, rows) for _ in range(2))
    np.testing.assert_array_equal(one.logits_of_rows(rows), two.logits_of_rows(rows))
    alone = np.concatenate([one.logits_of_rows(rows[i : i + 1]) for i in range(10)])
    np.testing.assert_allclose(one.logits_of_rows(rows)[:10], alone, atol=1e-4)
    assert one.logits([], []).shape == (0, len(OUTPUTS))


@pytest.mark.parametrize("model", frozen.KINDS)
def test_nothing_of_a_held_out_entry_is_learned(examples: Examples, model: str) -> None:
    rows = frozen.inputs(examples)
    (train, out), *_ = folds(examples.groups, 3, 0)
    honest = frozen.out_of_fold(examples, OUTPUTS, {"model": model}, [(train, out)], 0, rows)
    examples.values[out, 0] = 1 - examples.values[out, 0]
    np.testing.assert_array_equal(
        frozen.out_of_fold(examples, OUTPUTS, {"model": model}, [(train, out)], 0, rows), honest
    )
    assert np.isnan(honest[train]).all()
    assert np.isfinite(honest[out][:, 0]).all()


def test_unlabelled_cells_are_left_out_of_their_column_alone(examples: Examples) -> None:
    some = np.arange(examples.n) % 2 == 0
    examples.values[~some, 0] = np.nan
    partly = frozen.fit(examples, OUTPUTS, {"model": "linear"}, 0)
    rows = frozen.inputs(examples)
    examples.values[~some, 0] = 1
    misled = frozen.fit(examples, OUTPUTS, {"model": "linear"}, 0)
    assert np.abs(partly.logits_of_rows(rows)[:, 0] - misled.logits_of_rows(rows)[:, 0]).max() > 0.5
    np.testing.assert_allclose(partly.logits_of_rows(rows)[:, 1:3], misled.logits_of_rows(rows)[:, 1:3], atol=1e-2)


def test_one_entry_and_one_prompt_are_enough_to_fit(examples: Examples) -> None:
    for rows in (np.array([0]), np.flatnonzero(examples.groups == 0)):
        for model in frozen.KINDS:
            head = frozen.fit(examples.take(rows), OUTPUTS, {"model": model}, 0)
            assert np.isfinite(head.logits(examples.prompts[:2], examples.responses[:2])[:, 0]).all()


def test_what_cannot_be_done_is_said(examples: Examples, tmp_path: Path) -> None:
    with pytest.raises(SignetError, match="linear and mlp"):
        frozen.fit(examples, OUTPUTS, {"model": "forest"}, 0)
    examples.values[:] = np.nan
    with pytest.raises(SignetError, match="no entry has a label"):
        frozen.fit(examples, OUTPUTS, {}, 0)
    with pytest.raises(SignetError, match="holds no classifier"):
        frozen.load(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{}", b"not json"])
def test_a_damaged_folder_is_refused(examples: Examples, tmp_path: Path, damage: bytes) -> None:
    frozen.fit(examples, OUTPUTS, {}, 0).save(tmp_path)
    (tmp_path / "config.json").write_bytes(damage)
    with pytest.raises(SignetError, match="cannot be read"):
        frozen.load(tmp_path)


def test_a_head_for_other_inputs_is_refused(examples: Examples, tmp_path: Path) -> None:
    frozen.fit(examples, OUTPUTS, {}, 0).save(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, "embedder": "0" * 12}))
    with pytest.raises(SignetError, match="other inputs"):
        frozen.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(SignetError, match="cannot be read"):
        frozen.load(tmp_path)


def test_the_module_is_imported_without_torch() -> None:
    code = "import sys, engine.frozen; sys.exit('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
