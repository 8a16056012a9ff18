"""The benchmarks there are: what each one shows and what it needs. One line each; a module is read when it is run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType


@dataclass(frozen=True)
class Benchmark:
    """A module benchmarks/NAME.py with `run() -> dict`, and for the page of results `section(result) -> str`."""

    name: str
    title: str
    needs: str = ""  # what `make bench` cannot take for granted; empty for the short ones, which it runs

    @property
    def module(self) -> ModuleType:
        """The module; ImportError when a package that it needs is missing."""
        return import_module(f"benchmarks.{self.name}")

    @property
    def about(self) -> str:
        """The first sentence of the module's docstring, on one line."""
        return re.split(r"(?<=\.)\s", " ".join((self.module.__doc__ or "").split()), maxsplit=1)[0]


ALL: dict[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark("scoring", "Scoring with reward models on a CPU"),
        Benchmark("shared_prompts", "A pair's prompt computed once"),
        Benchmark("embedding", "Embedding with the bundled encoder"),
        Benchmark("gpu", "Scoring with reward models on a GPU", "a GPU"),
        Benchmark("audits", "Regressions and audits from the store"),
        Benchmark("pages", "Import and pages at 160,800 pairs"),
        Benchmark("scale", "Import, jobs and pages at a million pairs and more"),
        Benchmark("sessions", "Fifty sessions at once"),
        Benchmark("ray_cluster", "Two nodes of a Ray cluster, one of them killed"),
        Benchmark("asking", "Labelling through a language model's endpoint"),
        Benchmark("endpoint_scoring", "Scoring through a reward model's endpoint"),
        Benchmark("judges", "Built-in heads against their baselines", "the real data (--data FOLDER), half an hour"),
        Benchmark("finetuning", "Fine-tuning against heads", "the real data (--data FOLDER), an hour on two cores"),
    )
}
