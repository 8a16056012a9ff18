"""From the store to a result: packed designs against long tables, audits against references on what is exported."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyfixest as pf
import pytest
import statsmodels.api as sm

from engine import (
    audit_alignment,
    audit_imprint,
    audit_reports,
    bundle,
    catalog,
    columns,
    design_frames,
    export,
    search,
)
from engine.alignment import preference
from engine.filters import Filter
from engine.records import SignetError
from engine.store import Store, ensure_labeler, ensure_taxonomy
from engine.taxonomy import load


@pytest.fixture
def demo(store: Store) -> Store:
    """The bundled audit."""
    bundle.load_demo(store)
    return store


def tables(store: Store, tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels and rewards as a user would export them."""
    con = store.read()
    for what in ("labels", "rewards"):
        export.export(con, bundle.DEMO_NAME, what, tmp_path / f"{what}.parquet")
    return pd.read_parquet(tmp_path / "labels.parquet"), pd.read_parquet(tmp_path / "rewards.parquet")


def wide(labels: pd.DataFrame, rewards: pd.DataFrame, labeler: str, taxonomy: str, model: str) -> pd.DataFrame:
    """An entry a row: pair_id, side, reward, and a column a feature."""
    part = labels[(labels["labeler"] == labeler) & (labels["taxonomy"] == taxonomy)]
    frame = part.pivot(index=["pair_id", "side"], columns="feature", values="value").astype(float)
    one = rewards[rewards["model"] == model].set_index(["pair_id", "side"])["reward"]
    return frame.join(one, how="inner").reset_index()


def test_imprint_equals_pyfixest_on_exported_tables(demo: Store, tmp_path: Path) -> None:
    """The command's coefficients (1e-8) and errors (1e-6) against feols(reward ~ features | pair) on the exports."""
    found = audit_reports.imprint(demo.read(), bundle.DEMO_NAME, "builtin-post", "reading", "seal")
    frame = wide(*tables(demo, tmp_path), "reading", "seal", "builtin-post")
    rows = {row["feature"]: row for row in found["coefficients"]}
    prompts = demo.read().execute("SELECT pair_id, prompt_id FROM pairs").df()
    frame = frame.merge(prompts, on="pair_id")
    fit = pf.feols(
        f"reward ~ {' + '.join(rows)} | pair_id", frame, vcov={"CRV1": "prompt_id"},
        ssc=pf.ssc(k_adj=False, G_adj=False),
    ).tidy()  # fmt: skip
    groups, n, k = frame["prompt_id"].nunique(), found["n"], len(rows)
    factor = math.sqrt(groups / (groups - 1) * (n - 1) / (n - k))
    assert set(rows) == set(fit.index) and n == 300
    for name, row in rows.items():
        assert row["estimate"] == pytest.approx(fit.loc[name, "Estimate"], abs=1e-8)
        assert row["std_error"] / factor == pytest.approx(fit.loc[name, "Std. Error"], abs=1e-6)
    margins = frame.pivot(index="pair_id", columns="side", values="reward")
    assert found["margin_sd"] == pytest.approx((margins["chosen"] - margins["rejected"]).std())
    assert found["controls"][0] == "length" and len(found["controlled"]) > len(rows)
    assert "human_vocabulary_quality" in found["left_out"]


def test_pooled_equals_statsmodels_on_exported_tables(demo: Store, tmp_path: Path) -> None:
    """The authors' mode: 1e-8 for coefficients and classical errors; Bonferroni counts the intercept."""
    found = audit_reports.imprint(demo.read(), bundle.DEMO_NAME, "builtin-pre", "builtin", "seal", "pooled")
    frame = wide(*tables(demo, tmp_path), "builtin", "seal", "builtin-pre")
    names = [row["feature"] for row in found["coefficients"]]
    fit = sm.OLS(frame["reward"], sm.add_constant(frame[names])).fit()
    for row in found["coefficients"]:
        assert row["estimate"] == pytest.approx(fit.params[row["feature"]], abs=1e-8)
        assert row["std_error"] == pytest.approx(fit.bse[row["feature"]], abs=1e-8)
        assert row["p_adjusted"] == pytest.approx(min(1, (len(names) + 1) * fit.pvalues[row["feature"]]), abs=1e-8)


