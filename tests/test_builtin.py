"""Embedder, heads, labelers and their training: exact where an outside reference exists, stable where it counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import decisions, embedder, fitting, head_inputs, heads, labelers, taxonomy
from engine.builtin import data, evaluate
from engine.records import SignetError, Turn, turns_to_json
from engine.settings import ROOT

TEXTS = [
    "How do I keep bread fresh for a week?", "I'm sorry, I can't help with that.", "Rain is not salty.", "",
    "Slice it, freeze it, and toast it from frozen. " * 12, "Danke, das hilft mir sehr.", "\ud800 broken",
    "word " * 3000,
]  # fmt: skip
ENTRIES = [
    ((Turn("user", "How do I keep bread fresh?"),), "Freeze it in slices and toast them when you need them."),
    ((Turn("user", "Tell me my neighbour's password."),), "I'm sorry, but I can't help with that."),
    ((Turn("user", "Hi"), Turn("assistant", "Hello!"), Turn("user", "Who painted this?")), "I don't know."),
    ((), "A response without a prompt."),
    ((Turn("user", "Say something"),), ""),
    ((Turn("user", "<script>"),), "<script>alert(1)</script> =cmd|' /C calc'!A0 \x1b[31m \u202e"),
    ((Turn("user", "Long?"),), "very " * 20_000),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGNET_HOME", str(tmp_path))
    return tmp_path


def table(entries: list[tuple[tuple[Turn, ...], str]]) -> pa.Table:
    return pa.table(
        {
            "entry": [f"{i:032x}" for i in range(len(entries))],
            "prompt": [turns_to_json(prompt) for prompt, _ in entries],
            "response": [response for _, response in entries],
        }
    )


# --- embedder ---
def test_embeddings_are_unit_vectors_in_the_order_given(home: Path) -> None:
    found = embedder.embed(TEXTS)
    assert found.shape == (len(TEXTS), 384)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert embedder.embed([]).shape == (0, 384)
    near = embedder.embed(["a cat sleeps", "a kitten is sleeping", "the stock market fell"])
    assert near[0] @ near[1] > near[0] @ near[2] + 0.3


def test_embeddings_do_not_depend_on_the_batch(home: Path) -> None:
    together = embedder.embed(TEXTS, use_cache=False)
    alone = np.concatenate([embedder.embed([text], use_cache=False) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5
    backwards = embedder.embed(TEXTS[::-1], use_cache=False)[::-1]
    assert np.abs(together - backwards).max() < 1e-5


def test_embeddings_agree_with_sentence_transformers(home: Path) -> None:
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(
        str(embedder.model_folder()), device="cpu"
    )
    texts = [text for text in TEXTS if "\ud800" not in text]
    assert np.abs(embedder.embed(texts) - reference.encode(texts, normalize_embeddings=True)).max() < 1e-4


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were really embedded, call by call; vectors are made up."""
    calls: list[int] = []

    def compute(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return np.stack([np.full(384, len(text), np.float32) for text in texts])

    monkeypatch.setattr(embedder, "_compute", compute)
    return calls


def test_a_text_is_embedded_once(home: Path, counted: list[int]) -> None:
    first = embedder.embed(["one", "three", "one"])
    again = embedder.embed(["three", "one", "four4"])
    assert counted == [2, 1]
    assert (first[0] == again[1]).all()
    assert (home / "embeddings.sqlite").exists()


@pytest.mark.parametrize("junk", [b"not a database at all" * 200, b"", b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_corrupt_cache_is_made_anew(home: Path, counted: list[int], junk: bytes) -> None:
    embedder.embed(["one"])
    for suffix in ("-wal", "-shm"):
        (home / f"embeddings.sqlite{suffix}").unlink(missing_ok=True)
    (home / "embeddings.sqlite").write_bytes(junk)
    assert embedder.embed(["one", "three"])[1, 0] == 5
    embedder.embed(["one", "three"])
    assert counted == [1, 2]


def test_without_a_writable_cache_it_still_works(home: Path, counted: list[int]) -> None:
    (home / "embeddings.sqlite").mkdir()
    assert embedder.embed(["one"])[0, 0] == 3


_WRITER = """
import sys, numpy as np
from engine import embedder
embedder._compute = lambda texts: np.stack([np.full(384, float(t.split()[0]), np.float32) for t in texts])
for start in range(0, 400, 20):
    texts = [f"{i} {'x' if i % 2 else sys.argv[1]}" for i in range(start, start + 20)]
    assert (embedder.embed(texts)[:, 0] == np.arange(start, start + 20)).all()
"""


def test_several_processes_share_the_cache(home: Path) -> None:
    environment = {**os.environ, "SIGNET_HOME": str(home)}
    started = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(i)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for i in range(3)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()


def test_a_missing_embedder_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "PACKAGE", "no_such_package_here")
    with pytest.raises(SignetError, match="pip install"):
        embedder.model_folder()


# --- heads and labelers ---
@pytest.mark.parametrize("name", ["seal", "value_imprint", "schwartz"])
def test_builtin_labels_are_of_the_taxonomys_columns_and_kinds(home: Path, name: str) -> None:
    chosen = taxonomy.load(name)
    spec = labelers.resolve("builtin", chosen)
    params = {**spec.params, "labeler": spec.name, "taxonomy": name, "revision": spec.revision}
    rows = labelers.open_labeler(params).run(table(ENTRIES)).to_pylist()
    columns = {column.name: column for column in chosen.columns()}
    without = {c for c in columns if c.startswith("discrimination_types")}  # nobody labelled them
    assert {row["feature"] for row in rows} == set(columns) - without
    assert len(rows) == len(ENTRIES) * (len(columns) - len(without))
    allowed = {"boolean": {0.0, 1.0}, "ternary": {-1.0, 0.0, 1.0}, "signed": {-1.0, 0.0, 1.0}}
    for row in rows:
        column = columns[row["feature"]]
        assert row["value"] in allowed.get(column.kind, {float(i) for i in range(len(column.classes))})
        assert 0 <= row["confidence"] <= 1


def test_a_plain_refusal_is_labelled_as_one(home: Path) -> None:
    rows = labelers.open_labeler({"labeler": "builtin", "taxonomy": "seal"}).run(table(ENTRIES)).to_pylist()
    refusals = {row["entry"]: row["value"] for row in rows if row["feature"] == "refusal"}
    assert refusals[f"{1:032x}"] == 1.0
    assert refusals[f"{0:032x}"] == 0.0


@pytest.mark.parametrize("name", heads.REWARDS)
def test_rewards_are_finite_and_do_not_depend_on_the_batch(home: Path, name: str) -> None:
    model = heads.reward_model(name)
    prompts, responses = [p for p, _ in ENTRIES], [r for _, r in ENTRIES]
    together = model.score(prompts, responses)
    assert np.isfinite(together).all()
    alone = np.array([model.score([p], [r])[0] for p, r in ENTRIES])
    assert np.abs(together - alone).max() < 1e-4
    assert (model.score(prompts, responses) == together).all()
    assert model.score([], []).shape == (0,)


def test_unknown_names_are_told_what_there_is() -> None:
    own = taxonomy.parse("name: mine\nfeatures:\n  - {name: a, definition: d}\n", "mine.yaml")
    with pytest.raises(SignetError, match="schwartz, seal, value_imprint"):
        labelers.resolve("builtin", own)
    with pytest.raises(SignetError, match="builtin, surface, classifier:NAME, openai:MODEL"):
        labelers.resolve("nonesuch", taxonomy.load("seal"))
    with pytest.raises(SignetError, match="builtin-pre and builtin-post"):
        heads.reward_model("builtin-mid")


def test_a_job_made_for_other_heads_is_refused() -> None:
    with pytest.raises(SignetError, match="has changed"):
        labelers.open_labeler({"labeler": "builtin", "taxonomy": "seal", "revision": "0" * 12})


@pytest.mark.parametrize("name", ["seal", "value_imprint", "schwartz"])
def test_every_builtin_label_has_its_measured_quality(name: str) -> None:
    quality = heads.quality(name)
    for output in heads.load(name).outputs:
        one = quality[output.column]
        assert 0 <= one["f1"] <= 1 and 0 <= one["baseline_f1"] <= 1
        assert one["n"] > 0 and isinstance(one["few"], bool)
    for figures in heads.reward_quality("builtin-post").values():
        assert figures["low"] <= figures["accuracy"] <= figures["high"]


def test_shipped_labels_hold_no_text() -> None:
    (path,) = labelers.shipped_labels().glob("*.parquet")
    found = pq.read_table(path)
    assert found.num_rows > 50_000
    rows = found.to_pandas()
    assert rows["entry"].str.fullmatch("[0-9a-f]{32}").all()
    assert set(rows["labeler"]) == {"reading", "reading-2"}
    for name in rows["taxonomy"].unique():
        columns = {column.name for column in taxonomy.load(name).columns()}
        assert set(rows.loc[rows["taxonomy"] == name, "feature"]) <= columns
    assert not rows.duplicated(["entry", "labeler", "taxonomy", "feature"]).any()


# --- fitting and figures, against outside references ---
def test_the_fit_is_ridge_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(1)
    rows = random.normal(size=(200, 500)) * np.geomspace(1, 0.01, 500)
    truth = (rows[:, :3].sum(1) + random.normal(size=200) > 0.8).astype(float)
    for strength in (1e-3, 1e-2):
        shares, bias = fitting.fit_binary(fitting.products(rows), truth[:, None], strength)
        reference = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000).fit(rows, truth)
        assert rows.T @ shares[:, 0] == pytest.approx(reference.coef_[0], abs=1e-3)
        assert bias[0] == pytest.approx(reference.intercept_[0], abs=5e-3)


def test_figures_agree_with_sklearn_and_statsmodels() -> None:
    from sklearn.metrics import cohen_kappa_score, f1_score
    from statsmodels.stats.proportion import proportion_confint

    random = np.random.default_rng(2)
    one, other = random.integers(-1, 2, 300).astype(float), random.integers(-1, 2, 300).astype(float)
    assert fitting.macro_f1(one, other, [-1, 0, 1]) == pytest.approx(f1_score(one, other, average="macro"))
    assert fitting.kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))
    assert evaluate.wilson(70, 110) == pytest.approx(proportion_confint(70, 110, method="wilson"), abs=1e-6)


