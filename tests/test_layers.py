"""The architecture holds: imports go downward, heavy packages stay out of where they do not belong."""

import ast
from pathlib import Path

import pytest

from engine.settings import ROOT

# From the ground up; a module may import only modules on lines above its own (or, where marked, its own line).
LAYERS = [
    ["records"],
    ["settings", "plain_yaml"],
    ["importing", "taxonomy", "files", "readers", "readers_more", "sources"],
    ["decisions", "examples", "answers", "taxonomy_form", "baselines"],
    ["fitting", "taxonomy_files"],
    ["marks"],
    ["store"],
    ["tallies"],
    ["design", "intervals", "diff", "journal", "taxonomy_versions"],
    ["alpha", "scales"],
    ["evaluation", "learning_curve"],
    ["agreement", "regression", "comparison", "values", "angles", "slices", "published", "prevalence", "targets"],
    ["imprint", "raters"],
    ["alignment", "taught", "annotators"],
    ["robustness", "suspects"],
    [
        "filters",
        "catalog",
        "pair_frames",
        "reward_frames",
        "job_frames",
        "export",
        "models",
        "scores_file",
    ],
    ["search", "packing"],
    ["design_frames"],
    ["label_arrays"],
    ["columns", "kept", "predicates", "value_frames", "example_frames", "vector_frames"],
    ["correction_frames"],
    ["audit_agreement", "audit_imprint", "audit_alignment", "audit_robustness"],
    ["audit_reports"],
    ["queues"],
    ["annotations"],
    ["gold", "human_check", "audit_people"],
    ["costs", "prompts"],
    ["endpoints"],
    ["asks", "score_servers", "throttle"],
    ["token_batches"],
    ["embedder", "surface"],
    ["perturb"],
    ["head_inputs"],
    ["heads", "frozen"],
    ["jobs"],
    ["classifiers", "claims"],
    ["audit_values"],
    ["audit_targets"],
    ["value_reports"],
    ["batches", "remote_scorers"],
    ["entry_tokens"],
    ["units", "disentangled"],
    ["reward_network"],
    ["precision"],
    ["language_models"],
    ["scorers", "labelers", "attribution", "rewriting"],
    ["finetune_inputs"],
    ["finetune_loop"],
    ["finetune_head"],
    ["finetuning"],
    ["trials", "drafting", "model_card", "audit_classifiers"],
    ["training", "label_quality"],
    ["datasets"],
    ["ingest", "worker", "drawn"],
    ["charts"],
    ["ray_executor"],
    ["angle_charts", "value_charts", "evaluation_charts"],
    ["bundle", "derived"],
    ["annotate_commands", "taxonomy_commands", "training_commands"],
    ["commands"],
    ["owner"],
    ["client"],
    ["cli_audits", "cli_taxonomies"],
    ["cli_values"],
    ["cli"],
    ["__main__"],
]
STATISTICS = [
    *("decisions", "fitting", "evaluation", "learning_curve", "baselines"),
    *("intervals", "comparison", "values", "design", "regression", "imprint", "angles", "alignment", "slices"),
    *("suspects", "robustness", "published", "agreement", "charts", "diff", "prevalence", "taught", "targets"),
    *("alpha", "scales", "raters", "annotators"),
]
FILES = sorted((ROOT / "engine").glob("*.py"))


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_imports_go_downward(path: Path) -> None:
    if path.stem == "__init__":
        return
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    assert path.stem in rank, f"{path.name} has no layer: place it in LAYERS"
    same_line_allowed = {"export", "scores_file", "heads", "readers_more", "sources", "filters"}
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "engine" and len(parts) > 1 and parts[1] in rank and parts[1] != path.stem:
            below = rank[parts[1]] < rank[path.stem]
            same = rank[parts[1]] == rank[path.stem] and path.stem in same_line_allowed
            late = path.stem in ("worker", "models", "jobs", "classifiers")  # open their tools inside functions
            assert below or same or late, f"{path.stem} imports {parts[1]}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_engine_knows_no_streamlit(path: Path) -> None:
    assert not any(name.split(".")[0] == "streamlit" for name in imports(path))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not heavy & {"torch", "transformers", "sentence_transformers", "openai", "ollama"}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_touch_no_store_and_no_model(name: str) -> None:
    found = {one.split(".")[0] for one in imports(ROOT / "engine" / f"{name}.py")}
    assert not found & {"torch", "duckdb"}