def test_alignment_equals_what_pandas_counts(demo: Store, tmp_path: Path) -> None:
    """Scores, ties, regimes and the labeler's verdict, from the exported tables with nothing of ours."""
    found = audit_reports.alignment(demo.read(), bundle.DEMO_NAME, "builtin-pre", "builtin-post", "reading")
    labels, rewards = tables(demo, tmp_path)
    r = rewards.pivot(index="pair_id", columns=["model", "side"], values="reward")
    was = r["builtin-pre", "chosen"] > r["builtin-pre", "rejected"]
    now = r["builtin-post", "chosen"] > r["builtin-post", "rejected"]
    assert found["alignment_before"] == pytest.approx(was.mean()) and found["n"] == len(r) == 300
    assert found["alignment_after"] == pytest.approx(now.mean())
    assert found["ties"] == int((r["builtin-post", "chosen"] == r["builtin-post", "rejected"]).sum())
    targets = labels[(labels["labeler"] == "reading") & labels["feature"].isin(["harmless", "helpful"])]
    t = targets.assign(value=targets["value"].astype(float)).pivot(
        index="pair_id", columns=["feature", "side"], values="value"
    )
    harmless = np.sign(t["harmless", "chosen"] - t["harmless", "rejected"])
    verdict = harmless.where(harmless != 0, np.sign(t["helpful", "chosen"] - t["helpful", "rejected"]))
    masks = {"stayed_aligned": was & now, "became_aligned": ~was & now, "stayed_misaligned": ~was & ~now,
             "reversed": was & ~now}  # fmt: skip
    for row in found["regimes"]:
        here = verdict[masks[row["regime"]]]
        assert row["n"] == len(here)
        counts = tuple(int((here == v).sum()) for v in (1, -1, 0))
        assert (row["agree"], row["disagree"], row["indifferent"]) == counts
    assert found["preference"]["order"] == ["harmless", "helpful"]
    other = audit_reports.alignment(
        demo.read(), bundle.DEMO_NAME, "builtin-pre", "builtin-post", "reading", order="helpful"
    )
    assert other["preference"]["order"] == ["helpful", "harmless"]
    with pytest.raises(SignetError, match="no target feature"):
        audit_reports.alignment(demo.read(), bundle.DEMO_NAME, "builtin-pre", "builtin-post", "reading", order="kind")


def test_eq_3_equals_statsmodels_on_exported_tables(demo: Store, tmp_path: Path) -> None:
    """The logit of resistance on both sides' features without controls: coefficients 1e-6, effects 1e-6."""
    con = demo.read()
    data = catalog.dataset(con, bundle.DEMO_NAME)
    model = catalog.model(con, data.dataset_id, "builtin-post")
    labels = catalog.labeler(con, data.dataset_id, "reading", "seal")
    found = audit_alignment.resistance(con, data.dataset_id, model, labels, controlled=False)
    frame = wide(*tables(demo, tmp_path), "reading", "seal", "builtin-post").pivot(index="pair_id", columns="side")
    y = (frame["reward", "chosen"] <= frame["reward", "rejected"]).astype(float)
    x = pd.DataFrame({f"{o.feature} ({o.side})": frame[o.feature, o.side] for o in found.logit.odds})
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-12)
    effects = fit.get_margeff().summary_frame()["dy/dx"]
    assert len(found.logit.odds) > 5
    for one in found.logit.odds:
        name = f"{one.feature} ({one.side})"
        assert one.estimate == pytest.approx(fit.params[name], abs=1e-6)
        assert one.effect == pytest.approx(effects[name], abs=1e-6)


