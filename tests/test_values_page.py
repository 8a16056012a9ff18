"""The complete Values page and what it reads, on the bundled audit and on datasets written here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import (
    audit_targets,
    audit_values,
    catalog,
    correction_frames,
    label_arrays,
    targets,
    value_frames,
    values,
    vector_frames,
)
from engine.audit_values import How
from engine.bundle import DEMO_NAME, load_demo
from engine.client import Client
from engine.design_frames import Part
from engine.store import Store
from tests.conftest import wait_for
from tests.test_pages import app, text_of  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with the bundled audit, only read."""
    with Store(tmp_path_factory.mktemp("audit")) as opened:
        load_demo(opened)
        yield opened


@pytest.fixture
def demo(store: Store) -> Store:
    """A store with the bundled audit of the test's own."""
    load_demo(store)
    return store


def labelers(store: Store, taxonomy: str) -> dict[str, catalog.Labeler]:
    """Who labelled the bundled audit by a taxonomy."""
    con = store.read()
    data = catalog.dataset(con, DEMO_NAME)
    return {one.label: one for one in catalog.labelers(con, data.dataset_id) if one.taxonomy == taxonomy}


def test_confusion_and_joint_counts_equal_pandas(audit: Store) -> None:
    """Counted in SQL and by joining the exported labels in pandas: the same table."""
    con, mine = audit.read(), labelers(audit, "value_imprint")
    one, other = mine["builtin"], mine["reading"]
    wide = con.execute(
        """
        SELECT p.pair_no, l.labeler_id, max(value) FILTER (l.entry_id = p.chosen) AS c,
            max(value) FILTER (l.entry_id = p.rejected) AS r
        FROM pairs p JOIN labels l ON l.entry_id IN (p.chosen, p.rejected) JOIN features f USING (feature_id)
        WHERE f.taxonomy_id = ? AND p.dataset_id = 1 GROUP BY ALL""",
        [one.taxonomy_id],
    ).df()
    sides = wide.pivot(index="pair_no", columns="labeler_id", values=["c", "r"])
    said = np.r_[sides["c", one.labeler_id], sides["r", one.labeler_id]]
    truth = np.r_[sides["c", other.labeler_id], sides["r", other.labeler_id]]
    counted = correction_frames.confusion(con, one, other, 1)
    assert counted["n"].sum() == len(said) == 600
    for row in counted.groupby(["truth", "said"])["n"].sum().items():
        (t, s), n = row
        assert n == ((truth == t) & (said == s)).sum()
    of, feature = label_arrays.pairs(con, 1), catalog.features(con, one.taxonomy_id)[0]
    given = label_arrays.labels(con, one.labeler_id, [feature], of)
    joint = correction_frames.joint(of, given, feature, [float(k) for k in range(len(feature.classes))])
    for (chosen, rejected), n in np.ndenumerate(joint):
        assert n == ((sides["c", one.labeler_id] == chosen) & (sides["r", one.labeler_id] == rejected)).sum()


def test_gold_sums_equal_those_of_arrays(audit: Store) -> None:
    """Sums over prompts are those of the labels joined in SQL, to 1e-9, with part of the gold out of reach."""
    from engine.prevalence import Sums

    con, mine = audit.read(), labelers(audit, "schwartz")
    one, other = mine["builtin"], mine["reading"]
    subset = value_frames.subsets(con, 1)[0]
    found = {s.feature.name: s for s in correction_frames.gold_sums(con, 1, one, other, gold=Part(subset=subset))}
    wide = con.execute(
        """
        SELECT p.prompt_id, coalesce(p.subset, '') AS subset, s.value AS said, s2.value AS said_r, t.value AS truth,
            t2.value AS truth_r
        FROM pairs p JOIN features f ON f.name = 'security' AND f.taxonomy_id = $tax
        JOIN labels s ON s.entry_id = p.chosen AND s.feature_id = f.feature_id AND s.labeler_id = $one
        JOIN labels s2 ON s2.entry_id = p.rejected AND s2.feature_id = f.feature_id AND s2.labeler_id = $one
        JOIN labels t ON t.entry_id = p.chosen AND t.feature_id = f.feature_id AND t.labeler_id = $other
        JOIN labels t2 ON t2.entry_id = p.rejected AND t2.feature_id = f.feature_id AND t2.labeler_id = $other
        WHERE p.dataset_id = 1""",
        {"tax": one.taxonomy_id, "one": one.labeler_id, "other": other.labeler_id},
    ).df()
    known = wide["subset"] == subset
    expected = {
        "chosen": Sums.of(wide["truth"].where(known).to_numpy(), wide["said"].to_numpy(), wide["prompt_id"].to_numpy()),
        "gap": Sums.of((wide["truth"] - wide["truth_r"]).where(known).to_numpy(),
                       (wide["said"] - wide["said_r"]).to_numpy(), wide["prompt_id"].to_numpy()),
    }  # fmt: skip
    for quantity, sums in expected.items():
        mine_sums = getattr(found["security"], quantity)
        assert mine_sums.total == pytest.approx(sums.total, abs=1e-9)
        assert mine_sums.cross == pytest.approx(sums.cross, abs=1e-9)
        assert mine_sums.prompts == sums.prompts


