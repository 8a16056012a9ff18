"""Surface features: right on known texts, safe on hostile ones, and named as their taxonomy names them."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import labelers, surface, taxonomy
from engine.records import SignetError


def test_reading_ease_is_flesch_1948() -> None:
    # 6 words, 1 sentence, 6 syllables: 206.835 - 1.015 * 6 - 84.6 * 1
    assert surface.reading_ease("The cat sat on the mat.") == pytest.approx(116.145)
    # 5 words, 2 sentences, 7 syllables (wa-ter, bot-tle)
    assert surface.reading_ease("Drink water. Fill the bottle!") == pytest.approx(206.835 - 1.015 * 2.5 - 84.6 * 1.4)
    assert surface.reading_ease(" ... ") is None


@pytest.mark.parametrize(
    ("text", "feature", "value"),
    [
        ("One two, three.", "n_words", 3),
        ("It's well-known", "n_words", 3),
        ("你好吗", "n_words", 3),
        ("First. Second? Third!", "n_sentences", 3),
        ("Version 3.5 is out", "n_sentences", 1),
        ("- salt\n- pepper", "has_list", 1),
        ("1. salt\n2. pepper", "has_list", 1),
        ("1. salt\n2. pepper", "has_number", 0),
        ("just - a dash\nand a line", "has_list", 0),
        ("Add 2 eggs", "has_number", 1),
        ("See https://example.org", "has_link", 1),
        ("See example", "has_link", 0),
        ("## Title\ntext", "has_markdown", 1),
        ("this is **bold**", "has_markdown", 1),
        ("2 * 3 * 4", "has_markdown", 0),
        ("```\nx\n```", "has_code", 1),
        ("def f(x):\n    return x;\n", "has_code", 1),
        ("I return home. Then I class it.", "has_code", 0),
        ("Which one?", "asks_question", 1),
        ("Stop!", "exclamation", 1),
        ("a != b", "exclamation", 0),
        ("I like it", "first_person", 1),
        ("Item i of the list", "first_person", 0),
        ("Your turn", "second_person", 1),
        ("Perhaps so", "hedge", 1),
        ("I'm so sorry", "apology", 1),
        ("I can't help with that.", "refusal_phrase", 1),
        ("I'm not comfortable with it", "refusal_phrase", 1),
        ("As an AI language model, no", "refusal_phrase", 1),
        ("You can't park there", "refusal_phrase", 0),
    ],
)
def test_features_of_known_texts(text: str, feature: str, value: float) -> None:
    assert surface.features(text)[feature] == value


def test_an_empty_response_has_no_reading_ease_and_zero_length() -> None:
    found = surface.features("")
    assert found["n_words"] == found["n_chars"] == found["n_sentences"] == 0
    assert "readability" not in found


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400))
def test_every_text_has_features_named_as_the_taxonomy_names_them(text: str) -> None:
    columns = {column.name: column.kind for column in taxonomy.load("surface").columns()}
    found = surface.features(text)
    undefined = {"readability", "words_per_sentence", "unique_words"}
    assert set(columns) - set(found) in (set(), undefined)
    assert set(found) <= set(columns)
    for name, value in found.items():
        assert columns[name] == "numeric" or value in (0.0, 1.0)


@pytest.mark.parametrize(
    "text", ["a" * 300_000, "`" * 300_000, "if (" * 80_000, "I don't " * 40_000, "*a" * 150_000, "|\n" * 150_000]
)
def test_a_hostile_text_takes_time_linear_in_its_length(text: str) -> None:
    began = time.perf_counter()
    surface.features(text)
    assert time.perf_counter() - began < 5


def test_the_surface_labeler_labels_its_own_taxonomy_only() -> None:
    spec = labelers.resolve("surface", taxonomy.load("surface"))
    assert (spec.kind, spec.revision) == ("rule", surface.VERSION)
    work = labelers.open_labeler(
        {**spec.params, "labeler": "surface", "taxonomy": "surface", "revision": spec.revision}
    )
    entries = pa.table({"entry": ["a" * 32], "prompt": ["[]"], "response": ["I think so!"]})
    rows = {row["feature"]: row for row in work.run(entries).to_pylist()}
    assert rows["hedge"]["value"] == rows["exclamation"]["value"] == 1.0
    assert rows["n_words"] == {"entry": "a" * 32, "feature": "n_words", "value": 3.0, "confidence": None}
    with pytest.raises(SignetError, match="'surface' only"):
        labelers.resolve("surface", taxonomy.load("seal"))
