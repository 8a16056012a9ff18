"""Every page, through Streamlit's own test harness: empty, on the bundled audit, and on a dataset of hostile text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from engine.client import Client
from engine.settings import ROOT
from tests.conftest import wait_for
from tests.test_cli import ok
from tests.test_scorers import encoder  # noqa: F401 (a fixture)

PAGES = (
    *(
        "datasets",
        "values",
        "reward_models",
        "imprint",
        "alignment",
        "robustness",
        "labelers",
        "classifiers",
        "pairs",
        "jobs",
    ),
)


@pytest.fixture
def app(home: Path) -> Iterator[Any]:
    """Opens a page on a store of its own; closes the store's owner at the end."""
    import streamlit as st

    from pages import shared

    st.cache_resource.clear()
    st.cache_data.clear()

    def visit(page: str, **query: Any) -> AppTest:
        opened = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=90).run()
        assert not opened.exception, opened.exception
        if page != "datasets":
            opened.switch_page(f"{page}.py")
        for name, value in query.items():
            opened.query_params[name] = value
        opened.run()
        assert not opened.exception, (page, query, opened.exception)
        return opened

    yield visit
    owner = shared._owner(str(home))
    owner.close()
    owner.store.close()
    st.cache_resource.clear()


def text_of(page: AppTest) -> str:
    """What a page says, without the backslashes that make texts plain."""
    parts = [*page.markdown, *page.caption, *page.title, *page.subheader, *page.info, *page.warning, *page.error]
    return "\n".join(str(one.value) for one in parts).replace("\\", "")


def test_the_bundled_audit_fills_every_page(app: Any) -> None:
    for page in PAGES:
        opened = app(page)
        assert opened.title[0].value
        assert not opened.error
    values = app("values", labels="value_imprint by reading")
    assert values.metric[0].value == "300"
    assert "written by a language model" in text_of(values)
    for view in (
        "By subset",
        "Model against model",
        "Calibration",
        "Distributions",
        "Chosen against rejected",
        "Most disputed",
    ):
        models = app("reward_models", view=view)
        assert len(models.metric) >= 2
    for labels in ("seal by builtin", "seal by reading", "schwartz by reading", "surface by surface"):
        assert "Signet demo" in text_of(app("values", labels=labels))
    for more in ("Compare with", "What occurs together", "By subset"):
        app("values", labels="seal by reading", more=more)


def test_every_view_of_the_audit_pages_draws(app: Any) -> None:
    """Imprint, Alignment and Robustness in every view, mode and labeler, on the bundled audit."""
    for view in ("Table", "Two models", "SEAL's angle", "Bootstrap check"):
        assert "most clearly" in text_of(app("imprint", view=view, labels="seal by reading"))
    app("imprint", mode="pooled", raw="true")
    app("imprint", dummies="true", controlled="false", correction="fdr_bh", models="builtin-post")
    for labels in ("value_imprint by reading", "schwartz by builtin", "surface by surface"):
        app("imprint", labels=labels)
    for view in ("Regimes", "By stratum", "Why", "Slices", "Suspect pairs", "Angles"):
        page = app("alignment", view=view, judge="seal by reading")
        assert "builtin-post resists the preference in" in text_of(page)
    app("alignment", view="By stratum", by="value", first="helpful")
    app("alignment", view="Slices", least="20", before="builtin-post", after="builtin-pre")
    for view in ("Flips", "Which flips matter", "By similarity"):
        assert "Rewording changes builtin-p" in text_of(app("robustness", view=view))
    few = app("robustness", rewriter="reading: neutral rewording")
    assert "Too few reworded pairs (20, fewer than 30)" in text_of(few)


def test_audit_pages_name_the_job_that_would_fill_them(app: Any, home: Path, sample_file: Path) -> None:
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(sample_file), name="bare")["job"])
    assert any("Label" in b.label for b in app("imprint", dataset="bare").button)
    assert any("Score with" in b.label for b in app("alignment", dataset="bare").button)
    assert "reworded yet" in text_of(app("robustness", dataset="bare"))
    with Client(home) as client:
        wait_for(client, client.call("score", dataset="bare", model="builtin-post")["job"])
        wait_for(client, client.call("label", dataset="bare", labeler="builtin", taxonomy_name="seal")["job"])
    small = app("imprint", dataset="bare")
    assert not small.error and "Imprint" in small.title[0].value
    assert "Too few pairs scored by both models (6, fewer than 30)" in text_of(app("alignment", dataset="bare"))