def test_a_labeler_corrected_by_itself_stays_as_it_is(audit: Store) -> None:
    """Reading against a perfect copy of itself: corrected is raw wherever something can be said."""
    con = audit.read()
    reading = labelers(audit, "value_imprint")["reading"]
    table = values.profile_frame(
        values.profile(value_frames.prevalence(con, 1, reading.labeler_id, reading.taxonomy_id))
    )
    for method in ("confusion", "prediction"):
        found = audit_values.beside(table, audit_values.corrected(con, 1, reading, reading, How(method)))
        assert len(found) == 7
        known = found.dropna(subset=["corrected_chosen"])
        assert len(known) >= 6
        assert (known["corrected_chosen"] - known["chosen"]).abs().max() < 1e-6
        assert (known["corrected_gap"] - known["gap"]).abs().max() < 1e-6


def test_correction_with_all_of_the_gold_finds_what_was_read(audit: Store) -> None:
    """With everything read, prediction-powered levels are the readings'; by confusion the two sides' mean is (1e-6)."""
    con, mine = audit.read(), labelers(audit, "seal")
    one, other = mine["builtin"], mine["reading"]
    raw, read = (
        values.profile_frame(values.profile(value_frames.prevalence(con, 1, who.labeler_id, who.taxonomy_id)))
        for who in (one, other)
    )
    read = read.set_index("feature")
    powered = audit_values.corrected(con, 1, one, other, How("prediction")).set_index("feature")
    assert powered["corrected_gap"].to_numpy() == pytest.approx(read["gap"].reindex(powered.index).to_numpy(), abs=1e-6)
    found = audit_values.beside(raw, audit_values.corrected(con, 1, one, other, How())).set_index("feature")
    inside = found[
        found["corrected_chosen"].between(1e-9, 1 - 1e-9) & found["corrected_rejected"].between(1e-9, 1 - 1e-9)
    ]
    inside = inside[inside["kind"] == "boolean"]
    middle = (inside["corrected_chosen"] + inside["corrected_rejected"]) / 2
    truth = ((read["chosen"] + read["rejected"]) / 2).reindex(inside.index)
    assert len(inside) > 10
    assert middle.to_numpy() == pytest.approx(truth.to_numpy(), abs=1e-6)


def test_references_and_cautions(audit: Store) -> None:
    con, mine = audit.read(), labelers(audit, "schwartz")
    found = audit_values.references(con, 1, mine["builtin"])
    assert [(one.labeler.label, one.here, one.anywhere, one.drawn_otherwise) for one in found] == [
        ("reading", 600, 600, 0)
    ]
    how = How()
    frame = audit_values.corrected(con, 1, mine["builtin"], found[0].labeler, how)
    said = " ".join(audit_values.cautions(mine["builtin"], found[0], how, frame))
    assert "600 entries" in said and "Assumed" in said and "split “train”" in said
    apart = " ".join(audit_values.cautions(mine["builtin"], found[0], how, frame, ("",)))
    assert "split “train”" not in apart
    assert audit_values.unseen_split(mine["builtin"], mine["reading"], ["train", "test"]) == "test"
    assert audit_values.unseen_split(mine["reading"], mine["builtin"], ["train", "test"]) == ""


