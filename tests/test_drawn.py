"""Charts drawn once: the same chart for the same data, another for other data, and a specification that stays true."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
import pytest

from engine import charts, drawn, value_charts


@pytest.fixture(autouse=True)
def nothing_drawn() -> Iterator[None]:
    drawn.forget()
    yield


def effects(shift: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(
        {"title": ["warmth", "<b>|length"], "estimate": [0.5 + shift, -0.25], "conf_low": [0.1, -0.5],
         "conf_high": [0.9, float("nan")], "n": [40, 900]}
    )  # fmt: skip


def sides() -> pd.DataFrame:
    return pd.DataFrame(
        {"title": ["care", "duty"], "gap_text": ["+1", "-2"]}
        | {f"{side}{end}": [0.2, 0.4] for side in ("chosen", "rejected") for end in ("", "_low", "_high", "_raw")}
    )


def test_the_same_data_gives_the_same_chart_and_other_data_another() -> None:
    first = charts.forest(effects(), "SD")
    assert charts.forest(effects(), "SD") is first
    assert charts.forest(effects(1e-12), "SD") is not first
    assert charts.forest(effects(), "other unit") is not first
    assert charts.forest(effects(), "SD", pick=["title"]) is not first
    assert drawn.spec(first) is drawn.spec(first)


def test_the_specification_names_its_data_and_holds_every_row() -> None:
    chart = charts.forest(effects(), "SD")
    found, plain = drawn.spec(chart), chart.to_dict()
    assert {k: v for k, v in found.items() if k != "datasets"} == {k: v for k, v in plain.items() if k != "datasets"}
    for name, rows in plain["datasets"].items():
        with pa.ipc.open_stream(found["datasets"][name]) as stream:
            assert stream.read_all().to_pylist() == rows
    assert len(plain["datasets"]) == 2 and "config" not in found, "no sizes or colours of Altair's own theme"


def test_a_chart_made_of_another_leaves_it_as_it_is() -> None:
    before = charts.dumbbell(sides(), "share").to_dict()
    value_charts.corrected_dumbbell(sides(), "share")
    after = charts.dumbbell(sides(), "share")
    assert after.to_dict() == before and len(after.layer) == 4


def test_only_the_charts_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "MOST", 2)
    first = charts.forest(effects(), "a")
    drawn.spec(first)
    charts.forest(effects(), "b")
    assert charts.forest(effects(), "a") is first
    charts.forest(effects(), "c")
    assert charts.forest(effects(), "a") is first, "used after b, so b went"
    charts.forest(effects(), "d")
    charts.forest(effects(), "e")
    assert charts.forest(effects(), "a") is not first
    assert len(drawn._charts) == 2 and len(drawn._specs) == 0


def test_a_chart_that_is_not_kept_still_has_a_specification() -> None:
    chart = charts.forest.__wrapped__(effects(), "SD")  # type: ignore[attr-defined]
    assert drawn.spec(chart)["layer"] and not drawn._specs