def test_every_kind_of_feature_survives_packing(store: Store, sample_file: Path) -> None:
    """Boolean, ternary, category, many-of and numeric labels, some missing, come back as they were stored."""
    from tests.test_importers import run_import

    run_import(store, sample_file, "s")
    rng = np.random.default_rng(0)
    taxonomies = {name: load(name) for name in ("seal", "value_imprint", "schwartz", "surface")}
    expected: dict[tuple[str, str, int], float] = {}
    with store.transaction() as con:
        labeler_id = ensure_labeler(con, "t", "rule", "1", {})
        entries = [row[0] for row in con.execute("SELECT entry_id FROM entries ORDER BY 1").fetchall()]
        for name, taxonomy in taxonomies.items():
            ids = ensure_taxonomy(con, taxonomy)
            for column in taxonomy.columns():
                for entry in entries[:-1]:  # the last entry has no labels at all
                    codes = range(len(column.classes) or 1)
                    values = {"boolean": [0, 1], "ternary": [-1, 0, 1], "signed": [-1, 0, 1],
                              "category": list(codes), "numeric": [rng.normal() * 100]}  # fmt: skip
                    value = float(rng.choice(values[column.kind]))
                    expected[name, column.name, entry] = value
                    con.execute("INSERT INTO labels VALUES (?, ?, ?, ?, NULL)",
                                [entry, ids[column.name], labeler_id, value])  # fmt: skip
    con = store.read()
    data = catalog.dataset(con, "s")
    labelers = [catalog.labeler(con, data.dataset_id, "t", name) for name in taxonomies]
    design = design_frames.load(con, data.dataset_id, [columns.source_of(b) for b in labelers], ())
    pairs = con.execute("SELECT pair_no, chosen, rejected FROM pairs ORDER BY pair_no").fetchall()
    by_no = {int(no): i for i, no in enumerate(design.pair_no)}
    checked = 0
    for no, *sides in pairs:
        complete = all(entry in entries[:-1] for entry in sides)
        assert design.known[by_no[no]].tolist() == [complete] * 4
        for column in design.columns:
            if column.source < 0 or not complete:
                continue
            for side, entry in zip(("chosen", "rejected"), sides):
                stored = expected[labelers[column.source].taxonomy, column.feature, entry]
                wanted = float(stored == column.equals) if column.equals is not None else stored
                assert design.values(column, side)[by_no[no]] == pytest.approx(wanted, rel=1e-6)
                checked += 1
    assert checked > 500
    length = design.values(design.column("length"), "chosen")
    chars = con.execute("SELECT n_chars FROM entries WHERE entry_id = ?", [pairs[0][1]]).fetchone()
    assert length[by_no[pairs[0][0]]] == pytest.approx(math.log2(1 + chars[0]), rel=1e-6)


def test_a_half_finished_job_gives_the_pairs_that_are_complete(demo: Store) -> None:
    """Rewards of one side only, labels of one side only: such pairs are counted out, not filled in."""
    with demo.transaction() as con:
        model_id = con.execute("SELECT model_id FROM models WHERE name = 'builtin-post'").fetchall()[0][0]
        gone = "SELECT chosen FROM pairs WHERE pair_no < 50"
        con.execute(f"DELETE FROM rewards WHERE model_id = ? AND entry_id IN ({gone})", [model_id])
        con.execute("""
            DELETE FROM labels WHERE entry_id IN (SELECT rejected FROM pairs WHERE pair_no BETWEEN 40 AND 99)
            AND feature_id = (SELECT feature_id FROM features WHERE name = 'helpful')""")
    con = demo.read()
    found = audit_reports.imprint(con, bundle.DEMO_NAME, "builtin-post", "reading", "seal")
    assert (found["total"], found["scored"], found["labelled"], found["n"]) == (300, 250, 240, 200)
    one = audit_reports.alignment(con, bundle.DEMO_NAME, "builtin-pre", "builtin-post", "reading")
    assert one["n"] == 250 and sum(r["unlabelled"] for r in one["regimes"]) == 50
    assert audit_reports.alignment(con, bundle.DEMO_NAME, "builtin-pre", "builtin-pre")["n"] == 300