def test_lessons_of_the_bundled_audit(audit: Store) -> None:
    con, mine = audit.read(), labelers(audit, "value_imprint")
    found = audit_values.lessons(con, 1, mine["builtin"])
    assert found.fit.n == 300 and set(found.controls) == {"length"}
    classes = found.table[~found.table["control"]]
    assert len(classes) >= 3
    assert classes["estimate"].sum() == pytest.approx(0, abs=1e-6)
    assert audit_values.lesson_finding(found)
    rows = audit_values.lesson_rows(found)
    assert set(rows["how"]) == {"all else held equal", "alone"}


def test_side_vectors_equal_numpy(audit: Store) -> None:
    """Means, and the covariance of means (clustered by prompt; each prompt has one pair here), to 1e-12."""
    con, mine = audit.read(), labelers(audit, "schwartz")
    one = mine["reading"]
    axes = vector_frames.signed_features(con, one.taxonomy_id)
    rows = con.execute(
        """
        SELECT p.pair_no, f.position, c.value AS c, r.value AS r FROM pairs p
        JOIN labels c ON c.entry_id = p.chosen AND c.labeler_id = $me
        JOIN labels r ON r.entry_id = p.rejected AND r.labeler_id = $me AND r.feature_id = c.feature_id
        JOIN features f ON f.feature_id = c.feature_id AND f.taxonomy_id = $tax WHERE p.dataset_id = 1""",
        {"me": one.labeler_id, "tax": one.taxonomy_id},
    ).df()
    wide = np.hstack([rows.pivot(index="pair_no", columns="position", values=side).to_numpy() for side in "cr"])
    found = audit_targets.side_vectors(con, 1, one)
    assert found is not None and found.size == len(axes) == 10 and found.rejected is not None
    assert found.both.values == pytest.approx(wide.mean(axis=0), abs=1e-12)
    assert found.both.covariance == pytest.approx(np.cov(wide.T) / len(wide), abs=1e-12)
    assert found.chosen.names[0] == "self-direction" and found.rejected.n == 300


def test_which_way_things_push(audit: Store) -> None:
    """The preference and both reward models have a direction over the values; distances are finite where they are."""
    con, mine = audit.read(), labelers(audit, "schwartz")
    pushes = audit_targets.directions(con, 1, mine["reading"], None, catalog.models(con, 1))
    assert next(one.title for one in pushes) == "the preference itself" and len(pushes) == 3
    wanted = next(one for one in targets.available("schwartz")[0] if one.name == "careful_helper")
    sides = audit_targets.side_vectors(con, 1, mine["reading"])
    found = audit_targets.distances(sides, pushes, wanted)
    assert len(found) == 5
    assert all(math.isnan(one.euclidean.estimate) for one in found[2:])
    assert not math.isnan(found[0].euclidean.estimate)
    assert audit_targets.target_finding(sides, found, wanted)


ANSWERS = [
    # prompt, chosen, by, rejected, by, winner
    ("What is a fen?", "A low wetland fed by groundwater.", "heron", "I do not know.", "wren"),
    ("Name a prime above 50.", "53.", "heron", "51, I believe.", "finch"),
    ("Should I skip lunch to study?", "Eat first; you will think better.", "wren", "Yes, food is a waste.", "finch"),
]


