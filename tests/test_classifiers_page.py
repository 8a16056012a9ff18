"""The Classifiers page: train, read the figures, use a classifier."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.client import Client
from tests.conftest import wait_for
from tests.test_pages import app, text_of

__all__ = ["app"]


def test_train_says_what_there_is_to_learn_from_and_starts_a_job(app: Any, home: Path) -> None:
    page = app("classifiers", view="Train", taxonomy="value_imprint")
    assert "What there is to learn from" in text_of(page)
    counted = page.dataframe[0].value
    assert counted["entries"].sum() == 600 and len(counted) == 7
    page.text_input(key="name-value_imprint").set_value("mine").run()
    next(b for b in page.button if b.label == "Train").click().run()
    from engine import jobs

    job = next(one for one in jobs.all_jobs(home) if one.kind == "train")
    assert job.params["name"] == "mine" and job.params["teachers"] == ["reading"]


def test_evaluate_without_a_classifier_offers_to_train_one(app: Any) -> None:
    assert "No classifier has been trained yet" in text_of(app("classifiers", view="Evaluate"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the bundled audit with a classifier that learned from its readings in two folds."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGNET_HOME", str(home))
        with Client(home) as client:
            client.call("demo")
            asked = {
                "name": "quick",
                "taxonomy_name": "value_imprint",
                "teachers": ["reading"],
                "options": {"folds": 2},
            }
            wait_for(client, client.call("train", **asked)["job"])
    return home


@pytest.mark.parametrize("more", ["Confusion", "Calibration", "More labels", "Abstaining", "Domains", "Errors"])
def test_every_view_of_a_classifier(app: Any, home: Path, trained: Path, more: str) -> None:
    shutil.copytree(trained, home, dirs_exist_ok=True)
    page = app("classifiers", view="Evaluate", classifier="quick", more=more)
    assert {m.label for m in page.metric} >= {"Held-out macro-F1", "Always the commonest", "By its words alone"}
    assert any(b.label.startswith("Label") for b in page.button)
    if more == "Errors":
        wrong = page.dataframe[1].value
        assert {"said", "truth", "confidence", "response", "pair_id"} <= set(wrong.columns) and len(wrong)
        assert (wrong["said"] != wrong["truth"]).all()