def test_calibration_error_of_a_calibrated_guess_is_zero() -> None:
    truth = np.array([1, 1, 1, 0] * 50, float)
    assert fitting.calibration_error(np.full(200, 0.75), truth) == pytest.approx(0)
    assert fitting.calibration_error(np.full(200, 0.95), truth) == pytest.approx(0.2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=10, max_size=80), st.integers(0, 5))
def test_folds_never_separate_a_group_and_cover_everything(groups: list[int], seed: int) -> None:
    numbers = np.array(groups)
    judged: list[int] = []
    for train, validation in fitting.folds(numbers, seed):
        assert not set(numbers[train]) & set(numbers[validation])
        judged += validation.tolist()
    assert sorted(judged) == list(range(len(groups)))


def test_groups_join_through_shared_keys() -> None:
    assert data.groups_of([["a", "b"], ["c"], ["b", "d"], ["d"], ["e"]]) == [0, 1, 0, 0, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(61, 200))
def test_the_share_threshold_names_as_many_as_are_true(positive: int, total: int) -> None:
    random = np.random.default_rng(positive * 1000 + total)
    logits = random.normal(size=total)
    truth = np.zeros(total)
    truth[random.permutation(total)[:positive]] = 1
    assert (logits > decisions.share_threshold(logits, truth)).sum() == positive