def test_language_models_by_what_the_source_says(home: Path, tmp_path: Path) -> None:
    """Arena battles name both models; each side's answers are counted under its own."""
    path = tmp_path / "battles.jsonl"
    rows = []
    for i, (prompt, good, by, bad, other) in enumerate(ANSWERS):
        first = i % 2 == 0
        talk = {
            side: [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            for side, text in (("a", good if first else bad), ("b", bad if first else good))
        }
        rows.append({"conversation_a": talk["a"], "conversation_b": talk["b"], "language": "English",
                     "winner": "model_a" if first else "model_b", "model_a": by if first else other,
                     "model_b": other if first else by})  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with Client(home) as client:
        wait_for(client, client.call("import", source=str(path), name="battles")["job"])
        con = client._owner.store.read()  # type: ignore[union-attr]
        found = vector_frames.groupings(con, 1)
        assert (found[0].title, found[0].chosen, found[0].rejected) == ("model", "chosen_model", "rejected_model")
        assert "winner" not in found[0].title
        sides = con.execute(
            "SELECT extra ->> 'chosen_model', extra ->> 'rejected_model' FROM pairs ORDER BY pair_no"
        ).fetchall()
        assert sides == [("heron", "wren"), ("heron", "finch"), ("wren", "finch")]


def test_groups_of_answers_equal_numpy(demo: Store) -> None:
    """Who answered is taken from the pair's own columns; an answer counts once. Means to 1e-12."""
    with demo.transaction() as con:
        con.execute(
            """UPDATE pairs SET extra = '{"chosen_model": "' || CASE WHEN pair_no % 2 = 0 THEN 'x' ELSE 'y' END ||
            '", "rejected_model": "' || CASE WHEN pair_no % 3 = 0 THEN 'x' ELSE 'z "quoted' || '\\"' END || '"}'
            WHERE pair_no % 3 = 0 OR pair_no % 2 = 1"""
        )
        con.execute("""UPDATE pairs SET extra = '{"chosen_model": "x", "rejected_model": "z"}'
            WHERE NOT json_valid(extra) OR extra IS NULL""")
    con, one = demo.read(), labelers(demo, "schwartz")["reading"]
    grouping = vector_frames.groupings(con, 1)[0]
    found = audit_targets.group_vectors(con, 1, one, grouping)
    assert {g.vector.title for g in found} == {"x", "y", "z"}
    entries = con.execute("""
        SELECT DISTINCT e, who FROM (SELECT chosen AS e, extra ->> 'chosen_model' AS who FROM pairs
        UNION ALL SELECT rejected, extra ->> 'rejected_model' FROM pairs) WHERE who = 'z'""").fetchall()
    label = "SELECT avg(value) FROM labels WHERE labeler_id = ? AND feature_id = ? AND entry_id IN (SELECT unnest(?))"
    axis = vector_frames.signed_features(con, one.taxonomy_id)[5]
    row = con.execute(label, [one.labeler_id, axis.feature_id, [e for e, _ in entries]]).fetchone()
    z = next(g for g in found if g.vector.title == "z")
    assert row is not None and z.vector.values[5] == pytest.approx(row[0], abs=1e-12)
    assert z.vector.n == len(entries) and z.wins == 0.0
    table = audit_targets.group_table(found, targets.available("schwartz")[0][0])
    assert len(table) == 3 and "wins" in table


def test_prompts_become_a_dataset_and_are_compared(home: Path) -> None:
    """Each prompt once, its last turn the entry; pairs find their own prompt again."""
    with Client(home) as client:
        store = client._owner.store  # type: ignore[union-attr]
        load_demo(store)
        made = client.call("derive_prompts", dataset=DEMO_NAME)
        wait_for(client, made["job"])
        con = store.read()
        other = catalog.dataset(con, made["dataset"])
        assert other.kind == "entries" and other.n_pairs == made["prompts"] == 300
        assert value_frames.prompts_of(con, 1) == [made["dataset"]]
        row = con.execute(
            """
            SELECT e.response, o.turns FROM pairs q JOIN entries e ON e.entry_id = q.chosen JOIN prompts o
            ON q.pair_id = 'prompt-' || replace(o.hash::VARCHAR, '-', '') WHERE q.dataset_id = ? AND o.n_turns = 3
            LIMIT 1""",
            [other.dataset_id],
        ).fetchone()
        assert row is not None and json.loads(row[1])[-1] == ["user", row[0]]
        with store.transaction() as writer:  # the readings of the chosen answers stand in for readings of the prompts
            writer.execute(
                """
                INSERT INTO labels SELECT q.chosen, l.feature_id, l.labeler_id, l.value, NULL FROM pairs q
                JOIN prompts o ON q.pair_id = 'prompt-' || replace(o.hash::VARCHAR, '-', '')
                JOIN pairs p ON p.prompt_id = o.prompt_id AND p.dataset_id = 1
                JOIN labels l ON l.entry_id = p.chosen WHERE q.dataset_id = ?""",
                [other.dataset_id],
            )
        con = store.read()
        mine = {one.label: one for one in catalog.labelers(con, 1) if one.taxonomy == "schwartz"}["reading"]
        frame = value_frames.against_prompts(con, 1, mine, other.dataset_id, mine)
        assert (frame["n"] == 300).all() and frame["gap"].abs().max() == 0
        assert (frame["shown"].dropna() == 1).all() and (frame["base"].dropna() == 0).all()
        drawn = values.against_prompts(frame, "chosen")
        assert set(drawn["side"]) == {"chosen"}


def test_several_pairs_of_a_prompt_widen_intervals(demo: Store) -> None:
    """Every pair thrice under the same prompt says no more than once."""
    con, one = demo.read(), labelers(demo, "seal")["reading"]
    before = values.profile(value_frames.prevalence(con, 1, one.labeler_id, one.taxonomy_id))
    with demo.transaction() as writer:
        for again in (1, 2):
            writer.execute(f"INSERT INTO pairs SELECT * REPLACE (pair_no + {300 * again} AS pair_no, "
                           f"pair_id || '-{again}' AS pair_id) FROM pairs WHERE pair_no < 300")  # fmt: skip
    frame = value_frames.prevalence(demo.read(), 1, one.labeler_id, one.taxonomy_id)
    after = values.profile(frame)
    for a, b in zip(before, after):
        assert b.gap.estimate == pytest.approx(a.gap.estimate)
        width = a.gap.conf_high - a.gap.conf_low
        assert b.gap.conf_high - b.gap.conf_low == pytest.approx(width, rel=0.02, abs=1e-9)
        width = a.chosen.conf_high - a.chosen.conf_low
        if a.chosen.estimate not in (0.0, 1.0):  # nothing varies, so nothing shows that the copies are copies
            assert b.chosen.conf_high - b.chosen.conf_low == pytest.approx(width, rel=0.05)
    assert max(values.effects(frame).values()) == pytest.approx(3, rel=0.02)


# --- the page --------------------------------------------------------------------------------------------------------


def test_raw_beside_corrected(app: Any) -> None:  # noqa: F811
    """Every method and scope draws, and says whom it takes for the truth, on how many entries, assuming what."""
    for labels in ("value_imprint by builtin", "schwartz by builtin", "seal by builtin"):
        raw = app("values", labels=labels)
        assert "Assumed" not in text_of(raw)
        found = app("values", labels=labels, levels="corrected")
        assert "taken for the truth, on 600 entries" in text_of(found)
        assert "errs on these texts as it does on the reference" in text_of(found)
        assert found.metric[3].value == "600"
    powered = app("values", labels="seal by builtin", levels="corrected", method="Prediction-powered")
    assert "a random sample of these texts" in text_of(powered)
    app("values", labels="seal by builtin", levels="corrected", by_side="true")
    app("values", labels="value_imprint by builtin", levels="corrected", gold="of the whole store")


def test_every_further_view_draws_and_says_its_n(app: Any) -> None:  # noqa: F811
    taught = app("values", labels="schwartz by reading", more="What the preference teaches")
    assert "conditional logit over 300 pairs" in text_of(taught)
    wanted = app("values", labels="schwartz by reading", more="Targets", target="A careful helper")
    assert "an example made by hand for Signet" in text_of(wanted)
    assert "Move a slider" in text_of(app("values", labels="schwartz by reading", more="Targets", target="By hand"))
    ranked = app("values", labels="schwartz by reading", more="Targets", target="Pan-cultural ranking")
    assert "Value hierarchies across cultures" in text_of(ranked)
    assert "need signed values" in text_of(app("values", labels="seal by reading", more="Targets"))
    assert "who answered" in text_of(app("values", labels="schwartz by reading", more="Language models"))
    empty = app("values", labels="schwartz by builtin", more="Prompts and answers")
    assert "Make a dataset of the prompts" in [one.label for one in empty.button]
    for more in ("Compare with", "What occurs together", "By subset"):
        app("values", labels="value_imprint by builtin", more=more)


def test_sliders_make_a_target(app: Any) -> None:  # noqa: F811
    page = app("values", labels="schwartz by reading", more="Targets", target="By hand")
    next(one for one in page.slider if one.key == "want-benevolence").set_value(1.0).run()
    assert not page.exception
    assert "By hand" in text_of(page)
    page = app("values", labels="schwartz by reading", more="Targets", target="By hand", **{"want-security": "1.0"})
    assert "Move a slider" not in text_of(page)


def test_circle_of_values_and_of_groups(app: Any) -> None:  # noqa: F811
    assert "The circle of values" in text_of(app("values", labels="schwartz by reading"))
    assert "A group is the mean of its values" in text_of(app("values", labels="schwartz by reading", circle="groups"))
    assert "The circle of values" not in text_of(app("values", labels="seal by reading"))


def test_language_models_side_by_side(app: Any) -> None:  # noqa: F811
    """Where pairs name who answered: a row a model, and their distance to a target."""
    from pages import shared

    app("values")
    with shared.store().transaction() as con:
        con.execute("""UPDATE pairs SET extra = '{"chosen_model": "' || ['heron', 'wren', 'finch'][1 + pair_no % 3]
            || '", "rejected_model": "' || ['wren', 'finch', 'heron'][1 + pair_no % 3] || '"}'""")
    page = app("values", labels="schwartz by reading", more="Language models", target="Pan-cultural ranking")
    assert "Field that says who answered" in [one.label for one in page.selectbox]
    found = page.dataframe[-1].value
    assert set(found["title"]) == {"heron", "wren", "finch"} and found["wins"].between(0, 1).all()


def test_a_topic_narrows_the_page(app: Any) -> None:  # noqa: F811
    page = app("values", labels="value_imprint by reading", topic="Health and fitness (seal by reading)")
    assert 0 < int(page.metric[0].value) < 300
    taught = app("values", labels="schwartz by reading", topic="Health and fitness (seal by reading)",
                 more="What the preference teaches")  # fmt: skip
    assert not taught.exception


def test_a_corrected_p_agrees_with_its_interval(audit: Store) -> None:
    """Below 0.05 before correction for many tests exactly where the interval leaves zero out."""
    con, mine = audit.read(), labelers(audit, "seal")
    for method in ("confusion", "prediction"):
        found = audit_values.corrected(con, 1, mine["builtin"], mine["reading"], How(method))
        known = found.dropna(subset=["corrected_p"])
        outside = (known["corrected_gap_low"] > 0) | (known["corrected_gap_high"] < 0)
        assert len(known) > 10 and ((known["corrected_p"] < 0.05) == outside).all()


def test_held_out_decisions_stand_in_for_labels_of_what_was_learned(audit: Store, tmp_path: Path) -> None:
    """Decisions equal to the readings make the confusion diagonal and the prediction-powered weight full."""
    con, mine = audit.read(), labelers(audit, "schwartz")
    one, other = mine["builtin"], mine["reading"]
    path = tmp_path / "held_out.parquet"
    con.execute(
        f"""COPY (SELECT e.hash::VARCHAR AS entry, f.name AS "column", l.value, l.value AS truth FROM labels l
        JOIN entries e USING (entry_id) JOIN features f USING (feature_id)
        WHERE l.labeler_id = {other.labeler_id} AND f.taxonomy_id = {one.taxonomy_id}) TO '{path}' (FORMAT parquet)"""
    )
    plain = correction_frames.confusion(con, one, other, 1)
    counted = correction_frames.confusion(con, one, other, 1, held_out=str(path))
    assert (plain["truth"] != plain["said"]).any() and (counted["truth"] == counted["said"]).all()
    assert counted["n"].sum() == plain["n"].sum()
    for sums in correction_frames.gold_sums(con, 1, one, other, held_out=str(path)):
        assert sums.chosen.total[1] == sums.chosen.total[2]  # truth and said on gold