def ids(store: Store, filters: list[Filter]) -> set[int]:
    data = catalog.dataset(store.read(), bundle.DEMO_NAME)
    return set(search.find(store.read(), data.dataset_id, filters, size=1000).pair_nos)


def test_filters_find_the_pairs_behind_every_stratum_and_slice(demo: Store) -> None:
    """The n of every stratum is the number of pairs its link opens; so with slices, suspects, verdicts and angles."""
    con = demo.read()
    data = catalog.dataset(con, bundle.DEMO_NAME)
    one, two = (catalog.model(con, data.dataset_id, name) for name in ("builtin-pre", "builtin-post"))
    labelers = tuple(catalog.labeler(con, data.dataset_id, "reading", t) for t in ("seal", "value_imprint", "schwartz"))
    found = audit_alignment.audit(con, data.dataset_id, one, two, labelers)
    assert set(found.strata["by"]) >= {"length", "preference", "feature", "topic", "value"}
    for row in found.strata.itertuples():
        assert len(ids(demo, [Filter.from_text(q) for q in row.query])) == row.n, row.stratum
    sectors = found.angle_histogram[found.angle_histogram["n"] > 0]
    for row in sectors.itertuples():
        angle = Filter.of("angle", before="builtin-pre", after="builtin-post", min=row.low, max=row.high)
        assert len(ids(demo, [angle])) == row.n
    tied = ids(demo, [Filter.of("aligned", model="builtin-post", value="resists")])
    assert len(tied) == 300 - round(300 * found.score_after.estimate)
    slices = audit_alignment.find_slices(con, data.dataset_id, two, labelers, minimum=20)
    for one_slice in slices.slices:
        assert len(ids(demo, [Filter.from_text(q) for q in one_slice.query])) == one_slice.n
    frame, count = audit_alignment.find_suspects(con, data.dataset_id, (one, two), labelers[0])
    against = [Filter.of("aligned", model=m, value="no") for m in ("builtin-pre", "builtin-post")]
    verdict = Filter.of("verdict", taxonomy="seal", labeler="reading", order="harmless,helpful", value="rejected")
    assert set(frame["pair_no"]) == ids(demo, [*against, verdict]) and count == len(frame)


def test_filters_find_flips_and_falls(demo: Store) -> None:
    con = demo.read()
    data = catalog.dataset(con, bundle.DEMO_NAME)
    rewriter = "reading: neutral rewording"
    labels = catalog.labeler(con, data.dataset_id, "builtin", "seal")
    model = catalog.model(con, data.dataset_id, "builtin-post")
    pairs = design_frames.load_reworded(con, data.dataset_id, rewriter, [columns.source_of(labels)], (model,))
    assert pairs.n == 20
    base = {"rewriter": rewriter, "taxonomy": "seal", "labeler": "builtin"}
    for column, _ in zip(columns.features(pairs.original, 0)[0], range(14)):
        for side in ("chosen", "rejected"):
            for value, sign in (("gained", 1), ("lost", -1)):
                wanted = set(pairs.original.pair_no[sign * pairs.flip(column, side) > 0].tolist())
                flip = Filter.of("flip", **base, feature=column.feature, side=side, value=value)
                assert ids(demo, [flip]) == wanted
    was = pairs.original.margins()[:, 0] > 0
    now = pairs.rewritten.margins()[:, 0] > 0
    for value, mask in (("became_misaligned", was & ~now), ("became_aligned", ~was & now), ("aligned", was)):
        here = Filter.of("reworded", rewriter=rewriter, model="builtin-post", value=value)
        assert ids(demo, [here]) == set(pairs.original.pair_no[mask].tolist())