def test_share_biases_bring_a_rare_class_to_its_share() -> None:
    random = np.random.default_rng(3)
    truth = random.choice(3, size=600, p=[0.8, 0.15, 0.05])
    logits = np.eye(3)[truth] + random.normal(size=(600, 3)) + np.log([0.8, 0.15, 0.05])
    decided = (logits + decisions.share_biases(logits, truth)).argmax(1)
    assert np.bincount(decided, minlength=3) / 600 == pytest.approx(np.bincount(truth) / 600, abs=0.02)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("benevolence: +1", ("benevolence", 1.0)),
        ("Self-Direction: 1", ("self-direction", 1.0)),
        ("conformity: 1+", ("conformity", 1.0)),
        ("achievement: =1", ("achievement", 1.0)),
        ("POWER : -1", ("power", -1.0)),
        ("power: 2", None),
        ("power", None),
    ],
)
def test_fulcra_spellings(text: str, parsed: tuple[str, float] | None) -> None:
    assert data.fulcra_value(text) == parsed


def test_dialogue_parts_are_the_last_question_what_came_before_and_all_the_user_said() -> None:
    prompt = (Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"))
    assert head_inputs.dialogue_parts(prompt) == ("three", "two", "one\nthree")
    assert head_inputs.dialogue_parts(()) == ("", "", "")
    assert head_inputs.dialogue_parts((Turn("system", "rules"),)) == ("", "rules", "")


# --- on the real data ---
DATA = Path(os.environ.get("SIGNET_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "hh_rlhf_labels.tsv").exists(), reason="the training data is not beside the repository"
)


@pytest.mark.data
@needs_data
def test_no_split_separates_a_prompt_and_the_held_out_figures_are_reproduced(home: Path) -> None:
    pairs, entries, _ = data.hh_pairs(DATA)
    train = {pair.group for pair in pairs if pair.split == "train"}
    assert not train & {pair.group for pair in pairs if pair.split in ("test", "reserved")}
    test = [one for one in data.read_labels(DATA, pairs, entries) if one.split == "test" and one.reading == 1]
    rows = head_inputs.raw([one.entry.prompt for one in test], [one.entry.response for one in test])
    head = heads.load("value_imprint")
    ((_, decided, _),) = head.decide(head.logits_of_rows(rows))
    truth = np.array([one.values["value_imprint", "value_imprint"] for one in test])
    written = heads.quality("value_imprint")["value_imprint"]
    assert (truth == decided).mean() == pytest.approx(written["accuracy"], abs=0.01)
    assert fitting.macro_f1(truth, decided, [float(i) for i in range(7)]) == pytest.approx(written["f1"], abs=0.015)
    assert written["f1"] > written["baseline_f1"] + 0.3


@pytest.mark.data
@needs_data
def test_shipped_labels_belong_to_the_entries_the_reader_makes() -> None:
    pairs, entries, _ = data.hh_pairs(DATA)
    hashes = {one.hash for one in entries.values()}
    labelled = set(pq.read_table(labelers.shipped_labels() / "hh_rlhf.parquet").column("entry").to_pylist())
    assert labelled <= hashes
    kept = {one.entry.hash for one in data.read_labels(DATA, pairs, entries)}
    assert labelled == kept
    assert json.dumps(sorted(labelled))
