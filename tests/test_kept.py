"""Kept answers: what comes back equals what was computed, and is never taken for another question or other data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine import (
    audit_agreement,
    audit_alignment,
    audit_imprint,
    audit_robustness,
    audit_values,
    bundle,
    catalog,
    columns,
    design_frames,
    example_frames,
    kept,
    marks,
    reward_frames,
    value_frames,
)  # fmt: skip
from engine.examples import LABEL
from engine.store import Store


def same(a: Any, b: Any) -> bool:
    """Deep equality; NaN equals NaN."""
    assert type(a) is type(b) or isinstance(a, (int, float, np.number, np.bool_)), (type(a), type(b))
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_index_type=False, check_column_type=False)
        return True
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    return bool(a == b) or (a != a and b != b)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bundled audit in a store."""
    with Store(tmp_path_factory.mktemp("kept") / "home") as store:
        bundle.load_demo(store)
        yield store


def questions(store: Store) -> list[tuple[Any, tuple[Any, ...]]]:
    con = store.read()
    data = catalog.datasets(con)[0].dataset_id
    models = tuple(catalog.models(con, data)[:2])
    found = {one.taxonomy: one for one in catalog.labelers(con, data)}
    seal, value = found["seal"], found["value_imprint"]
    setting = audit_imprint.Setting(seal, columns.style_labels(con, data))
    a, b = (m.model_id for m in models)
    rewriter = next(iter(design_frames.rewriters(con, data)))
    return [
        (reward_frames.alignment, (data, a)), (reward_frames.length_baseline, (data,)),
        (reward_frames.two_models, (data, a, b)), (reward_frames.calibration, (data, a)),
        (reward_frames.histogram, (data, a)), (reward_frames.heat, (data, a)), (reward_frames.quadrants, (data, a)),
        (reward_frames.most_disputed, (data, a, b)),
        (value_frames.prevalence, (data, value.labeler_id, value.taxonomy_id)),
        (value_frames.cooccurrence, (data, seal.labeler_id, seal.taxonomy_id)),
        (value_frames.subsets, (data,)), (design_frames.labelled_rewrites, (data,)), (design_frames.rewriters, (data,)),
        (audit_imprint.model_imprints, (data, setting, models)), (audit_imprint.shift, (data, setting, *models)),
        (audit_imprint.angle_shift, (data, setting, *models)),
        (audit_alignment.audit, (data, *models, (seal, value))), (audit_alignment.resistance, (data, models[0], seal)),
        (audit_alignment.find_slices, (data, models[0], (seal,))),
        (audit_alignment.find_suspects, (data, models, seal)),
        (audit_robustness.audit, (data, rewriter, models, seal)), (audit_agreement.compare, (data, seal, seal)),
        (audit_values.lessons, (data, seal)),
    ]  # fmt: skip


def test_every_kind_of_answer_comes_back_as_it_was(demo: Store) -> None:
    for function, arguments in questions(demo):
        value = function(demo.read(), *arguments)
        text = json.dumps(kept.encode(value), ensure_ascii=False)
        assert same(value, kept.decode(json.loads(text))), kept.name_of(function)
        assert len(text) < kept.MOST_OF_ONE


def test_an_answer_is_taken_from_its_file_until_its_data_change(demo: Store) -> None:
    con = demo.read()
    calls = []
    data = catalog.datasets(con)[0].dataset_id
    one, other = catalog.models(con, data)[:2]

    def alignment(con: Any, dataset_id: int, model_id: int) -> int:
        calls.append(model_id)
        return len(calls)

    alignment.__module__, alignment.__qualname__ = "engine.reward_frames", "alignment"

    def ask(model: catalog.Model) -> Any:
        return kept.answer(demo.read(), demo.home, alignment, (data, model.model_id))

    assert [ask(one), ask(one), ask(other), ask(one)] == [1, 1, 2, 1]
    with demo.transaction() as writing:
        marks.rows_of(writing, "rewards", one.model_id).execute(
            "UPDATE rewards SET reward = reward WHERE model_id = ?", [one.model_id]
        )
    assert [ask(one), ask(other)] == [3, 2]
    with demo.transaction() as writing:
        writing.execute("UPDATE rewards SET reward = reward")
    assert [ask(one), ask(other)] == [4, 5]
    for path in (demo.home / "answers").glob("*.json"):
        path.write_text(path.read_text()[:-1])
    assert ask(one) == 6


def test_nothing_but_plain_data_and_own_records_is_made(tmp_path: Path) -> None:
    for text in ('{"record": "os:path", "fields": {}}', '{"record": "engine.store:Store", "fields": {"home": "x"}}',
                 '{"array": "", "dtype": "|O", "shape": [0]}'):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            kept.decode(json.loads(text))
    assert not kept.keep(tmp_path, "x", object())
    assert kept.keep(tmp_path, "y", {"a": (1, 2.5, None), 3: frozenset({1})})
    assert kept.find(tmp_path, "y") == (True, {"a": (1, 2.5, None), 3: frozenset({1})})
    assert kept.find(tmp_path, "x") == (False, None)


def test_old_answers_go_when_space_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(kept, "MOST_BYTES", 500)
    for i in range(5):
        kept.keep(tmp_path, f"k{i}", "x" * 200)
        os.utime(tmp_path / "answers" / f"k{i}.json", (i, i))
    assert kept.find(tmp_path, "k4")[0] and not kept.find(tmp_path, "k0")[0]


def test_classes_counted_in_the_store_are_those_that_training_would_load(demo: Store) -> None:
    con = demo.read()
    data = catalog.datasets(con)[0].dataset_id
    found = [one for one in catalog.labelers(con, data) if one.taxonomy == "seal"]
    for names in ([found[0].name], list({one.name for one in found})):
        for ids in ([], [data]):
            counts = example_frames.value_counts(con, found[0].taxonomy_id, names, ids)
            table = example_frames.examples(con, found[0].taxonomy_id, names, ids).to_pandas()
            for feature in catalog.features(con, found[0].taxonomy_id):
                given = table[LABEL + feature.name].dropna()
                mine = {value: n for (name, value), n in counts.items() if name == feature.name}
                assert mine == given.value_counts().to_dict()