def test_reviews_decide_what_a_clean_export_holds(demo: Store, tmp_path: Path) -> None:
    from engine import commands

    con = demo.read()
    suspects = audit_reports.suspects(con, bundle.DEMO_NAME, ["builtin-pre", "builtin-post"])
    names = [row["pair_id"] for row in suspects["pairs"]]
    assert len(names) >= 3 and suspects["suspects"] == len(names)
    assert all("prefers the rejected answer" in row["reasons"] for row in suspects["pairs"])
    commands.review(demo, bundle.DEMO_NAME, names[:1], "drop")
    commands.review(demo, bundle.DEMO_NAME, names[1:2], "swap", "the other one is better")
    commands.review(demo, bundle.DEMO_NAME, names[2:3], "keep")
    assert ids(demo, [Filter.of("review", value="drop")]) and len(ids(demo, [Filter.of("review", value="open")])) == 297
    whole = {r["pair_id"]: r for r in _lines(demo, "pairs", None)}
    clean = {r["pair_id"]: r for r in _lines(demo, "clean", None)}
    assert names[0] not in clean and clean[names[1]]["chosen"] == whole[names[1]]["rejected"]
    assert clean[names[2]]["chosen"] == whole[names[2]]["chosen"] and whole[names[1]]["review"] == "swap"
    spec: dict[str, Any] = {"models": ["builtin-pre", "builtin-post"]}
    strict = {r["pair_id"] for r in _lines(demo, "clean", spec)}
    assert strict & set(names) == set(names[1:3])  # a person's word stands above the score
    commands.review(demo, bundle.DEMO_NAME, names[:3], "open")
    assert len(ids(demo, [Filter.of("review", value="open")])) == 300
    with pytest.raises(SignetError, match="no pair 'nope'"):
        commands.review(demo, bundle.DEMO_NAME, ["nope"], "drop")
    with pytest.raises(SignetError, match="A review is one of"):
        commands.review(demo, bundle.DEMO_NAME, names[:1], "burn")


def _lines(store: Store, what: str, suspects: dict[str, Any] | None) -> list[dict[str, Any]]:
    from engine import commands

    written = commands.export_table(store, bundle.DEMO_NAME, what, ".jsonl", suspects)
    return [json.loads(line) for line in Path(written["path"]).read_text(encoding="utf-8").splitlines()]


def test_the_shift_is_the_difference_of_the_imprints(demo: Store) -> None:
    """Eq 2 as margins: coefficients of the difference equal the difference of two separate imprints, 1e-10."""
    con = demo.read()
    data = catalog.dataset(con, bundle.DEMO_NAME)
    one, two = (catalog.model(con, data.dataset_id, name) for name in ("builtin-pre", "builtin-post"))
    setting = audit_imprint.Setting(catalog.labeler(con, data.dataset_id, "reading", "seal"))
    moved = audit_imprint.shift(con, data.dataset_id, setting, one, two)
    apart = audit_imprint.model_imprints(con, data.dataset_id, setting, (one, two))
    before, after = (m.table().set_index("feature")["estimate"] for m in apart)
    for row in moved.table.itertuples():
        assert row.estimate == pytest.approx(after[row.feature] - before[row.feature], abs=1e-10)
    turned = audit_imprint.angle_shift(con, data.dataset_id, setting, one, two)
    assert turned.angle.mean.n == moved.n == turned.joint.n == 300
    assert re.search(r"\d of \d+ features differ|No difference", audit_imprint.shift_finding(moved))