def test_a_review_on_the_page_is_kept(app: Any, home: Path) -> None:
    from engine import commands
    from pages import shared

    page = app("alignment", view="Suspect pairs", judge="seal by reading", against="builtin-pre")
    assert "suspect pairs" in text_of(page)
    store = shared._owner(str(home)).store
    frame = page.dataframe[0].value
    commands.review(store, "Signet demo", [str(frame["pair_id"].iloc[0])], "drop")
    again = app("alignment", view="Suspect pairs", judge="seal by reading", against="builtin-pre")
    assert again.dataframe[0].value["review"].iloc[0] == "drop"
    next(b for b in again.button if b.label == "Prepare a clean dataset").click().run()
    assert "left out" in text_of(again)


def test_numbers_on_the_page_are_those_of_the_command_line(app: Any, home: Path) -> None:
    from engine import comparison, reward_frames
    from pages import shared

    page = app("reward_models")
    con = shared._owner(str(home)).store.read()
    model = con.execute("SELECT model_id FROM models WHERE name = 'builtin-post'").fetchone()
    score = comparison.scores("builtin-post", reward_frames.alignment(con, 1, model[0]))[0].score
    assert f"{score.estimate:.1%}" in [m.value for m in page.metric]


def test_pairs_are_searched_filtered_and_opened(app: Any) -> None:
    page = app("pairs", q="sourdough")
    assert "of 1 filtered (300 total)" in text_of(page)
    page = app("pairs", f=["kind=label&taxonomy=seal&labeler=reading&feature=refusal&side=chosen&value=1"])
    assert "filtered (300 total)" in text_of(page) and any("refusal" in b.label for b in page.button)
    page = app("pairs", pair="daily-001")
    assert "Pair daily" in page.title[0].value and not page.error
    labels = [b.label for b in page.button]
    assert {"Previous", "Next", "Back to the list"} <= set(labels)
    page = app("pairs", pair="no-such-pair")
    assert "No pair" in page.error[0].value
    page = app("pairs", f=["kind=nonsense"])
    assert "left out" in page.warning[0].value


def test_hostile_text_is_escaped_everywhere(app: Any, home: Path, sample_file: Path) -> None:
    evil = "![x](http://x.invalid/a.png) <img src=x onerror=alert(1)> $\\LaTeX$ :material/bug:"
    path = sample_file.with_name("evil.jsonl")
    import json

    rows = [{"prompt": evil, "chosen": evil, "rejected": f"{evil} 2", "subset": evil, "id": evil}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(path), name=evil[:60])["job"])
        wait_for(client, client.call("label", dataset=evil[:60], labeler="surface", taxonomy_name="surface")["job"])
    for page, query in (("datasets", {}), ("values", {}), ("pairs", {}), ("pairs", {"pair": evil}), ("jobs", {})):
        opened = app(page, dataset=evil[:60], **query)
        for one in [*opened.markdown, *opened.caption, *opened.title, *opened.subheader]:
            value = re.sub(r"\\.", "", str(one.value))  # what is not escaped
            assert "![x](" not in value and "<img" not in value and "](http" not in value, value


def test_an_entry_dataset_has_no_pair_statistics(app: Any, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "single.jsonl"
    path.write_text('{"instruction": "Name a tree.", "input": "", "output": "Oak."}\n' * 3)
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(path), name="single")["job"])
        wait_for(client, client.call("label", dataset="single", labeler="surface", taxonomy_name="surface")["job"])
    assert "needs pairs" in text_of(app("reward_models", dataset="single"))
    for page in ("datasets", "values", "pairs"):
        assert not app(page, dataset="single").error


def test_pages_without_labels_or_rewards_offer_the_job(app: Any, home: Path, sample_file: Path) -> None:
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(sample_file), name="bare")["job"])
    assert "Label human values" in [b.label for b in app("values", dataset="bare").button]
    assert "Score with builtin-post" in [b.label for b in app("reward_models", dataset="bare").button]


def test_a_wrong_taxonomy_of_ones_own_gets_a_sentence(app: Any, home: Path) -> None:
    (home / "taxonomies").mkdir()
    (home / "taxonomies" / "mine.yaml").write_text("name: mine\nfeatures:\n  - name: Kind Words\n")
    page = app("datasets")
    assert "mine.yaml" in page.warning[0].value.replace("\\", "") and "name is" in page.warning[0].value


def test_a_run_in_lower_precision_says_what_that_cost(app: Any, home: Path, sample_file: Path, encoder: Path) -> None:  # noqa: F811
    """The command's sentence about flipped margins is the page's."""
    ok(home, "import", str(sample_file), "--name", "small")
    options = ("--option", "dtype=bfloat16", "--option", "allow_drift=true")
    said = ok(home, "score", "small", "--model", str(encoder), *options)["precision"]
    assert re.match(r"\d+ of \d+ margins change sign against float32 \(", said)
    shown = text_of(app("reward_models", dataset="small"))
    assert f"ran in bfloat16: {said}." in shown
