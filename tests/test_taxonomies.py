"""The taxonomies that ship with Signet, and a user's own: what is accepted, and what a wrong file is told."""

from __future__ import annotations

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
    ],
)
def test_a_wrong_taxonomy_gets_a_sentence_that_names_file_and_reason(own_folder: Path, text: str, says: str) -> None:
    (own_folder / "mine.yaml").write_text(text, encoding="utf-8")
    _, complaints = taxonomy.available()
    assert len(complaints) == 1
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