@pytest.mark.hub
def test_golden_rows_of_seal(store: Store) -> None:
    """Rows 0 to 4 of hh-rlhf's train split by the two OpenAssistant models: SEAL's angles to 0.05 degrees.

    Needs the hub (or a filled cache): SIGNET_HUB=1. Texts go in as SEAL's code put them: everything before the last
    "Assistant:" and, from that tag on, the answer, as a tokenizer's pair, untruncated.
    """
    import os

    if not os.environ.get("SIGNET_HUB"):
        pytest.skip("needs the hub: set SIGNET_HUB=1")
    import datasets
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from engine import angles

    os.environ["HF_HUB_OFFLINE"] = "0"
    rows = [row for row, _ in zip(datasets.load_dataset("Anthropic/hh-rlhf", split="train", streaming=True), range(5))]
    rewards = np.empty((5, 2, 2))
    for k, name in enumerate(("reward-model-deberta-v3-large", "reward-model-deberta-v3-large-v2")):
        tokenizer = AutoTokenizer.from_pretrained(f"OpenAssistant/{name}")
        model = AutoModelForSequenceClassification.from_pretrained(f"OpenAssistant/{name}").eval()
        for i, row in enumerate(rows):
            for s, side in enumerate(("chosen", "rejected")):
                cut = row[side].rfind("Assistant:")
                inputs = tokenizer(row[side][:cut], row[side][cut:], return_tensors="pt")
                with torch.inference_mode():
                    rewards[i, s, k] = float(model(**inputs).logits[0][0])
    found = angles.shift_angle(rewards[:, :, 0], rewards[:, :, 1])
    assert found == pytest.approx([26.018791, -1.751544, 77.806498, 161.950267, 85.071641], abs=0.05)


def test_the_verdict_filter_is_the_preference_rule(demo: Store) -> None:
    """SQL's verdict filter and engine.alignment.preference agree on every pair of the bundled audit."""
    con = demo.read()
    data = catalog.dataset(con, bundle.DEMO_NAME)
    labels = catalog.labeler(con, data.dataset_id, "reading", "seal")
    design = design_frames.load(con, data.dataset_id, [columns.source_of(labels)], ())
    targets = columns.targets(design, 0)
    sides = [np.column_stack([design.values(c, s) for c in targets]) for s in ("chosen", "rejected")]
    verdict = preference(sides[0], sides[1])
    for value, word in ((1, "chosen"), (-1, "rejected"), (0, "indifferent")):
        chosen = Filter.of("verdict", taxonomy="seal", labeler="reading", order="harmless,helpful", value=word)
        assert ids(demo, [chosen]) == set(design.pair_no[verdict == value].tolist())


def test_a_part_without_any_label_says_so_instead_of_breaking(demo: Store) -> None:
    """Labels of one subset deleted: its imprint is empty, its alignment has no preference, slices still search."""
    con = demo.read()
    data = catalog.dataset(con, bundle.DEMO_NAME)
    subset = con.execute("SELECT subset FROM pairs GROUP BY 1 ORDER BY count(*) DESC").fetchall()[0][0]
    labels = catalog.labeler(con, data.dataset_id, "reading", "seal")
    with demo.transaction() as writing:
        writing.execute(
            """DELETE FROM labels WHERE labeler_id = ? AND entry_id BETWEEN
                (SELECT least(min(chosen), min(rejected)) FROM pairs WHERE subset = ?)
                AND (SELECT greatest(max(chosen), max(rejected)) FROM pairs WHERE subset = ?)""",
            [labels.labeler_id, subset, subset],
        )
    con = demo.read()
    part = design_frames.Part(subset)
    models = tuple(catalog.model(con, data.dataset_id, name) for name in ("builtin-pre", "builtin-post"))
    setting = audit_imprint.Setting(labels, part=part)
    assert audit_imprint.model_imprints(con, data.dataset_id, setting, models)[0].plain.coefficients == ()
    found = audit_alignment.audit(con, data.dataset_id, *models, (labels,), ("harmless",), part)
    assert found.preference is None and found.n > 0
    assert audit_alignment.resistance(con, data.dataset_id, models[0], labels, part=part).logit.odds == ()
    audit_alignment.find_slices(con, data.dataset_id, models[0], (labels,), ("harmless",), part=part)
