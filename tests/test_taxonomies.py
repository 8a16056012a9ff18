"""The taxonomies that ship with Signet, and a user's own: what is accepted, and what a wrong file is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine import taxonomy
from engine.records import SignetError

CIRCUMPLEX = [
    "self-direction", "stimulation", "hedonism", "achievement", "power",
    "security", "conformity", "tradition", "benevolence", "universalism",
]  # fmt: skip


def test_shipped_taxonomies_load_without_complaint() -> None:
    found, complaints = taxonomy.available()
    assert complaints == []
    assert {"seal", "value_imprint", "schwartz", "surface"} <= set(found)
    for one in found.values():
        for feature in one.features:
            assert feature.definition.strip()


def test_seal_has_the_fifteen_regression_features_and_both_lists() -> None:
    seal = taxonomy.load("seal")
    kinds = {feature.name: feature.kind for feature in seal.features}
    assert sum(kind == "boolean" for kind in kinds.values()) == 14
    assert kinds["sentiment"] == "ternary"
    assert len(seal.feature("topics").classes) == 16
    assert len(seal.feature("discrimination_types").classes) == 12
    assert seal.feature("helpful").role == seal.feature("harmless").role == "target"
    assert seal.feature("human_vocabulary_quality").scope == "prompt"
    assert seal.feature("topics").scope == "dialogue"
    assert "topics: Law" in [column.name for column in seal.columns()]


def test_value_imprint_is_one_choice_of_seven() -> None:
    (column,) = taxonomy.load("value_imprint").columns()
    assert column.kind == "category"
    assert column.name == "value_imprint"
    assert len(column.classes) == 7
    assert "Justice/Human Rights & Animal Rights" in column.classes


def test_schwartz_is_signed_in_circumplex_order_with_groups_and_items() -> None:
    schwartz = taxonomy.load("schwartz")
    assert [feature.name for feature in schwartz.features] == CIRCUMPLEX
    groups: set[str] = set()
    for feature in schwartz.features:
        assert feature.kind == "signed"
        assert feature.items
        groups |= set(feature.group.split("; "))
    assert groups == {"openness to change", "self-enhancement", "conservation", "self-transcendence"}


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGNET_HOME", str(tmp_path))
    (tmp_path / "taxonomies").mkdir()
    return tmp_path / "taxonomies"


def test_a_users_own_taxonomy_appears(own_folder: Path) -> None:
    (own_folder / "mine.yaml").write_text(
        "name: mine\nfeatures:\n  - {name: brief, definition: True if it is short., kind: boolean}\n", encoding="utf-8"
    )
    assert taxonomy.load("mine").feature("brief").kind == "boolean"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: mine\nfeatures: [}", "not valid YAML"),
        ("just words", "must be a mapping"),
        ("name: My Name\nfeatures: []", "name is 'My Name'"),
        ("name: mine\nfeatures: []", "features must be a list"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, kind: tristate}", "kind is 'tristate'"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, role: hero}", "role is 'hero'"),
        ("name: mine\nfeatures:\n  - {name: a, kind: boolean}", "definition is missing"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, weight: 3}", "unknown key 'weight'"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, kind: category}", "classes must be a list"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, classes: [x, y]}", "classes belong to"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d}\n  - {name: a, definition: d}", "appears twice"),
        ("name: mine\nkind: choice\nclasses: [x, x]", "class 'x' appears twice"),
        ("name: seal\nkind: choice\nclasses: [x, y]", "is taken by another taxonomy"),
        ("name: mine\nkind: choice\nclasses: [Law, law]", "the class 'law' appears twice"),
        ("name: mine\nkind: choice\nclasses: [x, {name: y, colour: red}]", "class 2 (y): unknown key 'colour'"),
        ("name: mine\nkind: choice\nclasses: [x, {definition: d}]", "class 2 must be a text, or have a name"),
        ("name: mine\nkind: choice\nclasses: [x, '']", "class 2: name is empty"),
        ("name: mine\nkind: choice\ndefinitoin: d\nclasses: [x, y]", "unknown key 'definitoin'"),
        ("name: mine\nkind: choice\nfeatures: []", "unknown key 'features'"),
        (
            "name: mine\nfeatures:\n  - {name: a, definition: d, title: T}\n  - {name: b, definition: d, title: t}",
            "the title 't' stands for two features",
        ),
        (
            "name: mine\nfeatures:\n  - {name: a, definition: " + "word " * 301 + "}",
            "feature 1 (a): definition has 301 words",
        ),
        ("name: mine\nfeatures:\n  - {name: a, definition: " + "x" * 3001 + "}", "definition has 3,001 characters"),
        ('name: mine\nfeatures:\n  - {name: a, definition: "a\\u202eb"}', "invisible character U+202E"),
        ('name: mine\ntitle: "a\\0b"\nfeatures:\n  - {name: a, definition: d}', "title holds the invisible character"),
        (
            "name: mine\nfeatures:\n" + "".join(f"  - {{name: a{i}, definition: d}}\n" for i in range(101)),
            "101 features; 100 are the most",
        ),
        ("name: mine\nkind: choice\nclasses: [" + ", ".join(f"c{i}" for i in range(101)) + "]", "100 are the most"),
        (
            "name: mine\nfeatures:\n"
            + "".join(
                f"  - {{name: a{i}, definition: d, kind: many_of, classes: [{', '.join(map(str, range(90)))}]}}\n"
                for i in range(5)
            ),
            "make 450 columns",
        ),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, examples: {maybe: x}}", "examples of 'maybe'"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, kind: numeric, examples: {yes: x}}", "are not taken"),
        (
            "name: mine\nfeatures:\n  - {name: a, definition: d, kind: category, classes: [x, y], examples: {yes: x}}",
            "stand with its classes",
        ),
        ("name: mine\nfeatures:\n  - {name: a, definition: [d]}", "definition must be a text"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, items: x}", "items must be a list"),
        ("name: mine\nfeatures:\n  - {name: a, definition: d, group: [a; b]}", "may hold no semicolon"),
        ("name: mine\nname: yours\nfeatures: []", "line 2: the key 'name' stands twice"),
        ("name: mine\nfeatures: &f []\n", "anchors (&) and aliases (*) are not taken"),
    ],
)
def test_a_wrong_taxonomy_gets_a_sentence_that_names_file_and_reason(own_folder: Path, text: str, says: str) -> None:
    (own_folder / "mine.yaml").write_text(text, encoding="utf-8")
    _, complaints = taxonomy.available()
    assert len(complaints) == 1, complaints
    assert complaints[0].startswith("mine.yaml")
    assert says in complaints[0]


def test_version_is_of_the_content_not_of_the_layout() -> None:
    text = "name: mine\nfeatures:\n  - {name: a, definition: d}\n"
    same = "name: mine\nfeatures:\n  - name: a\n    definition: d\n"
    other = text.replace("definition: d", "definition: e")
    assert taxonomy.parse(text, "a").version == taxonomy.parse(same, "b").version
    assert taxonomy.parse(text, "a").version != taxonomy.parse(other, "a").version


def test_an_unknown_name_is_told_which_there_are() -> None:
    with pytest.raises(SignetError, match="seal"):
        taxonomy.load("nonesuch")


BEYOND = ["buddhist", "confucian", "maqasid", "relational_accountability", "ubuntu", "yamas_niyamas"]


@pytest.mark.parametrize("name", [*BEYOND, "code", "mathematics"])
def test_example_value_systems_say_where_they_come_from(name: str) -> None:
    """Cited with a year, every value defined on both sides, nothing said twice, no long run shared with another."""
    one = taxonomy.load(name)
    assert re.search(r"(19|20)\d\d", one.source) and len(one.source.split()) > 20
    definitions = [feature.definition for feature in one.features]
    assert len(set(definitions)) == len(definitions) >= 5
    for feature in one.features:
        if feature.kind == "signed":
            assert feature.definition.startswith("1 if") and " -1 if" in feature.definition
            assert "0 if" in feature.definition or ", 0 " in feature.definition
    assert name in BEYOND or {"target", "neutral"} <= {feature.role for feature in one.features}


def test_schwartz_items_are_outside_the_version() -> None:
    """Words that illustrate a value are for readers: changing them must not part labels from their taxonomy."""
    text = taxonomy.load("schwartz").text
    other = taxonomy.parse(text.replace("curiosity, creativity", "creativity, curiosity"), "x")
    assert other.features != taxonomy.load("schwartz").features
    assert other.version == taxonomy.load("schwartz").version


def test_texts_that_yaml_would_take_for_something_else_stay_texts(own_folder: Path) -> None:
    text = "name: mine\ntitle: 2024\nkind: choice\nclasses: [yes, no, 1, null, 2024-01-01]\n"
    assert taxonomy.parse(text, "x").title == "2024"
    assert taxonomy.parse(text, "x").features[0].classes == ("yes", "no", "1", "null", "2024-01-01")


def test_groups_are_a_text_or_a_list() -> None:
    text = "name: m\nfeatures:\n  - {name: a, definition: d, group: GROUP}\n"
    for written in ("x; y z", "[x, y z]", "' x ;y z; '"):
        (feature,) = taxonomy.parse(text.replace("GROUP", written), "x").features
        assert feature.groups == ("x", "y z") and feature.group == "x; y z"
    (feature,) = taxonomy.parse(text.replace(", group: GROUP", ""), "x").features
    assert feature.groups == ()


def test_columns_of_one_name_tell_their_features_apart() -> None:
    """Charts draw by title: two classes of one name in different features must not fall into one bar."""
    one = "{name: NAME, definition: d, kind: many_of, classes: [Law, Other]}"
    both = f"name: m\nfeatures:\n  - {one.replace('NAME', 'a')}\n  - {one.replace('NAME', 'b')}\n"
    titles = [column.title for column in taxonomy.parse(both, "x").columns()]
    assert titles == ["a: Law", "a: Other", "b: Law", "b: Other"]


def test_a_huge_file_is_not_read(own_folder: Path) -> None:
    (own_folder / "mine.yaml").write_bytes(b"#" * 2_000_000)
    _, (complaint,) = taxonomy.available()
    assert "too large" in complaint
